"""Locks that somebody else has, as a long act or a hand in psql: they hold up whose rows are locked, and nobody else.

Whatever waits for a lock has others already, the platform's window too. So calls and reports wait briefly, and give all
back. What waited is then tried tenant by tenant: one of them waits again, and the others go on.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

from django.conf import settings

from governance.ledger import needs, sql
from governance.ledger import sql_dialect as words
from governance.ledger.operations import Operation, Record, Reserve, Settle
from governance.ledger.results import HeldUp, LedgerUnavailable

# PostgreSQL's deadlock_detected and serialization_failure: the transaction did nothing and may simply run again.
RETRYABLE_SQLSTATES = ("40P01", "40001")
# And its lock_not_available.
_SQLSTATES = ("55P03", *RETRYABLE_SQLSTATES)


def wait_s() -> float:
    """How long calls wait for one lock. All of it together is known before whoever waits for the ledger gives up."""
    return float(settings.LEDGER_DEADLINE_S) / 4


def again_s() -> float:
    """The same for those whom a lock may hold up, as one held up others a moment ago."""
    return float(settings.LEDGER_DEADLINE_S) / 20


def is_in_the_way(error: LedgerUnavailable) -> bool:
    """Whether it was a lock that kept a transaction from what it wanted, and nothing is wrong with the database."""
    cause = error.__cause__
    return cause is not None and getattr(cause.__cause__, "sqlstate", None) in _SQLSTATES


@contextmanager
def waited_for(operations: Sequence[Operation], lock_wait_s: float | None) -> Iterator[None]:
    """Have calls and reports wait briefly. An act waits for its turn, and has nothing but its own budget's windows."""
    if needs.acted_on(operations):
        yield
        return
    with words.waiting(wait_s() if lock_wait_s is None else lock_wait_s):
        yield


def around(
    operations: Sequence[Operation], tenants: Sequence[str], apply: Callable[[Sequence[Operation]], list[Any]]
) -> list[Any]:
    """The results of operations that met a lock together: each tenant's are tried by themselves with `apply`.

    Where all are one tenant's, it is held up. So are those whose turn does not come in time: a lock that is in
    everybody's way is waited for no longer because there are many tenants.
    """
    places = defaultdict(list)
    for place, tenant in enumerate(tenants):
        places[tenant].append(place)
    results: list[Any] = [HeldUp(tenant) for tenant in tenants]
    if len(places) == 1:
        return results
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
