"""What clients read is read, and what is read can be written again; nothing that an upstream writes raises."""

from __future__ import annotations

import base64
import json
import math
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules.calls import Usage
from llm.rules import answers, sse

OWN: dict[str, Any] = {"kind": "chat.completion", "id": "r", "model": "m", "created": 7}


def test_what_an_answer_lacks_is_put_in_and_what_it_has_stays() -> None:
    lacking: dict[str, Any] = {"id": None, "created": "now", "choices": []}
    assert answers.complete(lacking, **OWN)
    assert lacking == {"id": "r", "created": 7, "model": "m", "object": "chat.completion", "choices": []}
    whole = {"id": "c", "created": 1, "model": "x", "object": "chat.completion.chunk", "choices": []}
    before = dict(whole)
    assert not answers.complete(whole, **OWN)
    assert whole == before


@pytest.mark.parametrize("kind", [answers.WHOLE, answers.CHUNK])
def test_what_its_choices_lack_is_put_in_too(kind: str) -> None:
    name = "message" if kind == answers.WHOLE else "delta"
    said = {"role": "assistant", "content": "Hi", "tool_calls": None}
    whole = {"id": "c", "created": 1, "model": "x", "object": kind}
    given: list[Any] = [{name: said}, {"index": 5, name: None, "finish_reason": None}, None, "odd"]
    answer = {**whole, "choices": given}
    assert answers.complete(answer, **OWN | {"kind": kind})
    if kind == answers.CHUNK:
        ends: list[Any] = [
            {"delta": said, "index": 0, "finish_reason": None},
            {"index": 5, "delta": {"content": ""}, "finish_reason": None},
        ]
    else:
        ends = [
            {"index": 0, "message": said, "finish_reason": "stop"},
            {"index": 5, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"},
        ]
    assert answer == {**whole, "choices": ends}
    assert not answers.complete(answer, **OWN | {"kind": kind})


@pytest.mark.parametrize("kind", [answers.WHOLE, answers.CHUNK])
@pytest.mark.parametrize(("said", "left"), [([], {}), ("x", {}), (None, {"logprobs": None}), ({}, {"logprobs": {}})])
def test_probabilities_that_are_none_are_left_out(kind: str, said: Any, left: dict[str, Any]) -> None:
    name = "message" if kind == answers.WHOLE else "delta"
    whole = {"id": "c", "created": 1, "model": "x", "object": kind}
    choice = {"index": 0, name: {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    answer = {**whole, "choices": [{**choice, "logprobs": said}]}
    assert answers.complete(answer, **OWN | {"kind": kind}) is not bool(left)
    assert answer["choices"] == [{**choice, **left}]


def test_a_part_says_its_role_or_none() -> None:
    whole = {"id": "c", "created": 1, "model": "x", "object": answers.CHUNK}
    parts: list[Any] = [{"content": "Hi"}, {"role": None}, {"role": "assistant"}, {"role": "model"}]
    given = [{"index": at, "delta": dict(part), "finish_reason": None} for at, part in enumerate(parts)]
    chunk: dict[str, Any] = {**whole, "choices": given}
    assert answers.complete(chunk, **OWN | {"kind": answers.CHUNK})
    assert [choice["delta"] for choice in chunk["choices"]] == [*parts[:3], {"role": "assistant"}]
    assert not answers.complete(chunk, **OWN | {"kind": answers.CHUNK})


@pytest.mark.parametrize(("end", "said"), [("length", "length"), (None, None), (0, None), (1, "stop"), ("", "")])
def test_an_end_is_a_word_or_none(end: Any, said: str | None) -> None:
    chunk: dict[str, Any] = {"choices": [{"delta": {}, "finish_reason": end}]}
    assert answers.complete(chunk, **OWN | {"kind": answers.CHUNK})
    assert chunk["choices"][0]["finish_reason"] == said


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"message": "a"}, "a"),
        ({"message": "a", "text": "b"}, "a"),
        ({"delta": {"content": "a"}, "text": "b"}, "a"),
        ({"delta": "a", "text": "b"}, "a"),
        ({"message": 5, "text": "b"}, "b"),
        ({"message": {"content": 5}}, "5"),
        ({"message": {"content": {"a": [1]}}}, '{"a":[1]}'),
        ({"message": {"content": [{"type": "text", "text": "a"}]}}, [{"type": "text", "text": "a"}]),
        ({}, ""),
    ],
)
def test_a_message_is_taken_from_where_it_is_said(choice: dict[str, Any], text: Any) -> None:
    answer: dict[str, Any] = {"choices": [choice]}
    assert answers.complete(answer, **OWN)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": text}


