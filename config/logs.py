"""Log lines that are lines: what a request brings cannot begin another one, nor colour a terminal."""

from __future__ import annotations

import logging

from governance.rules import names


class PrintableLines(logging.Formatter):
    """Messages are one line each, with unprintable characters as their numbers; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return names.printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        return names.printable(super().formatException(ei), keep="\n\t")  # type: ignore[arg-type]
