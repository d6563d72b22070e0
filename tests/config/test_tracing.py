"""What OpenTelemetry's collector is told of the control plane and of jobs: spans under whoever asked, and no values."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as active
from django.db import connection
from django.test import Client

from billing import tasks as billing_tasks
from config import tracing
from config.celery import app
from governance import tasks
from governance.alerts import outbox
from tests import factories as make
from tests.fakes.collector import Collector, attributes, collecting
from tests.llm.state.test_otel import extra  # noqa: F401 - a fixture
from tests.product import eventually

pytestmark = pytest.mark.django_db
TRACE, ASKER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{ASKER}-01"}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def collector(extra: None, settings: Any) -> Iterator[Collector]:  # noqa: F811
    with collecting() as collector:
        settings.OTEL_EXPORTER_OTLP_ENDPOINT = collector.url
        yield collector
        tracing.close()


def test_a_request_is_a_span_under_its_client_s_with_its_statements_and_none_of_its_values(
    collector: Collector,
) -> None:
    budget, (token, key) = make.budget("1.00"), make.key(role="operator")
    answer = Client().get(f"/api/budgets/{budget.pk}", headers={"authorization": f"Bearer {token}", **PARENT})
    assert answer.status_code == 200
    tracing.close()
    [server] = [span for span in collector.spans if span.kind == 2]
    said = attributes(server)
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, ASKER)
    assert server.name == "GET /api/budgets/<int:id>"
    assert (said["http.response.status_code"], said["http.route"]) == (answer.status_code, "/api/budgets/<int:id>")
    assert said["spend_governor.request.id"] == answer["x-request-id"]
    statements = [span for span in collector.spans if span.kind == 3]
    assert {span.parent_span_id for span in statements} == {server.span_id}
    of_key = next(span for span in statements if span.name == "SELECT governance_apikey")
    assert attributes(of_key)["db.system.name"] == connection.vendor
    assert "%s" in attributes(of_key)["db.query.text"]
    for secret in (token, key.prefix, key.digest):
        assert secret.encode() not in collector.raw


def test_what_nobody_answers_is_a_span_without_its_path(collector: Collector) -> None:
    Client().get("/api/raise-me/secret-of-a-link")
    tracing.close()
    [server] = [span for span in collector.spans if span.kind == 2]
    assert server.trace_id.hex() != TRACE
    assert b"secret-of-a-link" not in collector.raw


def test_a_job_is_a_span_with_its_statements_and_says_of_what_kind_its_failure_was(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.purge_alerts()

    def fails(**_: Any) -> int:
        raise LookupError("of the customer acme")

    monkeypatch.setattr(outbox, "purge", fails)
    with pytest.raises(LookupError):
        tasks.purge_alerts()
    tracing.close()
    went, failed = [span for span in collector.spans if span.kind == 5]
    assert went.name == failed.name == "governance.tasks.purge_alerts"
    assert (went.parent_span_id, went.status.code, failed.status.code) == (b"", 0, 2)
    assert attributes(failed)["error.type"] == "LookupError"
    assert b"of the customer" not in collector.raw
    assert any(
        span.parent_span_id == went.span_id and span.name == "SELECT governance_alertnotice" for span in collector.spans
    )


def test_a_task_is_sent_with_the_span_that_sends_it(collector: Collector) -> None:
    assert tracing.headers_to_send() == {}
    with tracing.of_job("sender", task_id="1", parent=PARENT["traceparent"]):
        sent = tracing.headers_to_send()["traceparent"]
    assert sent.split("-")[1] == TRACE
    assert tracing.headers_to_send() == {}


SENDER = """
import django; django.setup()
from config import tracing
from billing import tasks
with tracing.of_job("sender", task_id="1", parent={parent!r}):
    tasks.process_event.apply_async(("evt_none",), ignore_result=True)
tracing.close()
"""


@pytest.mark.parametrize("broker", ["folders", "redis"])
def test_a_worker_tells_of_a_task_under_whoever_sent_it_and_to_its_last(
    collector: Collector,
    broker: str,
    process_environment: dict[str, str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """The worker of either set-up: threads in one process, and processes of Celery's own."""
    environment = process_environment | {
        "REDIS_URL": request.getfixturevalue("redis_url") if broker == "redis" else "",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    sender = SENDER.format(parent=PARENT["traceparent"])
    subprocess.run([sys.executable, "-c", sender], env=environment, cwd=ROOT, check=True, timeout=60)
    command = [sys.executable, "-m", "celery", "-A", "config", "worker", "--without-mingle"]
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        assert eventually(lambda: len(jobs(collector)) == 2, within_s=60), (tmp_path / "log").read_text()
    finally:
        worker.terminate()
        assert worker.wait(timeout=60) == 0
    sender_span, task = sorted(jobs(collector), key=lambda span: span.start_time_unix_nano)
    assert task.name == "billing.tasks.process_event"
    assert (task.trace_id.hex(), task.parent_span_id) == (TRACE, sender_span.span_id)


def jobs(collector: Collector) -> list[Any]:
    return [span for span in collector.spans if span.kind == 5]


def test_many_statements_are_counted_and_not_told(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MOST_STATEMENTS", 2)
    tasks.look_at_conditions()
    tracing.close()
    [job] = jobs(collector)
    told = [span for span in collector.spans if span.kind == 3]
    assert len(told) == 2
    assert attributes(job)["spend_governor.statements"] > 2


def test_a_collector_that_takes_nothing_changes_nothing_and_what_it_missed_is_counted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[tuple[str, int]] = []
    monkeypatch.setattr("llm.state.metrics.dropped", lambda of, number: dropped.append((of, number)))
    collector.behave = 400
    began = time.monotonic()
    assert Client().get("/api/health").status_code == 200
    assert time.monotonic() - began < 5
    tracing.close()
    assert dropped
    assert {of for of, _ in dropped} == {"otel_spans"}


def test_what_a_worker_logs_is_told_once(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("governance.tasks")
    monkeypatch.setattr(tasks.purge_alerts, "run", lambda: log.warning("the disk is slow"))
    # In a web process, which tells its own lines.
    tasks.purge_alerts()
    assert tracing._lines is None
    tasks.purge_alerts.apply()
    tasks.purge_alerts.apply()
    tracing.close()
    assert [line.body.string_value for line in collector.lines] == ["the disk is slow"] * 2
    assert "spend_governor.request_id" in attributes(collector.lines[0])


def test_a_fork_of_a_worker_tells_its_lines_by_itself(collector: Collector) -> None:
    tracing.tell_lines()
    assert tracing._lines is not None
    _, inherited = tracing._lines
    tracing._lines = 0, inherited
    tracing.tell_lines()
    logging.getLogger("governance").warning("once")
    tracing.close()
    inherited.close()
    assert [line.body.string_value for line in collector.lines] == ["once"]


def test_without_a_collector_there_is_no_span(settings: Any) -> None:
    settings.OTEL_EXPORTER_OTLP_ENDPOINT = ""
    assert Client().get("/api/health").status_code == 200
    tasks.purge_alerts()
    assert tracing._tracing is None
    assert "config.middleware.TracingMiddleware" in active.MIDDLEWARE
    assert billing_tasks.process_event.name in app.tasks


def test_a_worker_without_the_extra_does_its_jobs(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.OTEL_EXPORTER_OTLP_ENDPOINT = "http://127.0.0.1:9"
    monkeypatch.setattr(tracing, "_cannot", False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    tasks.purge_alerts()
    assert tracing._tracing is None
    assert tracing._cannot
