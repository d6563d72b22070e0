"""Acts on budgets with more open windows than one transaction should hold, and how these windows follow.

A budget for each user has as many windows as there are users. To change them all at once would keep every call waiting
meanwhile, and may never end. So the act is only noted: its budget gets another revision, and the act is done. A window
whose revision is lower is *behind*. Whoever locks one brings it up to date before anything is decided by it, so the act
holds for the next call of every user. The others follow in slices (`Follow`), each a transaction of its own that takes
the budget's turn; whoever is stopped between two of them, the next one goes on from where they are.

Of acts of one kind that are under way together, windows follow the last alone: what was undone before it reached a
window leaves no event there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from governance.ledger import sql_acts, sql_writes
from governance.ledger.rows import ActRow, ActsOn, EventRow, NewWindow, WindowRow, has_ended
from governance.rules.money import share_nanos
from governance.rules.scopes import MatchedBudget, is_named_by_calls

# So many open windows of a budget are changed with the act itself; of more, so many follow it in one transaction. Calls
# may have to wait for one of these: a fraction of a second.
MOST_AT_ONCE = 500
SLICE = 200
RESET, LIMIT, ALLOWANCES = "reset", "limit", "allowances"
MICROSECOND = timedelta(microseconds=1)
# What opened a window, beside the id of the one before it.
BY_RESET = "reset"


class Followed(Protocol):
    """What of a batch is changed here."""

    now: datetime
    events: list[EventRow]
    noted: set[int]

    def refresh(self, window: WindowRow, *, reason: str = "", actor: str = "") -> None: ...


def note(
    batch: Followed, budget_id: int, kind: str, *, limit_nanos: int | None = None, reason: str = "", actor: str = ""
) -> tuple[int, int]:
    """Note an act that windows are to follow; how many are open, and how many of these time has not ended."""
    batch.noted.add(budget_id)
    return sql_acts.note(budget_id, kind, limit_nanos=limit_nanos, reason=reason, actor=actor, now=batch.now)


def is_behind(row: WindowRow) -> bool:
    """Whether an open window has not followed every act on its budget."""
    return row.closed_at is None and row.revision < row.budget.revision


def restart_behind(batch: Followed, rows: Iterable[WindowRow]) -> list[WindowRow]:
    """Close the windows that a reset has not reached yet, and open their successors; those that were closed.

    The rows are locked.
    """
    closed: list[WindowRow] = []
    opened: list[NewWindow] = []
    for row, on in _behind(rows):
        if (reset := on.unfollowed(RESET, by=row)) is None:
            continue
        limit = on.unfollowed(LIMIT, by=row)
        limit_nanos = limit.limit_nanos if limit is not None else None
        row.budget = on.budget
        closed.append(row)
        opened += close(batch, row, limit_nanos=limit_nanos, reason=reset.reason, actor=reset.actor)
    if closed:
        sql_writes.close_windows([row.id for row in closed], batch.now)
    if opened:
        sql_writes.open_windows(opened, batch.now)
    return closed


def as_restarted(rows: Iterable[WindowRow]) -> list[WindowRow]:
    """Windows as the next call finds them: those that a reset has not reached begin anew, without what was granted for
    that window alone, and have no id yet. Nothing is written."""
    found = {row.id: row for row in rows}
    for row, on in _behind(found.values()):
        if on.unfollowed(RESET, by=row) is not None:
            # Behind it stays, for the acts beside the reset.
            found[row.id] = replace(
                row,
                id=0,
                limit_nanos=row.limit_nanos - row.extra_nanos - row.carried_nanos,
                extra_nanos=0,
                carried_nanos=0,
                settled_nanos=0,
                reserved_nanos=0,
                state="active",
                crossed=[],
            )
    return [*found.values()]


def follow(rows: Iterable[WindowRow]) -> list[tuple[WindowRow, ActRow]]:
    """Give windows that are behind the limit that their budget has got since; which did, and by which act.

    Their allowances are the caller's affair, and then their states: what the limit alone would make of one is no event.
    One that is to be reset is left to `restart_behind`.
    """
    changed = []
    for row, on in _behind(rows):
        limit = on.unfollowed(LIMIT, by=row)
        row.budget, row.dirty = on.budget, True
        if limit is not None and limit.limit_nanos is not None:
            _give_limit(row, limit.limit_nanos)
            changed.append((row, limit))
        if on.unfollowed(RESET, by=row) is None:
            row.revision = on.budget.revision
    return changed


def close(
    batch: Followed, row: WindowRow, *, reason: str, actor: str, limit_nanos: int | None = None
) -> Sequence[NewWindow]:
    """Close a window before its time; its successor, where it has one. What is written is the caller's affair.

    The successor has `limit_nanos`, or its predecessor's limit, and nothing of what is left: it begins anew.
    """
    batch.events.append(
        EventRow(row, "budget-reset", old_state=row.state, new_state="active", reason=reason, actor=actor)
    )
    row.closed_at = batch.now
    # One whose time was over anyway opens at the next call, as always.
    if has_ended(row, batch.now):
        return []
    # Later than its predecessor's, also where the two fall on one instant: a grant's windows differ by it.
    starts_at = max(batch.now, row.starts_at + MICROSECOND) if row.source_kind else batch.now
    return [
        NewWindow(
            MatchedBudget(row.budget, row.subject, row.tenant_id),
            starts_at,
            row.ends_at if row.ends_at and row.ends_at > starts_at else None,
            limit_nanos if limit_nanos is not None else row.limit_nanos - row.extra_nanos - row.carried_nanos,
            # A name that calls brought once is not brought anew by this (`sql.has_opened`).
            *((BY_RESET, str(row.id)) if is_named_by_calls(row.budget) else (row.source_kind, row.source_id)),
        )
    ]


def set_limit(batch: Followed, row: WindowRow, limit_nanos: int, *, reason: str, actor: str) -> None:
    """Give an open window another limit, beside its allowances and what it took over; its state follows."""
    _give_limit(row, limit_nanos)
    batch.refresh(row, reason=reason, actor=actor)


def _give_limit(row: WindowRow, limit_nanos: int) -> None:
    # Lowering the cap below what is committed lowers the limit as well.
    limit_nanos += row.extra_nanos + row.carried_nanos
    over = row.settled_nanos + row.reserved_nanos > share_nanos(limit_nanos, row.budget.policy.hard_e4)
    row.limit_lowered = row.limit_lowered or over or limit_nanos < row.limit_nanos
    row.limit_nanos = limit_nanos


def _behind(rows: Iterable[WindowRow]) -> Iterator[tuple[WindowRow, ActsOn]]:
    """The windows that are behind, each with the acts on its budget."""
    behind = [row for row in rows if is_behind(row)]
    found = sql_acts.on({row.budget.id for row in behind}) if behind else {}
    return ((row, found[row.budget.id]) for row in behind)
