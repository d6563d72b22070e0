"""Whether the parts of the product work, found quickly and without a call to anyone outside."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import DatabaseError, connection

from billing.queries import health as billing_health
from governance import ledger, replica
from governance.ledger import clock, writer
from governance.models import BudgetWindow, LedgerCheck
from governance.queries import jobs
from llm.state import breakers

BROKER_TIMEOUT_S = 0.3
DATABASE_TIMEOUT_S = 0.8
# Threads that see whether the database answers; while it does not, each is busy for two seconds.
_knocking = ThreadPoolExecutor(4, thread_name_prefix="health")
# What makes the whole unhealthy; the others tell how it is set up.
ESSENTIAL = ("database", "budget")
IN_DATABASE = ("budget", "stripe", "database", "jobs")
OK, DEGRADED, DOWN, DRIFTED = "ok", "degraded", "down", "drifted"
FAILING, STALE, LATE = "failing", "stale", "late"
# Of the replica: further behind than it may be to be read.
LAGGING = replica.LAGGING
# No job has run yet, as far as the database knows.
NOT_RUN = "not_run"
# This process's clock is not the database's, which decides.
CLOCK_DIFFERS = "clock_differs"
# Wrong, though calls go through.
UNWELL = {DOWN, DRIFTED, FAILING, STALE, LATE, LAGGING, CLOCK_DIFFERS}


def services() -> dict[str, str]:
    """The state of each part.

    ok, configured, sandbox, filesystem, not_configured, not_run, stale, late, lagging, failing, drifted, clock_differs
    or down.
    """
    return _states(name for name in CHECKS if name != "replica" or replica.ALIAS in settings.DATABASES)


def essentials() -> dict[str, str]:
    """The state of what no call can do without."""
    return _states(ESSENTIAL)


def _states(names: Iterable[str]) -> dict[str, str]:
    """The database first: what is kept in it is not asked for where it does not answer."""
    database = _database()
    known = dict.fromkeys(IN_DATABASE, DOWN) if database == DOWN else {"database": database}
    return {name: known.get(name) or CHECKS[name]() for name in names}


def overall(found: dict[str, str]) -> str:
    """ok, degraded (it works, and something is wrong) or down."""
    if any(found[name] == DOWN for name in ESSENTIAL):
        return DOWN
    return DEGRADED if UNWELL & set(found.values()) else OK


def last_check() -> LedgerCheck | None:
    """The latest proof that the ledger has not drifted, or that it has."""
    return LedgerCheck.objects.order_by("-id").first()


def job_statuses() -> list[jobs.JobStatus]:
    """How each periodic job is; none where the database does not say."""
    try:
        return jobs.statuses(now=clock.now())
    except DatabaseError:
        return []


def _database() -> str:
    # What this process's calls would be told, whatever another connection of it can do.
    if writer.why_away() is not None or not _answers():
        return DOWN
    try:
        ledger.try_to_write()
        clock.ask()
    except (DatabaseError, ledger.LedgerUnavailable):
        return DOWN
    return CLOCK_DIFFERS if clock.differs() else OK


def _answers() -> bool:
    """Whether PostgreSQL answers in time, with whatever; one that is frozen would be waited for without an end.

    Asked through a connection of its own: of one that is there already nothing says how long an answer may take.
    """
    if connection.vendor != "postgresql":
        return True
    parameters: dict[str, Any] = {
        name: value
        for name, value in connection.get_connection_params().items()
        if isinstance(value, str | int) and name not in ("prepare_threshold", "connect_timeout")
    }
    try:
        return _knocking.submit(_is_there, parameters).result(DATABASE_TIMEOUT_S)
    except TimeoutError:
        return False


def _is_there(parameters: dict[str, Any]) -> bool:
    import psycopg
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    # libpq waits no shorter.
    parameters["connect_timeout"] = 2
    try:
        psycopg.connect(**parameters).close()
    except psycopg.errors.ConnectionTimeout:
        return False
    except psycopg.Error:
        # Too many connections, a wrong word: it is there, and what follows says how it is. Where nobody listens, or it
        # is starting, the pool would be waited for.
        return pq.PGconn.ping(make_conninfo(**parameters).encode()) == pq.Ping.OK
    return True


def _budget() -> str:
    """The ledger's tables can be read, and the last reconciliation (beat's, every hour) left no drift."""
    try:
        BudgetWindow.objects.order_by().values("pk").first()
        last = last_check()
    except DatabaseError:
        return DOWN
    return DRIFTED if last is not None and last.drifts > last.repaired else OK


def _jobs() -> str:
    """late, where a job has not succeeded for longer than it may; what fails once is tried again in time."""
    try:
        found = jobs.statuses(now=clock.now())
    except DatabaseError:
        return DOWN
    if any(job.state == jobs.LATE for job in found):
        return LATE
    return OK if found else NOT_RUN


def _replica() -> str:
    return replica.watch.known_state()


def _broker() -> str:
    if not settings.REDIS_URL:
        return "filesystem"
    address = urlsplit(settings.REDIS_URL)
    try:
        if address.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(BROKER_TIMEOUT_S)
                peer.connect(address.path)
        else:
            socket.create_connection(
                (address.hostname or "localhost", address.port or 6379), timeout=BROKER_TIMEOUT_S
            ).close()
    except OSError:
        return DOWN
    return "ok"


CHECKS: dict[str, Callable[[], str]] = {
    "budget": _budget,
    "mistral": breakers.state,
    "stripe": billing_health.state,
    "database": _database,
    "replica": _replica,
    "broker": _broker,
    "jobs": _jobs,
}
