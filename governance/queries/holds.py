"""What calls under way hold in a window, and what they cost once they have ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from uuid import UUID

from governance.models import BudgetWindow, Reservation, SpendEntry


def under_way(window: BudgetWindow) -> list[str]:
    """The ids of the reservations that hold something in a window, as text."""
    # Few are pending at any moment, and an index knows them.
    rows = Reservation.objects.filter(status=Reservation.Status.PENDING, tenant=window.tenant_id)
    return sorted(str(id) for id, windows in rows.values_list("pk", "windows") if window.pk in windows)


def ended(ids: Collection[str]) -> Mapping[str, int]:
    """Of these reservations those that are settled, released or expired: id -> what was charged then, or less where
    somebody has said so since, in nanodollars. What was said beyond that, as by a late settlement, is as a report."""
    if not ids:
        return {}
    done = {UUID(id) for id in ids} - pending(ids)
    at_end, costs = Counter[UUID](), Counter[UUID]()
    lines = SpendEntry.objects.filter(reservation__in=done).values_list("reservation", "kind", "cost_nanos")
    for id, kind, cost_nanos in lines.order_by():
        costs[id] += cost_nanos
        at_end[id] += cost_nanos if kind == SpendEntry.Kind.CHARGE else 0
    return {str(id): min(at_end[id], costs[id]) for id in done}


def pending(ids: Collection[str]) -> set[UUID]:
    """Those of these reservations that are under way."""
    rows = Reservation.objects.filter(pk__in=ids, status=Reservation.Status.PENDING)
    return set(rows.values_list("pk", flat=True)) if ids else set()


def charged(ids: Collection[str]) -> int:
    """What these reservations were charged, or hold while they are under way, in nanodollars."""
    done = ended(ids)
    held = Reservation.objects.filter(pk__in=set(ids) - done.keys()).values_list("amount_nanos", flat=True)
    return sum(held) + sum(done.values())
