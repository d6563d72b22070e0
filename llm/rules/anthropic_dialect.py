"""Chat requests for Anthropic's Messages API; its answers are `anthropic_answers`. Pure.

Rules from its API reference and from how its own layer for OpenAI's clients translates: system messages are joined at
the start, a temperature above 1 counts as 1, sampling hints it does not know are left out. What would change the
answer beyond that (several answers, log probabilities) is refused. `cache_control` is passed on from where clients put
it: at a part, a message, a tool or its function (https://platform.claude.com/docs/en/build-with-claude/prompt-caching).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson

from governance.rules import json_bounds
from governance.rules.json_bounds import BeyondBounds, JsonBounds
from llm.rules import client_requests
from llm.rules.client_requests import Request
from llm.rules.request_checks import DialectError
from llm.rules.tool_calls import ANTHROPICS_IDS, with_ids

VERSION = "2023-06-01"
DEFAULT_MAX_TOKENS = 4_096
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]+);base64,(?P<data>.+)", re.DOTALL)
# claude-opus-4-7, claude-sonnet-4-5-20250929, claude-3-5-haiku-20241022: the version, where the name holds one.
_VERSION_IN_NAME = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
# Models decide on their thinking themselves from 4.6 on, and refuse sampling settings from 4.7 on.
_ADAPTIVE, _WITHOUT_SAMPLING = (4, 6), (4, 7)
# Tokens that older models may think, by effort; more than the smallest and less than `max_tokens`.
_THINKING_TOKENS = {"minimal": 1_024, "low": 1_024, "medium": 4_096, "high": 16_384, "xhigh": 32_768, "max": 32_768}
_LEAST_THINKING_TOKENS = 1_024
_JSON_ONLY = "Answer with a single JSON object and nothing else: no explanation and no code fence."
# What a schema may hold; the API refuses others, so they are told to the model in the description.
_SCHEMA_WORDS = frozenset(
    """$ref $defs type anyOf allOf enum const title description properties required additionalProperties items default
    format""".split()  # noqa: SIM905
)
_CACHE_TTLS = (None, "5m", "1h")


def request_body(request: Request, *, model: str, max_tokens: int | None, disabled_tools: Collection[str]) -> bytes:
    """The request as the Messages API takes it. Raises DialectError for what it cannot be asked."""
    if request.kind != "chat":
        raise DialectError(f"{model} cannot be asked for this: its provider answers chats alone.", "model")
    asked = request.payload
    _refuse_the_impossible(asked, n=request.n)
    client_requests.refuse_guardrails(request, model=model)
    bound = max_tokens or request.max_tokens or DEFAULT_MAX_TOKENS
    messages = with_ids(asked["messages"], ANTHROPICS_IDS, may_recur=False)
    client_requests.refuse_unanswered(messages, between=("system", "developer"))
    body: dict[str, Any] = {"model": model, "max_tokens": bound, "messages": _messages(messages)}
    system = [block for m in messages if m["role"] in ("system", "developer") for block in _system(m)]
    output = _output_format(asked.get("response_format"), system)
    if any("cache_control" in block for block in system):
        body["system"] = system
    elif system:
        body["system"] = "\n".join(block["text"] for block in system)
    body |= _tools(request, disabled_tools)
    effort = "high" if asked.get("prompt_mode") == "reasoning" else asked.get("reasoning_effort")
    thinking, effort = _thinking(body, effort)
    if thinking:
        body["thinking"] = thinking
    if effort:
        output["effort"] = effort
    if output:
        body["output_config"] = output
    body |= _sampling(asked, model=model, thinks=bool(thinking))
    if stop := _stop_sequences(asked.get("stop")):
        body["stop_sequences"] = stop
    if request.stream:
        body["stream"] = True
    return orjson.dumps(body)


def without_pictures(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without the data of its pictures, each of which was counted as one: of blocks that are pictures alone.

    What looks like a picture in arguments or in a schema is text.
    """
    turns = [{**turn, "content": _without_data(turn["content"])} for turn in body["messages"]]
    return {**body, "messages": turns}


