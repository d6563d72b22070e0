"""Bodies that nobody can read: whether they may be what is left of an answer that cost money."""

import pytest

from llm.rules.unreadable import begins_answer, shows_work


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
