"""The ledger's rows as it works on them: read and locked, changed in memory, written back once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from governance.rules.buckets import Amount
from governance.rules.calls import Caller
from governance.rules.overruns import ModelOverrun
from governance.rules.scopes import BudgetRule, MatchedBudget, RateRule, StopTarget


@dataclass(slots=True)
class WindowRow:
    id: int
    budget: BudgetRule
    subject: str
    tenant_id: int | None
    starts_at: datetime
    ends_at: datetime | None
    limit_nanos: int
    settled_nanos: int = 0
    reserved_nanos: int = 0
    state: str = "active"
    crossed: list[str] = field(default_factory=list)
    closed_at: datetime | None = None
    source_kind: str = ""
    source_id: str = ""
    limit_lowered: bool = False
    extra_nanos: int = 0
    extra_until: datetime | None = None
    carried_nanos: int = 0
    revision: int = 0
    dirty: bool = False


def has_ended(window: WindowRow, now: datetime) -> bool:
    """Whether time has closed a window."""
    return window.ends_at is not None and window.ends_at <= now and not window.budget.window.ends_by_act


def hour_of(moment: datetime) -> datetime:
    """The hour, in UTC, in whose sums a call of that moment counts."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class NewWindow:
    """A window to open; without a limit of its own it takes its budget's, as of the acts that this one knows of."""

    matched: MatchedBudget
    starts_at: datetime
    ends_at: datetime | None
    limit_nanos: int | None = None
    source_kind: str = ""
    source_id: str = ""
    # On top of its limit.
    carried_nanos: int = 0


@dataclass(slots=True)
class ReservationRow:
    id: UUID
    caller: Caller
    provider: str
    model_requested: str
    model_served: str
    windows: list[int]
    amount_nanos: int
    status: str
    reserved_at: datetime
    expires_at: datetime
    resolved_at: datetime | None = None
    buckets: list[int] = field(default_factory=list)
    tokens: int = 0
    dirty: bool = False


@dataclass(slots=True)
class EntryRow:
    """A ledger line to insert, or one read back to be corrected."""

    id: UUID
    kind: str
    caller: Caller
    provider: str
    model_requested: str
    model_served: str
    windows: list[int]
    cost_nanos: int
    occurred_at: datetime
    reservation_id: UUID | None = None
    corrects_id: UUID | None = None
    request_id: str = ""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    unit: str = "token"
    units: int = 0
    price_rule: str = ""
    overage_nanos: int = 0
    certainty: str = "confirmed"
    reason: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventRow:
    window: WindowRow
    kind: str
    reason: str
    threshold: str = ""
    old_state: str = ""
    new_state: str = ""
    actor: str = ""
    # Until alerts have told of it.
    untold: bool = True

    @property
    def short_reason(self) -> str:
        return self.reason[:300]

    @property
    def short_actor(self) -> str:
        return self.actor[:150]


@dataclass(slots=True)
class CallerStatus:
    """Whether callers may call at all, and what else is to be known of them before it is decided."""

    of_tenants: dict[int, str] = field(default_factory=dict)
    time_zones: dict[int, str] = field(default_factory=dict)
    paused_agents: set[tuple[int, str]] = field(default_factory=set)
    # Since when keys are no good any more, or from when on; of those that have an end.
    key_ends: dict[int | None, datetime] = field(default_factory=dict)
    stops: set[StopTarget] = field(default_factory=set)
    # Of all models: which of them a call may come to, its prices know.
    overruns: tuple[ModelOverrun, ...] = ()

    def add(self, other: CallerStatus) -> None:
        """Add what was read of other callers."""
        self.of_tenants.update(other.of_tenants)
        self.time_zones.update(other.time_zones)
        self.paused_agents.update(other.paused_agents)
        self.key_ends.update(other.key_ends)
        self.stops.update(other.stops)
        self.overruns = other.overruns


@dataclass(slots=True)
class BucketRow:
    """A locked bucket; its level is as of `measured_at`, which never goes back: mostly the batch's now.

    `counts_since`: what was held by then was held under other ceilings. None: nothing was.
    """

    id: int
    rule: RateRule
    subject: str
    level: Amount
    measured_at: datetime
    counts_since: datetime | None = None
    dirty: bool = False

    def has_what_was_held(self, at: datetime) -> bool:
        return self.counts_since is None or at > self.counts_since


@dataclass(frozen=True, slots=True)
class AllowanceRow:
    budget_id: int
    window_id: int | None
    amount_nanos: int
    starts_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class ActRow:
    """The latest act of its kind that a budget's windows follow one after another."""

    kind: str
    revision: int
    limit_nanos: int | None
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class ActsOn:
    """A budget as it is, and the acts that its windows may not have followed yet."""

    budget: BudgetRule
    acts: Mapping[str, ActRow]

    def unfollowed(self, kind: str, *, by: WindowRow) -> ActRow | None:
        """The act of this kind, where a window has not followed it."""
        act = self.acts.get(kind)
        return act if act is not None and act.revision > by.revision else None
