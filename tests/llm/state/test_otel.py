"""What OpenTelemetry's collector is told: spans under the agent's own, and nothing that anybody said."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from governance import request_ids
from llm.gateway.application import gateway
from llm.state import otel
from llm.state.otel import Exporter
from llm.state.otel_lines import LogLine, LogLines
from llm.state.telemetry import EndedCall, Telemetry, TraceSpan
from tests import factories as make
from tests.fakes.collector import Collector, attributes, collecting
from tests.llm.gateway.test_chat import streaming
from tests.product import Product, eventually

TRACE, AGENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
AGENTS = f"00-{TRACE}-{AGENT}-01"
ENDED = EndedCall(
    request_id="r",
    route="/v1/chat/completions",
    status=200,
    action="allow",
    reason="",
    code="",
    tenant="acme",
    agent="invoices",
    user="",
    session="",
    task="",
    key="sg_1",
    model_requested="mistral-large-latest",
    streamed=False,
    client_left=False,
    duration_s=0.1,
    before_s=0.001,
    ended_at=1_780_000_000.0,
    traceparent="",
    attempts=(),
    span=TraceSpan(TRACE, "00f067aa0ba902b7", "", "01"),
)


def is_installed() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture
def extra() -> None:
    """The extra `otel`. Without it these tests are skipped, or fail where REQUIRE_OTEL is set."""
    if is_installed():
        return
    missing = "the extra otel is not installed: make .venv/otel.installed"
    if os.environ.get("REQUIRE_OTEL") == "1":
        pytest.fail(f"{missing}, and REQUIRE_OTEL=1.")
    pytest.skip(missing)


@pytest.fixture
def collector(extra: None, settings: Any) -> Iterator[Collector]:
    with collecting() as collector:
        settings.OTEL_EXPORTER_OTLP_ENDPOINT = collector.url
        yield collector


@pytest.fixture
def told(collector: Collector, product: Product, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporter]:
    """The running product tells the collector."""
    exporter = otel.exporter()
    assert exporter is not None
    exporter.open()
    monkeypatch.setattr(gateway, "telemetry", Telemetry([], calls=[exporter.put], traces=True))
    make.budget("1.00")
    yield exporter
    exporter.close()


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    numbers: list[int] = []
    monkeypatch.setattr("llm.state.metrics.dropped", lambda of, number: of == "otel" and numbers.append(number))
    return numbers


def test_spans_are_under_the_agent_s_and_the_model_s_under_them(
    product: Product, collector: Collector, told: Exporter
) -> None:
    key, secret = product.key(), "my grandmother's recipe"
    answer = product.chat(key, messages=[{"role": "user", "content": secret}], headers={"traceparent": AGENTS})
    assert eventually(lambda: len(collector.spans) == 2)
    server, client = sorted(collector.spans, key=lambda span: span.kind)
    assert (server.name, server.kind, client.kind) == ("POST /v1/chat/completions", 2, 3)
    assert client.name == "chat mistral-large-latest"
    assert {server.trace_id.hex(), client.trace_id.hex()} == {TRACE}
    assert server.parent_span_id.hex() == AGENT
    assert client.parent_span_id == server.span_id
    # And the model's API is told of the span that its work is part of.
    assert product.sandbox.requests[-1].headers["traceparent"] == f"00-{TRACE}-{client.span_id.hex()}-01"
    said = attributes(client)
    usage = answer.json()["usage"]
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "mistral_ai"
    assert said["gen_ai.request.model"] == "mistral-large-latest"
    assert said["gen_ai.agent.id"] == "invoices"
    assert said["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert said["spend_governor.cost.usd"] == answer.headers["x-request-cost-usd"]
    whole = attributes(server)
    assert whole["spend_governor.request.id"] == answer.headers["x-request-id"]
    assert (whole["http.response.status_code"], whole["spend_governor.decision"]) == (200, "allow")
    assert server.start_time_unix_nano <= client.start_time_unix_nano + 1_000_000
    assert client.end_time_unix_nano <= server.end_time_unix_nano + 1_000_000
    assert collector.resources[0]["service.name"] == "spend-governor"
    for never in (secret, key, answer.json()["choices"][0]["message"]["content"]):
        assert never.encode() not in collector.raw


def test_attempts_refusals_and_streams_are_each_in_their_call(
    product: Product, collector: Collector, told: Exporter
) -> None:
    make.budget("0.000001", scope_type="agent", scope_key="poor")
    key = product.key()
    assert product.chat(product.key(agent="poor"), headers={"traceparent": AGENTS}).status_code == 402
    product.sandbox.next("status=503")
    product.chat(key)
    with streaming(product, key) as response:
        response.read()
    assert eventually(lambda: len([span for span in collector.spans if span.kind == 2]) == 3)
    calls = [span for span in collector.spans if span.kind == 2]
    refused, failed, streamed = calls
    under = {call.span_id: [span for span in collector.spans if span.parent_span_id == call.span_id] for call in calls}
    assert under[refused.span_id] == []
    assert attributes(refused)["error.type"] == "budget_exhausted"
    # A refusal is the caller's affair: no error of this server.
    assert refused.status.code == 0
    assert under[failed.span_id][0].status.code == 2
    assert len(under[streamed.span_id]) == 1
    assert len({call.trace_id for call in calls}) == 3
    assert failed.parent_span_id == b""


def test_what_the_agent_does_not_sample_is_not_told_and_still_passed_on(
    product: Product, collector: Collector, told: Exporter, dropped: list[int]
) -> None:
    product.chat(product.key(), headers={"traceparent": AGENTS[:-2] + "00"})
    product.chat(product.key())
    assert eventually(lambda: len(collector.spans) == 2)
    assert {span.trace_id.hex() for span in collector.spans}.isdisjoint({TRACE})
    sent = product.sandbox.requests[-2].headers["traceparent"]
    assert sent.startswith(f"00-{TRACE}-")
    assert sent.endswith("-00")
    assert dropped == []


def test_the_histograms_come_with_the_end(product: Product, collector: Collector, told: Exporter) -> None:
    product.chat(product.key())
    assert eventually(lambda: len(collector.spans) == 2)
    told._meters.force_flush()
    found = {metric.name: metric for metric in collector.metrics}
    assert set(found) == {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"}
    [duration] = found["gen_ai.client.operation.duration"].histogram.data_points
    assert (duration.count, attributes(duration)["gen_ai.operation.name"]) == (1, "chat")
    tokens = found["gen_ai.client.token.usage"].histogram.data_points
    assert {attributes(point)["gen_ai.token.type"] for point in tokens} == {"input", "output"}


def test_lines_of_the_log_are_told_with_the_request_that_they_are_about(
    product: Product, collector: Collector, told: Exporter
) -> None:
    log = logging.getLogger("llm.gateway.application")
    with request_ids.known_as("r-1"):
        try:
            raise ValueError("of no use\n\x1b")
        except ValueError:
            log.exception("request %s failed", "r-1\n")
    log.warning("alone", extra={"fields": {"status": 402}})
    # What tells of the telling is not told.
    logging.getLogger("opentelemetry.exporter").warning("the collector is away")
    assert eventually(lambda: len(collector.lines) >= 2)
    failed, alone = collector.lines
    assert (failed.severity_text, failed.severity_number) == ("ERROR", 17)
    assert failed.body.string_value == "request r-1\\x0a failed"
    said = attributes(failed)
    assert (said["spend_governor.request_id"], said["exception.type"]) == ("r-1", "ValueError")
    assert "of no use" in said["exception.stacktrace"]
    assert attributes(alone) == {"spend_governor.status": 402}


def test_lines_that_are_not_taken_are_counted(
    product: Product, collector: Collector, told: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[tuple[str, int]] = []
    monkeypatch.setattr("llm.state.metrics.dropped", lambda *told: numbers.append(told))
    collector.behave = 400
    logging.getLogger("llm").warning("lost")
    assert eventually(lambda: ("otel_lines", 1) in numbers)


@pytest.mark.parametrize("behaviour", ["hang", 400, 503])
def test_a_collector_that_does_not_take_them_changes_no_call_and_what_it_missed_is_counted(
    product: Product,
    collector: Collector,
    told: Exporter,
    dropped: list[int],
    behaviour: Any,
) -> None:
    collector.behave = behaviour
    began_s = time.monotonic()
    assert product.chat(product.key()).status_code == 200
    took_s = time.monotonic() - began_s
    collector.go_on.set()
    assert eventually(lambda: sum(dropped) == 1, within_s=15)
    assert took_s < 5
    collector.behave = 200
    assert product.chat(product.key()).status_code == 200
    assert eventually(lambda: len(collector.spans) == 2, within_s=15)
    assert sum(dropped) == 1


def test_a_name_that_is_no_unicode_loses_nobody_s_spans(collector: Collector) -> None:
    exporter = otel.exporter()
    assert exporter is not None
    exporter.open()
    exporter._take([replace(ENDED, user="\ud800", code="\ud800" * 5_000), ENDED, replace(ENDED, tenant="")])
    assert len(collector.spans) == 2
    exporter._lines._take([LogLine("llm", 30, "WARNING", 0.0, "x", {"spend_governor.agent": "\ud800"})])
    assert len(collector.lines) == 1
    exporter.close()


def test_a_line_keeps_nothing_alive_but_its_words() -> None:
    lines: list[LogLine] = []
    handler = LogLines(lines.append)
    try:
        raise ValueError("a body")
    except ValueError:
        handler.handle(logging.LogRecord("llm", 40, "", 1, "\ud800 %s", ("said",), sys.exc_info()))
    [line] = lines
    assert "said" in line.body
    assert all(isinstance(value, str) for value in line.attributes.values())


def test_the_end_waits_for_no_collector_that_hangs(
    product: Product, collector: Collector, told: Exporter, dropped: list[int]
) -> None:
    collector.behave = "hang"
    told.put(ENDED)
    began_s = time.monotonic()
    told.close()
    assert time.monotonic() - began_s < otel.CLOSE_TIMEOUT_S + 2


def test_without_a_collector_nobody_is_told(settings: Any) -> None:
    settings.OTEL_EXPORTER_OTLP_ENDPOINT = ""
    assert otel.exporter() is None


def test_a_collector_without_the_extra_stops_the_start(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise ImportError("No module named 'opentelemetry.sdk'")

    settings.OTEL_EXPORTER_OTLP_ENDPOINT = "http://127.0.0.1:4318"
    monkeypatch.setattr(otel, "Exporter", missing)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'spend-governor\[otel\]'"):
        otel.exporter()


@pytest.mark.parametrize(
    "header",
    ["", f"00-{'0' * 32}-{AGENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{AGENT}-01"],
    ids=["none", "no trace", "no span", "no version"],
)
def test_what_names_no_span_begins_a_trace(header: str) -> None:
    span = TraceSpan.under(header)
    assert (span.parent_id, span.flags) == ("", "01")
    assert TRACE not in span.traceparent
    assert len(span.traceparent) == len(AGENTS)


def test_a_later_version_of_the_header_is_read_as_far_as_it_is_known() -> None:
    span = TraceSpan.under(f"01-{TRACE}-{AGENT}-00-more")
    assert (span.trace_id, span.parent_id, span.flags) == (TRACE, AGENT, "00")
    child = span.child()
    assert (child.trace_id, child.parent_id, child.flags) == (TRACE, span.span_id, "00")
    assert child.span_id != span.span_id
