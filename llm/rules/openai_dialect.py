"""Chat requests for endpoints that speak OpenAI's dialect, and their streams in the shape of Mistral's. Pure.

A request starts from what the client sent, so that fields which only OpenAI knows arrive; what only Mistral knows is
translated or left out. A stream's tool calls come whole and its usage comes with the end of the answer, as Mistral
sends them: its own client cannot read them in parts, and OpenAI's can read them whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from llm.rules import sse
from llm.rules.mistral_dialect import DialectError, Request, load_object

# Paths below /v1 that such endpoints have, and we translate.
KINDS = frozenset({"chat", "embedding", "moderation"})
# Known to Mistral alone: OpenAI answers an unknown field with a 400.
_MISTRALS = (
    "safe_prompt",
    "prompt_mode",
    "random_seed",
    "min_tokens",
    "repetition_penalty",
    "prompt_logprobs",
    "top_prompt_logprobs",
    "top_k",
    "guardrails",
)
# Without effect on the answer, but not on its price: predicted text that is wrong is charged, beyond `max_tokens`.
_WITHOUT_BOUND = ("prediction",)
# OpenAI's error codes that say that our account has no money, although the status says "rate limit".
_OUT_OF_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


def request_body(
    request: Request, *, model: str, max_tokens: int | None, disabled_tools: Collection[str], native: bool
) -> bytes:
    """The request in OpenAI's dialect. `native`: for OpenAI itself, not one of its likes. Raises DialectError."""
    payload = {**shape(request, model=model, native=native), "model": model}
    if request.kind == "chat":
        _bound(payload, request.max_tokens if max_tokens is None else max_tokens, native=native)
        _remove_tools(payload, request.tools, frozenset(disabled_tools))
    return orjson.dumps(payload)


def shape(request: Request, *, model: str, native: bool) -> dict[str, Any]:
    """All of the body but its model and length, with every tool: what is counted before it is sent. DialectError."""
    if request.kind not in KINDS or request.content_type.partition(";")[0].strip() != "application/json":
        raise DialectError(f"{model} cannot be asked for this: its provider has no such call.", "model")
    payload = load_object(request.body, kind=request.kind)
    del payload["model"]
    if request.kind != "chat":
        _translate_input(payload)
        return payload
    _translate_fields(payload, native=native)
    payload["messages"] = [_message(message, native=native) for message in payload["messages"]]
    if payload.get("tools"):
        payload["tools"] = [{"type": "function", **tool} for tool in payload["tools"]]
    options = payload.pop("stream_options", None)
    if request.stream:
        obfuscation = options.get("include_obfuscation") if isinstance(options, dict) else None
        known = {} if obfuscation is None else {"include_obfuscation": bool(obfuscation)}
        payload["stream_options"] = {**known, "include_usage": True}
    return payload


def out_of_money(body: bytes) -> bool:
    """Whether a refusal says that our account at the provider has no money left."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = answer.get("error") if isinstance(answer, dict) else None
    return isinstance(error, dict) and not _OUT_OF_MONEY.isdisjoint(
        word for word in (error.get("code"), error.get("type")) if isinstance(word, str)
    )


def _translate_input(payload: dict[str, Any]) -> None:
    if "output_dimension" in payload:
        payload.setdefault("dimensions", payload.pop("output_dimension"))
    if "output_dtype" in payload and payload.pop("output_dtype") not in (None, "float"):
        raise DialectError("`output_dtype` other than float is not supported by this model.", "output_dtype")
    payload.pop("metadata", None)


def _bound(payload: dict[str, Any], max_tokens: int | None, *, native: bool) -> None:
    """The bound that was held for, under the one name that the endpoint takes."""
    payload.pop("max_tokens", None)
    payload.pop("max_completion_tokens", None)
    if max_tokens is not None:
        payload["max_completion_tokens" if native else "max_tokens"] = max_tokens


def _translate_fields(payload: dict[str, Any], *, native: bool) -> None:
    seed = payload.get("random_seed")
    if seed is not None:
        payload.setdefault("seed", seed)
    for name in _MISTRALS + _WITHOUT_BOUND:
        payload.pop(name, None)
    # OpenAI keeps metadata with stored answers only; the gateway's own use of it is over.
    if payload.get("store") is not True:
        payload.pop("metadata", None)
    # Other tiers have other prices than the catalogue's.
    if payload.pop("service_tier", None) is not None and native:
        payload["service_tier"] = "default"
    if payload.get("tool_choice") == "any":
        payload["tool_choice"] = "required"
    for name in ("tools", "tool_choice", "response_format", "parallel_tool_calls", "stop", "stream"):
        if name in payload and payload[name] is None:
            del payload[name]


def _message(message: Mapping[str, Any], *, native: bool) -> dict[str, Any]:
    """A message without what only Mistral's have."""
    if message.get("prefix"):
        raise DialectError("`prefix` is not supported by this model.", "messages")
    translated = {name: value for name, value in message.items() if name != "prefix"}
    role = message["role"]
    if role == "developer" and not native:
        translated["role"] = "system"
    if role == "tool":
        translated.pop("name", None)
    if isinstance(message.get("content"), list):
        translated["content"] = [_part(part) for part in message["content"] if part.get("type") != "thinking"]
        if not translated["content"]:
            translated["content"] = None if message.get("tool_calls") else ""
    if calls := message.get("tool_calls"):
        translated["tool_calls"] = [_tool_call(call) for call in calls]
    else:
        translated.pop("tool_calls", None)
    return translated


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") == "image_url" and isinstance(part["image_url"], str):
        return {**part, "image_url": {"url": part["image_url"]}}
    return {"type": "text", **part}


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        arguments = orjson.dumps(arguments).decode()
    return {
        "id": call.get("id"),
        "type": "function",
        "function": {"name": function.get("name"), "arguments": arguments},
    }


