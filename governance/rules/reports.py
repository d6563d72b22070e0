"""What a tenant's own key may say was spent, before an operator has seen it. Pure.

A call is bounded by its hold; a report is only a claim, and what it claims is taken from every budget above it. So it
counts as far as the tenant's own budgets leave room for it. Amounts are integer nanodollars.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from governance.rules.decision import WindowView
from governance.rules.scopes import PLATFORM

# The scopes whose key comes from the API key. Any other a caller names itself: with a new user for each report, a
# budget for each user bounds nothing.
FIXED_SCOPES = frozenset({"tenant", "key"})

# What is older is no news but a mistake.
OLDEST_REPORT = timedelta(days=400)
# The reason of the line that an accepted report becomes.
ACCEPTED_REPORT = "report_accepted"
# Holds that a tenant's keys may have beside every budget of its own, and have let expire in 24 hours: all of them are
# looked at for the next.
MOST_UNBUDGETED_HOLDS = 1_000
# Of the ids of holds that agents make for calls of their own; those of the gateway's calls are of another version.
OWN_VERSION = 8


@dataclass(frozen=True, slots=True)
class ReportTrust:
    """How far the reports of one tenant's keys are believed.

    `unbudgeted_nanos` is what they may report in 24 hours where no budget of their own bounds them. `agent_is_fixed`:
    the key that reports is bound to an agent, so that it does not choose that either.
    """

    tenant_id: int
    unbudgeted_nanos: int
    agent_is_fixed: bool = False

    @property
    def fixed_scopes(self) -> frozenset[str]:
        return FIXED_SCOPES | {"agent"} if self.agent_is_fixed else FIXED_SCOPES


@dataclass(frozen=True, slots=True)
class ReportBound:
    """What a report was held against, and what that left; below zero after an overage.

    `scope` is a budget's, as people name it ("tenant:acme"); empty for what may be reported without one.
    """

    room_nanos: int
    scope: str = ""
    kind: str = ""


def is_own(reservation_id: UUID) -> bool:
    """Whether an agent holds it for a call of its own, and the gateway for none of its."""
    return (reservation_id.int >> 76) & 0xF == OWN_VERSION


def is_budgeted(charged: Iterable[WindowView], trust: ReportTrust) -> bool:
    """Whether a budget of the tenant's own, which it cannot choose, is charged and so bounds all its reports."""
    return any(view.scope_type in trust.fixed_scopes for view in charged)


def bound_of(views: Iterable[WindowView], *, unbudgeted_left_nanos: int | None) -> ReportBound:
    """The tightest bound of a report that these windows govern.

    Where the tenant's own budgets bound it (`unbudgeted_left_nanos` is None), they alone do. Otherwise so do the wider
    ones, and what is left of what may be reported without any.
    """
    if unbudgeted_left_nanos is None:
        return min((_of(view) for view in views if view.scope_type != PLATFORM), key=_room)
    return min((*map(_of, views), ReportBound(unbudgeted_left_nanos)), key=_room)


def _of(view: WindowView) -> ReportBound:
    return ReportBound(view.room_nanos, view.scope, view.kind)


def _room(bound: ReportBound) -> int:
    return bound.room_nanos
