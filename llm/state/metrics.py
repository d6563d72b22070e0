"""Histograms of model calls for Prometheus, kept in files that all processes of a machine share.

A call writes none of them: `governance.measures` keeps what is observed and adds it to the files.

Names and buckets follow OpenTelemetry's conventions for generative AI (gen_ai.client.token.usage,
gen_ai.client.operation.duration). Labels are bounded: models are those of the catalogue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from governance import measures
from llm.catalogue import snapshot
from llm.rules.breakers import Phase
from llm.state import breakers
from llm.state.telemetry import Attempt, EndedCall

OTHER = "other"
WRITTEN_EVERY_S = 0.5
# Of these rounds.
SAMPLED_EVERY = 10
MOST_CODES = 200
_TOKENS = tuple(4**power for power in range(14))
_SECONDS = measures.LONG_S
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


@cache
def _decisions() -> Counter:
    return measures.counter(
        "decisions", "Calls of models that ended, by what was decided; a replay was decided before.", "action"
    )


@cache
def _refusals() -> Counter:
    return measures.counter("refusals", "Calls of models that were refused, or failed, by the code they got.", "reason")


@cache
def _overhead() -> Histogram:
    return Histogram(
        "spend_governor_call_overhead_seconds",
        "Seconds from a call's arrival until it was sent on to its model the first time.",
        buckets=measures.SHORT_S,
        registry=None,
    )


@cache
def _dropped() -> Counter:
    return measures.counter("telemetry_dropped", "What there was no room for, or nobody took.", "of")


@cache
def _http() -> Histogram:
    return Histogram(
        "spend_governor_http_request_duration_seconds",
        "Seconds until an answer had ended, streams included.",
        ("plane", "status"),
        buckets=measures.LONG_S,
        registry=None,
    )


def observe(attempt: Attempt) -> None:
    """An observer of `llm.state.telemetry`."""
    labels = (attempt.operation, attempt.provider_name, _bounded(attempt.model_served))
    measures.observe(_duration, (*labels, attempt.error), attempt.duration_s)
    if attempt.streamed and attempt.first_byte_s is not None:
        measures.observe(_first_byte, labels, attempt.first_byte_s)
    if attempt.certainty == "confirmed":
        measures.observe(_tokens, (*labels, "input"), attempt.input_tokens)
        measures.observe(_tokens, (*labels, "output"), attempt.output_tokens)
    if attempt.certainty:
        # Written as dollars, for Prometheus has no other numbers than floats.
        measures.count(_cost, (*labels, attempt.certainty), attempt.cost_nanos / 1e9)


def observe_call(call: EndedCall) -> None:
    """An observer of whole calls."""
    measures.count(_decisions, (call.action,))
    if call.code:
        measures.count(_refusals, (_few.fitting(call.code),))
    if call.before_s is not None:
        measures.observe(_overhead, (), call.before_s)


def observe_request(plane: str, status: int, took_s: float) -> None:
    """One HTTP request of whichever plane; `status` 0: its client left before it had an answer."""
    measures.observe(_http, (plane, str(status) if 100 <= status < 600 else "none"), took_s)


def dropped(what: str, number: int) -> None:
    """Lines or spans (`log`, `otel`) that were not told to whom they were for."""
    measures.count(_dropped, (what,), number)


class _Few:
    """Codes are words of our own code, so they are few; should they not be, the rest is one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def fitting(self, code: str) -> str:
        if code not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(code)
        return code


_few = _Few(MOST_CODES)
write = measures.write


async def keep_written(levels: Callable[[], None]) -> None:
    """Write twice a second; every few seconds set the gauges of this process, and those that `levels` sets."""
    sampler, rounds = measures.Sampler("web"), 0
    while True:
        if rounds % SAMPLED_EVERY == 0:
            # Lists what is open in /proc, which takes long with thousands of streams.
            await asyncio.to_thread(sampler.sample)
            levels()
        rounds += 1
        await asyncio.sleep(WRITTEN_EVERY_S)
        write()


def collect(now: datetime) -> Iterator[Metric]:
    """The figures of all processes that ran since the folder was emptied."""
    yield from _breakers(now)
    yield from measures.collect()


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
