"""Answers as upstreams write them: JSON that clients read, also where it is not quite JSON. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

# What answers say that they are, and chunks of one.
WHOLE, CHUNK = "chat.completion", "chat.completion.chunk"
# Whole pairs and all other escapes are passed over; the group is a half on its own, which stands for no letter.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
_LONE_HALF = re.compile("[\ud800-\udfff]")
_NO_LETTER = "\N{REPLACEMENT CHARACTER}"
# Names of counts, and of what holds them.
_COUNTS = re.compile(rb'"(usage|(?:prompt|completion|input|output|total)_tokens)"\s*:')
# `orjson` writes lists and objects that are nested up to here.
_DEEPEST = 254


def read_json(data: bytes) -> Any:
    """What a body or an event's data holds; None for null and for what nobody can read. Never raises.

    Read as well: halves of surrogates (as the sign for a letter that is none, which is what clients make of them on
    writing), NaN and the infinities, a byte order mark, UTF-16, bytes that are no UTF-8. Of equal keys the last counts,
    but those of usage hold all of their values in a list: nobody can take that for a count.
    A whole number beyond 64 bits is a float, as it is for JavaScript. What is read can be written again by `orjson`.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _read_leniently(data)
    if b"_tokens" in data and _has_counts_twice(data):
        return _read_leniently(data)
    if data.count(b"[") + data.count(b"{") > _DEEPEST:
        return _if_writable(value)
    return value


def complete(answer: dict[str, Any], *, kind: str, id: str, model: str, created: int) -> bool:
    """Put in what clients cannot read an answer without, or a chunk of one, where a model's API left it out or null.

    `kind` is its `object`. Whether anything was; nothing is put into what has no `choices`.
    """
    if not isinstance(choices := answer.get("choices"), list):
        return False
    lacked = _put_in(answer, {"id": id, "object": kind, "created": created, "model": model})
    for index, choice in enumerate(choices):
        if isinstance(choice, dict):
            lacked = _put_in(choice, {"index": index, **(_ended(choice) if kind == WHOLE else {})}) or lacked
            # A chunk mostly ends nothing, which it has to say.
            lacked = lacked or "finish_reason" not in choice
            choice.setdefault("finish_reason", None)
    return lacked


def _ended(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A whole choice's message and end, where it does not say them: it calls tools, or it has stopped."""
    said = choice.get("message")
    calls = isinstance(said, dict) and said.get("tool_calls")
    return {"message": {"role": "assistant", "content": ""}, "finish_reason": "tool_calls" if calls else "stop"}


def _put_in(answer: dict[str, Any], own: Mapping[str, Any]) -> bool:
    """Put in what is not there, or is of another type; whether anything was."""
    lacking = {name: value for name, value in own.items() if not isinstance(answer.get(name), type(value))}
    answer |= lacking
    return bool(lacking)


def _read_leniently(data: bytes) -> Any:
    try:
        text = data.decode(json.detect_encoding(data), "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    text = _ESCAPE.sub(lambda found: _NO_LETTER if found[1] else found[0], _LONE_HALF.sub(_NO_LETTER, text))
    try:
        return _if_writable(json.loads(text, parse_int=_number, object_pairs_hook=_with_all_counts))
    except (ValueError, RecursionError):
        return None


def _has_counts_twice(data: bytes) -> bool:
    """Whether equal names of counts may be in one object; they may be in several as well."""
    names = _COUNTS.findall(data)
    return len(set(names)) < len(names)


def _with_all_counts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        for name in value:
            said = [each for known, each in pairs if known == name]
            if len(said) > 1 and _COUNTS.fullmatch(f'"{name}":'.encode(errors="replace")):
                value[name] = said
    return value


def _number(digits: str) -> int | float:
    # Thousands of digits are refused by int(), and taken for infinite by float().
    value = float(digits)
    return int(digits) if -(2.0**63) < value < 2.0**63 else value


def _if_writable(value: Any) -> Any:
    """`value`, where it can be written: nested too deeply it would fail whoever adds to an answer."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return None
    return value
