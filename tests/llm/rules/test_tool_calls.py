"""Tool calls as providers take and give them, where no call over HTTP comes by."""

from __future__ import annotations

import pytest

from llm.rules.tool_calls import MISTRALS_IDS, CallParts, complete, with_ids, with_text_arguments


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
