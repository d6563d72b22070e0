"""When budgets run out is kept for lists and alerts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from governance import ledger
from governance.models import Budget, BudgetForecast
from governance.queries import forecasts as kept
from governance.queries.spend import Reader
from governance.upkeep import forecasts
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


def test_those_that_run_out_before_their_end_are_found_for_whoever_may_see_them(spent: Budget) -> None:
    forecasts.keep(now=NOON)
    assert [row.budget for row in kept.before_reset(now=NOON)] == [spent]
    stranger = Reader(tenant=factories.tenant("globex"))
    assert not kept.before_reset(now=NOON, reader=stranger).exists()
    BudgetForecast.objects.update(ends_at=NOON - HOUR)
    assert not kept.before_reset(now=NOON).exists()
    BudgetForecast.objects.update(ends_at=None, runs_out_at=None)
    assert not kept.before_reset(now=NOON).exists()


def test_a_budget_that_is_off_or_knows_nothing_has_none(spent: Budget) -> None:
    idle = factories.budget("5", tenant=factories.tenant("globex"))
    BudgetForecast.objects.create(
        budget=idle, made_at=NOON, expected_nanos=nanos("1"), low_nanos=nanos("1"), high_nanos=nanos("1")
    )
    forecasts.keep(now=NOON)
    assert [row.budget for row in BudgetForecast.objects.all()] == [spent]
    Budget.objects.filter(pk=spent.pk).update(enabled=False)
    forecasts.keep(now=NOON)
    assert not BudgetForecast.objects.exists()


def test_those_reckoned_longest_ago_come_first(spent: Budget) -> None:
    second = factories.budget("10", window="month")
    forecasts.keep(now=NOON, most=1)
    forecasts.keep(now=NOON + timedelta(minutes=1), most=1)
    assert {row.budget for row in BudgetForecast.objects.all()} == {spent, second}
