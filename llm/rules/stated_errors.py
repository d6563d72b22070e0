"""Errors that come where an answer should be: in a 200, or as an event of a stream. Pure.

Endpoints in front of others send them so, because their status was sent before they knew. They count as the status
that they stand for. A type or a code says that by its words; a sentence only where it speaks of the request or of who
sends it: "invalid" may be said of what the model wrote, and was paid for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from llm.rules import sse
from llm.rules.words_of_work import says_so

_STATUSES = range(400, 600)
# Of thousands of digits no number can be made.
_LONGEST_SENTENCE = 2_000
_STATUS = re.compile(r"[0-9]{3}")
# Words of types and codes, the more telling ones first.
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
# Sentences: of who is asked too much or too often, or not by whom it should be; and of the request.
_SENTENCES = (
    (401, re.compile(r"invalid.?api.?key|authentication|unauthori[sz]ed")),
    (
        402,
        re.compile(
            r"insufficient.?quota|billing|payment.?required|(?:insufficient|no|enough|of) credit|credit balance"
        ),
    ),
    (429, re.compile(r"rate.?limit|too.?many.?requests|resource.?exhausted")),
    (529, re.compile(r"overloaded|(?:at|over|beyond|insufficient|no) capacity")),
    (503, re.compile(r"unavailable")),
    (504, re.compile(r"time.?out|timed.?out|deadline")),
)
_OF_THE_REQUEST = (
    (404, re.compile(r"\bmodel\b.{0,80}not found|model_not_found|no such model")),
    (403, re.compile(r"permission|forbidden|(?:request|prompt|input|messages?)\b.{0,60}(?:moderation|guardrail)")),
    (
        400,
        re.compile(
            r"(?:invalid|unsupported).?(?:request|parameter|argument|field|value|model|role|type|schema|messages?)"
            r"|bad.?request|context.?length|(?:request|prompt|input|messages?)\b.{0,60}content.?(?:policy|filter)"
        ),
    ),
)
# Names that are not the caller's to choose, and a status, may stand in marks; behind any other mark a sentence may
# quote, and whoever asked, or had the model write, decides what it says.
_NAMED = re.compile(
    r"\b(model|provider|engine|deployment) ['\"`“‘«<\[(][\w./:@+-]{1,100}['\"`”’»>\])]"
    r"|[<\[(]\d{3}[>\])]|^\[[\w ]{1,40}\]"
)
_MARK = re.compile(r"(?<![^\W\d_]{2})['’]|[\"`“”‘„«»‹›「」『』<>\[\](){}\\]")
# By these the fault is not the request's, whatever a sentence says.
_SERVERS = re.compile(r"server|internal|api_error|model_error|upstream|provider")
UNKNOWN = 502


@dataclass(frozen=True, slots=True)
class StatedError:
    """`status` is what the error stands for, `message` what it says, in its own words; `said` all that came."""

    status: int
    message: str
    said: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


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
    return StatedError(_status(said, data), message[:500], data)


def failure_in(data: Any) -> dict[str, Any] | None:
    """What an answer, or a part of one, says of its failure, for `shown_work.of`; None where it has not failed.

    Such an answer broke off, however it ends. Some put an error beside its choices or into one, or say "error" for its
    end (https://openrouter.ai/docs/errors; Mistral's `finish_reason`); Groq puts one into `x_groq`.
    """
    if not isinstance(data, dict):
        return None
    if error_in(data) is not None:
        return data
    choices = sse.choices_of(data)
    groqs = data.get("x_groq")
    errors = [part["error"] for part in (data, *choices) if part.get("error")]
    if isinstance(groqs, dict) and groqs.get("error"):
        errors.append(groqs)
    if not errors and all(choice.get("finish_reason") != "error" for choice in choices):
        return None
    return {"model": data.get("model"), "error": errors}


def _status(*said: dict[str, Any]) -> int:
    for part in said:
        for name in ("status", "status_code", "code"):
            value = part.get(name)
            number = int(value) if isinstance(value, str) and _STATUS.fullmatch(value) else value
            if isinstance(number, int) and number in _STATUSES:
                return number
    codes = [str(part.get(name, "")) for name in ("type", "code", "status") for part in said]
    # What is invalid may be what the model wrote.
    words = [code.lower() for code in codes if not says_so(code)]
    found = next((status for word in words for status, pattern in _MEANINGS if pattern.search(word)), None)
    return found or _status_of_sentence(str(said[0].get("message", "")).lower()[:_LONGEST_SENTENCE], words)


def _status_of_sentence(message: str, words: list[str]) -> int:
    if says_so(message):
        return UNKNOWN
    is_servers = any(_SERVERS.search(word) for word in words)
    meanings = _SENTENCES if is_servers else _SENTENCES + _OF_THE_REQUEST
    words_of_its_own = _MARK.split(_NAMED.sub(r"\1", message), maxsplit=1)[0]
    return next((status for status, pattern in meanings if pattern.search(words_of_its_own)), UNKNOWN)
