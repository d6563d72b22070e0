"""What calls add to the files that all processes' figures are read from, and when."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from governance import measures
from llm.state import metrics
from tests import factories as make
from tests.llm.state.test_telemetry import ATTEMPT
from tests.product import Product, eventually

pytestmark = pytest.mark.django_db
LABELS = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "mistral_ai",
    "gen_ai_response_model": "mistral-large-2512",
}
SECONDS = "gen_ai_client_operation_duration_seconds"
TOKENS = "gen_ai_client_token_usage"
CHARGED = "spend_governor_charged_dollars_total"


class Figures:
    """What the files of this process hold, beyond what they held before; others may run tests beside it."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._before: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self._before = self._read()

    def _read(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        files = map(str, self._folder.glob(f"*_{os.getpid()}.db"))
        samples = [sample for metric in MultiProcessCollector.merge(files) for sample in metric.samples]
        return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}

    def more(self, name: str, **labels: str) -> float:
        key = f"spend_governor_{name}", frozenset(labels.items())
        return self._read().get(key, 0.0) - self._before.get(key, 0.0)

    def level(self, name: str, **labels: str) -> float:
        return self._read()[f"spend_governor_{name}", frozenset(labels.items())]

    def __call__(self, name: str, **labels: str) -> float:
        key = name, frozenset((LABELS | labels).items())
        return self._read().get(key, 0.0) - self._before.get(key, 0.0)


@pytest.fixture
def figures(settings: Any) -> Iterator[Figures]:
    # What other tests left to be written is no news here.
    metrics.write()
    yield Figures(str(settings.METRICS_DIR))
    metrics.write()


def test_calls_are_written_together_and_once(figures: Figures) -> None:
    for _ in range(3):
        metrics.observe(ATTEMPT)
    metrics.observe(replace(ATTEMPT, streamed=True, certainty="estimated", error="upstream_cut", duration_s=70.0))
    metrics.observe(replace(ATTEMPT, certainty="", cost_nanos=0, error="status"))
    assert figures(f"{SECONDS}_count", error_type="") == 0

    metrics.write()
    metrics.write()

    assert figures(f"{SECONDS}_count", error_type="") == 3
    assert figures(f"{SECONDS}_sum", error_type="") == pytest.approx(1.5)
    assert figures(f"{SECONDS}_bucket", error_type="", le="0.32") == 0
    assert figures(f"{SECONDS}_bucket", error_type="", le="0.64") == 3
    assert figures(f"{SECONDS}_bucket", error_type="upstream_cut", le="40.96") == 0
    assert figures(f"{SECONDS}_count", error_type="upstream_cut") == 1
    assert figures("gen_ai_client_operation_time_to_first_chunk_seconds_count") == 1
    assert figures(f"{TOKENS}_sum", gen_ai_token_type="input") == 300
    assert figures(f"{TOKENS}_sum", gen_ai_token_type="output") == 60
    assert figures(CHARGED, certainty="confirmed") == pytest.approx(3 * 0.000044)
    assert figures(CHARGED, certainty="estimated") == pytest.approx(0.000044)


@pytest.mark.parametrize("value", [0.0, 0.005, 0.01, 0.0100001, 0.5, 0.64, 81.92, 10_000.0])
def test_many_values_fall_into_the_buckets_that_each_would(value: float) -> None:
    """What writes them all at once knows prometheus_client from within."""
    ours, theirs = (
        Histogram(name, "Of a test.", buckets=metrics._SECONDS, registry=None) for name in ("ours", "theirs")
    )
    for _ in range(3):
        theirs.observe(value)
    theirs.observe(1.0)
    measures.add(ours, [value, 1.0, value, value])
    assert buckets_of(ours) == pytest.approx(buckets_of(theirs))


def buckets_of(histogram: Histogram) -> dict[str, float]:
    """What it holds, by the end of a bucket; `sum` and `count` beside them."""
    samples = [sample for metric in histogram.collect() for sample in metric.samples]
    return {
        sample.labels.get("le") or sample.name.partition("_")[2]: sample.value
        for sample in samples
        if not sample.name.endswith("_created")
    }