def test_a_calls_id_is_made_of_the_answers_and_the_choices() -> None:
    def made(id: str, index: int) -> str:
        said = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
        answer: dict[str, Any] = {"choices": [{"index": index, "message": said}]}
        assert answers.complete(answer, **OWN | {"id": id})
        return str(answer["choices"][0]["message"]["tool_calls"][0]["id"])

    assert len({made("r", 0), made("r", 1), made("s", 0)}) == 3


COUNTS = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (COUNTS | {"more": 1}, COUNTS | {"more": 1}),
        (COUNTS | {"total_tokens": 9.0, "more": 1}, COUNTS | {"more": 1}),
        (COUNTS | {"prompt_tokens": True}, COUNTS),
        ({}, COUNTS),
        ([3, 4], COUNTS),
    ],
)
def test_a_usage_is_counts(said: Any, told: Any) -> None:
    used = Usage(input_tokens=3, output_tokens=4)
    for kind in (answers.WHOLE, answers.CHUNK):
        answer: dict[str, Any] = {"choices": [], "usage": said}
        assert answers.complete_usage(answer, used, kind=kind) == (told != said)
        assert answer["usage"] == told
        assert not answers.complete_usage(answer, used, kind=kind)


def test_what_says_no_usage_gets_what_is_charged_where_it_is_whole_and_none_where_nobody_could_read_it() -> None:
    used = Usage(input_tokens=3, output_tokens=4)
    whole: dict[str, Any] = {"choices": [], "usage": None}
    assert answers.complete_usage(whole, used, kind=answers.WHOLE)
    assert whole["usage"] == COUNTS
    assert not answers.complete_usage({"choices": [], "usage": None}, used, kind=answers.CHUNK)
    chunk = {"choices": [], "usage": [1]}
    assert answers.complete_usage(chunk, None, kind=answers.CHUNK)
    assert chunk == {"choices": []}


def test_a_choice_that_calls_tools_ended_for_that() -> None:
    said = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    answer: dict[str, Any] = {"choices": [{"message": said}]}
    assert answers.complete(answer, **OWN)
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ({"data": []}, {"data": [], "id": "r", "object": "list", "model": "m"}),
        ({"data": [], "id": None, "object": "x"}, {"data": [], "id": "r", "object": "x", "model": "m"}),
        ({"results": [], "model": "x"}, {"results": [], "id": "r", "model": "x"}),
    ],
)
def test_embeddings_and_moderations_are_named(answer: dict[str, Any], whole: dict[str, Any]) -> None:
    assert answers.complete(answer, **OWN)
    assert answer == whole
    assert not answers.complete(answer, **OWN)


@pytest.mark.parametrize(
    ("answer", "items"),
    [
        (
            {
                "data": [
                    {"embedding": "AAAA"},
                    None,
                    "x",
                    {"embedding": 1.5, "index": None},
                    {"object": "o", "index": 9},
                ]
            },
            [
                {"object": "embedding", "index": 0, "embedding": "AAAA"},
                *({"object": "embedding", "index": index, "embedding": []} for index in (1, 2, 3)),
                {"object": "o", "index": 9, "embedding": []},
            ],
        ),
        ({"results": [None, {"flagged": True}]}, [{}, {"flagged": True}]),
        (
            {"results": [{"categories": {"a": None, "b": True}, "category_scores": {"a": None, "b": 0.5}}]},
            [{"categories": {"b": True}, "category_scores": {"b": 0.5}}],
        ),
    ],
)
def test_what_is_no_vector_or_judgement_stays_where_it_is_and_says_nothing(answer: Any, items: list[Any]) -> None:
    answer |= {"id": "e", "object": "list", "model": "m"}
    assert answers.complete(answer, **OWN)
    assert answer.get("data", answer.get("results")) == items
    assert not answers.complete(answer, **OWN)


