"""Chat requests in OpenAI's shape become Mistral's. Pure.

Mistral answers an unknown field with a 422, so what only OpenAI knows is translated or dropped. A request that needs
no change is relayed byte for byte. `llm.rules.sse` reads the streams.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from governance.rules import json_bounds
from governance.rules.json_bounds import BeyondBounds
from llm.rules import request_bounds, request_fields
from llm.rules.request_bounds import RequestBounds

PROVIDER = "mistral"
MAX_N = 128
# Far beyond what any model writes, and far below what a price makes too large a sum of.
MOST_TOKENS = 10_000_000
# Known to OpenAI alone and without effect on what is answered: dropped.
_DROPPED = frozenset(
    """stream_options user logit_bias store verbosity safety_identifier prompt_cache_options prompt_cache_retention
    moderation""".split()  # noqa: SIM905
)
# Known to OpenAI alone, and the answer would not be what was asked for without them: refused.
_REFUSED = {
    "functions": "use `tools` instead",
    "function_call": "use `tool_choice` instead",
    "audio": "answers are text",
    "web_search_options": "tools that run at the provider have no upper bound of cost",
}
# Mistral takes these or nothing; OpenAI's clients also send null.
_NOT_NULL = ("stream", "response_format", "tool_choice", "prediction", "parallel_tool_calls", "safe_prompt")
# What OpenAI's clients echo in a message and Mistral does not know.
_DROPPED_IN_MESSAGES = ("refusal", "annotations", "audio", "function_call", "reasoning_content", "reasoning")
_BOUNDS = RequestBounds()
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_FORMATS = frozenset({"text", "json_object", "json_schema"})


class DialectError(ValueError):
    """The request cannot be understood. `param` names the field, `code` the kind of mistake; the status is 400."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


@dataclass(slots=True)
class Request:
    """A parsed request of any kind. `payload` is in Mistral's shape, `body` what came."""

    body: bytes
    payload: dict[str, Any]
    model: str
    kind: str = "chat"
    content_type: str = "application/json"
    stream: bool = False
    max_tokens: int | None = None
    n: int = 1
    # Names of the tools; one that runs at the provider goes by its type.
    tools: tuple[str, ...] = ()
    # The tool that must be called, or nothing.
    forced_tool: str = ""
    user: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    # Fields that only endpoints of one's own know; Mistral is not sent them.
    foreign: frozenset[str] = frozenset()
    # Of a form: where in `body` the model's name is.
    model_at: tuple[int, int] | None = None


def parse(body: bytes, bounds: RequestBounds = _BOUNDS) -> Request:
    """Read and translate a chat request. Raises DialectError."""
    payload = load_object(body, kind="chat", bounds=bounds)
    request = Request(body=body, payload=payload, model=_model(payload))
    request.foreign = request_fields.COMPATIBLE["chat"] & payload.keys()
    for name in request.foreign:
        del payload[name]
    request.user = _attribution(payload)
    request.metadata = _metadata(payload)
    _translate_fields(payload)
    _translate_messages(payload)
    _translate_tools(payload)
    request.stream = _boolean(payload, "stream")
    request.max_tokens = _positive(payload, "max_tokens")
    request.n = _positive(payload, "n", most=MAX_N) or 1
    request.tools = tuple(_tool_name(tool, position) for position, tool in enumerate(_tools(payload)))
    request.forced_tool = _forced_tool(payload, request.tools)
    _check_format(payload)
    return request


