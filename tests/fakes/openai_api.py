"""OpenAI's chat completions, as strict as the real ones about what they are sent.

The names of fields come from OpenAI's own client; the rules from its API reference: an unknown field is refused, and a
model that reasons takes `max_completion_tokens` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, get_type_hints

from openai.types.chat import completion_create_params

from tests.fakes.scripted import Fake, Refused

FIELDS = set(get_type_hints(completion_create_params.CompletionCreateParamsBase)) | {"stream"}
MESSAGE_FIELDS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "refusal", "audio", "function_call"},
    "tool": {"role", "content", "tool_call_id"},
}
USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 12,
    "total_tokens": 52,
    "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
TEXT = ["Good", " morning", " to you."]


class OpenAI(Fake):
    def error(self, refused: Refused) -> dict[str, Any]:
        return {
            "error": {"message": refused.message, "type": refused.kind, "param": None, "code": refused.code or None}
        }

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> dict[str, Any] | Iterable[bytes]:
        if headers.get("authorization") != f"Bearer {self.key}":
            raise Refused(401, f"Incorrect API key provided: {headers.get('authorization')}", code="invalid_api_key")
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": "gpt-5-mini", "object": "model"}]}
        if path == "/v1/embeddings":
            return {
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
                "model": body["model"],
                "usage": {"prompt_tokens": 5, "total_tokens": 5},
            }
        if path != "/v1/chat/completions":
            raise Refused(404, f"Invalid URL (POST {path})")
        check(body)
        head = {"id": "chatcmpl-1", "created": 1_760_000_000, "model": body["model"], "system_fingerprint": "fp"}
        calls = [_call(tool["function"]["name"]) for tool in body.get("tools", ())]
        if body.get("stream"):
            return stream(head, calls, usage=body.get("stream_options", {}).get("include_usage", False))
        message: dict[str, Any] = {"role": "assistant", "content": "".join(TEXT), "refusal": None, "annotations": []}
        if calls:
            message |= {"content": None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop", "logprobs": None}
        return {**head, "object": "chat.completion", "choices": [choice], "usage": USAGE, "service_tier": "default"}


def check(body: dict[str, Any]) -> None:
    if unknown := set(body) - FIELDS:
        raise Refused(400, f"Unrecognized request argument supplied: {sorted(unknown)[0]}")
    if "max_tokens" in body:
        raise Refused(400, "Unsupported parameter: 'max_tokens' is not supported with this model.")
    if body.get("metadata") is not None and not body.get("store"):
        raise Refused(400, "The 'metadata' parameter is only allowed when 'store' is enabled.")
    if "stream_options" in body and not body.get("stream"):
        raise Refused(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    if body.get("tool_choice") not in (None, "none", "auto", "required") and not isinstance(body["tool_choice"], dict):
        raise Refused(400, "Invalid value for 'tool_choice'.")
    if "tool_choice" in body and not body.get("tools"):
        raise Refused(400, "'tool_choice' is only allowed when 'tools' are specified.")
    for tool in body.get("tools", ()):
        if tool.get("type") != "function":
            raise Refused(400, "Missing required parameter: 'tools[0].type'.")
    for message in body["messages"]:
        _check_message(message)
    _check_results(body["messages"])


def _check_results(messages: list[dict[str, Any]]) -> None:
    """As https://github.com/langchain-ai/langchain/issues/26826 and many others met it."""
    waiting: set[str] = set()
    for message in [*messages, {"role": "end"}]:
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                raise Refused(
                    400, "messages with role 'tool' must be a response to a preceding message with 'tool_calls'."
                )
            waiting.discard(message["tool_call_id"])
            continue
        if waiting:
            raise Refused(
                400, "An assistant message with 'tool_calls' must be followed by tool messages responding to each one."
            )
        waiting = {call["id"] for call in message.get("tool_calls") or ()}


def _check_message(message: dict[str, Any]) -> None:
    if unknown := set(message) - MESSAGE_FIELDS[message["role"]]:
        raise Refused(400, f"Additional properties are not allowed ({sorted(unknown)[0]!r} was unexpected)")
    if message.get("content") is None and not (message.get("tool_calls") or message.get("refusal")):
        raise Refused(400, "Invalid value for 'content': expected a string, got null.")
    for part in message["content"] if isinstance(message.get("content"), list) else ():
        if part["type"] not in ("text", "image_url", "input_audio", "file", "refusal"):
            raise Refused(400, f"Invalid value: {part['type']!r}.")
        if part["type"] == "image_url" and not isinstance(part["image_url"], dict):
            raise Refused(400, "Invalid type for 'messages[0].content[0].image_url': expected an object.")
    for call in message.get("tool_calls") or ():
        if set(call) != {"id", "type", "function"} or not isinstance(call["function"]["arguments"], str):
            raise Refused(400, "Invalid 'messages[1].tool_calls[0]'.")


def stream(head: dict[str, Any], calls: list[dict[str, Any]], *, usage: bool = True) -> Iterable[bytes]:
    """As OpenAI sends it: tool calls in parts, usage in a chunk of its own without choices."""

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        more = {"usage": None} if usage else {}
        return event({**head, "object": "chat.completion.chunk", "choices": [choice], **more})

    yield chunk({"role": "assistant", "content": None if calls else "", "refusal": None})
    if not calls:
        for text in TEXT:
            yield chunk({"content": text})
    for index, call in enumerate(calls):
        function = call["function"]
        yield chunk({"tool_calls": [{**call, "index": index, "function": {**function, "arguments": ""}}]})
        for at in range(0, len(function["arguments"]), 4):
            part = {"arguments": function["arguments"][at : at + 4]}
            yield chunk({"tool_calls": [{"index": index, "function": part}]})
    yield chunk({}, "tool_calls" if calls else "stop")
    if usage:
        yield event({**head, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    yield b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _call(name: str) -> dict[str, Any]:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": '{"city": "Zürich"}'}}
