"""The one answer that the events of a stream make. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.rules.sse import Event, EventReader, choices_of, is_stream
from llm.rules.tool_calls import CallParts


def whole_answer(body: bytes) -> dict[str, Any] | None:
    """The one answer that a stream's events make, where a body is a stream; None for anything else."""
    if not is_stream(body):
        return None
    reader, joined = EventReader(), Joined()
    for event in reader.feed(body) + reader.rest()[0]:
        joined.took(event)
    return joined.answer()


class Joined:
    """The one answer that events make, as they come: texts one after the other, tool calls from their parts."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._parts: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, CallParts] = {}

    def took(self, event: Event) -> None:
        # The first says what all of it is; usage and errors come with any.
        for name, value in (event.data or {}).items():
            if name not in self._head or (name in ("usage", "error") and value):
                self._head[name] = value
        for choice in choices_of(event.data):
            index = index if isinstance(index := choice.get("index"), int) else 0
            _add_part(self._parts.setdefault(index, {}), choice, self._calls.setdefault(index, CallParts()))

    @property
    def has_begun(self) -> bool:
        return bool(self._head)

    def answer(self) -> dict[str, Any] | None:
        """None where none of them held a part of one."""
        whole = []
        for index, part in sorted(self._parts.items()):
            message = part["message"]
            if isinstance(message, dict):
                calls = {"tool_calls": self._calls[index].whole()} if self._calls[index] else {}
                message = {name: _whole_text(value) for name, value in message.items()} | calls
            whole.append({**part, "message": message, "index": index})
        return {**self._head, "object": "chat.completion", "choices": whole} if whole else self._head or None


class _Text(list[str]):
    """A text in its parts: put together once, at the end, or it would be copied with every part of it."""


def _whole_text(value: Any) -> Any:
    return "".join(value) if isinstance(value, _Text) else value


def _add_part(whole: dict[str, Any], part: Mapping[str, Any], calls: CallParts) -> None:
    """Put a part of an answer to what came of it before: texts one after the other, tool calls to `calls`."""
    delta = part.get("delta")
    message = whole.setdefault("message", {"role": "assistant", "content": ""})
    if not isinstance(message, dict):
        # A text in its place: what comes as it should does not go there.
        message = whole["message"] = {"role": "assistant", "content": message if isinstance(message, str) else ""}
    for name, value in delta.items() if isinstance(delta, dict) else ():
        if name == "tool_calls" and isinstance(value, list):
            for call in value:
                calls.took(call)
        elif isinstance(value, str) and isinstance(text := message.get(name), str | _Text) and name != "role":
            if isinstance(text, str):
                text = message[name] = _Text([text])
            text.append(value)
        elif value is not None:
            message[name] = value
    whole.update({name: value for name, value in part.items() if name != "delta" and value is not None})