def parse_other(body: bytes, *, kind: str, bounds: RequestBounds = _BOUNDS) -> Request:
    """Read and translate a request of another kind: "fim", "embedding", "moderation" or "ocr". Raises DialectError."""
    payload = load_object(body, kind=kind, bounds=bounds)
    request = Request(body=body, payload=payload, model=_model(payload), kind=kind)
    request.user = _attribution(payload)
    request.metadata = _metadata(payload)
    _translate_fields(payload)
    if "dimensions" in payload:
        payload["output_dimension"] = payload.pop("dimensions")
    if kind == "fim":
        _check_text(payload, "prompt", needed=True)
        _check_text(payload, "suffix")
        request.stream = _boolean(payload, "stream")
        request.max_tokens = _positive(payload, "max_tokens")
        request.n = _positive(payload, "n", most=MAX_N) or 1
    elif kind == "ocr":
        if not isinstance(payload.get("document"), dict):
            raise DialectError("`document` must be an object.", "document", "invalid_type")
    else:
        _check_input(payload.get("input"), texts_only=kind == "embedding")
    return request


def apply(
    request: Request, *, model: str, max_tokens: int | None = None, disabled_tools: Collection[str] = ()
) -> bytes:
    """The body to send upstream, written from the payload that was counted: what came may be read in two ways.

    `max_tokens` None leaves the request's own. With its last tool a request loses `tool_choice` too.
    """
    if request.model_at is not None:
        start, stop = request.model_at
        named = model == request.model
        return request.body if named else request.body[:start] + model.encode() + request.body[stop:]
    removed = set(disabled_tools) & set(request.tools)
    payload = {**request.payload, "model": model}
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


def refuse_foreign(request: Request) -> None:
    """Mistral would not know what to do with what only other endpoints take. Raises DialectError."""
    if request.foreign:
        field = min(request.foreign)
        raise DialectError(f"`{field}` is not supported by {request.model}: leave it out.", field, "unsupported_field")


