"""What a period that is over has left cannot be spent by whoever dates, settles or extends into it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from governance.models import Budget, BudgetWindow, PendingReport, SpendEntry
from tests import factories
from tests.factories import nanos
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def budget() -> Budget:
    factories.budget("50", scope_type="platform")
    return factories.budget("10")


def reset(operator: Api, budget: Budget) -> None:
    assert operator.post(f"/api/budgets/{budget.pk}/reset", {"reason": "a new day"}).status_code == 200


def held(agent: Api) -> str:
    made = agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.01"})
    return str(made.json()["id"])


def spent_nanos() -> int:
    return sum(row.cost_nanos for row in SpendEntry.objects.all())


def test_reports_dated_before_a_reset_wait_when_they_are_too_many(agent: Api, operator: Api, budget: Budget) -> None:
    agent.post("/api/spend", {"request_id": "first", "cost": "0.01"})
    at = datetime.now(UTC).isoformat()
    reset(operator, budget)
    statuses = [
        agent.post("/api/spend", {"request_id": f"r{n}", "cost": "9", "occurred_at": at}).status_code for n in range(5)
    ]
    assert statuses == [201, 409, 409, 409, 409]
    assert PendingReport.objects.count() == 4
    assert all(window.settled_nanos <= window.limit_nanos for window in BudgetWindow.objects.all())


def test_settlements_above_holds_of_old_periods_wait_when_they_are_too_many(
    agent: Api, operator: Api, budget: Budget
) -> None:
    for _ in range(4):
        id = held(agent)
        reset(operator, budget)
        agent.post(f"/api/reservations/{id}/settle", {"cost": "9.90"})
    assert spent_nanos() <= nanos("10")
    assert PendingReport.objects.count() == 3


def test_a_hold_of_an_old_period_gets_no_more_money(agent: Api, operator: Api, budget: Budget) -> None:
    id = held(agent)
    reset(operator, budget)
    refused = agent.post(f"/api/reservations/{id}/extend", {"more": "9.90"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "reserve_anew")
    assert "period" in str(refused.json())
    # It may still live on, and be settled.
    assert agent.post(f"/api/reservations/{id}/extend", {"ttl_s": 600}).status_code == 200
    assert agent.post(f"/api/reservations/{id}/settle", {"cost": "0.01"}).status_code == 200
