"""Answers as upstreams write them: JSON that clients read, also where it is not quite JSON. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from governance.rules.calls import Usage
from llm.rules import tool_calls

# What answers say that they are, and chunks of one.
WHOLE, CHUNK = "chat.completion", "chat.completion.chunk"
# Whole pairs and all other escapes are passed over; the group is a half on its own, which stands for no letter.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
# What a usage counts.
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
_LONE_HALF = re.compile("[\ud800-\udfff]")
_NO_LETTER = "\N{REPLACEMENT CHARACTER}"
# A vector, as numbers or as base64 of them.
_VECTOR = re.compile(rb'\[[-+.0-9eE,\s]{32,}+\]|"[A-Za-z0-9+/]{256,}+={0,2}"')
# What is so large and no JSON is nothing that an API writes: reading it takes everybody's time.
_MOST_LENIENT = 1024 * 1024
# So much is looked at before others have Python's lock for a while: a few milliseconds' work.
_SLICE_BYTES = 1024 * 1024
# Names of counts, and of what holds them.
_COUNTS = re.compile(rb'"(usage|(?:prompt|completion|input|output|total)_tokens)"\s*:')
# `orjson` writes lists and objects that are nested up to here.
_DEEPEST = 254


class Mended(dict[str, Any]):
    """What a body holds that most clients cannot read: it goes on as JSON, written anew."""


def read_json(data: bytes) -> Any:
    """What a body or an event's data holds; None for null and for what nobody can read. Never raises.

    Read as well: halves of surrogates (as the sign for a letter that is none, which is what clients make of them on
    writing), NaN and the infinities, a byte order mark, UTF-16, bytes that are no UTF-8. Of equal keys the last counts,
    but those of usage hold all of their values in a list: nobody can take that for a count.
    A whole number beyond 64 bits is a float, as it is for JavaScript. What is read can be written again by `orjson`.
    An object that is no JSON as it came is `Mended`.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = _read_leniently(data) if len(data) <= _MOST_LENIENT else None
        return Mended(found) if isinstance(found, dict) else found
    if b"_tokens" in data and _has_counts_twice(data):
        return _read_leniently(data)
    if data.count(b"[") + data.count(b"{") > _DEEPEST:
        return _if_writable(value)
    return value


def without_vectors(data: bytes) -> bytes:
    """A body of embeddings with an empty list in place of each long vector, which takes a tenth of the time to read.

    For what the rest says. It goes slice by slice, from one object to another: a vector holds none.
    """
    slices, start = list[bytes](), 0
    while start < len(data):
        end = data.find(b"{", start + _SLICE_BYTES)
        end = len(data) if end < 0 else end
        slices.append(_VECTOR.sub(b"[]", data[start:end]))
        start = end
    return b"".join(slices)


def as_json(data: bytes, said: dict[str, Any], *, has_all: bool) -> bytes:
    """A body as JSON that every client reads: as it came, or written anew where it is none (NaN is null then).

    `has_all`: `said` is all that it says; else, of vectors, it is read once more, up to a size that takes no time.
    """
    if not (isinstance(said, Mended) or (not has_all and _complete_items(said))) or len(data) > _MOST_LENIENT:
        return data
    whole = said if has_all else read_json(data)
    if not isinstance(whole, dict):
        return data
    _complete_items(whole)
    return orjson.dumps(whole)


def with_fields(data: bytes, fields: Mapping[str, Any]) -> bytes:
    """An object's body with fields put in at its end: of equal names the last counts, as nearly everybody has it."""
    return b"".join((memoryview(data)[: data.rindex(b"}")], b",", orjson.dumps(fields)[1:]))


def complete(answer: dict[str, Any], *, kind: str, id: str, model: str, created: int) -> bool:
    """Put in what clients cannot read an answer without, or a chunk of one, where a model's API left it out or null.

    `kind` is its `object`. What cannot be read at all (a choice that is none, a call of no tool) goes. Whether anything
    was changed. Of what has no list of `choices` embeddings and moderations alone are completed.
    """
    if not isinstance(choices := answer.get("choices"), list):
        return _complete_list(answer, id=id, model=model)
    changed = _put_in(answer, {"id": id, "object": kind, "created": created, "model": model})
    are_choices = True
    for index, choice in enumerate(choices):
        if not isinstance(choice, dict):
            are_choices = False
            continue
        if not isinstance(choice.get("index"), int):
            choice["index"] = index
            changed = True
        if not isinstance(choice.get("logprobs"), dict | None):
            # What says nothing of its tokens as it would be read says nothing.
            del choice["logprobs"]
            changed = True
        if kind == WHOLE:
            changed = _complete_text(choice, "message", id=id) or changed
            changed = _put_in(choice, {"finish_reason": end_of(calls=choice["message"].get("tool_calls"))}) or changed
            continue
        changed = _complete_text(choice, "delta", id=id) or changed
        if not isinstance(end := choice.get("finish_reason", 0), str) and end is not None:
            # A chunk mostly ends nothing, which it has to say.
            choice["finish_reason"] = "stop" if end else None
            changed = True
    if not are_choices:
        answer["choices"] = [choice for choice in choices if isinstance(choice, dict)]
    return changed or not are_choices


