"""The outbox of usage for Stripe's meters: written from the ledger's hourly rollups, sent once, proved afterwards.

`write` notes what hours came to, or changed by since, as rows. `drain` sends them: the attempt is committed before
the call, so a worker that dies between the call and its mark leaves a row that is sent again under the same
identifier, which Stripe knows for 24 hours. After 20 hours a row of unknown fate is held and compared with Stripe's
sums (`billing.usage.proof`) before anything is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Max, Min, Q, QuerySet

from billing.models import BillingAccount, MeterEvent, Restoration, UsageMeter
from billing.rules import usage
from billing.rules.usage import Sums
from billing.stripe_api import client, meters
from billing.stripe_api.meters import Meter, Reporter, UsageEvent
from governance import alerts, audit
from governance.audit import Actor
from governance.models import SpendRollup
from governance.queries.sums import LongSum
from governance.rules.reports import OLDEST_REPORT

log = logging.getLogger(__name__)

State = MeterEvent.State
# Calls of an hour may settle a little after it.
SETTLING = timedelta(minutes=5)
# How far back a run looks for hours that changed: the usual one, and the one that finds late corrections.
FRESH = timedelta(days=2)
DAY = timedelta(days=1)
LATE = OLDEST_REPORT + DAY
# Longer than a call to Stripe can take with all its tries.
CLAIM = timedelta(minutes=5)
# A run ends by itself well before the worker would end it.
LONGEST_RUN = timedelta(minutes=2)
# Of so many meters with something due the first one that is free is taken.
CANDIDATES = 50
# So many failures in a row mean that Stripe is down: the rest waits for the next run.
MOST_FAILURES = 3


class OutboxError(ValueError):
    """What an operator asks for cannot be done with a row in this state; the message says what could."""


def is_on() -> bool:
    """Whether usage is reported at all: a meter and a key are configured."""
    return bool(settings.STRIPE_METERS) and client.is_configured()


def write(*, now: datetime, reach: timedelta = FRESH) -> int:
    """Make rows of the hours that ended, or changed, within `reach`; how many. Running it twice adds nothing."""
    if not is_on():
        return 0
    made = 0
    for event_name, unit in settings.STRIPE_METERS.items():
        open_meters(event_name, unit, now=now)
        for starts_at, ends_at in _days(now, reach):
            for meter_id in _changed(event_name, unit, starts_at, ends_at):
                made += _write_changes(meter_id, starts_at, ends_at, now)
    return made


def drain(*, clock: Callable[[], datetime], limit: int = 2000) -> int:
    """Send what is due, one row at a time; how many arrived. `clock` is read for each: a run takes minutes."""
    ours = MeterEvent.objects.filter(event_name__in=list(settings.STRIPE_METERS))
    if not is_on() or not _unsent(ours, clock()).exists():
        return 0
    known = _known_meters(now=clock())
    reporter = Reporter(settings.STRIPE_METER_API)
    arrived = failures = 0
    stop_at = clock() + LONGEST_RUN
    for _ in range(limit):
        now = clock()
        row = claim(known, now=now) if failures < MOST_FAILURES and now < stop_at else None
        if row is None:
            break
        outcome = send(row, known[row.event_name], reporter, clock=clock)
        arrived += outcome == State.SENT
        failures = failures + 1 if outcome == State.PENDING else 0
    return arrived


def claim(known: Mapping[str, Meter], *, now: datetime) -> MeterEvent | None:
    """Take the next due row and commit that it is being sent; None where nothing is due, or others have it all.

    The customer's meter is taken with it, so that one call at a time is under way for it.
    """
    while True:
        with transaction.atomic(durable=True):
            meter = _free_meter(known, now)
            if meter is None:
                return None
            row = _unsent(meter.events.all(), now).order_by("hour", "sequence").first()
            if row is not None and _take(meter, row, now):
                return row


def send(row: MeterEvent, meter: Meter, reporter: Reporter, *, clock: Callable[[], datetime]) -> str:
    """Tell Stripe of a claimed row and mark what came of it; the state it has then."""
    sent = UsageEvent(
        identifier=str(row.pk),
        stripe_customer_id=row.stripe_customer_id,
        value=row.value,
        at=row.stamped_at,
        attempt=row.attempts,
    )
    try:
        new = reporter.send(meter, sent, now=clock())
    except client.StripeRefused as error:
        state = State.FAILED if row.first_attempt_at == row.last_attempt_at else State.HELD
        # Of an earlier attempt nobody heard: it may have arrived before Stripe had a reason to refuse.
        _mark(row, state=state, error=str(error))
        message = f"Stripe refuses usage: {error} ({row})"
        alerts.report(kind="meter_event_failed", subject=row.event_name, message=message, now=clock())
        return state
    except Exception as error:
        if not isinstance(error, client.StripeError):
            log.exception("meter event %s failed", row.pk)
        # It may have arrived all the same; the next attempt has the same identifier.
        later = clock() + usage.delay(row.attempts)
        _mark(row, state=State.PENDING, error=f"{type(error).__name__}: {error}"[:2000], next_attempt_at=later)
        return State.PENDING
    _mark(row, state=State.SENT, sent_at=clock(), error="" if new else "an earlier attempt had arrived")
    return State.SENT


def retry(*, event: MeterEvent, by: Actor, now: datetime) -> MeterEvent:
    """An operator's word that a row has not arrived: sent again. Raises OutboxError.

    A failed row was refused or could not be counted, so its identifier may be used up: a new row takes its place.
    """
    with transaction.atomic():
        row = _locked(event)
        if row.state == State.HELD:
            _begin_anew(row, now)
            made = row
        elif row.state == State.FAILED:
            row.state = State.VOID
            row.save(update_fields=["state"])
            made = _replacement(row, now)
        else:
            raise OutboxError(f"Only a failed or held row is tried again; this one is {row.state}.")
        audit.record(
            action="meter_event.retry",
            target=f"meter event {row.pk}",
            by=by,
            now=now,
            old={"state": event.state},
            new={"id": str(made.pk), "value": made.value},
        )
    return made


def void(*, event: MeterEvent, reason: str, by: Actor, now: datetime) -> None:
    """An operator's word that a row is not to be sent (any more). Raises OutboxError."""
    with transaction.atomic():
        row = _locked(event)
        if row.state not in (State.PENDING, State.FAILED, State.HELD):
            raise OutboxError(f"Only a pending, failed or held row can be voided; this one is {row.state}.")
        old, row.state, row.next_attempt_at = row.state, State.VOID, None
        row.save(update_fields=["state", "next_attempt_at"])
        audit.record(
            action="meter_event.void",
            target=f"meter event {row.pk}",
            by=by,
            now=now,
            reason=reason,
            old={"state": old, "value": row.value},
            new={"state": State.VOID.value},
        )


