"""A report counts in the window that was open when its call was made; where there was none, in the one that is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from governance import ledger
from governance.ledger.operations import Reset
from governance.models import Budget, BudgetWindow
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def report(cost: str, *, ago: timedelta, now: Any = NOON, **fields: Any) -> None:
    ledger.record(make.reporting(cost, occurred_at=now - ago, **fields), now=now)


def settled() -> list[int]:
    """Of all windows, the oldest first."""
    return list(BudgetWindow.objects.order_by("starts_at", "id").values_list("settled_nanos", flat=True))


@pytest.mark.parametrize("window", ["lifetime", "billing_cycle", "hour", "day", "week", "month"])
@pytest.mark.parametrize("ago", [MINUTE, timedelta(hours=2), DAY, timedelta(days=399)])
def test_no_report_is_outside_of_a_budget_that_governs_it(window: str, ago: timedelta) -> None:
    """Whether the budget's window opens with it, or was opened after what it reports."""
    make.budget("1.00", window=window)
    report("0.25", ago=ago)
    report("0.25", ago=ago)
    assert sum(settled()) == nanos("0.50")


@pytest.mark.parametrize("scope", [("platform", ""), ("agent", "*"), ("agent", "invoices"), ("tenant", "*")])
def test_so_it_is_with_every_scope(scope: tuple[str, str]) -> None:
    by = make.caller(agent="invoices")
    tenant = make.tenant() if scope == ("agent", "invoices") else None
    Budget.objects.create(
        tenant=tenant, scope_type=scope[0], scope_key=scope[1], window="lifetime", limit_nanos=nanos("1.00")
    )
    report("0.25", ago=DAY, by=by)
    assert settled() == [nanos("0.25")]


def test_a_call_of_yesterday_counts_in_yesterdays_window() -> None:
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON - DAY)
    # Nobody has closed it yet: today's first call does.
    report("0.20", ago=DAY)
    report("0.30", ago=timedelta(0))
    report("0.05", ago=DAY)
    assert settled() == [nanos("0.35"), nanos("0.30")]


def test_a_call_from_before_a_reset_counts_in_the_window_that_was_reset() -> None:
    budget = make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON)
    ledger.reset(Reset(budget.pk, "again", "ada"), now=NOON + 10 * MINUTE)
    later = NOON + 20 * MINUTE
    report("0.20", ago=15 * MINUTE, now=later)
    report("0.30", ago=5 * MINUTE, now=later)
    report("0.40", ago=10 * MINUTE, now=later)
    assert settled() == [nanos("0.30"), nanos("0.70")]


def test_a_call_between_two_windows_counts_in_the_open_one() -> None:
    """Closed long after its time, the old one is not stretched until then."""
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON - 5 * DAY)
    report("0.20", ago=2 * DAY)
    assert settled() == [nanos("0.10"), nanos("0.20")]


def test_a_paid_period_goes_on_until_the_next_is_opened() -> None:
    budget = make.budget("1.00", window="billing_cycle")
    ledger.record(make.reporting("0.10"), now=NOON - 5 * DAY)
    BudgetWindow.objects.update(ends_at=NOON - 4 * DAY)
    ledger.reset(Reset(budget.pk, "again", "ada"), now=NOON - DAY)
    report("0.20", ago=2 * DAY)
    report("0.30", ago=MINUTE)
    assert settled() == [nanos("0.30"), nanos("0.30")]


def test_reports_of_different_days_in_one_batch() -> None:
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON - DAY)
    ledger.apply(
        [
            make.reporting("0.01", occurred_at=NOON - DAY),
            make.reporting("0.02", occurred_at=NOON),
            make.reporting("0.03", occurred_at=NOON - 2 * DAY),
            make.reporting("0.04"),
        ],
        now=NOON,
    )
    assert settled() == [nanos("0.11"), nanos("0.09")]
