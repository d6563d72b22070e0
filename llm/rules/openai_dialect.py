"""Chat requests for endpoints that speak OpenAI's dialect, and their streams in the shape of Mistral's. Pure.

A request starts from what the client sent, so that fields which only OpenAI knows arrive; what only Mistral knows is
translated or left out. A stream's tool calls come whole and its usage comes with the end of the answer, as Mistral
sends them: its own client cannot read them in parts, and OpenAI's can read them whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from llm.rules import client_requests, sse, thinking
from llm.rules.answers import read_json
from llm.rules.client_requests import Request, load_object
from llm.rules.mistral_dialect import OTHERS_IN_MESSAGES
from llm.rules.request_checks import DialectError, holds_no_media
from llm.rules.tool_calls import OPENAIS_IDS, CallParts, text_of, with_ids

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
# In a message: Mistral's alone, or what a search found for an answer that was given.
_WITHOUT_EFFECT = ("prefix", "annotations")
# Thoughts of an earlier answer. OpenAI refuses them; some endpoints want their own back.
_OTHERS_THOUGHTS = ("reasoning_content", "reasoning", "thinking_blocks")
# The two names of an answer's bound. Old servers pass over the newer one, and then nothing bounds what they write; so
# it is sent where an endpoint has asked for it.
OLDER, NEWER = "max_tokens", "max_completion_tokens"
_NOT_TAKEN = re.compile(
    r"(?:unrecogni[sz]ed|unknown|unexpected|unsupported|extra)\W+(?:\w+\W+)?(?:argument|parameter|field|keyword|input)"
    r"|extra_forbidden|parameter is not supported"
)
# Where a refusal says in its own words what is wrong, and how deep in it.
_OWN, _DEEPEST = ("error", "errors", "message", "msg", "detail", "details", "param", "loc", "code", "type"), 6
# OpenAI's error codes that say that our account has no money, although the status says "rate limit".
_OUT_OF_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


def request_body(
    request: Request,
    *,
    model: str,
    max_tokens: int | None,
    disabled_tools: Collection[str],
    native: bool,
    newer: bool | None = None,
) -> bytes:
    """The request in OpenAI's dialect. `native`: for OpenAI itself, not one of its likes. Raises DialectError.

    `newer`: the bound goes by its newer name; None: where it is `native`.
    """
    client_requests.refuse_guardrails(request, model=model)
    payload = {**shape(request, model=model, native=native), "model": model}
    if request.kind == "chat":
        bound = request.max_tokens if max_tokens is None else max_tokens
        if bound is not None:
            # What was held for is what may be thought and answered together.
            payload, bound = thinking.within(payload, bound if max_tokens else bound + thinking.tokens_beside(payload))
        _bound(payload, bound, newer=native if newer is None else newer)
        _remove_tools(payload, request.tools, frozenset(disabled_tools))
    return orjson.dumps(payload)


def shape(request: Request, *, model: str, native: bool) -> dict[str, Any]:
    """All of the body but its model and length, with every tool: what is counted before it is sent. DialectError."""
    if request.kind not in KINDS or request.content_type.partition(";")[0].strip() != "application/json":
        raise _no_such_call(model)
    payload = load_object(request.body, kind=request.kind, extra=request.extra)
    del payload["model"]
    if request.kind != "chat":
        if request.kind == "moderation" and _has_messages(payload["input"]):
            raise _no_such_call(model)
        _translate_input(payload)
        return payload
    thinking.tokens_beside(payload)
    _translate_fields(payload, native=native)
    messages = payload["messages"]
    if native:
        messages = with_ids(messages, OPENAIS_IDS)
        client_requests.refuse_unanswered(messages)
    payload["messages"] = [_message(message, native=native) for message in messages]
    if payload.get("tools"):
        payload["tools"] = [{"type": "function", **tool} for tool in payload["tools"]]
        if native:
            payload["tools"] = [_without_others(tool) for tool in payload["tools"]]
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


def renamed_length(body: bytes, refusal: bytes) -> bytes | None:
    """A body whose bound has its newer name, where a refusal says that the older one is not taken; else None.

    Where the request has such words itself, the refusal may have them of it: whoever asks would decide for everybody.
    """
    payload, said, asked = orjson.loads(body), _own_words(refusal), body.decode().lower()
    names_newer = NEWER in said and NEWER not in asked
    refuses_older = OLDER in said and _NOT_TAKEN.search(said) and not _NOT_TAKEN.search(asked)
    if OLDER not in payload or not (names_newer or refuses_older):
        return None
    payload[NEWER] = payload.pop(OLDER)
    return orjson.dumps(payload)


def _own_words(refusal: bytes) -> str:
    """What a refusal says in its own words, in small letters: not what it quotes under other names, as `input`."""
    waiting, words = [(read_json(refusal), 0)], list[str]()
    while waiting:
        said, depth = waiting.pop()
        if isinstance(said, str):
            words.append(said[:1_000])
        elif depth < _DEEPEST:
            inside = [said[name] for name in _OWN if name in said] if isinstance(said, dict) else said
            waiting += [(one, depth + 1) for one in (inside if isinstance(inside, list) else [])[:100]]
    return " ".join(words).lower()


def model_of(body: bytes) -> str:
    return str(orjson.loads(body).get("model"))


def _no_such_call(model: str) -> DialectError:
    return DialectError(f"{model} cannot be asked for this: its provider has no such call.", "model")


def _has_messages(found: Any) -> bool:
    """Whether conversations are to be judged, which Mistral's API alone does; parts of one text have no role."""
    items = found if isinstance(found, list) else ()
    return any(isinstance(item, list) or (isinstance(item, dict) and "role" in item) for item in items)