@pytest.mark.parametrize(
    ("data", "anew"),
    [
        (b'{"a": 1,  "b": [null]}', b'{"a": 1,  "b": [null]}'),
        (
            b'{"usage": {"prompt_tokens": 1, "prompt_tokens": 2}}',
            b'{"usage": {"prompt_tokens": 1, "prompt_tokens": 2}}',
        ),
        (b'{"a": [NaN, -Infinity, 1.50]}', b'{"a":[null,null,1.5]}'),
        (b'\xef\xbb\xbf{"a": 1}', b'{"a":1}'),
    ],
)
def test_what_is_no_json_is_written_anew_and_nothing_else_is(data: bytes, anew: bytes) -> None:
    assert answers.as_json(data, answers.read_json(data), has_all=True) == anew
    event = b"data: " + data + b"\n\n"
    assert sse.read_event(event).raw == (event if anew == data else b"data: " + anew + b"\n\n")


def test_vectors_are_written_anew_with_all_their_numbers() -> None:
    vector = [0.25] * 40
    data = orjson.dumps({"data": [{"embedding": vector}, None], "x": 1})
    said = answers.read_json(answers.without_vectors(data))
    assert said["data"][0] == {"embedding": []}
    written = orjson.loads(answers.as_json(data, said, has_all=False))
    assert written["data"] == [
        {"object": "embedding", "index": index, "embedding": each} for index, each in enumerate((vector, []))
    ]
    whole = orjson.dumps({"data": [{"object": "embedding", "index": 0, "embedding": vector}]})
    assert answers.as_json(whole, answers.read_json(answers.without_vectors(whole)), has_all=False) is whole
    # A vector that is none goes on as it came: nobody can say what it was.
    broken = b'{"data":[null,{"embedding":[' + b"0.5,,0.5," * 20 + b"1]}]}"
    assert answers.as_json(broken, answers.read_json(answers.without_vectors(broken)), has_all=False) is broken


