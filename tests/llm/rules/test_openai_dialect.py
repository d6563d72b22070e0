"""Requests for OpenAI and its likes, and their streams in Mistral's shape."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from llm.rules import mistral_dialect, sse
from llm.rules.openai_dialect import Shaper, out_of_money, request_body
from tests.fakes import openai_api

HI = [{"role": "user", "content": "Hi"}]
TOOLS = [{"function": {"name": name, "parameters": {}}} for name in ("a", "b")]


def translated(*, native: bool = True, disabled: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    request = mistral_dialect.parse(orjson.dumps({"model": "asked", "messages": HI, **fields}))
    body = request_body(request, model="served", max_tokens=50, disabled_tools=disabled, native=native)
    result: dict[str, Any] = orjson.loads(body)
    return result


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"max_completion_tokens": 50}),
        ({"max_tokens": 80}, {"max_completion_tokens": 50}),
        ({"max_completion_tokens": 80}, {"max_completion_tokens": 50}),
        ({"random_seed": 3}, {"seed": 3}),
        ({"random_seed": 3, "seed": 4}, {"seed": 4}),
        ({"tools": TOOLS, "tool_choice": "any"}, {"tool_choice": "required"}),
        ({"verbosity": "low", "user": "u", "logit_bias": {"1": 2}}, {"verbosity": "low", "user": "u"}),
        ({"store": True, "metadata": {"a": "b"}}, {"metadata": {"a": "b"}, "store": True}),
        ({"service_tier": "flex"}, {"service_tier": "default"}),
        ({"stream": True}, {"stream_options": {"include_usage": True}}),
        (
            {"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": False}},
            {"stream_options": {"include_usage": True, "include_obfuscation": False}},
        ),
    ],
)
def test_fields_arrive_as_openai_knows_them(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    body = translated(**fields)
    assert body["model"] == "served"
    assert {name: body.get(name) for name in expected} == expected
    openai_api.check(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"safe_prompt": True},
        {"prompt_mode": "reasoning"},
        {"metadata": {"agent": "x"}},
        {"prediction": {"type": "content", "content": "text"}},
        {"stream_options": {"include_usage": True}},
        {"tools": None, "tool_choice": None},
    ],
)
def test_what_openai_does_not_take_is_left_out(fields: dict[str, Any]) -> None:
    body = translated(**fields)
    assert not set(fields) & set(body)
    openai_api.check(body)


def test_the_likes_of_openai_get_the_older_names() -> None:
    body = translated(native=False, service_tier="flex", messages=[{"role": "developer", "content": "Be brief."}, *HI])
    assert body["max_tokens"] == 50
    assert not {"max_completion_tokens", "service_tier"} & set(body)
    assert body["messages"][0]["role"] == "system"


@pytest.mark.parametrize("native", [True, False])
def test_the_clients_own_bound_is_sent_where_none_was_held_for_and_no_bound_where_it_gave_none(native: bool) -> None:
    name = "max_completion_tokens" if native else "max_tokens"
    for fields, expected in (({"max_tokens": 80}, {name: 80}), ({}, {})):
        request = mistral_dialect.parse(orjson.dumps({"model": "asked", "messages": HI, **fields}))
        body = orjson.loads(request_body(request, model="served", max_tokens=None, disabled_tools=(), native=native))
        assert {key: value for key, value in body.items() if "tokens" in key} == expected


def test_messages_that_are_openais_already_stay_as_they_are() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    call = {"id": "1", "type": "function", "function": {"name": "a", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "ok"},
    ]
    assert translated(messages=messages, tools=TOOLS)["messages"] == messages


def test_messages_of_mistrals_clients_become_openais() -> None:
    body = translated(
        messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": "https://example.com/a.png"}]},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}],
                "tool_calls": [{"id": "1", "index": 0, "function": {"name": "a", "arguments": {"x": 1}}}],
                "prefix": False,
            },
            {"role": "tool", "name": "a", "tool_call_id": "1", "content": "ok"},
        ],
        tools=TOOLS,
    )
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "a", "arguments": '{"x":1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "ok"},
    ]
    openai_api.check(body)


def test_a_prefix_cannot_be_asked_for() -> None:
    with pytest.raises(mistral_dialect.DialectError):
        translated(messages=[*HI, {"role": "assistant", "content": "Sure", "prefix": True}])


def test_tools_that_are_taken_away_do_not_go_along() -> None:
    assert [tool["function"]["name"] for tool in translated(tools=TOOLS, disabled=("a",))["tools"]] == ["b"]
    body = translated(tools=TOOLS, tool_choice="auto", parallel_tool_calls=True, disabled=("a", "b"))
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)


@pytest.mark.parametrize("kind", ["fim", "ocr"])
def test_what_openai_has_no_call_for_is_refused(kind: str) -> None:
    body = {"model": "m", "prompt": "x", "document": {"type": "document_url", "document_url": "https://example.com"}}
    request = mistral_dialect.parse_other(orjson.dumps(body), kind=kind)
    with pytest.raises(mistral_dialect.DialectError):
        request_body(request, model="m", max_tokens=None, disabled_tools=(), native=True)


def test_embeddings_keep_their_dimensions() -> None:
    body = {"model": "asked", "input": ["a"], "output_dimension": 256}
    request = mistral_dialect.parse_other(orjson.dumps(body), kind="embedding")
    sent = orjson.loads(request_body(request, model="served", max_tokens=None, disabled_tools=(), native=True))
    assert sent == {"model": "served", "input": ["a"], "dimensions": 256}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"output_dimension": 256, "dimensions": 512}, {"dimensions": 512}),
        ({"output_dtype": "float", "metadata": {"agent": "x"}}, {}),
        ({"output_dtype": None}, {}),
    ],
)
def test_embeddings_arrive_as_openai_knows_them(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    request = mistral_dialect.parse_other(orjson.dumps({"model": "asked", "input": "a", **fields}), kind="embedding")
    sent = orjson.loads(request_body(request, model="served", max_tokens=None, disabled_tools=(), native=True))
    assert sent == {"model": "served", "input": "a", **expected}


def test_embeddings_of_another_type_than_float_cannot_be_asked_for() -> None:
    body = {"model": "asked", "input": "a", "output_dtype": "int8"}
    request = mistral_dialect.parse_other(orjson.dumps(body), kind="embedding")
    with pytest.raises(mistral_dialect.DialectError) as refused:
        request_body(request, model="served", max_tokens=None, disabled_tools=(), native=True)
    assert refused.value.param == "output_dtype"


@pytest.mark.parametrize(
    ("error", "empty"),
    [
        ({"code": "insufficient_quota"}, True),
        ({"type": "insufficient_quota", "code": None}, True),
        ({"code": "billing_hard_limit_reached"}, True),
        ({"code": "rate_limit_exceeded"}, False),
        ("text", False),
    ],
)
def test_an_empty_account_is_told_from_a_rate_limit(error: Any, empty: bool) -> None:
    assert out_of_money(orjson.dumps({"error": error})) is empty
    assert not out_of_money(b"<html>")


def shaped(*pieces: bytes) -> list[dict[str, Any]]:
    """The chunks that a stream becomes."""
    shaper, reader = Shaper(), sse.EventReader()
    data = b"".join(shaper.feed(event) for event in reader.feed(b"".join(pieces))) + shaper.rest()
    lines = [line.removeprefix("data: ") for line in data.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chunk(finish: str | None = None, *, answer: int = 0, usage: Any = None, **delta: Any) -> bytes:
    choice = {"index": answer, "delta": delta, "finish_reason": finish}
    return openai_api.event({"id": "c", "model": "m", "choices": [choice], "usage": usage})


def call(index: int, **function: str) -> dict[str, Any]:
    return {
        "tool_calls": [{"index": index, "function": function} | ({"id": f"c{index}"} if "name" in function else {})]
    }


USAGE = openai_api.event({"id": "c", "model": "m", "choices": [], "usage": openai_api.USAGE})
DONE = b"data: [DONE]\n\n"


def test_text_passes_as_the_bytes_it_came_in() -> None:
    piece = b'data: {"choices" : [{"index":0, "delta":{"content":"x"},"finish_reason":null}],"usage":null}\n\n'
    assert Shaper().feed(sse.read_event(piece)) == piece
    assert Shaper().feed(sse.read_event(b": ping\n\n")) == b": ping\n\n"


def test_usage_joins_the_end_of_the_answer() -> None:
    chunks = shaped(chunk(content="a"), chunk("stop"), USAGE, DONE)
    assert len(chunks) == 2
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == openai_api.USAGE


def test_without_usage_the_end_of_the_answer_still_comes() -> None:
    assert shaped(chunk(content="a"), chunk("stop"), DONE)[-1]["choices"][0]["finish_reason"] == "stop"
    assert shaped(chunk(content="a"), chunk("stop"))[-1]["choices"][0]["finish_reason"] == "stop"


def test_usage_in_the_end_itself_stays_there() -> None:
    chunks = shaped(chunk(content="a"), chunk("stop", usage=openai_api.USAGE), DONE)
    assert chunks[-1]["usage"] == openai_api.USAGE


def test_usage_that_follows_no_end_of_an_answer_is_passed_on_with_no_choice() -> None:
    usage = openai_api.event({"id": "c", "model": "m", "usage": openai_api.USAGE})
    chunks = shaped(chunk(content="a"), usage, chunk("stop"), USAGE, USAGE, DONE)
    assert [bool(c["choices"]) for c in chunks] == [True, False, True, False]
    assert all(c["usage"] == openai_api.USAGE for c in chunks[1:])


@pytest.mark.parametrize("choice", [{"delta": None}, {}])
def test_an_end_without_a_delta_still_brings_the_tool_calls(choice: dict[str, Any]) -> None:
    end = openai_api.event(
        {"id": "c", "model": "m", "choices": [{"index": 0, "finish_reason": "tool_calls", **choice}]}
    )
    [last] = shaped(chunk(**call(0, name="a", arguments="{}")), end, DONE)[-1]["choices"]
    assert [c["function"]["name"] for c in last["delta"]["tool_calls"]] == ["a"]
    assert last["finish_reason"] == "tool_calls"


def test_several_answers_keep_their_order_and_the_last_one_carries_the_usage() -> None:
    chunks = shaped(
        chunk(content="a"), chunk("stop"), chunk(answer=1, content="b"), chunk("length", answer=1), USAGE, DONE
    )
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, "stop", None, "length"]
    assert [bool(c.get("usage")) for c in chunks] == [False, False, False, True]


def test_tool_calls_come_whole_with_the_end_of_the_answer() -> None:
    chunks = shaped(
        chunk(role="assistant", **call(0, name="a", arguments="")),
        chunk(**call(0, arguments='{"x"')),
        chunk(**call(1, name="b", arguments="{}")),
        chunk(**call(0, arguments=":1}")),
        chunk("tool_calls"),
        USAGE,
        DONE,
    )
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant"}
    last = chunks[-1]["choices"][0]
    assert [(c["id"], c["function"]) for c in last["delta"]["tool_calls"]] == [
        ("c0", {"name": "a", "arguments": '{"x":1}'}),
        ("c1", {"name": "b", "arguments": "{}"}),
    ]
    assert last["finish_reason"] == "tool_calls"
    assert len(chunks) == 2


def test_calls_without_an_index_are_whole_ones() -> None:
    parts = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in "ab"]
    chunks = shaped(chunk(tool_calls=parts[:1]), chunk("tool_calls", tool_calls=parts[1:]), DONE)
    assert [c["function"]["name"] for c in chunks[-1]["choices"][0]["delta"]["tool_calls"]] == ["a", "b"]


def test_what_is_kept_back_is_counted_and_comes_out_where_the_stream_breaks() -> None:
    shaper = Shaper()
    for piece in (chunk(**call(0, name="weather", arguments="")), chunk(**call(0, arguments='{"city": "Zü'))):
        assert shaper.feed(sse.read_event(piece)) == sse.COMMENT
    assert shaper.kept_bytes == len('weather{"city": "Zü'.encode())
    data = sse.read_event(shaper.rest()).data
    assert data is not None
    assert data["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Zü'
    assert shaper.kept_bytes == 0


def test_what_one_answer_has_passed_on_is_kept_back_no_longer_while_another_still_writes() -> None:
    shaper = Shaper()
    for answer in (0, 1):
        shaper.feed(sse.read_event(chunk(answer=answer, **call(0, name="find", arguments='{"a":1}'))))
    assert shaper.kept_bytes == 2 * len('find{"a":1}')
    # The end of an answer, with its call, waits for usage.
    shaper.feed(sse.read_event(chunk("tool_calls", answer=0)))
    assert (shaper.kept_bytes, shaper.waits) == (2 * len('find{"a":1}'), True)
    shaper.feed(sse.read_event(b": ping\n\n"))
    assert (shaper.kept_bytes, shaper.waits) == (len('find{"a":1}'), False)
    shaper.feed(sse.read_event(chunk("tool_calls", answer=1)))
    shaper.rest()
    assert shaper.kept_bytes == 0


@pytest.mark.parametrize(
    "calls",
    [
        [{"index": 0, "id": "x", "type": "custom", "custom": {"name": "f", "input": "1" * 50}}],
        "1" * 50,
        [5, {"index": 0, "function": "1" * 50}],
    ],
)
def test_a_call_of_another_kind_goes_on_as_it_is(calls: Any) -> None:
    data = {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}]}
    passed = sse.read_event(Shaper().feed(sse.read_event(sse.write_event(data))))
    assert passed.data is not None
    assert passed.data["choices"][0]["delta"]["tool_calls"] == calls


def test_beside_a_function_s_call_one_of_another_kind_goes_on() -> None:
    custom = {"index": 1, "id": "x", "type": "custom", "custom": {"input": "1"}}
    function = {"index": 0, "id": "y", "function": {"name": "f", "arguments": "{}"}}
    shaper = Shaper()
    data = {"choices": [{"index": 0, "delta": {"tool_calls": [function, custom]}, "finish_reason": None}]}
    passed = sse.read_event(shaper.feed(sse.read_event(sse.write_event(data))))
    assert passed.data is not None
    assert passed.data["choices"][0]["delta"]["tool_calls"] == [custom]
    assert b'"arguments":"{}"' in shaper.rest()


def test_an_error_in_the_stream_is_one() -> None:
    event = openai_api.event({"error": {"type": "server_error", "message": "secret"}})
    assert Shaper().feed(sse.read_event(event)) == event


@pytest.mark.parametrize("data", [{"choices": "x"}, {"choices": [1]}, {"choices": None}, {"id": "x"}])
def test_garbage_passes(data: dict[str, Any]) -> None:
    piece = openai_api.event(data)
    assert Shaper().feed(sse.read_event(piece)) == piece
