"""Histograms of model calls for Prometheus, kept in files that all processes of a machine share.

A call writes none of them: what is observed is kept in memory and added to the files twice a second, before a scrape of
this process, and at its end. One that is killed takes the last half second along.

Names and buckets follow OpenTelemetry's conventions for generative AI (gen_ai.client.token.usage,
gen_ai.client.operation.duration). Labels are bounded: models are those of the catalogue.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path

from django.conf import settings
from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from llm.catalogue import snapshot
from llm.rules.breakers import Phase
from llm.state import breakers
from llm.state.telemetry import Attempt

log = logging.getLogger(__name__)

OTHER = "other"
WRITTEN_EVERY_S = 0.5
_TOKENS = tuple(4**power for power in range(14))
_SECONDS = tuple(0.01 * 2**power for power in range(14))
_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model")


@cache
def _tokens() -> Histogram:
    return Histogram(
        "gen_ai_client_token_usage",
        "Tokens of a call, as the provider counted them.",
        (*_LABELS, "gen_ai_token_type"),
        buckets=_TOKENS,
        registry=None,
    )


@cache
def _duration() -> Histogram:
    return Histogram(
        "gen_ai_client_operation_duration_seconds",
        "Seconds from sending a call on until its answer had ended.",
        (*_LABELS, "error_type"),
        buckets=_SECONDS,
        registry=None,
    )


@cache
def _first_byte() -> Histogram:
    return Histogram(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        "Seconds from sending a streaming call on until its first bytes.",
        _LABELS,
        buckets=_SECONDS,
        registry=None,
    )


@cache
def _cost() -> Counter:
    return Counter(
        "spend_governor_charged_dollars", "Dollars charged, estimates included.", (*_LABELS, "certainty"), registry=None
    )


class _Observed:
    """What was observed and is in no file yet. Observed by the event loop, written by whoever scrapes as well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[Callable[[], Histogram], tuple[str, ...]], list[float]] = {}
        self._charged_nanos: Counts[tuple[str, ...]] = Counts()

    def add(self, attempt: Attempt) -> None:
        labels = (attempt.operation, attempt.provider_name, _bounded(attempt.model_served))
        with self._lock:
            self._note(_duration, (*labels, attempt.error), attempt.duration_s)
            if attempt.streamed and attempt.first_byte_s is not None:
                self._note(_first_byte, labels, attempt.first_byte_s)
            if attempt.certainty == "confirmed":
                self._note(_tokens, (*labels, "input"), attempt.input_tokens)
                self._note(_tokens, (*labels, "output"), attempt.output_tokens)
            if attempt.certainty:
                self._charged_nanos[*labels, attempt.certainty] += attempt.cost_nanos

    def _note(self, histogram: Callable[[], Histogram], labels: tuple[str, ...], value: float) -> None:
        self._values.setdefault((histogram, labels), []).append(value)

    def write(self) -> None:
        with self._lock:
            values, self._values = self._values, {}
            charged_nanos, self._charged_nanos = self._charged_nanos, Counts()
        for (histogram, labels), found in values.items():
            _add(histogram().labels(*labels), found)
        for labels, nanos in charged_nanos.items():
            # Prometheus has no other numbers than floats.
            _cost().labels(*labels).inc(nanos / 1e9)


def _add(histogram: Histogram, values: list[float]) -> None:
    """As `Histogram.observe` of each; that writes its file twice for each."""
    histogram._sum.inc(sum(values))
    places = Counts(bisect_left(histogram._upper_bounds, value) for value in values)
    for place, count in places.items():
        histogram._buckets[place].inc(count)


_observed = _Observed()


def observe(attempt: Attempt) -> None:
    """An observer of `llm.state.telemetry`."""
    _observed.add(attempt)


def write() -> None:
    """Add what was observed to the files. What cannot be written is lost, and logged."""
    try:
        _observed.write()
    except Exception:
        log.exception("metrics of calls could not be written")


async def keep_written() -> None:
    while True:
        await asyncio.sleep(WRITTEN_EVERY_S)
        write()


def collect(now: datetime) -> Iterator[Metric]:
    """The figures of all processes that ran since the folder was emptied."""
    write()
    yield from _breakers(now)
    if Path(settings.METRICS_DIR).is_dir():
        collector: Collector = MultiProcessCollector(None, path=str(settings.METRICS_DIR))  # type: ignore[no-untyped-call]
        yield from collector.collect()


def _breakers(now: datetime) -> Iterator[Metric]:
    """Of this machine. Names are places of the catalogue's models, so they are few."""
    labels = ["model"]
    not_closed = GaugeMetricFamily(
        "spend_governor_breaker_open", "1 while a model's breaker is open or half open.", labels=labels
    )
    cooling_down = GaugeMetricFamily(
        "spend_governor_model_cooling", "1 while a model cools down because it asked for it.", labels=labels
    )
    openings = CounterMetricFamily(
        "spend_governor_breaker_openings", "How often a model failed so often that its breaker opened.", labels=labels
    )
    for_tenants = GaugeMetricFamily(
        "spend_governor_breaker_tenants", "Tenants that a model is closed to, as their calls alone fail.", labels=labels
    )
    for status in breakers.shared().snapshot(now.timestamp()):
        not_closed.add_metric([status.name], status.phase is not Phase.CLOSED)
        cooling_down.add_metric([status.name], status.cooling_down)
        openings.add_metric([status.name], status.breaker.openings)
        for_tenants.add_metric([status.name], status.tenants)
    yield from (not_closed, cooling_down, openings, for_tenants)


def _bounded(model: str) -> str:
    entry = snapshot.current().resolve(model)
    return OTHER if entry is None else entry.id
