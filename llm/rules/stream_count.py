"""What a stream has come to while it still comes, counted strictly: a byte that has arrived is a token. Pure."""

from __future__ import annotations

from governance.rules import money
from governance.rules.decision import Quote
from llm.rules.usage import LONGEST_TOKEN_BYTES

# Output tokens that a model writes until it notices that its stream was closed.
UNTIL_IT_STOPS = 48


class StreamCount:
    """Keeps up with one answer. `hides`: the model writes what its answer does not show, so nobody can count along."""

    def __init__(self, quote: Quote, *, hides: bool = False) -> None:
        self._quote = quote
        self._hides = hides or quote.max_tokens is None
        self.most_tokens = quote.answers * (quote.max_tokens or 0)
        self.arrived_bytes = 0
        self._has_begun = False

    def arrived(self, more_bytes: int) -> None:
        """A part of the answer has come, with so many bytes of text."""
        self._has_begun = True
        self.arrived_bytes += more_bytes

    @property
    def overruns(self) -> bool:
        """Whether more has come than all tokens that were asked for can be: nothing holds this model back."""
        return self.arrived_bytes > self.most_tokens * LONGEST_TOKEN_BYTES

    def tokens(self, *, cut: bool) -> int | None:
        """Output tokens of all answers, at most; None where what has come says nothing of what was written.

        `cut`: the model was stopped, and wrote on until it noticed.
        """
        if self._hides or not self._has_begun or not (self.arrived_bytes or cut):
            return None
        return min(self.arrived_bytes + UNTIL_IT_STOPS * cut, self.most_tokens)

    def cost_nanos(self, tokens: int) -> int:
        """What the input and so many output tokens cost at most, in nanodollars."""
        picos = self._quote.picos_per_output_token * tokens
        return money.ceil_from_picos(self._quote.fixed_picos + -(-picos // self._quote.answers))
