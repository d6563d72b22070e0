"""Requests for Anthropic's Messages API, its answers and streams as chat completions."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from llm.rules import anthropic_dialect, mistral_dialect, sse
from llm.rules.usage import read_tokens
from tests.fakes import anthropic_api

HI = [{"role": "user", "content": "Hi"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"does {name}", "parameters": {"type": "object"}}}
    for name in ("a", "b")
]
CALL = {"id": "t1", "type": "function", "function": {"name": "a", "arguments": '{"x": 1}'}}
USED = [
    *HI,
    {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "t1", "content": "ok"},
]
OLD, NEW, NEWEST = "claude-sonnet-4-5-20250929", "claude-opus-4-6", "claude-opus-5"


def translated(
    *, served: str = OLD, bound: int = 2_000, disabled: tuple[str, ...] = (), **fields: Any
) -> dict[str, Any]:
    request = mistral_dialect.parse(orjson.dumps({"model": "asked", "messages": HI, **fields}))
    body: dict[str, Any] = orjson.loads(
        anthropic_dialect.request_body(request, model=served, max_tokens=bound, disabled_tools=disabled)
    )
    anthropic_api.check(body)
    return body


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_a_plain_question() -> None:
    assert translated() == {
        "model": OLD,
        "max_tokens": 2_000,
        "messages": [{"role": "user", "content": [text("Hi")]}],
    }


def test_a_conversation_becomes_turns() -> None:
    body = translated(
        messages=[
            {"role": "system", "content": "One."},
            *HI,
            {
                "role": "user",
                "content": [text("Look:"), {"type": "image_url", "image_url": "https://example.com/a.png"}],
            },
            {"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": "t2"}]},
            {"role": "tool", "tool_call_id": "t1", "content": "ok"},
            {"role": "tool", "tool_call_id": "t2", "content": [text("fine")]},
            {"role": "developer", "content": [text("Two.")]},
            {"role": "user", "content": "So?"},
        ],
        tools=TOOLS,
    )
    assert body["system"] == "One.\nTwo."
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                text("Hi"),
                text("Look:"),
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": id, "name": "a", "input": {"x": 1}} for id in ("t1", "t2")],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [text("ok")]},
                {"type": "tool_result", "tool_use_id": "t2", "content": [text("fine")]},
                text("So?"),
            ],
        },
    ]


def test_a_picture_in_the_request_itself() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/webp;base64,AAAA", "detail": "low"}}
    [turn] = translated(messages=[{"role": "user", "content": [part]}])["messages"]
    source = {"type": "base64", "media_type": "image/webp", "data": "AAAA"}
    assert turn["content"] == [{"type": "image", "source": source}]


def test_the_beginning_of_an_answer_has_no_blank_at_its_end() -> None:
    body = translated(messages=[*HI, {"role": "assistant", "content": "Sure, ", "prefix": True}])
    assert body["messages"][-1] == {"role": "assistant", "content": [text("Sure,")]}


def test_thinking_of_earlier_answers_stays_here() -> None:
    parts = [{"type": "thinking", "thinking": [text("Hm.")]}, text("Yes."), text(" ")]
    body = translated(messages=[*HI, {"role": "assistant", "content": parts}, *HI])
    assert body["messages"][1]["content"] == [text("Yes.")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "b"}}}, {"type": "tool", "name": "b"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"tool_choice": "any", "parallel_tool_calls": False},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({}, None),
    ],
)
def test_tools(fields: dict[str, Any], expected: Any) -> None:
    body = translated(tools=TOOLS, **fields)
    assert body["tools"][0] == {"name": "a", "description": "does a", "input_schema": {"type": "object"}}
    assert body.get("tool_choice") == expected


def test_tools_that_are_taken_away_stay_only_as_names_that_may_not_be_called() -> None:
    assert [tool["name"] for tool in translated(messages=USED, tools=TOOLS, disabled=("b",))["tools"]] == ["a"]
    body = translated(messages=USED, tools=TOOLS, tool_choice="auto", disabled=("a", "b"))
    assert body["tools"] == [{"name": "a", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "none"}
    assert "tools" not in translated(tools=TOOLS, disabled=("a", "b"))


def test_an_answer_by_a_schema_has_it_closed_and_in_words_that_are_known() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 1, "description": "in years"},
            "home": {"oneOf": [{"type": "object", "properties": {}}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string", "minLength": 2}},
        },
        "required": ["age"],
    }
    body = translated(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    assert body["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {
                "age": {"type": "integer", "description": 'in years {"minimum":1}'},
                "home": {
                    "anyOf": [{"type": "object", "properties": {}, "additionalProperties": False}, {"type": "null"}]
                },
                "tags": {"type": "array", "items": {"type": "string", "description": '{"minLength":2}'}},
            },
            "required": ["age"],
            "additionalProperties": False,
        },
    }


def test_json_without_a_schema_is_asked_for_in_words() -> None:
    body = translated(
        response_format={"type": "json_object"}, messages=[{"role": "system", "content": "Be brief."}, *HI]
    )
    assert body["system"].startswith("Be brief.\nAnswer with a single JSON object")
    assert "output_config" not in body


@pytest.mark.parametrize(
    ("served", "fields", "expected"),
    [
        (OLD, {"temperature": 1.5}, {"temperature": 1}),
        (OLD, {"temperature": 0.2, "top_p": 0.9}, {"temperature": 0.2}),
        (OLD, {"top_p": 0.9}, {"top_p": 0.9}),
        ("claude-3-5-haiku-20241022", {"temperature": 0}, {"temperature": 0}),
        ("claude-opus-4-20250514", {"temperature": 0}, {"temperature": 0}),
        (NEW, {"temperature": 0.2}, {"temperature": 0.2}),
        ("claude-opus-4-7", {"temperature": 0.2}, {}),
        (NEWEST, {"temperature": 0.2, "top_p": 0.9}, {}),
        ("claude-mythos-preview", {"temperature": 0.2}, {}),
        (OLD, {"stop": "END"}, {"stop_sequences": ["END"]}),
        (OLD, {"stop": ["a", "\n"]}, {"stop_sequences": ["a"]}),
        (OLD, {"stream": True}, {"stream": True}),
        (OLD, {"seed": 1, "presence_penalty": 1, "user": "u", "metadata": {"a": 1}, "prediction": None}, {}),
    ],
)
def test_settings(served: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    body = translated(served=served, **fields)
    assert {name: value for name, value in body.items() if name not in ("model", "max_tokens", "messages")} == expected


@pytest.mark.parametrize(
    ("served", "bound", "fields", "thinking", "effort"),
    [
        (OLD, 9_000, {"reasoning_effort": "medium"}, {"type": "enabled", "budget_tokens": 4096}, None),
        (OLD, 2_000, {"reasoning_effort": "high"}, {"type": "enabled", "budget_tokens": 1999}, None),
        (OLD, 1_024, {"reasoning_effort": "high"}, None, None),
        (
            OLD,
            9_000,
            {"prompt_mode": "reasoning", "temperature": 0.3},
            {"type": "enabled", "budget_tokens": 8999},
            None,
        ),
        (OLD, 9_000, {"reasoning_effort": "high", "tools": TOOLS, "tool_choice": "any"}, None, None),
        (OLD, 9_000, {"reasoning_effort": "high", "tools": TOOLS, "messages": USED}, None, None),
        (NEW, 9_000, {"reasoning_effort": "high", "tools": TOOLS, "messages": USED}, {"type": "adaptive"}, "high"),
        (NEWEST, 9_000, {"reasoning_effort": "minimal"}, {"type": "adaptive"}, "low"),
        (NEWEST, 9_000, {"reasoning_effort": "low", "tools": TOOLS, "tool_choice": "any"}, None, "low"),
        (NEWEST, 9_000, {"reasoning_effort": "none"}, None, None),
    ],
)
def test_thinking(served: str, bound: int, fields: dict[str, Any], thinking: Any, effort: str | None) -> None:
    body = translated(served=served, bound=bound, **fields)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///etc/passwd"}]}]}, None),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "data:image/tiff;base64,A"}]}
                ]
            },
            None,
        ),
        ({"messages": [*HI, {"role": "tool", "content": "x"}]}, "messages.1.tool_call_id"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"stop": 1}, "stop"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": "x"}]}, *HI]}, "messages"),
    ],
)
def test_what_cannot_be_asked_is_refused(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(mistral_dialect.DialectError) as refused:
        translated(**fields)
    assert param is None or refused.value.param == param


@pytest.mark.parametrize("kind", ["fim", "embedding", "moderation"])
def test_what_is_no_chat_cannot_be_asked(kind: str) -> None:
    request = mistral_dialect.parse_other(orjson.dumps({"model": "m", "prompt": "x", "input": "x"}), kind=kind)
    with pytest.raises(mistral_dialect.DialectError) as refused:
        anthropic_dialect.request_body(request, model=OLD, max_tokens=None, disabled_tools=())
    assert refused.value.param == "model"
    assert refused.value.message.startswith(OLD)


def called_with(arguments: Any) -> list[dict[str, Any]]:
    call = {**CALL, "function": {"name": "a", "arguments": arguments}}
    return [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}, *USED[2:]]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [('{"x": 1}', {"x": 1}), ({"x": 1}, {"x": 1}), ({}, {}), (" ", {}), ("", {}), (None, {})],
)
def test_arguments_come_as_json_or_as_the_object_itself(arguments: Any, read: dict[str, Any]) -> None:
    body = translated(messages=called_with(arguments), tools=TOOLS)
    assert body["messages"][1]["content"] == [{"type": "tool_use", "id": "t1", "name": "a", "input": read}]


@pytest.mark.parametrize("arguments", ["[1]", '{"x": ', [1], 1])
def test_arguments_that_are_no_object_are_refused(arguments: Any) -> None:
    with pytest.raises(mistral_dialect.DialectError) as refused:
        translated(messages=called_with(arguments), tools=TOOLS)
    assert refused.value.param == "messages.1.tool_calls.0.function.arguments"


@pytest.mark.parametrize("content", ["", " ", []])
def test_a_tool_that_answers_nothing_has_a_result_without_content(content: Any) -> None:
    body = translated(messages=[*USED[:2], {**USED[2], "content": content}], tools=TOOLS)
    assert body["messages"][-1]["content"] == [{"type": "tool_result", "tool_use_id": "t1"}]


def test_a_tool_without_description_and_parameters_takes_any_object() -> None:
    [tool] = translated(tools=[{"type": "function", "function": {"name": "a"}}])["tools"]
    assert {name: tool[name] for name in tool if name != "input_schema"} == {"name": "a"}
    assert tool["input_schema"]["type"] == "object"


def test_parts_of_a_schema_that_are_no_objects_are_left_to_the_api_to_judge() -> None:
    parts = {"list": {"type": "array", "items": True}, "either": {"anyOf": [True, "odd"]}}
    schema = {"type": "object", "properties": parts}
    body = translated(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    assert body["output_config"]["format"]["schema"] == {**schema, "additionalProperties": False}


@pytest.mark.parametrize(
    ("counted", "prompt", "cached", "charged", "charged_for_an_hour"),
    [
        ({"input_tokens": 10, "output_tokens": 5}, 10, 0, 10, 10),
        ({"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 5}, 100, 90, 100, 100),
        # A token written to the cache costs 1.25 input tokens, and 2 where it stays for an hour.
        ({"input_tokens": 10, "cache_creation_input_tokens": 100, "output_tokens": 5}, 110, 0, 10 + 125, 10 + 200),
        (
            {
                "input_tokens": 10,
                "cache_creation_input_tokens": 101,
                "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 100},
                "output_tokens": 5,
            },
            111,
            0,
            10 + 202,
            10 + 202,
        ),
        # What was written is more than the sum says, and part of it for an hour.
        (
            {"input_tokens": 10.0, "cache_creation": {"ephemeral_1h_input_tokens": "100"}, "output_tokens": "5"},
            110,
            0,
            210,
            210,
        ),
    ],
)
def test_usage(counted: dict[str, Any], prompt: int, cached: int, charged: int, charged_for_an_hour: int) -> None:
    found = anthropic_dialect.usage(counted)
    assert (found["prompt_tokens"], found["prompt_tokens_details"]["cached_tokens"]) == (prompt, cached)
    assert found["total_tokens"] == found["prompt_tokens"] + found["completion_tokens"]
    for write_e2, tokens in ((125, charged), (200, charged_for_an_hour)):
        read = read_tokens({"usage": found}, write_e2=write_e2)
        assert read is not None
        assert (read.input_tokens, read.cached_tokens, read.output_tokens) == (tokens, cached, 5)


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        (None, {}),
        ([], {}),
        ({}, {}),
        ({"output_tokens": 5}, {"completion_tokens": 5}),
        ({"input_tokens": -1, "output_tokens": 5}, {"completion_tokens": 5}),
        ({"input_tokens": 3, "cache_read_input_tokens": "?", "output_tokens": 5}, {"completion_tokens": 5}),
        ({"input_tokens": 3, "output_tokens": True}, {"prompt_tokens": 3}),
        ({"input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": -1}, "output_tokens": None}, {}),
    ],
)
def test_a_count_that_cannot_be_read_is_left_out_and_nobody_takes_it_for_zero(counted: Any, said: Any) -> None:
    found = anthropic_dialect.usage(counted)

    assert {name: value for name, value in found.items() if name != "prompt_tokens_details"} == said
    assert read_tokens({"usage": found}) is None


def test_a_stream_never_counts_fewer_tokens_than_it_did() -> None:
    translator = anthropic_dialect.Translator(created=1)
    first = {"input_tokens": 30, "output_tokens": 9, "cache_creation": {"ephemeral_5m_input_tokens": 4}}
    for data in (
        {"type": "message_start", "message": {"usage": first}},
        {"type": "message_delta", "usage": [5]},
        {"type": "message_delta", "usage": {"input_tokens": 3, "output_tokens": "20", "cache_creation": None}},
        {"type": "message_delta", "usage": {"input_tokens": 0, "output_tokens": 7}},
    ):
        assert not [chunk for chunk in translator.feed(sse.Event(b"", data)) if (chunk.data or {}).get("usage")]
    [end] = translator.feed(sse.Event(b"", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}))
    counted = (end.data or {})["usage"]
    assert (counted["prompt_tokens"], counted["completion_tokens"]) == (34, 20)

    broken = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": "many"}}
    [end] = translator.feed(sse.Event(b"", broken))
    assert read_tokens(end.data) is None


def test_an_answer() -> None:
    message = {
        "id": "msg_1",
        "model": OLD,
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            text("Yes"),
            text("."),
            {"type": "tool_use", "id": "t1", "name": "a", "input": {"x": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}},
    }
    assert anthropic_dialect.answer(message, created=7) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 7,
        "model": OLD,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Yes.",
                    "reasoning_content": "Hm.",
                    "tool_calls": [
                        {"id": "t1", "type": "function", "function": {"name": "a", "arguments": '{"x":1}'}, "index": 0}
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 9,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    }


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something new", "stop"),
        (None, "stop"),
    ],
)
def test_finish_reasons(reason: Any, finish: str) -> None:
    answer = anthropic_dialect.answer({"stop_reason": reason, "content": []}, created=0)
    assert answer["choices"][0]["finish_reason"] == finish


def chunks_of(*pieces: bytes) -> list[dict[str, Any]]:
    translator, reader = anthropic_dialect.Translator(created=7), sse.EventReader()
    events = [chunk for event in reader.feed(b"".join(pieces)) for chunk in translator.feed(event)]
    assert events[-1].done
    return [event.data for event in events if event.data is not None]


def test_a_stream() -> None:
    message = {
        "id": "msg_1",
        "model": OLD,
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
            text("".join(anthropic_api.TEXT)),
            {"type": "tool_use", "id": "t1", "name": "a", "input": {"city": "Zug"}},
            {"type": "tool_use", "id": "t2", "name": "b", "input": {}},
        ],
        "stop_reason": "tool_use",
        "usage": anthropic_api.USAGE,
    }
    chunks = chunks_of(*anthropic_api.stream(message))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[:5] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm."},
        *({"content": words} for words in anthropic_api.TEXT),
    ]
    parts = [part for delta in deltas for part in delta.get("tool_calls", ())]
    assert [(part["index"], part["id"], part["function"]["name"]) for part in parts if "id" in part] == [
        (0, "t1", "a"),
        (1, "t2", "b"),
    ]
    written = "".join(part["function"]["arguments"] for part in parts if part["index"] == 0)
    assert json.loads(written) == {"city": "Zug"}
    assert {(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks} == {("msg_1", OLD, 7)}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"][0]["finish_reason"]] == [
        "tool_calls"
    ]
    assert chunks[-1]["usage"]["prompt_tokens"] == 40
    assert chunks[-1]["usage"]["completion_tokens"] == 12


def test_the_last_count_of_a_stream_counts() -> None:
    event = anthropic_api.event
    chunks = chunks_of(
        event("message_start", message={"id": "m", "model": OLD, "usage": {"input_tokens": 3, "output_tokens": 1}}),
        event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 2}),
        event(
            "message_delta",
            delta={"stop_reason": "end_turn"},
            usage={"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 8},
        ),
        event("message_stop"),
    )
    assert chunks[-1]["usage"]["prompt_tokens"] == 9
    assert chunks[-1]["usage"]["completion_tokens"] == 8


def test_an_error_in_the_stream_is_one() -> None:
    event = sse.read_event(anthropic_api.event("error", error={"type": "overloaded_error", "message": "Overloaded"}))
    [chunk] = anthropic_dialect.Translator(created=0).feed(event)
    assert chunk.data is not None
    assert chunk.data["error"] == {"type": "overloaded_error", "message": "Overloaded"}


def test_a_refusal_speaks_to_both_kinds_of_clients() -> None:
    body = {"type": "error", "error": {"type": "not_found_error", "message": "model: nope"}, "request_id": "r"}
    found = anthropic_dialect.refusal(orjson.dumps(body))
    assert found["message"] == found["error"]["message"] == "model: nope"
    assert found["error"]["type"] == "not_found_error"
    # As Mistral's own errors say of themselves.
    assert found["object"] == "error"
    assert anthropic_dialect.refusal(b"<html>")["error"]["message"]


LOW = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
REACHED = "You have reached your specified API usage limits. You will regain access on 2026-12-01."


@pytest.mark.parametrize(
    ("status", "headers", "kind", "message", "empty"),
    [
        (402, {}, "billing_error", "Pay.", True),
        (400, {}, "invalid_request_error", LOW, True),
        (400, {}, "invalid_request_error", REACHED, True),
        (429, {}, "rate_limit_error", "You have reached your monthly usage limit.", True),
        (429, {"retry-after": "3"}, "rate_limit_error", "This would exceed your usage limit a minute.", False),
        (400, {}, "invalid_request_error", "max_tokens: Field required", False),
        (400, {}, "invalid_request_error", "tools.0.name: 'Your credit balance is too low' is no name", False),
        (529, {}, "overloaded_error", "Overloaded", False),
    ],
)
def test_an_empty_account_is_told_from_other_refusals(
    status: int, headers: dict[str, str], kind: str, message: str, empty: bool
) -> None:
    body = orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})
    assert anthropic_dialect.out_of_money(status, headers, body) is empty


def test_a_stream_says_at_any_time_what_it_has_counted_so_far() -> None:
    translator = anthropic_dialect.Translator(created=1)
    assert translator.used == {}
    counted = {"input_tokens": 9, "output_tokens": 1}
    start = {"type": "message_start", "message": {"id": "m", "model": "c", "usage": counted}}
    translator.feed(sse.Event(b"", start))
    assert translator.used == {"model": "c", "usage": anthropic_dialect.usage(counted)}
