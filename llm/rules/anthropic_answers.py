"""Answers, streams, usages and refusals of Anthropic's Messages API as chat completions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from llm.rules import sse, told_price
from llm.rules.usage import anthropic_input, count

# What says how much was written into a cache, and for how long it is kept there.
_WRITES = ("cache_creation_input_tokens", "cache_creation")
_FINISH = {"max_tokens": "length", "model_context_window_exceeded": "length", "tool_use": "tool_calls"}
_FINISH |= {"refusal": "content_filter"}
_OUT_OF_MONEY = ("your credit balance is too low", "you have reached your specified", "you have reached your spend")


def answer(message: Mapping[str, Any], *, created: int) -> dict[str, Any]:
    """A whole answer as a chat completion. `created` is the moment in seconds, which the API does not say."""
    blocks = [block for block in message.get("content") or () if isinstance(block, dict)]
    written: dict[str, Any] = {"role": "assistant", "content": _joined(blocks, "text")}
    if reasoning := _joined(blocks, "thinking"):
        written["reasoning_content"] = reasoning
    if calls := [
        _tool_call(block, index) for index, block in enumerate(b for b in blocks if b.get("type") == "tool_use")
    ]:
        written["tool_calls"] = calls
    reason = message.get("stop_reason") or ("tool_use" if calls else None)
    return {
        "id": message.get("id"),
        "object": "chat.completion",
        "created": created,
        "model": message.get("model"),
        "choices": [{"index": 0, "message": written, "finish_reason": _finish_reason(reason)}],
        "usage": usage(message.get("usage")),
    }


def unseen_bytes(content: Any, shown: Iterable[Any]) -> int:
    """Bytes of what was written (blocks, or a part of one) that is in none of what is shown of it.

    Signatures are no model's: its API signs what was thought.
    """
    blocks = content if isinstance(content, list) else [content]
    counted = [
        {name: value for name, value in block.items() if name != "signature"} if isinstance(block, dict) else block
        for block in blocks
    ]
    written = sse.answer_bytes({"choices": [{"delta": counted}]})
    return max(0, written - sum(map(sse.answer_bytes, shown)))


def usage(counted: Any) -> dict[str, Any]:
    """The tokens as chat completions count them: those that a cache had a part in are part of the prompt.

    What was written into one stays told, for it costs more. What cannot be read is left out, so that nobody takes it
    for zero.
    """
    if not isinstance(counted, Mapping):
        return {}
    counts: dict[str, Any] = {}
    read = anthropic_input(counted)
    if read is not None:
        prompt = read.plain + read.read + read.written
        counts |= {"prompt_tokens": prompt, "prompt_tokens_details": {"cached_tokens": read.read}}
        counts |= {name: counted[name] for name in _WRITES if counted.get(name)}
    output = count(counted.get("output_tokens"))
    if output is not None:
        counts["completion_tokens"] = output
    if read is not None and output is not None:
        counts["total_tokens"] = prompt + output
    details = counted.get("output_tokens_details")
    if isinstance(details, dict):
        counts["completion_tokens_details"] = {"reasoning_tokens": count(details.get("thinking_tokens")) or 0}
    if counts:
        counts |= {name: counted[name] for name in told_price.IN_USAGE if name in counted}
    return counts


def refusal(body: bytes) -> dict[str, Any]:
    """An error's body in the shape that Mistral's and OpenAI's clients read."""
    error = _error_of(body)
    flat = {
        "message": str(error.get("message") or "The model's API refused the request."),
        "type": str(error.get("type") or "invalid_request_error"),
        "param": None,
        "code": None,
    }
    return {"object": "error", **flat, "error": flat}


