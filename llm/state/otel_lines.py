"""LogLines of the log for OpenTelemetry's collector, beside those on standard error (the extra `otel`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from governance import proxies, request_ids
from governance.rules import names
from llm.state.aside import Aside

# What tells of the telling: a line about a collector that is away would bring the next one.
OWN = ("opentelemetry", "urllib3", "requests", "llm.state.aside")
LONGEST = 4_000
# Severities of OpenTelemetry's by those of logging, each for what is as grave or graver.
SEVERITIES = ((50, 21), (40, 17), (30, 13), (20, 9), (0, 5))


@dataclass(frozen=True, slots=True)
class LogLine:
    """What is told of a record, without what that keeps alive."""

    logger: str
    level: int
    level_name: str
    created: float
    body: str
    attributes: dict[str, Any]

    @classmethod
    def of(cls, record: logging.LogRecord) -> LogLine:
        fields = {"request_id": request_ids.current.get()} | getattr(record, "fields", {})
        attributes = {f"spend_governor.{name}": value for name, value in fields.items() if value != ""}
        if record.exc_info and record.exc_info[0] is not None:
            attributes["exception.type"] = record.exc_info[0].__qualname__
            attributes["exception.stacktrace"] = _fit(logging.Formatter().formatException(record.exc_info)[-LONGEST:])
        body = names.printable(record.getMessage()[:LONGEST])
        return cls(record.name, record.levelno, record.levelname, record.created, _fit(body), attributes)


def _fit(text: str) -> str:
    """As protobuf takes it: one text that is no Unicode would lose all that is told along with it."""
    return text.encode(errors="replace").decode()


class LogLines(logging.Handler):
    """Puts what is logged aside; it waits for nothing."""

    def __init__(self, put: Callable[[LogLine], None]) -> None:
        super().__init__()
        self._put = put

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(OWN):
            return
        try:
            self._put(LogLine.of(record))
        except Exception:
            self.handleError(record)


def session(base: str) -> Any:
    """By the proxy that all else goes by, and with no netrc."""
    import requests

    found = requests.Session()
    found.trust_env = False
    if proxy := proxies.proxy_for(base):
        found.proxies = {"http": proxy, "https": proxy}
    return found


class NotTaken(Exception):
    """The collector did not take a batch."""


class ToldLines:
    """What a process logs, told by a thread of its own. What there is no room for is dropped, and counted."""

    def __init__(self, base: str, resource: Any, *, timeout_s: float) -> None:
        self._exporter = LineExporter(f"{base}/v1/logs", resource, timeout_s=timeout_s)
        self._waiting: Aside[LogLine] = Aside("otel_lines", self._take)
        self._handler = LogLines(self._waiting.put)

    def open(self) -> None:
        self._waiting.start()
        logging.getLogger().addHandler(self._handler)

    def leave(self) -> None:
        """Take no more."""
        logging.getLogger().removeHandler(self._handler)

    def close(self) -> None:
        """Tell what waits, and end."""
        self.leave()
        self._waiting.close()
        self._exporter.close()

    def _take(self, lines: Sequence[LogLine]) -> None:
        if not self._exporter.take(lines):
            raise NotTaken(f"the collector did not take {len(lines)} lines")


class LineExporter:
    """Sends lines. Used by one thread."""

    def __init__(self, endpoint: str, resource: Any, *, timeout_s: float) -> None:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import LogRecordExportResult

        self._exporter = OTLPLogExporter(endpoint=endpoint, timeout=timeout_s, session=session(endpoint))
        self._taken = LogRecordExportResult.SUCCESS
        self._waiting = _waiting_lines()
        self._loggers = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._loggers.add_log_record_processor(self._waiting)

    def take(self, lines: Sequence[LogLine]) -> bool:
        """Whether the collector took them."""
        for line in lines:
            self._tell(line)
        waiting = self._waiting.all()
        return not waiting or self._exporter.export(waiting) is self._taken

    def close(self) -> None:
        self._exporter.shutdown()
        self._loggers.shutdown()

    def _tell(self, line: LogLine) -> None:
        from opentelemetry._logs import SeverityNumber

        self._loggers.get_logger(line.logger).emit(
            timestamp=int(line.created * 1e9),
            severity_number=SeverityNumber(next(told for least, told in SEVERITIES if line.level >= least)),
            severity_text=line.level_name,
            body=line.body,
            attributes={name: _fit(v) if isinstance(v, str) else v for name, v in line.attributes.items()},
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
