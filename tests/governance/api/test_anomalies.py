from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from governance.models import Agent, Anomaly, Tenant
from tests import factories
from tests.factories import nanos
from tests.governance.api.conftest import Api


def anomaly(agent: str = "invoices", *, of: str = "acme", **fields: Any) -> Anomaly:
    now = timezone.now()
    owner = factories.tenant(of)
    known = {
        "subject_type": "agent",
        "subject": f"{of}/{agent}",
        "tenant": owner,
        "agent": agent,
        "metric": "cost",
        "hour": now.replace(minute=0, second=0, microsecond=0),
        "observed": nanos("3.50"),
        "expected": nanos("0.10"),
        "bound": nanos("0.25"),
        "started_at": now,
        "last_at": now,
    }
    return Anomaly.objects.create(**known | fields)


@pytest.fixture
def three(db: None) -> list[Anomaly]:
    return [
        anomaly(),
        anomaly("churn", ended_at=timezone.now() + timedelta(minutes=1)),
        anomaly("invoices", of="globex", metric="calls", observed=80, expected=2, bound=30),
    ]


def subjects(api: Api, **query: Any) -> list[str]:
    return [row["subject"] for row in api.get("/api/spend/anomalies", **query).json()["results"]]


def test_each_reader_sees_its_own(operator: Api, tenant: Api, agent: Api, stranger: Api, three: list[Anomaly]) -> None:
    assert subjects(operator) == ["globex/invoices", "acme/churn", "acme/invoices"]
    assert subjects(tenant) == ["acme/churn", "acme/invoices"]
    assert subjects(agent) == ["acme/invoices"]
    assert subjects(stranger) == ["globex/invoices"]
    assert subjects(tenant, tenant="globex") == []


def test_they_are_filtered(operator: Api, three: list[Anomaly]) -> None:
    assert subjects(operator, open="true", tenant="acme") == ["acme/invoices"]
    assert subjects(operator, open="false") == ["acme/churn"]
    assert subjects(operator, metric="calls") == ["globex/invoices"]
    assert subjects(operator, agent="churn") == ["acme/churn"]
    wrong = operator.get("/api/spend/anomalies", metric="mood")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "metric")


def test_figures_are_dollars_or_numbers(operator: Api, three: list[Anomaly]) -> None:
    calls, _, cost = operator.get("/api/spend/anomalies").json()["results"]
    assert (cost["observed"], cost["expected"], cost["bound"]) == ("3.50", "0.10", "0.25")
    assert (calls["observed"], calls["expected"], calls["bound"]) == ("80", "2", "30")
    assert cost["sentence"].startswith("The agent acme/invoices spent $3.50")
    table = operator.get("/api/spend/anomalies", format="csv")
    assert "globex/invoices" in b"".join(table).decode()


def test_keys_of_a_tenant_that_shows_no_amounts_are_told_none(tenant: Api, three: list[Anomaly]) -> None:
    Tenant.objects.filter(slug="acme").update(show_amounts=False)
    row = tenant.get("/api/spend/anomalies").json()["results"][0]
    assert (row["observed"], row["bound"], row["sentence"]) == (None, None, "")


def test_operators_dismiss_and_undo(operator: Api, tenant: Api, three: list[Anomaly]) -> None:
    one = three[0]
    agent = factories.agent("invoices")
    Agent.objects.filter(pk=agent.pk).update(status="paused")
    Anomaly.objects.filter(pk=one.pk).update(act="pause", acted_at=timezone.now(), acted_spent_nanos=nanos("3"))
    path = f"/api/spend/anomalies/{one.pk}"
    assert tenant.post(f"{path}/undo", {}).status_code == 403
    undone = operator.post(f"{path}/undo", {"reason": "meant"})
    assert (undone.status_code, undone.json()["spent_when_acted"]) == (200, "3.00")
    agent.refresh_from_db()
    assert agent.status == "active"
    assert operator.post(f"{path}/undo", {}).status_code == 409
    assert operator.post(f"{path}/dismiss", {}).json()["ended_at"] is not None
    assert operator.post(f"{path}/dismiss", {}).status_code == 409
    assert operator.post("/api/spend/anomalies/999999/dismiss", {}).status_code == 404
