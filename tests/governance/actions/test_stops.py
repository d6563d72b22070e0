from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from governance.actions import stops
from governance.audit import Actor
from governance.models import Agent, AuditEntry, EmergencyStop, Tenant
from governance.rules.errors import Conflict, FieldError, NotOpen
from tests import factories
from tests.factories import NOON

pytestmark = pytest.mark.django_db
OLGA = Actor("olga")
LATER = NOON + timedelta(minutes=5)


def stop(tenant: Tenant | None = None, agent: Agent | None = None, reason: str = "a loop") -> EmergencyStop:
    return stops.stop(tenant=tenant, agent=agent, reason=reason, by=OLGA, now=NOON)


def test_a_stop_of_everything_names_who_why_and_when_and_is_audited() -> None:
    made = stop()
    assert (made.tenant, made.agent, made.actor, made.started_at) == (None, None, "olga", NOON)
    assert list(stops.active()) == [made]
    row = AuditEntry.objects.get()
    assert (row.action, row.target, row.actor, row.reason) == ("stop.start", "everything", "olga", "a loop")


def test_a_stop_of_an_agent_brings_its_tenant_along() -> None:
    agent = factories.agent()
    made = stop(agent=agent)
    assert (made.tenant, stops.whom(made)) == (agent.tenant, "agent acme/invoices")


def test_an_agent_its_tenant_and_everything_can_be_stopped_side_by_side_and_each_once() -> None:
    agent = factories.agent()
    made = [stop(), stop(tenant=agent.tenant), stop(agent=agent)]
    assert set(stops.active()) == set(made)
    for again in ({}, {"tenant": agent.tenant}, {"agent": agent}):
        with pytest.raises(Conflict, match=r"stopped already, by olga: a loop") as refused:
            stop(**again)
        assert refused.value.existing in made
    assert AuditEntry.objects.count() == 3


def test_another_tenant_s_stop_is_no_conflict() -> None:
    stop(tenant=factories.tenant())
    stop(tenant=factories.tenant("globex"))
    assert stops.active().count() == 2


@pytest.mark.parametrize("reason", ["", "  ", "x" * 301])
def test_a_stop_needs_a_reason_that_fits(reason: str) -> None:
    with pytest.raises(FieldError) as refused:
        stop(reason=reason)
    assert refused.value.field == "reason"
    assert not EmergencyStop.objects.exists()


def test_an_agent_of_another_tenant_is_refused() -> None:
    with pytest.raises(FieldError) as refused:
        stop(tenant=factories.tenant("globex"), agent=factories.agent())
    assert refused.value.field == "agent"


def test_a_lifted_stop_is_history_and_can_be_made_anew() -> None:
    made = stop()
    lifted = stops.lift(stop=made, by=Actor("max"), now=LATER, reason="found it")
    assert (lifted.lifted_at, lifted.lifted_by) == (LATER, "max")
    assert not stops.active().exists()
    row = AuditEntry.objects.latest("id")
    assert (row.action, row.actor, row.reason, row.target) == ("stop.lift", "max", "found it", "everything")
    assert stop().pk != made.pk


def test_lifting_twice_is_refused_and_leaves_one_audit_row() -> None:
    made = stop()
    copy = EmergencyStop.objects.get()
    stops.lift(stop=made, by=Actor("max"), now=LATER)
    with pytest.raises(NotOpen, match="lifted already"):
        stops.lift(stop=copy, by=OLGA, now=LATER)
    assert copy.lifted_by == "max"
    assert AuditEntry.objects.filter(action="stop.lift").count() == 1


def test_two_who_press_at_once_make_one_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second looks before the first has written; the constraint decides."""
    stop()
    looks = iter([EmergencyStop.objects.none(), stops.active()])
    monkeypatch.setattr(stops, "active", lambda: next(looks))
    with pytest.raises(Conflict):
        stop()
    assert EmergencyStop.objects.count() == 1


@pytest.mark.parametrize("whose", ["agent", "tenant", "everything"])
def test_the_database_itself_lets_one_active_stop_be(whose: str) -> None:
    agent = factories.agent()
    fields = {"agent": agent, "tenant": agent.tenant} if whose == "agent" else {}
    fields = {"tenant": agent.tenant} if whose == "tenant" else fields
    rows: QuerySet[EmergencyStop] = EmergencyStop.objects.all()
    common = {"reason": "x", "actor": "x", "started_at": NOON}
    rows.create(**fields, **common)
    with pytest.raises(IntegrityError), transaction.atomic():
        rows.create(**fields, **common)
