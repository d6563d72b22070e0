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
# The least time in which what came is taken to have been written.
PACED_OVER_S = 0.1
# Of a model that may think unseen, a pause so long within its answer was no network's.
THINKS_FOR_S = 1.0
# Marks around one answer, and around each of its tool calls with its id, that its text does not show.
MARKS, CALL_MARKS = 8, 16


class StreamCount:
    """Keeps up with one answer. `hides`: the model writes what its answer does not show, so nobody can count along.

    `shows_all`: it is known to show what it writes, if at its end. `keeps_texts`: somebody will count them.
    `echoed_bytes`: each answer may begin with so many of the request's. `withheld_bytes`: so many may have been written
    that are shown at its end.
    """

    def __init__(
        self,
        quote: Quote,
        *,
        hides: bool = False,
        shows_all: bool = True,
        keeps_texts: bool = False,
        echoed_bytes: int = 0,
        withheld_bytes: int = 0,
    ) -> None:
        self._quote = quote
        self._hides = hides or quote.max_tokens is None
        self._shows_all = shows_all
        self.most_tokens = quote.answers * (quote.max_tokens or 0)
        self.arrived_bytes = 0
        # Of them, what the model has certainly written.
        self.written_bytes = 0
        self._echoed_bytes = quote.answers * echoed_bytes
        self._withheld_bytes = withheld_bytes
        # Tool calls that have begun.
        self._calls = 0
        # Seconds after the first part: the last text, and now; the longest time without any in between.
        self._text_at = self._now = self._longest_pause_s = 0.0
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
        self.arrived_bytes += more_bytes
        written_bytes = sse.written_bytes(answer)
        echoed_bytes = min(self._echoed_bytes, written_bytes)
        self._echoed_bytes -= echoed_bytes
        self.written_bytes += written_bytes - echoed_bytes
        self._calls += sse.begun_calls(answer)
        self.passed(seconds)
        if more_bytes and seconds:
            self._longest_pause_s = max(self._longest_pause_s, seconds - self._text_at)
            self._text_at = max(self._text_at, seconds)
        if self._keeps_texts:
            self._keep(answer)

    def lose(self) -> None:
        """Some of it may never have been read, so what was read says nothing of what was written."""
        self._hides = True

    def passed(self, seconds: float) -> None:
        """So many seconds have passed since the first part, whatever has come in them."""
        self._now = max(self._now, seconds)

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
        self._saved = max(0, self.text_bytes - tokens)

    @property
    def overruns(self) -> bool:
        """Whether more was written than all tokens that were asked for can be: nothing holds this model back."""
        return self.written_bytes > self.most_tokens * LONGEST_TOKEN_BYTES

    @property
    def shown_tokens(self) -> int:
        """What the model has certainly written: no token is longer."""
        return -(-self.written_bytes // LONGEST_TOKEN_BYTES)

    @property
    def overrun_tokens(self) -> int:
        """The strict count of an answer that no bound held back; 0 where one may have."""
        return self.written_bytes if self.overruns else 0

    @property
    def _keeps_back(self) -> bool:
        """Whether the model may have written what it has not sent: a tool call that comes whole, what it thinks.

        Only a text that arrived just now, of the only answer, shows that all before it has arrived too.
        """
        silent_s = self._now - self._text_at
        thinks = not self._shows_all and self._longest_pause_s > THINKS_FOR_S
        return self._quote.answers > 1 or silent_s > NOTICES_AFTER_S or thinks

    def tokens(self, *, cut: bool) -> int | None:
        """Output tokens of all answers, at most; None where what has come says nothing of what was written.

        `cut`: the answer is not whole, and the model wrote on until it noticed.
        """
        if self._hides or not self.arrived_bytes or (cut and self._keeps_back):
            return None
        written = self.arrived_bytes - self._saved + (self._withheld_bytes if cut else 0)
        marks = MARKS * self._quote.answers + CALL_MARKS * self._calls
        written_on = 0
        if cut:
            unseen_s = self._now - self._text_at + NOTICES_AFTER_S
            at_its_pace = written * unseen_s / max(self._text_at, PACED_OVER_S)
            written_on = max(UNTIL_IT_STOPS, math.ceil(at_its_pace))
        return min(written + marks + written_on, self.most_tokens)

    def cost_nanos(self, tokens: int) -> int:
        """What the input and so many output tokens cost at most, in nanodollars."""
        picos = self._quote.picos_per_output_token * tokens
        return money.ceil_from_picos(self._quote.fixed_picos + -(-picos // self._quote.answers))
