"""What time it is for the ledger: the database's, which all processes share.

Callers say `now` by their own clock; a batch asks the database along with what it reads anyway, and puts `now` right
by the difference. So a process whose clock is wrong opens and closes no window at the wrong time, and lets nothing flow
off twice. Where the database's answer is between two looks at our clock there is no difference that anybody could see,
and `now` is as it was given: a test's stands for the database's. It goes on while a batch waits for its locks, or a
period that ended meanwhile would be opened a second time. On SQLite there is one machine, and one clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from django.utils import timezone

from governance.ledger import sql_dialect as words

log = logging.getLogger(__name__)

T = TypeVar("T")
NONE = timedelta(0)
# A process that differs by more says so, and no oftener than once in a while.
TOLERANCE = timedelta(seconds=1)
SAID_EVERY_S = 60.0
# A look that took no longer tells the difference, if there is one.
QUICK = timedelta(milliseconds=100)
# Microseconds since 1970, in a column of whole numbers.
COLUMN = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS bigint)"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Known:
    """What this process knows of its clock."""

    ahead = NONE
    said_at = float("-inf")


class RunningMoment:
    """A moment that a caller says is now, which goes on while that call waits for others."""

    def __init__(self, said: datetime) -> None:
        self._said, self._since_s = said, time.monotonic()

    def now(self) -> datetime:
        """By the database's clock, as it was asked last."""
        return self._said + passed(self._since_s) + ahead()


def passed(since_s: float) -> timedelta:
    """What time has passed since a second of the monotonic clock."""
    return timedelta(seconds=time.monotonic() - since_s)


def ahead() -> timedelta:
    """How far the database's clock was ahead of this process's when it was asked last; below zero, behind it."""
    return _Known.ahead


def differs() -> bool:
    return abs(_Known.ahead) > TOLERANCE


def asked(ask: Callable[[], T], told: Callable[[T], int | None]) -> T:
    """What `ask` answers; `told` finds in it the database's clock, in microseconds, where that is part of it."""
    before = timezone.now()
    answer = ask()
    micros = told(answer)
    if micros is not None:
        told_at = _EPOCH + timedelta(microseconds=micros)
        _note(measured(before, told_at, timezone.now(), known=_Known.ahead))
    return answer


def ask() -> timedelta:
    """Ask the database alone, where nothing else is to be read; how far it is ahead."""
    if words.is_postgres():
        asked(lambda: words.select(f"SELECT {COLUMN}", []), lambda rows: int(rows[0][0]))
    return _Known.ahead


def now() -> datetime:
    """The time by the clock that decides, which is asked: for what is no batch and compares many processes' times."""
    ahead = ask()
    return timezone.now() + ahead


def known_now() -> datetime:
    """The same as it was asked last, which costs nothing."""
    return timezone.now() + ahead()


def measured(before: datetime, told: datetime, after: datetime, *, known: timedelta = NONE) -> timedelta:
    """How far a clock is ahead that said `told` between two moments of ours; `known` is what was thought before.

    A look that took long tells little: it only corrects what it contradicts. No difference is assumed where none shows.
    """
    least, most = told - after, told - before
    if least <= NONE <= most and most - least <= QUICK:
        return NONE
    return max(least, min(most, known))


def _note(found: timedelta) -> None:
    _Known.ahead = found
    if differs() and time.monotonic() - _Known.said_at >= SAID_EVERY_S:
        _Known.said_at = time.monotonic()
        log.warning(
            "this machine's clock is %+.1f s off the database's, which decides: mend it", -found.total_seconds()
        )


def by_database(now: datetime) -> datetime:
    """A moment that this process's clock says is now, by the database's, which decides when what is kept takes hold.

    For what is compared and kept, never to be passed to the ledger: it puts `now` right itself.
    """
    return now + ask()
