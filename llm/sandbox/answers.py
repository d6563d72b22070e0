"""What the simulated Mistral says: deterministic texts, tool calls, JSON and vectors, and the usage they have. Pure.

A token is four bytes of the prompt; answers are made of whole tokens, so their count is exact. Both stay below the
bound of `llm.rules.bounds`, as the real tokenizer's counts do.
"""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

PROMPT_BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 1_000
EMBEDDING_SIZE = 1_024
SHORTEST_ANSWER_TOKENS = 24
ANSWER_TOKENS_SPREAD = 48
_WORDS = tuple(
    " " + word
    for word in """The budget covers this request so here is a short answer made by the sandbox which counts every token
    it writes and reports them as usage just like the real service does at the end of each reply Invoices totals and
    dates were checked twice and nothing looks out of place today.""".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class SimulatedAnswer:
    """One choice. `pieces` joined are the text; a tool call has none."""

    tokens: int
    finish_reason: str
    pieces: Sequence[str] = ()
    tool_calls: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @property
    def message(self) -> dict[str, Any]:
        calls = list(self.tool_calls) or None
        return {"role": "assistant", "tool_calls": calls, "content": "".join(self.pieces)}


def answer(request: Mapping[str, Any], *, output_tokens: int | None = None, chunk_tokens: int = 4) -> SimulatedAnswer:
    """The answer to a chat or fill-in-the-middle request: a tool call where one is forced, else JSON or prose."""
    limit = request.get("max_tokens")
    called = _forced_tool(request)
    if called is not None:
        return _tool_answer(called)
    response_format = request.get("response_format") or {}
    if response_format.get("type", "text") != "text":
        return _json_answer(response_format, limit)
    wanted = SHORTEST_ANSWER_TOKENS + _seed(request) % ANSWER_TOKENS_SPREAD if output_tokens is None else output_tokens
    tokens = wanted if limit is None else min(wanted, limit)
    return SimulatedAnswer(tokens, "length" if tokens < wanted else "stop", prose(tokens, chunk_tokens=chunk_tokens))


def prose(tokens: int, *, chunk_tokens: int) -> list[str]:
    """`tokens` words in pieces of `chunk_tokens`."""
    if tokens <= chunk_tokens:
        return ["".join(_WORDS[:tokens])] if tokens else []
    words = _WORDS * (tokens // len(_WORDS) + 1)
    return ["".join(words[start : min(start + chunk_tokens, tokens)]) for start in range(0, tokens, chunk_tokens)]


def prompt_tokens(request: Mapping[str, Any]) -> int:
    """Tokens of everything in a chat or fill-in-the-middle request that a model reads."""
    messages = request.get("messages") or ()
    size = sum(len(request.get(name) or "") for name in ("prompt", "suffix"))
    images = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            size += len(content.encode())
        for part in content if isinstance(content, list) else ():
            images += part.get("type") == "image_url"
            size += len((part.get("text") or "").encode())
        if message.get("tool_calls"):
            size += len(orjson.dumps(message["tool_calls"]))
    if request.get("tools"):
        size += len(orjson.dumps(request["tools"]))
    return 4 + 2 * len(messages) + -(-size // PROMPT_BYTES_PER_TOKEN) + images * IMAGE_TOKENS


def usage(prompt: int, completion: int, *, cached: int = 0) -> dict[str, Any]:
    cached = min(cached, prompt)
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "num_cached_tokens": cached,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def embedding(text: str, *, encoding: str | None, size: int | None) -> list[float] | str:
    """A vector made of the text's checksum, as numbers or as base64 of 32-bit floats."""
    seed, size = zlib.crc32(text.encode()), size or EMBEDDING_SIZE
    turn = [((seed >> position) % 2_000 - 1_000) / 32_000 for position in range(24)]
    values = (turn * (size // 24 + 1))[:size]
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    return values


def texts(value: Any) -> list[str]:
    """The texts of an embeddings or moderation request's `input`."""
    items: Iterable[Any] = value if isinstance(value, list) else [value]
    return [item if isinstance(item, str) else orjson.dumps(item).decode() for item in items]


def audio_seconds(file: bytes) -> int:
    """The length of a WAV file; of anything else as if it had 32 kilobits a second."""
    try:
        with wave.open(io.BytesIO(file)) as sound:
            frames, rate = int(sound.getnframes()), int(sound.getframerate())
            return max(1, -(-frames // rate))
    except (wave.Error, EOFError, ZeroDivisionError):
        return max(1, len(file) // 4_000)


def example(schema: Any, depth: int = 0) -> Any:
    """A value that fits a plain JSON schema."""
    if not isinstance(schema, Mapping) or depth > 5:
        return "sandbox"
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        return {name: example(inner, depth + 1) for name, inner in properties.items()}
    if kind == "array":
        return [example(schema.get("items"), depth + 1)]
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(str(kind), "sandbox")


def _seed(request: Mapping[str, Any]) -> int:
    messages = request.get("messages") or ({"content": request.get("prompt")},)
    return zlib.crc32(repr(messages[-1].get("content")).encode())


def _forced_tool(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The function that `tool_choice` makes the model call: the one named, or the first for "any"."""
    functions = [tool["function"] for tool in request.get("tools") or () if tool.get("function")]
    choice = request.get("tool_choice")
    if isinstance(choice, Mapping):
        name = (choice.get("function") or {}).get("name")
        return next((function for function in functions if function.get("name") == name), None)
    return functions[0] if choice in ("any", "required") and functions else None


def _tool_answer(function: Mapping[str, Any]) -> SimulatedAnswer:
    arguments = orjson.dumps(example(function.get("parameters") or {"type": "object"})).decode()
    call = {
        "id": f"{zlib.crc32(arguments.encode()):09x}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
        "index": 0,
    }
    return SimulatedAnswer(8 + len(arguments) // 4, "tool_calls", tool_calls=(call,))


def _json_answer(response_format: Mapping[str, Any], limit: int | None) -> SimulatedAnswer:
    schema = (response_format.get("json_schema") or {}).get("schema")
    value = example(schema) if schema else {"answer": "A short answer made by the sandbox."}
    text = orjson.dumps(value).decode()
    pieces = [text[start : start + 4] for start in range(0, len(text), 4)]
    kept = pieces if limit is None else pieces[:limit]
    return SimulatedAnswer(len(kept), "length" if len(kept) < len(pieces) else "stop", kept)
