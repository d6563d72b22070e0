"""What would have let a refused call through: reckoned from its decision, and told as a sentence. Pure.

Amounts are integer nanodollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from governance.rules import money
from governance.rules.decision import Decision, Quote, Reason, WindowView
from governance.rules.refusals import rfc3339, wait_s
from governance.rules.visibility import Audience

# What somebody would have had to do, or say.
ACTS = {
    Reason.TENANT_PAUSED: "once an operator resumes the tenant",
    Reason.AGENT_PAUSED: "once an operator resumes the agent",
    Reason.EMERGENCY_STOP: "once an operator lifts the stop",
    Reason.TENANT_SUSPENDED: "with an active subscription",
    Reason.KEY_INVALID: "with a key that is neither revoked nor expired",
    Reason.MODEL_NOT_PRICED: "with a model that has a price",
    Reason.TOOL_NOT_PRICED: "with a tool that has a price",
    Reason.TOOL_DISABLED: "with the tool not forced",
    Reason.DOWNGRADE_REFUSED: "with a cheaper model allowed",
    Reason.BUDGET_CLOSED: "under another task or session",
    Reason.TOO_MANY_NAMES: "with a name that the budget knows",
}
_MONEY = frozenset({Reason.BUDGET_EXHAUSTED, Reason.DOWNGRADE_REFUSED, Reason.BUDGET_IN_FLIGHT})


@dataclass(frozen=True, slots=True)
class Blocker:
    """A budget that had no room, as it stood. `missing_nanos`: how much higher its limit would have had to be."""

    scope: str
    kind: str
    limit_nanos: int
    settled_nanos: int
    reserved_nanos: int
    hard_e4: int
    missing_nanos: int
    ends_at: datetime | None
    budget_id: int

    @property
    def remaining_nanos(self) -> int:
        return money.remaining_nanos(
            limit_nanos=self.limit_nanos,
            hard_e4=self.hard_e4,
            committed_nanos=self.settled_nanos + self.reserved_nanos,
        )


@dataclass(frozen=True, slots=True)
class Remedy:
    """Each of these would have done alone; what is None, or empty, would not.

    `max_tokens`: the most that would have fitted. `blockers`: what stood in the way, of which each would have needed
    its missing money. `at`: when it may go as it is. `act`: what somebody would have had to do.
    """

    max_tokens: int | None = None
    blockers: tuple[Blocker, ...] = ()
    at: datetime | None = None
    act: str = ""


def remedy(decision: Decision, *, now: datetime) -> Remedy:
    """What would have let a call through that was refused at `now`."""
    act = ACTS.get(decision.reason, "")
    if decision.reason is Reason.RATE_LIMITED:
        return Remedy(at=now + timedelta(seconds=wait_s(decision) or 0))
    wanted = decision.wanted
    if decision.reason not in _MONEY or wanted is None:
        return Remedy(act=act)
    full = [view for view in decision.views if not view.admits(wanted.cost_nanos)]
    # The one that the refusal names comes first.
    full.sort(key=lambda view: view is not decision.because)
    if decision.reason is Reason.BUDGET_IN_FLIGHT:
        at: datetime | None = now + timedelta(seconds=wait_s(decision) or 0)
    else:
        at = _reopened(full, wanted)
    return Remedy(
        max_tokens=_fitting(decision.views, wanted),
        blockers=tuple(_blocker(view, wanted) for view in full),
        at=at,
        act=act,
    )


def sentence(found: Remedy, *, audience: Audience) -> str:
    """ "max_tokens below 512, or $0.12 more, or at 2026-03-01T00:00:00Z"; of hidden figures nothing is said."""
    ways, at = [], found.at
    if all(audience.sees_amounts(blocker.scope) for blocker in found.blockers):
        if found.max_tokens is not None:
            ways.append(f"max_tokens below {found.max_tokens + 1}")
        if found.blockers:
            ways.append(_more(found.blockers, audience))
    else:
        # Were it left out where the call is larger than a whole limit, that limit could be found by asking.
        at = at or _last([blocker.ends_at for blocker in found.blockers])
        ways += [] if at else ["a higher limit"]
    if at is not None:
        ways.append(f"at {rfc3339(at.replace(microsecond=0))}")
    if found.act:
        ways.append(found.act)
    return ", or ".join(ways)


def _more(blockers: Sequence[Blocker], audience: Audience) -> str:
    each = [f"${money.format_dollars(blocker.missing_nanos)} more" for blocker in blockers]
    if len(blockers) == 1:
        return each[0]
    names = [audience.named(blocker.scope, blocker.kind) for blocker in blockers]
    return " and ".join(f"{more} for {name}" for more, name in zip(each, names, strict=True))


def _fitting(views: Sequence[WindowView], wanted: Quote) -> int | None:
    """The most output tokens for which the call fits everywhere; None where none do, or their price is not known."""
    if any(view.spent_out for view in views):
        return None
    fitting = wanted.clamped(min(view.room_nanos for view in views))
    return fitting.max_tokens if fitting else None


def _reopened(full: Sequence[WindowView], wanted: Quote) -> datetime | None:
    """When the last of these windows ends; None where one never does, or is too small for the call even when empty."""
    too_small = any(wanted.cost_nanos > view.cap_nanos for view in full)
    return None if too_small else _last([view.ends_at for view in full])


def _last(ends: Sequence[datetime | None]) -> datetime | None:
    """The last of these moments; None where one is never."""
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


def _blocker(view: WindowView, wanted: Quote) -> Blocker:
    # The least limit under whose hard cap there is room; a call that costs nothing needs the cap not to be reached.
    needed_nanos = view.committed_nanos + max(1, wanted.cost_nanos)
    return Blocker(
        scope=view.scope,
        kind=view.kind,
        limit_nanos=view.limit_nanos,
        settled_nanos=view.settled_nanos,
        reserved_nanos=view.reserved_nanos,
        hard_e4=view.policy.hard_e4,
        missing_nanos=-(-needed_nanos * 10_000 // view.policy.hard_e4) - view.limit_nanos,
        ends_at=view.ends_at,
        budget_id=view.budget_id,
    )
