"""One batch of the ledger: what it read and locked, and what it changed.

Used by the ledger alone (`ledger`, and its rules in `calls` and `periods`), inside its transaction. Windows and
reservations are changed in memory and written back once, by `write`; windows are opened and closed by statement,
because their ids are needed at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from governance import ledger_sql as sql
from governance.operations import (
    Adjust,
    Caller,
    ChangeLimit,
    Expire,
    Extend,
    OpenPeriod,
    Operation,
    Record,
    Release,
    Reserve,
    Reset,
    Settle,
)
from governance.policies import (
    Call,
    Reason,
    State,
    WindowView,
    crossed,
    state_of,
)
from governance.results import (
    AlreadyResolved,
    Balance,
    LedgerError,
    ReservationUnknown,
)
from governance.rows import EntryRow, EventRow, NewWindow, ReservationRow, WindowRow
from governance.scopes import Governed, governing
from governance.sql_words import together
from governance.windows import WindowKind, span_at

HARD_STOP = "hard-stop"
# How often a batch looks again for windows that another one opened or closed at the same moment.
LOOKS = 8


class Batch:
    """The working state of one transaction."""

    def __init__(self, operations: Sequence[Operation], now: datetime) -> None:
        self.operations = operations
        self.now = now
        self.windows: dict[int, WindowRow] = {}
        self.open: dict[tuple[int, str], WindowRow] = {}
        self.reservations: dict[UUID, ReservationRow] = {}
        self.new_reservations: dict[UUID, ReservationRow] = {}
        self.corrected: dict[UUID, EntryRow] = {}
        self.reported: dict[tuple[int, str], tuple[UUID, int]] = {}
        self.entries: list[EntryRow] = []
        self.events: list[EventRow] = []
        self._governed: dict[Caller, list[Governed]] = {}

    # Reading and locking ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read and lock everything the operations need: reservations first, then windows, in key order."""
        callers = {op.caller for op in self.operations if isinstance(op, Reserve | Record)}
        if callers:
            self.know(callers)
        self.reservations = sql.reservations(
            {op.reservation_id for op in self.operations if isinstance(op, Settle | Release | Extend | Expire)}
        )
        corrected = {op.corrects_id for op in self.operations if isinstance(op, Adjust)}
        self.corrected = {row.id: row for row in sql.entries(corrected)}
        self.reported = sql.reported(
            {(op.caller.tenant_id, op.request_id) for op in self.operations if isinstance(op, Record)}
        )
        self._lock_windows(
            needed=[governed for caller in callers for governed in self.governed(caller)],
            ids={id for row in self.reservations.values() for id in row.windows}
            | {id for row in self.corrected.values() for id in row.windows},
            budget_ids={op.budget_id for op in self.operations if isinstance(op, Reset | OpenPeriod | ChangeLimit)},
        )

    def know(self, callers: Iterable[Caller]) -> None:
        """Learn which budgets govern the callers and whether they may call at all."""
        callers = set(callers)
        self.standing = sql.standing(callers, self.now)
        budgets = sql.budgets(callers)
        for caller in callers:
            zone = self.standing.time_zones.get(caller.tenant_id, "UTC")
            self._governed[caller] = governing(caller, budgets, time_zone=zone)

    def governed(self, caller: Caller) -> list[Governed]:
        return self._governed[caller]

    def with_standing(self, call: Call, caller: Caller) -> Call:
        """The call, marked with the reason why its caller may not call, if there is one."""
        status = self.standing.statuses.get(caller.tenant_id)
        if caller.key_id in self.standing.unusable_keys:
            return replace(call, blocked=Reason.KEY_INVALID)
        if status == "suspended":
            return replace(call, blocked=Reason.TENANT_SUSPENDED)
        if status != "active":
            return replace(call, blocked=Reason.TENANT_PAUSED)
        if (caller.tenant_id, caller.agent) in self.standing.paused_agents:
            return replace(call, blocked=Reason.AGENT_PAUSED)
        return call

    def _lock_windows(self, *, needed: Sequence[Governed], ids: set[int], budget_ids: set[int]) -> None:
        """Lock windows, opening those that calls need; again where another batch changed them at that moment."""
        wanted = {(item.budget.id, item.subject): item for item in needed}
        for _ in range(LOOKS):
            rows = sql.windows(keys=wanted.keys(), ids=ids, budget_ids=budget_ids)
            self.windows = {row.id: row for row in rows}
            self.open = {(row.budget.id, row.subject): row for row in rows if row.closed_at is None}
            ended = [
                self.open.pop(key).id for key in wanted if key in self.open and has_ended(self.open[key], self.now)
            ]
            missing = [item for key, item in wanted.items() if key not in self.open]
            # Closed while we waited for its lock: whoever did that may have opened its successor.
            overtaken = any(row.closed_at is not None and row.id not in ids for row in rows)
            if not missing and not overtaken:
                return
            sql.close_windows(ended, self.now)
            if missing:
                sql.open_windows([new_window(item, self.now) for item in missing], self.now)
        raise LedgerError("windows kept changing while they were being locked")

    # Writing ------------------------------------------------------------------------------------------------

    def write(self) -> None:
        with together():
            sql.insert_reservations(list(self.new_reservations.values()))
            sql.update_reservations(row for row in self.reservations.values() if row.dirty)
            sql.insert_entries(self.entries, self.now)
            sql.add_to_rollups(self.entries)
            sql.update_windows(row for row in self.windows.values() if row.dirty)
            sql.insert_events(self.events, self.now)

    # Parts --------------------------------------------------------------------------------------------------

    def reservation(self, id: UUID) -> ReservationRow:
        row = self.reservations.get(id) or self.new_reservations.get(id)
        if row is None:
            raise ReservationUnknown(id)
        return row

    def pending(self, id: UUID) -> ReservationRow:
        row = self.reservation(id)
        if row.status != "pending":
            raise AlreadyResolved(id, row.status)
        return row

    def post(self, entry: EntryRow) -> None:
        self.entries.append(entry)
        for id in entry.windows:
            self.windows[id].settled_nanos += entry.cost_nanos
            self.refresh(self.windows[id])

    def refresh(self, window: WindowRow, *, reason: str = "", actor: str = "") -> None:
        """Settled money or the limit changed: bring state and thresholds up to date, each change one event."""
        window.dirty = True
        policy = window.budget.policy
        for e4 in crossed(window.settled_nanos, window.limit_nanos, policy):
            threshold = f"{e4 / 10_000:g}"
            if threshold not in window.crossed:
                window.crossed.append(threshold)
                self.events.append(EventRow(window, "threshold-breach", threshold=threshold, reason=reason))
        state = state_of(window.settled_nanos, window.limit_nanos, policy)
        if state != window.state:
            self.events.append(
                EventRow(
                    window,
                    "state-change",
                    old_state=window.state,
                    new_state=state,
                    reason=reason,
                    actor=actor,
                )
            )
            window.state = state
            if state == State.STOPPED:
                self.note_stop(window, reason)

    def note_stop(self, window: WindowRow, reason: str) -> None:
        """The first hard stop of a window is an event; later ones are not."""
        if HARD_STOP not in window.crossed:
            window.crossed.append(HARD_STOP)
            window.dirty = True
            self.events.append(EventRow(window, HARD_STOP, new_state=window.state, reason=reason))

    def balances(self, ids: Iterable[int]) -> tuple[Balance, ...]:
        rows = (self.windows[id] for id in ids)
        return tuple(Balance(row.id, row.limit_nanos, row.settled_nanos, row.reserved_nanos, row.state) for row in rows)


