"""Every answer that the OpenAPI document has, has an example, and each is what its schema allows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest
from drf_spectacular.generators import SchemaGenerator

from config import api_examples


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return found


def answers() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                if "application/json" in answer.get("content", {}):
                    yield f"{method} {path} {status}", answer["content"]["application/json"]


def examples(content: dict[str, Any]) -> list[Any]:
    if "example" in content:
        return [content["example"]]
    names = [one["$ref"].rpartition("/")[2] for one in content.get("examples", {}).values()]
    return [document()["components"]["examples"][name]["value"] for name in names]


def test_every_status_has_an_example() -> None:
    assert [where for where, content in answers() if not examples(content)] == []
    assert sum(1 for _ in answers()) > 800


def test_examples_are_what_their_schemas_allow() -> None:
    wrong = []
    for where, content in answers():
        schema = {**content["schema"], "components": document()["components"]}
        checker = jsonschema.Draft202012Validator(schema)
        wrong += [
            f"{where}: {error.json_path} {error.message[:200]}"
            for one in examples(content)
            for error in checker.iter_errors(one)
        ]
    assert wrong == []


def test_errors_are_told_by_their_codes() -> None:
    found = document()["paths"]["/api/budgets/{id}"]["get"]["responses"]["404"]["content"]["application/json"]
    assert found["examples"]["not_found"] == {"$ref": "#/components/examples/not_found"}
    told = document()["components"]["examples"]
    assert told["not_found"]["value"]["error"]["message"] == "There is nothing here that you can see."
    assert told["v1_budget_exhausted"]["value"]["error"]["message"] == "The budget is used up."
    assert {name for name, one in told.items() if one["value"]["error"]["code"] != name.removeprefix("v1_")} == set()


def test_an_answer_that_went_well_has_values_of_its_fields() -> None:
    [budget] = document()["paths"]["/api/budgets"]["get"]["responses"]["200"]["content"]["application/json"]["example"][
        "results"
    ]
    assert (budget["tenant"], budget["limit"], budget["starts_at"]) == ("acme", "12.50", "2026-03-10T12:00:00Z")


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": ["null", "integer"]}, 1),
        ({"type": "integer", "minimum": 7}, 7),
        ({"oneOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"enum": [None, "b"]}, "b"),
        ({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}}]}, {"a": 1}),
        ({"type": "array", "items": {"type": "string", "format": "date"}}, ["2026-03-10"]),
        ({"type": "null"}, None),
        ({"oneOf": [{"type": "null"}]}, None),
    ],
)
def test_a_value_is_made_of_a_schema(schema: dict[str, Any], value: Any) -> None:
    assert api_examples.made(schema, {}) == value
