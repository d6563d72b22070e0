"""What the API promises, as lines that can be compared: each operation, with each field that it takes and answers.

    python -m tests.api_shape > tests/fixtures/api/0.2.0.txt

writes down what a release promises; `tests/config/test_api_compatibility.py` holds what comes after it to that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")
# A document's parts may name each other in a circle.
DEEPEST = 8


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """`get /api/budgets`, and after that: `?name type` of a query, `<place type` of a body, `>status place type` of an
    answer that went well. What must be given ends with an exclamation mark."""
    for path, operations in sorted(document["paths"].items()):
        for method in METHODS:
            if method not in operations:
                continue
            operation, name = operations[method], f"{method} {path}"
            yield name
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "query":
                    [(_, kind)] = [*_fields(document, parameter.get("schema", {}))][:1] or [("", "any")]
                    yield f"{name} ?{parameter['name']} {kind}{_must(parameter.get('required', False))}"
            for schema in _contents(operation.get("requestBody", {})):
                for place, kind in _fields(document, schema, says_must=True):
                    yield f"{name} <{place or '.'} {kind}"
            for status, response in sorted(operation["responses"].items()):
                if status.startswith("2"):
                    yield f"{name} >{status}"
                    for schema in _contents(response):
                        for place, kind in _fields(document, schema):
                            yield f"{name} >{status} {place or '.'} {kind}"


def _contents(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (one.get("schema", {}) for kind, one in body.get("content", {}).items() if kind == "application/json")


def _must(is_required: bool) -> str:
    return "!" if is_required else ""


def _fields(
    document: Mapping[str, Any], schema: Mapping[str, Any], *, says_must: bool = False, place: str = "", depth: int = 0
) -> Iterator[tuple[str, str]]:
    """(place, types) of a schema and of all within it: "results[].limit", "null|string"."""
    kinds, properties, items, required = _read(document, schema)
    yield place, "|".join(sorted(kinds)) or "any"
    if depth >= DEEPEST:
        return
    for name, inner in sorted(properties.items()):
        inside = f"{place}.{name}" if place else name
        for at, kind in _fields(document, inner, says_must=says_must, place=inside, depth=depth + 1):
            yield at, f"{kind}{_must(says_must and at == inside and name in required)}"
    if items is not None:
        yield from _fields(document, items, says_must=says_must, place=f"{place}[]", depth=depth + 1)


def _read(
    document: Mapping[str, Any], schema: Mapping[str, Any]
) -> tuple[set[str], dict[str, Any], Mapping[str, Any] | None, set[str]]:
    """Types, properties, items and what is required, with references and alternatives resolved."""
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    stated = schema.get("type", [])
    kinds = set(stated if isinstance(stated, list) else [stated])
    kinds |= {"null"} if schema.get("nullable") or None in schema.get("enum", ()) else set()
    properties, items, required = (
        dict(schema.get("properties", {})),
        schema.get("items"),
        set(schema.get("required", ())),
    )
    for word in ("allOf", "oneOf", "anyOf"):
        for part in schema.get(word, ()):
            inner = _read(document, part)
            kinds |= inner[0]
            properties |= inner[1]
            items = items or inner[2]
            required |= inner[3] if word == "allOf" else set()
    return kinds, properties, items, required


def broken(before: set[str], after: set[str]) -> list[str]:
    """What was promised and is not kept."""
    known = {_place(line): line for line in after}
    return sorted({*_missing(before, known), *_demanded(before, after)})


def _place(line: str) -> str:
    """A line without its types: these are its last word, where it has any."""
    method, path, *rest = line.split(" ")
    return " ".join([method, path, *(rest[:-1] if len(rest) > 1 else rest)])


def _missing(before: set[str], known: Mapping[str, str]) -> Iterator[str]:
    for line in before:
        method, path, *rest = line.split(" ")
        now = known.get(_place(line))
        if now is None:
            # Of what is gone altogether the operation's line says it.
            if not rest or f"{method} {path}" in known:
                yield f"gone: {line}"
        elif len(rest) > 1:
            had, has = (set(each.rsplit(" ", 1)[1].rstrip("!").split("|")) for each in (line, now))
            # Who sends may send what it could; who reads is told nothing that it could not be told.
            if "any" not in had | has and not (had <= has if rest[0][0] in "?<" else has <= had):
                yield f"another type: {line}, now {now.rsplit(' ', 1)[1]}"


def _demanded(before: set[str], after: set[str]) -> Iterator[str]:
    asked, operations = (
        {line for line in before if line.endswith("!")},
        {line for line in before if line.count(" ") == 1},
    )
    places = {_place(line) for line in asked}
    for line in after:
        method, path, *_ = line.split(" ")
        if line.endswith("!") and f"{method} {path}" in operations and _place(line) not in places:
            # What is new within something that may be left out asks nobody for more.
            field = line.split(" ")[2]
            if "." not in field.strip("<?.") or any(_outer(line) == place for place in map(_place, before)):
                yield f"now asked for: {line}"


def _outer(line: str) -> str:
    return _place(line).rsplit(".", 1)[0]


def of_today() -> set[str]:
    from drf_spectacular.generators import SchemaGenerator

    return set(lines(SchemaGenerator().get_schema(request=None, public=True)))


def of_release(path: Path) -> set[str]:
    return set(path.read_text().splitlines())


if __name__ == "__main__":
    import django

    django.setup()
    sys.stdout.writelines(f"{line}\n" for line in sorted(of_today()))
