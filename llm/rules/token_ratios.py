"""What the calls of the recent past teach about the next one: how long answers are, how many bytes a token has. Pure.

Only guesses come from here, never bounds of money: a stream starts with a hold for the answer that its model and
agent usually write and extends it as it grows; a call that its strict bound keeps out may go by the bytes that this
model's tokens had at the very least.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

# Nothing is guessed from fewer calls than this; the bound that a call is let through by takes most.
FEWEST_ANSWERS = 20
FEWEST_RATIOS = 100
FEWEST_BOUNDS = 1_000
# Of a key's calls the last so many count; so many keys are kept.
KEPT_CALLS = 1_024
KEPT_KEYS = 4_096
# How many new calls it takes until they are put in order anew.
RENEWED_AFTER = 16
# Ratios are counted in hundredths of a byte a token.
BYTE_E2 = 100
# Shares in hundredths: half of the answers are shorter; a tenth of the texts, or one in a hundred, has fewer bytes a
# token.
USUAL_E2, COMMON_E2, LEAST_E2 = 50, 10, 1


@dataclass(slots=True)
class Recent:
    """The last KEPT_CALLS numbers, and their quantiles."""

    _numbers: list[int] = field(default_factory=list)
    _next: int = 0
    _ordered: list[int] = field(default_factory=list)
    _unseen: int = 0

    def add(self, number: int) -> None:
        if len(self._numbers) < KEPT_CALLS:
            self._numbers.append(number)
        else:
            self._numbers[self._next] = number
            self._next = (self._next + 1) % KEPT_CALLS
        self._unseen += 1

    def quantile(self, share_e2: int, *, fewest: int) -> int | None:
        """The number that `share_e2` hundredths of them lie below; None until there are `fewest` of them."""
        if len(self._numbers) < fewest:
            return None
        if not self._ordered or self._unseen >= RENEWED_AFTER:
            self._ordered = sorted(self._numbers)
            self._unseen = 0
        return self._ordered[(len(self._ordered) - 1) * share_e2 // 100]


class TokenRatios:
    """What one process has learned. A model is named as its provider bills it, so aliases learn together."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str], Recent] = OrderedDict()
        self._input: OrderedDict[tuple[str, str], Recent] = OrderedDict()
        self._output: OrderedDict[tuple[str, str], Recent] = OrderedDict()

    def answered(self, *, model: str, agent: str, output_tokens: int) -> None:
        """One answer of so many tokens. The model's own figure serves for agents that are new."""
        for key in {(model, agent), (model, "")}:
            _of(self._answers, key).add(output_tokens)

    def read(self, *, model: str, input_tokens: int, input_bytes: int) -> None:
        """An input, as the strict bound (bytes and marks) and the provider counted it."""
        if input_tokens > 0:
            _of(self._input, (model, "")).add(input_bytes * BYTE_E2 // input_tokens)

    def wrote(self, *, model: str, output_tokens: int, output_bytes: int) -> None:
        """An answer's bytes and tokens."""
        if output_tokens > 0:
            _of(self._output, (model, "")).add(output_bytes * BYTE_E2 // output_tokens)

    def usual_answer(self, *, model: str, agent: str) -> int | None:
        """Tokens that half of the answers stay below; None where too few were seen."""
        for key in ((model, agent), (model, "")):
            recent = self._answers.get(key)
            if recent and (tokens := recent.quantile(USUAL_E2, fewest=FEWEST_ANSWERS)) is not None:
                return tokens
        return None

    def input_ratio_e2(self, *, model: str, bound: bool) -> int:
        """Hundredths of a byte that an input token has, but for a tenth of the calls; 100 where unknown.

        `bound`: but for one call in a hundred.
        """
        return _ratio(self._input.get((model, "")), bound=bound, fewest=FEWEST_BOUNDS if bound else FEWEST_RATIOS)

    def output_ratio_e2(self, *, model: str, bound: bool) -> int:
        """The same of output tokens."""
        return _ratio(self._output.get((model, "")), bound=bound, fewest=FEWEST_RATIOS)


def _of(kept: OrderedDict[tuple[str, str], Recent], key: tuple[str, str]) -> Recent:
    recent = kept.get(key)
    if recent is None:
        if len(kept) >= KEPT_KEYS:
            kept.popitem(last=False)
        recent = kept[key] = Recent()
    else:
        kept.move_to_end(key)
    return recent


def _ratio(recent: Recent | None, *, bound: bool, fewest: int) -> int:
    ratio_e2 = recent.quantile(LEAST_E2 if bound else COMMON_E2, fewest=fewest) if recent else None
    return BYTE_E2 if ratio_e2 is None else max(BYTE_E2, ratio_e2)
