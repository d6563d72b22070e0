"""A copy of the database that may only be read, and is moments behind: for lists, sums and pages, where there is one.

What decides or writes never reads it. Nor does whoever has just written, and nobody where it is too far behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connection, connections
from django.db.models import Model

from governance import database

log = logging.getLogger(__name__)

ALIAS = "replica"
# How often it is looked at, in each process that reads it.
LOOK_S = 2.0
# Places of the primary's log that are remembered until the replica has come there: half an hour.
PLACES = 900
OK, LAGGING, DOWN = "ok", "lagging", "down"

# What calls and acts leave behind. Not whose a key is, what a model costs or which rules there are: a process keeps
# some of that once it has read it, and decides by it.
HISTORY = frozenset(
    f"governance.{model}"
    for model in (
        *("spendentry", "spendrollup", "reservation", "refusedcall"),
        *("budgetwindow", "budgetevent", "auditentry"),
    )
)


@dataclass(slots=True)
class ReplicaReading:
    """What a request reads while it may read the replica. `is_used`: something was, or was tried."""

    is_allowed: bool = True
    is_used: bool = False


_reading: ContextVar[ReplicaReading | None] = ContextVar("replica_reading", default=None)


@contextmanager
def reading() -> Iterator[ReplicaReading]:
    """Within it history is read from the replica."""
    found = ReplicaReading()
    token = _reading.set(found)
    try:
        yield found
    finally:
        _reading.reset(token)


def read_primary() -> None:
    """The rest of what this request reads is as new as there is."""
    if found := _reading.get():
        found.is_allowed = False


class Router:
    """DATABASE_ROUTERS, where there is a replica. It always names one: else Django asks where a row was read before."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        found = _reading.get()
        if found is None or not found.is_allowed or model._meta.label_lower not in HISTORY:
            return DEFAULT_DB_ALIAS
        if connection.in_atomic_block:
            # It may go on to write by what it reads.
            return DEFAULT_DB_ALIAS
        found.is_used = True
        return ALIAS

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        return DEFAULT_DB_ALIAS

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool:
        return True

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == DEFAULT_DB_ALIAS


class Behind:
    """How far the replica is behind, from looks at both databases' places in the log.

    No clock of theirs counts: what the primary had written when a look began is in the replica once it has come to that
    place, whether anything else was written since or not.
    """

    def __init__(self) -> None:
        self._places: deque[tuple[int, float]] = deque(maxlen=PLACES)
        # What was committed before that moment is in the replica.
        self._has_all_until_s = -inf

    def note(self, *, began_s: float, written: int, replayed: int) -> None:
        self._places.append((written, began_s))
        while self._places and self._places[0][0] <= replayed:
            self._has_all_until_s = self._places.popleft()[1]

    def forget(self) -> None:
        """A replica that comes back may be another one."""
        self._places.clear()
        self._has_all_until_s = -inf

    def seconds(self, now_s: float) -> float:
        """Also where nobody looks any more: then it grows."""
        return now_s - self._has_all_until_s


class NotItsReplica(Exception):
    """DATABASE_REPLICA_URL names a server that is no copy of DATABASE_URL's."""


class ReplicaWatch:
    """Looks at the replica every few seconds, in a thread of its own, from the first time that somebody asks on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._has_looked, self._is_over = threading.Event(), threading.Event()
        self._behind = Behind()
        self._is_away = False
        self._told = OK

    @property
    def has_begun(self) -> bool:
        return self._thread is not None

    def may_be_read(self) -> bool:
        """At once. No until it has been looked at."""
        self._begin()
        return self.state() == OK

    def state(self) -> str:
        if self._behind.seconds(time.monotonic()) <= settings.REPLICA_MAX_LAG_S:
            return OK
        return DOWN if self._is_away else LAGGING

    def known_state(self) -> str:
        """For whoever asks how it is: waits for the first look, as long as connecting takes at most."""
        self._begin()
        self._has_looked.wait(LOOK_S)
        return self.state()

    def behind_s(self) -> float:
        return self._behind.seconds(time.monotonic())

    def failed(self) -> None:
        """Somebody could not read it: nobody does until the next look."""
        with self._lock:
            self._behind.forget()
            self._is_away = True

    def end(self) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join(LOOK_S)

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="replica-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        for alias in (DEFAULT_DB_ALIAS, ALIAS):
            database.keep_own(alias)
        while not self._is_over.is_set():
            self._look()
            self._has_looked.set()
            self._tell()
            self._is_over.wait(LOOK_S)
        connections.close_all()

    def _look(self) -> None:
        try:
            began_s = time.monotonic()
            written, replayed = _places()
        except (DatabaseError, NotItsReplica) as error:
            log.debug("the replica cannot be looked at", exc_info=True)
            connections.close_all()
            self.failed()
            if isinstance(error, NotItsReplica) and self._told != DOWN:
                log.error("%s", error)
        else:
            with self._lock:
                self._is_away = False
                self._behind.note(began_s=began_s, written=written, replayed=replayed)

    def _tell(self) -> None:
        state = self.state()
        if state != self._told:
            words = "the replica is read" if state == OK else "the primary is read in place of the replica"
            log.log(logging.INFO if state == OK else logging.WARNING, "%s: it is %s", words, state)
        self._told = state


def _places() -> tuple[int, int]:
    """(bytes of the log that the primary has written, bytes that the replica has replayed).

    Raises DatabaseError, NotItsReplica.
    """
    which = "current_database(), (SELECT system_identifier FROM pg_control_system())"
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute(f"SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), {which}")
        written, *primary = cursor.fetchone()
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(f"SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), {which}, pg_is_in_recovery()")
        replayed, *copy, is_standby = cursor.fetchone()
    if not is_standby or copy != primary:
        raise NotItsReplica("DATABASE_REPLICA_URL is no streaming replica of DATABASE_URL's database: it is not read.")
    return int(written), int(replayed)


watch = ReplicaWatch()
