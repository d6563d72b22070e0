"""Tells OpenTelemetry's collector of calls: spans under the agent's own, histograms and lines (the extra `otel`).

Names are those of the semantic conventions for generative AI; what costs money is ours. Prompts, answers and keys are
never told. All of it is done by a thread beside the calls (`llm.state.aside`), from their records: what a collector
does not take in time is dropped, and counted.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from llm.state import call_log, otel_lines
from llm.state.aside import Aside
from llm.state.otel_lines import NotTaken
from llm.state.telemetry import Attempt, EndedCall, TraceSpan

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

# One batch is tried for so long, waits between tries included.
EXPORT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 3.0
LONGEST_TEXT = 1_000
SCOPE = "spend_governor"
# Bounds that the conventions name for these two histograms.
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


def exporter() -> Exporter | None:
    """What tells the collector; None where none is named. Raises ImproperlyConfigured without the extra."""
    if not settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        return None
    try:
        return Exporter(settings.OTEL_EXPORTER_OTLP_ENDPOINT, service=settings.OTEL_SERVICE_NAME)
    except ImportError as error:
        raise ImproperlyConfigured(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and the extra otel is not installed: "
            f"pip install 'spend-governor[otel]' ({error})."
        ) from error


class Exporter:
    """Makes spans and histograms of ended calls, by the official SDK, and sends them, in threads of its own."""

    def __init__(self, endpoint: str, *, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SpanExportResult

        base = endpoint.rstrip("/")
        resource = Resource.create({"service.name": service, "service.version": settings.VERSION})
        self._ids, self._ended = _given_ids(), _ended_spans()
        self._tracers = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._tracers.add_span_processor(self._ended)
        self._tracer = self._tracers.get_tracer(SCOPE, settings.VERSION)
        self._spans = OTLPSpanExporter(
            endpoint=f"{base}/v1/traces", timeout=EXPORT_TIMEOUT_S, session=otel_lines.session(base)
        )
        self._taken = SpanExportResult.SUCCESS
        told = OTLPMetricExporter(
            endpoint=f"{base}/v1/metrics", timeout=EXPORT_TIMEOUT_S, session=otel_lines.session(base)
        )
        self._meters = MeterProvider(
            resource=resource, metric_readers=[PeriodicExportingMetricReader(told)], shutdown_on_exit=False
        )
        self._lines = otel_lines.ToldLines(base, resource, timeout_s=EXPORT_TIMEOUT_S)
        self._calls: Aside[EndedCall] = Aside("otel", self._take)
        meter = self._meters.get_meter(SCOPE, settings.VERSION)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens of a call.", explicit_bucket_boundaries_advisory=TOKENS
        )
        self._seconds = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "How long a call took.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )

    def open(self) -> None:
        """Begin to tell, of what is logged too."""
        self._calls.start()
        self._lines.open()

    def put(self, call: EndedCall) -> None:
        """An observer of whole calls; it waits for nothing."""
        self._calls.put(call)

    def close(self) -> None:
        """Tell what waits and what the histograms hold, and end. A collector that hangs is waited for no longer."""
        ending = threading.Thread(target=self._close, name="otel-end", daemon=True)
        ending.start()
        ending.join(CLOSE_TIMEOUT_S)

    def _close(self) -> None:
        self._calls.close()
        self._lines.close()
        self._meters.shutdown(timeout_millis=EXPORT_TIMEOUT_S * 1000)
        self._spans.shutdown()
        self._tracers.shutdown()

    def _take(self, calls: Sequence[EndedCall]) -> None:
        for call in calls:
            # What strangers send is counted (`/metrics`); it takes no room of what is told.
            if call.tenant:
                self._tell(call)
        spans = self._ended.all()
        if spans and self._spans.export(spans) is not self._taken:
            raise NotTaken(f"the collector did not take {len(spans)} spans")

    def _tell(self, call: EndedCall) -> None:
        if call.span is not None:
            is_error = call.status >= 500
            self._end(
                call.span,
                f"POST {call.route}",
                "SERVER",
                _of_call(call),
                error=call.code or str(call.status) if is_error else "",
                began_at=call.ended_at - call.duration_s,
                ended_at=call.ended_at,
            )
        for attempt in call.attempts:
            if attempt.span is not None:
                self._end(
                    attempt.span,
                    f"{attempt.operation} {attempt.model_requested}",
                    "CLIENT",
                    attempt.attributes(),
                    error=attempt.error,
                    began_at=attempt.ended_at - attempt.duration_s,
                    ended_at=attempt.ended_at,
                )
            self._measure(attempt)

    def _end(
        self,
        span: TraceSpan,
        name: str,
        kind: str,
        attributes: dict[str, Any],
        *,
        error: str,
        began_at: float,
        ended_at: float,
    ) -> None:
        from opentelemetry import trace

        context = trace.set_span_in_context(trace.NonRecordingSpan(_parent_of(span)))
        self._ids.next = span
        made = self._tracer.start_span(
            fit(name),
            context=context if span.parent_id else trace.Context(),
            kind=trace.SpanKind[kind],
            attributes={key: fit(value) for key, value in attributes.items()},
            start_time=int(began_at * 1e9),
        )
        if error:
            made.set_status(trace.StatusCode.ERROR, error)
        made.end(end_time=int(ended_at * 1e9))

    def _measure(self, attempt: Attempt) -> None:
        labels = {
            "gen_ai.operation.name": attempt.operation,
            "gen_ai.provider.name": attempt.provider_name,
            "gen_ai.response.model": attempt.model_served,
        }
        self._seconds.record(attempt.duration_s, labels | ({"error.type": attempt.error} if attempt.error else {}))
        if attempt.certainty == "confirmed":
            self._tokens.record(attempt.input_tokens, labels | {"gen_ai.token.type": "input"})
            self._tokens.record(attempt.output_tokens, labels | {"gen_ai.token.type": "output"})


# Fields of the line of a call, by the conventions' names where they have one.
_NAMES = {
    "request_id": "spend_governor.request.id",
    "route": "http.route",
    "status": "http.response.status_code",
    "agent": "gen_ai.agent.id",
    "session": "gen_ai.conversation.id",
    "model_requested": "gen_ai.request.model",
    "model_served": "gen_ai.response.model",
    "cost_usd": "spend_governor.cost.usd",
    "error": "error.type",
}


def _of_call(call: EndedCall) -> dict[str, Any]:
    fields = call_log.fields(call)
    del fields["latency_ms"]
    fields.pop("trace_id", None)
    found = {_NAMES.get(name, f"spend_governor.{name}"): value for name, value in fields.items()}
    return found | {"http.request.method": "POST"}


def fit(value: Any, longest: int = LONGEST_TEXT) -> Any:
    """As protobuf takes it: one name that is no Unicode would lose all that is told along with it."""
    return value[:longest].encode(errors="replace").decode() if isinstance(value, str) else value


def _parent_of(span: TraceSpan) -> Any:
    from opentelemetry import trace

    flags = trace.TraceFlags(int(span.flags, 16))
    parent_id = int(span.parent_id or "0", 16)
    return trace.SpanContext(int(span.trace_id, 16), parent_id, is_remote=True, trace_flags=flags)


def _given_ids() -> Any:
    """Ids that were given when a call came: its model was told of them before there was a span."""
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class GivenIds(IdGenerator):  # type: ignore[misc]
        next: TraceSpan

        def generate_trace_id(self) -> int:
            return int(self.next.trace_id, 16)

        def generate_span_id(self) -> int:
            return int(self.next.span_id, 16)

    return GivenIds()


def _ended_spans() -> Any:
    """What the SDK hands over ended spans to; those that are not sampled never come."""
    from opentelemetry.sdk.trace import SpanProcessor

    class EndedSpans(SpanProcessor):  # type: ignore[misc]
        def __init__(self) -> None:
            self._spans: list[ReadableSpan] = []

        def on_end(self, span: ReadableSpan) -> None:
            if span.context is not None and span.context.trace_flags.sampled:
                self._spans.append(span)

        def all(self) -> list[ReadableSpan]:
            spans, self._spans = self._spans, []
            return spans

    return EndedSpans()
