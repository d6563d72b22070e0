"""How much one request may hold, whatever it costs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from governance.rules import json_bounds
from governance.rules.json_bounds import BeyondBounds, JsonBounds


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """At most so many `messages`, `parts` of one message, and `tools`; `json` bounds whatever else there is."""

    json: JsonBounds = field(default_factory=JsonBounds)
    messages: int = 10_000
    parts: int = 1_000
    tools: int = 512


def check(payload: Mapping[str, Any], bounds: RequestBounds) -> None:
    """Raises BeyondBounds, which names the field and the bound."""
    messages, tools = payload.get("messages"), payload.get("tools")
    if isinstance(messages, list):
        if len(messages) > bounds.messages:
            raise BeyondBounds("messages", f"may have at most {bounds.messages:,} messages.")
        for position, message in enumerate(messages):
            parts = message.get("content") if isinstance(message, dict) else None
            if isinstance(parts, list) and len(parts) > bounds.parts:
                raise BeyondBounds(f"messages.{position}.content", f"may have at most {bounds.parts:,} parts.")
    if isinstance(tools, list) and len(tools) > bounds.tools:
        raise BeyondBounds("tools", f"may have at most {bounds.tools:,} tools.")
    json_bounds.check(payload, bounds.json)
