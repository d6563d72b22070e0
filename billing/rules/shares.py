"""A subscription's share of a window, and what of it was paid for. Pure. Amounts are integer nanodollars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from billing.rules import grants, standing
from billing.rules.grants import Grant, Period
from billing.rules.refunds import Refund
from billing.stripe_api.objects import StripeSubscription

# Stripe's statuses of a subscription that is over.
OVER = ("canceled", "incomplete_expired")


@dataclass(frozen=True, slots=True)
class WindowShare:
    """A subscription's share of a window, of one cycle.

    `paid_nanos` was paid for and stands. `given_nanos` need no payment (a trial, an operator's own limit, usage that is
    billed when it is over), or none before `given_until`. `forgiven_nanos` were paid back by the business,
    `disputed_nanos` are in a dispute that may still be won, and `lost_nanos` were lost in one. `frozen`: nothing that
    was paid stands. `is_own`: its limit is an operator's own. `is_over`: it counts no more, however it went.
    """

    subscription_id: str
    period: Period
    limit_nanos: int
    cycle: str = ""
    paid_nanos: int = 0
    given_nanos: int = 0
    given_until: datetime | None = None
    forgiven_nanos: int = 0
    disputed_nanos: int = 0
    lost_nanos: int = 0
    frozen: bool = False
    is_own: bool = False
    is_over: bool = False

    @property
    def key(self) -> str:
        return f"{self.subscription_id} {self.cycle} {self.period.starts_at.isoformat()}"


def paid_for(part: WindowShare, lines: Sequence[Grant], became: Mapping[str, Refund]) -> WindowShare:
    """A part with what was paid for it and stands. What was refunded in part is the business's gift, and what is paid
    for in arrears is what was used, so that none of it is left."""
    gone = standing.lost(became)
    all, kept, undisputed, stands = (
        grants.given(lines, part.period, lost=shares)
        for shares in ({}, standing.lost_in_dispute(became), standing.disputed(became), gone)
    )
    billed = [one for one in lines if one.span.overlap(part.period) and not one.is_credit]
    forgiven, disputed = max(0, undisputed - stands), max(0, kept - undisputed)
    part = replace(
        part,
        lost_nanos=max(0, all - kept),
        frozen=not stands and any(one.lost(gone) for one in billed),
    )
    if any(one.cycle.in_arrears for one in lines):
        return replace(part, given_nanos=max(part.given_nanos, stands), forgiven_nanos=forgiven + disputed)
    return replace(part, paid_nanos=stands, forgiven_nanos=forgiven, disputed_nanos=disputed)


def left_behind(part: WindowShare, lines: Sequence[Grant], became: Mapping[str, Refund]) -> WindowShare:
    """A part that a former customer paid for: what credits took back of it is owed by that one, which has the credit,
    and by nobody else. It repays no more than what stands."""
    charged = [one for one in lines if not one.is_credit]
    nanos = grants.given(charged, part.period, lost=standing.lost(became))
    return replace(part, given_nanos=max(part.given_nanos, nanos))


def owned(parts: Sequence[WindowShare], nanos: int, *, instead_of: int) -> tuple[WindowShare, ...]:
    """Parts of a window with an operator's own limit, shared between them as the plans' was. It is given: an operator
    answers for it."""
    left, found = nanos, []
    for number, part in enumerate(parts):
        is_last = number + 1 == len(parts)
        share = left if is_last or not instead_of else nanos * part.limit_nanos // instead_of
        left -= share
        given = max(share, part.given_nanos)
        found.append(replace(part, limit_nanos=share, given_nanos=given, given_until=None, is_own=True))
    return tuple(found)


def is_due(part: WindowShare, sub: StripeSubscription | None, now: datetime) -> bool:
    """Whether what was given of a part before its payment is to be paid by now. That ends with its subscription, and
    without terms of payment when another period begins, be it before its time."""
    if part.given_until is None:
        return False
    if sub is None or sub.status in OVER:
        return True
    begun = min((item.starts_at for item in sub.items if item.starts_at), default=part.period.starts_at)
    is_cut = begun > part.period.starts_at
    return now >= (min(part.given_until, begun + timedelta(days=sub.days_until_due)) if is_cut else part.given_until)


def stopped(part: WindowShare, known: WindowShare) -> WindowShare:
    """A part as it was, that is over, with what became of its payment."""
    given = min(part.given_nanos, known.given_nanos)
    return replace(known, period=part.period, cycle=part.cycle, given_nanos=given, frozen=True, is_over=True)


def once(parts: Sequence[WindowShare]) -> list[WindowShare]:
    """All but those whose time an earlier one has: that is paid for once, though it is known by now to have begun at
    another moment, or in a trial that ended as it began."""
    found = list[WindowShare]()
    for part in parts:
        if not any(is_same(part, one) for one in found):
            found.append(part)
    return found


def is_same(part: WindowShare, other: WindowShare) -> bool:
    same = (part.subscription_id, part.cycle) == (other.subscription_id, other.cycle)
    return same and bool(part.period.overlap(other.period))
