"""What a model wrote beyond what its request permitted, or read beyond what it was sent. Pure.

Overruns in force are told to whoever prices a call, before the ledger decides on it (`Call.overrun_quote`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    OUTPUT = "output"
    INPUT = "input"


@dataclass(frozen=True, slots=True)
class ModelOverrun:
    """`tokens` of one answer, or of one input, came where `permitted` could; of other units (pages) so many of a call.

    `place` is the model, as `provider/id`. `asked` are the words, sorted and spaced, of what a request may ask for that
    lengthens its answer. An overrun says something of the requests that ask for all of that, at least: of every
    request, where nothing was asked for.
    """

    place: str
    asked: str
    tokens: int
    permitted: int = 0
    side: Side = Side.OUTPUT

    def concerns(self, place: str, asked: frozenset[str]) -> bool:
        return self.place == place and asked.issuperset(self.asked.split())


def asked_for(words: Iterable[str]) -> str:
    """The words as an overrun keeps them."""
    return " ".join(sorted(words))