def _remove_tools(payload: dict[str, Any], names: tuple[str, ...], disabled: Collection[str]) -> None:
    tools = payload.get("tools")
    if not tools:
        return
    kept = [tool for name, tool in zip(names, tools, strict=True) if name not in disabled]
    if kept:
        payload["tools"] = kept
        return
    for name in ("tools", "tool_choice", "parallel_tool_calls"):
        payload.pop(name, None)


class Shaper:
    """Turns a stream of OpenAI's chunks into one of Mistral's. Chunks that need no change stay the bytes they were."""

    def __init__(self) -> None:
        # Tool calls that are still being written: answer -> position -> call.
        self._calls: dict[int, dict[int, dict[str, Any]]] = {}
        # The chunk that ended an answer, kept for the usage that follows it.
        self._kept: dict[str, Any] | None = None
        self._last: dict[str, Any] = {}
        self._call_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes that the model has written and that have not been passed on yet."""
        return self._call_bytes + sse.answer_bytes(self._kept)

    @property
    def waits(self) -> bool:
        """Whether an answer's end is kept back for the usage that may follow."""
        return self._kept is not None

    def feed(self, event: sse.Event) -> bytes:
        """What to pass on for an event."""
        if event.done:
            return self.rest() + event.raw
        data = event.data
        if data is None:
            # A sign of life in place of the usage.
            return self.flush() + event.raw
        choices = data.get("choices")
        if not choices:
            return self._without_choices(data, event)
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            return event.raw
        self._last = data
        before = self.flush()
        taken = [self._take_calls(choice) for choice in choices]
        if any(choice.get("finish_reason") for choice in choices):
            self._kept = data
            return before + (self.flush() if isinstance(data.get("usage"), dict) else b"")
        if not any(taken):
            return before + event.raw
        # A comment shows that the model is at work: clients leave it out, and the hold can grow with what is kept.
        return before + (sse.write_event(data) if any(choice["delta"] for choice in choices) else sse.COMMENT)

    def rest(self) -> bytes:
        """What is still kept back: the last chunk where no usage followed, unfinished calls where the stream broke."""
        flushed = self.flush()
        choices = [
            {"index": index, "delta": {"tool_calls": self._give_calls(index)}, "finish_reason": None}
            for index in sorted(self._calls)
        ]
        return flushed + (sse.write_event({**self._last, "choices": choices}) if choices else b"")

    def _without_choices(self, data: dict[str, Any], event: sse.Event) -> bytes:
        if data.get("error"):
            return self.rest() + event.raw
        if not isinstance(data.get("usage"), dict):
            return event.raw
        kept, self._kept = self._kept, None
        if kept is None:
            return sse.write_event({**data, "choices": []})
        return sse.write_event({**kept, "usage": data["usage"]})

    def flush(self) -> bytes:
        kept, self._kept = self._kept, None
        return b"" if kept is None else sse.write_event(kept)

    def _take_calls(self, choice: dict[str, Any]) -> bool:
        """Move the parts of tool calls out of a choice, and whole calls into the one that ends it."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = choice["delta"] = {}
        index = _whole(choice.get("index")) or 0
        parts = delta.get("tool_calls")
        listed = parts if isinstance(parts, list) else []
        mine = [part for part in listed if _is_call(part)]
        # What is no function's call, or no call at all, goes on as it is.
        if len(mine) == len(listed) and parts is listed:
            del delta["tool_calls"]
        elif mine:
            delta["tool_calls"] = [part for part in listed if not _is_call(part)]
        for part in mine:
            self._add(index, part)
        if choice.get("finish_reason") and index in self._calls:
            delta["tool_calls"] = self._give_calls(index) + list(delta.get("tool_calls") or ())
        return bool(mine)

    def _add(self, answer: int, part: Mapping[str, Any]) -> None:
        calls = self._calls.setdefault(answer, {})
        id, position = _text(part.get("id")), _whole(part.get("index"))
        if position is None:
            # Some leave it out, and then send a call whole.
            position = len(calls) if id or not calls else max(calls)
        elif id and position in calls and calls[position]["id"] not in ("", id):
            # Some number all calls alike: a new id is a new call.
            position = max(calls) + 1
        elif not id and position in calls:
            position = max(at for at in calls if calls[at]["position"] == position)
        call = calls.setdefault(
            position, {"id": "", "name": "", "arguments": [], "bytes": 0, "position": _whole(part.get("index"))}
        )
        function = part["function"]
        call["id"] = id or call["id"]
        call["name"] = _text(function.get("name")) or call["name"]
        arguments = _text(function.get("arguments"))
        if arguments:
            call["arguments"].append(arguments)
        more_bytes = len(_text(function.get("name")).encode(errors="surrogatepass"))
        more_bytes += len(arguments.encode(errors="surrogatepass"))
        call["bytes"] += more_bytes
        self._call_bytes += more_bytes

    def _give_calls(self, answer: int) -> list[dict[str, Any]]:
        calls = sorted(self._calls.pop(answer).items())
        self._call_bytes -= sum(call["bytes"] for _, call in calls)
        return [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": "".join(call["arguments"])},
                "index": position,
            }
            for position, call in calls
        ]


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    """A text, or the JSON of what should have been one."""
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def _is_call(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("function"), dict)
