"""The inbox of Stripe's events: stored once, handled once, tried again until it works, and kept.

A 200 to Stripe means that the row is committed. Whatever happens after that, a sweep finds the row.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F, Q, QuerySet

from billing.accounts import sync
from billing.inbox import handlers
from billing.inbox.envelope import Envelope
from billing.models import StripeEvent
from billing.stripe_api import client
from governance import alerts, audit
from governance.audit import Actor
from governance.ledger import LedgerError

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 12
# 5 s, 15 s, 45 s, … and then every two hours: twelve tries last through an outage of nine hours.
FIRST_DELAY = timedelta(seconds=5)
GROWTH = 3
LONGEST_DELAY = timedelta(hours=2)
# A fresh event belongs to the worker it was handed to; after this long the sweep takes it.
HEAD_START = timedelta(seconds=10)
# What a sweep has taken belongs to it for so long; after that the sweep is dead and another takes it.
LEASE = timedelta(minutes=5)
# So few at once: a sweep holds what it will soon get to, and leaves the rest to others.
TAKEN_AT_ONCE = 20
# So often does a worker look for events of a customer that came meanwhile; the rest is the sweep's.
MOST_TURNS = 5
DEAD_LETTER = "dead_letter"


def store(envelope: Envelope, *, now: datetime) -> bool:
    """Keep an event; whether it is new. Committed when this returns, unless the caller holds a transaction open."""
    known = StripeEvent.objects.filter(event_id=envelope.id)
    if known.exists():
        return False
    try:
        with transaction.atomic():
            _row(envelope, now, HEAD_START).save(force_insert=True)
    except IntegrityError:
        if known.exists():
            # Another process stored it since we looked.
            return False
        raise
    return True


def store_all(envelopes: Iterable[Envelope], *, now: datetime) -> list[str]:
    """Keep those events that are new, due at once; the ids of these."""
    rows = {one.id: _row(one, now, timedelta()) for one in envelopes}
    with transaction.atomic():
        known = set(StripeEvent.objects.filter(event_id__in=rows).values_list("event_id", flat=True))
        new = [id for id in rows if id not in known]
        StripeEvent.objects.bulk_create([rows[id] for id in new], ignore_conflicts=True)
    return new


def _row(envelope: Envelope, now: datetime, head_start: timedelta) -> StripeEvent:
    return StripeEvent(
        event_id=envelope.id,
        type=envelope.type,
        created=envelope.created,
        livemode=envelope.livemode,
        api_version=envelope.api_version,
        customer_id=envelope.customer_id,
        payload=envelope.payload,
        received_at=now,
        next_attempt_at=now + head_start,
        quarantine_reason=_why_not_ours(envelope.livemode, envelope.account),
    )


def process(event_id: str, *, now: datetime) -> bool:
    """Handle an event: its effect and its `processed_at` in one transaction. Whether it is done, now or before.

    A failure is noted and tried again later, and after twelve tries put aside for an operator; it is not raised. Other
    events of its customer that wait are handled with it, by one reading; while another worker reads that customer, the
    event is left to that one.
    """
    event = StripeEvent.objects.filter(event_id=event_id).first()
    if event is None or event.quarantine_reason:
        return False
    if event.processed_at is None and event.customer_id and client.is_configured():
        _take_turns(event, now)
    elif event.processed_at is None:
        _try(event, {}, now)
    return StripeEvent.objects.filter(pk=event.pk, processed_at__isnull=False).exists()


def _take_turns(event: StripeEvent, now: datetime) -> None:
    """Handle an event with the others of its customer, and those that came while these were handled."""
    for _ in range(MOST_TURNS):
        with sync.turn(event.customer_id, now=now) as until:
            if until is not None:
                # Whoever has it looks for others when it is through. Should it have died, the sweep comes then.
                StripeEvent.objects.waiting().filter(pk=event.pk).update(next_attempt_at=until)
                return
            readings: dict[str, sync.Reading | None] = {}
            wanted = {event.pk: event} | {one.pk: one for one in _waiting_of(event.customer_id, now)}
            if not all(_try(one, readings, now) for one in wanted.values()):
                return
        # Only now: who came before the turn was over has left its event to it.
        if not (waiting := _waiting_of(event.customer_id, now)):
            return
        event = waiting[0]


def _waiting_of(customer_id: str, now: datetime) -> list[StripeEvent]:
    """A customer's events that wait and have not failed lately."""
    fresh = StripeEvent.objects.waiting().filter(Q(attempts=0) | Q(next_attempt_at__lte=now), customer_id=customer_id)
    return list(fresh.order_by("created", "id")[:TAKEN_AT_ONCE])


def _try(event: StripeEvent, readings: dict[str, sync.Reading | None], now: datetime) -> bool:
    """Handle an event once; whether nothing failed. `readings` were begun after it had come; what is read is added."""
    try:
        told = handlers.complete(event)
        read = handlers.readings(told, now=now, known=readings)
        readings.update(read)
        with transaction.atomic():
            _effect(event, told, read, now)
        return True
    except client.StripeRefused as error:
        _put_aside(event, f"Stripe refuses: {error}", error, now)
    except (client.StripeError, LedgerError, DatabaseError) as error:
        _try_later(event, error, now)
    except Exception as error:
        log.exception("Stripe event %s failed", event.event_id)
        _try_later(event, error, now)
    return False


