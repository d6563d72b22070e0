"""What happens to a budget's windows: closed, opened, given another limit. Rules of the ledger, run on locked rows."""

from __future__ import annotations

from collections.abc import Sequence

from governance.ledger import acts, sql, sql_acts, sql_callers, sql_writes
from governance.ledger import sql_buckets as limits
from governance.ledger.batch import LOOKS, Batch, LostWindows
from governance.ledger.operations import ChangeLimit, Follow, OpenPeriod, Reset, ReviewAllowances
from governance.ledger.results import FollowResult, LedgerError, PeriodResult, ResetResult
from governance.ledger.rows import EventRow, NewWindow, WindowRow
from governance.ledger.sql_dialect import answer
from governance.ledger.views import new_windows
from governance.rules.scopes import BudgetRule, MatchedBudget


def reset(batch: Batch, op: Reset) -> ResetResult:
    """Close a budget's open windows and open new ones now; the closed ones keep their figures.

    Where they are very many, they are closed one after another.
    """
    if op.subject is None and op.budget_id in batch.crowded:
        return ResetResult(*acts.note(batch, op.budget_id, acts.RESET, reason=op.reason, actor=op.actor))
    old = _open_windows(batch, op.budget_id, op.subject)
    opened: list[NewWindow] = []
    for row in old:
        opened += acts.close(batch, row, reason=op.reason, actor=op.actor)
        # Not there for another reset of the same batch.
        del batch.open[row.budget.id, row.subject]
    sql_writes.close_windows([row.id for row in old], batch.now)
    _open(batch, opened)
    return ResetResult(closed=len(old), opened=len(opened))


def open_period(batch: Batch, op: OpenPeriod) -> PeriodResult:
    """Open a paid period's window, once for each grant, and never an older one over a newer.

    It has the budget's turn, so that only a call can still open a window first; the second look has that one locked.
    """
    budget, tenant, _ = _budget(batch, op.budget_id)
    for _ in range(LOOKS):
        known = sql.granted(op.budget_id, op.source_kind, op.source_id, op.starts_at)
        if known is not None:
            return PeriodResult(known, opened=False)
        current = batch.open.get((op.budget_id, tenant))
        if current and (op.ends_at <= batch.now or (current.source_kind and op.starts_at < current.starts_at)):
            return PeriodResult(current.id, opened=False)
        if current:
            batch.events.append(
                EventRow(
                    current,
                    "budget-reset",
                    old_state=current.state,
                    new_state="active",
                    reason=op.reason,
                    actor=op.actor,
                )
            )
            current.closed_at = batch.now
            sql_writes.close_windows([current.id], batch.now)
        new = NewWindow(
            MatchedBudget(budget, tenant, budget.tenant_id),
            op.starts_at,
            op.ends_at,
            op.limit_nanos,
            op.source_kind,
            op.source_id,
        )
        _open(batch, [new])
        opened = batch.open[op.budget_id, tenant]
        if (opened.source_kind, opened.source_id, opened.starts_at) == (op.source_kind, op.source_id, op.starts_at):
            return PeriodResult(opened.id, opened=True)
        # There was none to lock, and a call opened one at this moment: now it is there, and locked.
    raise LostWindows("windows kept changing while one was being opened")


def change_limit(batch: Batch, op: ChangeLimit) -> int:
    """Give open windows another limit; their states follow. How many windows there are."""
    if op.budget_id in batch.crowded:
        noted = acts.note(batch, op.budget_id, acts.LIMIT, limit_nanos=op.limit_nanos, reason=op.reason, actor=op.actor)
        return noted[0]
    changed = _open_windows(batch, op.budget_id)
    for row in changed:
        acts.set_limit(batch, row, op.limit_nanos, reason=op.reason, actor=op.actor)
    return len(changed)


def review_allowances(batch: Batch, op: ReviewAllowances) -> int:
    """Bring the budget's open windows up to date with its allowances; how many windows there are."""
    if op.subject is None and op.budget_id in batch.crowded:
        return acts.note(batch, op.budget_id, acts.ALLOWANCES)[0]
    rows = _open_windows(batch, op.budget_id, op.subject)
    if op.subject is None:
        # A call whose insert waits for this transaction does not see what it makes, but sees that there is something.
        revision = sql_acts.advance(op.budget_id)
        for row in rows:
            row.revision = revision
    batch.work_out(rows)
    return len(rows)


def follow(batch: Batch, op: Follow) -> FollowResult:
    """Say how far a budget's windows have followed the acts on it: this slice has, by being locked."""
    if slice := batch.following[op]:
        return FollowResult(done=False, after=slice[-1][1])
    if op.after is None:
        sql_acts.end(op.budget_id)
    # A call may have opened one meanwhile that is behind, before the place where this pass was.
    return FollowResult(done=op.after is None)


def roll(batch: Batch, *, limit: int) -> int:
    """Close ended calendar windows; open those of budgets with one subject. And tidy up what calls leave behind."""
    batch.read_clock()
    rows = [row for row in answer(sql.windows(ids=sql.ended_windows(batch.now, limit))) if row.closed_at is None]
    sql_writes.close_windows([row.id for row in rows], batch.now)
    budgets = sql.budgets_by_id(sql.budgets_without_window() or [0])
    new = []
    for budget, tenant, zone in budgets.values():
        subject = tenant if budget.scope_type == "tenant" else budget.scope_key
        new.append(MatchedBudget(budget, subject, budget.tenant_id, zone))
    if new:
        sql_writes.open_windows(new_windows(new, batch.now), batch.now)
    due = answer(sql.windows(ids=limits.windows_to_work_out(batch.now, limit)))
    stale = [row for row in due if row.closed_at is None]
    batch.work_out(stale)
    sql_writes.update_windows(stale)
    sql_writes.insert_events(batch.events, batch.now)
    limits.drop_idle(batch.now, limit)
    sql_callers.compact_versions()
    return len(rows) + len(new) + len(stale)


def _open_windows(batch: Batch, budget_id: int, subject: str | None = None) -> list[WindowRow]:
    """A budget's open windows, or one subject's, without those that stand in for what a call has not opened."""
    return [
        row for row in batch.open.values() if row.budget.id == budget_id and row.id and subject in (None, row.subject)
    ]


def _open(batch: Batch, new: Sequence[NewWindow]) -> None:
    """Open windows and hold their locks, in place of the ones just closed."""
    if not new:
        return
    sql_writes.open_windows(new, batch.now)
    rows = answer(sql.windows(keys=[(item.matched.budget.id, item.matched.subject) for item in new]))
    for row in rows:
        batch.windows[row.id] = batch.open[row.budget.id, row.subject] = row
    batch.work_out([row for row in rows if row.extra_until is not None])


def _budget(batch: Batch, id: int) -> tuple[BudgetRule, str, str]:
    try:
        return sql.budgets_by_id([id])[id]
    except KeyError:
        raise LedgerError(f"there is no budget {id}") from None
