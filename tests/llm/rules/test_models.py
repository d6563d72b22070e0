"""Which names of models are one model: a name that may be another's is charged as one that nobody knows."""

import pytest

from llm.rules.models import is_same_line, is_same_model


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o", "GPT-4o"),
        ("gpt-4o", " gpt-4o "),
        ("gpt-4o", "openai/gpt-4o"),
        ("meta/llama", "models/meta/llama/"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("mistral-small", "mistral-small-2603"),
        ("mistral-small", "mistral-small-202603"),
        ("claude-x", "claude-x-20260301"),
        ("claude-x", "claude-x@20260301"),
        ("claude-x", "claude-x-latest"),
        ("claude-x-latest", "vendor/CLAUDE-X"),
        ("claude-x-20260301", "claude-x-2026-03-01"),
        ("x-ai/grok-4", "x-ai/grok-4-07-09"),
        ("grok-4-0709", "x-ai/grok-4-07-09"),
        ("llama3.1", "llama3.1:latest"),
    ],
)
def test_case_prefixes_and_dates_make_no_other_model(asked: str, served: str) -> None:
    assert is_same_model(asked, served)
    assert is_same_model(served, asked)


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("gpt-5", "gpt-5-mini"),
        ("m", "m-pro"),
        ("m", "pro-m"),
        ("2603", "mistral-2603"),
        ("mistral-small-2603", "mistral-small-2506"),
        ("m", "m-1"),
        ("m", "m-12345"),
        ("m", "m2603"),
        ("m", "m-2603-pro"),
        ("m", "m-13-09"),
        ("m", "m-07-32"),
        ("m", "m07-09"),
        ("m", "m-1-07-09"),
        ("m-2024-08-06", "m-2024-08-07"),
        ("grok-4-07-09", "grok-4-07-10"),
        ("llama3.1", "llama3.1:8b"),
        ("llama3.1:8b", "llama3.1:latest"),
        ("", ":latest"),
        ("m", "x-2603"),
        ("m", ""),
        ("", ""),
        ("/", "/"),
        ("", "latest"),
        ("", "-latest"),
        ("vendor/", "other"),
    ],
)
def test_what_may_be_another_model_is_not_the_one_asked_for(asked: str, served: str) -> None:
    assert not is_same_model(asked, served)
    assert not is_same_model(served, asked)


@pytest.mark.parametrize(
    ("one", "other", "is_one"),
    [
        ("mistral-small-latest", "mistral-small-2603", True),
        ("mistralai/Mistral-Small", "mistral-small-2603", True),
        ("mistral-small-latest", "mistral-medium-latest", False),
        ("-latest", "-2603", False),
    ],
)
def test_versions_of_a_model_are_of_one_line(one: str, other: str, is_one: bool) -> None:
    assert is_same_line(one, other) == is_same_line(other, one) == is_one
