"""What a stream's events say was used, and whether that is the call's last word. Pure."""

from __future__ import annotations

from dataclasses import replace

from governance.rules.calls import Usage
from llm.rules import usage
from llm.rules.sse import Event


class StreamUsage:
    """Reads the events of one stream in their order, as they come or all at once, of so many answers."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self.ended_answers: set[int] = set()
        # … and those of which it was said that they end, as it turned out or not.
        self.said_to_end: set[int] = set()
        # Text came although all answers had ended: what ends in each of its parts has no end that can be told. Of a
        # part that has both nobody knows yet.
        self.went_on = self.ends_in_text = False
        # The largest usage that was reported; the last word where no text came after it.
        self.used: Usage | None = None
        # Whether any text came.
        self.has_text = False
        self.is_last_word = False
        self._broke_off = False

    @property
    def have_ended(self) -> bool:
        """Whether all answers have."""
        return len(self.ended_answers) >= self._answers

    def took_unread(self) -> None:
        """Bytes that nobody can read: they may be text, written after the last usage."""
        self.has_text, self.is_last_word = True, False

    def took_error(self) -> None:
        """The answer broke off, and nothing is said of what was used until then."""
        self._broke_off = True

    @property
    def is_final(self) -> bool:
        """Whether the largest usage is all that an answer used: no text came after it, nor did it break off."""
        return self.is_last_word and not self._broke_off

    def took(self, event: Event, reported: Usage | None, *, text_bytes: int) -> None:
        """The next event, what the call has used by what it says, and how much text it holds."""
        ends = event.finished
        if text_bytes:
            self.has_text, self.is_last_word = True, False
            if self.have_ended:
                # It was not the end.
                self.went_on = True
                if not ends:
                    self.ended_answers.clear()
        if ends:
            self.ended_answers.update(ends)
            self.said_to_end.update(ends)
            self.ends_in_text = self.ends_in_text or text_bytes > 0
        if reported is None:
            return
        earlier = self.used
        if earlier and earlier.input_tokens == reported.input_tokens and not earlier.cached_tokens:
            # Some say only at the end what of it came from a cache.
            earlier = replace(earlier, cached_tokens=reported.cached_tokens)
        self.used = usage.larger(earlier, reported)
        self.is_last_word, self._broke_off = True, False
