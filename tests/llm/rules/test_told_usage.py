"""Usage that is said of some of several answers: it is the call's when all have theirs, and a least before."""

from __future__ import annotations

from typing import Any

import pytest

from governance.rules.calls import Usage
from llm.rules import told_usage
from llm.rules.told_usage import ToldUsage


def used(output_tokens: int) -> Usage:
    return Usage(provider="p", input_tokens=3, output_tokens=output_tokens, units=3 + output_tokens)


def block(tokens: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": 3, "completion_tokens": tokens}}


def of(**tokens: int) -> dict[str, Any]:
    """A part with a count of each of these answers: `a0=5` is one of five tokens."""
    return {"choices": [{"index": int(name[1:]), **block(each)} for name, each in tokens.items()]}


def took(told: ToldUsage, *parts: dict[str, Any]) -> Usage | None:
    """What all that was said so far comes to, after these parts."""
    found = None
    for part in parts:
        each = [choice["usage"]["completion_tokens"] for choice in part.get("choices", ()) if "usage" in choice]
        total = part.get("usage", {}).get("completion_tokens", 0)
        found = told.took(part, used(max(total, sum(each))), None)
    return found


def test_a_count_of_the_call_is_the_calls() -> None:
    told = ToldUsage(3)
    assert told.took(block(5), used(5), None) == used(5)
    assert told.took({}, None, None) is None
    assert told.took(block(0), None, used(7)) is None
    assert (told.least, told.untold_answers) == (used(7), 0)


def test_counts_of_answers_are_the_calls_when_all_have_theirs() -> None:
    told = ToldUsage(3)
    assert took(told, of(a1=5)) is None
    assert took(told, of(a0=4)) is None
    assert (told.least, told.untold_answers) == (used(9), 1)
    assert took(told, of(a2=1)) == used(10)
    # Each may grow, and none becomes less.
    assert took(told, of(a1=6), of(a1=2)) == used(11)
    assert told.untold_answers == 0


@pytest.mark.parametrize("answers", [1, 2, 3])
def test_one_part_may_count_several_answers(answers: int) -> None:
    told = ToldUsage(3)
    parts = [of(a0=5, a1=6, a2=7)] if answers == 3 else [of(a0=5, a1=6), of(a2=7)]
    if answers == 1:
        parts = [of(a0=1), of(a1=6), of(a0=5, a1=6), of(a1=2), of(a2=7)]
    assert took(told, *parts) == used(18)


@pytest.mark.parametrize(
    "parts",
    [
        [of(a0=5), of(a0=5), of(a0=5)],
        [of(a0=5, a1=5), of(a1=5, a2=5)],
        [{"choices": [{"usage": block(5)["usage"]}]}] * 3,
    ],
    ids=["one index", "in two places", "no index"],
)
def test_who_is_counted_twice_counts_for_nobody_else(parts: list[dict[str, Any]]) -> None:
    told = ToldUsage(3)
    assert took(told, *parts) is None
    assert told.untold_answers > 0


def test_an_answer_that_was_not_asked_for_lacks_its_count_too() -> None:
    told = ToldUsage(1)
    assert told.took({"choices": [{"index": 1, "delta": {}}]}, None, None) is None
    assert took(told, of(a0=5)) is None
    assert told.untold_answers == 1
    assert took(told, of(a1=5)) == used(10)


def test_half_a_count_of_an_answer_is_a_least() -> None:
    told = ToldUsage(2)
    assert took(told, of(a0=5)) is None
    assert told.took(of(a1=4), None, used(4)) is None
    assert (told.least, told.untold_answers) == (used(9), 1)


def test_a_count_of_the_call_that_has_less_than_some_of_its_answers_is_none() -> None:
    told = ToldUsage(3)
    assert took(told, of(a0=5), of(a1=5)) is None
    took(told, block(9))
    assert told.untold_answers == 1
    took(told, block(10))
    assert told.untold_answers == 0


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told_usage, "MOST_KEPT", 2)
    told = ToldUsage(2)
    assert took(told, of(a5=1)) is None
    assert took(told, of(a6=1)) == used(2)
    assert took(told, of(a7=1)) is None
    assert took(told, of(a5=4)) is None
    assert told.untold_answers == 1


def beside(index: int, tokens: int) -> dict[str, Any]:
    """A count in the name of the call that comes with the end of one answer."""
    return {"choices": [{"index": index, "finish_reason": "stop"}], **block(tokens)}


def test_counts_that_come_with_the_end_of_each_answer_may_be_of_it_alone() -> None:
    told = ToldUsage(3)
    assert took(told, beside(0, 0), beside(1, 5)) == used(5)
    assert took(told, beside(2, 5)) is None
    assert (told.least, told.untold_answers) == (used(5), 2)
    # One of the call makes clear what they were.
    assert took(told, {"choices": [], **block(4)}) == used(4)
    assert told.untold_answers == 2
    assert took(told, {"choices": [], **block(5)}) == used(5)
    assert told.untold_answers == 0
    assert took(ToldUsage(1), beside(0, 5), beside(1, 5)) == used(5)


def test_which_answers_counts_came_with_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told_usage, "MOST_KEPT", 2)
    told = ToldUsage(9)
    assert took(told, *[beside(at, 5) for at in range(5)]) is None
    assert told.untold_answers == 8


def said(input_tokens: int, output_tokens: int) -> Usage:
    return Usage(
        provider="p", input_tokens=input_tokens, output_tokens=output_tokens, units=input_tokens + output_tokens
    )


@pytest.mark.parametrize(
    ("counts", "has_shrunk"),
    [
        ([said(3, 5), said(3, 5), said(4, 5), said(4, 6)], False),
        ([said(3, 5), said(0, 5)], True),
        ([said(3, 5), said(2, 9), said(3, 9)], True),
        ([said(3, 5), said(3, 4), said(9, 9)], True),
        ([said(3, 5), said(9, 9), said(8, 9)], True),
    ],
)
@pytest.mark.parametrize("part", [block(1), of(a1=1), beside(1, 1)], ids=["of the call", "of an answer", "beside one"])
def test_a_count_that_becomes_smaller_is_of_a_piece_perhaps(
    part: dict[str, Any], counts: list[Usage], has_shrunk: bool
) -> None:
    told = ToldUsage(2)
    for count in counts:
        told.took(part, count, None)
    assert told.has_shrunk is has_shrunk


def test_counts_of_different_answers_and_half_counts_are_not_compared() -> None:
    told = ToldUsage(3)
    for part, count in (
        (of(a0=1), said(3, 5)),
        (of(a1=1), said(3, 4)),
        (block(1), said(2, 3)),
        (beside(2, 1), said(1, 2)),
        (beside(3, 1), said(1, 1)),
    ):
        told.took(part, count, None)
        told.took(part, None, said(0, 1))
        told.took({}, None, None)
        assert not told.has_shrunk


def test_what_is_compared_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told_usage, "MOST_KEPT", 1)
    told = ToldUsage(2)
    for tokens in (of(a0=4), of(a1=4), of(a1=2), of(a0=5)):
        took(told, tokens)
        assert not told.has_shrunk
    took(told, of(a0=4))
    assert told.has_shrunk
