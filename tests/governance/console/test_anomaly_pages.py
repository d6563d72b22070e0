"""Anomalies in the console: read by whoever may, undone and called usual by operators."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.test import Client

from governance.models import Agent, Anomaly, AnomalyRule
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db


def anomaly(metric: str = "cost", **fields: object) -> Anomaly:
    agent = factories.agent("support")
    hours = [(NOON - timedelta(hours=number)).isoformat() for number in (2, 1, 0)]
    observed, expected, bound = (80, 2, 30) if metric == "calls" else (nanos("3"), nanos("0.10"), nanos("0.25"))
    known: dict[str, object] = {
        "subject_type": "agent",
        "subject": "acme/support",
        "tenant": agent.tenant,
        "agent": "support",
        "metric": metric,
        "hour": NOON,
        "observed": observed,
        "expected": expected,
        "bound": bound,
        "evidence": [[hours[0], 1, None, None], [hours[1], 2, 1, 3], [hours[2], observed, expected, bound]],
        "started_at": NOON,
        "last_at": NOON,
    }
    return Anomaly.objects.create(**known | fields)


def paused(at: datetime = NOON) -> Anomaly:
    made = anomaly(act="pause", acted_at=at, acted_spent_nanos=nanos("3"))
    Agent.objects.update(status="paused")
    return made


def page(client: Client, row: Anomaly, *, then: str = "change") -> str:
    return client.get(f"/admin/governance/anomaly/{row.pk}/{then}/").content.decode()


def test_the_list_says_whom_what_and_how_it_stands(admin_client: Client) -> None:
    paused()
    anomaly("calls", ended_at=NOON, ended_by="olivia")
    shown = admin_client.get("/admin/governance/anomaly/").content.decode()
    for words in ("acme/support", "Cost", "Calls", "$3.00", "30.0×", "40.0×", "paused", "called usual"):
        assert words in shown


def test_the_page_draws_the_hours_and_says_what_was_done(admin_client: Client) -> None:
    row = paused()
    shown = page(admin_client, row)
    for words in (
        "The agent acme/support spent $3.00 in the hour from 12:00 UTC, where $0.10 is usual and $0.25 the most.",
        'data-chart="anomaly-hours" data-unit="dollars"',
        "paused by itself",
        "Let it go",
        "It is usual",
        "agent=support",
    ):
        assert words in shown
    assert 'data-unit="count"' in page(admin_client, anomaly("calls", act_note="not done: another was", evidence=[]))


def test_an_operator_lets_it_go_and_calls_it_usual(admin_client: Client) -> None:
    row = paused()
    asked = page(admin_client, row, then="undo")
    assert "had spent $3.00 in an hour" in asked
    said = {"_confirmed": "1", "reason": "meant"}
    admin_client.post(f"/admin/governance/anomaly/{row.pk}/undo/", said)
    admin_client.post(f"/admin/governance/anomaly/{row.pk}/dismiss/", said)
    row.refresh_from_db()
    assert (Agent.objects.get().status, row.undone_by, row.ended_by) == ("active", "admin", "admin")
    shown = page(admin_client, row)
    assert "let go by admin" in shown
    # The messages of what was done are shown once.
    assert "Let it go" not in page(admin_client, row)


def test_a_tenants_staff_reads_its_own_and_acts_on_nothing(client: Client) -> None:
    row = anomaly(ended_at=NOON, ended_by="olivia")
    foreign = anomaly("calls", subject="globex/x", tenant=factories.tenant("globex"))
    client.force_login(factories.person("tess", "tenant staff", of=factories.tenant()))
    shown = page(client, row)
    assert "called usual by an operator" in shown
    assert "olivia" not in shown
    assert client.get(f"/admin/governance/anomaly/{foreign.pk}/change/").status_code == 302
    assert client.get(f"/admin/governance/anomaly/{row.pk}/dismiss/").status_code == 403
    assert client.get("/admin/governance/anomalyrule/").status_code == 403


def test_of_a_model_and_of_a_customer_the_page_leads_there(admin_client: Client) -> None:
    of_model = anomaly(subject_type="model", subject="mistral/large", tenant=None, agent="", model="mistral/large")
    assert "model=large" in page(admin_client, of_model)
    of_tenant = anomaly(subject_type="tenant", subject="acme", agent="")
    assert f"/admin/governance/tenant/{of_tenant.tenant_id}/change/" in page(admin_client, of_tenant)


def test_a_rule_is_made_changed_and_deleted_by_its_form(admin_client: Client) -> None:
    owner = factories.tenant()
    asked = {"tenant": owner.pk, "agent": "support", "act": "degrade", "degrade_to": ""}
    wrong = admin_client.post("/admin/governance/anomalyrule/add/", asked)
    assert "name the model that calls go to" in wrong.content.decode()
    admin_client.post("/admin/governance/anomalyrule/add/", asked | {"degrade_to": "mistral-small-latest"})
    made = AnomalyRule.objects.get()
    again = admin_client.post("/admin/governance/anomalyrule/add/", asked | {"act": "pause"})
    assert "There is a rule for acme: agent support already" in again.content.decode()
    opened = admin_client.get(f"/admin/governance/anomalyrule/{made.pk}/change/")
    fields = opened.context["adminform"].form.initial | {"act": "pause", "degrade_to": ""}
    posted = {name: value for name, value in fields.items() if value is not None}
    for field in opened.context["adminform"].form:
        posted.setdefault(field.html_name, field.value() or "")
    admin_client.post(f"/admin/governance/anomalyrule/{made.pk}/change/", posted)
    made.refresh_from_db()
    assert made.act == "pause"
    admin_client.post(f"/admin/governance/anomalyrule/{made.pk}/remove/", {"_confirmed": "1", "reason": "done with"})
    assert not AnomalyRule.objects.exists()


def test_a_viewer_reads_a_rule(client: Client) -> None:
    made = AnomalyRule.objects.create(tenant=factories.tenant(), agent="*", act="pause")
    client.force_login(factories.person("vera", "viewer"))
    shown = client.get(f"/admin/governance/anomalyrule/{made.pk}/change/").content.decode()
    assert "pause: refuse its calls" in shown
    assert "acme: each agent" in client.get("/admin/governance/anomalyrule/").content.decode()