def _without_data(blocks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    kept = []
    for block in blocks:
        if block["type"] == "image" and block["source"]["type"] == "base64":
            block = {**block, "source": {**block["source"], "data": ""}}
        elif block["type"] == "tool_result" and "content" in block:
            block = {**block, "content": _without_data(block["content"])}
        kept.append(block)
    return kept


def _refuse_the_impossible(asked: Mapping[str, Any], *, n: int) -> None:
    if n > 1:
        raise DialectError("`n` must be 1 for this model.", "n", "unsupported_field")
    if asked.get("logprobs"):
        raise DialectError("`logprobs` are not supported by this model.", "logprobs", "unsupported_field")


def _messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns of user and assistant: tools' results are the user's, and neighbours of one role become one turn."""
    turns: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        role = message["role"]
        if role in ("system", "developer"):
            continue
        speaker = "assistant" if role == "assistant" else "user"
        blocks = _blocks(message, f"messages.{position}")
        if not blocks:
            continue
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": speaker, "content": blocks})
    if not turns:
        raise DialectError("`messages` must hold one of a user at least for this model.", "messages")
    if turns[0]["role"] != "user":
        raise DialectError("`messages` must begin with one of a user for this model.", "messages")
    last = turns[-1]["content"][-1]
    if turns[-1]["role"] == "assistant" and last["type"] == "text":
        # The answer goes on from here, and the API refuses a blank at its end.
        last["text"] = last["text"].rstrip()
    return turns


def _blocks(message: Mapping[str, Any], param: str) -> list[dict[str, Any]]:
    if message["role"] == "tool":
        return [_tool_result(message, param) | _cache_mark(message, param)]
    blocks = _content(message.get("content"), param)
    if message["role"] == "assistant":
        blocks += [
            _tool_use(call, f"{param}.tool_calls.{at}") for at, call in enumerate(message.get("tool_calls") or ())
        ]
    if blocks:
        # One at the message is meant for all of it.
        blocks[-1] |= _cache_mark(message, param)
    return blocks


def _cache_mark(holder: Mapping[str, Any], param: str) -> dict[str, Any]:
    """`cache_control` as the API takes it, where something has one."""
    mark = holder.get("cache_control")
    if mark is None:
        return {}
    known = isinstance(mark, dict) and mark.get("type") == "ephemeral" and mark.get("ttl") in _CACHE_TTLS
    if not known or mark.keys() - {"type", "ttl"}:
        raise DialectError(
            f'`{param}.cache_control` must be {{"type": "ephemeral"}}, with a `ttl` of "5m" or "1h" or none.',
            f"{param}.cache_control",
        )
    return {"cache_control": {name: value for name, value in mark.items() if value is not None}}


def _content(content: Any, param: str) -> list[dict[str, Any]]:
    """Text and pictures; empty texts, which the API refuses, and thinking of earlier answers are left out."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    blocks: list[dict[str, Any]] = []
    for at, part in enumerate(content or ()):
        kind, place = part.get("type", "text"), f"{param}.content.{at}"
        if kind == "image_url":
            source = _image(part["image_url"], place)
            blocks.append({"type": "image", "source": source, **_cache_mark(part, place)})
        elif kind == "text":
            blocks += [{**block, **_cache_mark(part, place)} for block in _content(part["text"], param)]
        elif kind == "refusal":
            blocks += _content(part["refusal"], param)
        elif kind not in ("thinking", "reference"):
            raise DialectError(f"Content of type {kind!r} is not supported by this model.", f"{param}.content.{at}")
    return blocks


def _image(image: Any, param: str) -> dict[str, str]:
    url = image["url"] if isinstance(image, dict) else image
    if url.startswith(("http://", "https://")):
        return {"type": "url", "url": url}
    found = _DATA_URL.fullmatch(url)
    if found is None or found["type"] not in _IMAGES:
        raise DialectError(
            f"`{param}.image_url` must be a web address or base64 data of one of {', '.join(_IMAGES)}.", param
        )
    return {"type": "base64", "media_type": found["type"], "data": found["data"]}


def _tool_result(message: Mapping[str, Any], param: str) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
    if blocks := _content(message.get("content"), param):
        # What is in a result is kept with it.
        marks = [mark for block in blocks if (mark := block.pop("cache_control", None))]
        result |= {"content": blocks} | ({"cache_control": marks[-1]} if marks else {})
    return result


def _tool_use(call: Mapping[str, Any], param: str) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments) if arguments.strip() else {}
        except orjson.JSONDecodeError:
            arguments = None
        _check_depth(arguments, f"{param}.function.arguments")
    if not isinstance(arguments, dict):
        raise DialectError(f"`{param}.function.arguments` must be a JSON object.", f"{param}.function.arguments")
    used = {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments}
    return used | _cache_mark(call, param)


