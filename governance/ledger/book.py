"""The only writer of windows, reservations, entries and rollups.

`apply` takes a list of operations, locks what they touch (reservations, then windows, each in primary-key order; for
acts on budgets, and after lost races, the budgets' turns before: see `Batch`),
runs each operation in Python against the locked rows, and writes all changes with a handful of statements in one
durable transaction. A batch of one is an ordinary call; the gateway's batches hold whatever queued up meanwhile.

Amounts are integer nanodollars. Every time is `now`, given by the caller. An operation that fails leaves no trace
and does not touch its neighbours.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError, transaction

from governance import alerts
from governance.ledger import acts, call_rules, claims, clock, locks, sql, sql_acts, sql_callers, window_rules
from governance.ledger.batch import CALM_LOOKS, Batch, LostWindows, Unforeseen
from governance.ledger.caller_rules import SHARED, Remembered
from governance.ledger.operations import (
    Adjust,
    ChangeLimit,
    Expire,
    Extend,
    Follow,
    OpenPeriod,
    Operation,
    Record,
    Release,
    Reserve,
    Reset,
    ReviewAllowances,
    Settle,
)
from governance.ledger.results import (
    AdjustResult,
    AlreadyResolved,
    FollowResult,
    HeldUp,
    LedgerError,
    LedgerUnavailable,
    OutOfBounds,
    PeriodResult,
    RecordResult,
    RequestIdReused,
    ResetResult,
    SettleResult,
)
from governance.ledger.sql_dialect import answer, by_index, committed, is_refusal, keep_deadlines, together
from governance.rules import money
from governance.rules.calls import Caller
from governance.rules.decision import Call, Decision

_RULES: dict[type, Callable[[Batch, Any], Any]] = {
    Reserve: call_rules.reserve,
    Extend: call_rules.extend,
    Settle: call_rules.settle,
    Release: call_rules.release,
    Expire: call_rules.expire,
    Record: call_rules.record,
    Adjust: call_rules.adjust,
    Reset: window_rules.reset,
    OpenPeriod: window_rules.open_period,
    ChangeLimit: window_rules.change_limit,
    ReviewAllowances: window_rules.review_allowances,
    Follow: window_rules.follow,
}

# A foreign key's.
NO_SUCH_ROW = "23503"
ATTEMPTS = 6
# PostgreSQL's read_only_sql_transaction: connected to what was the primary until a moment ago, and is no more.
READ_ONLY = "25006"
# The alert of reservations that cannot be expired.
NOT_EXPIRED, EXPIRY = "reservations_not_expired", "expiry"
# How long whoever acts on a budget of very many windows stays to have them follow; beat sees to the rest.
FOLLOW_S = 2.0
# How the names of the tables' constraints on sums end.
BOUNDS = "within_bounds"

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Manner:
    """How a batch is run, see `Batch`: queueing for turns, or asking for everything at once as far as it can."""

    calmly: bool = False
    ahead: bool = False


def apply(
    operations: Sequence[Operation], *, now: datetime, patience: locks.Patience | None = None, are_held_up: bool = False
) -> list[Any]:
    """Carry out operations in one durable transaction; their results, in order.

    The result of an operation that failed is its exception, in its place; HeldUp of one that needs what somebody else
    keeps, see `locks`. Where a lock was in their way a moment ago (`are_held_up`), it is looked first. Raises
    LedgerUnavailable where the database cannot be reached or does not write, for whatever reason, or others never let
    it have its windows: then nothing happened, or (after a lost commit) it is not known whether it did, and repeating
    the same operations is safe: each carries its own id.
    """
    if not operations:
        return []
    if are_held_up:
        return _around_locks(operations, now, locks.warily())
    patience = patience or locks.usually()
    moment = clock.RunningMoment(now)
    try:
        with locks.waited_for(operations, patience.waits_s[0]):
            results, noted = _durably(lambda manner: _run(operations, moment, manner, SHARED))
    except LedgerUnavailable as error:
        if not locks.is_in_the_way(error):
            raise
        return _around_locks(operations, now, patience)
    except Exception as error:
        failure = error
    else:
        _have_followed(noted, now)
        return results
    if len(operations) == 1:
        return [_durably(lambda _: _explained(operations[0], failure))]
    # One operation broke the whole statement: run each by itself, so that it cannot poison its neighbours.
    with _perhaps_in_part():
        return [result for operation in operations for result in apply([operation], now=now, patience=patience)]


def _around_locks(operations: Sequence[Operation], now: datetime, patience: locks.Patience) -> list[Any]:
    with _perhaps_in_part():
        tenants, taken = locks.looked(operations, now, _durably)
        return locks.around(operations, tenants, taken, patience, functools.partial(apply, now=now))


def is_kept_from(operation: Operation, *, now: datetime) -> bool:
    """Whether somebody keeps a row that an operation needs, of its tenant's; raises LedgerUnavailable."""
    _, taken = locks.looked([operation], now, _durably)
    return taken is not None and True in taken.values()


