"""A goal's budget over HTTP: an agent opens it as a task begins, and closes it as the task ends."""

from __future__ import annotations

from typing import Any

import pytest

from governance.models import AuditEntry, Budget
from tests import factories
from tests.governance.api.conftest import Api, persona

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]

GOAL = {"scope_type": "task", "scope_key": "report-7", "window": "lifetime", "limit": "2.00"}
CALL = {"model": "small", "estimated_cost": "0.50", "task": "report-7"}


def error(response: Any) -> tuple[int, str, str]:
    found = response.json()["error"]
    return response.status_code, found["code"], found["message"]


@pytest.mark.usefixtures("priced")
def test_a_tasks_whole_life(agent: Api) -> None:
    opened = agent.post("/api/budgets", GOAL)
    assert opened.status_code == 201
    budget = opened.json()
    assert (budget["tenant"], budget["scope"], budget["limit"]) == ("acme", "acme task:report-7", "2.00")
    assert (budget["source"], budget["closed_at"]) == ("key", None)
    held = agent.post("/api/reservations", CALL).json()
    assert agent.get(f"/api/budgets/{budget['id']}").json()["reserved"] == "0.50"

    closed = agent.post(f"/api/budgets/{budget['id']}/close").json()
    assert closed["closed_at"] is not None
    assert error(agent.post("/api/reservations", CALL))[:2] == (403, "budget_closed")
    told = error(agent.post("/api/reservations", CALL))[2]
    assert told.startswith("The budget of this task or session is closed: task:report-7 per lifetime")
    dry = agent.post("/api/decisions", CALL).json()
    assert (dry["allowed"], dry["reason"]) == (False, "budget_closed")
    assert agent.post("/api/reservations", CALL | {"task": "report-8"}).status_code == 201

    assert agent.post(f"/api/reservations/{held['id']}/settle", {"cost": "0.40"}).status_code == 200
    again = agent.post(f"/api/budgets/{budget['id']}/close").json()
    assert (again["closed_at"], again["spent"], again["reserved"]) == (closed["closed_at"], "0.40", "0.00")
    [window] = agent.get(f"/api/budgets/{budget['id']}/windows").json()["results"]
    assert window["spent"] == "0.40"
    row = AuditEntry.objects.get(action="budget.close")
    assert agent.key is not None
    assert row.actor == f"key {agent.key.prefix}"


def test_an_agent_closes_what_it_opened_and_nothing_else(
    agent: Api, tenant: Api, operator: Api, stranger: Api, viewer: Api
) -> None:
    mine = agent.post("/api/budgets", GOAL).json()["id"]
    other = persona("agent", agent_slug="other")
    for client, status in ((stranger, 404), (other, 404), (viewer, 403)):
        assert client.post(f"/api/budgets/{mine}/close").status_code == status
    operators = operator.post("/api/budgets", GOAL | {"tenant": "acme", "scope_key": "audit"}).json()["id"]
    assert agent.post(f"/api/budgets/{operators}/close").status_code == 404
    assert error(tenant.post(f"/api/budgets/{operators}/close"))[:2] == (403, "forbidden")
    assert Budget.objects.filter(closed_at=None).count() == 2
    assert tenant.post(f"/api/budgets/{mine}/close", {"reason": "given up"}).status_code == 200
    assert operator.post(f"/api/budgets/{operators}/close", {"reason": "audited"}).status_code == 200
    assert Budget.objects.filter(closed_at=None).count() == 0


@pytest.mark.parametrize(
    ("asked", "status", "param"),
    [
        ({"scope_type": "agent", "scope_key": "invoices"}, 403, "scope_type"),
        ({"scope_key": "*"}, 403, "scope_type"),
        ({"window": "month"}, 403, "scope_type"),
        ({"disabled_tools": ["search"]}, 403, "disabled_tools"),
        ({"tenant": "globex"}, 403, "tenant"),
        ({"limit": "0"}, 400, "limit"),
    ],
)
def test_a_key_opens_nothing_else(agent: Api, asked: dict[str, Any], status: int, param: str) -> None:
    factories.tenant("globex")
    refused = agent.post("/api/budgets", GOAL | asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)
    assert not Budget.objects.exists()


def test_it_is_opened_once_and_closes_no_budget_that_renews(agent: Api, operator: Api) -> None:
    assert agent.post("/api/budgets", GOAL | {"tenant": "acme", "soft_cap": 0.5}).status_code == 201
    assert agent.post("/api/budgets", GOAL).status_code == 409
    daily = factories.budget("1", scope_type="task", scope_key="report-7")
    assert error(operator.post(f"/api/budgets/{daily.pk}/close"))[0] == 400
