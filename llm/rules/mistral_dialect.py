"""A request as Mistral takes it. Pure.

Mistral answers an unknown field with a 422, so what only others know is left out or refused. A request that needs no
change is relayed byte for byte. `llm.rules.client_requests` reads what clients send, `llm.rules.sse` the streams.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from llm.rules import tool_calls
from llm.rules.client_requests import Request, refuse_unanswered
from llm.rules.request_checks import DialectError, holds_no_media

PROVIDER = "mistral"
# What other providers know in a message, or in what is in one: Mistral answers an unknown field with a 422.
OTHERS_IN_MESSAGES = ("cache_control", "extra_content", "provider_specific_fields", "reasoning_details")
_MESSAGE_FIELDS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls", "prefix"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}
# What stands between a tool's result and a user's next words, where the model said nothing: Mistral wants it to.
_DONE = {"role": "assistant", "content": "Done."}
_PART_FIELDS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"type", "text"}),
    "image_url": frozenset({"type", "image_url"}),
}
_IMAGE_DETAILS = ("low", "auto", "high")
_CALL_FIELDS = frozenset({"id", "type", "function", "index"})
_CALLED_FIELDS = frozenset({"name", "arguments"})
_FUNCTION_FIELDS = frozenset({"name", "description", "strict", "parameters"})


def apply(
    request: Request, *, model: str, max_tokens: int | None = None, disabled_tools: Collection[str] = ()
) -> bytes:
    """The body to send upstream, written from the payload that was counted: what came may be read in two ways.

    `max_tokens` None leaves the request's own. With its last tool a request loses `tool_choice` too.
    """
    if request.model_at is not None:
        start, stop = request.model_at
        named = request.body[start:stop] == model.encode()
        return request.body if named else request.body[:start] + model.encode() + request.body[stop:]
    removed = set(disabled_tools) & set(request.tools)
    payload = {**shape(request), "model": model}
    if request.kind == "chat":
        # A faster tier costs more, and an account that has it may be put on it without a word.
        payload["service_tier"] = "standard_only"
    if max_tokens is not None:
        payload["max_tokens"] = max_tokens
    if removed:
        kept = [tool for name, tool in zip(request.tools, payload["tools"], strict=True) if name not in removed]
        if kept:
            payload["tools"] = kept
        else:
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                payload.pop(name, None)
    return orjson.dumps(payload)


def shape(request: Request) -> dict[str, Any]:
    """The payload as Mistral takes it: what else is in it, other providers know. It is counted before it is sent."""
    if request.kind != "chat":
        return request.payload
    if request.shaped is None:
        payload = dict(request.payload)
        renamed = tool_calls.with_ids(payload["messages"], tool_calls.MISTRALS_IDS)
        refuse_unanswered(renamed, between=("system",))
        known = [_known_message(message, f"messages.{at}") for at, message in enumerate(renamed)]
        payload["messages"] = _in_order(known)
        if payload.get("tools"):
            payload["tools"] = [_known_tool(tool) for tool in payload["tools"]]
        if payload.get("temperature") == 0:
            # Mistral refuses to choose among words of which only the likeliest is taken; to others it means nothing.
            payload.pop("top_p", None)
        # Nearly every request is as Mistral takes it already.
        request.shaped = request.payload if payload == request.payload else payload
    return request.shaped


def _in_order(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages as Mistral lets them follow each other. Raises DialectError.

    An answer that is empty is left out, a system message goes to the start where it may not stand, and the model has
    a word between a tool's result and a user's.
    """
    first: list[Mapping[str, Any]] = []
    others: list[Mapping[str, Any]] = []
    for message in messages:
        role, before = message["role"], others[-1]["role"] if others else ""
        if role == "assistant" and not (message.get("content") or message.get("tool_calls") or message.get("prefix")):
            continue
        if role == "system" and before in ("", "assistant", "tool"):
            first.append(message)
            continue
        if role == "user" and before == "tool":
            others.append(_DONE)
        others.append(message)
    if others and others[-1]["role"] == "assistant" and not others[-1].get("prefix"):
        place = f"messages.{len(messages) - 1}"
        raise DialectError(f"`{place}` must be a user's or a tool's for this model, or have `prefix`.", place)
    return [*first, *others]


def _known_message(message: Mapping[str, Any], param: str) -> Mapping[str, Any]:
    fields = _MESSAGE_FIELDS[message["role"]]
    known = {name: value for name, value in message.items() if name in fields}
    if len(known) < len(message):
        _refuse_unknown(message, fields, param)
    if isinstance(content := message.get("content"), list):
        known["content"] = [_known_part(part) for part in content]
    if calls := message.get("tool_calls"):
        known["tool_calls"] = [
            {**_only(call, _CALL_FIELDS), "function": _only(call["function"], _CALLED_FIELDS)} for call in calls
        ]
    return known


def _refuse_unknown(message: Mapping[str, Any], fields: Collection[str], param: str) -> None:
    for name, value in message.items():
        if value is None or holds_no_media(name, value):
            continue
        if name not in fields and name not in OTHERS_IN_MESSAGES:
            place = f"{param}.{name[:100]}"
            raise DialectError(f"`{place}` is not known to Mistral: leave it out.", place, "unknown_field")


def _known_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = part.get("type", "text")
    if kind == "refusal":
        return {"type": "text", "text": part["refusal"]}
    if kind == "thinking" and isinstance(part.get("thinking"), str):
        # Anthropic's: its signature is nobody else's.
        return {"type": "thinking", "thinking": [{"type": "text", "text": part["thinking"]}]}
    fields = _PART_FIELDS.get(kind)
    if fields is None:
        return {name: value for name, value in part.items() if name not in OTHERS_IN_MESSAGES}
    known = _only(part, fields)
    if kind == "image_url" and isinstance(image := part["image_url"], dict):
        detail = {"detail": image["detail"]} if image.get("detail") in _IMAGE_DETAILS else {}
        known["image_url"] = {"url": image["url"], **detail}
    return known


def _known_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A function's; what runs at Mistral has fields that nobody here knows."""
    if not isinstance(function := tool.get("function"), dict):
        return tool
    return {**_only(tool, _CALL_FIELDS - {"id", "index"}), "function": _only(function, _FUNCTION_FIELDS)}


def _only(given: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Those fields of an object that have a value: null is what OpenAI's clients send for none."""
    return {name: value for name, value in given.items() if name in fields and value is not None}
