"""What a refusal shows of work that was done before it: what was used, and what the model wrote. Pure.

Groq gives back what its model wrote where that was no call of a tool, or no JSON
(https://console.groq.com/docs/tool-use: `failed_generation`); some put a usage into their errors. Who stands in front
of others often quotes their error as a text.

What stands inside a text is a quotation, of the request or of what the model wrote: whoever asks, or has a model write,
decides what it says. So it is no usage and no count of anything; at most it says that there was work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from llm.rules import sse
from llm.rules.answers import read_json

# What is looked at of an error: so many values, and texts with JSON in them of so many letters.
_MOST_VALUES, _LONGEST_QUOTE = 1_000, 1_000_000
# Texts that are looked for in a request, which may be long.
_MOST_LOOKS = 50
# Of a long text what says why stands at its start, or at its end, behind what it quotes: so many letters of each.
_MOST_WORDS = 2_000
# What says what was used; where a refusal has it at its top, or in its `error`, it is read as an answer's.
_USAGES = frozenset({"usage", "usageMetadata", "usage_metadata", "x_groq"})
# Names of what a model has written.
_WRITTEN = re.compile(
    r"(?:failed|partial|raw|invalid|model)?_?(?:generations?|completions?|generated_?(?:text|content)?|outputs?"
    r"|output_text|choices|candidates)",
    re.I,
)
# Names that answers have for it, and some errors for other things: it is the request's where that has the same text.
_MAY_BE_WRITTEN = frozenset(
    """answer choice content delta partial reasoning reasoning_content response text thinking
    tool_calls""".split()  # noqa: SIM905
)
# All that errors say of themselves. Where one stands in the place of an answer, any other text may be the model's.
_OF_ERRORS = frozenset(
    """@type cause code content_filter_result content_filter_results created description detail details doc_url
    documentation_url domain error error_code error_type errors event_id hint id innererror instance links message
    metadata model model_slug msg name object param path prompt_filter_results provider provider_name raw reason reasons
    request_id retry_after service_tier severity source status statusCode status_code status_text success
    system_fingerprint timestamp title trace_id traceback type url user_id""".split()  # noqa: SIM905
)
# Names of what quotes the request.
_QUOTES = frozenset({"input", "body", "request", "messages", "prompt", "loc", "ctx", "tools", "schema", "params"})
_CODES = frozenset({"tool_use_failed", "json_validate_failed", "output_parse_failed", "invalid_model_output"})
# The JSON that is sent is our own: what is said of broken JSON is said of what was written. vLLM and TGI refuse so what
# their models wrote, after all of it.
_SAYS = re.compile(
    r"failed_generation|could not finish the message|failed to generate json|(?:generated|produced) (?:an? )?invalid"
    r"|\b(?:model|assistant|llm) (?:has )?(?:produced|generated|returned|wrote)\b"
    r"(?! (?:(?:an?|the following) )?(?:errors?|status|http|\d))"
    r"|\bmodel(?:'s)? (?:output|response|answer|completion)\b.{0,40}\b(?:invalid|not valid|malformed|parse)"
    r"|(?:failed to|could not|cannot|unable to) (?:parse|validate) (?:the )?(?:outputs?|generation"
    r"|(?:model|assistant|llm)(?:'s)?[ _](?:outputs?|response|answer|completion|generation|tool.?calls?))\b"
    r"|json_invalid|invalid.json(?!.?schema)|eof while parsing|unterminated string|expecting .{1,20} delimiter"
    r"|error parsing tool call: raw|generated text|during generation|incomplete.generation|tool error:",
    re.I,
)


class AskedTexts:
    """The texts of a request, to know them again where a refusal quotes them; `body` makes what was sent."""

    def __init__(self, body: Callable[[], bytes]) -> None:
        self._make = body
        self._looks = 0

    def has(self, text: str) -> bool:
        """Whether it holds a text, as it is or escaped. Of many texts it is not asked: they may be anybody's."""
        self._looks += 1
        return self._looks <= _MOST_LOOKS and any(form in self._body for form in (text.encode(), _escaped(text)))

    @cached_property
    def _body(self) -> bytes:
        # As JSON is written here: there are many ways to escape a letter.
        body = self._make()
        said = read_json(body)
        return body if said is None else orjson.dumps(said)


