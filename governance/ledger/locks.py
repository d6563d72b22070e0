"""Locks that somebody else has, as a long act or a hand in psql: they hold up whose rows are locked, and nobody else.

Whatever waits for a lock has others already, the platform's window too. So calls and reports wait briefly, and give all
back. Then it is looked at, with nothing locked that others want, whose rows are taken: those go on whose rows are free,
and whose rows somebody keeps is not tried at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from governance.ledger import needs, sql, sql_locks
from governance.ledger import sql_dialect as words
from governance.ledger.caller_rules import SHARED
from governance.ledger.operations import Expire, Operation, Record, Release, Reserve, Settle
from governance.ledger.results import HeldUp, LedgerUnavailable
from governance.ledger.rows import hour_of
from governance.rules.scopes import PLATFORM

# PostgreSQL's deadlock_detected and serialization_failure: the transaction did nothing and may simply run again.
RETRYABLE_SQLSTATES = ("40P01", "40001")
# And its lock_not_available; query_canceled, of what took too long.
_SQLSTATES = ("55P03", *RETRYABLE_SQLSTATES)
_TOO_LONG = "57014"
# How long a look waits for a lock, which only a whole table's can make it do, and works on one of its statements.
LOOK_LOCK_S, LOOK_STATEMENT_S = 0.03, 0.5
_brief_s: ContextVar[float | None] = ContextVar("_brief_s", default=None)
_hears: ContextVar[Callable[[], None] | None] = ContextVar("_hears", default=None)


def wait_s() -> float:
    """How long calls wait for one lock at most, and how long whoever keeps one has done nothing."""
    return float(settings.LEDGER_DEADLINE_S) / 4


def again_s() -> float:
    """How long the first try waits: others may want what it has meanwhile."""
    return float(settings.LEDGER_DEADLINE_S) / 20


def waits_s() -> tuple[float, ...]:
    """How long each try waits. After three it is known who keeps a lock; a turn among many is waited for at last."""
    return again_s(), 2 * again_s(), 3 * again_s(), wait_s()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the next tries wait for a lock, and by when all are over (monotonic seconds)."""

    waits_s: tuple[float, ...]
    until_s: float

    def rest(self) -> Patience:
        """After one of the tries."""
        return replace(self, waits_s=self.waits_s[1:])


def usually() -> Patience:
    """Of calls and reports; they are over before whoever waits for the ledger gives up."""
    brief_s = _brief_s.get()
    return Patience(waits_s() if brief_s is None else (brief_s,), time.monotonic() + 0.9 * settings.LEDGER_DEADLINE_S)


def warily() -> Patience:
    """Of those whom a lock held up a moment ago, once their rows are found to be free: they are tried once."""
    return Patience((again_s(), again_s()), time.monotonic() + wait_s())


def is_in_the_way(error: Exception) -> bool:
    """Whether it was a lock that kept a transaction from what it wanted, and nothing is wrong with the database."""
    return isinstance(error, HeldUp) or _sqlstate(error) in _SQLSTATES


def is_of_database(error: BaseException | None) -> bool:
    """Whether it is the database that failed. Where others never let a batch have its windows, it is well."""
    while isinstance(error, LedgerUnavailable):
        error = error.__cause__
    return isinstance(error, DatabaseError | InterfaceError)


def _sees_nothing(error: Exception) -> bool:
    """Whether a look met a lock itself, or took too long: then it is not known whose rows are taken."""
    return is_in_the_way(error) or _sqlstate(error) == _TOO_LONG


def _sqlstate(error: Exception) -> str | None:
    return getattr(_said_by_database(error), "sqlstate", None)


def _said_by_database(error: BaseException | None) -> BaseException | None:
    """The driver's own error, which has a SQLSTATE."""
    while error is not None and not hasattr(error, "sqlstate"):
        error = error.__cause__
    return error


@contextmanager
def briefly_waited_for(seconds: float) -> Iterator[None]:
    """Have all that asks the ledger here wait so long for a lock, once."""
    token = _brief_s.set(seconds)
    try:
        yield
    finally:
        _brief_s.reset(token)


@contextmanager
def answers_heard_by(hears: Callable[[], None]) -> Iterator[None]:
    """Have it told, in the midst of operations, that the database has answered: a lock is in their way."""
    token = _hears.set(hears)
    try:
        yield
    finally:
        _hears.reset(token)


@contextmanager
def waited_for(operations: Sequence[Operation], seconds: float | None = None) -> Iterator[None]:
    """Have calls and reports wait so long. An act waits for its turn, and has nothing but its own budget's windows."""
    if needs.acted_on(operations):
        yield
        return
    usual_s = _brief_s.get() or wait_s()
    with words.waiting(usual_s if seconds is None else seconds):
        yield


