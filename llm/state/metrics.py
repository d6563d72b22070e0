"""Histograms of model calls for Prometheus, kept in files that all processes of a machine share.

Names and buckets follow OpenTelemetry's conventions for generative AI (gen_ai.client.token.usage,
gen_ai.client.operation.duration). Labels are bounded: models are those of the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
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

OTHER = "other"
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


def observe(attempt: Attempt) -> None:
    """An observer of `llm.state.telemetry`."""
    labels = (attempt.operation, attempt.provider_name, _bounded(attempt.model_served))
    _duration().labels(*labels, attempt.error).observe(attempt.duration_s)
    if attempt.streamed and attempt.first_byte_s is not None:
        _first_byte().labels(*labels).observe(attempt.first_byte_s)
    if attempt.certainty == "confirmed":
        _tokens().labels(*labels, "input").observe(attempt.input_tokens)
        _tokens().labels(*labels, "output").observe(attempt.output_tokens)
    if attempt.certainty:
        # Prometheus has no other numbers than floats.
        _cost().labels(*labels, attempt.certainty).inc(attempt.cost_nanos / 1e9)


def collect(now: datetime) -> Iterator[Metric]:
    """The figures of all processes that ran since the folder was emptied."""
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
