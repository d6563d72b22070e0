"""What a window's row (`BillingPeriod`) says of its parts, as the rules read it, and as it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from billing.models import BillingPeriod
from billing.rules import balance
from billing.rules.balance import Draw
from billing.rules.grants import Period
from billing.rules.shares import WindowShare
from billing.rules.undone import Fall, Undone


def drawable(part: WindowShare) -> balance.Part:
    return balance.Part(
        key=part.key,
        ends_at=part.period.ends_at,
        whole_nanos=part.limit_nanos,
        paid_nanos=part.paid_nanos,
        given_nanos=part.given_nanos,
        frozen=part.frozen,
        is_over=part.is_over,
        forgiven_nanos=part.forgiven_nanos,
        disputed_nanos=part.disputed_nanos,
        lost_nanos=part.lost_nanos,
    )


def draws(row: BillingPeriod) -> dict[str, Draw]:
    return {key: Draw(*draw) for key, draw in row.draws.items()}


def undone(row: BillingPeriod) -> dict[str, Undone]:
    return {key: Undone(_falls(stored)) for key, stored in row.undone.items()}


def _falls(stored: Sequence[Any]) -> tuple[Fall, ...]:
    """What has gone of a part. Rows of earlier versions have what of it was used, all, what stood, what was given."""
    if stored and isinstance(stored[0], int):
        used, gone, stood, given = stored
        stored = [[gone - given, stood, stood + used], [given, stood, stood + used, True]]
    return tuple(Fall(*fall) for fall in stored)


def stored(part: WindowShare) -> list[Any]:
    """A part as JSON; what was paid for it is worked out each time."""
    until = part.given_until.isoformat() if part.given_until else ""
    spans = part.period.starts_at.isoformat(), part.period.ends_at.isoformat()
    return [part.subscription_id, *spans, part.limit_nanos, part.given_nanos, part.cycle, until, part.is_own]


def parts(row: BillingPeriod) -> list[WindowShare]:
    return list(map(part, row.parts))


def part(raw: Sequence[Any]) -> WindowShare:
    subscription_id, starts_at, ends_at, *rest = raw
    # Rows of earlier versions have the whole that the period was a part of; those before them no cycle, nor an end.
    limit_nanos, given_nanos, *more = rest[2:] if isinstance(rest[0], str) else rest
    cycle, until, *own = more if len(more) >= 2 else ("", "")
    return WindowShare(
        subscription_id,
        Period(datetime.fromisoformat(starts_at), datetime.fromisoformat(ends_at)),
        limit_nanos,
        cycle,
        given_nanos=given_nanos,
        given_until=datetime.fromisoformat(until) if until else None,
        is_own=any(own),
    )