def sweep(*, now: datetime, limit: int = 500, handle: Callable[..., bool] = process) -> int:
    """Handle events that are due: those whose worker died, whose message was lost, or that failed before."""
    done = seen = 0
    while seen < limit and (ids := _take_due(min(TAKEN_AT_ONCE, limit - seen), now)):
        seen += len(ids)
        done += sum(handle(event_id, now=now) for event_id in ids)
    return done


def handle_all(event_ids: Sequence[str], *, now: datetime, report: Callable[[str], Any] = lambda line: None) -> int:
    """Handle these events now, in this order; how many are done. The others are tried again later."""
    done = 0
    for place, event_id in enumerate(event_ids, start=1):
        done += process(event_id, now=now)
        if place % 50 == 0:
            report(f"{place} of {len(event_ids)} events handled")
    return done


def _take_due(count: int, now: datetime) -> list[str]:
    """The oldest events that are due, and from now on nobody else's. A dead sweep's come back after its lease."""
    with transaction.atomic():
        due = _claimable().filter(Q(next_attempt_at__isnull=True) | Q(next_attempt_at__lte=now))
        taken = list(due.order_by("created", "id").values_list("pk", "event_id")[:count])
        StripeEvent.objects.filter(pk__in=[pk for pk, _ in taken]).update(next_attempt_at=now + LEASE)
    return [event_id for _, event_id in taken]


def replay(*, events: QuerySet[StripeEvent], by: Actor, now: datetime) -> list[str]:
    """Make events due again, with all their tries: the ids of those that are. One audit row for each.

    Also those that are done (handling twice does nothing more) or that were put aside. An event
    of another account or mode stays put aside for as long as it is not ours.
    """
    replayed = []
    for event in events.order_by("created", "id").iterator(chunk_size=200):
        reason = _why_not_ours(event.livemode, event.account)
        with transaction.atomic():
            StripeEvent.objects.filter(pk=event.pk).update(
                processed_at=None, quarantine_reason=reason, dead_at=None, attempts=0, error="", next_attempt_at=now
            )
            alerts.clear(kind=DEAD_LETTER, subject=event.event_id, now=now)
            audit.record(
                action="billing.process_again", target=f"event {event.event_id}", by=by, now=now, reason=reason
            )
        if not reason:
            replayed.append(event.event_id)
    return replayed


def _effect(event: StripeEvent, told: StripeEvent, readings: handlers.Readings, now: datetime) -> None:
    """Claim the event and do what it asks for; nothing where another worker has it."""
    if _claimable().filter(pk=event.pk).first() is None:
        return
    handlers.handle(told, readings, now=now)
    StripeEvent.objects.filter(pk=event.pk).update(
        processed_at=now, attempts=F("attempts") + 1, next_attempt_at=None, error=""
    )


def _claimable() -> QuerySet[StripeEvent]:
    """Waiting events, locked as they are read; those that another worker has are passed over.

    SQLite knows no row locks: there a transaction has the database to itself from its first statement on.
    """
    skip = connection.features.has_select_for_update_skip_locked
    return StripeEvent.objects.waiting().select_for_update(skip_locked=skip)


def _try_later(event: StripeEvent, error: Exception, now: datetime) -> None:
    attempts = event.attempts + 1
    if attempts >= MOST_ATTEMPTS:
        _put_aside(event, f"gave up after {attempts} tries", error, now)
        return
    delay = min(FIRST_DELAY * GROWTH ** (attempts - 1), LONGEST_DELAY)
    # Spread, so that what failed together does not come back together.
    delay *= random.uniform(0.8, 1.2)  # noqa: S311
    StripeEvent.objects.waiting().filter(pk=event.pk, attempts=event.attempts).update(
        attempts=attempts, error=_describe(error), next_attempt_at=now + delay
    )


def _put_aside(event: StripeEvent, reason: str, error: Exception, now: datetime) -> None:
    with transaction.atomic():
        put = StripeEvent.objects.waiting().filter(pk=event.pk, attempts=event.attempts)
        if not put.update(
            attempts=F("attempts") + 1,
            error=_describe(error),
            quarantine_reason=reason[:300],
            dead_at=now,
            next_attempt_at=None,
        ):
            # Another worker has handled it, or an operator replays it.
            return
        alerts.report(
            kind=DEAD_LETTER,
            subject=event.event_id,
            severity="critical",
            now=now,
            message=f"Stripe's {event.type} was put aside: {reason} ({_describe(error)})"[:500],
        )
    log.error("Stripe event %s was put aside: %s (%s)", event.event_id, reason, error)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


def _why_not_ours(livemode: bool, account: str) -> str:
    """Why an event is kept but not acted on; empty for one of ours."""
    if account:
        return f"of the connected account {account}"[:300]
    live = client.is_live()
    if live is None or live == livemode:
        return ""
    return "of live mode, but the key is a test key" if livemode else "of test mode, but the key is a live key"
