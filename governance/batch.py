"""One batch of the ledger: what it locked, what it changed, and the rules of each operation.

Used by `governance.ledger` alone, inside its transaction. Windows and reservations are changed in memory and
written back once, by `write`; windows are opened and closed by statement, because their ids are needed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import uuid_utils.compat as uuids
from django.conf import settings

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
    Usage,
)
from governance.policies import (
    Call,
    Decision,
    Reason,
    State,
    WindowView,
    crossed,
    decide,
    state_of,
)
from governance.results import (
    AdjustResult,
    AlreadyResolved,
    Balance,
    ExtendRefused,
    LedgerError,
    PeriodResult,
    RecordResult,
    ReservationUnknown,
    ResetResult,
    SettleResult,
)
from governance.rows import EntryRow, EventRow, NewWindow, ReservationRow, WindowRow
from governance.scopes import Governed, governing
from governance.sql_words import together
from governance.windows import WindowKind, span_at

HARD_STOP = "hard-stop"
LATE_SETTLE = "late_settle"
# How often a batch looks again for windows that another one opened or closed at the same moment.
LOOKS = 8
MICROSECOND = timedelta(microseconds=1)


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
            if not missing:
                return
            sql.close_windows(ended, self.now)
            sql.open_windows([new_window(item, self.now) for item in missing], self.now)
        raise LedgerError("windows kept changing while they were being locked")

    # Operations ---------------------------------------------------------------------------------------------

    def carry_out(self, operation: Operation) -> Any:
        """Run one operation against the locked rows; a LedgerError is its result, and it has changed nothing."""
        try:
            return _RULES[type(operation)](self, operation)
        except LedgerError as error:
            return error

    def reserve(self, op: Reserve) -> Decision:
        if op.reservation_id in self.new_reservations:
            raise AlreadyResolved(op.reservation_id, "reserved")
        governed = self.governed(op.caller)
        views = views_of(governed, self.open, self.now)
        decision = decide(self.with_standing(op.call, op.caller), views)
        if decision.quote is None:
            self._note_refusal(decision)
            return decision
        windows = [self.open[item.budget.id, item.subject] for item in governed]
        for window in windows:
            window.reserved_nanos += decision.quote.cost_nanos
            window.dirty = True
        self.new_reservations[op.reservation_id] = ReservationRow(
            id=op.reservation_id,
            caller=op.caller,
            provider=op.provider,
            model_requested=op.call.model,
            model_served=decision.model,
            windows=[window.id for window in windows],
            amount_nanos=decision.quote.cost_nanos,
            status="pending",
            reserved_at=self.now,
            expires_at=self._expiry(op.ttl_s),
        )
        return decision

    def extend(self, op: Extend) -> None:
        row = self._pending(op.reservation_id)
        windows = [self.windows[id] for id in row.windows]
        if op.more_nanos and not all(view_of(window).admits(op.more_nanos) for window in windows):
            raise ExtendRefused(f"no room for {op.more_nanos} more nanodollars")
        for window in windows:
            window.reserved_nanos += op.more_nanos
            window.dirty = True
        row.amount_nanos += op.more_nanos
        row.expires_at = max(row.expires_at, self._expiry(op.ttl_s))
        row.dirty = True

    def settle(self, op: Settle) -> SettleResult:
        row = self._reservation(op.reservation_id)
        if row.status == "expired":
            return self._settle_late(op, row)
        self._pending(op.reservation_id)
        entry = self._charge(
            row, op.cost_nanos, op.usage, certainty=op.certainty, reason=op.reason, occurred_at=op.occurred_at,
            price_rule=op.price_rule, request_id=op.request_id, metadata=op.metadata,
        )  # fmt: skip
        self._resolve(row, "settled")
        return SettleResult(entry.id, op.cost_nanos, entry.overage_nanos, balances=self._balances(row.windows))

    def release(self, op: Release) -> None:
        row = self._pending(op.reservation_id)
        self._give_back(row)
        self._resolve(row, "released")

    def expire(self, op: Expire) -> bool:
        """Charge a dead call's whole hold as an estimate; False where it was resolved or extended meanwhile."""
        row = self._reservation(op.reservation_id)
        if row.status != "pending" or row.expires_at > self.now:
            return False
        self._charge(
            row, row.amount_nanos, Usage(provider=row.provider, model=row.model_served),
            certainty="estimated", reason="expired", request_id=str(row.id),
        )  # fmt: skip
        self._resolve(row, "expired")
        return True

    def record(self, op: Record) -> RecordResult:
        key = op.caller.tenant_id, op.request_id
        if key in self.reported:
            entry_id, cost_nanos = self.reported[key]
            return RecordResult(entry_id, cost_nanos, duplicate=True)
        occurred_at = op.occurred_at or self.now
        # A call of an earlier period belongs to that one, whose window is closed.
        windows = [
            window
            for item in self.governed(op.caller)
            if (window := self.open[item.budget.id, item.subject]).starts_at <= occurred_at
        ]
        entry = EntryRow(
            id=op.entry_id, kind="charge", caller=op.caller, provider=op.usage.provider,
            model_requested=op.model_requested or op.usage.model, model_served=op.usage.model,
            windows=[window.id for window in windows], cost_nanos=op.cost_nanos, occurred_at=occurred_at,
            request_id=op.request_id, certainty=op.certainty, price_rule=op.price_rule, metadata=op.metadata,
            **_figures(op.usage),
        )  # fmt: skip
        self._post(entry)
        self.reported[key] = op.entry_id, op.cost_nanos
        return RecordResult(op.entry_id, op.cost_nanos)

    def adjust(self, op: Adjust) -> AdjustResult:
        corrected = self.corrected.get(op.corrects_id)
        if corrected is None:
            raise ReservationUnknown(op.corrects_id)
        if any(self.windows[id].settled_nanos + op.delta_nanos < 0 for id in corrected.windows):
            raise LedgerError(f"adjusting {op.corrects_id} by {op.delta_nanos} would bring a window below zero")
        self._post(
            replace(
                corrected, id=op.entry_id, kind=op.kind, corrects_id=op.corrects_id, cost_nanos=op.delta_nanos,
                reason=op.reason, request_id="",
            )
        )  # fmt: skip
        return AdjustResult(op.entry_id, op.delta_nanos)

    def reset(self, op: Reset) -> ResetResult:
        old = [
            row
            for (budget_id, subject), row in self.open.items()
            if budget_id == op.budget_id and op.subject in (None, subject)
        ]
        for row in old:
            self.events.append(
                EventRow(
                    row,
                    "budget-reset",
                    old_state=row.state,
                    new_state="active",
                    reason=op.reason,
                    actor=op.actor,
                )
            )
            row.closed_at = self.now
        sql.close_windows([row.id for row in old], self.now)
        opened = [
            NewWindow(
                Governed(row.budget, row.subject, row.tenant_id), starts_at,
                row.ends_at if row.ends_at and row.ends_at > starts_at else None,
                row.limit_nanos, row.source_kind, row.source_id,
            )
            for row in old
            # Later than its predecessor's, also where the two fall on one instant: a grant's windows differ by it.
            for starts_at in [max(self.now, row.starts_at + MICROSECOND) if row.source_kind else self.now]
            # One whose time was over anyway opens at the next call, as always.
            if not has_ended(row, self.now)
        ]  # fmt: skip
        self._open(opened)
        return ResetResult(closed=len(old), opened=len(opened))

    def open_period(self, op: OpenPeriod) -> PeriodResult:
        budget, tenant, _ = self._budget(op.budget_id)
        known = sql.granted(op.budget_id, op.source_kind, op.source_id, op.starts_at)
        if known is not None:
            return PeriodResult(known, opened=False)
        current = self.open.get((op.budget_id, tenant))
        if current and (op.ends_at <= self.now or (current.source_kind and op.starts_at < current.starts_at)):
            return PeriodResult(current.id, opened=False)
        if current:
            self.events.append(
                EventRow(current, "budget-reset", old_state=current.state, new_state="active",
                         reason=op.reason, actor=op.actor)
            )  # fmt: skip
            current.closed_at = self.now
            sql.close_windows([current.id], self.now)
        new = NewWindow(
            Governed(budget, tenant, budget.tenant_id), op.starts_at, op.ends_at, op.limit_nanos,
            op.source_kind, op.source_id,
        )  # fmt: skip
        self._open([new])
        return PeriodResult(self.open[op.budget_id, tenant].id, opened=True)

    def change_limit(self, op: ChangeLimit) -> int:
        changed = [row for (budget_id, _), row in self.open.items() if budget_id == op.budget_id]
        for row in changed:
            row.limit_lowered = row.limit_lowered or op.limit_nanos < row.limit_nanos
            row.limit_nanos = op.limit_nanos
            self._settled(row, reason=op.reason, actor=op.actor)
        return len(changed)

    def roll(self, *, limit: int) -> int:
        """Close ended calendar windows; open those of budgets with one subject."""
        rows = [row for row in sql.windows(ids=sql.ended_windows(self.now, limit)) if row.closed_at is None]
        sql.close_windows([row.id for row in rows], self.now)
        budgets = sql.budgets_by_id(sql.budgets_without_window() or [0])
        new = [
            new_window(Governed(book, tenant if book.scope_type == "tenant" else book.scope_key, book.tenant_id, zone),
                       self.now)
            for book, tenant, zone in budgets.values()
        ]  # fmt: skip
        if new:
            sql.open_windows(new, self.now)
        return len(rows) + len(new)

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

    def _reservation(self, id: UUID) -> ReservationRow:
        row = self.reservations.get(id) or self.new_reservations.get(id)
        if row is None:
            raise ReservationUnknown(id)
        return row

    def _pending(self, id: UUID) -> ReservationRow:
        row = self._reservation(id)
        if row.status != "pending":
            raise AlreadyResolved(id, row.status)
        return row

    def _expiry(self, ttl_s: int | None) -> datetime:
        return self.now + timedelta(seconds=ttl_s or settings.RESERVATION_TTL_S)

    def _resolve(self, row: ReservationRow, status: str) -> None:
        row.status, row.resolved_at, row.dirty = status, self.now, True

    def _give_back(self, row: ReservationRow) -> None:
        for id in row.windows:
            self.windows[id].reserved_nanos -= row.amount_nanos
            self.windows[id].dirty = True

    def _charge(
        self, row: ReservationRow, cost_nanos: int, usage: Usage, *, certainty: str, reason: str,
        occurred_at: datetime | None = None, price_rule: str = "", request_id: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> EntryRow:  # fmt: skip
        """Turn a pending hold into an entry at what was spent."""
        self._give_back(row)
        entry = EntryRow(
            id=uuids.uuid7(), kind="charge", caller=row.caller, provider=usage.provider or row.provider,
            model_requested=row.model_requested, model_served=usage.model or row.model_served, windows=row.windows,
            cost_nanos=cost_nanos, occurred_at=occurred_at or row.reserved_at, reservation_id=row.id,
            request_id=request_id, price_rule=price_rule, overage_nanos=max(0, cost_nanos - row.amount_nanos),
            certainty=certainty, reason=reason, metadata=metadata or {}, **_figures(usage),
        )  # fmt: skip
        self._post(entry)
        return entry

    def _settle_late(self, op: Settle, row: ReservationRow) -> SettleResult:
        """Post the difference to what expiry charged and operators corrected since, once."""
        posted = sql.entries_of_reservation(row.id)
        if any(entry.reason == LATE_SETTLE for entry in posted):
            raise AlreadyResolved(row.id, "settled")
        [charge] = [entry for entry in posted if entry.kind == "charge"]
        entry = replace(
            charge, id=uuids.uuid7(), kind="adjustment", corrects_id=charge.id, reason=LATE_SETTLE,
            cost_nanos=op.cost_nanos - sum(entry.cost_nanos for entry in posted), certainty=op.certainty,
            price_rule=op.price_rule, request_id=op.request_id,
            model_served=op.usage.model or charge.model_served, metadata=op.metadata,
            **_figures(op.usage),
        )  # fmt: skip
        self._post(entry)
        return SettleResult(entry.id, op.cost_nanos, late=True, balances=self._balances(row.windows))

    def _post(self, entry: EntryRow) -> None:
        self.entries.append(entry)
        for id in entry.windows:
            self.windows[id].settled_nanos += entry.cost_nanos
            self._settled(self.windows[id])

    def _settled(self, window: WindowRow, *, reason: str = "", actor: str = "") -> None:
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
                self._stop(window, reason)

    def _note_refusal(self, decision: Decision) -> None:
        if decision.reason == Reason.BUDGET_EXHAUSTED and decision.because:
            self._stop(self.windows[decision.because.window_id], "a call was refused")

    def _stop(self, window: WindowRow, reason: str) -> None:
        """The first hard stop of a window is an event; later ones are not."""
        if HARD_STOP not in window.crossed:
            window.crossed.append(HARD_STOP)
            window.dirty = True
            self.events.append(EventRow(window, HARD_STOP, new_state=window.state, reason=reason))

    def _open(self, new: Sequence[NewWindow]) -> None:
        """Open windows and hold their locks, in place of the ones just closed."""
        if not new:
            return
        sql.open_windows(new, self.now)
        for row in sql.windows(keys=[(item.governed.budget.id, item.governed.subject) for item in new]):
            self.windows[row.id] = self.open[row.budget.id, row.subject] = row

    def _budget(self, id: int) -> tuple[Any, str, str]:
        try:
            return sql.budgets_by_id([id])[id]
        except KeyError:
            raise LedgerError(f"there is no budget {id}") from None

    def _balances(self, ids: Iterable[int]) -> tuple[Balance, ...]:
        rows = (self.windows[id] for id in ids)
        return tuple(Balance(row.id, row.limit_nanos, row.settled_nanos, row.reserved_nanos, row.state) for row in rows)


_RULES: dict[type, Callable[[Batch, Any], Any]] = {
    Reserve: Batch.reserve,
    Extend: Batch.extend,
    Settle: Batch.settle,
    Release: Batch.release,
    Expire: Batch.expire,
    Record: Batch.record,
    Adjust: Batch.adjust,
    Reset: Batch.reset,
    OpenPeriod: Batch.open_period,
    ChangeLimit: Batch.change_limit,
}


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


def _figures(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "unit": usage.unit,
        "units": usage.units,
    }
