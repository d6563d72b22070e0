"""Filters of every list: what is no filter, or can be no value of one, is a 400 that names it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

from governance.models import Budget
from tests import factories
from tests.governance.api.conftest import Api

HIDDEN, LONG = "a\u202eb", "x" * 5_000
# Of a type or format: what is none of it.
NONE = {"integer": "x", "int64": "x", "boolean": "perhaps", "date-time": "yesterday", "uuid": "5", "string": LONG}
# Text that is looked for as it is, and what pages begin at.
FREE = {"cursor", "reason", "tier", "stripe_customer_id", "scope", "group_by"}


@cache
def lists() -> dict[str, list[dict[str, Any]]]:
    """The filters of each list, by its path."""
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    found = {path: operations["get"].get("parameters", []) for path, operations in paths.items() if "get" in operations}
    return {
        # A format that there is not is a 406, as another Accept is.
        path: [one for one in parameters if one["in"] == "query" and one["name"] != "format"]
        for path, parameters in found.items()
        if any(one["name"] == "cursor" for one in parameters)
    }


def paths() -> list[str]:
    return sorted(lists())


def refused_for(api: Api, path: str, **query: Any) -> str:
    """The field that a 400 names, or 422 where a bound is passed; "" for an answer."""
    budget = Budget.objects.first() or factories.budget("1.00")
    answer = api.get(path.format(id=budget.pk, slug=factories.tenant().slug), **query)
    if answer.status_code == 200:
        return ""
    assert answer.status_code in (400, 422), answer.content
    return str(answer.json()["error"]["param"])


@pytest.mark.parametrize("path", paths())
def test_what_is_no_filter_is_named(operator: Api, path: str) -> None:
    assert refused_for(operator, path, nonsense="1") == "nonsense"


@pytest.mark.parametrize("path", paths())
def test_a_value_that_none_can_have_is_named(operator: Api, path: str) -> None:
    for filter in lists()[path]:
        name, schema = filter["name"], filter["schema"]
        odd = ["nonsense"] if "enum" in schema else [NONE[schema.get("format", schema["type"])]]
        odd += [HIDDEN] * (schema["type"] == "string" and name not in FREE) + ["a\0b"]
        for value in odd:
            assert refused_for(operator, path, **{name: value}) == name, value


@pytest.mark.parametrize("path", paths())
def test_a_filter_is_given_once(operator: Api, path: str) -> None:
    for filter in lists()[path]:
        name = filter["name"]
        assert refused_for(operator, path, **{name: ["1", "2"]}) == name


def test_there_are_lists() -> None:
    assert {"/api/refusals", "/api/spend", "/api/budgets/{id}/windows", "/api/billing/accounts"} <= lists().keys()
