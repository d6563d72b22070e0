"""Log lines that are lines: what a request brings cannot begin another one, colour a terminal, or fill a disk."""

from __future__ import annotations

import logging

from governance.rules import names

# Characters of one line, for a Host, a path or an upstream's words may be thousands; and lines of a traceback.
LONGEST_LINE, MOST_LINES = 2_000, 200


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


def _line(text: str, *, keep: str = "") -> str:
    left_out = len(text) - LONGEST_LINE
    kept = names.printable(text[:LONGEST_LINE], keep=keep)
    return f"{kept}… ({left_out:,} characters more)" if left_out > 0 else kept
