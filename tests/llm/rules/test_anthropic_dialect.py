"""Requests for Anthropic's Messages API."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llm.rules import anthropic_dialect, client_requests
from llm.rules.request_checks import DialectError
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
    request = client_requests.parse(orjson.dumps({"model": "asked", "messages": HI, **fields}))
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
    with pytest.raises(DialectError) as refused:
        translated(**fields)
    assert param is None or refused.value.param == param


@pytest.mark.parametrize("kind", ["fim", "embedding", "moderation"])
def test_what_is_no_chat_cannot_be_asked(kind: str) -> None:
    request = client_requests.parse_other(orjson.dumps({"model": "m", "prompt": "x", "input": "x"}), kind=kind)
    with pytest.raises(DialectError) as refused:
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
    with pytest.raises(DialectError) as refused:
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
