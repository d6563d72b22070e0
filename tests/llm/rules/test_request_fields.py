"""The fields that a request may have, and those that an operator may let through beside them."""

from __future__ import annotations

from typing import Any

import pytest

from llm.rules import request_fields
from llm.rules.request_fields import is_extra_value, problem_with_extra, unknown, without_effect


@pytest.mark.parametrize("names", [[], ["top_n_sigma"], ["x" * 64], ["a1_b"], [f"field_{n}" for n in range(20)]])
def test_an_operator_may_let_twenty_fields_through_that_nobody_here_knows(names: list[str]) -> None:
    assert problem_with_extra(names) == ""


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([f"field_{n}" for n in range(21)], "20 fields"),
        (["fine", "x" * 65], "'" + "x" * 64 + "'"),
        (["Top"], "'Top'"),
        (["1a"], "'1a'"),
        (["a-b"], "'a-b'"),
        (["a\n"], "'a\\n'"),
        ([""], "''"),
        # What the gateway counts or refuses by itself, of whatever kind of request.
        (["temperature"], "temperature is known"),
        (["output_dimension"], "output_dimension is known"),
        (["best_of"], "best_of is known"),
        (["echo"], "echo is known"),
        (["use_beam_search"], "use_beam_search is known"),
    ],
)
def test_what_is_wrong_with_others_is_told_by_name(names: list[str], told: str) -> None:
    assert told in problem_with_extra(names)


@pytest.mark.parametrize(
    "name",
    """model models route routes provider providers plugins tools num_beams beam_width num_return_sequences
    max_new_tokens max_length max_output_tokens max_gen_len num_predict n_predict max_input_tokens fallbacks
    webhook callback_url""".split(),  # noqa: SIM905
)
def test_no_operator_lets_through_what_makes_a_call_dearer(name: str) -> None:
    assert name in problem_with_extra([name])


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (5, True),
        (0.5, True),
        (False, True),
        ("x" * 256, True),
        ("é" * 128, True),
        ("x" * 257, False),
        ("é" * 129, False),
        (None, False),
        ([1], False),
        ({}, False),
    ],
)
def test_such_a_field_is_a_number_a_flag_or_a_short_text(value: Any, taken: bool) -> None:
    assert is_extra_value(value) is taken


def test_what_asks_for_nothing_is_left_out() -> None:
    nothing = {"best_of": 1, "echo": False, "use_beam_search": False}
    assert without_effect({"model": "m", **nothing}) == [*nothing]
    assert without_effect({"best_of": 2, "echo": True, "use_beam_search": True, "model": "m"}) == []


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model", "messages", "thinking_budget", "pages"], None),
        (["model", "temprature", "zzz"], ("temprature", "did you mean `temperature`?")),
        (["TEMPERATURE"], ("TEMPERATURE", "did you mean `temperature`?")),
        (["zzz"], ("zzz", "leave it out.")),
    ],
)
def test_the_first_field_that_no_request_has_is_named(names: list[str], found: Any) -> None:
    assert unknown(names) == found


def test_fields_of_other_kinds_of_requests_are_told() -> None:
    assert request_fields.of_others(["model", "messages", "dimensions"], kind="chat") == ["dimensions"]
    assert request_fields.of_others(["model", "messages", "input"], kind="embedding") == ["messages"]
    # A user's name is taken with every kind.
    assert [request_fields.of_others(["user"], kind=kind) for kind in request_fields.KNOWN] == [[]] * 5


@pytest.mark.parametrize(
    ("body", "hides"),
    [
        ({}, False),
        ({"logit_bias": {}, "ignore_eos": False, "min_tokens": 0, "include_reasoning": True, "reasoning": {}}, False),
        ({"reasoning": {"effort": "low"}}, False),
        ({"reasoning": "much"}, False),
        ({"logit_bias": {"2": 100}}, True),
        ({"ignore_eos": True}, True),
        ({"min_tokens": 5}, True),
        ({"include_reasoning": False}, True),
        ({"reasoning": {"exclude": True}}, True),
        ({"reasoning": {"summary": "auto"}}, True),
    ],
)
def test_whose_text_does_not_tell_how_many_tokens_were_written(body: dict[str, Any], hides: bool) -> None:
    assert request_fields.hides_tokens(body) == hides
