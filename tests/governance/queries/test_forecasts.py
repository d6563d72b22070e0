"""When budgets run out: read from hourly sums and windows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from governance import ledger
from governance.ledger.operations import Reset
from governance.models import Budget
from governance.queries import budget_status, forecasts
from governance.queries.forecasts import Outlook
from governance.rules.forecast import HOUR, Basis
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.usefixtures("ledger_holds")

# Half past, so that the hour that goes on is in part over.
NOW = NOON + timedelta(minutes=30)


def spend(cost: str, *, hours_ago: int, **caller: Any) -> None:
    owner = caller.pop("owner", None)
    at = NOON - HOUR * hours_ago
    by = factories.caller(owner, **caller)
    ledger.record(factories.reporting(cost, by=by, occurred_at=at), now=at)


def outlook(budget: Budget) -> Outlook:
    return forecasts.of_budget(budget, budget_status.current([budget], now=NOW)[budget.pk], now=NOW)


def test_the_rate_of_the_hours_before_says_when_it_runs_out() -> None:
    budget = factories.budget("10", window="lifetime")
    for hours_ago in range(1, 11):
        spend("0.10", hours_ago=hours_ago)
    found = outlook(budget)
    assert (found.cap_nanos, found.soft_nanos) == (nanos("10"), nanos("8"))
    assert found.forecast is not None
    assert found.forecast.basis is Basis.RATE
    # A dollar is spent, and nine more are at ten cents an hour.
    assert found.forecast.runs_out_at == NOW + HOUR * 90


def test_the_course_leads_from_nothing_to_what_the_window_has_settled() -> None:
    budget = factories.budget("10", window="day")
    spend("0.50", hours_ago=20)
    spend("0.10", hours_ago=3)
    spend("0.20", hours_ago=1)
    found = outlook(budget)
    midnight = NOON.replace(hour=0)
    # What was spent the day before is not of this window.
    assert found.spent[0] == (midnight, 0)
    assert found.spent[1:-1] == ((NOON - HOUR * 2, nanos("0.10")), (NOON, nanos("0.30")))
    assert found.spent[-1] == (NOW, nanos("0.30"))
    assert found.forecast is not None
    assert found.forecast.points[-1].at == midnight + timedelta(days=1)


def test_an_agents_hours_are_its_own_and_its_tenants() -> None:
    budget = factories.budget("10", window="lifetime", scope_type="agent", scope_key="support")
    other = factories.tenant("globex")
    spend("0.10", hours_ago=1, agent="support")
    spend("3.00", hours_ago=1, agent="churn")
    spend("5.00", hours_ago=1, agent="support", owner=other)
    found = outlook(budget).forecast
    assert found is not None
    assert found.points[1].expected_nanos == nanos("0.15")


def test_of_a_budget_for_each_tenant_the_fullest_is_told() -> None:
    each = factories.budget("1", window="day", scope_type="tenant", tenant=None, scope_key="*")
    Budget.objects.filter(pk=each.pk).update(tenant=None)
    each.refresh_from_db()
    spend("0.10", hours_ago=1)
    spend("0.90", hours_ago=1, owner=factories.tenant("globex"))
    found = outlook(each)
    assert found.status.subject == "globex"
    assert found.forecast is not None
    assert found.spent[-1] == (NOW, nanos("0.90"))


def test_of_an_agent_of_every_tenant_the_name_may_have_a_slash() -> None:
    each = factories.budget("1", window="day", scope_type="agent", scope_key="*")
    Budget.objects.filter(pk=each.pk).update(tenant=None)
    each.refresh_from_db()
    spend("0.30", hours_ago=1, agent="team/support")
    spend("0.60", hours_ago=1, agent="support")
    spend("0.90", hours_ago=2, agent="team/support")
    found = outlook(each)
    assert found.status.subject == "acme/team/support"
    assert [amount for _, amount in found.spent] == [0, nanos("0.90"), nanos("1.20"), nanos("1.20")]


def test_the_platform_is_everybody() -> None:
    budget = factories.budget("10", window="lifetime", scope_type="platform")
    spend("0.10", hours_ago=1)
    spend("0.20", hours_ago=1, owner=factories.tenant("globex"))
    found = outlook(budget).forecast
    assert found is not None
    assert found.points[1].expected_nanos == nanos("0.45")


@pytest.mark.parametrize("scope", ["user", "session", "task"])
def test_where_no_hours_are_kept_the_windows_say_how_much_is_spent(scope: str) -> None:
    budget = factories.budget("2", window="day", scope_type=scope, scope_key="ana")
    for days_ago in (3, 2, 1):
        spend("2.40", hours_ago=24 * days_ago, **{scope: "ana"})
    spend("0.60", hours_ago=6, **{scope: "ana"})
    with CaptureQueriesContext(connection) as captured:
        found = outlook(budget)
    assert not [query for query in captured if "spendentry" in query["sql"]]
    assert found.forecast is not None
    assert found.forecast.basis is Basis.HOURS
    # Ten cents an hour on the days before, and less today.
    assert nanos("0.60") < found.forecast.points[-1].expected_nanos < nanos("2")
    assert found.spent[0] == (NOON.replace(hour=0), 0)
    assert found.spent[-1] == (NOW, nanos("0.60"))


def test_what_happened_in_a_window_is_part_of_its_course() -> None:
    budget = factories.budget("1", window="day", scope_type="user", scope_key="ana")
    spend("0.60", hours_ago=6, user="ana")
    spend("0.20", hours_ago=2, user="ana")
    # The soft cap and two thresholds were reached.
    assert [amount for _, amount in outlook(budget).spent] == [
        0, nanos("0.60"), *[nanos("0.80")] * 3
    ]  # fmt: skip


def test_of_a_budget_that_nobody_has_used_nothing_is_forecast() -> None:
    found = outlook(factories.budget("1", window="day"))
    assert found.forecast is None
    assert [amount for _, amount in found.spent] == [0, 0]
    each = factories.budget("1", window="lifetime", scope_type="agent", scope_key="*")
    assert outlook(each).forecast is None


def test_a_reset_in_mid_hour_leaves_no_spend_before_it() -> None:
    budget = factories.budget("1", window="lifetime")
    spend("0.90", hours_ago=0)
    ledger.reset(Reset(budget.pk, "anew", "olga", None), now=NOON + timedelta(minutes=10))
    found = outlook(budget)
    assert found.status.settled_nanos == 0
    assert found.spent[0][1] == found.spent[-1][1] == 0


def test_what_is_kept_says_when_a_window_runs_out_while_it_is_of_that_window_and_fresh() -> None:
    budget = factories.budget("10")
    factories.kept_forecast(budget, now=NOON, runs_out_in=HOUR * 3)
    last_of_all = factories.budget("5", scope_type="agent", scope_key="invoices")
    factories.kept_forecast(last_of_all, now=NOON, runs_out_in=HOUR * 4)
    found = forecasts.running_out(now=NOON)
    assert list(found) == [budget.pk, last_of_all.pk]
    assert list(forecasts.running_out(now=NOON, budgets=[last_of_all.pk])) == [last_of_all.pk]
    row, status = found[budget.pk], budget_status.current([budget], now=NOON)[budget.pk]
    assert forecasts.runs_out_at(row, status, now=NOON) == NOON + HOUR * 3
    for gone in (
        forecasts.runs_out_at(None, status, now=NOON),
        forecasts.runs_out_at(row, status, now=NOON + forecasts.FRESH),
        forecasts.runs_out_at(row, status, now=NOON + HOUR * 3),
        forecasts.runs_out_at(row, replace(status, limit_nanos=nanos("11")), now=NOON),
        forecasts.runs_out_at(row, replace(status, settled_nanos=nanos("10")), now=NOON),
        forecasts.runs_out_at(row, replace(status, starts_at=NOON + HOUR), now=NOON),
    ):
        assert gone is None
