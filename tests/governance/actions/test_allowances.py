"""More than the limit for a time: it counts at once, ends by itself, and says who gave it."""

from datetime import timedelta

import pytest

from governance import ledger
from governance.actions import allowances
from governance.audit import Actor
from governance.ledger.operations import ChangeLimit
from governance.models import AuditEntry, Budget, BudgetWindow
from governance.rules.errors import FieldError
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]
ADA = Actor("ada")
HOUR = timedelta(hours=1)


def limit() -> int:
    return BudgetWindow.objects.get(closed_at=None).limit_nanos


def fits(cost: str, *, at=NOON) -> bool:
    """Whether a call would be let through, in truth and in the dry run alike."""
    op = make.reserving(cost)
    dry = ledger.dry_run(op.caller, op.call, now=at)
    decision = ledger.reserve(op, now=at)
    assert (dry.action, dry.reason) == (decision.action, decision.reason)
    if decision.allowed:
        ledger.release(make.releasing(op.reservation_id), now=at)
    return decision.allowed


def raised(budget, amount="1.00", start=NOON, end=NOON + HOUR):
    return allowances.raise_limit(
        budget=budget, amount_nanos=nanos(amount), starts_at=start, ends_at=end, reason="launch", by=ADA, now=NOON
    )


def test_a_raise_counts_at_once_and_ends_by_itself():
    budget = make.budget("1.00", soft_cap=None)
    assert not fits("1.50")
    raised(budget)
    assert fits("1.50")
    assert limit() == nanos("2")
    assert not fits("1.50", at=NOON + HOUR)
    assert limit() == nanos("1")


def test_a_raise_to_come_begins_by_itself():
    budget = make.budget("1.00", soft_cap=None)
    assert fits("0.10")
    raised(budget, start=NOON + HOUR, end=NOON + 2 * HOUR)
    assert not fits("1.50")
    assert fits("1.50", at=NOON + HOUR)
    assert not fits("1.50", at=NOON + 2 * HOUR)


def test_a_raise_counts_in_a_window_that_opens_while_it_runs():
    budget = make.budget("1.00", soft_cap=None)
    raised(budget, end=NOON + timedelta(days=2))
    assert fits("1.50", at=NOON + timedelta(days=1))


def test_raises_add_up_and_a_changed_limit_keeps_them():
    budget = make.budget("1.00", soft_cap=None)
    assert fits("0.10")
    raised(budget)
    raised(budget, "0.50", end=NOON + 2 * HOUR)
    assert limit() == nanos("2.50")
    ledger.change_limit(ChangeLimit(budget.id, nanos("3"), "plan", "ada"), now=NOON)
    Budget.objects.update(limit_nanos=nanos("3"))
    assert limit() == nanos("4.50")
    ledger.roll_windows(now=NOON + HOUR)
    assert limit() == nanos("3.50")


def test_a_top_up_is_for_its_window_alone_and_lets_a_stopped_tenant_go_on():
    budget = make.budget("0.10", soft_cap=None)
    ledger.record(make.reporting("0.10"), now=NOON)
    assert BudgetWindow.objects.get().state == "stopped"
    allowances.top_up(budget=budget, amount_nanos=nanos("1"), reason="paid", by=ADA, now=NOON)
    assert BudgetWindow.objects.get().state == "active"
    assert fits("0.50")
    assert not fits("0.50", at=NOON + timedelta(days=1))


def test_ending_one_takes_it_back_at_once():
    budget = make.budget("1.00", soft_cap=None)
    assert fits("0.10")
    given = raised(budget, start=NOON - HOUR)
    assert fits("1.50")
    allowances.end(allowance=given, by=ADA, now=NOON)
    assert not fits("1.50")
    with pytest.raises(FieldError, match="ended already"):
        allowances.end(allowance=given, by=ADA, now=NOON)
    actions = AuditEntry.objects.order_by("id").values_list("action", flat=True)
    assert list(actions) == ["budget.raise", "budget.allowance_end"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount_nanos": 0}, "amount"),
        ({"reason": "  "}, "reason"),
        ({"ends_at": NOON - 2 * HOUR, "starts_at": NOON - 3 * HOUR}, "ends_at"),
        ({"ends_at": NOON}, "ends_at"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(changes, field):
    budget = make.budget("1.00")
    asked = {"amount_nanos": 1, "starts_at": NOON, "ends_at": NOON + HOUR, "reason": "r"} | changes
    with pytest.raises(FieldError) as caught:
        allowances.raise_limit(budget=budget, by=ADA, now=NOON, **asked)
    assert caught.value.field == field
    assert not AuditEntry.objects.exists()


def test_a_top_up_needs_one_open_window():
    with pytest.raises(FieldError, match="no open window"):
        allowances.top_up(budget=make.budget("1.00"), amount_nanos=1, reason="r", by=ADA, now=NOON)
