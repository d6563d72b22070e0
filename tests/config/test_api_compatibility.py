"""What the last release's API promised is kept: its operations, their fields, and what these may be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests import api_shape

PROMISED = Path(__file__).parents[1] / "fixtures" / "api"
# What is otherwise all the same, by pattern, and why; the changelog tells it.
CHANGED = {
    r"another type: .* >20[01] (.*\.)?(limit|extra|spent|reserved|remaining|utilization) .*\bnull\b.*": (
        "amounts are null for whom a tenant shows none, who was told them before"
    ),
    r"another type: .* budgets\[\]\.(budget|starts_at|state) .*\bnull\b.*": "of what all share a key is told less",
    r"another type: .* /api/plans\S* >20[01] (.*\.)?soft_cap number, now null\|number": "a plan may be without one",
    r"another type: .* (.*\.)?key string, now null\|string": "a call may come from a console user, who has no key",
}


def last_release() -> Path:
    return max(PROMISED.glob("*.txt"), key=lambda path: tuple(map(int, path.stem.split("."))))


@pytest.fixture(scope="module")
def broken() -> list[str]:
    return api_shape.broken(api_shape.of_release(last_release()), api_shape.of_today())


def test_nothing_that_was_promised_is_gone_or_otherwise(broken: list[str]) -> None:
    assert [each for each in broken if not any(re.fullmatch(pattern, each) for pattern in CHANGED)] == []


def test_what_is_told_as_changed_is(broken: list[str]) -> None:
    assert [pattern for pattern in CHANGED if not any(re.fullmatch(pattern, each) for each in broken)] == []


def shape(**operation: Any) -> set[str]:
    return set(api_shape.lines({"paths": {"/x": {"post": {"responses": {}} | operation}}}))


def taking(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def answering(**properties: Any) -> dict[str, Any]:
    schema = {"type": "array", "items": {"type": "object", "properties": properties}}
    return {"responses": {"200": {"content": {"application/json": {"schema": schema}}}}}


TEXT, MAYBE, NUMBER = {"type": "string"}, {"type": "string", "nullable": True}, {"type": "integer"}


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (answering(a=TEXT), answering(a=TEXT, b=TEXT), []),
        (answering(a=TEXT, b=TEXT), answering(a=TEXT), ["gone: post /x >200 [].b string"]),
        (answering(a=TEXT), answering(a=MAYBE), ["another type: post /x >200 [].a string, now null|string"]),
        (answering(a=MAYBE), answering(a=TEXT), []),
        (taking(a=TEXT), taking(a=MAYBE, b=TEXT), []),
        (taking(a=MAYBE), taking(a=TEXT), ["another type: post /x <a null|string, now string"]),
        (taking(a=TEXT), taking(a=NUMBER), ["another type: post /x <a string, now integer"]),
        (taking(a=TEXT), taking(("a",), a=TEXT), ["now asked for: post /x <a string!"]),
        (taking(a=TEXT), taking(("b",), a=TEXT, b=TEXT), ["now asked for: post /x <b string!"]),
        (taking(("a",), a=TEXT), taking(a=TEXT), []),
        (taking(a=TEXT), {}, ["gone: post /x <. object", "gone: post /x <a string"]),
        (
            {"parameters": [{"in": "query", "name": "q", "schema": TEXT}]},
            {"parameters": [{"in": "query", "name": "q", "schema": TEXT, "required": True}]},
            ["now asked for: post /x ?q string!"],
        ),
    ],
)
def test_what_breaks_a_promise(before: dict[str, Any], after: dict[str, Any], found: list[str]) -> None:
    assert api_shape.broken(shape(**before), shape(**after)) == found


def test_an_operation_that_is_gone_is_told_once() -> None:
    assert api_shape.broken(shape(**taking(a=TEXT)), set()) == ["gone: post /x"]


def test_references_and_alternatives_are_followed() -> None:
    schemas = {
        "A": {"type": "object", "properties": {"b": {"oneOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]}}}
    }
    operation = {
        "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}}
    }
    found = set(api_shape.lines({"paths": {"/x": {"get": operation}}, "components": {"schemas": schemas}}))
    assert "get /x >200 b null|object" in found
    assert "get /x >200 b.b null|object" in found
