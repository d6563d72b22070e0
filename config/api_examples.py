"""An example of every answer, in the OpenAPI document: errors by their codes, the others made of their schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from governance.api import errors
from governance.rules import refusals

JSON = "application/json"
# What the codes of a status are told by, in the words that describe it.
CODES = re.compile(r"`(?:error\.)?code` (?:is one of:|may be) ([\w, ]+)")
WORDS = "What is wrong, in words for people."
REQUEST_ID = "0192f0c1-7c3e-7b52-9f0d-1a2b3c4d5e6f"
MOMENT = "2026-03-10T12:00:00Z"
FORMATS = {
    "date-time": MOMENT,
    "date": "2026-03-10",
    "decimal": "0.25",
    "uuid": REQUEST_ID,
    "uri": "https://governor.example.com/",
    "email": "ada@example.com",
}
# Of fields whose schema says no more than that they are texts.
NAMES = {
    **dict.fromkeys(("tenant", "subject"), "acme"),
    **dict.fromkeys(("model", "model_requested", "model_served", "suggested_model"), "mistral-small-latest"),
    "scope": "tenant:acme",
    "agent": "invoices",
    "user": "ada",
    "session": "s-1",
    "task": "t-1",
    "provider": "mistral",
    "slug": "acme",
    "window": "day",
    "currency": "usd",
    "state": "active",
    "actor": "olga",
    "to": "mistral-small-latest",
    "from": "mistral-large-latest",
    "code": "not_found",
    "message": WORDS,
}
DEEPEST = 6


def describe(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A POSTPROCESSING_HOOK of drf-spectacular, the last: nothing that has an example gets another."""
    kept: dict[str, Any] = result["components"].setdefault("examples", {})
    for path, operations in result["paths"].items():
        for operation in operations.values():
            for answer in operation["responses"].values():
                content = answer.get("content", {}).get(JSON)
                if content is None or "example" in content or "examples" in content:
                    continue
                found = _codes(answer.get("description", ""))
                if found:
                    content["examples"] = dict(_refused(found, content["schema"], result, kept, path))
                else:
                    content["example"] = made(content["schema"], result)
    result["components"]["examples"] = dict(sorted(kept.items()))
    return result


def _codes(description: str) -> list[str]:
    """The codes of an error, without those that only come by an accident of what stands before it."""
    told = [code for words in CODES.findall(description) for code in words.split(", ")]
    return list(dict.fromkeys(told))


def _refused(
    codes: list[str], schema: Mapping[str, Any], document: Mapping[str, Any], kept: dict[str, Any], path: str
) -> Iterator[tuple[str, Any]]:
    """References to one example for each code, which all answers with it share."""
    plane = "v1_" if path.startswith("/v1") else ""
    for code in codes:
        name = f"{plane}{code}"
        if name not in kept:
            error = made(schema, document)
            error["error"] |= {"code": code, "message": _said(code)}
            kept[name] = {"value": error}
        yield code, {"$ref": f"#/components/examples/{name}"}


def _said(code: str) -> str:
    """What it says, where that is the same for every call."""
    row = next((row for row in refusals.TABLE if row.code == code and "{" not in row.sentence), None)
    return f"{row.sentence}." if row else errors.MESSAGES.get(code, WORDS)


def made(schema: Mapping[str, Any], document: Mapping[str, Any], *, name: str = "", depth: int = 0) -> Any:
    """A value that a schema allows: the first of what it lists, else one by its type, format and name."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for word in ("const", "example", "default"):
        if schema.get(word) is not None:
            return schema[word]
    if schema.get("examples") or schema.get("enum"):
        return next(value for value in (*schema.get("examples", ()), *schema.get("enum", ())) if value is not None)
    for word in ("oneOf", "anyOf"):
        if schema.get(word) and "properties" not in schema:
            parts = [part for part in schema[word] if part.get("type") != "null" and part.get("enum") != [None]]
            return made(parts[0], document, name=name, depth=depth) if parts else None
    if "allOf" in schema:
        values = [made(part, document, name=name, depth=depth) for part in schema["allOf"]]
        return (
            {key: one for value in values for key, one in value.items()} if isinstance(values[0], dict) else values[0]
        )
    return _of_type(schema, document, name, depth)


def _of_type(schema: Mapping[str, Any], document: Mapping[str, Any], name: str, depth: int) -> Any:
    stated = schema.get("type", "object")
    kinds = [stated] if isinstance(stated, str) else stated
    kind = next((one for one in kinds if one != "null"), "null")
    if kind == "object":
        # What names itself is told so far and no further.
        fields = schema.get("properties", {}) if depth < DEEPEST else {}
        needed = {name for part in schema.get("anyOf", ())[:1] for name in part.get("required", ())}
        found = {key: made(inner, document, name=key, depth=depth + 1) for key, inner in fields.items()}
        return {**{key: [] for key in needed}, **found}
    if kind == "array":
        item = made(schema.get("items", {}), document, name=name, depth=depth + 1)
        return [item] if depth < DEEPEST and item != {} else []
    if kind == "string":
        return _text(schema, name)
    plain = {"integer": max(1, schema.get("minimum", 1)), "number": 0.25, "boolean": True, "null": None}
    return plain[kind]


def _text(schema: Mapping[str, Any], name: str) -> str:
    if (known := FORMATS.get(schema.get("format", ""))) is not None:
        return known
    if name in NAMES:
        return NAMES[name]
    if name.endswith("_id"):
        return REQUEST_ID
    return "a" * max(1, schema.get("minLength", 0)) if schema.get("pattern") else name.replace("_", " ") or "text"
