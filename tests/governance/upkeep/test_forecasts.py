"""When budgets run out is kept for lists and alerts."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.models import Budget, BudgetForecast
from governance.queries import budget_status
from governance.queries import forecasts as kept
from governance.upkeep import conditions, forecasts
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.usefixtures("ledger_holds")
HOUR = timedelta(hours=1)


@pytest.fixture
def spent(ledger_holds: None) -> Budget:
    """A dollar in ten hours, of a budget that has ten."""
    budget = factories.budget("10", window="lifetime")
    for hours_ago in range(1, 11):
        at = NOON - HOUR * hours_ago
        ledger.record(factories.reporting("0.10", occurred_at=at), now=at)
    return budget


def test_each_budget_has_one_row_that_is_renewed(spent: Budget) -> None:
    factories.budget("1", scope_type="agent", scope_key="*")
    assert forecasts.keep(now=NOON) == 1
    row = BudgetForecast.objects.get()
    assert (row.budget, row.runs_out_at, row.ends_at) == (spent, NOON + HOUR * 90, None)
    assert row.earliest is not None
    assert row.earliest < NOON + HOUR * 90
    assert row.low_nanos <= row.expected_nanos <= row.high_nanos
    assert forecasts.keep(now=NOON + HOUR) == 1
    assert BudgetForecast.objects.get().made_at == NOON + HOUR


def shown(budget: Budget, now: datetime = NOON) -> BudgetForecast | None:
    statuses = budget_status.current([budget], now=now)
    return kept.kept(statuses, now=now).get(budget.pk)


def test_those_that_run_out_before_their_end_are_found(spent: Budget) -> None:
    forecasts.keep(now=NOON)
    assert not kept.before_reset(now=NOON).exists()
    BudgetForecast.objects.update(ends_at=NOON + HOUR * 999)
    assert [row.budget for row in kept.before_reset(now=NOON)] == [spent]
    assert not kept.before_reset(now=NOON + kept.FRESH).exists()
    BudgetForecast.objects.update(latest=None)
    assert not kept.before_reset(now=NOON).exists()


def test_what_is_kept_is_shown_while_it_is_fresh_and_of_the_same_window_and_cap(spent: Budget) -> None:
    forecasts.keep(now=NOON)
    row = shown(spent, NOON + kept.FRESH - HOUR)
    assert row is not None
    assert row.runs_out_at == NOON + HOUR * 90
    assert shown(spent, NOON + kept.FRESH) is None
    by = Actor("olivia")
    budgets.change(budget=spent, changes={"limit_nanos": nanos("20")}, by=by, now=NOON)
    assert shown(spent) is None
    budgets.change(budget=spent, changes={"limit_nanos": nanos("10")}, by=by, now=NOON)
    assert shown(spent) is not None
    budgets.reset(budget=spent, reason="anew", by=by, now=NOON + HOUR)
    assert shown(spent, NOON + HOUR) is None


def test_a_budget_that_is_off_or_knows_nothing_shows_none(spent: Budget) -> None:
    idle = factories.budget("5", tenant=factories.tenant("globex"))
    forecasts.keep(now=NOON)
    assert shown(idle) is None
    Budget.objects.update(enabled=False)
    assert shown(spent) is None
    forecasts.keep(now=NOON)
    assert not BudgetForecast.objects.exists()


def test_those_reckoned_longest_ago_come_first(spent: Budget) -> None:
    second = factories.budget("10", window="month")
    forecasts.keep(now=NOON, most=1)
    forecasts.keep(now=NOON + timedelta(minutes=1), most=1)
    assert {row.budget for row in BudgetForecast.objects.all()} == {spent, second}


def test_budgets_that_nobody_uses_do_not_keep_others_from_being_reckoned(ledger_holds: None) -> None:
    for name in ("globex", "initech"):
        factories.budget("5", tenant=factories.tenant(name))
    last = factories.budget("10", window="lifetime")
    at = NOON - HOUR * 2
    ledger.record(factories.reporting("0.10", occurred_at=at), now=at)
    forecasts.keep(now=NOON, most=2)
    assert shown(last) is None
    forecasts.keep(now=NOON + timedelta(minutes=1), most=2)
    assert shown(last, NOON + timedelta(minutes=1)) is not None


def test_a_budget_that_runs_out_is_told_of_however_many_others_are_fuller(
    ledger_holds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "MOST_FORECASTS", 1)
    fast, other = factories.budget("4", window="week"), factories.tenant("globex")
    factories.budget("1", tenant=other)
    fuller = factories.reporting("0.90", by=factories.caller(other), occurred_at=NOON - HOUR)
    ledger.record(fuller, now=NOON - HOUR)
    for hours_ago in range(1, 11):
        at = NOON - HOUR * hours_ago
        ledger.record(factories.reporting("0.20", occurred_at=at), now=at)
    assert "weekly budget of acme" not in " ".join(conditions.running_out(NOON))
    forecasts.keep(now=NOON)
    assert fast.pk in kept.before_reset(now=NOON).values_list("budget", flat=True)
    assert "weekly budget of acme" in " ".join(conditions.running_out(NOON))
