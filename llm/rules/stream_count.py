"""What a stream has come to while it still comes, counted strictly: a byte that has arrived is a token. Pure.

Where the model's tokenizer is there, texts are kept as they come, to be counted exactly once the answer has ended.
"""

from __future__ import annotations

import math
from typing import Any

from governance.rules import money
from governance.rules.decision import Quote
from llm.rules import exact_count, sse
from llm.rules.usage import LONGEST_TOKEN_BYTES

# Output tokens that a model writes until it notices that its stream was closed; one that writes fast, so many seconds'.
UNTIL_IT_STOPS = 48
NOTICES_AFTER_S = 0.25
# What comes in less time is no pace yet.
PACED_OVER_S = 2.0
# Marks around one answer that its text does not show: of its end, of thinking, of tool calls.
MARKS = 8


class StreamCount:
    """Keeps up with one answer. `hides`: the model writes what its answer does not show, so nobody can count along.

    `keeps_texts`: somebody will count them.
    """

    def __init__(self, quote: Quote, *, hides: bool = False, keeps_texts: bool = False) -> None:
        self._quote = quote
        self._hides = hides or quote.max_tokens is None
        self.most_tokens = quote.answers * (quote.max_tokens or 0)
        self.arrived_bytes = 0
        # Of them, what the model has certainly written.
        self.written_bytes = 0
        self._has_begun = False
        self._seconds = 0.0
        # The pieces of each text, in order, and the bytes of them all.
        self.texts: dict[tuple[int, str], list[str]] = {}
        self.text_bytes = 0
        self._room_bytes = exact_count.MOST_BYTES
        self._keeps_texts = keeps_texts and not self._hides
        self._saved = 0

    def arrived(self, more_bytes: int, answer: Any = None, *, seconds: float = 0.0) -> None:
        """A part of the answer has come, with so many bytes of text; `answer` is that part, where it can be read.

        `seconds`: after the first part.
        """
        self._has_begun = True
        self.arrived_bytes += more_bytes
        self.written_bytes += sse.written_bytes(answer)
        self._seconds = max(self._seconds, seconds)
        if self._keeps_texts:
            self._keep(answer)

    def _keep(self, answer: Any) -> None:
        for place, text in sse.answer_texts(answer):
            size = exact_count.utf8_bytes(text)
            self.text_bytes += size
            self._room_bytes -= max(1, size)
            self.texts.setdefault(place, []).append(text)
        if self._room_bytes < 0:
            # Too long to be counted: all of it counts by its bytes.
            self._keeps_texts, self.texts, self.text_bytes = False, {}, 0

    def take_texts(self) -> dict[tuple[int, str], list[str]]:
        """The pieces of each text to count, none where there is nothing to; what comes later counts by its bytes."""
        texts, self.texts = self.texts, {}
        self._keeps_texts = False
        return texts

    def counted(self, tokens: int) -> None:
        """The texts that were taken are so many tokens, and not as many as they have bytes."""
        self._saved = max(0, self.text_bytes - tokens - MARKS * self._quote.answers)

    @property
    def overruns(self) -> bool:
        """Whether more has come than all tokens that were asked for can be: nothing holds this model back."""
        return self.arrived_bytes > self.most_tokens * LONGEST_TOKEN_BYTES

    def tokens(self, *, cut: bool, stopped: bool = False) -> int | None:
        """Output tokens of all answers, at most; None where what has come says nothing of what was written.

        `cut`: the answer is not whole, and the model wrote on until it noticed. `stopped`: it was we who cut it, so
        that a model which had only begun had not written more.
        """
        if self._hides or not (self.arrived_bytes or (stopped and self._has_begun)):
            return None
        written = self.arrived_bytes - self._saved
        written_on = 0
        if cut:
            at_its_pace = written * NOTICES_AFTER_S / max(self._seconds, PACED_OVER_S)
            written_on = max(UNTIL_IT_STOPS, math.ceil(at_its_pace))
        return min(written + written_on, self.most_tokens)

    def cost_nanos(self, tokens: int) -> int:
        """What the input and so many output tokens cost at most, in nanodollars."""
        picos = self._quote.picos_per_output_token * tokens
        return money.ceil_from_picos(self._quote.fixed_picos + -(-picos // self._quote.answers))
