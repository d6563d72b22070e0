"""Spans of the control plane's requests, of jobs, and of their statements, and workers' logs, for a collector.

Calls of models have spans of their own (`llm.state.otel`), and nothing here is on their way: a transaction of the
ledger serves many calls and is no span. Told are routes and statements with their placeholders, never what stands in
these. A thread sends what waits; what there is no room for, and what the collector does not take, is dropped and
counted.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from governance import request_ids
from llm.state import otel, otel_lines
from llm.state.aside import Aside
from llm.state.telemetry import trace_context

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

TRACEPARENT = "traceparent"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
# Of a request or a job; the others are counted on its span.
MOST_STATEMENTS = 200
LONGEST_STATEMENT = 8_000
_TABLE = re.compile(r'\b(?:FROM|INTO|UPDATE)\s+"?(\w+)')


@contextmanager
def of_request(request: HttpRequest, request_id: str) -> Iterator[Callable[[HttpResponseBase], None]]:
    """A span of a request under the one that its client names; what is yielded takes the answer."""
    method = request.method if request.method in METHODS else "_OTHER"
    attributes = {"http.request.method": method, "spend_governor.request.id": request_id}
    with _within(str(method), "SERVER", attributes, parent=request.headers.get(TRACEPARENT, "")) as span:

        def answered(response: HttpResponseBase) -> None:
            if span is None:
                return
            span.set_attribute("http.response.status_code", response.status_code)
            # A path may hold what opens something: the route alone is told.
            if request.resolver_match is not None:
                route = f"/{request.resolver_match.route}"
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
            if response.status_code >= 500:
                _fail(span, str(response.status_code))

        yield answered


@contextmanager
def of_job(name: str, *, task_id: str, parent: str) -> Iterator[None]:
    """A span of a task that a worker runs, under the one that sent it."""
    attributes = {
        "messaging.system": "celery",
        "messaging.operation.type": "process",
        "messaging.message.id": task_id,
        "celery.task_name": name,
        "spend_governor.request.id": request_ids.current.get(),
    }
    with _within(name, "CONSUMER", attributes, parent=parent):
        yield


def headers_to_send() -> dict[str, str]:
    """What a task is sent with, so that its span is under the one that goes on here."""
    # Beat has no span to tell of.
    if _tracing is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {name: value for name, value in carrier.items() if name == TRACEPARENT}


@contextmanager
def _within(name: str, kind: str, attributes: Mapping[str, str], *, parent: str) -> Iterator[Span | None]:
    tracing = _opened() if settings.OTEL_EXPORTER_OTLP_ENDPOINT else None
    if tracing is None:
        yield None
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({TRACEPARENT: trace_context(parent)}, trace.Context())
    with tracing.span(name, kind, attributes, context) as span:
        statements = _Statements(tracing)
        with connection.execute_wrapper(statements):
            yield span
        if statements.count > MOST_STATEMENTS:
            span.set_attribute("spend_governor.statements", statements.count)


class _Statements:
    """A span for each statement of a request or a job, in its thread."""

    def __init__(self, tracing: _Tracing) -> None:
        self._tracing, self.count = tracing, 0

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        self.count += 1
        if self.count > MOST_STATEMENTS:
            return execute(sql, params, many, context)
        text = str(sql).strip()
        word, table = (text.split(maxsplit=1) or ["?"])[0].upper(), _TABLE.search(text)
        attributes = {
            "db.system.name": connection.vendor,
            "db.operation.name": word,
            "db.query.text": text,
        }
        if table:
            attributes["db.collection.name"] = table[1]
        with self._tracing.span(f"{word} {table[1]}" if table else word, "CLIENT", attributes):
            return execute(sql, params, many, context)


class _Tracing:
    """The official SDK's tracer in one process, and the thread that sends what it made."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SpanExportResult

        base, resource = endpoint.rstrip("/"), _resource()
        self.process_id = os.getpid()
        self._exporter = OTLPSpanExporter(
            endpoint=f"{base}/v1/traces", timeout=otel.EXPORT_TIMEOUT_S, session=otel_lines.session(base)
        )
        self._taken = SpanExportResult.SUCCESS
        self._ended: Aside[Any] = Aside("otel_spans", self._send)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(_handing_to(self._ended.put))
        self._tracer = provider.get_tracer(otel.SCOPE, settings.VERSION)
        self._ended.start()

    @contextmanager
    def span(self, name: str, kind: str, attributes: Mapping[str, str], context: Any = None) -> Iterator[Span]:
        """The current span within; of an exception its type is told, and none of its words."""
        from opentelemetry.trace import SpanKind

        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=SpanKind[kind],
            attributes={key: otel.fit(value, LONGEST_STATEMENT) for key, value in attributes.items()},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                _fail(span, type(error).__qualname__)
                raise

    def close(self) -> None:
        self._ended.close()

    def _send(self, spans: Sequence[Any]) -> None:
        if self._exporter.export(spans) is not self._taken:
            raise otel_lines.NotTaken(f"the collector did not take {len(spans)} spans")


def _resource() -> Any:
    from opentelemetry.sdk.resources import Resource

    return Resource.create({"service.name": settings.OTEL_SERVICE_NAME, "service.version": settings.VERSION})


_tracing: _Tracing | None = None
# What a worker logs, and the process that it is; web processes tell theirs with their calls.
_lines: tuple[int, otel_lines.ToldLines] | None = None
_cannot = False
_opening = threading.Lock()


def _opened() -> _Tracing | None:
    """This process's own; None where the extra is missing, which stops the start of web processes."""
    global _tracing, _cannot
    with _opening:
        # A forked process has the object, and not its thread.
        if not _cannot and (_tracing is None or _tracing.process_id != os.getpid()):
            try:
                _tracing = _Tracing(settings.OTEL_EXPORTER_OTLP_ENDPOINT)
            except ImportError:
                _cannot = True
                log.exception("the extra otel is not installed: no job is told to OTEL_EXPORTER_OTLP_ENDPOINT")
            else:
                atexit.register(close)
        return _tracing


def tell_lines() -> None:
    """Tell the collector what this worker logs from now on; once for each process."""
    global _lines
    # The lock is for the first job alone.
    if not settings.OTEL_EXPORTER_OTLP_ENDPOINT or (_lines is not None and _lines[0] == os.getpid()):
        return
    if _opened() is None:
        return
    with _opening:
        if _lines is not None:
            if _lines[0] == os.getpid():
                return
            # Of the process that this one is a fork of, and whose thread it does not have.
            _lines[1].leave()
        base = settings.OTEL_EXPORTER_OTLP_ENDPOINT.rstrip("/")
        told = otel_lines.ToldLines(base, _resource(), timeout_s=otel.EXPORT_TIMEOUT_S)
        told.open()
        _lines = os.getpid(), told


def close() -> None:
    """Send what waits, for two seconds at most each."""
    global _tracing, _lines
    with _opening:
        ending, _tracing = _tracing, None
        lines, _lines = _lines, None
    if ending is not None and ending.process_id == os.getpid():
        ending.close()
    if lines is not None and lines[0] == os.getpid():
        lines[1].close()


def _fail(span: Span, error: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", error)
    span.set_status(StatusCode.ERROR, error)


def _handing_to(put: Callable[[Any], None]) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

    class HandsOver(SpanProcessor):  # type: ignore[misc]
        def on_end(self, span: ReadableSpan) -> None:
            if span.context is not None and span.context.trace_flags.sampled:
                put(span)

    return HandsOver()
