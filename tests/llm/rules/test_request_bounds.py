"""How much one request may hold."""

from __future__ import annotations

from typing import Any

import pytest

from governance.rules.json_bounds import BeyondBounds, JsonBounds
from llm.rules.client_requests import parse
from llm.rules.request_bounds import RequestBounds, check
from llm.rules.request_checks import DialectError

SMALL = RequestBounds(messages=3, parts=2, tools=1)
PART = {"type": "text", "text": "x"}


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ({"messages": [{}] * 4}, "`messages` may have at most 3 messages."),
        ({"messages": [{}, {"content": [PART] * 3}]}, "`messages.1.content` may have at most 2 parts."),
        ({"tools": [{}, {}]}, "`tools` may have at most 1 tools."),
    ],
)
def test_what_is_beyond_is_named_with_its_bound(payload: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BeyondBounds) as raised:
        check(payload, SMALL)
    assert raised.value.sentence == sentence


@pytest.mark.parametrize(
    "payload", [{}, {"messages": "x", "tools": 5}, {"messages": [5, {"content": [PART] * 2}, {}], "tools": [{}]}]
)
def test_what_is_within_passes_whatever_else_is_wrong(payload: dict[str, Any]) -> None:
    check(payload, SMALL)


def test_a_body_with_too_many_values_is_a_mistake_that_names_its_bound() -> None:
    body = b'{"model": "m", "messages": [' + b",".join([b"1"] * 200_002) + b"]}"
    with pytest.raises(DialectError, match="200,000 values") as raised:
        parse(body)
    assert raised.value.param == "messages"


def test_whatever_else_there_is_has_bounds_too() -> None:
    assert RequestBounds().json == JsonBounds()
    with pytest.raises(BeyondBounds) as raised:
        check({"messages": [], "metadata": {"a": [[[1]]]}}, RequestBounds(json=JsonBounds(depth=3)))
    assert raised.value.sentence.startswith("`metadata")
