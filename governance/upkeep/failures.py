"""Counts of the calls that came to nothing, by hour: what the ledger has, and rollups have not.

A call has failed where its hold was released or ran out, or where it was charged at an estimate because its upstream
failed. Counted off the path of calls, from the indexes of what ends so; the hours before stay as they were counted.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Count, Q

from governance.models import FailedCalls, Reservation, SpendEntry

HOUR = timedelta(hours=1)
# So long after its end an hour is counted again: calls settle late.
SETTLED_AFTER = timedelta(minutes=20)
# As long as anomalies look back, and a little more.
KEPT = timedelta(days=35)
NOTHING = (Reservation.Status.RELEASED, Reservation.Status.EXPIRED)
# Reasons of a charge whose upstream failed; a client that left is no failure.
FAILED = Q(reason__startswith="upstream") | Q(reason__in=["internal_error"])

Key = tuple[int, str, str, str]


def count(*, now: datetime) -> int:
    """Count the hour that goes on, and the one before while it may change; how many calls have failed in them."""
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [hour - HOUR, hour] if now - hour < SETTLED_AFTER else [hour]
    return sum(_count(each) for each in hours)


def purge(*, now: datetime) -> int:
    return FailedCalls.objects.filter(hour__lt=now - KEPT).delete()[0]


def _count(hour: datetime) -> int:
    found: Counter[Key] = Counter()
    ended = Reservation.objects.filter(status__in=NOTHING, resolved_at__gte=hour, resolved_at__lt=hour + HOUR)
    _add(found, ended.order_by().values_list("tenant_id", "agent", "provider", "model_requested"))
    charged = SpendEntry.objects.filter(
        FAILED, certainty=SpendEntry.Certainty.ESTIMATED, occurred_at__gte=hour, occurred_at__lt=hour + HOUR
    )
    _add(found, charged.order_by().values_list("tenant_id", "agent", "provider", "model_served"))
    rows = [
        FailedCalls(tenant_id=key[0], hour=hour, agent=key[1], provider=key[2], model=key[3], failures=number)
        for key, number in found.items()
    ]
    FailedCalls.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["tenant", "hour", "agent", "provider", "model"],
        update_fields=["failures"],
    )
    return sum(found.values())


def _add(found: Counter[Key], rows: Any) -> None:
    for *key, number in rows.annotate(number=Count("pk")):
        tenant_id, agent, provider, model = key
        found[tenant_id, agent, provider, model] += number
