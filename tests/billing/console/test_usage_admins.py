"""Usage for Stripe's meters in the console."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from billing.models import MeterEvent, StripeEvent
from billing.queries import metrics
from billing.stripe_api import posts
from billing.usage import outbox, proof
from governance.models import AuditEntry, Tenant
from tests import factories
from tests.billing.usage.test_outbox import HOUR, READY, TEN, _on, acme, run, spend, stripe
from tests.fakes.stripe_meters import FakeMeters

pytestmark = pytest.mark.django_db
__all__ = ["_on", "acme", "stripe"]
LIST = "/admin/billing/meterevent/"


@pytest.fixture
def failed(stripe: FakeMeters) -> MeterEvent:
    spend("1")
    stripe.refuse = lambda _: (400, {"error": {"message": "No such customer <b>"}})
    run(stripe)
    stripe.refuse = lambda _: None
    return MeterEvent.objects.get()


@pytest.fixture
def operator(client: Client, acme: Tenant) -> Client:
    client.force_login(User.objects.create_superuser("olga"))
    return client


def act(client: Client, action: str, row: MeterEvent, **fields: Any) -> Any:
    return client.post(LIST, {"action": action, "_selected_action": [str(row.pk)], **fields})


def test_pages_render(operator: Client, failed: MeterEvent) -> None:
    event = StripeEvent.objects.create(event_id="evt_1", type="x", created=1, payload={}, received_at=READY)
    proof.note_meter_error(event=event, now=READY)
    posts.once(kind="x", subject="acme", params={}, send=lambda key: {"id": "y"}, now=READY)
    for model in ("meterevent", "usagemeter", "metererrorreport", "outboundrequest"):
        response = operator.get(f"/admin/billing/{model}/")
        assert response.status_code == 200
    page = operator.get(LIST).content.decode()
    assert "No such customer &lt;b&gt;" in page
    assert "1,000,000 microdollars" in page
    assert operator.get(f"{LIST}{failed.pk}/change/").status_code == 200


def test_an_operator_has_a_failed_row_sent_again(operator: Client, failed: MeterEvent, stripe: FakeMeters) -> None:
    assert act(operator, "try_again", failed).status_code == 302
    assert run(stripe) == 1
    assert AuditEntry.objects.get(action="meter_event.retry").actor == "olga"
    act(operator, "try_again", MeterEvent.objects.get(state="sent"))
    assert AuditEntry.objects.filter(action="meter_event.retry").count() == 1


def test_an_operator_voids_a_row_with_a_reason(operator: Client, failed: MeterEvent) -> None:
    assert "Void usage" in act(operator, "give_up", failed).content.decode()
    assert MeterEvent.objects.get().state == "failed"
    act(operator, "give_up", failed, _confirmed="yes", reason="paid by bank")
    assert MeterEvent.objects.get().state == "void"
    assert AuditEntry.objects.get(action="meter_event.void").reason == "paid by bank"
    chosen = {"action": "give_up", "_selected_action": [str(failed.pk)], "_confirmed": "yes", "reason": "x"}
    again = operator.post(LIST, chosen, follow=True)
    assert "this one is void" in again.content.decode()


def test_viewers_look_and_do_not_act(client: Client, failed: MeterEvent) -> None:
    viewer = factories.person("vera", "viewer")
    client.force_login(viewer)
    assert client.get(LIST).status_code == 200
    act(client, "try_again", failed)
    act(client, "give_up", failed, _confirmed="yes", reason="x")
    assert MeterEvent.objects.get().state == "failed"


def test_metrics_say_what_has_not_been_sent(failed: MeterEvent) -> None:
    spend("1", at=TEN + HOUR)
    outbox.write(now=READY + HOUR)
    found = {
        (sample.name, sample.labels.get("state", "")): sample.value
        for family in metrics.collect(READY + HOUR + timedelta(seconds=30))
        for sample in family.samples
    }
    name = "spend_governor_stripe_usage"
    assert (found[f"{name}_events", "failed"], found[f"{name}_events", "pending"]) == (1, 1)
    assert found[f"{name}_age_seconds", ""] == 30
    assert found[f"{name}_carried_units", ""] == 0
