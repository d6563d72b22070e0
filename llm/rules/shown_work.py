"""What a refusal shows of work that was done before it: what was used, and what the model wrote. Pure.

Groq gives back what its model wrote where that was no call of a tool, or no JSON
(https://console.groq.com/docs/tool-use: `failed_generation`); some put a usage into their errors. Who stands in front
of others often quotes their error as a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm.rules import sse
from llm.rules.answers import read_json

# What is looked at of an error: so many values, and texts with JSON in them of so many letters.
_MOST_VALUES, _LONGEST_QUOTE = 1_000, 1_000_000
# Of a long text what says why stands at its start, or at its end, behind what it quotes: so many letters of each.
_MOST_WORDS = 2_000
# What an answer is told by; where a refusal has it at its top, it is read as an answer.
_ANSWERS = frozenset({"choices", "usage", "usageMetadata", "usage_metadata", "x_groq"})
_USAGES = _ANSWERS - {"choices"}
# Names of what a model has written.
_WRITTEN = re.compile(
    r"(?:failed|partial|raw|invalid|model)?_?(?:generations?|completions?|generated_?(?:text|content)?|outputs?"
    r"|output_text|choices|candidates)",
    re.I,
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
    r"|failed to (?:parse|validate) (?:the )?(?:outputs?|generation"
    r"|(?:model|assistant|llm)(?:'s)?[ _](?:outputs?|response|answer|completion|generation|tool.?calls?))\b"
    r"|json_invalid|invalid.json(?!.?schema)|eof while parsing|unterminated string|expecting .{1,20} delimiter"
    r"|generated text|during generation|incomplete.generation|tool error:",
    re.I,
)


@dataclass(slots=True)
class ShownWork:
    """`counts`: parts of a refusal that say what was used, each to be read as an answer is; `text_bytes`: UTF-8 bytes
    that the model wrote; `is_told`: its words, or a place for what was written, say that there was work."""

    counts: list[dict[str, Any]] = field(default_factory=list)
    text_bytes: int = 0
    is_told: bool = False

    def __bool__(self) -> bool:
        return bool(self.counts or self.text_bytes or self.is_told)


def refusal(body: bytes) -> dict[str, Any]:
    """The body of a refusal as an object, to be looked at by `of`: a list, or a text, is its error."""
    said = read_json(body)
    if isinstance(said, dict):
        return said
    return {"error": body.decode(errors="replace") if said is None else said}


def of(said: Any) -> ShownWork:
    """What the JSON of a refusal shows; what it has at its top as an answer has it is left to whoever reads answers."""
    found = ShownWork()
    if not isinstance(said, Mapping):
        return found
    model = said.get("model")
    waiting: list[Any] = [{name: value for name, value in said.items() if name not in _ANSWERS}]
    for _ in range(_MOST_VALUES):
        if not waiting:
            break
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += _look_at(value, found, model)
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            found.is_told = found.is_told or says_so(value)
            waiting += _quoted(value)
    return found


def says_so(message: str) -> bool:
    """Whether the words of an error say that the model had written."""
    parts = [message] if len(message) <= 2 * _MOST_WORDS else [message[:_MOST_WORDS], message[-_MOST_WORDS:]]
    return message in _CODES or any(map(_SAYS.search, parts))


def _look_at(part: Mapping[str, Any], found: ShownWork, model: Any) -> list[Any]:
    """Note what one object shows; what in it is still to be looked at."""
    inner: list[Any] = []
    for name, value in part.items():
        if name in _QUOTES:
            continue
        if name in _USAGES and isinstance(value, Mapping) and value:
            found.counts.append({"model": model, name: value})
        elif _WRITTEN.fullmatch(name) and isinstance(value, str | list | dict):
            found.text_bytes += sse.answer_bytes({"choices": [value]})
            found.is_told = found.is_told or bool(value) or name == "failed_generation"
        else:
            inner.append(value)
    return inner


def _quoted(text: str) -> list[Any]:
    """The JSON object that a text quotes, if it does."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start or len(text) > _LONGEST_QUOTE:
        return []
    quoted = read_json(text[start : end + 1].encode(errors="replace"))
    return [quoted] if isinstance(quoted, dict) else []
