"""What a refusal says, in whichever form APIs write one: Mistral's, OpenAI's, FastAPI's, Gemini's, Ollama's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# One says another in itself, and that one a list; no API goes on so.
_DEEPEST = 4


@dataclass(frozen=True, slots=True)
class Words:
    """Empty where a refusal does not say it."""

    message: str = ""
    code: str = ""
    param: str = ""


def words_of(said: Any, *, deepest: int = _DEEPEST) -> Words:
    """The words of a refusal, given its JSON; of several mistakes those of the first."""
    if isinstance(said, str):
        return Words(said)
    if isinstance(said, list):
        said = next((one for one in said if isinstance(one, dict)), None)
    if not isinstance(said, dict) or deepest == 0:
        return Words()
    own = Words(_text(said.get("message") or said.get("msg")), _text(said.get("code")), _param(said))
    if own.message:
        return own
    inner = (words_of(said.get(name), deepest=deepest - 1) for name in ("detail", "message", "error"))
    found = next((words for words in inner if words.message), Words())
    return Words(found.message, found.code or own.code, found.param or own.param)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value}" if type(value) is int else ""


def _param(said: Mapping[str, Any]) -> str:
    """The field that is wrong; of FastAPI's path to it what comes behind where it is, such as "body"."""
    where = said.get("loc")
    steps = where[1:] if isinstance(where, list) else said.get("param")
    return ".".join(filter(None, map(_text, steps if isinstance(steps, list) else [steps])))