def apply_within(operations: Sequence[Operation], *, now: datetime) -> list[Any]:
    """The same inside the caller's open transaction, together with its own rows; raises the first failure.

    What is not ours alone cannot be given up and run again, so this is calm from the start: it queues for the turns
    of the budgets of its calls and acts. A caller that holds windows already has taken them by `lock_windows`.
    """
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("apply_within needs an open transaction")
    try:
        with locks.waited_for(operations), together():
            keep_deadlines()
            results, noted = _run(operations, now, Manner(calmly=True))
    except LostWindows as error:
        raise LedgerUnavailable(str(error)) from error
    except IntegrityError as error:
        if (beyond := _beyond_bounds(error)) is None:
            raise
        raise beyond from error
    for result in results:
        if isinstance(result, Exception):
            raise result
    _have_followed(noted, now)
    return results


def tenants_of(operations: Sequence[Operation]) -> list[str]:
    """The slug of each one's tenant, as far as it has one; raises LedgerUnavailable."""
    with locks.waited_for(operations):
        return _durably(lambda _: locks.tenants_of(operations))


def try_to_write() -> None:
    """Commit something that changes nothing; raises LedgerUnavailable where the database does not write."""
    _durably(lambda _: sql_callers.try_to_write())


def reserve(operation: Reserve, *, now: datetime) -> Decision:
    """Decide and hold. A refusal is a Decision that is not `allowed`, not an exception."""
    return cast(Decision, _one(operation, now))


def extend(operation: Extend, *, now: datetime) -> None:
    """Keep a reservation alive or raise its hold; ExtendRefused where the money is not there."""
    _one(operation, now)


def settle(operation: Settle, *, now: datetime) -> SettleResult:
    """Charge the true cost once. Raises ReservationUnknown, AlreadyResolved."""
    return cast(SettleResult, _one(operation, now))


def release(operation: Release, *, now: datetime) -> None:
    """Return the whole hold. Raises ReservationUnknown, AlreadyResolved."""
    _one(operation, now)


def record(operation: Record, *, now: datetime) -> RecordResult:
    """Charge a call made elsewhere; a repeated request id changes nothing and says so."""
    return cast(RecordResult, _one(operation, now))


def adjust(operation: Adjust, *, now: datetime) -> AdjustResult:
    """Correct an entry with a new one."""
    return cast(AdjustResult, _one(operation, now))


def reset(operation: Reset, *, now: datetime) -> ResetResult:
    """Close a budget's open windows and open new ones now."""
    return cast(ResetResult, _one(operation, now))


def open_period(operation: OpenPeriod, *, now: datetime) -> PeriodResult:
    """Open a paid period's window, once."""
    return cast(PeriodResult, _one(operation, now))


def change_limit(operation: ChangeLimit, *, now: datetime) -> int:
    """Give the open windows of a budget a new limit; how many there were."""
    return cast(int, _one(operation, now))


def lock_windows(*budget_ids: int, subjects: Collection[tuple[int, str]] = ()) -> None:
    """Lock budgets' turns and open windows in the caller's transaction, before the budgets' own rows, never after.

    Of a budget with very many windows the turn alone, and those of `subjects`, each with its budget: the others follow
    an act later, see `acts`. A call that opens a window
    holds the ended one when it needs the budget's row; an act that does has the turn.
    """
    with together():
        keep_deadlines()
        sql.take_turns(alone=budget_ids)
        few = set(budget_ids) - sql_acts.crowded(budget_ids, most=acts.MOST_AT_ONCE)
        for _ in range(CALM_LOOKS):
            if all(row.closed_at is None for row in answer(sql.windows(keys=subjects, budget_ids=few))):
                return
        # A call or the roll closed one when its period ended, while we waited: its successor is to be locked as well.
    raise LedgerUnavailable("windows kept changing while they were being locked")


