"""What the calls of the recent past teach about the next one: how long answers are, how many bytes a token has. Pure.

Only guesses come from here, never bounds of money: a stream starts with a hold for the answer that its model and
agent usually write and extends it as it grows; a call that its strict bound keeps out may go by the bytes that this
model's tokens had at the very least.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

# Nothing is guessed from fewer calls than this.
FEWEST_ANSWERS = 20
FEWEST_INPUTS = 1_000
FEWEST_OUTPUTS = 200
# Of a key's calls the last so many count; so many keys are kept.
KEPT_CALLS = 1_024
KEPT_KEYS = 4_096
# How many new calls it takes until a quantile is worked out anew.
RENEWED_AFTER = 16
NEED_E2 = 50
RATIO_E2 = 1
# Ratios are counted in hundredths of a byte a token.
BYTE_E2 = 100


@dataclass(slots=True)
class Recent:
    """The last KEPT_CALLS numbers, and one quantile of them (`share_e2` hundredths lie below it)."""

    share_e2: int
    fewest: int
    _numbers: list[int] = field(default_factory=list)
    _next: int = 0
    _known: int | None = None
    _unseen: int = 0

    def add(self, number: int) -> None:
        if len(self._numbers) < KEPT_CALLS:
            self._numbers.append(number)
        else:
            self._numbers[self._next] = number
            self._next = (self._next + 1) % KEPT_CALLS
        self._unseen += 1

    @property
    def quantile(self) -> int | None:
        """None until there are enough numbers."""
        if len(self._numbers) < self.fewest:
            return None
        if self._known is None or self._unseen >= RENEWED_AFTER:
            ordered = sorted(self._numbers)
            self._known = ordered[(len(ordered) - 1) * self.share_e2 // 100]
            self._unseen = 0
        return self._known


class Lessons:
    """What one process has learned. A model is named as its provider bills it, so aliases learn together."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str], Recent] = OrderedDict()
        self._input: OrderedDict[tuple[str, str], Recent] = OrderedDict()
        self._output: OrderedDict[tuple[str, str], Recent] = OrderedDict()

    def answered(self, *, model: str, agent: str, output_tokens: int) -> None:
        """One answer of so many tokens. The model's own figure serves for agents that are new."""
        for key in {(model, agent), (model, "")}:
            _of(self._answers, key, NEED_E2, FEWEST_ANSWERS).add(output_tokens)

    def read(self, *, model: str, input_tokens: int, input_bytes: int) -> None:
        """An input, as the strict bound (bytes and marks) and the provider counted it."""
        if input_tokens > 0:
            _of(self._input, (model, ""), RATIO_E2, FEWEST_INPUTS).add(input_bytes * BYTE_E2 // input_tokens)

    def wrote(self, *, model: str, output_tokens: int, output_bytes: int) -> None:
        """An answer's bytes and tokens."""
        if output_tokens > 0:
            _of(self._output, (model, ""), RATIO_E2, FEWEST_OUTPUTS).add(output_bytes * BYTE_E2 // output_tokens)

    def usual_answer(self, *, model: str, agent: str) -> int | None:
        """Tokens that half of the answers stay below; None where too few were seen."""
        for key in ((model, agent), (model, "")):
            if (recent := self._answers.get(key)) and (tokens := recent.quantile) is not None:
                return tokens
        return None

    def input_ratio_e2(self, *, model: str) -> int:
        """Hundredths of a byte that each input token has, but for one call in a hundred; 100 where unknown."""
        return _least(self._input.get((model, "")))

    def output_ratio_e2(self, *, model: str) -> int:
        """The same of output tokens."""
        return _least(self._output.get((model, "")))


def _of(kept: OrderedDict[tuple[str, str], Recent], key: tuple[str, str], share_e2: int, fewest: int) -> Recent:
    recent = kept.get(key)
    if recent is None:
        if len(kept) >= KEPT_KEYS:
            kept.popitem(last=False)
        recent = kept[key] = Recent(share_e2, fewest)
    else:
        kept.move_to_end(key)
    return recent


def _least(recent: Recent | None) -> int:
    ratio_e2 = recent.quantile if recent else None
    return BYTE_E2 if ratio_e2 is None else max(BYTE_E2, ratio_e2)