def _translate_input(payload: dict[str, Any]) -> None:
    if "output_dimension" in payload:
        payload.setdefault("dimensions", payload.pop("output_dimension"))
    if "output_dtype" in payload and payload.pop("output_dtype") not in (None, "float"):
        raise DialectError("`output_dtype` other than float is not supported by this model.", "output_dtype")
    payload.pop("metadata", None)


def _bound(payload: dict[str, Any], max_tokens: int | None, *, newer: bool) -> None:
    """The bound that was held for, under the one name that the endpoint takes."""
    payload.pop(OLDER, None)
    payload.pop(NEWER, None)
    if max_tokens is not None:
        payload[NEWER if newer else OLDER] = max_tokens


def _translate_fields(payload: dict[str, Any], *, native: bool) -> None:
    # OpenRouter's way to ask for what is always asked for.
    payload.pop("usage", None)
    seed = payload.get("random_seed")
    if seed is not None:
        payload.setdefault("seed", seed)
    for name in _MISTRALS + _WITHOUT_BOUND:
        payload.pop(name, None)
    # OpenAI keeps metadata with stored answers only; the gateway's own use of it is over.
    if payload.get("store") is not True:
        payload.pop("metadata", None)
    # Other tiers have other prices than the catalogue's. Without a word OpenAI takes the one of its project's settings.
    payload.pop("service_tier", None)
    if native:
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
    said = {name: value for name, value in message.items() if not holds_no_media(name, value)}
    translated = {name: value for name, value in said.items() if name not in _WITHOUT_EFFECT}
    if native:
        translated = {n: v for n, v in _without_others(translated).items() if n not in _OTHERS_THOUGHTS}
    else:
        _write_refusal(translated)
    role = message["role"]
    if role == "developer" and not native:
        translated["role"] = "system"
    if role == "tool":
        translated.pop("name", None)
    if isinstance(parts := translated.get("content"), list):
        kept = [part for part in parts if part.get("type") != "thinking"]
        translated["content"] = [_part(part, native=native) for part in kept] or None
    if translated.get("content") is None and not (message.get("tool_calls") or translated.get("refusal")):
        translated["content"] = ""
    if calls := message.get("tool_calls"):
        translated["tool_calls"] = [_tool_call(call, native=native) for call in calls]
    else:
        translated.pop("tool_calls", None)
    return translated


def _write_refusal(message: dict[str, Any]) -> None:
    """OpenAI's field for a refusal becomes what was said, and empty fields go: strict endpoints know neither."""
    refusal = message.pop("refusal", None)
    if isinstance(refusal, str):
        message["content"] = client_requests.said(message, refusal)
    for name in (*_OTHERS_THOUGHTS, "function_call"):
        if name in message and message[name] in (None, "", []):
            del message[name]


def _without_others(given: Any) -> Any:
    """A message or a tool without what only other providers know: OpenAI refuses a field that it does not."""
    if isinstance(given, list):
        return [_without_others(inner) for inner in given]
    if not isinstance(given, dict):
        return given
    known = {name: value for name, value in given.items() if name not in OTHERS_IN_MESSAGES}
    for name in ("content", "function"):
        if name in known:
            known[name] = _without_others(known[name])
    return known


def _part(part: Mapping[str, Any], *, native: bool) -> dict[str, Any]:
    if part.get("type") == "refusal" and not native:
        return {"type": "text", "text": part["refusal"]}
    if part.get("type") == "image_url" and isinstance(part["image_url"], str):
        return {**part, "image_url": {"url": part["image_url"]}}
    return {"type": "text"} | {name: value for name, value in part.items() if not holds_no_media(name, value)}


def _tool_call(call: Mapping[str, Any], *, native: bool) -> dict[str, Any]:
    """Endpoints that are not OpenAI's add fields of their own, such as signatures, and want them back."""
    function = call["function"]
    own = {"name": function.get("name"), "arguments": text_of(function.get("arguments"))}
    if native:
        return {"id": call.get("id"), "type": "function", "function": own}
    more = {name: value for name, value in call.items() if name != "index"}
    return {"id": None, "type": "function", **more, "function": {**function, **own}}


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

    # All that comes has a place in Mistral's.
    unseen_bytes = 0

    def __init__(self) -> None:
        # Tool calls that are still being written, by answer.
        self._calls: dict[int, CallParts] = {}
        # The chunk that ended an answer, kept for the usage that follows it.
        self._kept: dict[str, Any] | None = None
        self._last: dict[str, Any] = {}
        self._call_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes that the model has written and that have not been passed on yet."""
        return self._call_bytes + sse.answer_bytes(self._kept)

    @property
    def used(self) -> Mapping[str, Any]:
        """What the chunk that is kept back says."""
        return self._kept or {}

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
            {"index": index, "delta": {"tool_calls": self._given_calls(index)}, "finish_reason": None}
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
        # All that it says beside: of a router, what served at the last.
        said = {name: value for name, value in data.items() if value is not None and name != "choices"}
        return sse.write_event({**kept, **said})

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
        calls = self._calls.get(index) or CallParts()
        before = calls.text_bytes
        others = [part for part in listed if not calls.took(part)]
        self._call_bytes += calls.text_bytes - before
        if calls:
            self._calls[index] = calls
        # What is no function's call, or no call at all, goes on as it is.
        if others:
            delta["tool_calls"] = others
        elif parts is listed:
            del delta["tool_calls"]
        if choice.get("finish_reason") and calls:
            delta["tool_calls"] = self._given_calls(index) + list(delta.get("tool_calls") or ())
        return len(others) < len(listed)

    def _given_calls(self, answer: int) -> list[dict[str, Any]]:
        calls = self._calls.pop(answer)
        self._call_bytes -= calls.text_bytes
        return calls.whole()


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
