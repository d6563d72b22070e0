"""Lines of the log for OpenTelemetry's collector, beside those on standard error (the extra `otel`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from governance import request_ids
from governance.rules import names

# What tells of the telling: a line about a collector that is away would bring the next one.
OWN = ("opentelemetry", "urllib3", "requests", "llm.state.aside")
LONGEST = 4_000
# Severities of OpenTelemetry's by those of logging, each for what is as grave or graver.
SEVERITIES = ((50, 21), (40, 17), (30, 13), (20, 9), (0, 5))

# A line, and the id of the request that it is about.
Line = tuple[logging.LogRecord, str]


class Lines(logging.Handler):
    """Puts what is logged aside; it waits for nothing."""

    def __init__(self, put: Callable[[Line], None]) -> None:
        super().__init__()
        self._put = put

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(OWN):
            self._put((record, request_ids.current.get()))


class LineExporter:
    """Sends lines. Used by one thread."""

    def __init__(self, endpoint: str, resource: Any, *, timeout_s: float) -> None:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import LogRecordExportResult

        self._exporter = OTLPLogExporter(endpoint=endpoint, timeout=timeout_s)
        self._taken = LogRecordExportResult.SUCCESS
        self._waiting = _waiting_lines()
        self._loggers = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._loggers.add_log_record_processor(self._waiting)

    def take(self, lines: Sequence[Line]) -> bool:
        """Whether the collector took them."""
        for record, request_id in lines:
            self._tell(record, request_id)
        waiting = self._waiting.all()
        return not waiting or self._exporter.export(waiting) is self._taken

    def close(self) -> None:
        self._exporter.shutdown()
        self._loggers.shutdown()

    def _tell(self, record: logging.LogRecord, request_id: str) -> None:
        from opentelemetry._logs import SeverityNumber

        fields = {"request_id": request_id} if request_id else {}
        fields |= getattr(record, "fields", {})
        attributes = {f"spend_governor.{name}": value for name, value in fields.items()}
        if record.exc_info and record.exc_info[0] is not None:
            attributes["exception.type"] = record.exc_info[0].__qualname__
            attributes["exception.stacktrace"] = logging.Formatter().formatException(record.exc_info)[-LONGEST:]
        self._loggers.get_logger(record.name).emit(
            timestamp=int(record.created * 1e9),
            severity_number=SeverityNumber(next(told for least, told in SEVERITIES if record.levelno >= least)),
            severity_text=record.levelname,
            body=names.printable(record.getMessage()[:LONGEST]),
            attributes={
                f"spend_governor.{name}" if "." not in name else name: each for name, each in attributes.items()
            },
        )


def _waiting_lines() -> Any:
    from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord

    class WaitingLines(LogRecordProcessor):  # type: ignore[misc]
        def __init__(self) -> None:
            self._lines: list[Any] = []

        def on_emit(self, log_record: ReadWriteLogRecord) -> None:
            self._lines.append(
                ReadableLogRecord(
                    log_record=log_record.log_record,
                    resource=log_record.resource,
                    instrumentation_scope=log_record.instrumentation_scope,
                    limits=log_record.limits,
                )
            )

        def all(self) -> list[Any]:
            lines, self._lines = self._lines, []
            return lines

        def shutdown(self) -> None:
            self._lines.clear()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return True

    return WaitingLines()