def resend(row: MeterEvent, *, now: datetime) -> None:
    """Begin a new round of attempts for a row that has been proved not to have arrived. The caller holds its lock."""
    _begin_anew(row, now)


def hold(row: MeterEvent, *, now: datetime) -> None:
    """Of a row that may have arrived, or not: it waits for Stripe's sums. Nothing is written."""
    row.state, row.next_attempt_at = State.HELD, None
    row.first_attempt_at, row.last_attempt_at = row.first_attempt_at or now, now


def open_meters(event_name: str, unit: str, *, now: datetime) -> None:
    """A usage meter for every customer with a tenant. Nothing spent before this hour is reported by a new one."""
    since = usage.floor_hour(now)
    bound = BillingAccount.objects.exclude(tenant=None)
    new = [
        UsageMeter(account=account, event_name=event_name, unit=unit, tenant=account.tenant, since=since)
        for account in bound.exclude(usage_meters__event_name=event_name).select_related("tenant")
        if account.tenant is not None
    ]
    UsageMeter.objects.bulk_create(new, ignore_conflicts=True)
    # Another tenant, or another unit, is another count: it begins now.
    rows = UsageMeter.objects.filter(event_name=event_name).exclude(account__tenant=None)
    for meter in rows.exclude(unit=unit, tenant=F("account__tenant")).select_related("account"):
        UsageMeter.objects.filter(pk=meter.pk).update(
            unit=unit, tenant_id=meter.account.tenant_id, since=since, carried_units=0
        )


