"""Errors that come where an answer should be: in a 200, or as an event of a stream. Pure.

Endpoints in front of others send them so, because their status was sent before they knew. They count as the status
that they stand for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llm.rules import sse

_STATUSES = range(400, 600)
# Of thousands of digits no number can be made.
_STATUS = re.compile(r"[0-9]{3}")
# Words of types, codes and messages, the more telling ones first.
_MEANINGS = (
    (401, re.compile(r"invalid.?api.?key|authentication|unauthori[sz]ed")),
    (402, re.compile(r"insufficient.?quota|billing|payment.?required|credit")),
    (429, re.compile(r"rate.?limit|too.?many.?requests|resource.?exhausted")),
    (529, re.compile(r"overloaded|capacity")),
    (503, re.compile(r"unavailable")),
    (504, re.compile(r"time.?out|timed.?out|deadline")),
    (404, re.compile(r"not.?found")),
    (403, re.compile(r"permission|forbidden|moderation|guardrail")),
    (400, re.compile(r"invalid|bad.?request|context.?length|content.?(policy|filter)|unsupported")),
)
UNKNOWN = 502


@dataclass(frozen=True, slots=True)
class StatedError:
    """`status` is what the error stands for, `message` what it says, in its own words."""

    status: int
    message: str


def error_in(data: Any) -> StatedError | None:
    """The error that an answer or a chunk is; None where it holds (a part of) an answer."""
    if not isinstance(data, dict) or sse.choices_of(data):
        return None
    error = data.get("error")
    if not error:
        if data.get("object") != "error" and data.get("type") != "error":
            return None
        error = data
    said: dict[str, Any] = error if isinstance(error, dict) else {"message": error}
    words = [text for text in (said.get("message"), said.get("detail")) if isinstance(text, str)]
    message = next(filter(None, words), "The model's API answered with an error.")
    return StatedError(_status(said, data), message[:500])


def _status(*said: dict[str, Any]) -> int:
    for part in said:
        for name in ("status", "status_code", "code"):
            value = part.get(name)
            number = int(value) if isinstance(value, str) and _STATUS.fullmatch(value) else value
            if isinstance(number, int) and number in _STATUSES:
                return number
    words = [str(part.get(name, "")).lower() for name in ("type", "code", "status", "message") for part in said]
    return next((status for word in words for status, pattern in _MEANINGS if pattern.search(word)), UNKNOWN)
