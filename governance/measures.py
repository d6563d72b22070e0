"""Figures of this process, in files that all processes of a machine share: whoever is scraped tells those of all.

To note one is an entry of a list. `write` adds what was noted to the files: twice a second while calls are served, and
at a process's end; one that is killed takes the last half second along.
"""

from __future__ import annotations

import logging
import os
import threading
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from prometheus_client import Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from governance import replica

log = logging.getLogger(__name__)

PREFIX = "spend_governor"
# From a tenth of a millisecond, and from ten milliseconds.
SHORT_S = tuple(0.0001 * 4**power for power in range(9))
LONG_S = tuple(0.01 * 2**power for power in range(14))
# Gauges of processes that have ended are in the files of these kinds, named by the process.
OF_THE_LIVING = "gauge_live*_*.db"

# Made when first used: settings say where files are.
Histograms = Callable[[], Histogram]
Counters = Callable[[], Counter]


class _Noted:
    """What was noted and is in no file yet. Noted by the event loop and others, written by whoever scrapes as well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[Histograms, tuple[str, ...]], list[float]] = {}
        self._counts: dict[tuple[Counters, tuple[str, ...]], float] = {}

    def observe(self, histogram: Histograms, labels: tuple[str, ...], value: float) -> None:
        with self._lock:
            self._values.setdefault((histogram, labels), []).append(value)

    def count(self, counter: Counters, labels: tuple[str, ...], amount: float) -> None:
        with self._lock:
            key = counter, labels
            self._counts[key] = self._counts.get(key, 0) + amount

    def write(self) -> None:
        with self._lock:
            values, self._values = self._values, {}
            counts, self._counts = self._counts, {}
        for (histogram, labels), found in values.items():
            made = histogram()
            add(made.labels(*labels) if labels else made, found)
        for (counter, labels), amount in counts.items():
            count = counter()
            (count.labels(*labels) if labels else count).inc(amount)


def add(histogram: Histogram, values: list[float]) -> None:
    """As `Histogram.observe` of each; that writes its file twice for each."""
    histogram._sum.inc(sum(values))
    places = Counts(bisect_left(histogram._upper_bounds, value) for value in values)
    for place, count in places.items():
        histogram._buckets[place].inc(count)


_noted = _Noted()
observe = _noted.observe


def count(counter: Counters, labels: tuple[str, ...] = (), amount: float = 1) -> None:
    _noted.count(counter, labels, amount)


def write() -> None:
    """Add what was noted to the files. What cannot be written is lost, and logged."""
    try:
        _noted.write()
    except Exception:
        log.exception("figures could not be written")


def collect() -> Iterator[Metric]:
    """The figures of all processes of this machine that ran since the folder was emptied."""
    write()
    folder = Path(settings.METRICS_DIR)
    if folder.is_dir():
        _forget_dead(folder)
        collector: Collector = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]
        yield from collector.collect()


def _forget_dead(folder: Path) -> None:
    for file in folder.glob(OF_THE_LIVING):
        process_id = file.stem.rpartition("_")[2]
        if process_id.isdecimal() and not _lives(int(process_id)):
            file.unlink(missing_ok=True)


def _lives(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@cache
def level(name: str, explained: str, *labels: str, of_all: str = "livesum") -> Gauge:
    """A gauge: the sum of what the living processes set it to, or their `livemax` or `livemin`."""
    return Gauge(f"{PREFIX}_{name}", explained, labels, registry=None, multiprocess_mode=of_all)  # type: ignore[arg-type]


@cache
def counter(name: str, explained: str, *labels: str) -> Counter:
    return Counter(f"{PREFIX}_{name}", explained, labels, registry=None)


class Sampler:
    """Sets the gauges of this process, whose `role` is web or worker. It is asked every few seconds."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._told: dict[str, float] = {}

    def sample(self) -> None:
        """What cannot be read is left as it was, and logged."""
        try:
            self._process()
            self._pool()
            self._replica()
        except Exception:
            log.exception("this process's own figures could not be read")

    def _process(self) -> None:
        found = {metric.name: metric.samples[0].value for metric in ProcessCollector(registry=None).collect()}
        level("processes", "Processes that run.", "role").labels(self._role).set(1)
        if not found:
            # No Linux: nobody tells.
            return
        memory = level("process_resident_memory_bytes", "Memory of the processes of a role, together.", "role")
        memory.labels(self._role).set(found["process_resident_memory_bytes"])
        files = level("process_open_fds", "Open files of the process that has most.", "role", of_all="livemax")
        files.labels(self._role).set(found["process_open_fds"])
        most = level("process_max_fds", "Files that a process may open.", "role", of_all="livemin")
        most.labels(self._role).set(found["process_max_fds"])
        taken = counter("process_cpu_seconds", "Seconds of a processor that the processes of a role took.", "role")
        taken.labels(self._role).inc(self._more("cpu", found["process_cpu_seconds"]))

    def _pool(self) -> None:
        """The connections to PostgreSQL that requests share; SQLite has no pool."""
        pool: Any = getattr(connection, "pool", None)
        if pool is None:
            return
        found = pool.get_stats()
        connections = level("pool_connections", "Connections to the database in the processes' pools.", "state")
        connections.labels("idle").set(found.get("pool_available", 0))
        connections.labels("used").set(found.get("pool_size", 0) - found.get("pool_available", 0))
        level("pool_waiting", "Threads that wait for a connection.").set(found.get("requests_waiting", 0))
        for name, explained, told, unit in (
            ("pool_requests", "Times that a connection was taken from a pool.", "requests_num", 1),
            ("pool_queued", "Times that somebody had to wait for one.", "requests_queued", 1),
            ("pool_wait_seconds", "Seconds that these waited together.", "requests_wait_ms", 1000),
            ("pool_errors", "Times that nobody got one in time.", "requests_errors", 1),
        ):
            counter(name, explained).inc(self._more(name, found.get(told, 0) / unit))

    def _replica(self) -> None:
        if replica.watch.has_begun:
            level("replica_lag_seconds", "How far behind the replica is, at most.", of_all="livemax").set(
                replica.watch.behind_s()
            )

    def _more(self, name: str, value: float) -> float:
        """What was added since it was told last; all of it where it began anew."""
        before = self._told.get(name, 0.0)
        self._told[name] = value
        return value - before if value >= before else value
