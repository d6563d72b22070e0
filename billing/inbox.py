"""The inbox of Stripe's events: stored once, handled once, tried again until it works, and kept.

A 200 to Stripe means that the row is committed. Whatever happens after that, a sweep finds the row.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import DatabaseError, connection, transaction
from django.db.models import F, Q

from billing import handlers, stripe_client, sync
from billing.models import StripeEvent
from billing.webhooks import Envelope
from governance import audit
from governance.audit import Actor
from governance.ledger import LedgerError

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 12
FIRST_DELAY = timedelta(seconds=5)
LONGEST_DELAY = timedelta(hours=1)
# A fresh event belongs to the worker it was handed to; after this long the sweep takes it.
HEAD_START = timedelta(seconds=10)


def store(envelope: Envelope, *, now: datetime) -> bool:
    """Keep an event; whether it is new. Committed when this returns, unless the caller holds a transaction open."""
    with transaction.atomic():
        rows = StripeEvent.objects.bulk_create(
            [
                StripeEvent(
                    event_id=envelope.id, type=envelope.type, created=envelope.created, livemode=envelope.livemode,
                    api_version=envelope.api_version, customer_id=envelope.customer_id, payload=envelope.payload,
                    received_at=now, next_attempt_at=now + HEAD_START, quarantine_reason=_why_not_ours(envelope),
                )
            ],
            ignore_conflicts=True,
        )  # fmt: skip
        return StripeEvent.objects.filter(event_id=envelope.id, received_at=now).exists() and bool(rows)


def process(event_id: str, *, now: datetime) -> bool:
    """Handle an event: its effect and its `processed_at` in one transaction. Whether it is done, now or before.

    A failure is noted and tried again later, and after twelve tries put aside for an operator; it is not raised.
    """
    event = StripeEvent.objects.filter(event_id=event_id).first()
    if event is None or event.quarantine_reason:
        return False
    if event.processed_at is not None:
        return True
    try:
        return _handle_once(event, now)
    except stripe_client.StripeRefused as error:
        _put_aside(event, f"Stripe refuses: {error}", error)
    except (stripe_client.StripeError, LedgerError, DatabaseError) as error:
        _try_later(event, error, now)
    except Exception as error:
        log.exception("Stripe event %s failed", event_id)
        _try_later(event, error, now)
    return False


def sweep(*, now: datetime, limit: int = 500, handle: Callable[..., bool] = process) -> int:
    """Handle events that are due: those whose worker died, whose message was lost, or that failed before."""
    due = StripeEvent.objects.waiting().filter(Q(next_attempt_at__isnull=True) | Q(next_attempt_at__lte=now))
    ids = list(due.order_by("created", "id").values_list("event_id", flat=True)[:limit])
    return sum(handle(event_id, now=now) for event_id in ids)


def again(*, event: StripeEvent, by: Actor, now: datetime) -> None:
    """An operator's retry, also of an event that is done (handling twice does nothing more) or was put aside."""
    with transaction.atomic():
        StripeEvent.objects.filter(pk=event.pk).update(
            processed_at=None, quarantine_reason="", attempts=0, error="", next_attempt_at=now
        )
        audit.record(action="billing.process_again", target=f"event {event.event_id}", by=by, now=now)


def _handle_once(event: StripeEvent, now: datetime) -> bool:
    for _ in range(sync.READINGS):
        readings = handlers.readings(event, now=now)
        try:
            with transaction.atomic():
                return _effect(event, readings, now)
        except sync.Overtaken:
            continue
    raise stripe_client.StripeUnavailable("the customer is being read by too many workers at once")


def _effect(event: StripeEvent, readings: handlers.Readings, now: datetime) -> bool:
    """Claim the event and do what it asks for; False where another worker has it."""
    skip = connection.features.has_select_for_update_skip_locked
    rows = StripeEvent.objects.waiting().select_for_update(skip_locked=skip)
    claimed = rows.filter(pk=event.pk).first()
    if claimed is None:
        return StripeEvent.objects.filter(pk=event.pk, processed_at__isnull=False).exists()
    handlers.handle(claimed, readings, now=now)
    StripeEvent.objects.filter(pk=event.pk).update(
        processed_at=now, attempts=F("attempts") + 1, next_attempt_at=None, error=""
    )
    return True


def _try_later(event: StripeEvent, error: Exception, now: datetime) -> None:
    attempts = event.attempts + 1
    if attempts >= MOST_ATTEMPTS:
        _put_aside(event, f"gave up after {attempts} tries", error)
        return
    delay = min(FIRST_DELAY * 2 ** (attempts - 1), LONGEST_DELAY)
    # Spread, so that what failed together does not come back together.
    delay *= random.uniform(0.8, 1.2)  # noqa: S311
    StripeEvent.objects.waiting().filter(pk=event.pk).update(
        attempts=attempts, error=_told(error), next_attempt_at=now + delay
    )


def _put_aside(event: StripeEvent, reason: str, error: Exception) -> None:
    StripeEvent.objects.waiting().filter(pk=event.pk).update(
        attempts=F("attempts") + 1, error=_told(error), quarantine_reason=reason[:300], next_attempt_at=None
    )
    log.error("Stripe event %s was put aside: %s (%s)", event.event_id, reason, error)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


def _why_not_ours(envelope: Envelope) -> str:
    """Why an event is kept but not acted on; empty for one of ours."""
    if envelope.account:
        return f"of the connected account {envelope.account}"[:300]
    live = stripe_client.is_live()
    if live is not None and live != envelope.livemode:
        return (
            "of live mode, but the key is a test key"
            if envelope.livemode
            else "of test mode, but the key is a live key"
        )
    return ""