def follow(budget_id: int, *, now: datetime, for_s: float = FOLLOW_S) -> bool:
    """Have a budget's open windows follow the acts on it, a slice a transaction; whether all have within `for_s`.

    Stopped in between, or begun twice, it does no harm. Not within a transaction.
    """
    began, after = time.monotonic(), None
    while True:
        passed_s = time.monotonic() - began
        done = cast(FollowResult, _one(Follow(budget_id, after), now + timedelta(seconds=passed_s)))
        if done.done or passed_s >= for_s:
            return done.done
        after = done.after


def follow_acts(*, now: datetime, for_s: float) -> int:
    """Have windows follow the acts that are under way, for so long at most; of how many budgets all have."""
    began, followed = time.monotonic(), 0
    for budget_id in sql_acts.under_way():
        passed_s = time.monotonic() - began
        if passed_s >= for_s:
            break
        try:
            followed += follow(budget_id, now=now + timedelta(seconds=passed_s), for_s=for_s - passed_s)
        except (LedgerError, DatabaseError):
            # The others must not wait for this one; calls bring its windows along as well.
            log.exception("the windows of budget %s could not follow", budget_id)
    return followed


def take_report_turn(tenant_id: int) -> None:
    """Wait until nobody else reports for the tenant, in the caller's transaction and before it locks anything."""
    with together():
        keep_deadlines()
        sql.take_report_turns([tenant_id])


def run_again(act: Callable[P, T]) -> Callable[P, T]:
    """An act whose one transaction runs again after a deadlock; within an outer one, that is its owner's affair.

    What the act does outside of the database, or to its arguments, must bear being done twice.
    """

    @functools.wraps(act)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return act(*args, **kwargs)
            except OperationalError as error:
                if transaction.get_connection().in_atomic_block or not _may_run_again(error, attempt):
                    raise
                _pause(attempt)

    return run


def dry_run(caller: Caller, call: Call, *, now: datetime) -> Decision:
    """The dry run: what `reserve` would decide now. Nothing is locked or written."""
    batch = Batch((), now)
    batch.read_unlocked(caller)
    decision = batch.decided(caller, call)
    if decision.quote is not None:
        claims.refuse_beyond("estimated_cost", decision.quote.cost_nanos)
    return decision


def expire_due(*, now: datetime, limit: int = 500) -> int:
    """Resolve reservations whose time ran out, `limit` at a time; how many were.

    One that cannot be is passed over, so that the others do not wait for it; operators are told of all such at once.
    """
    total, stuck, last = 0, list[tuple[UUID, Exception]](), None
    # Asked with a clock that is wrong, all would be due at once; each is looked at again under its lock.
    ahead = clock.ask()
    while due := sql.due_reservations(now + ahead, limit, after=last):
        done = apply([Expire(each.id) for each in due], now=now)
        total += sum(result is True for result in done)
        # What a lock holds up comes again with the next run.
        failed = [
            (one.id, each)
            for one, each in zip(due, done, strict=True)
            if isinstance(each, Exception) and not isinstance(each, HeldUp)
        ]
        for id, failure in failed:
            log.error("reservation %s could not be expired: %s", id, failure)
        stuck += failed
        last = due[-1]
        if len(due) < limit:
            break
    _tell_of(stuck, now)
    return total


def roll_windows(*, now: datetime, limit: int = 500) -> int:
    """Close calendar windows whose time is over and open those of single-subject budgets; how many changed.

    Calls do this by themselves when they need a window; this is for the dashboards.
    """
    moment = clock.RunningMoment(now)
    with locks.waited_for(()):
        return _durably(lambda _: window_rules.roll(Batch((), moment), limit=limit))


def _tell_of(stuck: Sequence[tuple[UUID, Exception]], now: datetime) -> None:
    """One alert of what cannot be expired, however much that is; over where nothing is left of it."""
    if not stuck:
        alerts.clear(kind=NOT_EXPIRED, subject=EXPIRY, now=now)
        return
    id, failure = stuck[0]
    message = (
        f"{len(stuck)} reservations cannot be expired and hold their money on. The first is {id}: {failure}."
        " reconcile_ledger names what is wrong with their rows."
    )
    alerts.report(kind=NOT_EXPIRED, subject=EXPIRY, message=message, now=now, severity="critical")


def _one(operation: Operation, now: datetime) -> Any:
    [result] = apply([operation], now=now)
    if isinstance(result, Exception):
        raise result
    return result


@contextmanager
def _perhaps_in_part() -> Iterator[None]:
    """Where the database goes away in the midst of several transactions, the first of them may have landed."""
    try:
        yield
    except LedgerUnavailable as error:
        raise LedgerUnavailable(str(error), unsure=True) from error


