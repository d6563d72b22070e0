"""Usage that a stream's events tell: the largest, and only as the last word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from governance.rules.calls import Usage
from llm.rules.sse import Event
from llm.rules.stream_usage import StreamUsage


def used(output_tokens: int) -> Usage:
    return Usage(provider="p", input_tokens=3, output_tokens=output_tokens, units=3 + output_tokens)


def event(*ended: int, **more: Any) -> Event:
    return Event(b"", {"choices": [{"index": index, "finish_reason": "stop"} for index in ended], **more})


def test_the_largest_usage_is_the_last_word_until_text_follows() -> None:
    told = StreamUsage(1)
    assert (told.used, told.is_last_word, told.have_ended) == (None, False, False)
    told.took(event(), used(9), text_bytes=1)
    told.took(event(), used(2), text_bytes=0)
    assert (told.used, told.is_last_word, told.have_ended) == (used(9), True, False)
    told.took(event(), None, text_bytes=1)
    assert (told.used, told.is_last_word) == (used(9), False)


def test_text_after_all_have_ended_says_that_it_was_no_end() -> None:
    told = StreamUsage(2)
    told.took(event(0), None, text_bytes=0)
    told.took(event(), None, text_bytes=1)
    told.took(event(1), None, text_bytes=1)
    assert told.have_ended
    assert told.ends_in_text
    assert not told.went_on
    told.took(event(1), None, text_bytes=1)
    assert told.have_ended
    assert told.went_on
    told.took(event(), None, text_bytes=1)
    assert not told.have_ended


def test_text_came_whether_anybody_can_read_it_or_not() -> None:
    told = StreamUsage(1)
    told.took(event(), used(9), text_bytes=0)
    assert (told.has_text, told.is_last_word) == (False, True)
    told.took_unread()
    assert (told.has_text, told.is_last_word) == (True, False)
    told.took(event(), used(9), text_bytes=0)
    assert (told.has_text, told.is_last_word) == (True, True)


def test_a_usage_before_an_error_is_not_all() -> None:
    told = StreamUsage(1)
    are_final = []
    for take in (
        lambda: told.took(event(), used(9), text_bytes=1),
        told.took_error,
        lambda: told.took(event(), used(9), text_bytes=1),
        lambda: told.took(event(), None, text_bytes=1),
    ):
        take()
        are_final.append(told.is_final)
    assert are_final == [True, False, True, False]


def test_what_came_from_a_cache_may_be_told_at_the_end_alone() -> None:
    told = StreamUsage(1)
    for cached_tokens in (0, 0, 8):
        counted = replace(used(5), input_tokens=10, cached_tokens=cached_tokens)
        told.took(Event(b"", {"usage": {}, "choices": []}), counted, text_bytes=0)
    assert told.used is not None
    assert told.used.cached_tokens == 8
    # Once it is told, less of it makes nothing cheaper.
    told.took(Event(b"", {"usage": {}, "choices": []}), replace(told.used, cached_tokens=2), text_bytes=0)
    assert told.used.cached_tokens == 2
