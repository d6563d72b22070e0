"""Requests for OpenAI and its likes, and their streams in Mistral's shape."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from llm.rules import client_requests, openai_dialect, sse
from llm.rules.openai_dialect import Shaper, out_of_money, request_body
from llm.rules.request_checks import DialectError
from tests.fakes import openai_api

HI = [{"role": "user", "content": "Hi"}]
TOOLS = [{"function": {"name": name, "parameters": {}}} for name in ("a", "b")]


def translated(*, native: bool = True, disabled: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    request = client_requests.parse(orjson.dumps({"model": "asked", "messages": HI, **fields}))
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
        # Without a word it would be what the project's settings say.
        ({}, {"service_tier": "default"}),
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
        request = client_requests.parse(orjson.dumps({"model": "asked", "messages": HI, **fields}))
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
    with pytest.raises(DialectError):
        translated(messages=[*HI, {"role": "assistant", "content": "Sure", "prefix": True}])


def test_tools_that_are_taken_away_do_not_go_along() -> None:
    assert [tool["function"]["name"] for tool in translated(tools=TOOLS, disabled=("a",))["tools"]] == ["b"]
    body = translated(tools=TOOLS, tool_choice="auto", parallel_tool_calls=True, disabled=("a", "b"))
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)


@pytest.mark.parametrize("kind", ["fim", "ocr"])
def test_what_openai_has_no_call_for_is_refused(kind: str) -> None:
    body = {"model": "m", "prompt": "x", "document": {"type": "document_url", "document_url": "https://example.com"}}
    request = client_requests.parse_other(orjson.dumps(body), kind=kind)
    with pytest.raises(DialectError):
        request_body(request, model="m", max_tokens=None, disabled_tools=(), native=True)


@pytest.mark.parametrize(
    ("found", "is_refused"),
    [
        ([{"role": "user", "content": "x"}], True),
        ([[{"role": "user", "content": "x"}]], True),
        (["x"], False),
        ("x", False),
        ([{"type": "text", "text": "x"}], False),
    ],
)
def test_conversations_are_not_sent_to_be_judged(found: Any, is_refused: bool) -> None:
    request = client_requests.parse_other(orjson.dumps({"model": "m", "input": found}), kind="moderation")
    if is_refused:
        with pytest.raises(DialectError, match="has no such call"):
            request_body(request, model="m", max_tokens=None, disabled_tools=(), native=True)
        return
    assert orjson.loads(request_body(request, model="m", max_tokens=None, disabled_tools=(), native=True))["input"]


def test_embeddings_keep_their_dimensions() -> None:
    body = {"model": "asked", "input": ["a"], "output_dimension": 256}
    request = client_requests.parse_other(orjson.dumps(body), kind="embedding")
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
    request = client_requests.parse_other(orjson.dumps({"model": "asked", "input": "a", **fields}), kind="embedding")
    sent = orjson.loads(request_body(request, model="served", max_tokens=None, disabled_tools=(), native=True))
    assert sent == {"model": "served", "input": "a", **expected}


def test_embeddings_of_another_type_than_float_cannot_be_asked_for() -> None:
    body = {"model": "asked", "input": "a", "output_dtype": "int8"}
    request = client_requests.parse_other(orjson.dumps(body), kind="embedding")
    with pytest.raises(DialectError) as refused:
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


UNSUPPORTED = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."


@pytest.mark.parametrize(
    "refusal",
    [
        {"error": {"message": UNSUPPORTED, "param": "max_tokens", "code": "unsupported_parameter"}},
        {"message": UNSUPPORTED},
        {"error": UNSUPPORTED},
        {"error": {"message": "Unrecognized request argument supplied: max_tokens"}},
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}
            ]
        },
    ],
)
def test_a_refusal_of_the_older_name_brings_the_newer_one(refusal: dict[str, Any]) -> None:
    body = orjson.dumps({"model": "m", "max_tokens": 5, "messages": HI})
    renamed = openai_dialect.renamed_length(body, orjson.dumps(refusal))
    assert renamed is not None
    assert orjson.loads(renamed) == {"model": "m", "max_completion_tokens": 5, "messages": HI}
    # Once is enough.
    assert openai_dialect.renamed_length(renamed, orjson.dumps(refusal)) is None


@pytest.mark.parametrize("words", ["What is max_completion_tokens?", "Is max_tokens an UNKNOWN parameter?"])
@pytest.mark.parametrize(
    "refusal",
    [
        {"detail": [{"loc": ["body"], "msg": "bad request", "input": "{quoted}"}]},
        {"error": {"message": "max_tokens is too large. You wrote: {quoted}"}},
        {"error": {"message": "Too large.", "body": "{quoted}"}},
    ],
)
def test_no_word_of_a_prompt_takes_the_bound_from_a_model(words: str, refusal: dict[str, Any]) -> None:
    """Old servers pass over the newer name, so whoever could bring it would unbind everybody's answers."""
    body = orjson.dumps({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": words}]})
    said = orjson.dumps(refusal).replace(b"{quoted}", words.encode())
    assert openai_dialect.renamed_length(body, said) is None


@pytest.mark.parametrize("refusal", [b"Use max_completion_tokens", b"{", b"[" * 200 + b"]" * 200, b'{"error": 5}'])
def test_what_no_api_wrote_renames_nothing(refusal: bytes) -> None:
    assert openai_dialect.renamed_length(orjson.dumps({"max_tokens": 5, "messages": HI}), refusal) is None


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


@pytest.mark.parametrize(
    "field",
    """safe_prompt prompt_mode random_seed min_tokens repetition_penalty prompt_logprobs top_prompt_logprobs top_k
    guardrails prediction""".split(),  # noqa: SIM905
)
def test_what_mistral_alone_knows_goes_nowhere_else(field: str) -> None:
    raw = {"model": "m", "messages": HI, field: 1}
    request = client_requests.Request(kind="chat", model="m", body=orjson.dumps(raw), payload=raw)
    for native in (True, False):
        assert field not in openai_dialect.shape(request, model="m", native=native)


@pytest.mark.parametrize("field", ["tools", "tool_choice", "response_format", "parallel_tool_calls", "stop", "stream"])
def test_a_field_of_nothing_is_none(field: str) -> None:
    raw = {"model": "m", "messages": HI, field: None}
    request = client_requests.Request(kind="chat", model="m", body=orjson.dumps(raw), payload=raw)
    assert field not in openai_dialect.shape(request, model="m", native=True)


@pytest.mark.parametrize(
    ("answer", "empty"),
    [
        (b"no JSON", False),
        (b"[]", False),
        (b'"insufficient_quota"', False),
        (b'{"error": "insufficient_quota"}', False),
        (b'{"code": "insufficient_quota"}', False),
        (b'{"error": {"code": 7, "type": ["insufficient_quota"]}}', False),
        (b'{"error": {"code": "insufficient_quota"}}', True),
        (b'{"error": {"type": "insufficient_quota"}}', True),
        (b'{"error": {"code": "billing_hard_limit_reached"}}', True),
        (b'{"error": {"code": "billing_not_active"}}', True),
        (b'{"error": {"code": "rate_limit_exceeded"}}', False),
    ],
)
def test_whether_a_refusal_is_about_our_money(answer: bytes, empty: bool) -> None:
    assert out_of_money(answer) is empty


def message(**fields: Any) -> dict[str, Any]:
    """A message as another endpoint than OpenAI's own gets it."""
    found: dict[str, Any] = translated(native=False, messages=[*HI, fields])["messages"][1]
    return found


def test_thoughts_stay_behind_and_a_message_of_them_alone_is_empty() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    call = {"id": "123456789", "function": {"name": "f", "arguments": {"a": 1}}}
    whole = {"id": "123456789", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert message(role="assistant", content=[thought, {"type": "text", "text": "a"}]) == {
        "role": "assistant",
        "content": [{"type": "text", "text": "a"}],
    }
    assert message(role="assistant", content=[thought]) == {"role": "assistant", "content": ""}
    assert message(role="assistant", content=[thought], tool_calls=[call]) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [whole],
    }
    assert message(role="assistant", content="a", tool_calls=[]) == {"role": "assistant", "content": "a"}
    bare = {"id": "123456789", "function": {"name": "f"}}
    [sent] = message(role="assistant", content="", tool_calls=[bare])["tool_calls"]
    assert sent["function"] == {"name": "f", "arguments": ""}


def read(*chunks: dict[str, Any], shaper: Shaper | None = None) -> list[Any]:
    """What comes out for chunks, an element a chunk: the JSON of each event, or its bytes where it has none."""
    shaper = shaper or Shaper()
    found = []
    for chunk in chunks:
        out = shaper.feed(sse.read_event(sse.write_event(chunk)))
        events = [part for part in out.split(b"\n\n") if part]
        found.append([orjson.loads(event[6:]) if event.startswith(b"data: {") else event for event in events])
    return found


def calling(*parts: Any, index: int = 0, end: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"tool_calls": list(parts)}, "finish_reason": end}
    return {"id": "i", "choices": [choice], **fields}


def part(arguments: Any = None, **fields: Any) -> dict[str, Any]:
    name = fields.pop("name", None)
    return {"function": {"name": name, "arguments": arguments}, **fields}


def calls_of(found: list[Any]) -> list[tuple[str, str, str, int]]:
    calls = found[-1][-1]["choices"][0]["delta"]["tool_calls"]
    assert {call["type"] for call in calls} == {"function"}
    return [(call["id"], call["function"]["name"], call["function"]["arguments"], call["index"]) for call in calls]


def test_calls_are_put_together_by_their_number_and_their_id() -> None:
    usage = {"usage": {"total_tokens": 3}}
    by_number = read(
        calling(part("{", index=1, id="b", name="g")),
        calling(part("", index=0, id="a", name="f"), part("}", index=1)),
        calling(part("[]", index=0), end="tool_calls", **usage),
    )
    assert calls_of(by_number) == [("a", "f", "[]", 0), ("b", "g", "{}", 1)]
    # Endpoints that number all calls alike tell them apart by their ids, and parts without one go to the latest.
    alike = read(
        calling(part("1", index=0, id="a", name="f")),
        calling(part("2", index=0, id="b", name="g")),
        calling(part("3", index=0)),
        calling(part("4", index=0, id="b"), end="tool_calls", **usage),
    )
    assert calls_of(alike)[0][:3] == ("a", "f", "1")
    assert "".join(call[2] for call in calls_of(alike)) == "1234"
    unnumbered = read(
        calling(part("1", id="a", name="f")),
        calling(part("2")),
        calling(part("3", id="b", name="g"), end="tool_calls", **usage),
    )
    assert calls_of(unnumbered) == [("a", "f", "12", 0), ("b", "g", "3", 1)]
    nameless = read(calling(part("1")), calling(part("2", name="f"), end="tool_calls", **usage))
    assert calls_of(nameless) == [("", "f", "12", 0)]


def test_what_is_kept_back_counts_its_names_and_arguments() -> None:
    shaper = Shaper()
    assert (shaper.kept_bytes, shaper.waits) == (0, False)
    read(calling(part("é", index=0, id="a", name="ff")), shaper=shaper)
    assert (shaper.kept_bytes, shaper.waits) == (4, False)
    read(calling(part("xy", index=0), index=1), shaper=shaper)
    assert shaper.kept_bytes == 6
    read(calling(end="tool_calls"), shaper=shaper)
    # The first answer's end waits for its usage, with its call of four bytes.
    assert (shaper.kept_bytes >= 6, shaper.waits) == (True, True)
    out = shaper.rest()
    assert out.count(b"data: ") == 2
    assert (shaper.kept_bytes, shaper.waits) == (0, False)


def test_a_chunk_of_parts_alone_shows_that_the_model_is_at_work() -> None:
    assert read(calling(part("{", index=0))) == [[b":"]]
    said = {"id": "i", "choices": [{"index": 0, "delta": {"content": "a", "tool_calls": [part("{", index=0)]}}]}
    assert read(said) == [[{"id": "i", "choices": [{"index": 0, "delta": {"content": "a"}}]}]]


def test_an_end_with_its_usage_goes_at_once_and_one_without_waits() -> None:
    end = {"id": "i", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"usage": {"total_tokens": 3}}
    assert read({**end, **usage}) == [[{**end, **usage}]]
    assert read(end, {"id": "i", "choices": [], **usage}) == [[], [{**end, **usage}]]
    assert read({"id": "i", "choices": [], **usage}) == [[{"id": "i", "choices": [], **usage}]]
    assert read(end, {"id": "j", "choices": []}, {"error": {"message": "x"}}) == [
        [],
        [{"id": "j", "choices": []}],
        [end, {"error": {"message": "x"}}],
    ]


def test_parts_without_an_id_go_to_the_last_call_of_their_number() -> None:
    shaper = Shaper()
    for id, arguments in (("a", "1"), ("b", "2"), (None, "3")):
        part = {"index": 0, "id": id, "function": {"name": "f" if id else None, "arguments": arguments}}
        data = {"choices": [{"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None}]}
        shaper.feed(sse.read_event(sse.write_event(data)))
    data = sse.read_event(shaper.rest()).data
    assert data is not None
    calls = data["choices"][0]["delta"]["tool_calls"]
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == [("a", "1"), ("b", "23")]


def test_an_end_that_is_kept_back_says_what_was_used() -> None:
    shaper = Shaper()
    assert shaper.used == {}
    shaper.feed(sse.read_event(chunk("stop", answer=0)))
    assert shaper.waits
    assert shaper.used["choices"][0]["finish_reason"] == "stop"
