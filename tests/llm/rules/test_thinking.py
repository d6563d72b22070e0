"""What may be thought beside an answer's length: as many tokens as the request says, and else nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm.rules import thinking
from llm.rules.request_checks import MOST_TOKENS, DialectError

BUDGETS = ("thinking_budget", "thinking.budget_tokens", "reasoning.max_tokens", "chat_template_kwargs.thinking_budget")
# What switches thinking on; what switches it off there; where the number stands that bounds it.
SWITCHES = [
    ("enable_thinking", False, "thinking_budget"),
    ("thinking.type", "disabled", "thinking.budget_tokens"),
    ("reasoning.effort", "none", "reasoning.max_tokens"),
    ("reasoning.enabled", False, "reasoning.max_tokens"),
    ("chat_template_kwargs.enable_thinking", False, "chat_template_kwargs.thinking_budget"),
    ("chat_template_kwargs.thinking", False, "chat_template_kwargs.thinking_budget"),
    ("chat_template_kwargs.reasoning_effort", "none", "chat_template_kwargs.thinking_budget"),
]


def asking(**places: Any) -> dict[str, Any]:
    """A request with these values, each at a place such as "thinking.type"."""
    made: dict[str, Any] = {}
    for place, value in places.items():
        name, _, inner = place.partition(".")
        made[name] = {**made.get(name, {}), inner: value} if inner else value
    return made


def refusal(payload: dict[str, Any]) -> tuple[str, str]:
    """(field, code)"""
    with pytest.raises(DialectError) as refused:
        thinking.tokens_beside(payload)
    return refused.value.param, refused.value.code


def test_who_does_not_ask_for_thinking_has_none_beside_the_answer() -> None:
    assert thinking.tokens_beside({}) == 0
    assert thinking.tokens_beside(dict.fromkeys(("thinking", "reasoning", "thinking_budget"))) == 0


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_number_counts_with_or_without_a_switch(budget: str) -> None:
    assert thinking.tokens_beside(asking(**{budget: 30_000})) == 30_000
    assert thinking.tokens_beside(asking(**{budget: 0})) == 0
    assert thinking.tokens_beside(asking(**{budget: MOST_TOKENS})) == MOST_TOKENS


def test_numbers_in_several_places_add_up() -> None:
    assert thinking.tokens_beside(asking(**{place: 10**at for at, place in enumerate(BUDGETS)})) == 1_111


@pytest.mark.parametrize(("switch", "off", "budget"), SWITCHES)
class TestASwitch:
    def test_needs_a_number(self, switch: str, off: Any, budget: str) -> None:
        # 0 and "off" may be read as anything, and an endpoint may think without bound at a budget of 0.
        for value in ("high", True, 0, "", 1, "off"):
            assert refusal(asking(**{switch: value})) == (switch, "unbounded_output")
        assert refusal(asking(**{switch: "high", budget: 0})) == (switch, "unbounded_output")

    def test_is_bounded_by_its_own_number_alone(self, switch: str, off: Any, budget: str) -> None:
        assert thinking.tokens_beside(asking(**{switch: "high", budget: 7})) == 7
        others = {place: 7 for place in BUDGETS if place != budget}
        assert refusal(asking(**{switch: "high", **others})) == (switch, "unbounded_output")

    def test_that_is_off_needs_none(self, switch: str, off: Any, budget: str) -> None:
        # As it is read from a request: a text of its own.
        assert thinking.tokens_beside(json.loads(json.dumps(asking(**{switch: off})))) == 0
        assert thinking.tokens_beside(asking(**{switch: None})) == 0


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("value", [-1, MOST_TOKENS + 1, "30000", 3e4, True, [1], {}])
def test_what_is_no_number_of_tokens_is_refused_by_its_place(budget: str, value: Any) -> None:
    assert refusal(asking(**{budget: value})) == (budget, "invalid_type")


@pytest.mark.parametrize("name", ["thinking", "reasoning", "chat_template_kwargs"])
def test_what_holds_these_fields_is_an_object(name: str) -> None:
    for value in (True, "high", [], 5):
        assert refusal({name: value}) == (name, "invalid_type")
    assert thinking.tokens_beside({name: {}}) == 0


@pytest.mark.parametrize("name", ["thinking", "reasoning"])
def test_a_field_beside_them_that_nobody_knows_is_refused(name: str) -> None:
    assert refusal({name: {"depth": 5}}) == (f"{name}.depth", "unknown_field")
    assert refusal({name: {"x" * 200: 5}}) == (f"{name}.{'x' * 100}", "unknown_field")


def test_fields_that_cost_nothing_are_known() -> None:
    assert thinking.tokens_beside(asking(**{"reasoning.exclude": True, "reasoning.summary": "auto"})) == 0
    # A model's template has fields of its own.
    assert thinking.tokens_beside(asking(**{"chat_template_kwargs.custom": "x"})) == 0


@pytest.mark.parametrize(
    ("places", "most", "expected", "left"),
    [
        ({}, 100, {}, 100),
        ({"thinking_budget": 30}, 100, {"thinking_budget": 30}, 70),
        ({"thinking_budget": 99}, 100, {"thinking_budget": 99}, 1),
        # One token is left for the answer.
        ({"thinking_budget": 100}, 100, {"thinking_budget": 99}, 1),
        (
            {"reasoning.effort": "high", "reasoning.max_tokens": 500},
            100,
            {"reasoning.effort": "high", "reasoning.max_tokens": 99},
            1,
        ),
        (
            {"thinking_budget": 60, "thinking.budget_tokens": 60, "chat_template_kwargs.thinking_budget": 60},
            100,
            # And one for each number: none at all bounds nothing.
            {"thinking_budget": 60, "thinking.budget_tokens": 38, "chat_template_kwargs.thinking_budget": 1},
            1,
        ),
        ({"thinking_budget": 60}, 1, {"thinking_budget": 1}, 1),
    ],
)
def test_thinking_and_answer_share_what_may_be_written(
    places: dict[str, Any], most: int, expected: dict[str, Any], left: int
) -> None:
    asked = asking(model="m", **places)
    assert thinking.within(asked, most) == (asking(model="m", **expected), left)
    # The request of the caller's stays as it was.
    assert asked == asking(model="m", **places)
