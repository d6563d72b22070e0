"""Conversations that moved between providers: each gets them as it takes them, or the field that it cannot is named.

What leaves is judged as the real APIs judge it, by the simulated Mistral and by the fakes of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from llm.rules import anthropic_dialect, client_requests, mistral_dialect, openai_dialect
from llm.rules.request_checks import DialectError
from llm.sandbox import requests
from tests.fakes import anthropic_api, openai_api

USER = {"role": "user", "content": "What is it like in Zug?"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def parsed(messages: list[Any]) -> client_requests.Request:
    return client_requests.parse(orjson.dumps({"model": "m", "messages": messages, "tools": [TOOL]}))


def at_mistral(messages: list[Any]) -> list[dict[str, Any]]:
    body = orjson.loads(mistral_dialect.apply(parsed(messages), model="m"))
    requests.check(body, requests.ChatRequest)
    requests.check_conversation(body["messages"], body["tools"])
    return list(body["messages"])


def at_openai(messages: list[Any]) -> list[dict[str, Any]]:
    body = openai_body(messages, native=True)
    openai_api.check(body)
    return list(body["messages"])


def openai_body(messages: list[Any], *, native: bool) -> dict[str, Any]:
    request = parsed(messages)
    made = openai_dialect.request_body(request, model="m", max_tokens=9, disabled_tools=(), native=native)
    return dict(orjson.loads(made))


def at_anthropic(messages: list[Any]) -> list[dict[str, Any]]:
    request = parsed(messages)
    body = orjson.loads(anthropic_dialect.request_body(request, model="m", max_tokens=9, disabled_tools=()))
    anthropic_api.check(body)
    return list(body["messages"])


PROVIDERS: dict[str, Callable[[list[Any]], list[dict[str, Any]]]] = {
    "mistral": at_mistral,
    "openai": at_openai,
    "anthropic": at_anthropic,
}
everywhere = pytest.mark.parametrize("provider", PROVIDERS)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


CITATION = {"type": "url_citation", "url_citation": {"url": "https://example.org", "title": "Zug", "start_index": 0}}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmF0dXJl"}
# What clients send back of an answer that one provider or library gave, and what of it the next one is to read.
ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "OpenAI": ({"content": "Wet.", "refusal": None, "annotations": [], "audio": None, "function_call": None}, "Wet."),
    "OpenAI's search": ({"content": "Wet.", "annotations": [CITATION]}, "Wet."),
    "OpenAI's refusal": ({"content": None, "refusal": "I cannot."}, "I cannot."),
    "OpenAI's refusal, and no parts": ({"content": [], "refusal": "I cannot."}, "I cannot."),
    "pydantic's, written out": (
        {"content": "Wet.", "images": [], "files": [], "audio": {}, "function_call": None, "video": None},
        "Wet.",
    ),
    "OpenAI's refusal in parts": ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "I cannot."),
    "LiteLLM's thinking": ({"content": "Wet.", "thinking_blocks": [THOUGHT], "reasoning_content": "Hm."}, "Wet."),
    "LiteLLM's fields": ({"content": "Wet.", "provider_specific_fields": {"refusal": None}}, "Wet."),
    "OpenRouter": ({"content": "Wet.", "reasoning": "Hm.", "reasoning_details": [{"type": "reasoning.text"}]}, "Wet."),
    "DeepSeek": ({"content": "Wet.", "reasoning_content": "Hm."}, "Wet."),
    "Mistral": ({"content": [{"type": "thinking", "thinking": [text("Hm.")]}, text("Wet.")], "prefix": False}, "Wet."),
    "Anthropic": ({"content": [THOUGHT, text("Wet.")]}, "Wet."),
    "no calls": ({"content": "Wet.", "tool_calls": []}, "Wet."),
    "null": ({"content": None}, ""),
    "nothing": ({"content": ""}, ""),
    "no parts": ({"content": []}, ""),
}


@everywhere
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_of_any_provider_is_taken_by_any_other(provider: str, answer: str) -> None:
    fields, words = ANSWERS[answer]
    leaves = PROVIDERS[provider]([USER, {"role": "assistant", **fields}, USER])
    assert words in orjson.dumps(leaves).decode()
    if "Hm." in orjson.dumps(fields).decode() and provider != "mistral":
        # Thoughts stay with whom they were thought by, but for Mistral's, which reads them.
        assert "Hm." not in orjson.dumps(leaves).decode()


MARKS: dict[str, Any] = {
    "cache_control": {"type": "ephemeral"},
    "provider_specific_fields": {"thought_signature": "z"},
    "extra_content": {"google": {"thought_signature": "q"}},
    "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}],
}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("provider", ["mistral", "openai"])
@pytest.mark.parametrize("mark", MARKS)
def test_what_one_provider_is_told_of_a_part_is_told_no_other(provider: str, mark: str) -> None:
    """They stand at all that has fields of its own; a strict provider refuses each."""
    told = {mark: MARKS[mark]}
    conversation = [
        {"role": "system", "content": [text("Be brief.") | told]},
        {"role": "user", "content": [text("And this?") | told, PICTURE | told], **told},
        {"role": "assistant", "content": [text("So.") | told], "tool_calls": [CALL | told], **told},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": [text("Wet.") | told], **told},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."} | told]},
        USER,
    ]
    leaves = orjson.dumps(PROVIDERS[provider](conversation)).decode()
    assert mark not in leaves
    for words in ("Be brief.", "And this?", "a.png", "So.", "Wet.", "I cannot."):
        assert words in leaves


def test_an_endpoint_of_ones_own_gets_the_marks_that_it_may_have_made() -> None:
    part = text("And this?") | MARKS
    [leaves] = openai_body([{"role": "user", "content": [part]}], native=False)["messages"]
    assert leaves["content"] == [part]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_strict_endpoint_of_ones_own_gets_no_field_that_says_nothing(answer: str) -> None:
    fields, words = ANSWERS[answer]
    [_, leaves, _] = openai_body([USER, {"role": "assistant", **fields}, USER], native=False)["messages"]
    assert not leaves.keys() & {"refusal", "annotations", "audio", "images", "files", "function_call", "prefix"}
    assert words in orjson.dumps(leaves).decode()
    # What it may have thought itself it may want back.
    kept = fields.keys() & {"reasoning_content", "thinking_blocks", "reasoning_details"}
    assert {name: leaves[name] for name in kept} == {name: fields[name] for name in kept}


def called(*ids: str) -> dict[str, Any]:
    calls = [{"id": id, "type": "function", "function": {"name": "weather", "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(id: Any = "call_1", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": "Sunny.", **more}


RULE = {"role": "system", "content": "Be brief."}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a user after a result": [USER, called("call_1"), result(), USER],
    "a user after results": [USER, called("call_1", "call_2"), result("call_2"), result(), USER, USER],
    "an empty answer after a result": [USER, called("call_1"), result(), {"role": "assistant", "content": ""}, USER],
    "a rule after an answer": [RULE, USER, {"role": "assistant", "content": "Wet."}, RULE, USER],
    "a rule after a result": [USER, called("call_1"), result(), RULE],
    "a rule after a rule after a user": [USER, RULE, RULE, USER],
    "calls again and again": [USER, called("call_1"), result(), called("call_1"), result()],
    "OpenAI's former way": [
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "Sunny."},
        {"role": "assistant", "content": "Sunny."},
        USER,
    ],
}


@everywhere
@pytest.mark.parametrize("case", CONVERSATIONS)
def test_messages_in_any_order_that_means_something_are_taken(provider: str, case: str) -> None:
    messages = CONVERSATIONS[case]
    leaves = orjson.dumps(PROVIDERS[provider](messages)).decode()
    assert leaves.count("Sunny.") == orjson.dumps(messages).decode().count("Sunny.")


def ids_at_anthropic(messages: list[Any]) -> tuple[list[str], list[str]]:
    """Of calls and of results, each in their order."""
    blocks = [block for turn in at_anthropic(messages) for block in turn["content"]]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return calls, [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]


@pytest.mark.parametrize("ids", [("call_1",), ("functions.weather:0",), ("0", "1"), ("",), ("0", "0"), ("abcDEF123",)])
def test_ids_that_recur_from_turn_to_turn_are_each_calls_own_for_anthropic(ids: tuple[str, ...]) -> None:
    turn = [called(*ids), *map(result, ids)]
    conversation = [USER, *turn, *turn, USER, *turn]
    calls, results = ids_at_anthropic(conversation)
    assert calls == results
    assert len(set(calls)) == 3 * len(ids)
    # What came before stays as it was, so that it is found in a cache.
    assert ids_at_anthropic([*conversation, *turn])[0][: len(calls)] == calls
    if ids == ("call_1",):
        assert calls[0] == "call_1"


def test_an_endpoint_that_lets_ids_recur_gets_them_as_they_are() -> None:
    turn = [called("functions.weather:0"), result("functions.weather:0")]
    for native in (True, False):
        leaves = openai_body([USER, *turn, *turn], native=native)["messages"]
        assert [m["tool_call_id"] for m in leaves if m["role"] == "tool"] == ["functions.weather:0"] * 2


def test_what_mistral_wants_between_a_result_and_a_user_is_a_word_and_no_more() -> None:
    messages = [USER, called("abcDEF123"), result("abcDEF123"), USER]
    leaves = at_mistral(messages)
    assert [message["role"] for message in leaves] == ["user", "assistant", "tool", "assistant", "user"]
    assert leaves[3] == {"role": "assistant", "content": "Done."}


def test_a_rule_that_stands_where_mistral_takes_none_goes_to_the_start() -> None:
    late = {"role": "developer", "content": "Be kind."}
    leaves = at_mistral([RULE, USER, {"role": "assistant", "content": "Wet."}, late, USER])
    assert [message["content"] for message in leaves[:2]] == ["Be brief.", "Be kind."]
    assert [message["role"] for message in leaves] == ["system", "system", "user", "assistant", "user"]


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a call without a result": ([USER, called("call_1"), USER], "messages.1.tool_calls.0"),
    "one of two": ([USER, called("call_1", "call_2"), result("call_2"), USER], "messages.1.tool_calls.0"),
    "the last one": ([USER, called("call_1")], "messages.1.tool_calls.0"),
    "a result without a call": ([USER, result()], "messages.1.tool_call_id"),
    "of another call": ([USER, called("call_1"), result("call_2"), result()], "messages.2.tool_call_id"),
    "a result twice": ([USER, called("call_1"), result(), result()], "messages.3.tool_call_id"),
    "a result too late": ([USER, called("call_1"), USER, result()], "messages.1.tool_calls.0"),
    "an id that is none": ([USER, called("call_1"), result(), result([])], "messages.3.tool_call_id"),
    "recorded speech": ([USER, {"role": "assistant", "content": None, "audio": {"id": "a"}}], "messages.1.audio"),
    "both ways at once": (
        [USER, {**called("call_1"), "function_call": {"name": "weather", "arguments": "{}"}}, result()],
        "messages.1.function_call",
    ),
    "a refusal that is none": ([USER, {"role": "assistant", "content": [{"type": "refusal"}]}], "messages.1.content.0"),
}


@everywhere
@pytest.mark.parametrize("case", REFUSED)
def test_what_no_provider_takes_is_refused_by_the_name_of_its_field(provider: str, case: str) -> None:
    messages, field = REFUSED[case]
    with pytest.raises(DialectError) as refused:
        PROVIDERS[provider](messages)
    assert (refused.value.param or "").startswith(field)
    assert f"`{refused.value.param}`" in refused.value.message


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([USER, {"role": "assistant", "content": "Wet.", "mood": "good"}, USER], "messages.1.mood"),
        ([{**USER, "images": ["x"]}], "messages.0.images"),
        ([USER, {"role": "assistant", "content": "It is"}], "messages.1"),
    ],
)
def test_what_mistral_does_not_take_is_refused_by_the_name_of_its_field(messages: list[Any], field: str) -> None:
    with pytest.raises(DialectError) as refused:
        at_mistral(messages)
    assert refused.value.param == field


def test_an_answer_goes_on_from_a_prefix_and_null_under_any_name_says_nothing() -> None:
    begun = {"role": "assistant", "content": "It is", "mood": None, "prefix": True}
    assert at_mistral([USER, begun])[1] == {"role": "assistant", "content": "It is", "prefix": True}


def test_anthropic_wants_a_user_first() -> None:
    with pytest.raises(DialectError) as refused:
        at_anthropic([RULE, {"role": "assistant", "content": "Hello."}, USER])
    assert refused.value.param == "messages"
