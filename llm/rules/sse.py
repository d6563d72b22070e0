"""Streams of server-sent events: split as they come, read, and written. Pure.

A stream is relayed as the bytes it came in; the reader looks at each event once, for its usage and its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from governance.rules import money
from governance.rules.calls import Usage

DONE = b"data: [DONE]\n\n"
# Says nothing to a client but that the stream lives.
COMMENT = b":\n\n"
# An empty line ends an event; lines end in CRLF, LF or CR. (?>...) keeps CRLF from being read as two ends.
_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LONGEST_END = 4


@dataclass(slots=True)
class Event:
    """One event. `raw` is what came, its empty line included; `data` its JSON object, None where it holds none."""

    raw: bytes
    data: dict[str, Any] | None = None
    done: bool = False

    @property
    def usage(self) -> Mapping[str, Any] | None:
        usage = self.data.get("usage") if self.data else None
        return usage if isinstance(usage, dict) else None

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of what the model wrote in this event: text, reasoning and tool calls."""
        return sum(_choice_bytes(choice) for choice in _choices(self.data)) if self.data else 0

    @property
    def finish_reason(self) -> str | None:
        reasons = (choice.get("finish_reason") for choice in _choices(self.data))
        return next((reason for reason in reasons if isinstance(reason, str)), None)


class EventReader:
    """Splits a stream into events. Joined, the events' `raw` and `rest()` are the stream."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes, in order."""
        seen = max(0, len(self._buffer) - _LONGEST_END)
        buffer = self._buffer + chunk if self._buffer else chunk
        events = []
        start = 0
        while end := _END.search(buffer, max(start, seen)):
            stop = end.end()
            # The CR may be half of a CRLF whose LF is on its way.
            if stop == len(buffer) and buffer.endswith(b"\r"):
                break
            events.append(read_event(buffer[start:stop]))
            start = stop
        self._buffer = buffer[start:]
        return events

    def rest(self) -> bytes:
        """What came after the last complete event, and forget it. Not empty where a stream was cut."""
        rest, self._buffer = self._buffer, b""
        return rest


def read_event(raw: bytes) -> Event:
    """One complete event. What is no JSON object is relayed all the same, with no data."""
    text = _data_of(raw)
    if text == b"[DONE]":
        return Event(raw, done=True)
    if not text:
        return Event(raw)
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError:
        return Event(raw)
    return Event(raw, data if isinstance(data, dict) else None)


def write_event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def with_cost(event: Event, *, cost_nanos: int) -> bytes:
    """The event with `usage.cost_usd` added, a decimal string of dollars; unchanged where it has no usage."""
    if event.data is None or event.usage is None:
        return event.raw
    return write_event({**event.data, "usage": {**event.usage, "cost_usd": money.format_dollars(cost_nanos)}})


def final_chunk(
    *,
    like: Mapping[str, Any] | None,
    model: str,
    usage: Usage,
    cost_nanos: int,
    reason: str,
    request_id: str = "",
    created: int = 0,
    indexes: Iterable[int] = (0,),
) -> bytes:
    """The last chunk of a stream that is stopped: as if its length had run out, which every client understands.

    `like` is the last chunk seen (its id, model and time are kept), None before the first. `indexes` are the answers
    still open. `reason` goes under a key of our own, which clients ignore. `DONE` has to follow.
    """
    like = like or {}
    choices = [{"index": index, "delta": {"content": ""}, "finish_reason": "length"} for index in indexes]
    return write_event(
        {
            "id": like.get("id") or request_id,
            "object": "chat.completion.chunk",
            "created": like.get("created") or created,
            "model": like.get("model") or model,
            "choices": choices,
            "usage": {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
                "cost_usd": money.format_dollars(cost_nanos),
            },
            "governor": {"stopped": reason},
        }
    )


def answer_bytes(answer: Any) -> int:
    """UTF-8 bytes of what the model wrote in a plain answer: what to count where its usage is missing."""
    return sum(_choice_bytes(choice) for choice in _choices(answer)) if isinstance(answer, dict) else 0


def _data_of(raw: bytes) -> bytes:
    if raw.startswith(b"data: {"):
        # Nearly every event is one line; JSON holds no raw line ends.
        text = raw[6:].strip()
        if b"\n" not in text and b"\r" not in text:
            return text
    lines = raw.removeprefix(b"\xef\xbb\xbf").splitlines()
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")).strip()


def _choices(data: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    choices = data.get("choices") if data else None
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _choice_bytes(choice: Mapping[str, Any]) -> int:
    message = choice.get("delta") or choice.get("message")
    if not isinstance(message, dict):
        return 0
    written = (message.get(name) for name in ("content", "reasoning_content", "reasoning"))
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    called = [
        function.get(name) for function in functions if isinstance(function, dict) for name in ("name", "arguments")
    ]
    return sum(_written_bytes(value) for value in (*written, *called))


def _written_bytes(value: Any) -> int:
    """Bytes of a text, or of every text in a part, a list of parts or a tool call's arguments."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
    if isinstance(value, list):
        return sum(_written_bytes(part) for part in value)
    if not isinstance(value, dict):
        return 0
    kind = value.get("type")
    if kind in ("text", "thinking"):
        return _written_bytes(value.get(kind))
    return len(orjson.dumps(value))
