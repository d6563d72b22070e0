"""The ledger as plain dictionaries and lists: what it should do, said a second time and as simply as can be.

Windows are named by their place in `windows`, in the order of opening. Amounts are integer nanodollars.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from governance.ledger.operations import Adjust, Extend, OpenPeriod, Operation, Record, Release, Reserve, Reset, Settle
from governance.rules.calls import Caller, Usage
from governance.rules.windows import WindowKind, span_at

TTL = timedelta(seconds=900)
MICROSECOND = timedelta(microseconds=1)


@dataclass
class Rule:
    """A budget: who it governs is a function from a caller to a subject, or None."""

    name: str
    kind: WindowKind
    limit: int
    zone: str
    subject_of: Callable[[Caller], str | None]
    hard_e4: int = 10_000
    soft_e4: int | None = 8_000
    # Whether `roll_windows` opens its window without a call.
    rolls: bool = False
    # Whether calls bring the subjects: a refused call opens no window for its own.
    named_by_calls: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Rule:
        return copy.copy(self)


@dataclass
class Window:
    rule: str
    subject: str
    starts: datetime
    ends: datetime | None
    limit: int
    # The part of the limit that comes from allowances.
    extra: int = 0
    settled: int = 0
    reserved: int = 0
    closed_at: datetime | None = None
    source: str = ""
    stopped_once: bool = False
    crossed: set[str] = field(default_factory=set)

    @property
    def closed(self) -> bool:
        return self.closed_at is not None


@dataclass
class Hold:
    windows: list[int]
    amount: int
    expires: datetime
    status: str = "pending"
    entry: int | None = None
    late: bool = False


@dataclass
class Entry:
    windows: list[int]
    cost: int
    kind: str = "charge"
    hold: UUID | None = None
    # Written by a batch that is over: only such an entry can be corrected.
    committed: bool = False


@dataclass
class Allowance:
    """More than the limit: of every window of the rule, or (a top-up) of one window."""

    rule: str
    amount: int
    window: int | None = None
    over: bool = False


class OneByOne(Exception):
    """The batch cannot go as a whole; each of its operations is carried out by itself."""


@dataclass
class Ledger:
    rules: dict[str, Rule]
    rule_of: dict[int, str]
    windows: list[Window] = field(default_factory=list)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    entry_ids: dict[UUID, int] = field(default_factory=dict)
    reported: dict[tuple[int, str], UUID] = field(default_factory=dict)
    grants: set[tuple[str, datetime]] = field(default_factory=set)
    allowances: list[Allowance] = field(default_factory=list)
    now: datetime = datetime.min  # noqa: DTZ901
    # Reservations of batches before the one at work.
    earlier: set[UUID] = field(default_factory=set)

    def apply(self, operations: Sequence[Operation], now: datetime) -> list[Any]:
        """A short answer for each operation: its outcome, or the name of its error."""
        before = copy.deepcopy(self.__dict__)
        try:
            return self._batch(operations, now)
        except OneByOne:
            self.__dict__.update(before)
            if len(operations) == 1:
                return ["AlreadyResolved"]
            return [answer for operation in operations for answer in self.apply([operation], now)]

    def _batch(self, operations: Sequence[Operation], now: datetime) -> list[Any]:
        self.now = now
        self.earlier = set(self.holds)
        self.open_windows([op for op in operations if isinstance(op, Reserve) or self.is_new(op)])
        answers = [_STEPS[type(operation)](self, operation) for operation in operations]
        for entry in self.entries:
            entry.committed = True
        return answers

    # Windows ------------------------------------------------------------------------------------------------

    def governing(self, caller: Caller) -> list[Rule]:
        return [rule for rule in self.rules.values() if rule.subject_of(caller) is not None]

    def is_new(self, op: Operation) -> bool:
        """Whether it is a report that nobody has made before this batch."""
        return isinstance(op, Record) and (op.caller.tenant_id, op.request_id) not in self.reported

    def open_windows(self, operations: Sequence[Any]) -> None:
        """Those that calls and reports need: of what calls name, those alone that are let through as things stand."""
        pairs = [(op, rule, str(rule.subject_of(op.caller))) for op in operations for rule in self.governing(op.caller)]
        admitted = [op for op in operations if isinstance(op, Record) or self.would_admit(op)]
        wanted = [
            (rule, subject)
            for op, rule, subject in pairs
            if (not rule.named_by_calls or op in admitted) and self.place_of(rule, subject) is None
        ]
        if wanted:
            # What is over is closed on this occasion, whoever brings it.
            for _, rule, subject in pairs:
                index = self.open_window(rule.name, subject)
                if index is not None and self.ended(self.windows[index]):
                    self.windows[index].closed_at = self.now
        for rule, subject in wanted:
            self.current(rule, subject)

    def would_admit(self, op: Reserve) -> bool:
        cost = op.call.quote(op.call.model).cost_nanos  # type: ignore[union-attr]
        return all(self.admits(window, cost) for window in self.seen_by(op.caller))

    def seen_by(self, caller: Caller) -> list[Window]:
        """The windows that decide; those that are not open as they would open."""
        return [self.seen(rule, str(rule.subject_of(caller))) for rule in self.governing(caller)]

    def seen(self, rule: Rule, subject: str) -> Window:
        place = self.place_of(rule, subject)
        return self.fresh(rule, subject) if place is None else self.windows[place]

    def place_of(self, rule: Rule, subject: str) -> int | None:
        """Of the window that is open, and not over."""
        index = self.open_window(rule.name, subject)
        return None if index is None or self.ended(self.windows[index]) else index

    def open_window(self, rule: str, subject: str) -> int | None:
        for index, window in enumerate(self.windows):
            if (window.rule, window.subject, window.closed) == (rule, subject, False):
                return index
        return None

    def ended(self, window: Window, at: datetime | None = None) -> bool:
        cycle = self.rules[window.rule].kind == WindowKind.BILLING_CYCLE
        return not cycle and window.ends is not None and window.ends <= (at or self.now)

    def window_for(self, rule: Rule, caller: Caller) -> int:
        subject = rule.subject_of(caller)
        assert subject is not None
        return self.current(rule, subject)

    def current(self, rule: Rule, subject: str) -> int:
        index = self.open_window(rule.name, subject)
        if index is not None and not self.ended(self.windows[index]):
            return index
        if index is not None:
            self.windows[index].closed_at = self.now
        self.windows.append(self.fresh(rule, subject))
        return len(self.windows) - 1

    def fresh(self, rule: Rule, subject: str) -> Window:
        span = span_at(rule.kind, self.now, ZoneInfo(rule.zone))
        return self.with_raises(Window(rule.name, subject, span.starts_at, span.ends_at, rule.limit))

    def open(self, window: Window) -> None:
        self.windows.append(self.with_raises(window))

    def with_raises(self, window: Window) -> Window:
        """The raises that run count in it from the start."""
        window.extra = self.raised(window.rule)
        window.limit += window.extra
        return window

    def raised(self, rule: str) -> int:
        return sum(a.amount for a in self.allowances if a.rule == rule and a.window is None and not a.over)

    def cap(self, window: Window) -> int:
        return window.limit * self.rules[window.rule].hard_e4 // 10_000

    def spent_out(self, window: Window) -> bool:
        return window.settled * 10_000 >= window.limit * self.rules[window.rule].hard_e4

    def admits(self, window: Window, cost: int, *, without_holds: bool = False) -> bool:
        held = 0 if without_holds else window.reserved
        return not self.spent_out(window) and window.settled + held + cost <= self.cap(window)

    def state(self, window: Window) -> str:
        rule = self.rules[window.rule]
        if self.spent_out(window):
            return "stopped"
        if rule.soft_e4 is not None and window.settled * 10_000 >= window.limit * rule.soft_e4:
            return "warned"
        return "active"

    def money_changed(self, window: Window) -> None:
        for threshold in ("0.5", "0.75", "0.9", "1"):
            if window.settled * 10_000 >= window.limit * int(float(threshold) * 10_000):
                window.crossed.add(threshold)
        if self.state(window) == "stopped":
            window.stopped_once = True

    # Operations ---------------------------------------------------------------------------------------------

    def reserve(self, op: Reserve) -> str:
        if op.reservation_id in set(self.holds) - self.earlier:
            return "AlreadyResolved"
        windows = self.seen_by(op.caller)
        cost = op.call.quote(op.call.model).cost_nanos  # type: ignore[union-attr]
        if not all(self.admits(window, cost) for window in windows):
            if all(self.admits(window, cost, without_holds=True) for window in windows):
                return "in-flight"
            emptiest = min(windows, key=lambda window: self.cap(window) - window.settled)
            emptiest.stopped_once = True
            return "hard-stop"
        if op.reservation_id in self.earlier:
            # Noticed only where it would be held a second time, by the primary key.
            raise OneByOne
        pressed = any(self.pressed(window, cost) for window in windows)
        places = [self.window_for(rule, op.caller) for rule in self.governing(op.caller)]
        for place in places:
            self.windows[place].reserved += cost
        self.holds[op.reservation_id] = Hold(places, cost, self.now + TTL)
        return "warn" if pressed else "allow"

    def pressed(self, window: Window, cost: int) -> bool:
        soft = self.rules[window.rule].soft_e4
        return soft is not None and (window.settled + window.reserved + cost) * 10_000 >= window.limit * soft

    def settle(self, op: Settle) -> Any:
        hold = self.holds.get(op.reservation_id)
        if hold is None:
            return "ReservationUnknown"
        if hold.status == "expired":
            assert hold.entry is not None
            if not self.entries[hold.entry].committed:
                raise OneByOne
            if hold.late:
                return "AlreadyResolved"
            hold.late = True
            spent = sum(entry.cost for entry in self.entries if entry.hold == op.reservation_id)
            self.post(Entry(hold.windows, op.cost_nanos - spent, "adjustment", op.reservation_id))
            return op.cost_nanos, 0, True
        if hold.status != "pending":
            return "AlreadyResolved"
        overage = max(0, op.cost_nanos - hold.amount)
        self.resolve(op.reservation_id, "settled", op.cost_nanos)
        return op.cost_nanos, overage, False

    def release(self, op: Release) -> str | None:
        hold = self.holds.get(op.reservation_id)
        if hold is None:
            return "ReservationUnknown"
        if hold.status == "expired":
            late = self.settle(Settle(op.reservation_id, 0, Usage()))
            return late if isinstance(late, str) else None
        if hold.status != "pending":
            return "AlreadyResolved"
        self.resolve(op.reservation_id, "released", None)
        return None

    def resolve(self, id: UUID, status: str, cost: int | None) -> None:
        hold = self.holds[id]
        for place in hold.windows:
            self.windows[place].reserved -= hold.amount
        hold.status = status
        if cost is not None:
            hold.entry = self.post(Entry(hold.windows, cost, hold=id))

    def post(self, entry: Entry) -> int:
        self.entries.append(entry)
        for place in entry.windows:
            self.windows[place].settled += entry.cost
            self.money_changed(self.windows[place])
        return len(self.entries) - 1

    def extend(self, op: Extend) -> str | None:
        hold = self.holds.get(op.reservation_id)
        if hold is None:
            return "ReservationUnknown"
        if hold.status != "pending":
            return "AlreadyResolved"
        windows = [self.windows[place] for place in hold.windows]
        if op.more_nanos and any(window.closed or self.ended(window) for window in windows):
            return "ReserveAnew"
        if op.more_nanos and not all(self.admits(window, op.more_nanos) for window in windows):
            return "ExtendRefused"
        for window in windows:
            window.reserved += op.more_nanos
        hold.amount += op.more_nanos
        hold.expires = max(hold.expires, self.now + TTL)
        return None

    def expire_due(self, now: datetime) -> int:
        self.now = now
        due = [id for id, hold in self.holds.items() if hold.status == "pending" and hold.expires <= now]
        for id in due:
            self.resolve(id, "expired", self.holds[id].amount)
        for entry in self.entries:
            entry.committed = True
        return len(due)

    def record(self, op: Record) -> str:
        key = op.caller.tenant_id, op.request_id
        if key in self.reported:
            return "duplicate"
        self.reported[key] = op.entry_id
        places = [self.window_for(rule, op.caller) for rule in self.governing(op.caller)]
        occurred = op.occurred_at or self.now
        places = [self.window_at(place, occurred) for place in places]
        self.entry_ids[op.entry_id] = self.post(Entry(places, op.cost_nanos))
        return "recorded"

    def window_at(self, place: int, at: datetime) -> int:
        """Where a call of `at` counts: in the window that was open then, else in the one that is open now."""
        current = self.windows[place]
        if current.starts <= at:
            return place
        then = [
            (window.starts, index)
            for index, window in enumerate(self.windows)
            if (window.rule, window.subject) == (current.rule, current.subject)
            and window.closed_at is not None
            and window.starts <= at < window.closed_at
            and not self.ended(window, at)
        ]
        return max(then)[1] if then else place

    def adjust(self, op: Adjust) -> int | str:
        index = self.entry_ids.get(op.corrects_id)
        if index is None or not self.entries[index].committed:
            return "ReservationUnknown"
        corrected = self.entries[index]
        if any(self.windows[place].settled + op.delta_nanos < 0 for place in corrected.windows):
            return "LedgerError"
        self.post(Entry(corrected.windows, op.delta_nanos, "adjustment", corrected.hold))
        return op.delta_nanos

    def reset(self, op: Reset) -> tuple[int, int]:
        budget = self.rule_of[op.budget_id]
        old = [
            window
            for window in self.windows
            if window.rule == budget and not window.closed and op.subject in (None, window.subject)
        ]
        opened = 0
        for window in old:
            window.closed_at = self.now
            if not self.ended(window):
                opened += 1
                starts = self.now
                if window.source:
                    # A grant is known by its source and start, which the reset's window takes on.
                    starts = max(self.now, window.starts + MICROSECOND)
                    self.grants.add((window.source, starts))
                ends = window.ends if window.ends and window.ends > starts else None
                limit = window.limit - window.extra
                source = "reset" if self.rules[budget].named_by_calls else window.source
                self.open(Window(budget, window.subject, starts, ends, limit, source=source))
        return len(old), opened

    def open_period(self, op: OpenPeriod) -> bool:
        rule = self.rules[self.rule_of[op.budget_id]]
        if (op.source_id, op.starts_at) in self.grants:
            return False
        index = self.open_window(rule.name, "acme")
        if index is not None:
            current = self.windows[index]
            if op.ends_at <= self.now or (current.source and op.starts_at < current.starts):
                return False
            current.closed_at = self.now
        self.grants.add((op.source_id, op.starts_at))
        self.open(Window(rule.name, "acme", op.starts_at, op.ends_at, op.limit_nanos, source=op.source_id))
        return True

    def change_limit(self, rule: str, limit: int) -> int:
        self.rules[rule].limit = limit
        changed = [window for window in self.windows if window.rule == rule and not window.closed]
        for window in changed:
            window.limit = limit + window.extra
            self.money_changed(window)
        return len(changed)

    # Allowances ---------------------------------------------------------------------------------------------

    def raise_limit(self, rule: str, amount: int) -> None:
        self.allowances.append(Allowance(rule, amount))
        self.give_more(self.allowances[-1], amount)

    def top_up(self, rule: str, subject: str, amount: int, now: datetime) -> bool:
        self.now = now
        index = self.open_window(rule, subject)
        if index is None or self.ended(self.windows[index]):
            return False
        self.allowances.append(Allowance(rule, amount, index))
        self.give_more(self.allowances[-1], amount)
        return True

    def end(self, which: int) -> bool:
        allowance = self.allowances[which]
        if allowance.over or (allowance.window is not None and self.windows[allowance.window].closed):
            return False
        allowance.over = True
        self.give_more(allowance, -allowance.amount)
        return True

    def give_more(self, allowance: Allowance, amount: int) -> None:
        for index, window in enumerate(self.windows):
            if window.rule == allowance.rule and not window.closed and allowance.window in (None, index):
                window.limit += amount
                window.extra += amount
                self.money_changed(window)

    def roll(self, now: datetime) -> int:
        self.now = now
        ended = [window for window in self.windows if not window.closed and self.ended(window)]
        for window in ended:
            window.closed_at = self.now
        opened = 0
        for rule in self.rules.values():
            subject = {"tenant": "acme"}.get(rule.name, "")
            if rule.rolls and self.open_window(rule.name, subject) is None:
                self.current(rule, subject)
                # A raise that runs is worked out in a second step, which counts too.
                opened += 2 if self.raised(rule.name) else 1
        return len(ended) + opened


_STEPS: dict[type, Callable[[Ledger, Any], Any]] = {
    Reserve: Ledger.reserve,
    Settle: Ledger.settle,
    Release: Ledger.release,
    Extend: Ledger.extend,
    Record: Ledger.record,
    Adjust: Ledger.adjust,
    Reset: Ledger.reset,
    OpenPeriod: Ledger.open_period,
}
