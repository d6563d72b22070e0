"""A policy is defined once: what its fields hold, how they are given; and whoever handles a policy has them all."""

from decimal import Decimal
from typing import Any

import pytest
from django.core.management import load_command_class

from billing.api.plans import PlanBody
from billing.console.plan_admin import PlanAdmin
from billing.console.plan_form import PlanForm
from billing.models import Plan
from governance.api.budgets import BudgetBody
from governance.console.budget_admins import BudgetAdmin
from governance.console.budget_pages import BudgetForm
from governance.management.commands import set_budget
from governance.models import Budget
from governance.rules import policy
from governance.rules.errors import FieldError
from governance.rules.policy import Policy, Rule

# What the columns may be given as, what people type for it, what is kept, and what a decision reads.
GIVEN: list[tuple[str, Any, str, Any, Any]] = [
    ("soft_cap", "0.75", "0.75", Decimal("0.75"), 7_500),
    ("soft_cap", None, "none", None, None),
    ("hard_cap", 1, "1", Decimal(1), 10_000),
    ("warn_at", Decimal("0.5000"), "0.5", Decimal("0.5"), 5_000),
    ("alert_thresholds", [1, 0.5, "0.50"], "0.5, 1", ["0.5", "1"], (5_000, 10_000)),
    ("alert_thresholds", [], "none", [], ()),
    (
        "downgrade_rules",
        [{"from": ["a", "b"], "to": "c"}, {"from": "*", "to": "d"}],
        "a, b -> c\n* → d",
        [{"from": ["a", "b"], "to": "c"}, {"from": ["*"], "to": "d"}],
        (Rule(frozenset("ab"), "c"), Rule(frozenset("*"), "d")),
    ),
    (
        "downgrade_rules",
        [{"from": ["a"], "to": "b", "at": 0.95}, {"from": "*", "to": "c", "at": None}],
        "a -> b at 0.950\n* -> c",
        [{"from": ["a"], "to": "b", "at": "0.95"}, {"from": ["*"], "to": "c"}],
        (Rule(frozenset("a"), "b", 9_500), Rule(frozenset("*"), "c")),
    ),
    (
        "downgrade_rules",
        [{"from": ["at"], "to": "at", "at": Decimal("1.0000")}],
        "at → at at 1",
        [{"from": ["at"], "to": "at", "at": "1"}],
        (Rule(frozenset(["at"]), "at", 10_000),),
    ),
    ("disabled_tools", ["x", "y", "x"], "x, y", ["x", "y"], frozenset("xy")),
    ("disabled_tools", ["none"], "none,none", ["none"], frozenset(["none"])),
]


@pytest.mark.parametrize(("column", "given", "typed", "kept", "read"), GIVEN)
def test_a_value_is_the_same_however_it_is_given(column: str, given: Any, typed: str, kept: Any, read: Any) -> None:
    assert policy.parse(column, given) == policy.parse(column, kept) == policy.from_text(column, typed) == kept
    assert policy.COLUMNS[column].kind.read(kept) == read
    if kept and kept != ["none"]:
        assert policy.from_text(column, policy.to_text(column, kept)) == kept


@pytest.mark.parametrize(
    ("column", "typed"),
    [
        ("hard_cap", "none"),
        ("soft_cap", "most"),
        ("alert_thresholds", "often"),
        ("downgrade_rules", "a, b"),
        ("downgrade_rules", "-> b"),
        ("downgrade_rules", "a -> b -> c"),
        ("downgrade_rules", "a -> b at"),
        ("downgrade_rules", "a -> b at often"),
        ("downgrade_rules", "a -> b at 0"),
        ("downgrade_rules", "a -> b at 1.0001"),
        ("downgrade_rules", "a -> b at -0.5"),
        ("downgrade_rules", "a -> b at 0.12345"),
        ("downgrade_rules", "a -> b at 90%"),
        ("downgrade_rules", "a -> b at 0.9 at 0.8"),
        ("downgrade_rules", "a -> b c"),
    ],
)
def test_what_is_typed_wrong_is_refused_at_its_field(column: str, typed: str) -> None:
    with pytest.raises(FieldError) as refused:
        policy.from_text(column, typed)
    assert refused.value.field == column


@pytest.mark.parametrize(
    ("column", "given"),
    [
        ("clamp", "yes"),
        ("clamp", None),
        ("clamp_min_tokens", -1),
        ("clamp_min_tokens", True),
        ("clamp_min_tokens", "8"),
        ("downgrade_rules", [{"from": ["a"], "to": "b", "at": True}]),
        ("downgrade_rules", [{"from": ["a"], "to": "b", "at": float("nan")}]),
        ("downgrade_rules", [{"from": ["a"], "to": "b", "at": []}]),
        ("downgrade_rules", [{"from": ["a"], "to": "b", "share": "0.9"}]),
    ],
)
def test_what_no_column_holds_is_refused(column: str, given: Any) -> None:
    with pytest.raises(FieldError) as refused:
        policy.parse(column, given)
    assert refused.value.field == column


def test_what_nobody_says_is_the_default_everywhere() -> None:
    defaults = {name: policy.default(name) for name in policy.COLUMNS}
    assert policy.of(defaults) == Policy()
    assert policy.columns_of(Budget()) == policy.columns_of(Plan()) == defaults
    assert policy.default("downgrade_rules") is not policy.default("downgrade_rules")


