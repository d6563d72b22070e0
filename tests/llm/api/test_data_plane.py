"""/v1 in the OpenAPI document: what the data plane goes by, and all of it."""

from __future__ import annotations

from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

from governance.rules import refusals
from governance.rules.decision import Reason
from llm.gateway.routes import ROUTES
from llm.rules import client_requests, request_fields


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return found


def test_every_route_is_described_with_the_fields_that_it_takes(document: dict[str, Any]) -> None:
    for path, route in ROUTES.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        if "application/json" in content:
            fields = set(content["application/json"]["schema"]["properties"])
            assert fields == request_fields.KNOWN[route.kind] - set(client_requests.REFUSED)
            assert set(content["application/json"]["schema"]["required"]) <= fields
    reads = {path for path in document["paths"] if path.startswith("/v1/")} - ROUTES.keys()
    assert reads == {"/v1/models", "/v1/models/{id}", "/v1/budget"}


def test_every_operation_says_how_it_refuses(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            errors = {status for status in operation["responses"] if status[0] == "4"}
            is_open = path.startswith("/api/health")
            assert errors >= ({"406"} if is_open else {"401", "403"}), (method, path)
            for status in errors:
                assert "schema" in operation["responses"][status]["content"]["application/json"], (method, path)


def test_every_refusal_of_the_table_is_a_status_of_a_call(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    # Tools are held and reported under /api, and run by agents themselves.
    for row in (row for row in refusals.TABLE if row.reason != Reason.TOOL_NOT_PRICED):
        assert row.code in responses[str(row.status)]["description"]


def test_an_exhausted_budget_has_the_status_that_is_configured(settings: Any) -> None:
    settings.OVER_BUDGET_STATUS = 429
    found = SchemaGenerator().get_schema(request=None, public=True)
    responses = found["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert refusals.BUDGET_EXHAUSTED in responses["429"]["description"]
    assert refusals.BUDGET_EXHAUSTED not in responses["402"]["description"]
