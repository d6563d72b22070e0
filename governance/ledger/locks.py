"""Locks that somebody else has, as a long act or a hand in psql: they hold up whose rows are locked, and nobody else.

Whatever waits for a lock has others already, the platform's window too. So calls and reports wait briefly, and give all
back. What waited is then tried tenant by tenant: one of them waits again, and the others go on.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

from django.conf import settings

from governance.ledger import needs, sql
from governance.ledger import sql_dialect as words
from governance.ledger.operations import Operation, Record, Reserve, Settle
from governance.ledger.results import HeldUp

# PostgreSQL's deadlock_detected and serialization_failure: the transaction did nothing and may simply run again.
RETRYABLE_SQLSTATES = ("40P01", "40001")
# And its lock_not_available.
_SQLSTATES = ("55P03", *RETRYABLE_SQLSTATES)
# Where its server says on which row a lock is, whatever its language: (page,place) in relation "name".
_ROW = re.compile(r'(\(\d+,\d+\)).*"(\w+)"')
_brief_s: ContextVar[float | None] = ContextVar("_brief_s", default=None)


def wait_s() -> float:
    """How long calls wait for one lock. All of it together is known before whoever waits for the ledger gives up."""
    return float(settings.LEDGER_DEADLINE_S) / 4


def again_s() -> float:
    """The same for those whom a lock may hold up, as one held up others a moment ago."""
    return float(settings.LEDGER_DEADLINE_S) / 20


def is_in_the_way(error: Exception) -> bool:
    """Whether it was a lock that kept a transaction from what it wanted, and nothing is wrong with the database."""
    return isinstance(error, HeldUp) or getattr(_said_by_database(error), "sqlstate", None) in _SQLSTATES


def is_of_tenant(error: Exception) -> bool:
    """Whether the lock that was in the way is known to be on a row that is one tenant's.

    PostgreSQL tells whoever is first to wait. A row that has changed since was busy, and nobody has kept it.
    """
    if isinstance(error, HeldUp):
        return error.is_own
    told = getattr(getattr(_said_by_database(error), "diag", None), "context", None)
    found = _ROW.search(told or "")
    if found is None or found[2] not in sql.OF_TENANTS:
        return False
    return sql.is_of_tenant(found[2], place=found[1])


def is_kept() -> bool:
    """Whether somebody keeps what was in the way just now, rather than that many want it in turn."""
    return words.is_postgres() and sql.is_lock_kept(for_s=2 * again_s())


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


def are_tried_again() -> bool:
    """Whether whoever asks here tries again by itself."""
    return _brief_s.get() is not None


@contextmanager
def waited_for(operations: Sequence[Operation], lock_wait_s: float | None) -> Iterator[None]:
    """Have calls and reports wait briefly. An act waits for its turn, and has nothing but its own budget's windows."""
    if needs.acted_on(operations):
        yield
        return
    usual_s = _brief_s.get() or wait_s()
    with words.waiting(usual_s if lock_wait_s is None else lock_wait_s):
        yield


def around(
    operations: Sequence[Operation],
    tenants: Sequence[str],
    apply: Callable[[Sequence[Operation]], list[Any]],
    *,
    is_own: bool = False,
) -> list[Any]:
    """The results of operations that met a lock together: each tenant's are tried by themselves with `apply`.

    Where all are one tenant's, it is held up, by a row that `is_own` or perhaps not. So are those whose turn does not
    come in time: a lock that is in everybody's way is waited for no longer because there are many tenants.
    """
    places = defaultdict(list)
    for place, tenant in enumerate(tenants):
        places[tenant].append(place)
    results: list[Any] = [HeldUp(tenant) for tenant in tenants]
    if len(places) == 1:
        return [HeldUp(tenant, is_own=is_own) for tenant in tenants]
    until = time.monotonic() + 2 * wait_s()
    for mine in places.values():
        if time.monotonic() > until:
            break
        for place, result in zip(mine, apply([operations[place] for place in mine]), strict=True):
            results[place] = result
    return results


def tenants_of(operations: Sequence[Operation]) -> list[str]:
    """The slug of each one's tenant; empty for what only an act's budget, or no row, tells. Locks nothing."""
    named = [op.caller if isinstance(op, Reserve | Record | Settle) else None for op in operations]
    unnamed = [op for op, caller in zip(operations, named, strict=True) if caller is None]
    held = words.answer(sql.tenants_of_reservations(needs.reservations(unnamed)))
    return [
        caller.tenant if caller is not None else held.get(cast(UUID, getattr(op, "reservation_id", None)), "")
        for op, caller in zip(operations, named, strict=True)
    ]
