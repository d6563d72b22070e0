"""What a batch has read, in memory: by this calls are decided, and to this lines are posted.

`Batch` reads and locks it, and writes it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from django.conf import settings

from governance.ledger import acts, claims
from governance.ledger import sql_buckets as limits
from governance.ledger.caller_rules import CallerRules
from governance.ledger.operations import Reserve
from governance.ledger.results import AlreadyResolved, LedgerError, ReservationUnknown, WindowGone
from governance.ledger.rows import BucketRow, EntryRow, EventRow, ReservationRow, WindowRow
from governance.ledger.views import bucket_view, covered, unopened, view_of
from governance.rules import money
from governance.rules.buckets import Amount, amount_of
from governance.rules.calls import Caller
from governance.rules.decision import (
    Call,
    Decision,
    Reason,
    State,
    WindowView,
    crossed,
    decide,
    fixed,
    state_of,
)
from governance.rules.scopes import MatchedBudget

HARD_STOP = "hard-stop"


class BatchState:
    """Windows, reservations and rate buckets as they are now, what governs callers, and the lines and events to come.

    `now` is the database's time. `open` has the windows in which calls count, by budget and subject; those that are not
    there yet have the id 0.
    """

    def __init__(self, now: datetime, rules: CallerRules) -> None:
        self.now = now
        self.rules = rules
        self.windows: dict[int, WindowRow] = {}
        self.open: dict[tuple[int, str], WindowRow] = {}
        self.reservations: dict[UUID, ReservationRow] = {}
        self.new_reservations: dict[UUID, ReservationRow] = {}
        # Rate buckets by id; empty where nothing is limited.
        self.buckets: dict[int, BucketRow] = {}
        self.entries: list[EntryRow] = []
        self.events: list[EventRow] = []
        # Callers that bring one more new name than there may be.
        self.crowding: set[Caller] = set()

    def matched(self, caller: Caller) -> list[MatchedBudget]:
        return self.rules.matched[caller]

    def window_at(self, matched: MatchedBudget, at: datetime) -> WindowRow:
        """The window that a call of `at` counts in: that of its own period, closed or open, else the open one.

        A window that opens with its first call, or by an act, has no predecessor for what was called before: so that
        no report is outside of a budget that governs it.
        """
        current = self.open[matched.budget.id, matched.subject]
        if current.starts_at <= at:
            return current
        key = matched.budget.id, matched.subject
        closed = [row for row in self.windows.values() if (row.budget.id, row.subject) == key and covered(row, at)]
        return max(closed, key=lambda row: row.starts_at, default=current)

    def decided(self, caller: Caller, call: Call) -> Decision:
        """What happens to a call, by the windows and buckets as they are."""
        return self._decided(caller, call, self.views_for(caller), self.buckets_of(caller))

    def decided_anew(
        self, row: ReservationRow, asker: Caller, buckets: Iterable[BucketRow], *, more_nanos: int
    ) -> Decision:
        """Whether a hold may grow: as if its call were held anew, at its new size, in the windows that hold it.

        What it holds itself is in no window's way, and is not waited for. Nor does a window's end bring it anything: a
        later period is for new holds. What is closed is closed to new ones: this one runs to its end. Time alone is in
        no budget and in no rate limit.
        """
        booked = amount_of(cost_nanos=row.amount_nanos, tokens=row.tokens)
        call = Call(row.model_served, fixed(row.amount_nanos + more_nanos), booked=booked)
        if not more_nanos:
            return self._decided(asker, call, (), ())
        views = [
            replace(view, reserved_nanos=view.reserved_nanos - row.amount_nanos, ends_at=None, is_closed=False)
            for view in self.views(row.windows)
        ]
        return self._decided(asker, call, views, buckets)

    def _decided(
        self, caller: Caller, call: Call, views: Sequence[WindowView], buckets: Iterable[BucketRow]
    ) -> Decision:
        seen = [bucket_view(bucket, self.now) for bucket in buckets]
        decision = decide(self._with_status(call, caller), views, seen)
        if decision.reason != Reason.TOO_MANY_NAMES:
            return decision
        return replace(decision, most_names=settings.NEW_NAMES_PER_HOUR)

    def _with_status(self, call: Call, caller: Caller) -> Call:
        """The call, marked with the reason why its caller may not call, if there is one, and priced anew where models
        pass their bounds."""
        call = call.knowing(self.rules.status.overruns)
        reason = self.blocked(caller)
        return call if reason is None else replace(call, blocked=reason)

    def blocked(self, caller: Caller) -> Reason | None:
        """Why a caller may not call; None where it may."""
        return self.rules.blocked(caller, self.now) or (Reason.TOO_MANY_NAMES if caller in self.crowding else None)

    def admits(self, op: Reserve) -> bool:
        """Whether a call goes through, by the windows and buckets as they are."""
        try:
            return claims.decided(self, op).allowed
        except LedgerError:
            return False

    def views_for(self, caller: Caller) -> list[WindowView]:
        """The windows of a caller as a decision sees them."""
        return [view_of(self.window(item)) for item in self.matched(caller)]

    def reservation(self, id: UUID) -> ReservationRow:
        row = self.reservations.get(id) or self.new_reservations.get(id)
        if row is None:
            raise ReservationUnknown(id)
        if row.status == "pending" and (gone := [id for id in row.windows if id not in self.windows]):
            raise WindowGone(row.id, gone[0])
        return row

    def pending(self, id: UUID) -> ReservationRow:
        row = self.reservation(id)
        if row.status != "pending":
            raise AlreadyResolved(id, row.status)
        return row

    def stand_in(self, wanted: Iterable[MatchedBudget]) -> None:
        """For windows that are not open: as they would open at a call that is let through."""
        lacking = {(item.budget.id, item.subject): item for item in wanted}
        lacking = {key: item for key, item in lacking.items() if key not in self.open}
        self.open |= {(row.budget.id, row.subject): row for row in unopened(lacking.values(), self.now)}

    def window(self, item: MatchedBudget) -> WindowRow:
        return self.open[item.budget.id, item.subject]

    def governs_since(self, row: ReservationRow) -> WindowView | None:
        """A budget that governs a growing hold's caller now and did not when it was held: no window of it has the hold.

        As a window of it would open.
        """
        held = {self.windows[id].budget.id for id in row.windows}
        later = [item for item in self.matched(row.caller) if item.budget.id not in held]
        return view_of(unopened(later[:1], self.now)[0]) if later else None

    def is_limited_since(self, row: ReservationRow) -> bool:
        """Whether a rate limit holds for a growing hold's caller now and did not when it was held.

        The buckets of those that did are there as long as the limits are: what is held keeps them.
        """
        held = {self.buckets[id].rule.id for id in row.buckets if id in self.buckets}
        return any(rule.id not in held for rule, _ in self.rules.limited[row.caller])

    def buckets_of(self, caller: Caller) -> list[BucketRow]:
        """The buckets that a call of this caller fills; in a dry run, also those that are not there yet, empty."""
        known = {(row.rule.id, row.subject): row for row in self.buckets.values()}
        return [
            known.get((rule.id, subject)) or BucketRow(0, rule, subject, Amount(), self.now)
            for rule, subject in self.rules.limited[caller]
        ]

    def bring_up_to_date(self, rows: Iterable[WindowRow]) -> None:
        """Work out the limits of the windows that an act, or an allowance's beginning or end, has not reached."""
        self.work_out([row for row in rows if self._is_stale(row)])

    def _is_stale(self, row: WindowRow) -> bool:
        is_due = row.closed_at is None and row.extra_until is not None and row.extra_until <= self.now
        return is_due or acts.is_behind(row)

    def work_out(self, rows: Sequence[WindowRow]) -> None:
        """Bring the limits of open windows up to date with the acts on their budgets, and the allowances that run."""
        if not rows:
            return
        limited = acts.follow(rows)
        granted = limits.allowances({row.budget.id for row in rows}, self.now)
        for row in rows:
            mine = [a for a in granted if a.budget_id == row.budget.id and a.window_id in (None, row.id)]
            running = [a for a in mine if a.starts_at <= self.now]
            changes = [a.starts_at for a in mine if a.starts_at > self.now] + [a.ends_at for a in running if a.ends_at]
            extra_nanos = min(money.MAX_LIMIT_NANOS, sum(a.amount_nanos for a in running))
            row.extra_until = min(changes, default=None)
            row.dirty = True
            if extra_nanos != row.extra_nanos:
                row.limit_lowered = row.limit_lowered or extra_nanos < row.extra_nanos
                row.limit_nanos += extra_nanos - row.extra_nanos
                row.extra_nanos = extra_nanos
                if all(row is not each for each, _ in limited):
                    self.refresh(row, reason="an allowance began or ended")
        # By both together: what the limit stops, a raise beside it may let on.
        for row, act in limited:
            self.refresh(row, reason=act.reason, actor=act.actor)

    def post(self, entry: EntryRow) -> None:
        """Add a line, and its cost to its windows.

        A sum stops at its bound, and stays there: what is spent lands whatever the sum says, and the lines have all of
        it. Such a window is far beyond any limit, so nothing is let through by that; a repair counts it anew.
        """
        self.entries.append(entry)
        for id in entry.windows:
            window = self.windows[id]
            if window.settled_nanos < money.MAX_SUM:
                window.settled_nanos = min(money.MAX_SUM, window.settled_nanos + entry.cost_nanos)
            self.refresh(window)

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

    def views(self, ids: Iterable[int]) -> tuple[WindowView, ...]:
        return tuple(view_of(self.windows[id]) for id in ids)
