"""Refusals that show work: what it was, read from wherever an endpoint puts it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm.rules import shown_work
from llm.rules.shown_work import ShownWork

USED = {"total_tokens": 7}
VLLM = (
    "1 validation error for list[function-wrap[__log_extra_fields__()]]\n  Invalid JSON: EOF while parsing an object at"
    ' line 1 column 30 [type=json_invalid, input_value=\'[{"name": "look",\', input_type=str]'
)


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
        {"message": "The model returned the following errors: `temperature` is deprecated for this model."},
        {"error": {"message": 'BedrockException - {"message":"The model returned the following errors: top_p"}'}},
        {"error": {"message": "Failed to parse model parameters"}},
        {"error": {"message": "Failed to validate model: not found"}},
        {"error": {"message": "Invalid JSON schema for response_format"}},
        {"error": {"message": "Failed to parse output_format"}},
        {"error": {"message": "Failed to parse tool call arguments of messages.2"}},
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
        ({"error": {"message": "Failed to parse the model's output"}}, 0),
        ({"error": {"message": "Failed to validate model response"}}, 0),
        ({"error": {"message": "failed to parse model_output"}}, 0),
        ({"error": {"message": "Failed to parse output as JSON"}}, 0),
        ({"error": {"message": VLLM, "type": "BadRequestError", "code": 400}}, 0),
        ({"error": {"message": "Invalid JSON"}}, 0),
        ({"error": {"message": "EOF while parsing a string at line 1"}}, 0),
        ({"error": {"message": "Unterminated string starting at: line 1 column 10 (char 9)"}}, 0),
        ({"error": {"message": "Expecting ',' delimiter: line 1 column 20 (char 19)"}}, 0),
        ({"error": "Tool error: Failed to parse generated text: EOF", "error_type": "tool_error"}, 0),
        ({"error": "Failed to parse generated text"}, 0),
        ({"error": "Tool error: no tool was chosen"}, 0),
        ({"error": "Request failed during generation: out of memory", "error_type": "generation"}, 0),
        ({"error": "Incomplete generation", "error_type": "incomplete_generation"}, 0),
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


@pytest.mark.parametrize(
    ("before", "after", "says"), [(1_900, 5_000, True), (5_000, 1_900, True), (5_000, 5_000, False)]
)
def test_of_long_words_the_first_and_the_last_are_read(before: int, after: int, says: bool) -> None:
    assert shown_work.says_so("x " * (before // 2) + "failed_generation" + " x" * (after // 2)) is says


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "no"}', {"error": "no"}),
        (b"{}", {}),
        (b'[{"error": {"code": 400}}]', {"error": [{"error": {"code": 400}}]}),
        (b'"no"', {"error": "no"}),
        (b"no\xff", {"error": "no\ufffd"}),
        (b"", {"error": ""}),
    ],
)
def test_a_refusal_is_an_object_whatever_it_came_as(body: bytes, said: dict[str, Any]) -> None:
    assert shown_work.refusal(body) == said


@pytest.mark.parametrize(
    "body",
    [
        b'[{"error": {"message": "no", "failed_generation": "abcd"}}]',
        b'[{"failed_generation": "abcd"}]',
        b'upstream said {"error": {"failed_generation": "abcd"}}',
    ],
)
def test_lists_and_texts_show_work_too(body: bytes) -> None:
    found = shown_work.of(shown_work.refusal(body))
    assert (found.text_bytes, found.is_told) == (4, True)


@pytest.mark.parametrize(
    ("shown", "is_any"),
    [
        (ShownWork(), False),
        (ShownWork(is_told=True), True),
        (ShownWork(text_bytes=1), True),
        (ShownWork(counts=[{"usage": USED}]), True),
    ],
)
def test_work_is_shown_by_any_of_three(shown: ShownWork, is_any: bool) -> None:
    assert bool(shown) is is_any
