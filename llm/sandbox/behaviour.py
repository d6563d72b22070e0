"""How the simulated Mistral answers: well, slowly, wrongly or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


class ControlError(ValueError):
    """A directive that the sandbox does not know."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a request is answered. Written as directives: "latency=0.2|cut-stream=3|missing-usage"."""

    # Answer with this status instead.
    status: int = 0
    # Seconds before the first byte, and between chunks.
    latency: float = 0.0
    pace: float = 0.0
    # Tokens of the answer, and how many prompt tokens were cached.
    output: int | None = None
    cached: int = 0
    # Close the connection after this many chunks, or in the middle of a plain answer.
    cut_stream: int = 0
    missing_usage: bool = False
    zero_usage: bool = False
    # Something that is no JSON, with status 200.
    garbage: bool = False
    # Its guardrails stop the prompt, where it was sent with any.
    blocked: bool = False
    # Compressed, although nobody asked for it.
    gzip: bool = False

    def with_directives(self, text: str) -> Behaviour:
        """The same with directives applied. Raises ControlError for what is none."""
        changes: dict[str, Any] = {}
        for directive in filter(None, text.replace(",", "|").replace(" ", "").split("|")):
            name, _, value = directive.partition("=")
            if name.isdigit():
                name, value = "status", name
            name = name.replace("-", "_")
            changes[name] = _directive(name, value)
        return replace(self, **changes) if changes else self


_KINDS: Mapping[str, str] = {item.name: str(item.type) for item in fields(Behaviour)}


def _directive(name: str, value: str) -> bool | int | float:
    kind = _KINDS.get(name)
    if kind is None:
        known = ", ".join(known.replace("_", "-") for known in _KINDS)
        raise ControlError(f"{name!r} is no directive; there are {known}")
    if kind == "bool":
        return value.lower() not in ("0", "false", "no")
    try:
        return float(value) if kind == "float" else int(value or 1)
    except ValueError as error:
        raise ControlError(f"{name!r} needs a number, not {value!r}") from error
