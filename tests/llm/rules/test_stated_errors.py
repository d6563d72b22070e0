"""Errors where an answer should be: told from answers, and taken for the status that they stand for."""

from __future__ import annotations

from typing import Any

import pytest

from llm.rules.stated_errors import StatedError, error_in, failure_in


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "error",
        {},
        {"error": None},
        {"error": ""},
        {"message": "hello"},
        {"object": "chat.completion", "choices": []},
        {"choices": [{"delta": {"content": "a"}}], "error": {"message": "x"}},
        {"choices": [{}], "object": "error"},
    ],
)
def test_what_holds_an_answer_or_no_error_is_none(answer: Any) -> None:
    assert error_in(answer) is None


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ({"error": {"message": "Down", "code": 503}}, 503, "Down"),
        ({"error": "rate limit reached"}, 429, "rate limit reached"),
        ({"error": {"detail": "Down"}}, 502, "Down"),
        ({"error": {"message": "", "detail": "Down"}}, 502, "Down"),
        ({"error": {"message": "First", "detail": "Second"}}, 502, "First"),
        ({"object": "error", "message": "Down", "status": 500}, 500, "Down"),
        ({"type": "error", "message": "Down", "status_code": "500"}, 500, "Down"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}, 529, "Busy"),
        ({"error": {"message": "Down"}, "status": 504}, 504, "Down"),
        ({"error": {"message": "Down", "code": 401}, "status": 504}, 401, "Down"),
        ({"error": {"message": "Down"}, "choices": []}, 502, "Down"),
        ({"error": {"message": "Down", "type": "x"}, "choices": ["odd"]}, 502, "Down"),
    ],
)
def test_an_error_says_its_status_and_its_words(answer: dict[str, Any], status: int, message: str) -> None:
    assert error_in(answer) == StatedError(status, message)


@pytest.mark.parametrize(
    "part",
    [
        None,
        [{"error": "x"}],
        {"error": None, "x_groq": {"id": "r", "error": None}, "choices": [{"finish_reason": "stop", "error": None}]},
        {"choices": [{"delta": {"content": "a"}}], "x_groq": "error"},
        {"x_groq": {"usage": {}}},
    ],
)
def test_a_part_of_an_answer_that_says_nothing_of_an_error_has_not_failed(part: Any) -> None:
    assert failure_in(part) is None


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"error": "x", "text": "y"}, {"error": "x", "text": "y"}),
        ({"choices": [{"text": "a"}], "error": "x", "model": "m"}, {"model": "m", "error": ["x"]}),
        ({"choices": [{"error": {"code": 502}}, {}]}, {"model": None, "error": [{"code": 502}]}),
        ({"choices": [{}], "x_groq": {"error": "x"}}, {"model": None, "error": [{"error": "x"}]}),
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": "error"}]}, {"model": None, "error": []}),
    ],
)
def test_an_error_anywhere_says_that_an_answer_failed(part: dict[str, Any], said: dict[str, Any]) -> None:
    assert failure_in(part) == said


@pytest.mark.parametrize("odd", [7, True, [1], {"code": 1}])
def test_an_error_without_words_is_told_in_ours(odd: Any) -> None:
    found = error_in({"error": odd})
    assert found is not None
    assert (found.status, bool(found.message)) == (502, True)


def test_long_words_are_cut() -> None:
    found = error_in({"error": {"message": "x" * 501}})
    assert found is not None
    assert found.message == "x" * 500


@pytest.mark.parametrize(
    ("code", "status"),
    [(399, 502), (400, 400), ("400", 400), (599, 599), (600, 502), ("²00", 502), ("4e2", 502), (500.0, 502), (-1, 502)],
)
def test_a_number_is_a_status_where_it_can_be_one(code: Any, status: int) -> None:
    for name in ("status", "status_code", "code"):
        found = error_in({"error": {"message": "Down", name: code}})
        assert found is not None
        assert found.status == status


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("invalid_api_key", 401),
        ("Invalid API key", 401),
        ("authentication_error", 401),
        ("Unauthorised", 401),
        ("insufficient_quota", 402),
        ("billing_hard_limit", 402),
        ("Payment Required", 402),
        ("no credit left", 402),
        ("rate_limit_exceeded", 429),
        ("Too many requests", 429),
        ("RESOURCE_EXHAUSTED", 429),
        ("overloaded", 529),
        ("Service unavailable", 503),
        ("at capacity", 529),
        ("timeout", 504),
        ("timed out", 504),
        ("deadline exceeded", 504),
        ("model_not_found", 404),
        ("permission_denied", 403),
        ("forbidden", 403),
        ("moderation", 403),
        ("guardrail", 403),
        ("invalid_request_error", 400),
        ("Bad request", 400),
        ("context_length_exceeded", 400),
        ("content_filter", 400),
        ("content policy", 400),
        ("unsupported", 400),
        ("invalid_response_format", 400),
        ("invalid_tool_choice", 400),
        ("invalid_json_schema", 400),
        ("invalid_function_parameters", 400),
        # Of what the model wrote.
        ("invalid_output", 502),
        ("invalid_model_output", 502),
        ("invalid_response", 502),
        ("invalid_tool_call", 502),
        ("tool_call_invalid", 502),
        ("invalid_function_call", 502),
        ("model_output_invalid", 502),
        ("invalid_llm_output", 502),
        ("invalid_json_schema_output", 502),
        ("response_validation_invalid", 502),
        ("InvalidGeneration", 502),
        ("invalid completion", 502),
        ("invalid_json", 502),
        ("json_invalid", 502),
        ("something else", 502),
    ],
)
def test_words_stand_for_a_status(words: str, status: int) -> None:
    for name in ("type", "code", "status"):
        found = error_in({"error": {name: words}})
        assert found is not None
        assert found.status == status


