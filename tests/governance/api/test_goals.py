"""A goal's budget over HTTP: an operator opens it as a task begins, and closes it as the task ends."""

from __future__ import annotations

from typing import Any

import pytest

from governance.models import AuditEntry, Budget
from tests import factories
from tests.governance.api.conftest import Api

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]

GOAL = {"tenant": "acme", "scope_type": "task", "scope_key": "report-7", "window": "lifetime", "limit": "2.00"}
CALL = {"model": "small", "estimated_cost": "0.50", "task": "report-7"}


def error(response: Any) -> tuple[int, str, str]:
    found = response.json()["error"]
    return response.status_code, found["code"], found["message"]


@pytest.mark.usefixtures("priced")
def test_a_tasks_whole_life(agent: Api, operator: Api) -> None:
    opened = operator.post("/api/budgets", GOAL)
    assert opened.status_code == 201
    budget = opened.json()
    assert (budget["tenant"], budget["scope"], budget["limit"]) == ("acme", "acme task:report-7", "2.00")
    assert budget["closed_at"] is None
    held = agent.post("/api/reservations", CALL).json()
    assert operator.get(f"/api/budgets/{budget['id']}").json()["reserved"] == "0.50"

    closed = operator.post(f"/api/budgets/{budget['id']}/close").json()
    assert closed["closed_at"] is not None
    assert error(agent.post("/api/reservations", CALL))[:2] == (403, "budget_closed")
    told = error(agent.post("/api/reservations", CALL))[2]
    assert told.startswith("The budget of this task or session is closed: task:report-7 per lifetime")
    dry = agent.post("/api/decisions", CALL).json()
    assert (dry["allowed"], dry["reason"]) == (False, "budget_closed")
    assert agent.post("/api/reservations", CALL | {"task": "report-8"}).status_code == 201

    assert agent.post(f"/api/reservations/{held['id']}/settle", {"cost": "0.40"}).status_code == 200
    again = operator.post(f"/api/budgets/{budget['id']}/close").json()
    assert (again["closed_at"], again["spent"], again["reserved"]) == (closed["closed_at"], "0.40", "0.00")
    [window] = operator.get(f"/api/budgets/{budget['id']}/windows").json()["results"]
    assert window["spent"] == "0.40"
    assert AuditEntry.objects.filter(action="budget.close").count() == 1


def test_operators_alone_open_and_close_it(agent: Api, tenant: Api, operator: Api, stranger: Api, viewer: Api) -> None:
    """An exact budget takes the place of one for each task, so nobody opens one for a cap of its own."""
    budget = factories.budget("1", scope_type="task", scope_key="report-7", window="lifetime")
    for client in (agent, tenant, stranger, viewer):
        assert client.post("/api/budgets", GOAL | {"scope_key": "other"}).status_code == 403
        assert client.post(f"/api/budgets/{budget.pk}/close").status_code == 403
    assert Budget.objects.get().closed_at is None


def test_no_budget_that_renews_is_closed(operator: Api) -> None:
    daily = factories.budget("1", scope_type="task", scope_key="report-7")
    assert error(operator.post(f"/api/budgets/{daily.pk}/close"))[0] == 400
