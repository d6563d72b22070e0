"""Streams: split anywhere, relayed as they came, counted, and ended early."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules.calls import Usage
from llm.rules import sse
from llm.rules.usage import read_tokens


def delta(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": "i", "model": "m", "created": 7, "choices": [{"index": 0, "delta": {"content": content, **more}}]}


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:stop] for start, stop in pairwise(edges)]


def read(chunks: list[bytes]) -> tuple[list[sse.Event], bytes]:
    reader = sse.EventReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return events, reader.rest()


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    cuts=st.lists(st.integers(0, 10_000), max_size=40),
    space=st.sampled_from([b"", b" "]),
)
def test_events_are_the_same_wherever_the_stream_is_cut(
    texts: list[str], end: bytes, cuts: list[int], space: bytes
) -> None:
    lines = [orjson.dumps(delta(text)) for text in texts] + [b"[DONE]"]
    stream = b"".join(b"data:" + space + line + end + end for line in lines) + b": ping" + end + end + b"data: cut"
    events, rest = read(split(stream, cuts))

    assert b"".join(event.raw for event in events) + rest == stream
    found = [event.data["choices"][0]["delta"]["content"] for event in events if event.data]
    assert found == texts
    assert [event.done for event in events].count(True) == 1
    assert rest.endswith(b"data: cut")


def test_line_end_cut_in_two_stays_with_its_event() -> None:
    reader = sse.EventReader()

    assert reader.feed(b'data: {"a":1}\r\n\r') == []
    assert [event.raw for event in reader.feed(b"\ndata: [DO")] == [b'data: {"a":1}\r\n\r\n']


def test_event_of_several_data_lines_is_one_object() -> None:
    events, rest = read([b'event: x\ndata: {"a":\ndata: 1}\nid: 4\n\n'])

    assert [event.data for event in events] == [{"a": 1}]
    assert rest == b""


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_object_may_begin_on_the_first_line_and_go_on_below(end: bytes) -> None:
    assert sse.read_event(end.join([b'data: {"a":', b'data: "x: y"}', b"id: 4", b"", b""])).data == {"a": "x: y"}


@pytest.mark.parametrize(
    "raw", [b": ping\n\n", b"data: {broken\n\n", b"data: [1]\n\n", b"data:\n\n", b"\n\n", b"data: 5\n\n"]
)
def test_what_holds_no_object_is_relayed_without_data(raw: bytes) -> None:
    events, _ = read([raw])

    assert [(event.raw, event.data, event.done, event.text_bytes) for event in events] == [(raw, None, False, 0)]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        (delta("héllo"), 6),
        (delta(None), 0),
        (
            delta(
                [{"type": "text", "text": "ab"}, {"type": "thinking", "thinking": [{"type": "text", "text": "cde"}]}]
            ),
            5,
        ),
        (delta("", reasoning_content="think"), 5),
        (delta("", tool_calls=[{"index": 0, "function": {"name": "find", "arguments": '{"a":1}'}}]), 11),
        (delta("", tool_calls=[{"function": {"name": "f", "arguments": {"a": 1}}}, "odd", {"function": None}]), 8),
        ({"choices": [{"delta": {"content": "ab"}}, {"delta": {"content": "c"}}]}, 3),
        ({"choices": [{"message": {"content": "plain"}}]}, 5),
        ({"choices": "odd"}, 0),
        ({"choices": ["odd", {"delta": "odd"}]}, 0),
        ({}, 0),
    ],
)
def test_written_bytes_count_text_reasoning_and_tool_calls(fields: dict[str, Any], size: int) -> None:
    assert sse.read_event(sse.write_event(fields)).text_bytes == size
    assert sse.answer_bytes(fields) == size


def test_cost_is_added_to_the_usage_and_nothing_else_changes() -> None:
    chunk = {**delta("x"), "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    event = sse.read_event(sse.write_event(chunk))
    again = sse.read_event(sse.with_cost(event, cost_nanos=12_345))

    assert again.data == {**chunk, "usage": {**chunk["usage"], "cost_usd": "0.000012345"}}
    plain = sse.read_event(sse.write_event(delta("x")))
    assert sse.with_cost(plain, cost_nanos=5) is plain.raw


def test_stopped_stream_ends_as_if_its_length_had_run_out() -> None:
    usage = Usage(input_tokens=5, output_tokens=7)
    raw = sse.final_chunk(like=delta("x"), model="asked", usage=usage, cost_nanos=1_000, reason="budget_exhausted")
    events, rest = read([raw + sse.DONE])

    assert rest == b""
    assert events[0].finish_reason == "length"
    assert events[1].done
    data = events[0].data
    assert data is not None
    assert (data["id"], data["model"], data["created"]) == ("i", "m", 7)
    assert data["usage"]["cost_usd"] == "0.000001"
    assert data["governor"] == {"stopped": "budget_exhausted"}
    assert read_tokens(data) == Usage("mistral", "m", 5, 0, 7, units=12)


def test_final_chunk_before_the_first_one_stands_alone() -> None:
    raw = sse.final_chunk(
        like=None, model="asked", usage=Usage(), cost_nanos=0, reason="r", request_id="q", created=3, indexes=(0, 1)
    )
    data = sse.read_event(raw).data

    assert data is not None
    assert (data["id"], data["model"], data["created"]) == ("q", "asked", 3)
    assert [choice["index"] for choice in data["choices"]] == [0, 1]


def test_finish_reason_is_read() -> None:
    assert sse.read_event(sse.write_event({"choices": [{"finish_reason": "stop"}]})).finish_reason == "stop"
    assert sse.read_event(sse.write_event(delta("x"))).finish_reason is None
    assert sse.read_event(sse.DONE).finish_reason is None
