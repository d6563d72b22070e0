"""Deleting old entries and reservations: only what the rollups prove, in batches, each a transaction of its own.

A purge that ends half-way is taken up by the next one. What is deleted stays in three sums: the rollups, the hours'
purged sums (with the entries left they still prove the rollup), and the windows' purged money (with the entries left
it still is what they settled). An entry goes only together with everything that corrects it, so no correction ever
names a row that is gone, and a reservation goes with its charge.

After a purge a report of a call that old is no longer known as a repeat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, OperationalError, transaction

from governance import audit, ledger
from governance.audit import Actor
from governance.ledger import sql
from governance.ledger.sql_dialect import answer, keep_deadlines
from governance.rules.errors import FieldError
from governance.upkeep import reconcile, sql_retention
from governance.upkeep import sql as upkeep
from governance.upkeep.reconcile import Drift, Report, silence
from governance.upkeep.sql_retention import Member

HOUR = timedelta(hours=1)
# Longer than any call runs, any stream is kept alive, and any idempotency key is remembered.
YOUNGEST = timedelta(days=1)
ATTEMPTS = 6
BEGINNING = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


class Unproven(Exception):
    """Hours whose rollups are not the sums of their entries: nothing of theirs is deleted."""

    def __init__(self, drifts: Sequence[Drift]) -> None:
        super().__init__(f"{len(drifts)} figures of rollups are not the sums of their entries")
        self.drifts = list(drifts)


@dataclass(frozen=True, slots=True)
class Purged:
    """How much was deleted, or would be. `kept` are old entries that a younger correction keeps."""

    before: datetime
    entries: int = 0
    reservations: int = 0
    cost_nanos: int = 0
    kept: int = 0


def purge(*, before: datetime, now: datetime, by: Actor, batch: int = 5000, report: Report = silence) -> Purged:
    """Delete entries of hours that ended before a moment, and resolved reservations, `batch` calls at a time.

    Raises FieldError, and Unproven where an hour's rollup is not the sum of its entries: before anything is deleted,
    or, where it drifted meanwhile, with the batches before it done.
    """
    total = _prepare(before=before, now=now, batch=batch)
    for found in _batches(total.before, batch):
        done = _purge_durably(found, total.before, by=by, now=now)
        total = _sum(total, done)
        report(f"{total.entries} entries purged, up to {found[-1][0]:%Y-%m-%d %H:%M}")
    while deleted := _purge_released(total.before, batch, by=by, now=now):
        total = replace(total, reservations=total.reservations + deleted)
        report(f"{total.reservations} reservations purged")
    return total


def look(*, before: datetime, now: datetime, batch: int = 5000, report: Report = silence) -> Purged:
    """What `purge` would delete: the same search and the same proof, nothing written."""
    total = _prepare(before=before, now=now, batch=batch)
    with reconcile.snapshot():
        for found in _batches(total.before, batch):
            old, kept = _old(sql_retention.families([id for _, id in found]), total.before)
            reservations = {member.reservation_id for member in old} - {None}
            cost_nanos = sum(member.cost_nanos for member in old)
            total = _sum(total, Purged(before, len(old), len(reservations), cost_nanos, kept))
            report(f"{total.entries} entries found, up to {found[-1][0]:%Y-%m-%d %H:%M}")
        return replace(total, reservations=total.reservations + sql_retention.released(before=total.before))


def _prepare(*, before: datetime, now: datetime, batch: int) -> Purged:
    """Check what was asked, and prove every hour of it."""
    if before > now - YOUNGEST:
        raise FieldError("before", "must be a day ago or earlier: younger calls may still be corrected or repeated")
    if batch < 1:
        raise FieldError("batch", "must be 1 or more")
    # Whole hours, because it is hours that are proved.
    before = before.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    with reconcile.snapshot():
        _prove(until=before)
    return Purged(before)


def _prove(*, until: datetime, since: datetime | None = None) -> None:
    drifted = upkeep.rollups(since=since, until=until)
    if drifted:
        raise Unproven(reconcile.of_rollups(drifted))


def _batches(before: datetime, size: int) -> Iterator[list[tuple[datetime, UUID]]]:
    """Old calls' (occurred_at, id), oldest first. Those that are kept are passed by."""
    after = BEGINNING
    while found := sql_retention.roots(until=before, recorded_before=before, after=after, limit=size):
        yield found
        after = found[-1]


def _purge_durably(found: Sequence[tuple[datetime, UUID]], before: datetime, *, by: Actor, now: datetime) -> Purged:
    """One batch in one transaction; again where an entry of it was corrected at the same moment."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with transaction.atomic(durable=True), ledger.patiently():
                keep_deadlines()
                done = _purge([id for _, id in found], before)
                if done.entries:
                    _record(done, by=by, now=now)
                return done
        except IntegrityError:
            if attempt == ATTEMPTS:
                raise
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) not in ledger.RETRYABLE_SQLSTATES or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _purge(ids: Sequence[UUID], before: datetime) -> Purged:
    """Delete calls with what corrects them.

    Windows are written last and not locked before: calls that need them do not wait for the deleting. A correction
    that slips in between is noticed by the database, which lets none name a row that is gone.
    """
    members = sql_retention.families(ids)
    # A late settle waits for us here, and then finds nothing.
    answer(sql.reservations({member.reservation_id for member in members if member.reservation_id is not None}))
    old, kept = _old(sql_retention.families(ids), before)
    if not old:
        return Purged(before, kept=kept)
    hours = [member.occurred_at.replace(minute=0, second=0, microsecond=0) for member in old]
    _prove(since=min(hours), until=max(hours) + HOUR)
    gone = [member.id for member in old]
    sql_retention.keep_sums_of(gone)
    entries = sql_retention.delete_entries(gone)
    reservations = sql_retention.delete_reservations({member.reservation_id for member in old if member.reservation_id})
    sql_retention.check_references()
    sql_retention.add_purged(_by_window(old))
    return Purged(before, entries, reservations, sum(member.cost_nanos for member in old), kept)


def _old(members: Sequence[Member], before: datetime) -> tuple[list[Member], int]:
    """The families that are old throughout, and how many entries the others keep."""
    young = {m.root for m in members if m.recorded_at >= before or m.occurred_at >= before}
    old = [member for member in members if member.root not in young]
    return old, len(members) - len(old)


def _by_window(members: Sequence[Member]) -> dict[int, tuple[int, int]]:
    costs: dict[int, int] = defaultdict(int)
    unheld: dict[int, int] = defaultdict(int)
    for member in members:
        for id in member.windows:
            costs[id] += member.cost_nanos
            unheld[id] += member.unheld_nanos
    return {id: (costs[id], unheld[id]) for id in sorted(costs)}


def _purge_released(before: datetime, limit: int, *, by: Actor, now: datetime) -> int:
    with transaction.atomic(durable=True):
        deleted = sql_retention.delete_released(before=before, limit=limit)
        if deleted:
            _record(Purged(before, reservations=deleted), by=by, now=now)
    return deleted


def _record(done: Purged, *, by: Actor, now: datetime) -> None:
    old = {"entries": done.entries, "reservations": done.reservations, "cost_nanos": done.cost_nanos}
    audit.record(action="spend.purge", target=f"spend before {done.before:%Y-%m-%d %H:%M}", by=by, now=now, old=old)


def _sum(total: Purged, done: Purged) -> Purged:
    return replace(
        total,
        entries=total.entries + done.entries,
        reservations=total.reservations + done.reservations,
        cost_nanos=total.cost_nanos + done.cost_nanos,
        kept=total.kept + done.kept,
    )
