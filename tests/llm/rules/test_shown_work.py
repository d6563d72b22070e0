"""Refusals that show work: what it was, read from wherever an endpoint puts it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm.rules import shown_work
from llm.rules.shown_work import ShownWork

USED = {"total_tokens": 7}


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "failed_generation",
        {},
        {"error": {"message": "no", "code": "invalid_request_error"}},
        # What answers have at their top is read as one.
        {"choices": [{"message": {"content": "abc"}}], "usage": USED},
        {"error": {"usage": {}, "output": None, "completion": 7, "choices": []}},
        # The request, again.
        {"detail": [{"input": {"output": "abc", "usage": USED}, "msg": "too large"}]},
        {"error": {"message": "{broken", "raw": "{}"}},
        {"error": {"message": "Provider returned error"}},
        {"error": {"message": "The model returned an error."}},
        {"error": {"message": "The model returned 400"}},
        {"error": {"message": "failed to parse tool schema"}},
        {"error": {"message": "max_tokens is more than the model can write"}},
    ],
)
def test_what_shows_no_work(said: Any) -> None:
    assert shown_work.of(said) == ShownWork()


@pytest.mark.parametrize(
    ("said", "text_bytes"),
    [
        ({"error": {"failed_generation": "abcd"}}, 4),
        ({"error": {"failed_generation": ""}}, 0),
        ({"error": {"completion": ["ab", "c"]}}, 3),
        ({"output": "\u00e9"}, 2),
        ({"error": {"metadata": {"raw": json.dumps({"error": {"failed_generation": "abc"}})}}}, 3),
        ({"message": "GroqException - " + json.dumps({"error": {"partial_output": "abc"}})}, 3),
        ({"error": {"code": "tool_use_failed"}}, 0),
        ({"error": {"message": "The model produced invalid content."}}, 0),
        ({"error": {"message": "Could not finish the message because max_tokens was reached."}}, 0),
        ({"error": {"message": "The model output could not be parsed as JSON"}}, 0),
    ],
)
def test_what_was_written_is_shown(said: Any, text_bytes: int) -> None:
    assert shown_work.of(said) == ShownWork(text_bytes=text_bytes, is_told=True)


def test_a_usage_is_found_wherever_it_is() -> None:
    said = {"model": "m", "error": {"usage": USED, "details": [{"x_groq": {"usage": USED}}]}}
    assert shown_work.of(said).counts == [
        {"model": "m", "usage": USED},
        {"model": "m", "x_groq": {"usage": USED}},
    ]


def test_no_more_is_looked_at_than_an_error_may_be() -> None:
    deep: Any = {"output": "abc"}
    for _ in range(2_000):
        deep = {"inner": deep}
    assert shown_work.of(deep) == ShownWork()
    assert shown_work.of({"message": "{" + " " * 1_000_000 + '"output": "abc"}'}) == ShownWork()