def _explained(operation: Operation, error: Exception) -> Any:
    """What the failure of one operation means: ids used before, which only a constraint noticed, are said so."""
    if isinstance(error, IntegrityError) and (beyond := _beyond_bounds(error)):
        return beyond
    if isinstance(error, IntegrityError) and isinstance(operation, Reserve):
        held = answer(sql.reservations([operation.reservation_id])).get(operation.reservation_id)
        if held is not None:
            return AlreadyResolved(held.id, held.status)
    if isinstance(error, IntegrityError) and isinstance(operation, Record):
        # Reported by somebody else between our look and our insert.
        key = operation.caller.tenant_id, operation.request_id
        reported = sql.reported([key]).get(key)
        if reported is not None:
            try:
                return call_rules.repeated(operation, reported)
            except RequestIdReused as reused:
                return reused
    return error


def _beyond_bounds(error: IntegrityError) -> OutOfBounds | None:
    """What it means that one of the constraints on sums refused a statement; their names end alike."""
    if BOUNDS not in str(error):
        return None
    return OutOfBounds("cost", f"brings an hour's sum over the bound of {money.whole_dollars(money.MAX_SUM)}")


def _run(
    operations: Sequence[Operation],
    now: datetime | clock.RunningMoment,
    manner: Manner,
    remembered: Remembered | None = None,
) -> tuple[list[Any], Collection[int]]:
    """Carry out operations in the open transaction; their results, and the budgets whose windows are to follow acts."""
    batch = Batch(operations, now, calmly=manner.calmly, ahead=manner.ahead, remembered=remembered)
    batch.prepare()
    results = [_carry_out(batch, operation) for operation in operations]
    batch.write()
    return results, batch.noted


def _have_followed(budget_ids: Iterable[int], now: datetime) -> None:
    """Have the windows of budgets follow the acts on them, as soon as these are committed."""
    for budget_id in budget_ids:
        # Where this fails, beat goes on with it.
        transaction.on_commit(functools.partial(follow, budget_id, now=now), robust=True)


def _carry_out(batch: Batch, operation: Operation) -> Any:
    """Run one operation against the locked rows; a LedgerError is its result, and it has changed nothing."""
    try:
        return _RULES[type(operation)](batch, operation)
    except LedgerError as error:
        return error


def _durably(work: Callable[[Manner], T]) -> T:
    """Run `work` in a durable transaction; again after a deadlock, LedgerUnavailable when the database is away.

    Also again, in the manner that it is told, where it was Unforeseen, and where it was LostWindows or named what was
    deleted meanwhile. Then it need not wait: the one looks again, and the others queue.
    """
    manner, attempt = Manner(ahead=True), 0
    while True:
        attempt += 1
        committing = False
        try:
            with committed():
                by_index()
                result = work(manner)
                committing = True
            return result
        except Unforeseen:
            manner = replace(manner, ahead=False)
        except LostWindows as error:
            if attempt == ATTEMPTS:
                raise LedgerUnavailable(str(error)) from error
            manner = Manner(calmly=True)
        except (IntegrityError, DataError) as error:
            # What one operation brings, so that it is looked for.
            if not _names_what_is_gone(error) or attempt == ATTEMPTS:
                raise
            manner = Manner(calmly=True)
        except (DatabaseError, InterfaceError) as error:
            # Away, read-only, full, forbidden, too slow, broken: whatever it is, nothing can be written now.
            if not _may_run_again(error, attempt):
                _let_go(error)
                unsure = committing and not is_refusal(error.__cause__)
                raise LedgerUnavailable(str(error), unsure=unsure) from error
            _pause(attempt)


def _let_go(error: Exception) -> None:
    """Have the next try make a connection of its own, where this one is no good any more."""
    connection = transaction.get_connection()
    if getattr(error.__cause__, "sqlstate", None) == READ_ONLY and not connection.in_atomic_block:
        # It works, and would stay with a server that is no primary any longer; a pool would give it to others.
        connection.connection.close()
        connection.close()
    connection.close_if_unusable_or_obsolete()


def _names_what_is_gone(error: Exception) -> bool:
    """Whether a row was to lie under one that is not there (any more), as a bucket under a deleted limit."""
    return getattr(error.__cause__, "sqlstate", None) == NO_SUCH_ROW or "FOREIGN KEY" in str(error)


def _may_run_again(error: Exception, attempt: int) -> bool:
    return getattr(error.__cause__, "sqlstate", None) in locks.RETRYABLE_SQLSTATES and attempt < ATTEMPTS


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - spreads the retries, guards nothing
