"""What a model's answer had beyond what its request permitted: `max_tokens` does not bound it. Pure.

Overruns in force are told to whoever prices a call, before the ledger decides on it (`Call.overrun_quote`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelOverrun:
    """`tokens` of one answer came where `permitted` could. `place` is the model, as `provider/id`.

    `asked` are the words, sorted and spaced, of what a request may ask for that lengthens its answer. An overrun says
    something of the requests that ask for all of that, at least: of every request, where nothing was asked for.
    """

    place: str
    asked: str
    tokens: int
    permitted: int = 0

    def concerns(self, place: str, asked: frozenset[str]) -> bool:
        return self.place == place and asked.issuperset(self.asked.split())


def asked_for(words: Iterable[str]) -> str:
    """The words as an overrun keeps them."""
    return " ".join(sorted(words))
