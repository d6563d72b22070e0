"""Tool calls as providers take and give them, where no call over HTTP comes by."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from llm.rules.tool_calls import MISTRALS_IDS, CallParts, before_end, complete, with_ids, with_text_arguments


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
def test_arguments_are_a_text_whatever_they_came_as(arguments: object) -> None:
    answer = {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}}]}
    with_text_arguments(answer)
    said = answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    assert said.replace(" ", "") == '{"a":1}'


@pytest.mark.parametrize(("where", "nothing"), [("message", "{}"), ("delta", "")])
@pytest.mark.parametrize("lacking", [{}, {"arguments": None}])
def test_a_call_without_arguments_is_one_with_an_empty_object_and_a_part_adds_none(
    where: str, nothing: str, lacking: dict[str, None]
) -> None:
    function = {"name": "f", **lacking}
    assert with_text_arguments({"choices": [{where: {"tool_calls": [{"function": function}]}}]})
    assert function == {"name": "f", "arguments": nothing}


def taken(*arguments: str) -> list[str]:
    """What the calls come to, of parts that repeat the name, without ids or numbers."""
    parts = CallParts()
    for text in arguments:
        parts.took({"function": {"name": "f", "arguments": text}})
    return [call["function"]["arguments"] for call in parts.whole()]


def test_a_call_that_says_nothing_of_arguments_is_one_with_an_empty_object() -> None:
    assert taken("") == ["{}"]


def test_a_name_that_comes_again_is_another_call_once_the_arguments_are_whole() -> None:
    assert taken('{"a": 1}', '{"a": 2}') == ['{"a": 1}', '{"a": 2}']


def test_a_brace_at_the_end_of_a_part_is_no_end_of_arguments() -> None:
    assert taken('{"a": {}', "}") == ['{"a": {}}']


@pytest.mark.parametrize("calls", [5, ["x"], [{"function": "f"}], [{}]])
def test_what_is_no_call_has_no_arguments(calls: object) -> None:
    assert with_text_arguments({"choices": [5, {"delta": {"tool_calls": calls}}]}) is False


F = {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_call_as_it_should_be_stays(is_whole: bool) -> None:
    own = {"id": "x", "type": "custom", "index": 1, "custom": {"name": "f", "input": "x"}}
    message = {"tool_calls": [{"id": "abcdefghi", "type": "function", "index": 0, "function": F}, own]}
    before = {"tool_calls": list(message["tool_calls"])}
    assert not complete(message, is_whole=is_whole, id="r 0")
    assert message == before


@pytest.mark.parametrize("given", ["x", 5, [], [None], {"id": "a"}, [{"function": {"name": ""}}]])
def test_a_message_without_a_call_says_nothing_of_calls(given: object) -> None:
    message = {"tool_calls": given}
    complete(message, is_whole=True, id="r 0")
    assert message.get("tool_calls") in (None, [])


def test_a_part_of_a_call_is_one_whatever_it_lacks() -> None:
    message = {"tool_calls": [{"id": "a"}, {"index": 7, "function": {"arguments": {"b": 1}}}, {"function": F, "id": 5}]}
    assert complete(message, is_whole=False, id="r 0")
    assert message["tool_calls"] == [
        {"id": "a", "index": 0, "function": {"name": "", "arguments": ""}},
        {"index": 7, "function": {"name": "", "arguments": '{"b":1}'}},
        {"id": "5", "index": 2, "function": F},
    ]


def test_an_id_that_is_made_is_that_calls_own_and_the_same_again() -> None:
    def made(id: str) -> list[str]:
        message = {"tool_calls": [{"function": F}, {"function": F, "index": None}]}
        assert complete(message, is_whole=True, id=id)
        assert message["tool_calls"][1]["index"] == 1
        return [call["id"] for call in message["tool_calls"]]

    ids = made("r 0") + made("r 1")
    assert len(set(ids)) == 4
    assert all(map(MISTRALS_IDS.fullmatch, ids))
    assert made("r 0") == ids[:2]


def test_a_result_of_a_call_that_is_not_there_gets_an_id_that_is_taken_all_the_same() -> None:
    """Its call may have been cut off with the beginning of a long conversation."""
    ids = ["call_0123456789", "call_0123456789", "aB3456789", None]
    found = with_ids([{"role": "tool", "tool_call_id": id, "content": "5"} for id in ids], MISTRALS_IDS)
    made, again, fitting, none = (message["tool_call_id"] for message in found)
    assert MISTRALS_IDS.fullmatch(made)
    assert (again, fitting, none) == (made, "aB3456789", None)


HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def calls_of(index: int, *ids: str, end: str | None = "tool_calls", **more: Any) -> dict[str, Any]:
    calls = [{"id": id, "type": "function", "index": at, "function": F} for at, id in enumerate(ids)]
    return {"index": index, "delta": {"tool_calls": calls}, "finish_reason": end, **more}


def ids_in(chunk: dict[str, Any]) -> list[tuple[int, str]]:
    return [(one["index"], call["id"]) for one in chunk["choices"] for call in one["delta"]["tool_calls"]]


def test_calls_come_before_the_end_one_by_one_and_a_text_with_the_first() -> None:
    choice = calls_of(0, "a", "b", logprobs={"content": []}, native_finish_reason="x")
    choice["delta"] |= {"role": "assistant", "content": "I look."}
    chunk = {**HEAD, "choices": [choice, calls_of(1, "c")], "usage": {"total_tokens": 3}}
    before = before_end(chunk)
    assert [ids_in(each) for each in before] == [[(0, "a")], [(0, "b")], [(1, "c")]]
    assert all(HEAD.items() <= each.items() and "usage" not in each for each in before)
    assert all(one["finish_reason"] is None for each in before for one in each["choices"])
    texts = [each["choices"][0]["delta"].get("content") for each in before]
    assert (texts, before[0]["choices"][0]["logprobs"]) == (["I look.", None, None], {"content": []})
    end = {"delta": {}, "finish_reason": "tool_calls"}
    choices = [{"index": 0, **end, "native_finish_reason": "x"}, {"index": 1, **end}]
    assert chunk == {**HEAD, "choices": choices, "usage": {"total_tokens": 3}}


@pytest.mark.parametrize("delta", [{}, {"tool_calls": None}, {"content": "a"}])
def test_an_end_without_a_call_and_a_call_without_an_end_stay(delta: dict[str, Any]) -> None:
    ended = {"index": 0, "delta": delta, "finish_reason": "stop"}
    chunk = {**HEAD, "choices": [ended, calls_of(1, "a", end=None)]}
    as_it_was = deepcopy(chunk)
    assert before_end(chunk) == []
    assert chunk == as_it_was


def test_so_many_calls_that_their_heads_would_be_the_most_of_it_come_in_one_chunk() -> None:
    ids = [str(number) for number in range(499)]
    for more, chunks in ((0, 500), (100, 1)):
        chunk = {**HEAD, "id": "c" * more, "choices": [calls_of(0, *ids), calls_of(1, "x")]}
        before = before_end(chunk)
        assert len(before) == chunks
        assert [each for one in before for each in ids_in(one)] == [(0, id) for id in ids] + [(1, "x")]
        assert [choice["delta"] for choice in chunk["choices"]] == [{}, {}]