def test_who_writes_nothing_need_not_say_so() -> None:
    said = {"data": [], "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    assert not answers.complete_usage(said, Usage(input_tokens=3), kind=answers.WHOLE)
    assert answers.complete_usage({"choices": []} | said, Usage(input_tokens=3), kind=answers.WHOLE)


@pytest.mark.parametrize("end", ["}", "} \n"])
def test_fields_are_put_in_at_the_end_where_they_count(end: str) -> None:
    data = b'{"data":[1],"id":null' + end.encode()
    assert json.loads(answers.with_fields(data, {"id": "r", "model": "m"})) == {"data": [1], "id": "r", "model": "m"}


def test_long_vectors_are_read_over_and_nothing_else_is() -> None:
    """Also where one ends a slice; short ones, and texts that are no base64, stay."""
    numbers, text = [0.25, -1e-7] * 200, "no vector, " * 200
    packed = base64.b64encode(bytes(2_000)).decode()
    rows = [{"index": index, "embedding": numbers if index % 2 else packed} for index in range(2_000)]
    said = {"id": text, "data": rows, "short": [1, 2, 3], "usage": {"prompt_tokens": 7}}
    for data in (json.dumps(said).encode(), json.dumps(said, indent=1).encode()):
        found = json.loads(answers.without_vectors(data))
        assert found == said | {"data": [row | {"embedding": []} for row in rows]}
    assert answers.without_vectors(b"") == b""


@pytest.mark.parametrize("other", [{}, {"data": {}}, {"choices": None}])
def test_nothing_is_put_into_what_is_no_chats_answer(other: dict[str, Any]) -> None:
    assert not answers.complete(other, **OWN)
    assert not other.keys() & {"id", "model"}


LETTER = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": [1, 2.5, "x", null, true]}', {"a": [1, 2.5, "x", None, True]}),
        (b'"\\ud800"', LETTER),
        (b'"\\uDFFF\\ud83d"', LETTER * 2),
        # A pair is a letter; a backslash before the u makes it no escape; other escapes stay what they are.
        (
            b'["\\ud83d\\ude00", "\\\\ud800", "\\n\\u00e9\\ud800\\u0041"]',
            ["\N{GRINNING FACE}", "\\ud800", f"\né{LETTER}A"],
        ),
        (b'"\xed\xa0\x80"', LETTER),
        (b'"\xff"', LETTER),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "é"}'.encode("utf-16"), {"a": "é"}),
        ('{"a": "é"}'.encode("utf-32-le"), {"a": "é"}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"[Infinity, -Infinity]", [math.inf, -math.inf]),
        (b"[1e999]", [math.inf]),
        (b"[NaN, 9223372036854775807, -9223372036854775808, 12]", None),
    ],
)
def test_what_clients_read_is_read(data: bytes, value: Any) -> None:
    read = answers.read_json(data)

    if value is None:
        assert math.isnan(read[0])
        assert read[1:] == [float(2**63), float(-(2**63)), 12]
        assert [type(number) for number in read] == [float, float, float, int]
    else:
        assert read == value
    orjson.dumps(read)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"null",
        b"no",
        b'{"a": 1',
        b'{"a": 1} {"b": 2}',
        b'{"a": 1}\n{"b": 2}\n',
        b"\xff\xfe",
        b"\x00" * 50,
        b"[" * 255 + b"]" * 255,
        b"[" * 1_000 + b"]" * 1_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 200_000,
        b"[NaN," + b"[" * 300 + b"]" * 301,
    ],
)
def test_what_nobody_reads_or_could_write_again_is_none(data: bytes) -> None:
    assert answers.read_json(data) is None


def test_many_objects_side_by_side_are_no_depth() -> None:
    rows = [{"a": [position]} for position in range(1_000)]

    assert answers.read_json(orjson.dumps(rows)) == rows


@pytest.mark.parametrize("digits", ["9" * 30, "-" + "9" * 30, "1" + "0" * 5_000])
@pytest.mark.parametrize("sloppy", [b"", b", NaN"])
def test_a_number_beyond_64_bits_is_a_float(digits: str, sloppy: bytes) -> None:
    [number, *_] = answers.read_json(b"[" + digits.encode() + sloppy + b"]")

    assert number == float(digits)
    orjson.dumps(number)


@given(data=st.binary(max_size=80))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for raw in (data, b'{"a": "' + data + b'"}', b"[NaN, " + data + b"]"):
        orjson.dumps(answers.read_json(raw))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=4), inner, max_size=4)
    ),
)


@given(value=values)
def test_all_that_the_standard_library_writes_is_read(value: Any) -> None:
    read = answers.read_json(json.dumps(value).encode())

    assert (read is None) == (value is None)
    with suppress(TypeError):
        # What needs no leniency comes back as it was.
        assert read == orjson.loads(orjson.dumps(value))


def test_a_count_that_is_said_twice_is_no_count() -> None:
    said = b'{"usage": {"total_tokens": 3, "total_tokens": 4, "a": 1, "a": 2}, "choices": [{"total_tokens": 1}]}'
    assert answers.read_json(said) == {"usage": {"total_tokens": [3, 4], "a": 2}, "choices": [{"total_tokens": 1}]}
    assert answers.read_json(b'{"usage": {"input_tokens": 3}, "usage": null}') == {"usage": [{"input_tokens": 3}, None]}
    # In several objects each is one.
    once = b'[{"usage": {"total_tokens": 3}}, {"usage": {"total_tokens": 3}}]'
    assert answers.read_json(once) == orjson.loads(once)