def _check_depth(arguments: Any, param: str) -> None:
    """What a text holds has the bounds of the body that it is unpacked into."""
    try:
        json_bounds.check(arguments, JsonBounds())
    except BeyondBounds as error:
        raise DialectError(f"`{param}` {error}", param, "out_of_bounds") from error


def _system(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The texts of a system message, one block where none of its parts is to be kept in a cache."""
    content = message.get("content")
    parts = [{"text": content}] if isinstance(content, str) else content or ()
    if any(part.get("type", "text") != "text" for part in parts):
        raise DialectError("A system message may hold text alone for this model.", "messages")
    blocks = [{"type": "text", "text": part["text"], **_cache_mark(part, "messages")} for part in parts if part["text"]]
    if not any("cache_control" in block for block in blocks):
        text = "".join(block["text"] for block in blocks)
        blocks = [{"type": "text", "text": text}] if text else []
    if blocks:
        blocks[-1] |= _cache_mark(message, "messages")
    return blocks


def _tools(request: Request, disabled: Collection[str]) -> dict[str, Any]:
    """`tools` and `tool_choice`. A conversation with tool calls in it needs tools, although none may be called."""
    tools = request.payload.get("tools") or ()
    if any(not isinstance(tool.get("function"), dict) for tool in tools):
        raise DialectError("`tools` may be functions alone for this model.", "tools", "unsupported_field")
    # One that is disabled is looked at too: what cannot be counted must not leave for the lack of it.
    made = [
        _tool(tool["function"], f"tools.{at}.function") | _cache_mark(tool, f"tools.{at}")
        for at, tool in enumerate(tools)
    ]
    kept = [tool for name, tool in zip(request.tools, made, strict=True) if name not in disabled]
    if not kept:
        called = sorted({name for name in _called(request.payload["messages"]) if isinstance(name, str)})
        idle = [{"name": name, "input_schema": {"type": "object"}} for name in called]
        return {"tools": idle, "tool_choice": {"type": "none"}} if idle else {}
    found: dict[str, Any] = {"tools": kept}
    choice = _tool_choice(request.payload.get("tool_choice"))
    if request.payload.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    if choice:
        found["tool_choice"] = choice
    return found


def _called(messages: Iterable[Mapping[str, Any]]) -> list[Any]:
    return [call["function"].get("name") for message in messages for call in message.get("tool_calls") or ()]


def _tool(function: Mapping[str, Any], param: str) -> dict[str, Any]:
    schema = function.get("parameters") or {}
    if not isinstance(schema, dict):
        raise DialectError(f"`{param}.parameters` must be an object.", f"{param}.parameters", "invalid_type")
    tool = {"name": function["name"], "input_schema": {"type": "object", **schema}}
    if description := function.get("description"):
        tool["description"] = description
    return tool | _cache_mark(function, "tools")


def _tool_choice(choice: Any) -> dict[str, Any]:
    if isinstance(choice, dict):
        return {"type": "tool", "name": choice["function"]["name"]}
    return {"type": choice} if choice in ("auto", "none", "any") else {}


def _output_format(response_format: Any, system: list[dict[str, Any]]) -> dict[str, Any]:
    """`output_config` for an answer by a schema. JSON without one has no mode of its own: the model is told."""
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_object":
        system.append({"type": "text", "text": _JSON_ONLY})
    if kind != "json_schema":
        return {}
    named = response_format.get("json_schema")
    schema = (named.get("schema") or named.get("schema_definition")) if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise DialectError("`response_format.json_schema.schema` must be an object.", "response_format")
    return {"format": {"type": "json_schema", "schema": _schema(schema)}}


def _schema(schema: Any) -> Any:
    """A schema as the API takes it: objects are closed, and words it does not know become part of the description."""
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if name in _SCHEMA_WORDS}
    if "oneOf" in schema:
        kept.setdefault("anyOf", schema["oneOf"])
    for name in ("properties", "$defs"):
        if isinstance(kept.get(name), dict):
            kept[name] = {key: _schema(value) for key, value in kept[name].items()}
    for name in ("anyOf", "allOf"):
        if isinstance(kept.get(name), list):
            kept[name] = [_schema(value) for value in kept[name]]
    if "items" in kept:
        kept["items"] = _schema(kept["items"])
    if kept.get("type") == "object" or "properties" in kept:
        kept["additionalProperties"] = False
    unknown = {k: v for k, v in schema.items() if k not in _SCHEMA_WORDS and k not in ("oneOf", "$schema", "strict")}
    if unknown:
        described = [text for text in (kept.get("description"),) if isinstance(text, str) and text]
        kept["description"] = " ".join([*described, orjson.dumps(unknown).decode()])
    return kept


def _thinking(body: Mapping[str, Any], effort: Any) -> tuple[dict[str, Any], str]:
    """`thinking` and the effort to go with it; nothing where the model is left to its default."""
    if effort not in _THINKING_TOKENS:
        return {}, ""
    # A tool that must be called leaves no room for thinking.
    forced = body.get("tool_choice", {}).get("type") in ("any", "tool")
    if (_version_of(body["model"]) or _ADAPTIVE) >= _ADAPTIVE:
        return {} if forced else {"type": "adaptive"}, "low" if effort == "minimal" else effort
    budget = min(_THINKING_TOKENS[effort], body["max_tokens"] - 1)
    # Older models think again about a tool's result only where their earlier thinking is sent along, and we have none.
    replies = any(block["type"] == "tool_use" for turn in body["messages"] for block in turn["content"])
    if forced or replies or budget < _LEAST_THINKING_TOKENS:
        return {}, ""
    return {"type": "enabled", "budget_tokens": budget}, ""


def _sampling(asked: Mapping[str, Any], *, model: str, thinks: bool) -> dict[str, Any]:
    """Temperature, or else `top_p`: newer models refuse both together, the newest either; none goes with thinking."""
    if thinks or (_version_of(model) or _WITHOUT_SAMPLING) >= _WITHOUT_SAMPLING:
        return {}
    temperature, top_p = asked.get("temperature"), asked.get("top_p")
    if temperature is not None:
        return {"temperature": min(temperature, 1) if isinstance(temperature, int | float) else temperature}
    return {} if top_p is None else {"top_p": top_p}


def _version_of(model: str) -> tuple[int, int] | None:
    found = _VERSION_IN_NAME.match(model)
    return (int(found[1]), int(found[2] or 0)) if found else None


def _stop_sequences(stop: Any) -> list[str]:
    """Those that are not blank, which the API refuses."""
    given = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise DialectError("`stop` must be a text or a list of texts.", "stop", "invalid_type")
    return [text for text in given if text.strip()]
