"""Windows and buckets as a decision sees them, and those that are not open yet as they would open."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from governance.ledger import sql
from governance.ledger.rows import BucketRow, NewWindow, WindowRow, has_ended
from governance.rules import carry_over
from governance.rules.buckets import BucketView
from governance.rules.carry_over import WindowBefore
from governance.rules.decision import WindowView
from governance.rules.scopes import PLATFORM, MatchedBudget, Scoped
from governance.rules.windows import Span, span_at


def covered(window: WindowRow, at: datetime) -> bool:
    """Whether `at` is in a closed window's time. It may have been closed long after its period was over."""
    if window.closed_at is None or at < window.starts_at:
        return False
    return at < window.closed_at and not has_ended(window, at)


def new_windows(matched: Iterable[MatchedBudget], now: datetime) -> list[NewWindow]:
    """The windows that hold `now`, each with what it takes over of the one before."""
    opened = [(item, span_at(item.budget.window, now, ZoneInfo(item.time_zone))) for item in matched]
    asked = [(item.budget.id, item.subject, span.starts_at) for item, span in opened if item.budget.carry_over]
    before = sql.windows_before(asked) if asked else {}
    return [
        NewWindow(
            item,
            span.starts_at,
            span.ends_at,
            carried_nanos=_carried_nanos(item, span, before.get((item.budget.id, item.subject))),
        )
        for item, span in opened
    ]


def _carried_nanos(matched: MatchedBudget, span: Span, before: WindowBefore | None) -> int:
    budget = matched.budget
    if budget.carry_over is None:
        return 0
    return carry_over.carried_nanos(
        budget.carry_over,
        limit_nanos=budget.limit_nanos,
        hard_e4=budget.policy.hard_e4,
        starts_at=span.starts_at,
        before=before,
    )


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
        carried_nanos=window.carried_nanos,
        is_closed=budget.is_closed,
    )


def bucket_view(row: BucketRow, now: datetime) -> BucketView:
    is_shared = row.rule.scope_type == PLATFORM
    return BucketView(_scope(row.rule, row.subject), row.rule.ceilings, row.level, now, is_shared)


def unopened(matched: Iterable[MatchedBudget], now: datetime) -> list[WindowRow]:
    """Windows as they would open at the first call; their allowances are still to be worked out."""
    return [
        WindowRow(
            id=0,
            budget=new.matched.budget,
            subject=new.matched.subject,
            tenant_id=new.matched.tenant_id,
            starts_at=new.starts_at,
            ends_at=new.ends_at,
            limit_nanos=new.matched.budget.limit_nanos + new.carried_nanos,
            carried_nanos=new.carried_nanos,
            extra_until=now,
        )
        for new in new_windows(matched, now)
    ]


def _scope(rule: Scoped, subject: str) -> str:
    """The scope as people name it: "platform", "tenant:acme", "agent:invoices"."""
    return f"{rule.scope_type}:{subject}" if subject else rule.scope_type