def out_of_money(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a refusal says that our account has no money left or has reached a limit that we set.

    It comes as 402, as 400 with a sentence, or as 429 without a time to try again.
    """
    error = _error_of(body)
    if error.get("type") == "billing_error":
        return True
    said = str(error.get("message") or "").lower()
    if status == 400:
        # From the start: further on, a sentence may quote the client's own words.
        return said.startswith(_OUT_OF_MONEY)
    return status == 429 and "retry-after" not in headers and ("usage limit" in said or "spend limit" in said)


class Translator:
    """Turns a stream of the Messages API's events into chunks of a chat completion, as OpenAI sends them."""

    def __init__(self, *, created: int) -> None:
        self._head: dict[str, Any] = {"object": "chat.completion.chunk", "created": created}
        # What the model has written and no chunk shows.
        self.unseen_bytes = 0
        self._usage: dict[str, Any] = {}
        # Whether that is of all that has come: what an answer begins with counts a token of it, or a few.
        self._is_last_word = False
        # Position of a block in the answer -> position among the tool calls.
        self._calls: dict[Any, int] = {}
        # … -> what a tool is called with, of which no text has come.
        self._unwritten: dict[Any, Any] = {}
        self._has_ended = False

    @property
    def used(self) -> Mapping[str, Any]:
        """What was counted so far, of the model that answers: its chunks say so at their end, when it is all."""
        return {"model": self._head.get("model"), "usage": usage(self._usage)} if self._usage else {}

    def feed(self, event: sse.Event) -> list[sse.Event]:
        """The chunks that an event becomes; none for one that says nothing to a client."""
        data = event.data or {}
        match data.get("type"):
            case "message_start":
                message = data.get("message") or {}
                self._head |= {"id": message.get("id"), "model": message.get("model")}
                self._count(message.get("usage"))
                return self._delta({"role": "assistant", "content": ""})
            case "content_block_start":
                return self._counted(data.get("content_block"), self._block_started(data))
            case "content_block_delta":
                return self._counted(data.get("delta"), self._block_grew(data))
            case "content_block_stop":
                return self._written_whole(data.get("index"))
            case "message_delta":
                self._count(data.get("usage"))
                self._is_last_word = _counts_output(data.get("usage")) or self._is_last_word
                reason = (data.get("delta") or {}).get("stop_reason")
                return self._ended(reason) if reason else []
            case "message_stop":
                return [*([] if self._has_ended else self._ended(None)), sse.Event(sse.DONE, done=True)]
            case "error":
                # What was used, or written, before may stand beside it.
                self._count(data.get("usage"))
                counted = {"usage": usage(self._usage) or data["usage"]} if data.get("usage") else {}
                return [self._chunk({**data, "error": data.get("error") or "error", **counted})]
        return []

    def _count(self, counted: Any) -> None:
        """Take over what an event counts: never fewer tokens than an earlier one said."""
        for name, value in counted.items() if isinstance(counted, Mapping) else ():
            known, told = count(self._usage.get(name)), count(value)
            if value is not None and (known is None or told is None or told > known):
                self._usage[name] = value

    def _counted(self, written: Any, events: list[sse.Event]) -> list[sse.Event]:
        """Note what was written: what was counted before is not all, and some has no place in a chat completion."""
        self._is_last_word = False
        self.unseen_bytes += unseen_bytes(written, [event.data for event in events])
        return events

    def _block_started(self, data: Mapping[str, Any]) -> list[sse.Event]:
        block = data.get("content_block") or {}
        if block.get("type") == "text":
            return self._delta({"content": block["text"]}) if block.get("text") else []
        if block.get("type") != "tool_use":
            return []
        index = self._calls[data.get("index")] = len(self._calls)
        self._unwritten[data.get("index")] = block.get("input")
        call = {**_tool_call(block, index), "function": {"name": block.get("name"), "arguments": ""}}
        return self._delta({"tool_calls": [call]})

    def _block_grew(self, data: Mapping[str, Any]) -> list[sse.Event]:
        delta = data.get("delta") or {}
        match delta.get("type"):
            case "text_delta":
                return self._delta({"content": delta.get("text") or ""})
            case "thinking_delta":
                return self._delta({"reasoning_content": delta.get("thinking") or ""})
            case "input_json_delta" if data.get("index") in self._calls:
                text = delta.get("partial_json") or ""
                if text:
                    self._unwritten.pop(data.get("index"), None)
                return self._called_with(data.get("index"), text)
        return []

    def _written_whole(self, index: Any) -> list[sse.Event]:
        """What a tool is called with that the block began with: mostly nothing, which clients read as an object."""
        return self._called_with(index, _arguments(self._unwritten.pop(index))) if index in self._unwritten else []

    def _called_with(self, index: Any, text: str) -> list[sse.Event]:
        return self._delta({"tool_calls": [{"index": self._calls[index], "function": {"arguments": text}}]})

    def _delta(self, delta: Mapping[str, Any]) -> list[sse.Event]:
        return [self._chunk({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})]

    def _ended(self, reason: Any) -> list[sse.Event]:
        self._has_ended = True
        unwritten = [event for index in list(self._unwritten) for event in self._written_whole(index)]
        why = _finish_reason(reason or ("tool_use" if self._calls else None))
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": why}
        counted = {"usage": usage(self._usage)} if self._is_last_word else {}
        return [*unwritten, self._chunk({"choices": [choice], **counted})]

    def _chunk(self, rest: Mapping[str, Any]) -> sse.Event:
        data = {**self._head, **rest}
        return sse.Event(sse.write_event(data), data)


def _counts_output(counted: Any) -> bool:
    return isinstance(counted, Mapping) and counted.get("output_tokens") is not None


def _tool_call(block: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": _arguments(block.get("input"))},
        "index": index,
    }


def _arguments(input: Any) -> str:
    return orjson.dumps(input or {}).decode()


def _joined(blocks: Iterable[Mapping[str, Any]], kind: str) -> str:
    return "".join(block.get(kind) or "" for block in blocks if block.get("type") == kind)


def _finish_reason(reason: Any) -> str:
    return _FINISH.get(reason, "stop") if isinstance(reason, str) else "stop"


def _error_of(body: bytes) -> Mapping[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}
