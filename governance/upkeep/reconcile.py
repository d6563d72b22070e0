"""Proof that the ledger has not drifted: the invariants it promises, checked against its own rows, and their repair.

1. a window's settled = the sum of its entries; 2. its reserved = the sum of its pending reservations; 3. neither is
below zero, and every figure is a whole number within its bounds; 4. settled + reserved <= hard cap x limit, as long as
the limit was not lowered and nothing cost more than it held; 5. a reservation resolves at most once, and a settled or
expired one has exactly one charge; 6. rollups = the sums of entries, each hour's, in every figure; 7. no row
contradicts another one (`contradictions`).

A sum that would pass its bound (`money.MAX_SUM`) is expected to stand at it.

Entries that retention deleted count as what it noted of them, in the window (1, 4) and in the hour (6); it deletes a
reservation together with its charge (5). So drift is found in old hours as in new ones.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DataError, OperationalError, connection, transaction

from governance import alerts, audit, ledger
from governance.audit import Actor
from governance.ledger import sql
from governance.ledger.batch import Batch
from governance.ledger.sql_dialect import answer, keep_deadlines
from governance.models import LedgerCheck
from governance.rules import money
from governance.upkeep import contradictions
from governance.upkeep import sql as upkeep
from governance.upkeep.sql import BrokenFigure, Contradiction, Figure, RollupSums

INVARIANTS = 7
# The proof of each hour is of windows that were opened in this time, and of what was written since: a month's are.
RECENT = timedelta(days=40)
# How often all is proved, however long that takes: ten million calls take minutes.
WHOLE_EVERY = timedelta(hours=23, minutes=30)
# The alert of drift, of which there is one.
DRIFTED, LEDGER = "ledger_drift", "ledger"
# What a check's row keeps of its findings; the count is of all.
KEPT_DETAILS = 100

Report = Callable[[str], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Drift:
    """One figure that is not what its rows say. Names ending in `_nanos` are nanodollars, others counts."""

    invariant: int
    subject: str
    figure: str
    expected: int
    actual: int

    def __str__(self) -> str:
        name = self.figure.removesuffix("_nanos").replace("_", " ")
        actual, expected, off = (self._shown(n) for n in (self.actual, self.expected, self.actual - self.expected))
        limit = "at most " if self.invariant == 4 else ""
        return (
            f"invariant {self.invariant}: {self.subject}: {name} is {actual}, expected {limit}{expected}, off by {off}"
        )

    def _shown(self, number: int) -> str:
        return f"${money.format_dollars(number)}" if self.figure.endswith("_nanos") else str(number)


def silence(line: str) -> None:
    """Progress that nobody asked for."""


def check(*, since: datetime | None = None, report: Report = silence) -> list[Drift]:
    """Every drift there is; empty is the proof. Nothing is locked or written. `since`: of what came about since.

    Each invariant is proved from a consistent snapshot of its own: while one is kept, the database cannot take away
    what was replaced, and calls replace their windows' figures all the time.
    """
    hour = since.replace(minute=0, second=0, microsecond=0) if since else None
    proofs: list[tuple[int, Callable[[], list[Drift]]]] = [
        (1, lambda: _of_figures(1, "settled_nanos", upkeep.settled(since=since))),
        (2, lambda: _of_figures(2, "reserved_nanos", upkeep.reserved())),
        (3, lambda: _of_figures(3, "least_nanos", upkeep.negative()) + _of_broken(upkeep.broken())),
        (4, lambda: _of_figures(4, "committed_nanos", upkeep.over_cap(since=since))),
        (5, lambda: _of_figures(5, "charges", upkeep.charges(since=since))),
        (6, lambda: of_rollups(upkeep.rollups(since=hour))),
        (7, lambda: _of_contradictions(contradictions.found(since=since))),
    ]
    found: list[Drift] = []
    for invariant, prove in proofs:
        with snapshot():
            drifts = _proved(invariant, prove)
        report(f"invariant {invariant} of {INVARIANTS}: {len(drifts) or 'no'} drift")
        found += drifts
    return found


def _proved(invariant: int, prove: Callable[[], list[Drift]]) -> list[Drift]:
    """What a proof finds; where rows cannot even be read, that is what it finds. Raises where the database is away."""
    try:
        with transaction.atomic() if connection.vendor == "postgresql" else nullcontext():
            return prove()
    except (DataError, OperationalError, ValueError, TypeError) as error:
        # SQLite's general error is about what it read (a list that is none); others are locks, disks, files.
        if isinstance(error, OperationalError) and _sqlite_code(error) != sqlite3.SQLITE_ERROR:
            raise
        log.exception("invariant %d could not be proved", invariant)
        return [Drift(invariant, f"rows that cannot be read ({error})"[:300], "proofs", 1, 0)]


def _sqlite_code(error: OperationalError) -> int | None:
    return getattr(error.__cause__, "sqlite_errorcode", None)


def run_due(*, now: datetime) -> list[Drift]:
    """What is due each hour: a proof of what is recent, and once a day of all there is; the drift found.

    Of all there is as long as something has drifted, so that the latest check always says so.
    """
    last = LedgerCheck.objects.filter(since=None).order_by("-id").first()
    if last is None or last.drifts > last.repaired:
        return run(now=now)
    drifts = run(now=now, since=now - RECENT)
    return run(now=now) if now - last.checked_at >= WHOLE_EVERY else drifts


def run(*, now: datetime, since: datetime | None = None, repaired: int = 0, report: Report = silence) -> list[Drift]:
    """Check, and keep a row of it for the metrics; the drift found."""
    began = time.monotonic()
    drifts = check(since=since, report=report)
    LedgerCheck.objects.create(
        since=since,
        checked_at=now,
        took_ms=int((time.monotonic() - began) * 1000),
        drifts=len(drifts),
        repaired=repaired,
        details=[str(drift) for drift in drifts[:KEPT_DETAILS]],
    )
    left = len(drifts) - repaired
    if left > 0:
        first = str(drifts[0])
        message = f"{left} figure{' is' if left == 1 else 's are'} not what the rows say. The first: {first}."
        alerts.report(kind=DRIFTED, subject=LEDGER, message=message, severity="critical", now=now)
    else:
        alerts.clear(kind=DRIFTED, subject=LEDGER, now=now)
    return drifts


def repair(*, by: Actor, now: datetime, report: Report = silence) -> list[Drift]:
    """Set windows' settled and reserved, and rollups, to what their rows say; each figure that was set.

    One transaction: the windows are locked first and counted again, so that no call's money is lost. States and
    events of the windows follow. Entries are never touched, and reservations only where they hold what none can, so
    that drift in them (4, 5) remains.
    """
    with transaction.atomic(durable=True), ledger.patiently():
        keep_deadlines()
        upkeep.one_repair_at_a_time()
        # First, for the others are read along with the rows that are set.
        beyond = upkeep.broken()
        upkeep.mend(beyond)
        figures = _of_broken(beyond)
        report(f"{len(figures)} figures brought within their bounds")
        windows = _repair_windows(by, now)
        report(f"{len(windows)} figures of windows set")
        drifted = upkeep.rollups()
        if drifted:
            upkeep.mend_rollups(drifted)
        sums = of_rollups(drifted)
        report(f"{len(sums)} figures of rollups set")
        repaired = [*figures, *windows, *sums]
        for drift in repaired:
            audit.record(
                action="ledger.repair",
                target=drift.subject,
                by=by,
                now=now,
                reason=str(drift),
                old={drift.figure: drift.actual},
                new={drift.figure: drift.expected},
            )
    return repaired


def of_rollups(drifted: Sequence[RollupSums]) -> list[Drift]:
    """One drift for each figure of a rollup that differs."""
    return [
        Drift(6, _rollup_name(item), figure, item.expected[figure], item.actual[figure])
        for item in drifted
        for figure, missing in item.missing.items()
        if missing
    ]


def _repair_windows(by: Actor, now: datetime) -> list[Drift]:
    misjudged = contradictions.wrong_states()
    ids = {figure.key for figure in (*upkeep.settled(), *upkeep.reserved())}.union(misjudged)
    batch = Batch((), now)
    batch.windows = {row.id: row for row in answer(sql.windows(ids=ids))}
    # Counted again, now that no call can change these windows.
    settled = [item for item in upkeep.settled() if item.key in batch.windows and item.expected >= 0]
    reserved = [item for item in upkeep.reserved() if item.key in batch.windows]
    for item in settled:
        batch.windows[item.key].settled_nanos = item.expected
    for item in reserved:
        batch.windows[item.key].reserved_nanos = item.expected
    for id in {item.key for item in (*settled, *reserved)}.union(misjudged):
        batch.refresh(batch.windows[id], reason="the ledger was repaired", actor=by.name)
    batch.write()
    return _of_figures(1, "settled_nanos", settled) + _of_figures(2, "reserved_nanos", reserved)


def _of_figures(invariant: int, figure: str, found: Sequence[Figure]) -> list[Drift]:
    return [Drift(invariant, item.subject, figure, item.expected, item.actual) for item in found]


def _of_contradictions(found: Sequence[Contradiction]) -> list[Drift]:
    return [Drift(7, item.subject, item.figure, item.expected, item.actual) for item in found]


def _of_broken(found: Sequence[BrokenFigure]) -> list[Drift]:
    return [Drift(3, item.subject, item.figure, item.expected, item.actual) for item in found]


def _rollup_name(item: RollupSums) -> str:
    _, hour, agent, provider, model = item.kind
    named = " ".join(filter(None, [item.tenant, agent, provider, model]))
    return f"rollup of {named} at {hour:%Y-%m-%d %H}h"


@contextmanager
def snapshot() -> Iterator[None]:
    """One consistent view of all rows, which holds nobody up. Inside an open transaction, that transaction's."""
    if connection.in_atomic_block:
        yield
        return
    if connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield
        return
    # Django begins SQLite's transactions with the write lock, which every call would wait for.
    connection.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")