@pytest.mark.parametrize(
    ("sentence", "status"),
    [
        ("Incorrect: invalid API key", 401),
        ("Insufficient credits", 402),
        ("Your credit balance is too low", 402),
        ("Rate limit reached", 429),
        ("The model is overloaded", 529),
        ("We are at capacity", 529),
        ("Service unavailable", 503),
        ("It timed out", 504),
        ("The model `x` was not found", 404),
        ("Permission denied", 403),
        ("Your prompt was stopped by moderation", 403),
        ("Invalid request: no messages", 400),
        ("Unsupported parameter: 'x'", 400),
        ("maximum context length", 400),
        ("Your input met our content policy", 400),
        # What was written, or nobody knows.
        ("The model produced an invalid tool call", 502),
        ("invalid JSON", 502),
        ("The answer was stopped by a content filter", 502),
        ("Tool not found", 502),
        ("Invalid request: the model generated invalid JSON", 502),
        ("unsupported", 502),
    ],
)
def test_a_sentence_stands_for_a_status_where_it_speaks_of_the_request(sentence: str, status: int) -> None:
    found = error_in({"error": {"message": sentence}})
    assert found is not None
    assert found.status == status


@pytest.mark.parametrize(
    ("sentence", "status"),
    [
        ("failed: raw='rate limit, it's an 'invalid request'', err=x", 502),
        ('failed: "rate limit reached" and "invalid request"', 502),
        ('failed: {"say": "invalid request"} {}', 502),
        ("failed: `invalid\nrequest`", 502),
        ("Worker crashed at prompt='too many requests", 502),
        ("Worker crashed at b'too many requests'", 502),
        ("Worker crashed at “too many requests”", 502),
        ("Worker crashed at ‘too many requests’", 502),
        ("Worker crashed at „too many requests“", 502),
        ("Worker crashed at «too many requests»", 502),
        ("Worker crashed at [too many requests]", 502),
        ("Worker crashed at <too many requests>", 502),
        ("Worker crashed at 「too many requests」", 502),
        ("Worker crashed (prompt: too many requests)", 502),
        # Whoever knows of the marks may write them.
        ("Worker crashed at 'x' too many requests'", 502),
        ("Worker crashed at “x” too many requests", 502),
        ("Worker crashed at (x): model not found", 502),
        ("You don't have permission to use 'x', it's said", 403),
        ("You don’t have permission", 403),
        ("[Provider Error] Error (429): too many requests", 429),
        ("<429> Requests: too many requests", 429),
        ("Provider «x» is overloaded", 529),
        ("model 'x' not found, try pulling it first", 404),
        ("Unsupported parameter: 'x' is not supported. Use 'y' instead.", 400),
    ],
)
def test_what_a_sentence_quotes_says_nothing_of_its_status(sentence: str, status: int) -> None:
    found = error_in({"error": {"message": sentence}})
    assert found is not None
    assert found.status == status


def test_no_sentence_makes_a_server_s_error_the_request_s() -> None:
    for kind in ("server_error", "internal_error", "api_error"):
        told = error_in({"error": {"message": "Invalid request", "type": kind}})
        busy = error_in({"error": {"message": "Rate limit reached", "type": kind}})
        assert told is not None
        assert busy is not None
        assert (told.status, busy.status) == (502, 429)


def test_the_type_says_more_than_the_message() -> None:
    found = error_in({"error": {"type": "overloaded_error", "message": "invalid_api_key"}})
    assert found is not None
    assert found.status == 529
    # The more telling of two words in one text.
    told = error_in({"error": {"message": "invalid request: rate limit"}})
    assert told is not None
    assert told.status == 429


def test_a_code_of_thousands_of_digits_is_no_status() -> None:
    assert error_in({"error": {"message": "x", "code": "5" * 5_000}}) == StatedError(502, "x")