def shown(admin: Any) -> set[str]:
    names = [name for _, group in admin.fieldsets for name in group["fields"]]
    return {name for each in names for name in ([each] if isinstance(each, str) else each)}


@pytest.mark.parametrize("column", policy.COLUMNS)
def test_whoever_handles_a_policy_has_every_field(column: str) -> None:
    for body in (BudgetBody(), PlanBody()):
        assert column in body.fields
    for form in (BudgetForm, PlanForm):
        assert column in form.base_fields
    for admin in (BudgetAdmin, PlanAdmin):
        assert column in shown(admin)
    options = load_command_class("governance", "set_budget").create_parser("manage.py", "set_budget")._actions
    assert set_budget.OPTIONS.get(column, column) in {option.dest for option in options}


SHAPE = "downgrade_rules"


@pytest.mark.parametrize(
    ("column", "given", "says"),
    [
        ("alert_thresholds", "0.5", "list"),
        ("alert_thresholds", ["0.5", "0"], "above 0"),
        ("alert_thresholds", ["0.50001"], "four decimals"),
        ("disabled_tools", "x", "list of names"),
        ("disabled_tools", ("x",), "list of names"),
        ("disabled_tools", ["x", ""], "list of names"),
        ("disabled_tools", ["x", 1], "list of names"),
        (SHAPE, "a->b", '"from"'),
        (SHAPE, {"from": ["a"], "to": "b"}, '"from"'),
        (SHAPE, ["a->b"], "a->b"),
        (SHAPE, [1], '"from"'),
        (SHAPE, [{"from": ["a"]}], '"from"'),
        (SHAPE, [{"from": [], "to": "b"}], '"from"'),
        (SHAPE, [{"from": "", "to": "b"}], "list of names"),
        (SHAPE, [{"from": ["a"], "to": ""}], '"from"'),
        (SHAPE, [{"from": ["a"], "to": 1}], '"from"'),
        (SHAPE, [{"from": ["a"], "to": ["b"]}], '"from"'),
        (SHAPE, [{"from": ("a",), "to": "b"}], "list of names"),
        (SHAPE, [{"from": [1], "to": "b"}], "list of names"),
        ("clamp", 1, "true or false"),
        ("clamp_min_tokens", 2**31, "2,147,483,647"),
        ("clamp_min_tokens", 1.0, "whole number"),
    ],
)
def test_a_refusal_names_the_field_and_what_it_takes(column: str, given: Any, says: str) -> None:
    with pytest.raises(FieldError) as refused:
        policy.parse(column, given)
    assert refused.value.field == column
    assert says in refused.value.message


def test_the_least_and_the_most_that_a_field_takes() -> None:
    assert [policy.parse("clamp_min_tokens", value) for value in (0, 2**31 - 1)] == [0, 2**31 - 1]
    assert [policy.parse("hard_cap", value) for value in ("0.0001", 1)] == [Decimal("0.0001"), Decimal(1)]
    assert [policy.parse("clamp", value) for value in (True, False)] == [True, False]
    assert policy.parse("downgrade_rules", []) == []


@pytest.mark.parametrize("column", ["alert_thresholds", "downgrade_rules", "disabled_tools"])
def test_none_is_typed_for_a_list_with_nothing_in_it(column: str) -> None:
    assert policy.from_text(column, " none ") == []
    assert policy.to_text(column, []) == ""


@pytest.mark.parametrize("column", ["soft_cap", "warn_at"])
def test_nothing_or_none_is_typed_for_a_share_that_is_not_set(column: str) -> None:
    assert [policy.from_text(column, typed) for typed in ("", " ", "none", " none ")] == [None] * 4
    assert policy.to_text(column, None) == ""
    assert policy.to_text(column, Decimal("0.5000")) == "0.5"


@pytest.mark.parametrize(("column", "value", "text"), [("clamp", True, "True"), ("clamp_min_tokens", 256, "256")])
def test_what_is_no_list_and_no_share_is_shown_as_it_is(column: str, value: Any, text: str) -> None:
    assert policy.to_text(column, value) == text


def cleaned(**given: Any) -> dict[str, Any]:
    row = Budget(**given)
    policy.clean(row)
    return {name: getattr(row, name) for name in given}


def test_a_whole_policy_is_parsed_where_it_is() -> None:
    kept = cleaned(soft_cap="0.5", warn_at="0.4", hard_cap="0.9", disabled_tools=["x", "x"])
    assert kept == {
        "soft_cap": Decimal("0.5"),
        "warn_at": Decimal("0.4"),
        "hard_cap": Decimal("0.9"),
        "disabled_tools": ["x"],
    }
    assert cleaned(soft_cap=None, warn_at=None, hard_cap="0.9")["soft_cap"] is None


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("soft_cap", {"soft_cap": "0.9", "hard_cap": "0.9"}),
        ("soft_cap", {"soft_cap": "0.9", "hard_cap": "0.8"}),
        ("warn_at", {"warn_at": "0.5", "soft_cap": "0.5"}),
        ("warn_at", {"warn_at": "0.6", "soft_cap": "0.5"}),
        ("warn_at", {"warn_at": "0.6", "soft_cap": None}),
        ("clamp", {"clamp": "yes"}),
    ],
)
def test_a_warning_comes_before_the_soft_cap_and_that_before_the_hard_one(field: str, given: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as refused:
        cleaned(**given)
    assert refused.value.field == field
