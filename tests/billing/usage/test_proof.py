"""What Stripe could not count, and says in thin events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from billing.inbox import envelope, store
from billing.models import MeterErrorReport, MeterEvent, StripeEvent
from billing.usage import outbox, proof
from governance.models import Alert, Tenant
from tests import factories
from tests.billing.usage.test_outbox import HOUR, OLGA, READY, TEN, _on, acme, run, spend, stripe
from tests.fakes.stripe_meters import FakeMeters

pytestmark = pytest.mark.django_db
__all__ = ["_on", "acme", "stripe"]


def thin(id: str = "evt_thin", data: dict[str, Any] | None = None) -> dict[str, Any]:
    """As Stripe posts it: without its data, unless given."""
    related = {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"}
    body = {
        "id": id,
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-03-10T11:20:00.000Z",
        "livemode": False,
        "related_object": related,
    }
    return body | ({"data": data} if data else {})


def details(*identifiers: str, count: int | None = None) -> dict[str, Any]:
    samples = [{"error_message": "No customer", "request": {"identifier": id}} for id in identifiers]
    kind = {"code": "meter_event_customer_not_found", "error_count": len(samples), "sample_errors": samples}
    total = len(samples) if count is None else count
    return {
        "developer_message_summary": "There are invalid events",
        "reason": {"error_count": total, "error_types": [kind]},
    }


def note(body: dict[str, Any]) -> StripeEvent:
    store.store(envelope.parse(json.dumps(body)), now=READY)
    event = StripeEvent.objects.get(event_id=body["id"])
    proof.note_meter_error(event=event, now=READY)
    return event


def sent(stripe: FakeMeters) -> MeterEvent:
    spend("1")
    run(stripe)
    return MeterEvent.objects.get()


def alerted() -> int:
    """How often operators got an alert of the meter."""
    return Alert.objects.get(kind="meter_error").count


def test_a_thin_event_is_told_at_once_and_its_details_are_fetched_outside_of_the_transaction(
    stripe: FakeMeters,
) -> None:
    row = sent(stripe)
    asked = len(stripe.requests)
    note(thin())
    assert len(stripe.requests) == asked
    alert = Alert.objects.get(kind="meter_error")
    assert (alert.subject, alert.severity) == ("mtr_1", "critical")

    stripe.events["evt_thin"] = thin(data=details(str(row.pk)))
    assert proof.read_reports(now=READY) == 1
    row.refresh_from_db()
    assert (row.state, row.error) == ("failed", "meter_event_customer_not_found: No customer")
    report = MeterErrorReport.objects.get()
    assert (report.errors, report.named, report.read_at) == (1, 1, READY)
    assert proof.read_reports(now=READY) == 0


def test_details_that_come_along_are_used_at_once(stripe: FakeMeters) -> None:
    row = sent(stripe)
    note(thin(data=details(str(row.pk))))
    row.refresh_from_db()
    assert row.state == "failed"


def test_what_could_not_be_counted_is_sent_again_under_a_new_identifier(stripe: FakeMeters) -> None:
    row = sent(stripe)
    stripe.counted.clear()
    note(thin(data=details(str(row.pk))))
    row.refresh_from_db()
    outbox.retry(event=row, by=OLGA, now=READY)
    run(stripe)
    assert stripe.total == 1_000_000
    assert stripe.counted[0].identifier != str(row.pk)


def test_the_same_report_twice_is_one_and_does_not_fail_a_row_anew(stripe: FakeMeters) -> None:
    row = sent(stripe)
    event = note(thin(data=details(str(row.pk))))
    row.refresh_from_db()
    outbox.void(event=row, reason="waived", by=OLGA, now=READY)
    before = alerted()
    proof.note_meter_error(event=event, now=READY)
    assert (MeterErrorReport.objects.count(), alerted()) == (1, before)
    note(thin("evt_other", data=details(str(row.pk))))
    row.refresh_from_db()
    assert row.state == "void"


def test_identifiers_of_others_and_errors_without_a_name_are_said(stripe: FakeMeters) -> None:
    sent(stripe)
    note(thin(data=details("somebody-elses", "3f0c6c8e-0000-7000-8000-000000000000", count=40)))
    assert "does not say which the other 38 are" in Alert.objects.get(kind="meter_error").message
    assert MeterEvent.objects.get().state == "sent"


def test_a_report_stripe_no_longer_has_is_not_asked_for_again(stripe: FakeMeters, acme: Tenant) -> None:
    note(thin())
    assert proof.read_reports(now=READY) == 0
    assert MeterErrorReport.objects.get().read_at == READY


def test_an_outage_leaves_a_report_to_be_read_later(stripe: FakeMeters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
    note(thin())
    stripe.down = True
    assert proof.read_reports(now=READY) == 0
    assert MeterErrorReport.objects.get().read_at is None


def test_a_failed_row_counts_for_nothing_when_others_of_its_hour_are_proved(stripe: FakeMeters) -> None:
    row = sent(stripe)
    stripe.counted.clear()
    note(thin(data=details(str(row.pk))))
    spend("0.5", at=TEN + 5 * (HOUR / 60))
    outbox.write(now=READY)
    outbox.claim(outbox._known_meters(now=READY), now=READY)
    later = READY + 30 * HOUR
    run(stripe, now=later)
    assert proof.reconcile(now=later) == 1
    assert run(stripe, now=later) == 1
    assert stripe.total == factories.nanos("0.5") // 1000
