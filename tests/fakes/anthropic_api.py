"""Anthropic's Messages API, as strict as the real one about what it is sent. The rules are its API reference's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.fakes.scripted import Fake, Refused

FIELDS = set(
    """model max_tokens messages system temperature top_p top_k stop_sequences stream tools tool_choice thinking
    metadata output_config service_tier container inference_geo cache_control""".split()  # noqa: SIM905
)
USAGE = {
    "input_tokens": 30,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 10,
    "output_tokens": 12,
    "service_tier": "standard",
}
TEXT = ["Good", " morning", " to you."]
INPUT = {"city": "Zürich"}


class Anthropic(Fake):
    def error(self, refused: Refused) -> dict[str, Any]:
        return {
            "type": "error",
            "error": {"type": refused.kind, "message": refused.message},
            "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
        }

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> dict[str, Any] | Iterable[bytes]:
        if headers.get("x-api-key") != self.key:
            raise Refused(401, "invalid x-api-key", kind="authentication_error")
        if headers.get("anthropic-version") != "2023-06-01":
            raise Refused(400, "anthropic-version: header is required")
        if path == "/v1/models":
            return {"data": [{"type": "model", "id": "claude-sonnet-4-5"}], "has_more": False}
        if path != "/v1/messages":
            raise Refused(404, "Not Found", kind="not_found_error")
        check(body)
        called = [
            {"type": "tool_use", "id": f"toolu_{tool['name']}", "name": tool["name"], "input": INPUT}
            for tool in body.get("tools", ())
            if body.get("tool_choice", {}).get("type") != "none"
        ]
        thought = [{"type": "thinking", "thinking": "Hm.", "signature": "sig"}] if body.get("thinking") else []
        blocks = [*thought, {"type": "text", "text": "".join(TEXT)}, *called]
        message = {
            "id": "msg_01",
            "type": "message",
            "role": "assistant",
            "model": f"{body['model']}-20250929",
            "content": blocks,
            "stop_reason": "tool_use" if called else "end_turn",
            "stop_sequence": None,
            "usage": USAGE,
        }
        return stream(message) if body.get("stream") else message


def check(body: dict[str, Any]) -> None:
    if unknown := set(body) - FIELDS:
        raise Refused(400, f"{sorted(unknown)[0]}: Extra inputs are not permitted")
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            raise Refused(400, f"{name}: Field required")
    if not 0 <= body.get("temperature", 0) <= 1:
        raise Refused(400, "temperature: range: 0..1")
    if "temperature" in body and "top_p" in body:
        raise Refused(400, "`temperature` and `top_p` cannot both be specified for this model.")
    _check_thinking(body)
    _check_turns(body["messages"])
    _check_tools(body)
    schema = body.get("output_config", {}).get("format", {}).get("schema")
    if schema is not None:
        _check_schema(schema)


def _check_thinking(body: dict[str, Any]) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    if thinking["type"] == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        raise Refused(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    if "temperature" in body:
        raise Refused(400, "`temperature` may only be set to 1 when thinking is enabled.")
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        raise Refused(400, "Thinking may not be enabled when tool_choice forces tool use.")


def _check_turns(turns: list[dict[str, Any]]) -> None:
    if not turns:
        raise Refused(400, "messages: at least one message is required")
    if turns[0]["role"] != "user":
        raise Refused(400, "messages: first message must use the user role")
    open_calls: set[str] = set()
    ids: set[str] = set()
    for position, turn in enumerate(turns):
        if set(turn) != {"role", "content"} or turn["role"] not in ("user", "assistant"):
            raise Refused(400, f"messages.{position}: Extra inputs are not permitted")
        results = {block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"}
        if results != open_calls:
            raise Refused(400, f"messages.{position}: `tool_use` ids were found without `tool_result` blocks")
        kinds = [block["type"] for block in turn["content"]]
        if "tool_result" in kinds and kinds != sorted(kinds, key="tool_result".__ne__):
            raise Refused(400, f"messages.{position}: tool_result blocks must come first")
        for block in turn["content"]:
            _check_block(block, position)
        called = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
        open_calls = set(called)
        if len(open_calls) < len(called) or open_calls & ids:
            raise Refused(400, f"messages.{position}: `tool_use` ids must be unique")
        ids |= open_calls


def _check_block(block: dict[str, Any], position: int) -> None:
    allowed = {
        "text": {"type", "text"},
        "image": {"type", "source"},
        "tool_use": {"type", "id", "name", "input"},
        "tool_result": {"type", "tool_use_id", "content", "is_error"},
    }[block["type"]]
    if not set(block) <= allowed:
        raise Refused(400, f"messages.{position}.content.0: Extra inputs are not permitted")
    if block["type"] == "text" and not block["text"].strip():
        raise Refused(400, "messages: text content blocks must contain non-whitespace text")
    if block["type"] == "tool_use" and not isinstance(block["input"], dict):
        raise Refused(400, "messages: input: Input should be a valid dictionary")


def _check_tools(body: dict[str, Any]) -> None:
    used = any(block["type"] == "tool_use" for turn in body["messages"] for block in turn["content"])
    if used and not body.get("tools"):
        raise Refused(400, "Requests which include `tool_use` or `tool_result` blocks must define tools")
    if "tool_choice" in body and not body.get("tools"):
        raise Refused(400, "tool_choice may only be specified while providing tools")
    for tool in body.get("tools", ()):
        if not set(tool) <= {"name", "description", "input_schema"} or tool["input_schema"].get("type") != "object":
            raise Refused(400, "tools.0.custom.input_schema.type: Field required")


def _check_schema(schema: dict[str, Any]) -> None:
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise Refused(400, "For 'object' type, 'additionalProperties' must be explicitly set to false")
    if unknown := {"minimum", "maximum", "minLength", "oneOf", "pattern", "maxItems"} & set(schema):
        raise Refused(400, f"For this type, property {sorted(unknown)[0]!r} is not supported")
    for value in schema.get("properties", {}).values():
        _check_schema(value)


def stream(message: dict[str, Any]) -> Iterable[bytes]:
    """The events of an answer, as the real API sends them."""
    usage = {**message["usage"], "output_tokens": 1}
    yield event("message_start", message={**message, "content": [], "stop_reason": None, "usage": usage})
    yield event("ping")
    for index, block in enumerate(message["content"]):
        kind = block["type"]
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}[kind]
        yield event("content_block_start", index=index, content_block={**block, **empty})
        for delta in _deltas(block):
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": message["usage"]["output_tokens"]})
    yield event("message_stop")


def _deltas(block: dict[str, Any]) -> Iterable[dict[str, Any]]:
    if block["type"] == "text":
        return [{"type": "text_delta", "text": text} for text in TEXT]
    if block["type"] == "thinking":
        return [{"type": "thinking_delta", "thinking": "Hm."}, {"type": "signature_delta", "signature": "sig"}]
    written = json.dumps(block["input"], ensure_ascii=False)
    return [{"type": "input_json_delta", "partial_json": written[at : at + 4]} for at in range(0, len(written), 4)]


def event(type: str, **data: Any) -> bytes:
    return f"event: {type}\ndata: {json.dumps({'type': type, **data})}\n\n".encode()
