"""Windows and buckets as a decision sees them, and those that are not open yet as they would open."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from governance.ledger.rows import BucketRow, NewWindow, WindowRow, has_ended
from governance.rules.buckets import BucketView
from governance.rules.decision import WindowView
from governance.rules.scopes import PLATFORM, MatchedBudget, Scoped
from governance.rules.windows import span_at


def covered(window: WindowRow, at: datetime) -> bool:
    """Whether `at` is in a closed window's time. It may have been closed long after its period was over."""
    if window.closed_at is None or at < window.starts_at:
        return False
    return at < window.closed_at and not has_ended(window, at)


def new_window(matched: MatchedBudget, now: datetime) -> NewWindow:
    """The window that holds `now`."""
    span = span_at(matched.budget.window, now, ZoneInfo(matched.time_zone))
    return NewWindow(matched, span.starts_at, span.ends_at)


def view_of(window: WindowRow) -> WindowView:
    budget = window.budget
    return WindowView(
        budget_id=budget.id,
        window_id=window.id,
        scope=_scope(budget, window.subject),
        scope_type=budget.scope_type,
        scope_key=window.subject,
        kind=budget.window.value,
        starts_at=window.starts_at,
        ends_at=window.ends_at,
        limit_nanos=window.limit_nanos,
        settled_nanos=window.settled_nanos,
        reserved_nanos=window.reserved_nanos,
        policy=budget.policy,
        is_closed=budget.is_closed,
    )


def bucket_view(row: BucketRow, now: datetime) -> BucketView:
    is_shared = row.rule.scope_type == PLATFORM
    return BucketView(_scope(row.rule, row.subject), row.rule.ceilings, row.level, now, is_shared)


def unopened(matched: MatchedBudget, now: datetime) -> WindowRow:
    """A window as it would open at the first call; its allowances are still to be worked out."""
    new = new_window(matched, now)
    return WindowRow(
        id=0,
        budget=matched.budget,
        subject=matched.subject,
        tenant_id=matched.tenant_id,
        starts_at=new.starts_at,
        ends_at=new.ends_at,
        limit_nanos=matched.budget.limit_nanos,
        extra_until=now,
    )


def _scope(rule: Scoped, subject: str) -> str:
    """The scope as people name it: "platform", "tenant:acme", "agent:invoices"."""
    return f"{rule.scope_type}:{subject}" if subject else rule.scope_type
