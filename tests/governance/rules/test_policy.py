"""A policy is defined once: what its fields hold, how they are given; and whoever handles a policy has them all."""

from decimal import Decimal
from typing import Any

import pytest
from django.core.management import load_command_class

from billing.api.plans import PlanBody
from billing.console.account_admins import PlanAdmin, PlanForm
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
