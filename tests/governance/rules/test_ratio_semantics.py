"""The ratio semantics of the original engine, case by case, through the real ledger.

A limit of $10; soft cap 0.8, hard cap 1. Utilisation counts the estimated cost of the call; the first downgrade rule
that matches wins; a hit at the hard cap stops; tools go from the soft cap on; the state follows settled spend.
"""

from __future__ import annotations

from typing import Any

import pytest

from governance import ledger
from governance.models import BudgetWindow
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]

PRICES = {"medium": "1.00", "small": "0.10", "tiny": "0.01"}
TO_SMALL = {"from": ["large"], "to": "small"}
TO_TINY = {"from": ["large"], "to": "tiny"}
ANY_TO_TINY = {"from": ["*"], "to": "tiny"}


def decided(spent: str, cost: str, *, held: str = "", tools: tuple[str, ...] = (), **policy: Any) -> tuple[str, str]:
    """(action, model) of a call of `cost` dollars when `spent` are settled and `held` are on their way."""
    make.budget("10", **policy)
    if spent != "0":
        ledger.record(make.reporting(spent), now=NOON)
    if held:
        assert ledger.reserve(make.reserving(held, prices=PRICES), now=NOON).allowed
    decision = ledger.reserve(make.reserving(cost, prices=PRICES, tools=tools), now=NOON)
    return decision.action.value, decision.model if decision.allowed else ""


@pytest.mark.parametrize(
    ("spent", "cost", "answer"),
    [
        ("0", "1", ("allow", "large")),
        ("7", "0.99", ("allow", "large")),
        # Settled spend is below the soft cap; with the estimate it is not.
        ("7", "1", ("warn", "large")),
        ("0", "8", ("warn", "large")),
        ("7.999999999", "0.000000001", ("warn", "large")),
        ("7.999999998", "0.000000001", ("allow", "large")),
        # The estimate may use the limit up, and not pass it.
        ("9", "1", ("warn", "large")),
        ("9", "1.000000001", ("hard-stop", "")),
        ("0", "10.01", ("hard-stop", "")),
        # The hard cap is hit: nothing goes, however little it costs.
        ("10", "0.01", ("hard-stop", "")),
        ("10", "0", ("hard-stop", "")),
        ("12", "0.01", ("hard-stop", "")),
    ],
)
def test_utilisation_counts_the_estimated_cost_of_the_call(spent: str, cost: str, answer: tuple[str, str]) -> None:
    assert decided(spent, cost) == answer


@pytest.mark.parametrize(
    ("held", "cost", "answer"),
    [("7", "0.5", ("allow", "large")), ("7", "1", ("warn", "large")), ("9.50", "0.51", ("in-flight", ""))],
)
def test_what_is_on_its_way_counts_like_what_is_spent(held: str, cost: str, answer: tuple[str, str]) -> None:
    assert decided("0", cost, held=held) == answer


@pytest.mark.parametrize(
    ("spent", "rules", "answer"),
    [
        ("7", [TO_SMALL, TO_TINY], ("degrade", "small")),
        ("7", [TO_TINY, TO_SMALL], ("degrade", "tiny")),
        ("7", [ANY_TO_TINY, TO_SMALL], ("degrade", "tiny")),
        ("7", [{"from": ["medium"], "to": "tiny"}, TO_SMALL], ("degrade", "small")),
        ("7", [{"from": ["medium"], "to": "tiny"}], ("warn", "large")),
        ("6.99", [TO_SMALL], ("allow", "large")),
        # Just below the limit only the rule's model fits; from the limit on, not even that.
        ("9.90", [TO_SMALL], ("degrade", "small")),
        ("9.91", [TO_SMALL], ("hard-stop", "")),
        ("10", [TO_TINY], ("hard-stop", "")),
    ],
)
def test_the_first_downgrade_rule_that_matches_wins(
    spent: str, rules: list[dict[str, Any]], answer: tuple[str, str]
) -> None:
    assert decided(spent, "1", downgrade_rules=rules) == answer


@pytest.mark.parametrize(
    ("spent", "tools", "action", "removed"),
    [
        ("6.99", ("code", "mail"), "allow", ()),
        ("7", ("code", "mail"), "disable-tools", ("code",)),
        ("9", ("code", "mail"), "disable-tools", ("code",)),
        ("7", ("mail",), "warn", ()),
        ("7", (), "warn", ()),
        ("10", ("code",), "hard-stop", ()),
    ],
)
def test_tools_are_removed_from_the_soft_cap_on(
    spent: str, tools: tuple[str, ...], action: str, removed: tuple[str, ...]
) -> None:
    make.budget("10", disabled_tools=["code"])
    ledger.record(make.reporting(spent), now=NOON)
    decision = ledger.reserve(make.reserving("1", tools=tools), now=NOON)
    assert (decision.action.value, decision.disabled_tools) == (action, removed)


@pytest.mark.parametrize(
    ("spent", "policy", "state"),
    [
        ("7.99", {}, "active"),
        ("8", {}, "warned"),
        ("8", {"downgrade_rules": [TO_SMALL]}, "degraded"),
        ("8", {"disabled_tools": ["code"]}, "degraded"),
        ("9.99", {"downgrade_rules": [TO_SMALL]}, "degraded"),
        ("10", {}, "stopped"),
        ("6", {"soft_cap": "0.5"}, "warned"),
        ("9", {"soft_cap": None}, "active"),
    ],
)
def test_the_state_follows_settled_spend_and_not_what_is_held(spent: str, policy: dict[str, Any], state: str) -> None:
    make.budget("10", **policy)
    op = make.reserving("10")
    ledger.reserve(op, now=NOON)
    assert BudgetWindow.objects.get().state == "active"
    result = ledger.settle(make.settling(op.reservation_id, spent), now=NOON)
    assert result.charged_nanos == nanos(spent)
    assert BudgetWindow.objects.get().state == state