def has_ended(window: WindowRow, now: datetime) -> bool:
    """Whether time has closed a window. A billing cycle ends only when Stripe or an operator opens the next."""
    return window.ends_at is not None and window.ends_at <= now and window.budget.window != WindowKind.BILLING_CYCLE


def new_window(governed: Governed, now: datetime) -> NewWindow:
    """The window that holds `now`."""
    span = span_at(governed.budget.window, now, ZoneInfo(governed.time_zone))
    return NewWindow(governed, span.starts_at, span.ends_at)


def view_of(window: WindowRow) -> WindowView:
    book = window.budget
    return WindowView(
        budget_id=book.id, window_id=window.id, scope=_scope(book, window.subject), scope_type=book.scope_type,
        scope_key=window.subject, kind=book.window.value, starts_at=window.starts_at, ends_at=window.ends_at,
        limit_nanos=window.limit_nanos, settled_nanos=window.settled_nanos, reserved_nanos=window.reserved_nanos,
        policy=book.policy,
    )  # fmt: skip


def views_of(
    governed: Sequence[Governed], open_now: Mapping[tuple[int, str], WindowRow], now: datetime
) -> list[WindowView]:
    """The windows of a call as a decision sees them; one that is not open yet, as it would open."""
    views = []
    for item in governed:
        row = open_now.get((item.budget.id, item.subject))
        if row is None or has_ended(row, now):
            new = new_window(item, now)
            row = WindowRow(
                0, item.budget, item.subject, item.tenant_id, new.starts_at, new.ends_at, item.budget.limit_nanos,
                0, 0, "active", [], None, "", "",
            )  # fmt: skip
        views.append(view_of(row))
    return views


def _scope(book: Any, subject: str) -> str:
    """The scope as people name it: "platform", "tenant:acme", "agent:invoices"."""
    return f"{book.scope_type}:{subject}" if subject else str(book.scope_type)