@dataclass(slots=True)
class ShownWork:
    """`counts`: parts of a refusal that say what was used, each to be read as an answer is; `text_bytes`: UTF-8 bytes
    that the model wrote; `is_told`: its words, or a place for what was written, say that there was work."""

    counts: list[dict[str, Any]] = field(default_factory=list)
    text_bytes: int = 0
    is_told: bool = False

    def __bool__(self) -> bool:
        return bool(self.counts or self.text_bytes or self.is_told)


class _Part(NamedTuple):
    """`is_error`: it is the refusal's own error, where endpoints put a usage; `is_quoted`: it stood in a text."""

    value: Any
    is_error: bool = False
    is_quoted: bool = False


def refusal(body: bytes) -> dict[str, Any]:
    """The body of a refusal as an object, to be looked at by `of`: a list, or a text, is its error."""
    said = read_json(body)
    if isinstance(said, dict):
        return said
    return {"error": body.decode(errors="replace") if said is None else said}


def of(said: Any, *, asked: AskedTexts | None = None, is_answer: bool = False) -> ShownWork:
    """What the JSON of a refusal shows; a usage that it has at its top is left to whoever reads answers.

    `asked`: of texts that may be the request's own those that it has show nothing. `is_answer`: it came in the place of
    an answer, so that what is not known to be an error's may be written.
    """
    found = ShownWork()
    if not isinstance(said, Mapping):
        return found
    look = _Look(found, asked or AskedTexts(bytes), is_answer=is_answer, model=said.get("model"))
    waiting = [_Part({name: value for name, value in said.items() if name not in _USAGES}, is_error=True)]
    for _ in range(_MOST_VALUES):
        if not waiting:
            break
        waiting += look.at(waiting.pop())
    return found


def says_so(message: str) -> bool:
    """Whether the words of an error say that the model had written."""
    parts = [message] if len(message) <= 2 * _MOST_WORDS else [message[:_MOST_WORDS], message[-_MOST_WORDS:]]
    return message in _CODES or any(map(_SAYS.search, parts))


@dataclass(slots=True)
class _Look:
    """Notes in `found` what the parts of one refusal show."""

    found: ShownWork
    asked: AskedTexts
    is_answer: bool
    model: Any

    def at(self, part: _Part) -> list[_Part]:
        """What in a part is still to be looked at."""
        if isinstance(part.value, list):
            return [part._replace(value=value) for value in part.value]
        if isinstance(part.value, Mapping):
            return [inner for name, value in part.value.items() for inner in self._field(part, name, value)]
        return self._words(part.value) if isinstance(part.value, str) else []

    def _field(self, part: _Part, name: str, value: Any) -> list[_Part]:
        if name in _QUOTES:
            return []
        if name in _USAGES and isinstance(value, Mapping) and value:
            if part.is_error and not part.is_quoted:
                self.found.counts.append({"model": self.model, name: value})
            else:
                self.found.is_told = True
        elif isinstance(value, str | list | dict) and self._is_written(name, value):
            self.found.is_told = self.found.is_told or bool(value) or name == "failed_generation"
            if not part.is_quoted:
                self.found.text_bytes += sse.answer_bytes({"choices": [value]})
        else:
            return [part._replace(value=value, is_error=part.is_error and name == "error")]
        return []

    def _is_written(self, name: str, value: Any) -> bool:
        if _WRITTEN.fullmatch(name):
            return True
        may_be = name in _MAY_BE_WRITTEN or (self.is_answer and name not in _OF_ERRORS)
        return may_be and sse.answer_bytes({"choices": [value]}) > 0 and not self._is_own(value)

    def _is_own(self, value: Any) -> bool:
        """Whether it is the request's own: a text, or JSON as it stands there."""
        return self.asked.has(value if isinstance(value, str) else orjson.dumps(value).decode())

    def _words(self, text: str) -> list[_Part]:
        """Note what the words of a text say; of JSON that it quotes, the request's own says nothing."""
        start, end = text.find("{"), text.rfind("}") + 1
        quoted = read_json(text[start:end].encode()) if 0 <= start < end and len(text) <= _LONGEST_QUOTE else None
        if not isinstance(quoted, dict):
            self.found.is_told = self.found.is_told or says_so(text)
            return []
        if self.asked.has(text[start:end]) or self._is_own(quoted):
            self.found.is_told = self.found.is_told or says_so(text[:start]) or says_so(text[end:])
            return []
        self.found.is_told = self.found.is_told or says_so(text)
        return [_Part(quoted, is_quoted=True)]


def _escaped(text: str) -> bytes:
    return orjson.dumps(text)[1:-1]