def _days(now: datetime, reach: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """Full hours within reach, a day at a time: a statement's rows stay few, whatever the number of tenants."""
    ends_at = usage.floor_hour(now - SETTLING)
    starts_at = usage.floor_hour(now - reach)
    while starts_at < ends_at:
        yield starts_at, min(starts_at + DAY, ends_at)
        starts_at += DAY


def _changed(event_name: str, unit: str, starts_at: datetime, ends_at: datetime) -> list[int]:
    """The meters with an hour that their rows do not account for. Looked up without a lock, and again under it."""
    bound = UsageMeter.objects.filter(
        event_name=event_name, account__tenant=F("tenant"), account__deleted_at=None, since__lt=ends_at
    )
    known = {meter.tenant_id: meter for meter in bound}
    hours = _hours(Q(tenant__in=bound.values("tenant")), unit, starts_at, ends_at)
    reported = _reported(Q(event_name=event_name), starts_at, ends_at)
    found = {
        known[tenant_id].pk
        for tenant_id, hour in hours.keys() | reported.keys()
        if tenant_id in known
        and hour >= known[tenant_id].since
        and hours.get((tenant_id, hour), 0) != reported.get((tenant_id, hour), 0)
    }
    return sorted(found)


def _hours(where: Q, unit: str, starts_at: datetime, ends_at: datetime) -> dict[tuple[int, datetime], int]:
    """(tenant, hour) -> units so far, from the rollups."""
    rows = SpendRollup.objects.filter(where, hour__gte=starts_at, hour__lt=ends_at).values("tenant_id", "hour")
    summed = rows.annotate(
        cost=LongSum("cost_nanos"), tokens=LongSum(F("input_tokens") + F("output_tokens")), count=LongSum("calls")
    )
    return {
        (row["tenant_id"], row["hour"]): usage.units_of(Sums(row["cost"], row["tokens"], row["count"]), unit)
        for row in summed.order_by()
    }


def _reported(where: Q, starts_at: datetime, ends_at: datetime) -> dict[tuple[int, datetime], int]:
    rows = MeterEvent.objects.filter(where, hour__gte=starts_at, hour__lt=ends_at).values("tenant_id", "hour")
    return {(row["tenant_id"], row["hour"]): row["sum"] for row in rows.annotate(sum=LongSum("units")).order_by()}


def _write_changes(meter_id: int, starts_at: datetime, ends_at: datetime, now: datetime) -> int:
    """Add the rows of one meter. What was reported and what was spent are read under its lock."""
    with transaction.atomic():
        meter = UsageMeter.objects.select_for_update().get(pk=meter_id)
        if meter.account.tenant_id != meter.tenant_id:
            # Bound to another tenant since; the next run begins that one's count.
            return 0
        first = max(starts_at, meter.since)
        of_tenant = Q(tenant_id=meter.tenant_id)
        hours = _hours(of_tenant, meter.unit, first, ends_at)
        reported = _reported(of_tenant & Q(event_name=meter.event_name), first, ends_at)
        taken = _sequences(meter, first, ends_at)
        restored_at = Restoration.objects.aggregate(latest=Max("restored_at"))["latest"]
        rows = [
            _row(meter, key[1], units, taken.get(key[1], 0), now)
            for key in sorted(hours.keys() | reported.keys())
            if (units := hours.get(key, 0) - reported.get(key, 0))
        ]
        for row in rows if restored_at is not None else ():
            if row.state == State.PENDING and row.hour < restored_at:
                # Before the database was put back it may have been sent: Stripe's sums tell.
                hold(row, now=now)
        MeterEvent.objects.bulk_create(rows)
        meter.save(update_fields=["carried_units"])
    return len(rows)


def _row(meter: UsageMeter, hour: datetime, units: int, sequence: int, now: datetime) -> MeterEvent:
    """The next row of a meter, which goes on with what the meter carries."""
    step = usage.step(units, meter.carried_units)
    meter.carried_units = step.carried_units
    return MeterEvent(
        id=_identifier(meter, meter.account.stripe_customer_id, hour, sequence),
        meter=meter,
        tenant_id=meter.tenant_id,
        stripe_customer_id=meter.account.stripe_customer_id,
        event_name=meter.event_name,
        hour=hour,
        sequence=sequence,
        units=units,
        value=step.value,
        carried_units=step.carried_units,
        state=State.PENDING if step.value else State.CARRIED,
        created_at=now,
        stamped_at=usage.stamp(hour, period_end=meter.account.period_end, now=now),
    )


def _identifier(meter: UsageMeter, stripe_customer_id: str, hour: datetime, sequence: int) -> UUID:
    return usage.identifier(
        stripe_customer_id, meter.event_name, tenant_id=meter.tenant_id, hour=hour, sequence=sequence
    )


def _sequences(meter: UsageMeter, starts_at: datetime, ends_at: datetime) -> dict[datetime, int]:
    """Hour -> the number of its next row, for hours that have rows."""
    rows = MeterEvent.objects.filter(
        tenant_id=meter.tenant_id, event_name=meter.event_name, hour__gte=starts_at, hour__lt=ends_at
    )
    return dict(rows.order_by().values_list("hour").annotate(next=Max("sequence") + 1))


def _known_meters(*, now: datetime) -> dict[str, Meter]:
    """Stripe's definitions of the configured meters; one that Stripe does not have raises an alert."""
    try:
        found = meters.active()
    except client.StripeError as error:
        log.warning("Stripe's meters cannot be read: %s", error)
        return {}
    for name in settings.STRIPE_METERS:
        if name in found:
            alerts.clear(kind="meter_missing", subject=name, now=now)
        else:
            message = f"Stripe has no active meter for {name}; its usage waits here."
            alerts.report(kind="meter_missing", subject=name, message=message, now=now, severity="critical")
    return {name: meter for name, meter in found.items() if name in settings.STRIPE_METERS}


def _unsent(rows: QuerySet[MeterEvent], now: datetime) -> QuerySet[MeterEvent]:
    """Rows to send: those that wait, and those whose worker died over them (a free meter has no living one)."""
    waiting = Q(state=State.PENDING) & (Q(next_attempt_at=None) | Q(next_attempt_at__lte=now))
    return rows.filter(waiting | Q(state=State.SENDING))


def _free_meter(known: Mapping[str, Meter], now: datetime) -> UsageMeter | None:
    """A meter with something to send that no worker is sending for, locked; the oldest hour first."""
    free = Q(meter__busy_until=None) | Q(meter__busy_until__lte=now)
    due = _unsent(MeterEvent.objects.filter(free, event_name__in=list(known)), now)
    oldest = due.values("meter_id").annotate(oldest=Min("hour")).order_by("oldest", "meter_id")
    for meter_id in oldest.values_list("meter_id", flat=True)[:CANDIDATES]:
        rows = UsageMeter.objects.select_for_update(skip_locked=connection.features.has_select_for_update_skip_locked)
        # Looked at again under the lock: another worker may have taken it since.
        meter = rows.filter(Q(busy_until=None) | Q(busy_until__lte=now), pk=meter_id).first()
        if meter is not None:
            return meter
    return None


def _take(meter: UsageMeter, row: MeterEvent, now: datetime) -> bool:
    """Note the attempt before it is made. False where Stripe would not know the identifier again: then it is held."""
    if not usage.may_resend(row.first_attempt_at, now):
        row.state, row.next_attempt_at = State.HELD, None
        row.save(update_fields=["state", "next_attempt_at"])
        return False
    meter.busy_until, meter.claims = now + CLAIM, meter.claims + 1
    meter.save(update_fields=["busy_until", "claims"])
    row.state, row.claim, row.attempts = State.SENDING, meter.claims, row.attempts + 1
    row.first_attempt_at = row.first_attempt_at or now
    row.last_attempt_at, row.next_attempt_at = now, None
    row.save(update_fields=["state", "claim", "attempts", "first_attempt_at", "last_attempt_at", "next_attempt_at"])
    return True


def _mark(row: MeterEvent, **values: Any) -> None:
    """Write what came of an attempt, unless a later claim took the row over; and let the meter go."""
    with transaction.atomic(durable=True):
        MeterEvent.objects.filter(pk=row.pk, state=State.SENDING, claim=row.claim).update(**values)
        UsageMeter.objects.filter(pk=row.meter_id, claims=row.claim).update(busy_until=None)


def _locked(event: MeterEvent) -> MeterEvent:
    """The row, and with it everything of its meter, until the transaction ends."""
    UsageMeter.objects.select_for_update().get(pk=event.meter_id)
    return MeterEvent.objects.select_for_update(of=("self",)).get(pk=event.pk)


def _begin_anew(row: MeterEvent, now: datetime) -> None:
    row.state, row.first_attempt_at, row.next_attempt_at = State.PENDING, None, now
    row.save(update_fields=["state", "first_attempt_at", "next_attempt_at"])


def _replacement(row: MeterEvent, now: datetime) -> MeterEvent:
    """The same usage under an identifier of its own; its units stay those of the row it replaces."""
    meter = row.meter
    too_old = row.stamped_at < now - usage.OLDEST_STAMP
    sequence = _sequences(meter, row.hour, row.hour + usage.HOUR)[row.hour]
    return MeterEvent.objects.create(
        id=_identifier(meter, row.stripe_customer_id, row.hour, sequence),
        meter=meter,
        tenant_id=row.tenant_id,
        stripe_customer_id=row.stripe_customer_id,
        event_name=row.event_name,
        hour=row.hour,
        sequence=sequence,
        units=0,
        value=row.value,
        replaces=row,
        stamped_at=usage.stamp(row.hour, period_end=None, now=now) if too_old else row.stamped_at,
        created_at=now,
    )
