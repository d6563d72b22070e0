"""Streams: split anywhere, relayed as they came, counted, and ended early."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules.calls import Usage
from llm.rules import joined_events, sse
from llm.rules.usage import read_tokens
from tests.llm.rules.test_bounds import json_values


def delta(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": "i", "model": "m", "created": 7, "choices": [{"index": 0, "delta": {"content": content, **more}}]}


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:stop] for start, stop in pairwise(edges)]


def read(chunks: list[bytes]) -> tuple[list[sse.Event], bytes]:
    reader = sse.EventReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    last, rest = reader.rest()
    return [*events, *last], rest


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


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_however_many_empty_lines_end_one_event(end: bytes) -> None:
    ends, data = end * 50_000, b'data: {"a":1}'
    assert [event.raw for event in sse.EventReader().feed(ends + data + ends)] == [ends, data + ends]


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

    [event] = events
    assert (event.raw, event.data, event.done) == (raw, None, False)
    # All of it may be text.
    assert event.text_bytes == len(raw.strip().removeprefix(b": ping").removeprefix(b"data:").strip())


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
        # What comes unpacked counts by its names and values, and so does what nobody knows.
        (delta("", tool_calls=[{"function": {"name": "f", "arguments": {"a": 1}}}, "odd", {"function": None}]), 6),
        ({"choices": [{"delta": {"content": "ab"}}, {"delta": {"content": "c"}}]}, 3),
        ({"choices": [{"message": {"content": "plain"}}]}, 5),
        ({"choices": "odd"}, 3),
        ({"choices": ["odd", {"delta": "odd"}]}, 6),
        (delta("a", thoughts="bc"), 1 + 8 + 2),
        ({"choices": [{"text": "abc", "logprobs": {"content": [{"token": "abc"}]}}], "p": "padding", "more": "de"}, 5),
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
    assert events[0].finished == [0]
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


def test_answers_that_end_are_told_by_their_index() -> None:
    two = {"choices": [{"index": 1, "finish_reason": "stop"}, {"index": 0}, {"finish_reason": "length"}]}
    assert sse.read_event(sse.write_event(two)).finished == [1, 0]
    assert sse.read_event(sse.write_event(delta("x"))).finished == []
    assert sse.read_event(sse.DONE).finished == []


CHUNKS = [delta("a"), delta("b"), {**delta("c"), "usage": {"prompt_tokens": 1, "completion_tokens": 3}}]


def texts_of(events: list[sse.Event]) -> list[str]:
    return [choice["delta"]["content"] for event in events if event.data for choice in event.data["choices"]]


@given(cuts=st.lists(st.integers(0, 10_000), max_size=20), end=st.sampled_from([b"\n", b"\r\n"]), done=st.booleans())
def test_events_that_nothing_keeps_apart_are_events_all_the_same(cuts: list[int], end: bytes, done: bool) -> None:
    stream = b"".join(b"data: " + orjson.dumps(chunk) + end for chunk in CHUNKS) + b"data: [DONE]" * done
    events, rest = read(split(stream, cuts))

    assert texts_of(events) == ["a", "b", "c"]
    assert events[-1].done is done
    assert rest.strip() == b""
    # As clients expect them.
    assert all(event.raw.endswith(b"\n\n") for event in events)


def test_the_end_of_such_a_stream_is_seen_although_nothing_follows() -> None:
    reader = sse.EventReader()
    events = reader.feed(b"".join(b"data: " + orjson.dumps(chunk) + b"\n" for chunk in CHUNKS) + b"data: [DONE]\n")
    assert events[-1].done


def test_events_in_one_block_are_told_apart() -> None:
    block = b"".join(b"data: " + orjson.dumps(chunk) + b"\n" for chunk in CHUNKS) + b"data: [DONE]\n\n"
    assert texts_of(sse.read_events(block)) == ["a", "b", "c"]
    assert len(sse.read_events(b"data: {\ndata: x\n\n")) == 1


@given(cuts=st.lists(st.integers(0, 10_000), max_size=20), last_end=st.sampled_from([b"", b"\n"]))
def test_a_json_a_line_is_a_stream_of_events(cuts: list[int], last_end: bytes) -> None:
    stream = b"\n".join(orjson.dumps(chunk) for chunk in CHUNKS) + last_end
    events, rest = read(split(stream, cuts))

    assert texts_of(events) == ["a", "b", "c"]
    assert rest.strip() == b""


WHOLE = {
    "id": "i",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab", "tool_calls": [{"id": "1"}, {"id": "2"}]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
}


@pytest.mark.parametrize(
    "body",
    [
        orjson.dumps(WHOLE),
        orjson.dumps(WHOLE, option=orjson.OPT_INDENT_2),
        b"\xef\xbb\xbf " + orjson.dumps(WHOLE) + b"\n",
        b"data: " + orjson.dumps(WHOLE) + b"\n\n",
    ],
)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=10))
def test_a_whole_answer_is_one_chunk(body: bytes, cuts: list[int]) -> None:
    events, rest = read(split(body, cuts))

    [data] = [event.data for event in events if event.data]
    assert data["object"] == "chat.completion.chunk"
    assert data["choices"][0]["delta"]["content"] == "ab"
    assert [call["index"] for call in data["choices"][0]["delta"]["tool_calls"]] == [0, 1]
    assert data["usage"] == WHOLE["usage"]
    assert rest == b""
    assert sse.read_event(events[0].raw).data == data


def test_a_list_of_chunks_is_a_stream() -> None:
    assert texts_of(read([orjson.dumps(CHUNKS, option=orjson.OPT_INDENT_2)])[0]) == ["a", "b", "c"]


@pytest.mark.parametrize("cut", [b'{"choices": [', b'{"a": 1}\n{"b', b"[1, 2]", b"[]", b'data: {"a'])
def test_what_nobody_can_read_is_left_over(cut: bytes) -> None:
    reader = sse.EventReader()
    reader.feed(cut)
    assert reader.waiting
    events, rest = reader.rest()
    assert events == []
    assert cut.endswith(rest)
    assert rest != b""


def test_a_whole_message_beside_a_part_and_calls_that_are_none() -> None:
    mixed = {"choices": [{"message": {"tool_calls": ["odd"]}}, {"delta": {"content": "x"}}, {"message": "odd"}]}
    chunk = sse.as_chunk(mixed)
    assert [choice.get("delta") for choice in chunk["choices"]] == [{"tool_calls": ["odd"]}, {"content": "x"}, None]
    assert sse.as_chunk({"choices": [{"message": "odd"}]}) == {"choices": [{"message": "odd"}]}


def test_a_stream_that_nobody_asked_for_makes_one_answer() -> None:
    call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ":1}"}}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}
    chunks = [
        delta("a", role="assistant", note=[1]),
        delta("b", tool_calls=[call, "odd", {"function": {"name": "g", "arguments": {}}}], note=[2]),
        delta(None, tool_calls=[more, {"index": 0, "function": {"arguments": None}}]),
        {"choices": [{"delta": "odd"}]},
        end,
    ]
    answer = joined_events.whole_answer(b": hello\n\n" + b"".join(map(sse.write_event, chunks)) + sse.DONE)

    assert answer is not None
    [choice] = answer["choices"]
    assert (answer["object"], answer["model"], answer["usage"]) == ("chat.completion", "m", {"prompt_tokens": 1})
    assert (choice["message"]["content"], choice["finish_reason"], choice["message"]["note"]) == ("ab", "stop", [2])
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert len(choice["message"]["tool_calls"]) == 2


def test_what_is_no_stream_is_no_answer_of_one() -> None:
    assert joined_events.whole_answer(b'{"choices": []}') is None
    assert joined_events.whole_answer(b"data: nothing\n\n") is None
    assert joined_events.whole_answer(b'data: {"error": "x"}\n\n') == {"error": "x"}


@pytest.mark.parametrize(
    ("choice", "texts"),
    [
        ({"delta": {"content": "ab"}}, [((0, "content"), "ab")]),
        ({"index": 2, "message": {"content": "ab", "refusal": "c"}}, [((2, "content"), "ab"), ((2, "refusal"), "c")]),
        ({"index": [], "delta": {"reasoning": "r"}}, [((0, "reasoning"), "r")]),
        (
            {"delta": {"content": [{"type": "text", "text": "ab"}, {"text": 1}, "c", {"more": "d"}]}},
            [((0, "content"), "ab")],
        ),
        ({"delta": "ab"}, []),
        ({"delta": {"tool_calls": [{"function": {"arguments": "{}"}}], "nobody_knows": "x", "content": None}}, []),
        ({"text": "ab"}, []),
    ],
)
def test_plain_texts_of_an_answer(choice: dict[str, Any], texts: list[Any]) -> None:
    answer = {"choices": [choice], "content": "of nobody"}
    assert list(sse.answer_texts(answer)) == texts
    assert sum(len(text) for _, text in texts) <= sse.answer_bytes(answer)
    assert list(sse.answer_texts(None)) == []


@given(json_values)
def test_no_more_text_is_plain_than_counts(choice: Any) -> None:
    answer = {"choices": [choice, {"delta": choice}, {"message": {"content": choice, "reasoning": choice}}]}
    assert sum(len(text.encode()) for _, text in sse.answer_texts(answer)) <= sse.answer_bytes(answer)


def test_the_final_chunk_has_the_shape_that_every_client_understands() -> None:
    raw = sse.final_chunk(
        like=None,
        model="m",
        usage=Usage(input_tokens=3, output_tokens=4),
        cost_nanos=1_500,
        reason="budget_exhausted",
        request_id="req",
        created=9,
        indexes=(0, 2),
    )
    end = {"delta": {"content": ""}, "finish_reason": "length"}
    assert orjson.loads(raw.removeprefix(b"data: ")) == {
        "id": "req",
        "object": "chat.completion.chunk",
        "created": 9,
        "model": "m",
        "choices": [{"index": 0, **end}, {"index": 2, **end}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost_usd": "0.0000015"},
        "governor": {"stopped": "budget_exhausted"},
    }
    bare = sse.final_chunk(like={}, model="m", usage=Usage(), cost_nanos=0, reason="x")
    found = orjson.loads(bare.removeprefix(b"data: "))
    assert (found["id"], found["created"], [choice["index"] for choice in found["choices"]]) == ("", 0, [0])


def test_an_event_that_nobody_can_read_counts_whole_and_the_end_not_at_all() -> None:
    assert sse.read_event(b"data: hello\n\n").text_bytes == 5
    assert sse.read_event(b"data:  hel\ndata: lo\n\n").text_bytes == 6
    assert sse.read_event(b": ping\n\n").text_bytes == 0
    assert sse.read_event(sse.DONE).text_bytes == 0
    assert sse.read_event(b'data: [1, "ab"]\n\n').text_bytes == 9
    assert sse.read_event(sse.write_event(delta("abc"))).text_bytes == 3


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (None, 0),
        ([], 0),
        ("abc", 0),
        ({}, 0),
        ({"id": "xxx", "model": "mmm", "usage": {"a": "b"}}, 0),
        # Of a field that nobody knows the name may be the model's, too, within it.
        ({"output": "abc"}, 3),
        ({"output": {"text": "abc"}}, 3),
        ({"output": {"word": "abc"}}, 7),
        ({"choices": "abc"}, 3),
        ({"choices": {"text": "abc"}}, 3),
        ({"choices": [{"text": "abc"}, {"index": 1, "delta": {"content": "é"}}]}, 5),
        ({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": {"city": 12, "on": None}}}]}}]}, 8),
        ({"choices": ["abc"]}, 3),
        # What holds nothing is a server's form.
        ({"choices": [{"token_ids": [1, 2], "message": {"content": "abc", "annotations": [], "audio": None}}]}, 3),
        ({"choices": [{"content_filter_offsets": {"start_offset": 1}, "delta": {"mood": "", "word": {}}}]}, 0),
        ({"choices": [{"logprobs": {"content": "abc"}}]}, 0),
        ({"choices": [{"delta": {"content": "\ud800"}}]}, 3),
        ({"more": [True, 1.5]}, 7),
    ],
)
def test_every_byte_of_text_in_an_answer_counts(answer: Any, size: int) -> None:
    assert sse.answer_bytes(answer) == size


def test_a_body_that_begins_as_a_stream_does_is_one() -> None:
    event = sse.write_event(delta("a"))
    for start in (b"", b"\xef\xbb\xbf", b"\r\n\r\n", b": x\n\n", b"event: e\n", b"id: 1\n"):
        answer = joined_events.whole_answer(start + event)
        assert answer is not None
        assert answer["choices"][0]["message"] == {"role": "assistant", "content": "a"}
    for start in (b"x", b"dat", b"[", b"<"):
        assert joined_events.whole_answer(start + event) is None


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    assert sse.read_event(b'\xef\xbb\xbfdata: {"a":1}\n\n').data == {"a": 1}
    assert sse.read_event(b'data:{"a":1}\n\n').data == {"a": 1}
    assert sse.read_event(b'data: {"a":\ndata:1}\n\n').data == {"a": 1}


def test_the_parts_of_each_answer_come_together_by_their_index() -> None:
    def choice(text: str, **fields: Any) -> dict[str, Any]:
        return {"choices": [{"delta": {"content": text}} | fields]}

    first = {"id": "a", "object": "chat.completion.chunk", "model": "m"} | choice("b", index=1)
    chunks = [
        first,
        choice("a", index=0),
        choice("c", index=1, logprobs=None),
        choice("x", index="odd"),
        {"id": "other", "choices": [], "usage": {"prompt_tokens": 1}},
        choice("", index=1, finish_reason="stop"),
        {"error": {"message": "late"}},
        {"usage": {}, "error": None},
    ]
    answer = joined_events.whole_answer(b"".join(map(sse.write_event, chunks)))
    assert answer == {
        "id": "a",
        "object": "chat.completion",
        "model": "m",
        "usage": {"prompt_tokens": 1},
        "error": {"message": "late"},
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "ax"}},
            {"index": 1, "message": {"role": "assistant", "content": "bc"}, "finish_reason": "stop"},
        ],
    }


def test_the_parts_of_tool_calls_come_together_by_their_number() -> None:
    def calls(*parts: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": list(parts)}}]}

    chunks = [
        calls({"index": 0, "id": "a", "function": {"name": "f", "arguments": None}}, {"index": 1, "function": "odd"}),
        calls({"index": 0, "function": {"arguments": "{"}}, {"index": 1, "id": "b", "function": {"name": "g"}}),
        calls({"index": 1, "function": {"arguments": "[]"}}, {"index": 0, "function": {"arguments": "}"}}),
        # A name of its own is another call, whatever its number.
        calls({"index": 0, "id": "c", "function": {"name": "h", "arguments": "1"}}),
    ]
    answer = joined_events.whole_answer(b"".join(map(sse.write_event, chunks)))
    assert answer is not None
    found = answer["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]) for call in found] == [
        ("a", {"name": "f", "arguments": "{}"}),
        ("b", {"name": "g", "arguments": "[]"}),
        ("c", {"name": "h", "arguments": "1"}),
    ]


def test_what_waits_is_told_and_a_stream_that_ended_is_empty() -> None:
    reader = sse.EventReader()
    assert reader.waiting == b""
    reader.feed(b"data: {")
    assert len(reader.waiting) == 7
    assert reader.rest() == ([], b"data: {")
    assert (reader.waiting, reader.rest()) == (b"", ([], b""))


def test_a_comment_and_the_end_are_what_clients_know() -> None:
    assert (sse.DONE, sse.COMMENT) == (b"data: [DONE]\n\n", b":\n\n")
    assert sse.read_event(sse.DONE).done
    assert not sse.read_event(b"data: [DONE\n\n").done


def test_an_object_of_several_lines_waits_for_its_end_however_it_is_cut() -> None:
    reader = sse.EventReader()
    assert reader.feed(b'data: {"a":\ndata: ') == []
    assert reader.feed(b"[1,\ndata: 2]") == []
    assert [event.data for event in reader.feed(b'}\n\ndata: {"b":1}\n\n')] == [{"a": [1, 2]}, {"b": 1}]


def test_empty_lines_between_objects_are_none() -> None:
    assert [event.data for event in sse.EventReader().feed(b'{"a":1}\n\n\r\n{"b":2}\n')] == [{"a": 1}, {"b": 2}]


def test_a_text_in_the_place_of_a_message_breaks_nothing() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "message": "b"}]}
    joined = joined_events.whole_answer(2 * sse.write_event(chunk))
    assert joined is not None
    assert isinstance(joined["choices"][0]["message"], str | dict)
