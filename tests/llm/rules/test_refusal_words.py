"""Refusals in the forms of many APIs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.rules.refusal_words import Words, words_of

MISTAKE = {"type": "extra_forbidden", "loc": ["body", "messages", 0, "foo"], "msg": "Extra inputs", "input": 1}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["message", "error", "detail", "code", "param", "loc", "msg"]), inner)
    ),
)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"error": {"message": "No.", "code": "bad", "param": "model"}}, Words("No.", "bad", "model")),
        ({"object": "error", "message": "No.", "code": "1500", "param": None}, Words("No.", "1500")),
        ({"error": "just words"}, Words("just words")),
        ({"error": "just words", "code": 7}, Words("just words", "7")),
        ({"detail": [MISTAKE, {"msg": "another"}]}, Words("Extra inputs", "", "messages.0.foo")),
        ({"detail": "Not Found"}, Words("Not Found")),
        (
            {"object": "error", "message": {"detail": [MISTAKE]}, "type": "invalid_request_error", "code": None},
            Words("Extra inputs", "", "messages.0.foo"),
        ),
        ([{"error": {"message": "No.", "code": 400, "status": "INVALID_ARGUMENT"}}], Words("No.", "400")),
        ({"message": "No.", "param": ["messages", 0], "code": {"b": 1}}, Words("No.", "", "messages.0")),
        ({"message": "No.", "param": {"a": 1}, "code": True}, Words("No.")),
        ({"error": {"message": 5}}, Words("5")),
        ({"error": {"message": None, "type": "x"}}, Words()),
        ({}, Words()),
        (None, Words()),
        ([], Words()),
        ("No.", Words("No.")),
    ],
)
def test_each_form_is_read(said: Any, words: Words) -> None:
    assert words_of(said) == words


@given(JSON)
def test_any_json_says_texts(said: Any) -> None:
    found = words_of(said)
    assert {type(found.message), type(found.code), type(found.param)} == {str}


def test_however_deep() -> None:
    said: Any = "No."
    for _ in range(100_000):
        said = {"error": said}
    assert words_of(said) == Words()
