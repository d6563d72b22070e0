"""A database that was put back to what it was: usage that it knows of may have been sent since, and goes out once."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from billing.models import MeterEvent, Restoration
from billing.usage import outbox

State = MeterEvent.State


@transaction.atomic
def note(*, made_at: datetime, now: datetime) -> int:
    """Hold what is not known to have been sent, until Stripe's sums tell; how many rows.

    What is made later of hours before `now` is held likewise (`billing.usage.outbox`).
    """
    Restoration.objects.create(made_at=made_at, restored_at=now)
    unsent = list(MeterEvent.objects.select_for_update().filter(state__in=[State.PENDING, State.SENDING]))
    for row in unsent:
        outbox.hold(row, now=now)
    fields = ["state", "first_attempt_at", "last_attempt_at", "next_attempt_at"]
    MeterEvent.objects.bulk_update(unsent, fields, batch_size=1000)
    return len(unsent)