def around(
    operations: Sequence[Operation],
    tenants: Sequence[str],
    taken: Mapping[str, bool] | None,
    patience: Patience,
    apply: Callable[..., list[Any]],
) -> list[Any]:
    """The results of operations that met a lock together, as far as they are tried again, with `apply`; else HeldUp.

    `tenants` has each one's, and `taken` what `look` found: those go first whose rows are free, then those whose rows
    are in use; not those whose rows are kept. Where nobody's rows are taken, the lock is on something that all want,
    or that `look` does not know: each tenant is tried alone at last, and at once where nothing is known. A lock in
    everybody's way is waited for no longer because there are many tenants.
    """
    results: list[Any] = [HeldUp(tenant) for tenant in tenants]
    known = taken or {}
    free = {tenant for tenant in tenants if tenant not in known}
    used = {tenant for tenant in tenants if known.get(tenant) is False}
    turns: list[tuple[Collection[str], Patience]]
    if taken is None and len(free) > 1:
        turns = [([tenant], replace(patience, waits_s=patience.waits_s[1:2])) for tenant in dict.fromkeys(tenants)]
    elif free and taken:
        turns = [(free, patience), (used, patience.rest())]
    elif patience.rest().waits_s:
        turns = [(free or used, patience.rest())]
    else:
        turns = [([tenant], patience) for tenant in dict.fromkeys(tenants)] if len(free) > 1 else []
    for turn, then in turns:
        mine = [place for place, tenant in enumerate(tenants) if tenant in turn]
        if mine and then.waits_s and time.monotonic() + then.waits_s[0] < patience.until_s:
            done = apply([operations[place] for place in mine], patience=then)
            for place, result in zip(mine, done, strict=True):
                results[place] = result
    return results


def looked(
    operations: Sequence[Operation], now: datetime, durably: Callable[[Callable[[Any], Any]], Any]
) -> tuple[list[str], dict[str, bool] | None]:
    """What `look` finds, with `durably` around it, and next to no wait: all others of a process wait for it.

    It skips rows that somebody has, but no table that somebody has as a whole: then nothing is known of whose rows are
    taken (None).
    """
    if (hears := _hears.get()) is not None:
        hears()
    try:
        with words.waiting(LOOK_LOCK_S, statement_s=LOOK_STATEMENT_S):
            return cast(tuple[list[str], dict[str, bool]], durably(lambda _: look(operations, now)))
    except LedgerUnavailable as error:
        if not _sees_nothing(error):
            raise
    with waited_for(operations):
        return durably(lambda _: tenants_of(operations)), None


def look(operations: Sequence[Operation], now: datetime) -> tuple[list[str], dict[str, bool]]:
    """Each one's tenant; and of those whose rows somebody has that are needed, whether they are kept, or in use.

    In a transaction of its own, which has nothing that others want.
    """
    tenants = tenants_of(operations)
    if not words.is_postgres():
        return tenants, {}
    sql_locks.leave_no_trace()
    found = words.answers(*sql_locks.taken(_needs(operations, now), now=now, silent_s=wait_s(), old_s=4 * wait_s()))
    taken: dict[str, bool] = {}
    for tenant, is_kept in chain.from_iterable(found):
        taken[tenant] = taken.get(tenant, False) or is_kept
    return tenants, taken


def _needs(operations: Sequence[Operation], now: datetime) -> sql_locks.Needs:
    governed = needs.governed(operations)
    rules = SHARED.read(governed)
    named = {caller for op in operations if (caller := getattr(op, "caller", None)) is not None}
    return sql_locks.Needs(
        held=needs.reservations(operations),
        subjects={
            (each.budget.id, each.subject, each.tenant_id)
            for caller in governed
            for each in rules.matched[caller]
            if each.tenant_id is not None
        },
        buckets={
            (rule.id, subject, caller.tenant_id)
            for caller in governed
            for rule, subject in rules.limited[caller]
            if rule.scope_type != PLATFORM
        },
        keys={(caller.key_id, caller.tenant_id) for caller in named if caller.key_id is not None},
        tenant_ids={caller.tenant_id for caller in named},
        sums={_sum_of(op, now) for op in operations if isinstance(op, Reserve | Record)},
        charged=set(chain.from_iterable(map(_charged, operations))),
    )


def _sum_of(op: Reserve | Record, now: datetime) -> tuple[int, datetime, str, str, str]:
    """The hour's sum in which a report counts, and a call will, as far as it can be known."""
    if isinstance(op, Reserve):
        return op.caller.tenant_id, hour_of(now), op.caller.agent, op.provider, op.call.model
    at = hour_of(op.occurred_at or now)
    return op.caller.tenant_id, at, op.caller.agent, op.usage.provider, op.usage.model


def _charged(op: Operation) -> Iterator[tuple[UUID, datetime | None, str | None, str | None]]:
    """In which hours' sums a reservation may count: as it was held, as its settlement says, or as both do."""
    if not isinstance(op, Settle | Release | Expire):
        return
    yield op.reservation_id, None, None, None
    if isinstance(op, Settle):
        name = op.usage.provider or None, op.usage.model or None
        yield op.reservation_id, None, *name
        yield op.reservation_id, op.occurred_at and hour_of(op.occurred_at), *name


def tenants_of(operations: Sequence[Operation]) -> list[str]:
    """The slug of each one's tenant; empty for what only an act's budget, or no row, tells. Locks nothing."""
    named = [op.caller if isinstance(op, Reserve | Record | Settle) else None for op in operations]
    unnamed = [op for op, caller in zip(operations, named, strict=True) if caller is None]
    held = words.answer(sql.tenants_of_reservations(needs.reservations(unnamed)))
    return [
        caller.tenant if caller is not None else held.get(cast(UUID, getattr(op, "reservation_id", None)), "")
        for op, caller in zip(operations, named, strict=True)
    ]