def test_what_cannot_be_written_is_logged_and_changes_no_call(
    figures: Figures, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    metrics.observe(ATTEMPT)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(measures, "add", full)
        metrics.write()
    assert "figures could not be written" in caplog.text
    metrics.observe(ATTEMPT)
    metrics.write()
    assert figures(f"{SECONDS}_count", error_type="") == 1


def test_a_running_product_writes_what_it_observed_within_a_moment(product: Product, figures: Figures) -> None:
    make.budget("1.00")
    key = product.key()
    for _ in range(3):
        assert product.chat(key).status_code == 200
    assert eventually(lambda: figures(f"{SECONDS}_count", error_type="") == 3)


def test_calls_requests_and_batches_of_a_running_product_are_told(product: Product, figures: Figures) -> None:
    make.budget("1.00")
    make.budget("0.000001", scope_type="agent", scope_key="poor")
    key = product.key()
    assert product.chat(key).status_code == 200
    assert product.chat(product.key(agent="poor")).status_code == 402
    product.get("/v1/models", key)
    product.get("/made/up/by/anybody")

    def all_told() -> bool:
        """An answer has come before its request is over."""
        metrics.write()
        return figures.more("http_request_duration_seconds_count", plane="other", status="404") == 1

    assert eventually(all_told)
    assert figures.more("decisions_total", action="allow") == 1
    assert figures.more("decisions_total", action="hard-stop") == 1
    assert figures.more("refusals_total", reason="budget_exhausted") == 1
    assert figures.more("call_overhead_seconds_count") == 1
    assert figures.more("http_request_duration_seconds_count", plane="v1", status="200") == 2
    assert figures.more("http_request_duration_seconds_count", plane="v1", status="402") == 1
    assert figures.more("ledger_batch_operations_sum") >= 3
    assert figures.more("ledger_wait_seconds_count") >= 2
    assert figures.more("ledger_batch_seconds_count") >= 2
    assert figures.level("processes", role="web") == 1
    assert figures.level("process_resident_memory_bytes", role="web") > 10_000_000
    assert figures.level("calls_running") == figures.level("ledger_queue_operations") == 0


def samples(product: Product) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(product.get("/metrics", "scrape").text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def test_gauges_of_processes_that_ended_are_forgotten(settings: Any, tmp_path: Path) -> None:
    settings.METRICS_DIR = tmp_path
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone, living, odd = (tmp_path / f"gauge_livesum_{name}.db" for name in (ended.pid, os.getpid(), "x"))
    for file in (gone, living, odd):
        file.touch()
    measures._forget_dead(tmp_path)
    assert not gone.exists()
    assert living.exists()
    assert odd.exists()


def test_codes_are_few_whatever_comes() -> None:
    few = metrics._Few(2)
    assert [few.fitting(code) for code in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


def test_a_sampler_tells_what_was_added_and_no_more() -> None:
    sampler = measures.Sampler("web")
    assert [sampler._more("cpu", value) for value in (2.0, 5.0, 5.0, 1.0)] == [2.0, 3.0, 0.0, 1.0]


@pytest.mark.postgres_only
def test_the_pool_of_connections_is_told(product: Product, settings: Any) -> None:
    settings.METRICS_TOKEN = "scrape"
    assert eventually(lambda: ("spend_governor_pool_waiting", frozenset()) in samples(product))
    found = samples(product)
    assert found["spend_governor_pool_connections", frozenset({("state", "idle")})] >= 0
    assert found["spend_governor_pool_requests_total", frozenset()] >= 0


def test_what_a_process_cannot_read_of_itself_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def broken(**_: Any) -> Any:
        raise OSError("no /proc")

    monkeypatch.setattr(measures, "ProcessCollector", broken)
    measures.Sampler("web").sample()
    assert "could not be read" in caplog.text
