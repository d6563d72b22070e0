"""What a stream has come to while it still comes, counted strictly: a byte that has arrived is a token. Pure.

Where the model's tokenizer is there, texts are kept as they come, to be counted exactly once the answer has ended.
"""

from __future__ import annotations

import math
from typing import Any

from governance.rules import money
from governance.rules.decision import Quote
from llm.rules import exact_count, sse, stated_errors, unreadable
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


# Where the data of an event begins, at the latest.
_LONGEST_HEAD = 128
# Bytes that are read of an event that nobody can read as it is: there may be any number of them.
_MOST_OF_EVENT = 64 * 1024
# Bytes of an answer in places that nobody knows which may be an endpoint's, and none of the model's: how long it took.
FRAME_BYTES = 1_024


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
        # It answers with numbers, too many to be looked at one by one, and with what was sent.
        self._writes_nothing = quote.max_tokens is None
        self._hides = hides or self._writes_nothing
        self._shows_all = shows_all
        self.most_tokens = quote.answers * (quote.max_tokens or 0)
        self.arrived_bytes = 0
        # Whether any of it was read as an answer: what was not may be a page, a log, or the request again.
        self.is_answer = False
        # Whether it said that it failed: then it broke off, and the usage that it says shows nothing of the model.
        self.has_failed = False
        # Of what arrived, what the model has certainly written; and what else it may have: what nobody can read, and
        # what errors show.
        self.written_bytes = self._doubtful_bytes = 0
        self._frame_bytes = FRAME_BYTES
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
        self.is_answer = self.is_answer or bool(sse.choices_of(answer))
        self._note_written(answer)
        self._calls += sse.begun_calls(answer)
        self.passed(seconds)
        if more_bytes and seconds:
            self._longest_pause_s = max(self._longest_pause_s, seconds - self._text_at)
            self._text_at = max(self._text_at, seconds)
        if self._keeps_texts:
            self._keep(answer)

    def _note_written(self, answer: Any) -> None:
        """A part has come: what of it the model has written, in what place soever, but for what an endpoint may say."""
        if self._writes_nothing:
            return
        plain_bytes = sse.plain_bytes(answer)
        self._wrote(plain_bytes + self._beyond_frame(sse.written_bytes(answer) - plain_bytes))

    @property
    def _framed_bytes(self) -> int:
        return FRAME_BYTES - self._frame_bytes

    def _beyond_frame(self, more_bytes: int) -> int:
        """Of bytes in places that nobody knows, those that no endpoint would say of itself."""
        frame_bytes = min(self._frame_bytes, max(0, more_bytes))
        self._frame_bytes -= frame_bytes
        return max(0, more_bytes) - frame_bytes

    def _wrote(self, text_bytes: int) -> None:
        if self._writes_nothing:
            return
        echoed_bytes = min(self._echoed_bytes, text_bytes)
        self._echoed_bytes -= echoed_bytes
        self.written_bytes += text_bytes - echoed_bytes

    def came(self, event: sse.Event, *, text_bytes: int, seconds: float = 0.0) -> None:
        """An event of the answer has come, with so many bytes of text; `seconds`: after the first one.

        One that says that the answer failed may quote anything: it is no part of an answer.
        """
        failed = stated_errors.failure_in(event.data) is not None
        self.arrived(text_bytes, None if failed else event.data, seconds=seconds)
        self._note_unread(event.unread, most_bytes=_MOST_OF_EVENT)

    def broke(self, data: bytes) -> None:
        """Bytes of it have come that nobody can read as they are: all of them may be text."""
        self.arrived(len(data))
        self._note_unread(data)

    def _note_unread(self, data: bytes, *, most_bytes: int = unreadable.MOST_READ) -> None:
        """What of such bytes reads as an answer, as far as it goes, was certainly written. All else may be the model's,
        or a page, a log, or what an error quotes.
        """
        if self._writes_nothing or not (data := _value_of(data.strip())):
            return
        found, unread_bytes = unreadable.readable(data, most_bytes=most_bytes)
        if stated_errors.failure_in(found) is not None:
            return
        if not unreadable.is_answer(found):
            self._doubtful_bytes += unread_bytes + sse.answer_bytes({"choices": [found]})
            return
        self.is_answer, before_bytes = True, self.written_bytes
        self._note_written(found if sse.choices_of(found) else {"choices": [found]})
        if unread_bytes == len(data) - most_bytes:
            # It goes on where the reading stopped, with as much text as before: log probabilities are a thousand times
            # theirs.
            self.written_bytes += unread_bytes * (self.written_bytes - before_bytes) // most_bytes
        else:
            self._doubtful_bytes += unread_bytes

    def keeps(self, text_bytes: int) -> None:
        """So much was written that waits to be passed on as a whole."""
        self.arrived_bytes += text_bytes
        self._wrote(text_bytes)

    def shows(self, text_bytes: int) -> None:
        """So much may have been written, in an error or in no known place: it shows nothing of the model (ADR 35)."""
        self.arrived_bytes += text_bytes
        self._doubtful_bytes += text_bytes

    @property
    def answer_bytes(self) -> int:
        """What was written, as far as anything says so: a usage that is believed covers it."""
        return self.written_bytes + self._doubtful_bytes

    def end_untold(self) -> None:
        """What is said of its usage is no answer's: whatever came may be the model's, in any place."""
        self._doubtful_bytes = max(self._doubtful_bytes, self.arrived_bytes - self.written_bytes - FRAME_BYTES)

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
        return self.shown_tokens > self.most_tokens

    @property
    def shown_tokens(self) -> int:
        """What the model has certainly written: no token is longer. Nothing where nothing was read as an answer."""
        return -(-self.written_bytes // LONGEST_TOKEN_BYTES) if self.is_answer else 0

    @property
    def overrun_tokens(self) -> int:
        """The strict count of an answer that no bound held back; 0 where one may have."""
        return self.written_bytes + self._framed_bytes if self.overruns else 0

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


def _value_of(data: bytes) -> bytes:
    """What may be JSON in half an event: behind the names of its lines."""
    start = -1 if data.startswith((b"{", b"[")) else data.find(b"data:", 0, _LONGEST_HEAD)
    return data[start + 5 :].strip() if start >= 0 else data
