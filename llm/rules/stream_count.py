"""What a stream has come to while it still comes, counted strictly: a byte that has arrived is a token. Pure."""

from __future__ import annotations

import math

from governance.rules import money
from governance.rules.decision import Quote
from llm.rules.usage import LONGEST_TOKEN_BYTES

# Output tokens that a model writes until it notices that its stream was closed; one that writes fast, so many seconds'.
UNTIL_IT_STOPS = 48
NOTICES_AFTER_S = 0.25


class StreamCount:
    """Keeps up with one answer. `hides`: the model writes what its answer does not show, so nobody can count along."""

    def __init__(self, quote: Quote, *, hides: bool = False) -> None:
        self._quote = quote
        self._hides = hides or quote.max_tokens is None
        self.most_tokens = quote.answers * (quote.max_tokens or 0)
        self.arrived_bytes = 0
        self._seconds = 0.0

    def arrived(self, more_bytes: int, *, seconds: float = 0.0) -> None:
        """A part of the answer has come, with so many bytes of text, so many seconds after the first one."""
        self.arrived_bytes += more_bytes
        self._seconds = max(self._seconds, seconds)

    @property
    def overruns(self) -> bool:
        """Whether more has come than all tokens that were asked for can be: nothing holds this model back."""
        return self.arrived_bytes > self.most_tokens * LONGEST_TOKEN_BYTES

    def tokens(self, *, cut: bool) -> int | None:
        """Output tokens of all answers, at most; None where what has come says nothing of what was written.

        `cut`: the model was stopped, and wrote on until it noticed.
        """
        if self._hides or not self.arrived_bytes:
            return None
        written_on = 0
        if cut:
            at_its_pace = self.arrived_bytes * NOTICES_AFTER_S / max(self._seconds, NOTICES_AFTER_S)
            written_on = max(UNTIL_IT_STOPS, math.ceil(at_its_pace))
        return min(self.arrived_bytes + written_on, self.most_tokens)

    def cost_nanos(self, tokens: int) -> int:
        """What the input and so many output tokens cost at most, in nanodollars."""
        picos = self._quote.picos_per_output_token * tokens
        return money.ceil_from_picos(self._quote.fixed_picos + -(-picos // self._quote.answers))
