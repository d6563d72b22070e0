"""The inbox by what became of its events, and how many there are of those that are not done."""

from __future__ import annotations

from collections.abc import Callable

from django.db.models import QuerySet

from billing.models import StripeEvent

WAITING, FAILING, DEAD, NOT_OURS, DONE = "waiting", "failing", "put aside", "not ours", "done"

STATES: dict[str, Callable[[QuerySet[StripeEvent]], QuerySet[StripeEvent]]] = {
    WAITING: lambda rows: rows.filter(processed_at__isnull=True, quarantine_reason="", attempts=0),
    FAILING: lambda rows: rows.filter(processed_at__isnull=True, quarantine_reason="", attempts__gt=0),
    DEAD: lambda rows: rows.exclude(quarantine_reason="").filter(dead_at__isnull=False),
    NOT_OURS: lambda rows: rows.exclude(quarantine_reason="").filter(dead_at__isnull=True),
    DONE: lambda rows: rows.filter(processed_at__isnull=False),
}


def state_of(event: StripeEvent) -> str:
    if event.processed_at:
        return DONE
    if event.quarantine_reason:
        return DEAD if event.dead_at else NOT_OURS
    return FAILING if event.attempts else WAITING


def counts() -> dict[str, int]:
    """State -> how many, of those that are in an index of their own: all but what is done."""
    return {name: choose(StripeEvent.objects.all()).count() for name, choose in STATES.items() if name != DONE}
