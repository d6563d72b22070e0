"""What a stream has come to while it still comes: bytes that are seen, in tokens that nobody has counted yet. Pure."""

from __future__ import annotations

from governance.rules import money
from governance.rules.decision import Quote
from llm.rules import bounds
from llm.rules.token_ratios import TokenRatios


class StreamCount:
    """Keeps up with one stream. A token has one byte or more; how many this model's usually have is learned.

    `model` is its id in `token_ratios`; `input_bytes` the strict bound of the input, None where it says nothing.
    """

    def __init__(self, quote: Quote, *, model: str, input_bytes: int | None, token_ratios: TokenRatios) -> None:
        self._quote = quote
        self._least_ratio_e2 = token_ratios.output_ratio_e2(model=model, bound=True)
        self._common_ratio_e2 = token_ratios.output_ratio_e2(model=model, bound=False)
        # What the input likely costs; pictures are left as they are.
        self._input_picos = quote.fixed_picos
        if input_bytes is not None and quote.input_tokens:
            likely = bounds.likely_tokens(input_bytes, token_ratios.input_ratio_e2(model=model, bound=False))
            self._input_picos = quote.fixed_picos * min(quote.input_tokens, likely) // quote.input_tokens
        self.output_bytes = 0
        self._unseen_bytes = 0
        # At most so many output tokens of each answer have come.
        self.tokens = 0

    def wrote(self, more_bytes: int, *, unseen_bytes: int) -> None:
        """So many bytes of text have come since, and so many in all that the client is not shown."""
        self.output_bytes += more_bytes
        self._unseen_bytes = unseen_bytes
        self.tokens = self._output_tokens(self._least_ratio_e2)

    def covered_tokens(self, held_nanos: int) -> int | None:
        """Output tokens of each answer that a hold covers beside the likely input; None: all that it may write."""
        quote = self._quote
        if quote.held_tokens is None or quote.max_tokens is None or not quote.picos_per_output_token:
            return None
        tokens = (held_nanos * 1000 - self._input_picos) // quote.picos_per_output_token
        return tokens if tokens < quote.max_tokens else None

    def nanos_for(self, tokens: int) -> int:
        """What a hold must be to cover `tokens` output tokens of each answer, or as many as it may write."""
        tokens = min(tokens, self._quote.max_tokens or tokens)
        return money.ceil_from_picos(self._input_picos + self._quote.picos_per_output_token * tokens)

    def nanos_seen(self) -> int | None:
        """The prompt and what was streamed, as such texts usually count; None where that is not known."""
        if self._quote.max_tokens is None:
            return None
        tokens = self._output_tokens(self._common_ratio_e2)
        return money.ceil_from_picos(self._input_picos + self._quote.picos_per_output_token * tokens)

    def _output_tokens(self, ratio_e2: int) -> int:
        return bounds.likely_tokens(-(-(self.output_bytes + self._unseen_bytes) // self._quote.answers), ratio_e2)