def _complete_list(answer: dict[str, Any], *, id: str, model: str) -> bool:
    changed = _complete_items(answer)
    if isinstance(answer.get("data"), list):
        return _put_in(answer, {"id": id, "object": "list", "model": model}) or changed
    return (isinstance(answer.get("results"), list) and _put_in(answer, {"id": id, "model": model})) or changed


def _complete_items(answer: dict[str, Any]) -> bool:
    """Have each vector, or judgement, be an object that clients read; whether any was none.

    Each stays where it is, for by that it is known whose it is. Of a text that was not judged nothing is said: who asks
    for a judgement finds none.
    """
    changed = False
    vectors, judgements = (said if isinstance(said := answer.get(name), list) else [] for name in ("data", "results"))
    for index, vector in enumerate(vectors):
        if not isinstance(vector, dict):
            vector = vectors[index] = {}
        changed = _put_in(vector, {"object": "embedding", "index": index}) or changed
        if not isinstance(vector.get("embedding"), list | str):
            vector["embedding"] = []
            changed = True
    for index, judgement in enumerate(judgements):
        if not isinstance(judgement, dict):
            judgements[index] = {}
            changed = True
        else:
            changed = _drop_unsaid(judgement) or changed
    return changed


def _drop_unsaid(judgement: dict[str, Any]) -> bool:
    """Leave the categories out of which nothing is said; whether there were any."""
    changed = False
    for name in ("categories", "category_scores"):
        said = judgement.get(name)
        if isinstance(said, dict) and None in said.values():
            judgement[name] = {category: value for category, value in said.items() if value is not None}
            changed = True
    return changed


def end_of(*, calls: Any) -> str:
    """How an answer has ended that does not say it: it calls tools, or it has stopped."""
    return "tool_calls" if calls else "stop"


def complete_usage(answer: dict[str, Any], used: Usage | None, *, kind: str) -> bool:
    """Have an answer, or a chunk that says one, say its usage in counts that clients read: else those of `used`.

    Without these a chunk says none. Whether anything was changed.
    """
    said = answer.get("usage")
    if said is None and kind == CHUNK:
        return False
    # Who writes nothing need not say so.
    names = _TOKENS if "choices" in answer else _TOKENS[::2]
    if isinstance(said, dict) and all(type(said.get(name)) is int for name in names):
        return False
    if used is None:
        del answer["usage"]
    else:
        answer["usage"] = {**(said if isinstance(said, dict) else {}), **token_counts(used)}
    return True


def token_counts(used: Usage) -> dict[str, int]:
    """A usage as answers say it."""
    counts = (used.input_tokens, used.output_tokens, used.input_tokens + used.output_tokens)
    return dict(zip(_TOKENS, counts, strict=True))


def _complete_text(choice: dict[str, Any], name: str, *, id: str) -> bool:
    """Have a choice's `message`, or `delta`, be what clients read as such. `id`: by which its calls are named."""
    said, changed = choice.get(name), False
    if not isinstance(said, dict):
        said = choice[name] = _said_elsewhere(choice, said)
        changed = True
    is_whole = name == "message"
    if (role := said.get("role")) != "assistant" and (is_whole or role is not None):
        said["role"] = "assistant"
        changed = True
    if not isinstance(content := said.get("content"), str | list) and content is not None:
        said["content"] = tool_calls.text_of(content)
        changed = True
    if said.get("tool_calls") is not None:
        changed = tool_calls.complete(said, is_whole=is_whole, id=f"{id} {choice['index']}") or changed
    return changed


def _said_elsewhere(choice: Mapping[str, Any], said: Any) -> dict[str, Any]:
    """A choice's text from where else it may be: in place of its message, in a part of one, as completions had it."""
    if isinstance(delta := choice.get("delta"), dict):
        return dict(delta)
    texts = (text for text in (said, delta, choice.get("text")) if isinstance(text, str))
    return {"content": next(texts, "")}


def _put_in(answer: dict[str, Any], own: Mapping[str, Any]) -> bool:
    """Put in what is not there, or is of another type; whether anything was."""
    lacking = [name for name, value in own.items() if not isinstance(answer.get(name), type(value))]
    for name in lacking:
        answer[name] = own[name]
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