def load_object(body: bytes, *, kind: str, bounds: RequestBounds | None = None) -> dict[str, Any]:
    """The JSON object that a request's body must be, of known fields alone. Raises DialectError.

    `bounds` None: they were looked at before.
    """
    if not body.strip():
        raise DialectError("The request has no body; a JSON object is needed.", code="invalid_json")
    try:
        if bounds is not None:
            json_bounds.check_text(body, bounds.json)
        payload = orjson.loads(body)
        if bounds is not None and isinstance(payload, dict):
            request_bounds.check(payload, bounds)
    except BeyondBounds as error:
        raise DialectError(error.sentence, error.field or None, "out_of_bounds") from error
    except orjson.JSONDecodeError as error:
        raise DialectError(f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(payload, dict):
        raise DialectError("The body must be a JSON object.", code="invalid_type")
    if found := request_fields.unknown(name for name, value in payload.items() if value is not None):
        field, advice = found
        raise DialectError(
            f"`{field[:100]}` is not known here, so its cost cannot be bounded: {advice}", field[:100], "unknown_field"
        )
    # Also null under any other name, which says nothing.
    for name in request_fields.of_others(payload, kind=kind):
        del payload[name]
    return payload


def _model(payload: Mapping[str, Any]) -> str:
    model = payload.get("model")
    if model is None:
        raise DialectError("`model` is missing.", "model", "missing_field")
    if not isinstance(model, str):
        raise DialectError("`model` must be a string.", "model", "invalid_type")
    if not model.strip():
        raise DialectError("`model` must not be empty.", "model")
    return model


def _attribution(payload: Mapping[str, Any]) -> str:
    user = payload.get("user")
    if user is not None and not isinstance(user, str):
        raise DialectError("`user` must be a string.", "user", "invalid_type")
    return user or ""


def _metadata(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = payload.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise DialectError("`metadata` must be an object.", "metadata", "invalid_type")
    return metadata or {}


def _boolean(payload: Mapping[str, Any], name: str) -> bool:
    value = payload.get(name, False)
    if not isinstance(value, bool):
        raise DialectError(f"`{name}` must be true or false.", name, "invalid_type")
    return value


def _positive(payload: Mapping[str, Any], name: str, *, most: int = MOST_TOKENS) -> int | None:
    value = payload.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise DialectError(f"`{name}` must be a whole number.", name, "invalid_type")
    if not 1 <= value <= most:
        raise DialectError(f"`{name}` must be from 1 to {most}.", name)
    return value


def _translate_fields(payload: dict[str, Any]) -> None:
    """Rename or drop OpenAI's own fields, in place."""
    for name, instead in _REFUSED.items():
        if payload.get(name) is not None:
            raise DialectError(f"`{name}` is not supported: {instead}.", name, "unsupported_field")
        payload.pop(name, None)
    for name in _DROPPED & payload.keys():
        del payload[name]
    for name in _NOT_NULL:
        if name in payload and payload[name] is None:
            del payload[name]
    # A faster tier costs more than the standard price, so nobody is put on it by default.
    if payload.get("service_tier") != "standard_only":
        payload.pop("service_tier", None)
    _drop_modalities(payload)
    _translate_length(payload)
    if "seed" in payload:
        payload.setdefault("random_seed", payload.pop("seed"))
    _translate_prediction(payload)
    if payload.get("tool_choice") == "required":
        payload["tool_choice"] = "any"


def _drop_modalities(payload: dict[str, Any]) -> None:
    modalities = payload.pop("modalities", None)
    if modalities not in (None, [], ["text"]):
        raise DialectError("`modalities` other than text are not supported.", "modalities", "unsupported_field")


def _translate_length(payload: dict[str, Any]) -> None:
    """`max_completion_tokens` is OpenAI's new name of `max_tokens`; of the two the smaller one counts."""
    if "max_completion_tokens" not in payload:
        return
    newer = _positive(payload, "max_completion_tokens")
    older = _positive(payload, "max_tokens")
    del payload["max_completion_tokens"]
    given = [value for value in (newer, older) if value is not None]
    if given:
        payload["max_tokens"] = min(given)


def _translate_prediction(payload: dict[str, Any]) -> None:
    """OpenAI also takes a predicted text in parts; Mistral takes one string."""
    prediction = payload.get("prediction")
    if prediction is None:
        return
    if not isinstance(prediction, dict):
        raise DialectError("`prediction` must be an object.", "prediction", "invalid_type")
    parts = prediction.get("content")
    if not isinstance(parts, list):
        return
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if len(texts) != len(parts):
        raise DialectError("`prediction.content` must be text.", "prediction.content", "invalid_type")
    payload["prediction"] = {**prediction, "content": "".join(texts)}


def _translate_messages(payload: dict[str, Any]) -> None:
    messages = payload.get("messages")
    if messages is None:
        raise DialectError("`messages` is missing.", "messages", "missing_field")
    if not isinstance(messages, list):
        raise DialectError("`messages` must be a list.", "messages", "invalid_type")
    if not messages:
        raise DialectError("`messages` must not be empty.", "messages")
    for position, message in enumerate(messages):
        _translate_message(message, f"messages.{position}")


def _translate_message(message: Any, param: str) -> None:
    """Check one message and translate it in place."""
    if not isinstance(message, dict):
        raise DialectError(f"`{param}` must be an object.", param, "invalid_type")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise DialectError(f"`{param}.role` must be one of {', '.join(sorted(_ROLES))}.", f"{param}.role")
    _check_content(message, role, param)
    _check_tool_calls(message, param)
    for name in _DROPPED_IN_MESSAGES:
        if name in message:
            if isinstance(message[name], dict):
                raise DialectError(f"`{param}.{name}` is not supported.", f"{param}.{name}", "unsupported_field")
            del message[name]
    if role != "tool":
        message.pop("name", None)
    if role == "developer":
        message["role"] = "system"


def _check_content(message: Mapping[str, Any], role: str, param: str) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        if role == "assistant" or "content" in message:
            return
        raise DialectError(f"`{param}.content` is missing.", f"{param}.content", "missing_field")
    if not isinstance(content, list):
        raise DialectError(
            f"`{param}.content` must be a string or a list of parts.", f"{param}.content", "invalid_type"
        )
    for position, part in enumerate(content):
        _check_part(part, f"{param}.content.{position}")


def _check_part(part: Any, param: str) -> None:
    if not isinstance(part, dict):
        raise DialectError(f"`{param}` must be an object.", param, "invalid_type")
    kind = part.get("type", "text")
    if not isinstance(kind, str):
        raise DialectError(f"`{param}.type` must be a string.", f"{param}.type", "invalid_type")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise DialectError(f"`{param}.text` must be a string.", f"{param}.text", "invalid_type")
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if not isinstance(url, str):
            raise DialectError(f"`{param}.image_url` must hold a URL.", f"{param}.image_url", "invalid_type")


def _check_tool_calls(message: Mapping[str, Any], param: str) -> None:
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        raise DialectError(f"`{param}.tool_calls` must be a list.", f"{param}.tool_calls", "invalid_type")
    for position, call in enumerate(calls):
        if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
            name = f"{param}.tool_calls.{position}"
            raise DialectError(f"`{name}` must be an object with a `function`.", name, "invalid_type")


def _tools(payload: Mapping[str, Any]) -> Sequence[Any]:
    tools = payload.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise DialectError("`tools` must be a list.", "tools", "invalid_type")
    return tools


def _translate_tools(payload: Mapping[str, Any]) -> None:
    """OpenAI's clients leave the parameters of a function out that has none; Mistral needs them."""
    for tool in _tools(payload):
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and function.get("parameters") is None:
            function["parameters"] = {"type": "object", "properties": {}}


def _tool_name(tool: Any, position: int) -> str:
    param = f"tools.{position}"
    if not isinstance(tool, dict):
        raise DialectError(f"`{param}` must be an object.", param, "invalid_type")
    kind = tool.get("type", "function")
    if not isinstance(kind, str):
        raise DialectError(f"`{param}.type` must be a string.", f"{param}.type", "invalid_type")
    if kind != "function":
        return kind
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise DialectError(f"`{param}.function.name` is missing.", f"{param}.function.name", "missing_field")
    return name


def _forced_tool(payload: Mapping[str, Any], tools: Sequence[str]) -> str:
    """The tool that `tool_choice` leaves no way around, or nothing."""
    choice = payload.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return ""
    if choice == "any":
        if not tools:
            raise DialectError("`tool_choice` asks for a tool, but there is none in `tools`.", "tool_choice")
        return tools[0] if len(set(tools)) == 1 else ""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise DialectError(
            '`tool_choice` must be "auto", "none", "any", "required" or name one function.', "tool_choice"
        )
    if name not in tools:
        raise DialectError(f"`tool_choice` names {name!r}, which is not in `tools`.", "tool_choice")
    return name


def _check_text(payload: Mapping[str, Any], name: str, *, needed: bool = False) -> None:
    value = payload.get(name)
    if value is None and needed:
        raise DialectError(f"`{name}` is missing.", name, "missing_field")
    if value is not None and not isinstance(value, str):
        raise DialectError(f"`{name}` must be a string.", name, "invalid_type")


def _check_input(value: Any, *, texts_only: bool) -> None:
    """A text or a list of texts; moderation also takes conversations."""
    if value is None:
        raise DialectError("`input` is missing.", "input", "missing_field")
    kinds = str if texts_only else str | dict | list
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, kinds) for item in items):
        raise DialectError("`input` must be a text or a list of texts.", "input", "invalid_type")


def _check_format(payload: Mapping[str, Any]) -> None:
    response_format = payload.get("response_format")
    if response_format is None:
        return
    kind = response_format.get("type", "text") if isinstance(response_format, dict) else None
    if not isinstance(kind, str) or kind not in _FORMATS:
        raise DialectError(f"`response_format.type` must be one of {', '.join(sorted(_FORMATS))}.", "response_format")
