"""Whether usage that was sent has been counted: Stripe's hourly sums, and its reports of what it could not count."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from billing.models import MeterErrorReport, MeterEvent, Restoration, StripeEvent, UsageMeter
from billing.rules import usage
from billing.rules.usage import HOUR, ErrorReport, Verdict
from billing.stripe_api import client, meters, objects
from billing.stripe_api.meters import Meter
from billing.usage import outbox
from governance import alerts

log = logging.getLogger(__name__)

State = MeterEvent.State
# Stripe's sums follow its events after a while; nothing is proved by them sooner after the last attempt.
PROVED_AFTER = timedelta(hours=1)
ASK_AGAIN = timedelta(hours=1)
# An hour of a customer on a meter: (usage meter's id, the hour its events are stamped in).
Bucket = tuple[int, datetime]


def reconcile(*, now: datetime, limit: int = 100) -> int:
    """Compare held rows with Stripe's sums: what arrived is sent, what did not is sent again; how many were decided.

    Where the sum fits neither, the rows stay held and the operators get an alert: only they can find out.
    """
    buckets = _held_buckets(now)[:limit] if outbox.is_on() else []
    if not buckets:
        return 0
    try:
        known = meters.active()
        return sum(_reconcile(bucket, known, now) for bucket in buckets)
    except client.StripeError as error:
        log.warning("held usage could not be compared with Stripe's sums: %s", error)
        return 0


def note_meter_error(*, event: StripeEvent, now: datetime) -> None:
    """A thin event says that usage could not be counted: alert the operators, and mark the rows it names.

    Runs in the caller's transaction. A webhook leaves the details out; `read_reports` fetches them later.
    """
    meter_id = objects.text(objects.mapping(event.payload.get("related_object")).get("id"))
    report, new = MeterErrorReport.objects.get_or_create(
        event_id=event.event_id, defaults={"meter_id": meter_id[:255], "noted_at": now}
    )
    if not new:
        return
    alerts.report(
        kind="meter_error",
        subject=meter_id or "unknown meter",
        now=now,
        severity="critical",
        message=f"Stripe could not count usage it was sent (event {event.event_id}).",
    )
    details = usage.error_report(event.payload.get("data"))
    if details is not None:
        _apply(report, details, now)


def read_reports(*, now: datetime, limit: int = 50) -> int:
    """Fetch the details of reports that came without, and mark the rows they name; how many reports were read."""
    if not client.is_configured():
        return 0
    done = 0
    for report in MeterErrorReport.objects.filter(read_at=None).order_by("id")[:limit]:
        try:
            details = usage.error_report(client.event(report.event_id).get("data"))
        except client.StripeUnavailable as error:
            log.warning("meter error report %s could not be read: %s", report, error)
            break
        except client.StripeRefused as error:
            # Stripe keeps events for 30 days; the alert stays until somebody looks.
            MeterErrorReport.objects.filter(pk=report.pk).update(read_at=now, error=str(error)[:2000])
            continue
        with transaction.atomic():
            _apply(report, details or ErrorReport(0, ()), now)
        done += 1
    return done


def _apply(report: MeterErrorReport, details: ErrorReport, now: datetime) -> None:
    """Mark what the report names as failed, whatever was thought of it before."""
    named = 0
    for failure in details.failures:
        if _is_ours(failure.identifier):
            rows = MeterEvent.objects.filter(pk=failure.identifier).exclude(state__in=[State.VOID, State.FAILED])
            named += rows.update(
                state=State.FAILED, next_attempt_at=None, error=f"{failure.code}: {failure.message}"[:2000]
            )
    report.errors, report.named, report.read_at, report.error = details.count, named, now, details.summary[:2000]
    report.save(update_fields=["errors", "named", "read_at", "error"])
    unnamed = details.count - len(details.failures)
    message = f"Stripe could not count {details.count} events, of which {named} are marked as failed."
    if unnamed > 0:
        message += f" It does not say which the other {unnamed} are: compare its sums with the outbox."
    alerts.report(
        kind="meter_error", subject=report.meter_id or "unknown meter", message=message, now=now, severity="critical"
    )


def _is_ours(identifier: str) -> bool:
    """Whether it can be one of our ids at all: others may use the same meter."""
    try:
        UUID(identifier)
    except ValueError:
        return False
    return True


def _held_buckets(now: datetime) -> list[Bucket]:
    due = Q(last_attempt_at__lte=now - PROVED_AFTER) & (Q(next_attempt_at=None) | Q(next_attempt_at__lte=now))
    rows = MeterEvent.objects.filter(due, state=State.HELD, event_name__in=list(settings.STRIPE_METERS))
    found = {(meter_id, usage.floor_hour(at)) for meter_id, at in rows.values_list("meter_id", "stamped_at")}
    return sorted(found, key=lambda bucket: (bucket[1], bucket[0]))


def _reconcile(bucket: Bucket, known: Mapping[str, Meter], now: datetime) -> int:
    rows = _rows(bucket)
    meter = known.get(rows[0].event_name) if rows else None
    if meter is None or not meter.sums:
        why = "Stripe has no active meter that adds it up" if rows else ""
        return _leave(bucket, why, now)
    total = meters.total(
        meter, stripe_customer_id=rows[0].stripe_customer_id, starts_at=bucket[1], ends_at=bucket[1] + HOUR
    )
    with transaction.atomic():
        UsageMeter.objects.select_for_update().get(pk=bucket[0])
        now_there = _rows(bucket)
        if _states(now_there) != _states(rows) or any(_is_open(row) for row in now_there):
            # Sent, or about to be, while Stripe was asked: the sum is of another moment.
            return 0
        return _decide(bucket, now_there, total, now)


def _decide(bucket: Bucket, rows: list[MeterEvent], total: int, now: datetime) -> int:
    held = [row for row in rows if row.state == State.HELD]
    sent = sum(row.value for row in rows if row.state == State.SENT)
    verdict = usage.verdict(
        total=total,
        sent=sent,
        held=sum(row.value for row in held),
        was_restored=Restoration.objects.filter(restored_at__gt=min(row.hour for row in held)).exists(),
    )
    if verdict is Verdict.UNCLEAR:
        return _leave(bucket, f"Stripe has counted {total}, where {sent} are known to have arrived", now)
    for row in held:
        if verdict is Verdict.MISSING:
            outbox.resend(row, now=now)
        else:
            row.state, row.sent_at, row.error = State.SENT, row.last_attempt_at, "found in Stripe's sums"
            row.save(update_fields=["state", "sent_at", "error"])
    alerts.clear(kind="meter_mismatch", subject=_name(rows[0]), now=now)
    return len(held)


def _leave(bucket: Bucket, why: str, now: datetime) -> int:
    """Keep the rows held, ask again later, and alert the operators."""
    rows = [row for row in _rows(bucket) if row.state == State.HELD]
    if rows:
        MeterEvent.objects.filter(pk__in=[row.pk for row in rows]).update(next_attempt_at=now + ASK_AGAIN, error=why)
        message = f"{why}; {sum(row.value for row in rows)} more may have arrived or not. Retry or void them."
        alerts.report(kind="meter_mismatch", subject=_name(rows[0]), message=message, now=now)
    return 0


def _rows(bucket: Bucket) -> list[MeterEvent]:
    meter_id, hour = bucket
    rows = MeterEvent.objects.filter(meter_id=meter_id, stamped_at__gte=hour, stamped_at__lt=hour + HOUR)
    return list(rows.exclude(state=State.CARRIED).order_by("id"))


def _is_open(row: MeterEvent) -> bool:
    """Whether it may arrive at any moment, or may have: its fate is not to be judged yet."""
    return row.state == State.SENDING or (row.state == State.PENDING and row.first_attempt_at is not None)


def _states(rows: list[MeterEvent]) -> list[tuple[object, str, int]]:
    return [(row.pk, row.state, row.attempts) for row in rows]


def _name(row: MeterEvent) -> str:
    return f"{row.event_name} {row.stripe_customer_id} {row.stamped_at:%Y-%m-%dT%HZ}"
