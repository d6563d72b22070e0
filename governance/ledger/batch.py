"""One batch of the ledger: how it reads and locks what it needs, and writes back what changed.

Used by the ledger alone (`book`, and its rules in `call_rules` and `window_rules`), inside its transaction. Windows and
reservations are changed in memory (`state`) and written back once, by `write`; windows are opened and closed by
statement, because their ids are needed at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

from django.conf import settings

from governance.ledger import acts, clock, needs, sql, sql_acts, sql_callers, sql_writes
from governance.ledger import sql_buckets as limits
from governance.ledger.caller_rules import CallerRules, Remembered, told
from governance.ledger.operations import Adjust, Extend, Follow, Operation, Record, Reserve, Settle
from governance.ledger.rows import BucketRow, EntryRow, WindowRow, has_ended
from governance.ledger.sql_dialect import answer, answers, together
from governance.ledger.state import BatchState
from governance.ledger.views import new_windows
from governance.rules.calls import Caller
from governance.rules.overruns import ModelOverrun
from governance.rules.scopes import MatchedBudget, is_named_by_calls

# In which a tenant's calls may bring so many new subjects to a budget for each one: settings.NEW_NAMES_PER_HOUR.
NEW_NAMES_SPAN = timedelta(hours=1)
# How often a batch looks for windows that others open or close at the same moment, before it is run again calmly.
LOOKS = 3
# And how often then, when nothing but the end of a period can still take a window from it.
CALM_LOOKS = 8


class LostWindows(Exception):
    """Others opened or closed windows at every look. The transaction must be given up, and may run again calmly."""


class Unforeseen(Exception):
    """What was locked, by what is remembered, is not what is needed. The transaction must be given up and run again."""


class _Looked(NamedTuple):
    """What a look ahead found, and locked: windows, and buckets, each with its limit."""

    windows: list[WindowRow]
    buckets: list[tuple[Any, Any]]


class Batch(BatchState):
    """The working state of one transaction: reads and locks it, and writes it back.

    Turns. Which windows of a budget are open changes in two ways. An act (Reset, OpenPeriod) closes what runs, as often
    as somebody asks; a call or the roll closes what time has ended, and opens the next. So acts on a budget take turns:
    each has the budget's turn alone. A batch of calls takes none and costs nothing more; only where it lost every
    look it is run again *calmly*: beside other such batches, but never beside an act. Then a look is lost at most
    once for each end of a period that passes meanwhile, and the batch comes through.

    Reports of a tenant's keys take turns too, each tenant's by themselves: what they may claim without a budget of
    their own is a sum over the tenant, which no window's lock guards.

    Order. Locks are taken as: turns (of reports, then of budgets), reservations, windows in key order, the budget's own
    row, buckets; each kind in key order. A turn is so never waited for by whoever holds a row that another batch waits
    for: a batch that has lost holds windows, and therefore gives its transaction up before it queues.

    Two orders can meet all the same. A call that opens a window shares the budget's row, and where another opened it
    first, it waits for that window at its next look: the budget's row, then a window. An act that changes the budget
    holds its windows when it wants its row. The database breaks such a deadlock, and whoever it gave up runs again:
    the ledger's own transactions by themselves, acts by `run_again`.

    Waiting. Somebody else may hold a window for seconds, and change meanwhile what is decided by: pause a tenant, lower
    a budget's cap. A statement that waits sees the window as it is then, and all else (its budget, too) as
    it was before. So which version of the rules holds is asked after the windows are locked, and where it is another
    one than was read, rules and windows are read again. After buckets it is asked once more.

    Looking ahead. A batch of calls alone, of callers whose rules are remembered, asks for all of this at once, in the
    same order: its reservations, its windows and buckets, the rules' version. Then one answer brings everything. Where
    the version is another one, or the windows are not yet as they are needed and buckets would be held before them, it
    is given up and run again step by step.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        now: datetime | clock.RunningMoment,
        *,
        calmly: bool = False,
        ahead: bool = False,
        remembered: Remembered | None = None,
    ) -> None:
        # By the caller's clock; put right by the database's before anything depends on it.
        self._moment = now if isinstance(now, clock.RunningMoment) else clock.RunningMoment(now)
        super().__init__(self._moment.now(), CallerRules())
        self.operations = operations
        self.calmly = calmly
        self._ahead = ahead and not calmly and needs.are_calls(operations)
        # Without any of others: what a transaction sees of its own is nobody else's affair.
        self._remembered = remembered if remembered is not None else Remembered()
        # Of the rules, as of the last look at windows.
        self._version = ""
        self.corrected: dict[UUID, EntryRow] = {}
        self.reported: dict[tuple[int, str], sql.Reported] = {}
        self.overruns: list[tuple[UUID, ModelOverrun]] = []
        # Budgets whose windows are too many for one transaction, those of an act that is noted in their place, and
        # the windows that follow one: see `acts`.
        self.crowded: set[int] = set()
        self.noted: set[int] = set()
        self.following: dict[Follow, list[tuple[int, str]]] = {}

    # Reading and locking ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read and lock everything the operations need: turns first, reservations, then windows, in key order."""
        callers = needs.governed(self.operations)
        self.rules = self._remembered.rules
        if not self._ahead or self.rules.lacking(callers):
            self._read_rules(callers)
        looked = None
        if self._ahead:
            looked = self._look_ahead(callers)
        else:
            self._take_steps(callers)
        for _ in range(LOOKS):
            self._read_rules_of_growing()
            self._lock_needed(looked)
            if self._version == self.rules.version:
                break
            if looked is not None:
                raise Unforeseen("what governs a caller changed while windows were waited for")
            self._read_rules(callers)
        else:
            raise LostWindows("what governs callers kept changing while windows were being locked")
        stand_ins = [row for row in self.open.values() if row.id == 0]
        self.bring_up_to_date([*self.windows.values(), *stand_ins])
        self._lock_buckets(looked)

    def _look_ahead(self, callers: Collection[Caller]) -> _Looked:
        """Ask for all that will be needed at once, by the rules that are remembered, and whether these still hold.

        Raises Unforeseen where they do not.
        """
        held = needs.reservations(self.operations)
        subjects = {(item.budget.id, item.subject) for caller in callers for item in self.matched(caller)}
        # Mostly there are no limits at all.
        filled, keys = held if self.rules.are_limited else (), self.rules.limits_of(callers)[1]
        asked = (
            sql.reservations(held),
            sql.windows(keys=subjects, held_by=held),
            limits.buckets(keys=keys, held_by=filled),
            sql_callers.version(),
        )
        self.reservations, windows, buckets, version = told(lambda: answers(*asked))
        self.now = self._moment.now()
        self._version = version.number
        if self._version != self.rules.version:
            self.rules = self._remembered.at(self._version)
            raise Unforeseen("what governs a caller has changed")
        return _Looked(windows, buckets)

    def _take_steps(self, callers: Collection[Caller]) -> None:
        """Take turns, and read what comes before windows."""
        needed = [budget for caller in callers for budget in self.matched(caller)]
        acted_on = needs.acted_on(self.operations)
        sql.take_report_turns(needs.reporting_tenants(self.operations))
        sql.take_turns(alone=acted_on, beside={item.budget.id for item in needed} if self.calmly else ())
        self.crowded = sql_acts.crowded(acted_on, most=acts.MOST_AT_ONCE)
        self.following = {
            op: sql_acts.behind(op.budget_id, after=op.after, limit=acts.SLICE)
            for op in self.operations
            if isinstance(op, Follow)
        }
        self.reservations = answer(sql.reservations(needs.reservations(self.operations)))
        corrected = {op.corrects_id for op in self.operations if isinstance(op, Adjust)}
        self.corrected = {row.id: row for row in sql.entries(corrected)}
        self.reported = sql.reported(
            {(op.caller.tenant_id, op.request_id) for op in self.operations if isinstance(op, Record)}
        )

    def _lock_needed(self, looked: _Looked | None) -> None:
        """Lock the windows that the operations need, by the rules as they were read."""
        needed = [budget for caller in {op.caller for op in self._opening()} for budget in self.matched(caller)]
        past = {
            (item.budget.id, item.subject, op.occurred_at)
            for op in self.operations
            if isinstance(op, Record) and op.windows is None and op.occurred_at is not None
            for item in self.matched(op.caller)
        }
        self._lock_windows(
            needed=needed,
            subjects=needs.subjects(self.operations),
            ids=self._charged_windows() | sql.windows_at(past),
            budget_ids=needs.acted_on_whole(self.operations, crowded=self.crowded),
            looked=looked,
        )

    def _charged_windows(self) -> set[int]:
        """Those that what is settled, grows, ends, is corrected or follows an act is in already."""
        lists = [
            *(row.windows for row in self.reservations.values()),
            *(row.windows for row in self.corrected.values()),
            *(op.windows or () for op in self.operations if isinstance(op, Record)),
        ]
        following = {id for slice in self.following.values() for id, _ in slice}
        return following.union(*lists)

    def _read_rules(self, callers: Collection[Caller]) -> None:
        self.rules = self._remembered.read(callers)
        self.now = self._moment.now()

    def _read_rules_of_growing(self) -> None:
        """Read what governs now the callers of holds that are to be more than they were, or to live longer."""
        callers = {
            row.caller
            for op in self.operations
            if (isinstance(op, Extend) and op.asks_for_leave) or (isinstance(op, Settle) and op.trust)
            if (row := self.reservations.get(op.reservation_id))
            # To what expired, anything may be more than what was charged.
            if isinstance(op, Extend) or row.status == "expired" or op.cost_nanos > row.amount_nanos
        }
        self.rules.read(callers)

    def read_clock(self) -> None:
        """Put `now` right, where the batch reads nothing that tells the time along."""
        clock.ask()
        self.now = self._moment.now()

    def read_unlocked(self, caller: Caller) -> None:
        """Read one caller and its windows and buckets as they are, with nothing locked or written: the dry run."""
        self._read_rules([caller])
        keys = [(item.budget.id, item.subject) for item in self.matched(caller)]
        rows = answer(sql.windows(keys=keys, lock=False))
        rows = acts.as_restarted(row for row in rows if not has_ended(row, self.now))
        self.open = {(row.budget.id, row.subject): row for row in rows}
        lacking = [item for item in self.matched(caller) if (item.budget.id, item.subject) not in self.open]
        self.stand_in(lacking)
        self._notice_crowds({caller: lacking})
        self.bring_up_to_date(self.open.values())
        self.buckets = {row.id: row for row in self._buckets([caller], lock=False)}

    def _lock_windows(
        self,
        *,
        needed: Sequence[MatchedBudget],
        subjects: set[tuple[int, str]],
        ids: set[int],
        budget_ids: set[int],
        looked: _Looked | None,
    ) -> None:
        """Lock windows, opening those that calls need; again where another batch changed them at that moment.

        Beside those that calls need, the open ones of `subjects` and of budgets, and those with `ids`. What was
        `looked` at is locked already.

        Raises LostWindows, and Unforeseen where buckets are locked and another look would be needed.
        """
        wanted = {(item.budget.id, item.subject): item for item in needed}
        for look in range(CALM_LOOKS if self.calmly else LOOKS):
            if look and looked is not None and looked.buckets:
                raise Unforeseen("windows changed, and buckets are locked")
            if look or looked is None:
                rows = self._locked(keys=wanted.keys() | subjects, ids=ids, budget_ids=budget_ids)
            else:
                rows = looked.windows
            if restarted := acts.restart_behind(self, rows):
                # Their successors are to be locked, and brought up to date, with the others.
                subjects = subjects | {(row.budget.id, row.subject) for row in restarted}
                continue
            self.windows = {row.id: row for row in rows}
            self.open = {(row.budget.id, row.subject): row for row in rows if row.closed_at is None}
            ended = [
                self.open.pop(key).id for key in wanted if key in self.open and has_ended(self.open[key], self.now)
            ]
            missing = self._to_open([item for key, item in wanted.items() if key not in self.open])
            # Closed while we waited for its lock: whoever did that may have opened its successor.
            overtaken = any(row.closed_at is not None and row.id not in ids for row in rows)
            if not missing and not overtaken:
                self.stand_in(wanted.values())
                return
            sql_writes.close_windows(ended, self.now)
            if missing:
                sql_writes.open_windows(new_windows(missing, self.now), self.now)
        raise LostWindows("windows kept changing while they were being locked")

    def _locked(self, **which: Any) -> list[WindowRow]:
        """Windows, locked, and which version of the rules holds by then, and what time it is: see `Batch`."""
        rows, version = answers(sql.windows(**which), sql_callers.version())
        self._version, self.now = version.number, self._moment.now()
        return cast(list[WindowRow], rows)

    def _to_open(self, missing: list[MatchedBudget]) -> list[MatchedBudget]:
        """The windows that are missing and to be opened: none for a name that only refused calls bring."""
        if not any(is_named_by_calls(item.budget) for item in missing):
            return missing
        lacking = {(item.budget.id, item.subject) for item in missing if is_named_by_calls(item.budget)}
        brought = {
            op.caller: [item for item in self.matched(op.caller) if (item.budget.id, item.subject) in lacking]
            for op in self._opening()
        }
        self.crowding.clear()
        self._notice_crowds(brought)
        opening = [op for op in self._opening() if brought[op.caller]]
        admitted = {op.caller for op in opening if isinstance(op, Record)} - self.crowding
        admitted |= {op.caller for op in opening if isinstance(op, Reserve) and self._would_admit(op)}
        known = {(item.budget.id, item.subject) for caller in admitted for item in brought.get(caller, ())}
        return [
            item for item in missing if not is_named_by_calls(item.budget) or (item.budget.id, item.subject) in known
        ]

    def _would_admit(self, op: Reserve) -> bool:
        """Whether a call goes through as things stand, before the others of this batch. Nothing is opened for it."""
        tried = BatchState(self.now, self.rules)
        tried.crowding = self.crowding
        tried.open = {key: replace(row, crossed=list(row.crossed)) for key, row in self.open.items()}
        tried.stand_in(self.matched(op.caller))
        tried.bring_up_to_date(tried.open.values())
        tried.buckets = {row.id: row for row in self._buckets([op.caller], lock=False)}
        return tried.admits(op)

    def _opening(self) -> list[Reserve | Record]:
        """What opens the windows of its caller: a call, and a report that was not made before."""
        return [
            op
            for op in self.operations
            if isinstance(op, Reserve)
            or (
                isinstance(op, Record)
                and op.windows is None
                and (op.caller.tenant_id, op.request_id) not in self.reported
            )
        ]

    def open_for(self, caller: Caller) -> bool:
        """Open what was not, because its calls were refused until another operation of this batch made room.

        True where there was any: somebody else may have opened and filled it at this moment, so that whoever decided by
        an empty one decides again. Raises LostWindows where it is gone already.
        """
        lacking = [item for item in self.matched(caller) if self.window(item).id == 0]
        if lacking:
            windows = [(item.budget.id, item.subject) for item in lacking]
            # Nothing was looked at for them before: what time has ended may stand there still.
            sql_writes.close_windows(
                [row.id for row in answer(sql.windows(keys=windows)) if has_ended(row, self.now)], self.now
            )
            sql_writes.open_windows(new_windows(lacking, self.now), self.now)
            rows = self._locked(keys=windows)
            if len(rows) < len(lacking) or any(row.closed_at is not None or has_ended(row, self.now) for row in rows):
                raise LostWindows("windows kept changing while they were being opened")
            self._refuse_other_rules()
            self.windows |= {row.id: row for row in rows}
            self.open |= {(row.budget.id, row.subject): row for row in rows}
            self.bring_up_to_date(rows)
        keys = {(bucket.rule.id, bucket.subject) for bucket in self.buckets_of(caller) if bucket.id == 0}
        if keys:
            limits.open_buckets(keys, self.now)
            self.buckets |= {row.id: row for row in self._buckets([caller])}
            self._refuse_other_rules()
        return bool(lacking or keys)

    def _notice_crowds(self, brought: Mapping[Caller, Sequence[MatchedBudget]]) -> None:
        """Find the callers that bring a budget one more new name than a tenant's calls may within an hour."""
        opening: Counter[tuple[int, int]] = Counter()
        for caller, items in brought.items():
            for item in items:
                if not is_named_by_calls(item.budget):
                    continue
                key = item.budget.id, caller.tenant_id
                count = settings.NEW_NAMES_PER_HOUR - opening[key]
                if sql.has_opened(*key, count=count, since=self.now - NEW_NAMES_SPAN):
                    self.crowding.add(caller)
                opening[key] += 1

    def _lock_buckets(self, looked: _Looked | None) -> None:
        """Lock rate buckets, after the windows; make those that are missing, but for names that are refused."""
        calls = [op for op in self.operations if isinstance(op, Reserve)]
        callers = {op.caller for op in calls}
        rules, keys = self.rules.limits_of(callers)
        ids = {id for row in self.reservations.values() for id in row.buckets}
        found = looked.buckets if looked is not None else []
        if looked is None or ids.difference(row.id for row, _ in found):
            rows = self._buckets(callers, ids=ids)
        else:
            rows = limits.levels(found, rules, self.now)
        self.buckets = {row.id: row for row in rows}
        missing = keys - {(row.rule.id, row.subject) for row in rows}
        if any(is_named_by_calls(rules[id]) for id, _ in missing):
            admitted = {op.caller for op in calls if self.admits(op)}
            missing &= self.rules.limits_of(admitted)[1]
        if missing:
            limits.open_buckets(missing, self.now)
            self.buckets = {row.id: row for row in self._buckets(callers, ids=ids)}
        self._refuse_other_rules()

    def _refuse_other_rules(self) -> None:
        """Give up where the rules have changed by which the batch has looked at more than its windows. Raises
        LostWindows."""
        if self._version != self.rules.version:
            raise LostWindows("what governs a caller changed while it was waited for")

    def _buckets(self, callers: Iterable[Caller], *, ids: Collection[int] = (), lock: bool = True) -> list[BucketRow]:
        """The buckets that calls of these callers fill, and those with `ids`."""
        rules, keys = self.rules.limits_of(callers)
        asked = limits.buckets(keys=keys, ids=ids, lock=lock)
        if not (lock and asked.is_needed):
            return limits.levels(answer(asked), rules, self.now)
        found, version = answers(asked, sql_callers.version())
        self._version = version.number
        return limits.levels(found, rules, self.now)

    # Writing ------------------------------------------------------------------------------------------------

    def write(self) -> None:
        with together():
            sql_writes.insert_reservations(list(self.new_reservations.values()))
            sql_writes.update_reservations(row for row in self.reservations.values() if row.dirty)
            sql_writes.insert_entries(self.entries, self.now)
            # Reports and corrections can be refused where an hour's sum is full; what was held lands.
            refusing = any(isinstance(op, Record | Adjust) for op in self.operations)
            sql_writes.add_to_rollups(self.entries, refusing=refusing)
            sql_writes.update_windows(row for row in self.windows.values() if row.dirty)
            sql_writes.insert_events(self.events, self.now)
            limits.update_buckets(row for row in self.buckets.values() if row.dirty)
            sql_writes.insert_overruns(self.overruns, self.now)
