from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from governance import ledger
from governance.models import Budget, Tenant
from tests import factories
from tests.governance.api.conftest import Api


@pytest.fixture
def budget(db: None) -> Budget:
    """A tenth of it was spent in each of the last five full hours."""
    made = factories.budget("10", window="lifetime")
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for number in range(1, 6):
        at = hour - timedelta(hours=number)
        ledger.record(factories.reporting("1", occurred_at=at), now=at)
    return made


def forecasts(api: Api, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("/api/spend/forecast", **query).json()["results"]
    return found


def test_it_says_when_a_budget_runs_out_and_between_when_and_when(operator: Api, budget: Budget) -> None:
    (row,) = forecasts(operator, budget=budget.pk)
    assert (row["budget"], row["spent"], row["limit"], row["basis"]) == (budget.pk, "5.00", "10.00", "rate")
    assert row["earliest"] < row["runs_out_at"]
    assert row["latest"] is None or row["runs_out_at"] < row["latest"]
    assert float(row["low"]) <= float(row["expected"]) <= float(row["high"])


def test_each_reader_is_told_of_its_own(tenant: Api, stranger: Api, agent: Api, budget: Budget) -> None:
    assert [row["budget"] for row in forecasts(tenant)] == [budget.pk]
    assert forecasts(stranger) == []
    assert forecasts(agent) == []
    assert stranger.get("/api/spend/forecast", budget=budget.pk).status_code == 404


def test_no_amounts_are_shown_where_the_tenant_shows_none(tenant: Api, budget: Budget) -> None:
    Tenant.objects.filter(slug="acme").update(show_amounts=False)
    (row,) = forecasts(tenant)
    assert [row[name] for name in ("spent", "limit", "expected", "low", "high")] == [None] * 5
    assert row["runs_out_at"] is not None


def test_of_a_budget_that_nothing_was_spent_of_nothing_is_said(operator: Api, db: None) -> None:
    idle = factories.budget("1", window="month")
    (row,) = forecasts(operator, tenant="acme")
    assert (row["budget"], row["basis"], row["runs_out_at"], row["expected"]) == (idle.pk, None, None, None)


def test_of_very_many_one_has_to_be_named(operator: Api, db: None) -> None:
    for number in range(21):
        factories.budget("1", scope_type="agent", scope_key=f"a{number}")
    wrong = operator.get("/api/spend/forecast")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "budget")
    assert operator.get("/api/spend/forecast", budget="x").status_code == 400
