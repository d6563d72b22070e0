"""Bodies that nobody can read: whether they may be what is left of an answer that cost money, and what it holds."""

import json
from typing import Any

import pytest

from llm.rules.unreadable import begins_answer, is_answer, readable, shows_work


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n",
        b'{"choices": [',
        b"{'usage' : {",
        b'{"usage_info":',
        b'{"message":"a',
        b'{"content":',
        b'data: {"delta":{',
        b'{"output":',
        b'{"candidates":',
        b'{"embedding":',
        b'{"data":',
        b'{"results":',
        b'{"pages":',
        b'{"text":',
        b'{"segments":',
        b'{"completion":',
        # Packed, in another charset, or nobody knows what.
        b"\x1f\x8b\x08\x00\xff\xfe",
        b"<answer>yes</answer>",
        b'[ ["a',
        b"caf\x00e",
        b"x" * 201,
        b"ab " * 66 + b"cde",
        # Words that nobody writes.
        b"x" * 17,
        b"a " + b"x" * 41,
        b"data:",
    ],
)
def test_what_may_be_left_of_an_answer(body: bytes) -> None:
    assert shows_work(body) is True


@pytest.mark.parametrize(
    "body",
    [
        b"<html>content</html>",
        b"{}",
        b"Bad gateway: no choices",
        b'{"status":"ok"}',
        b'["usage"]',
        b'"text"',
        b"data: no route",
        b"ab " * 66 + b"cd",
        b"x" * 16,
        b"a " + b"x" * 40,
        # In lines, and with columns.
        b"Service\r\nunavailable\tnow\nsorry",
    ],
)
def test_what_is_somebody_else_s_answer(body: bytes) -> None:
    assert shows_work(body) is False


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        (b"", False),
        (b'{"error": {"message": "The cont', False),
        (b'{"message": "see \\"choices\\": ', False),
        (b"<html>", False),
        (b'{"id": "c", "choices" : [', True),
        (b'{"usage":', True),
        (b'{"id": "m", "type": "message", "ro', True),
        (b'{"pages": [{"in', True),
    ],
)
def test_half_a_body_under_an_errors_status_is_an_answer_where_a_name_of_one_shows(body: bytes, begins: bool) -> None:
    assert begins_answer(body, "pages") is begins


@pytest.mark.parametrize(
    "data",
    [
        b'{"id": "c", "choices" : [{"message": {"role": "as',
        b'{"choices": [{"index": 0, "delta": {"content": "x',
        b'{"choices": ["x", {"message": {}}]}',
        b'{"id": "m", "type": "message", "content": [{"type": "te',
        b'{"content": [], "type": "message"}',
    ],
)
def test_what_has_answers_in_their_place_is_an_answer(data: bytes) -> None:
    assert is_answer(readable(data)[0]) is True


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'"choices"',
        # The request again, as echoes and validators give it back.
        b'{"body": {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}, "method": "POST"}',
        b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "message": {"content": "x"}}',
        b'{"detail": [{"loc": ["body"], "input": {"choices": [{"message": {}}]}}]}',
        # Names of an answer in a document, and in lists of whatever.
        b'{"openapi": "3.1.0", "components": {"choices": {"type": "array"}, "usage": {"type": "object"}}}',
        b'[{"choices": [{"message": {"content": "x"}}]}]',
        b'{"choices": ["x", 5, null], "usage": {"total_tokens": 5}}',
        b'{"choices": [{"message": "x", "text": "y"}]}',
        b'{"choices": {"0": {"message": {}}}}',
        b'{"type": "message", "content": "x"}',
        b'{"type": "text", "content": []}',
        b'<html><script>{"choices": [{"message": {}}]}',
    ],
)
def test_what_merely_has_names_that_answers_have_is_none(data: bytes) -> None:
    assert is_answer(readable(data)[0]) is False


WHOLE = rb'{"a": [1.5, true, null, "x\\y\"z", "\u00e9"], "b": {"c": -12}, "d": "end"}'


@pytest.mark.parametrize("size", range(1, len(WHOLE) + 1))
def test_json_that_breaks_off_anywhere_is_read_as_far_as_it_came(size: int) -> None:
    found, unread_bytes = readable(WHOLE[:size])
    assert isinstance(found, dict)
    # Half an escape at most.
    assert unread_bytes <= 1
    assert set(found) <= {"a", "b", "d", ""} or size < 3
    if size > 20:
        assert found["a"][0] == 1.5


@pytest.mark.parametrize(
    ("body", "found", "unread_bytes"),
    [
        (b'{"a": "b"', {"a": "b"}, 0),
        (b'{"a": "b"}]', {"a": "b"}, 1),
        (b'{"a": ["b"}', {"a": ["b"]}, 1),
        (b'{"a": "b"}{"c": 1}', {"a": "b"}, 8),
        (b'{"a": "b\nc"', {"a": "b\nc"}, 0),
        (b'"abc', "abc", 0),
        (b"{broken 123", None, 11),
        (b"nothing", None, 7),
        (b"\xff\xfe", None, 2),
        (b"", None, 0),
        (b"[" * 100_000, None, 100_000),
    ],
)
def test_what_json_holds_that_is_broken(body: bytes, found: Any, unread_bytes: int) -> None:
    assert readable(body) == (found, unread_bytes)


def test_no_more_is_read_than_is_asked_for() -> None:
    body = b'{"a": "' + b"b" * 100_000 + b'"}'
    assert readable(body, most_bytes=1_000) == ({"a": "b" * 993}, len(body) - 1_000)


def test_what_cannot_be_mended_is_tried_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    loads = json.loads

    def counted(text: str, **options: Any) -> Any:
        tried.append(text)
        return loads(text, **options)

    monkeypatch.setattr("json.loads", counted)
    for body in (b'{"a": 1 2, "b": tr', b'{"a": 1 2, "b": "\\u12', b'{"a": 1 2, "b": 3,'):
        tried.clear()
        assert readable(body) == (None, len(body))
        assert len(tried) == len(set(tried)) <= 10


@pytest.mark.parametrize(
    ("end", "last"),
    [
        (b"fal", [None]),
        (b'"\\u12', [""]),
        (b'{"name": fal', [{"name": None}]),
        (b'{"name', [{"name": None}]),
    ],
)
def test_a_long_body_is_mended_as_a_short_one(end: bytes, last: list[Any]) -> None:
    found, unread_bytes = readable(b"[" + b'{"logprob": -1.25},' * 1_000 + end)
    assert (len(found), found[-1:], unread_bytes) == (1_001, last, 0)


def test_a_long_word_is_no_work() -> None:
    # As long as it is, its end alone is looked at: this takes hours otherwise.
    assert readable(b'{"a": 1 2, "b": "' + b"c" * 1_000_000 + b'!" ')[0] is None
