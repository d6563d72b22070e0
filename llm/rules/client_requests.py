"""Requests as clients send them, in Mistral's shape or in OpenAI's, read into Mistral's. Pure.

What only OpenAI knows is translated or dropped; what nobody here knows is refused, for its cost cannot be bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from governance.rules import json_bounds
from governance.rules.json_bounds import BeyondBounds
from llm.rules import request_bounds, request_checks, request_fields, tool_calls
from llm.rules.request_bounds import RequestBounds
from llm.rules.request_checks import DialectError

MAX_N = 128
# Known to OpenAI alone and without effect on what is answered: dropped.
_DROPPED = frozenset(
    """stream_options user logit_bias store verbosity safety_identifier prompt_cache_options prompt_cache_retention
    moderation usage""".split()  # noqa: SIM905
)
# Known to OpenAI alone, and the answer would not be what was asked for without them: refused.
REFUSED = {
    "functions": "use `tools` instead",
    "function_call": "use `tool_choice` instead",
    "audio": "answers are text",
    "web_search_options": "tools that run at the provider have no upper bound of cost",
}
# Mistral takes these or nothing; OpenAI's clients also send null.
_NOT_NULL = ("stream", "response_format", "tool_choice", "prediction", "parallel_tool_calls", "safe_prompt")
# What OpenAI's clients and LiteLLM's echo in a message and Mistral does not know.
_DROPPED_IN_MESSAGES = (
    *("refusal", "annotations", "audio", "function_call", "reasoning_content", "reasoning", "thinking_blocks"),
)
_BOUNDS = RequestBounds()
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
FORMATS = frozenset({"text", "json_object", "json_schema"})


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
    # Of these, what nobody here knows, and an operator's endpoint takes.
    extra: frozenset[str] = frozenset()
    # Of a form: where in `body` the model's name is.
    model_at: tuple[int, int] | None = None
    # What `shape` made of it.
    shaped: dict[str, Any] | None = None

    @property
    def lengthening(self) -> frozenset[str]:
        """What it asks for that may make an answer longer than its bound, at whoever answers."""
        names = {name for name, value in self.payload.items() if value is not None} | self.foreign
        return request_fields.lengthening(names, answers=self.n, tools=bool(self.tools), extra=bool(self.extra))


def parse(body: bytes, extra: frozenset[str] = frozenset(), bounds: RequestBounds = _BOUNDS) -> Request:
    """Read and translate a chat request; `extra` are fields that some endpoint takes. Raises DialectError."""
    payload = load_object(body, kind="chat", extra=extra, bounds=bounds)
    request = Request(body=body, payload=payload, model=_model(payload))
    request.extra = extra & payload.keys()
    request.foreign = (request_fields.COMPATIBLE["chat"] & payload.keys()) | request.extra
    for name in request.foreign:
        del payload[name]
    request.user = _attribution(payload)
    request.metadata = _metadata(payload)
    _translate_fields(payload)
    _translate_messages(payload)
    _translate_tools(payload)
    for name in ("prompt_mode", "reasoning_effort"):
        request_checks.check_text(payload, name)
    request.stream = request_checks.boolean(payload, "stream")
    request.max_tokens = request_checks.positive(payload, "max_tokens")
    request.n = request_checks.positive(payload, "n", most=MAX_N) or 1
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
        request_checks.check_text(payload, "prompt", needed=True)
        request_checks.check_text(payload, "suffix")
        request.stream = request_checks.boolean(payload, "stream")
        request.max_tokens = request_checks.positive(payload, "max_tokens")
        request.n = request_checks.positive(payload, "n", most=MAX_N) or 1
    elif kind == "ocr":
        if not isinstance(payload.get("document"), dict):
            raise DialectError("`document` must be an object.", "document", "invalid_type")
    else:
        _check_input(payload.get("input"), embeds=kind == "embedding")
    return request


def refuse_unanswered(messages: Sequence[Mapping[str, Any]], *, between: Collection[str] = ()) -> None:
    """Raises DialectError where calls and results of tools do not fit together, whoever is asked."""
    if found := tool_calls.unanswered(messages, between=between):
        field, problem = found
        raise DialectError(f"`{field}` {problem}", field)


def refuse_foreign(request: Request) -> None:
    """Mistral would not know what to do with what only other endpoints take. Raises DialectError."""
    if request.foreign:
        field = min(request.foreign)
        raise DialectError(f"`{field}` is not supported by {request.model}: leave it out.", field, "unsupported_field")
    if request.kind == "embedding" and not _is_text(request.payload.get("input")):
        raise DialectError(f"`input` must be text for {request.model}; it takes no tokens.", "input", "invalid_type")


def refuse_guardrails(request: Request, *, model: str) -> None:
    """A provider that has no guardrails would answer what they may stop. Raises DialectError."""
    if request.payload.get("guardrails"):
        raise DialectError(f"`guardrails` are not supported by {model}.", "guardrails", "unsupported_field")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def load_object(
    body: bytes, *, kind: str, extra: frozenset[str] = frozenset(), bounds: RequestBounds | None = None
) -> dict[str, Any]:
    """The JSON object that a request's body must be, of known fields alone and `extra` ones. Raises DialectError.

    `bounds` None: they were looked at before.
    """
    payload = _parsed(body, bounds)
    for name in request_fields.without_effect(payload):
        del payload[name]
    added = {name: payload.pop(name) for name in extra & payload.keys()}
    for name, value in added.items():
        if value is not None and not request_fields.is_extra_value(value):
            raise DialectError(f"`{name}` must be a number, true or false, or a short text.", name, "invalid_type")
    if found := request_fields.unknown(name for name, value in payload.items() if value is not None):
        field, advice = found
        raise DialectError(
            f"`{field[:100]}` is not known here, so its cost cannot be bounded: {advice}", field[:100], "unknown_field"
        )
    if bounds is not None:
        try:
            request_bounds.check(payload, bounds)
        except BeyondBounds as error:
            raise _out_of_bounds(error) from error
    # Also null under any other name, which says nothing.
    for name in request_fields.of_others(payload, kind=kind):
        del payload[name]
    if kind == "chat":
        _keep_allowed_tools(payload)
        if isinstance(messages := payload.get("messages"), list):
            payload["messages"] = tool_calls.from_functions(messages)
    return payload | {name: value for name, value in added.items() if value is not None}


def _out_of_bounds(error: BeyondBounds) -> DialectError:
    return DialectError(error.sentence, error.field or None, "out_of_bounds")


def _parsed(body: bytes, bounds: RequestBounds | None) -> dict[str, Any]:
    if not body.strip():
        raise DialectError("The request has no body; a JSON object is needed.", code="invalid_json")
    try:
        if bounds is not None:
            json_bounds.check_text(body, bounds.json)
        payload = orjson.loads(body)
    except BeyondBounds as error:
        raise _out_of_bounds(error) from error
    except orjson.JSONDecodeError as error:
        raise DialectError(f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(payload, dict):
        raise DialectError("The body must be a JSON object.", code="invalid_type")
    return payload


def _keep_allowed_tools(payload: dict[str, Any]) -> None:
    """OpenAI's way to name the tools that may be called becomes a list of those alone, which everybody reads."""
    choice = payload.get("tool_choice")
    if not isinstance(choice, dict):
        return
    kind = choice.get("type")
    if kind in ("auto", "none", "any", "required"):
        payload["tool_choice"] = kind
    if kind != "allowed_tools":
        return
    allowed = choice.get("allowed_tools")
    # As chats have it, and as the Responses API does.
    holder = allowed if isinstance(allowed, dict) else choice
    listed = holder.get("tools")
    names = {_named(tool) for tool in (listed if isinstance(listed, list) else ()) if isinstance(tool, dict)}
    mode, tools = holder.get("mode", "auto"), payload.get("tools")
    if mode not in ("auto", "required") or not isinstance(tools, list) or not names - {""}:
        raise DialectError("`tool_choice.allowed_tools` must have a `mode` and name some of `tools`.", "tool_choice")
    payload["tools"] = [tool for tool in tools if isinstance(tool, dict) and _named(tool) in names]
    if len(payload["tools"]) < len(names):
        raise DialectError("`tool_choice` names what is not in `tools`.", "tool_choice")
    payload["tool_choice"] = mode


