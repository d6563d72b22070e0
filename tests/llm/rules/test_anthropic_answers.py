"""Answers, streams and refusals of Anthropic's Messages API as chat completions."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from llm.rules import anthropic_answers, sse
from llm.rules.usage import read_tokens
from tests.fakes import anthropic_api

MODEL = "claude-sonnet-4-5-20250929"


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


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
    found = anthropic_answers.usage(counted)
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
    found = anthropic_answers.usage(counted)

    assert {name: value for name, value in found.items() if name != "prompt_tokens_details"} == said
    assert read_tokens({"usage": found}) is None


def test_a_stream_never_counts_fewer_tokens_than_it_did() -> None:
    translator = anthropic_answers.Translator(created=1)
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
        "model": MODEL,
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
    assert anthropic_answers.answer(message, created=7) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 7,
        "model": MODEL,
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
    answer = anthropic_answers.answer({"stop_reason": reason, "content": []}, created=0)
    assert answer["choices"][0]["finish_reason"] == finish


def chunks_of(*pieces: bytes) -> list[dict[str, Any]]:
    translator, reader = anthropic_answers.Translator(created=7), sse.EventReader()
    events = [chunk for event in reader.feed(b"".join(pieces)) for chunk in translator.feed(event)]
    assert events[-1].done
    return [event.data for event in events if event.data is not None]


def test_a_stream() -> None:
    message = {
        "id": "msg_1",
        "model": MODEL,
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
    assert {(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks} == {("msg_1", MODEL, 7)}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"][0]["finish_reason"]] == [
        "tool_calls"
    ]
    assert chunks[-1]["usage"]["prompt_tokens"] == 40
    assert chunks[-1]["usage"]["completion_tokens"] == 12


def called(*blocks: tuple[Any, list[str]], stops: bool = True) -> list[str]:
    """What tools are called with by a stream of blocks, each with its beginning and the parts that follow."""
    event, events = anthropic_api.event, []
    for index, (input, parts) in enumerate(blocks):
        block = {"type": "tool_use", "id": f"t{index}", "name": "a", "input": input}
        events.append(event("content_block_start", index=index, content_block=block))
        for part in parts:
            delta = {"type": "input_json_delta", "partial_json": part}
            events.append(event("content_block_delta", index=index, delta=delta))
        events += [event("content_block_stop", index=index)] if stops else []
    ended = [event("message_delta", delta={"stop_reason": "tool_use"}), event("message_stop")]
    chunks = chunks_of(event("message_start", message={"id": "m", "model": MODEL}), *events, *ended)
    said = dict.fromkeys(range(len(blocks)), "")
    for chunk in chunks:
        for part in chunk["choices"][0]["delta"].get("tool_calls", ()):
            said[part["index"]] += part["function"]["arguments"]
    return list(said.values())


@pytest.mark.parametrize("stops", [True, False])
def test_a_tool_that_is_called_with_nothing_is_called_with_an_empty_object(stops: bool) -> None:
    assert called(({}, [""]), ({}, []), (None, []), stops=stops) == ["{}"] * 3
    # What its block began with is not lost, nor said twice.
    assert called(({"a": 1}, []), ({"a": 1}, ['{"a"', ":2}"]), stops=stops) == ['{"a":1}', '{"a":2}']


def test_who_calls_a_tool_and_does_not_say_why_it_ended_ended_for_that() -> None:
    block = {"type": "tool_use", "id": "t", "name": "a", "input": {}}
    whole = anthropic_answers.answer({"content": [block], "stop_reason": None}, created=1)
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    event = anthropic_api.event
    chunks = chunks_of(
        event("message_start", message={"id": "m", "model": MODEL}),
        # Without a number, which some leave out where there is one alone.
        event("content_block_start", content_block=block),
        event("content_block_delta", delta={"type": "input_json_delta", "partial_json": '{"a":1}'}),
        event("content_block_stop"),
        event("message_stop"),
    )
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    parts = [part for chunk in chunks for part in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert "".join(part["function"]["arguments"] for part in parts) == '{"a":1}'


@pytest.mark.parametrize("reason", [None, "end_turn"])
def test_a_stream_that_is_over_ends_once_whether_or_not_it_says_why(reason: str | None) -> None:
    event = anthropic_api.event
    chunks = chunks_of(
        event("message_start", message={"id": "m", "model": MODEL, "usage": {"input_tokens": 3, "output_tokens": 1}}),
        event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 8}),
        event("message_stop"),
    )
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert chunks[-1]["usage"]["completion_tokens"] == 8


def test_the_last_count_of_a_stream_counts() -> None:
    event = anthropic_api.event
    chunks = chunks_of(
        event("message_start", message={"id": "m", "model": MODEL, "usage": {"input_tokens": 3, "output_tokens": 1}}),
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
    [chunk] = anthropic_answers.Translator(created=0).feed(event)
    assert chunk.data is not None
    assert chunk.data["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    assert "usage" not in chunk.data


@pytest.mark.parametrize(
    ("counted", "told"),
    [
        ({"input_tokens": 9, "output_tokens": 4}, {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}),
        # Its likes may count in another way.
        ({"total_tokens": 13}, {"total_tokens": 13}),
    ],
)
def test_an_error_in_the_stream_keeps_what_shows_work(counted: dict[str, int], told: dict[str, int]) -> None:
    error = {"type": "api_error", "partial_output": "abc"}
    event = sse.Event(b"", {"type": "error", "error": error, "usage": counted, "output": "d"})
    [chunk] = anthropic_answers.Translator(created=0).feed(event)
    assert chunk.data is not None
    assert (chunk.data["error"], chunk.data["output"]) == (error, "d")
    assert told.items() <= chunk.data["usage"].items()


def test_a_refusal_speaks_to_both_kinds_of_clients() -> None:
    body = {"type": "error", "error": {"type": "not_found_error", "message": "model: nope"}, "request_id": "r"}
    found = anthropic_answers.refusal(orjson.dumps(body))
    assert found["message"] == found["error"]["message"] == "model: nope"
    assert found["error"]["type"] == "not_found_error"
    # As Mistral's own errors say of themselves.
    assert found["object"] == "error"
    assert anthropic_answers.refusal(b"<html>")["error"]["message"]


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
    assert anthropic_answers.out_of_money(status, headers, body) is empty


def test_a_stream_says_at_any_time_what_it_has_counted_so_far() -> None:
    translator = anthropic_answers.Translator(created=1)
    assert translator.used == {}
    counted = {"input_tokens": 9, "output_tokens": 1}
    start = {"type": "message_start", "message": {"id": "m", "model": "c", "usage": counted}}
    translator.feed(sse.Event(b"", start))
    assert translator.used == {"model": "c", "usage": anthropic_answers.usage(counted)}
