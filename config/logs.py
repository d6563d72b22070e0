"""Log lines that are lines: what a request brings cannot begin another one, colour a terminal, or fill a disk."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

import orjson

from governance import request_ids
from governance.rules import names

# Characters of one line, for a Host, a path or an upstream's words may be thousands; and lines of a traceback.
LONGEST_LINE, MOST_LINES = 2_000, 200
# What is shown of a Host that is none of ours, and how often.
LONGEST_HOST, HOSTS_AGAIN_S = 200, 1.0


class UnknownHosts(logging.Filter):
    """For Django's logger of them: a stranger's Host is no fault of ours but a warning of one line.

    There is one in HOSTS_AGAIN_S seconds at most; it says how many were left out before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told_at = -HOSTS_AGAIN_S
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not logging.getLogger(record.name).isEnabledFor(logging.WARNING):
            return False
        now = time.monotonic()
        if now - self._told_at < HOSTS_AGAIN_S:
            self._left_out += 1
            return False
        said, left_out = record.getMessage()[:LONGEST_HOST], self._left_out
        record.msg, record.args = f"{said} ({left_out:,} more since the last such line)" if left_out else said, ()
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = record.exc_text = None
        self._told_at, self._left_out = now, 0
        return True


class PlainRefusals(logging.Filter):
    """A request that is refused is a line: where in our code that was decided tells nobody anything."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            record.exc_info = None
        return True


class PrintableLines(logging.Formatter):
    """Messages are one line each, with unprintable characters as their numbers; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _line(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]
        left_out = len(lines) - MOST_LINES
        if left_out > 0:
            half = MOST_LINES // 2
            lines[half:-half] = [f"… ({left_out:,} lines more)"]
        return "\n".join(_line(line, keep="\t") for line in lines)


class JsonLines(PrintableLines):
    """A line is one JSON object, its traceback included: what a machine reads without guessing where one ends.

    `request_id` is that of the call, request or task that it was written for. What a record brings as `fields` stands
    beside it.
    """

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _line(record.getMessage()),
        }
        if request_id := request_ids.current.get():
            found["request_id"] = request_id
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            found["exception"] = record.exc_text
        return as_json(found)


def as_json(found: dict[str, Any]) -> str:
    """One line; texts that are none in Unicode are shown as far as they are."""
    try:
        return orjson.dumps(found, default=str).decode()
    except orjson.JSONEncodeError:
        shown = {name: str(value).encode(errors="replace").decode() for name, value in found.items()}
        return orjson.dumps(shown).decode()


def _line(text: str, *, keep: str = "") -> str:
    left_out = len(text) - LONGEST_LINE
    kept = names.printable(text[:LONGEST_LINE], keep=keep)
    return f"{kept}… ({left_out:,} characters more)" if left_out > 0 else kept