def _named(tool: Mapping[str, Any]) -> str:
    """The name of a tool, wherever it is."""
    kind = tool.get("type", "function")
    holder = tool.get(kind) if isinstance(kind, str) else None
    name = (holder if isinstance(holder, dict) else tool).get("name")
    return name if isinstance(name, str) else ""


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


def _translate_fields(payload: dict[str, Any]) -> None:
    """Rename or drop OpenAI's own fields, in place."""
    for name, instead in REFUSED.items():
        if payload.get(name) is not None:
            raise DialectError(f"`{name}` is not supported: {instead}.", name, "unsupported_field")
        payload.pop(name, None)
    for name in _DROPPED & payload.keys():
        del payload[name]
    for name in _NOT_NULL:
        if name in payload and payload[name] is None:
            del payload[name]
    # A faster tier costs more than the standard price: providers are asked for none, each in its own words.
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
    newer = request_checks.positive(payload, "max_completion_tokens")
    older = request_checks.positive(payload, "max_tokens")
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
    if not isinstance(role, str) or role not in ROLES:
        raise DialectError(f"`{param}.role` must be one of {', '.join(sorted(ROLES))}.", f"{param}.role")
    _check_content(message, role, param)
    _check_tool_calls(message, param)
    if role == "assistant" and isinstance(refusal := message.get("refusal"), str):
        message["content"] = said(message, refusal)
    for name in _DROPPED_IN_MESSAGES:
        if name in message:
            if isinstance(message[name], dict) and message[name]:
                raise DialectError(f"`{param}.{name}` is not supported.", f"{param}.{name}", "unsupported_field")
            del message[name]
    if role != "tool":
        message.pop("name", None)
    if role == "developer":
        message["role"] = "system"


def said(message: Mapping[str, Any], refusal: str) -> Any:
    """What an answer says: its refusal, where that is all."""
    content = message.get("content")
    return content if content or message.get("tool_calls") else refusal or content


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
    if kind == "refusal" and not isinstance(part.get("refusal"), str):
        raise DialectError(f"`{param}.refusal` must be a string.", f"{param}.refusal", "invalid_type")
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


def _check_input(value: Any, *, embeds: bool) -> None:
    """A text or a list of texts. Embeddings are made of tokens too, one list or several; moderation reads chats."""
    if value is None:
        raise DialectError("`input` is missing.", "input", "missing_field")
    items = value if isinstance(value, list) else [value]
    fits = _is_tokens(items) or all(_is_tokens(item) for item in items) if embeds else _is_chats(items)
    if not items or not (_is_text(items) or fits):
        raise DialectError("`input` must be a text or a list of texts.", "input", "invalid_type")


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and 0 <= token < 2**31 for token in value)


def _is_chats(items: list[Any]) -> bool:
    return all(isinstance(item, str | dict | list) for item in items)


def _check_format(payload: Mapping[str, Any]) -> None:
    response_format = payload.get("response_format")
    if response_format is None:
        return
    kind = response_format.get("type", "text") if isinstance(response_format, dict) else None
    if not isinstance(kind, str) or kind not in FORMATS:
        raise DialectError(f"`response_format.type` must be one of {', '.join(sorted(FORMATS))}.", "response_format")
