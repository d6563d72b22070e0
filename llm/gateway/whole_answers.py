"""Answers that came whole, whatever they are: a JSON object, a stream that nobody asked for, or a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from llm.gateway.holds import Hold
from llm.rules import sse
from llm.rules.answers import read_json
from llm.rules.stream_usage import StreamUsage


@dataclass(frozen=True, slots=True)
class Streamed:
    """A plain call's answer that came as a stream. `is_over`: it came to its end."""

    answer: dict[str, Any]
    told: StreamUsage
    is_over: bool


def read_events(data: bytes, hold: Hold, *, answers: int) -> Streamed | None:
    """What a body says that is a stream, counted as it is in a stream; None for any other."""
    found = sse.body_events(data)
    answer = None if found is None else sse.joined(found[0])
    if found is None or answer is None:
        return None
    events, unread = found
    told = StreamUsage(answers)
    for event in events:
        text_bytes = event.text_bytes
        hold.count.arrived(text_bytes, event.data)
        told.took(event, hold.reported(event.data or {}), text_bytes=text_bytes)
    hold.count.arrived(len(unread))
    return Streamed(answer, told, is_over=told.have_ended or any(event.done for event in events))


def json_object(data: bytes) -> dict[str, Any]:
    parsed = read_json(data)
    return parsed if isinstance(parsed, dict) else {}


def is_json(data: bytes) -> bool:
    """Whether clients can read it as the JSON object that an error is."""
    try:
        return isinstance(orjson.loads(data), dict)
    except orjson.JSONDecodeError:
        return False
