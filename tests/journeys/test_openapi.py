"""Whatever is sent to either plane, the answer is one that the OpenAPI document has: its status, its type, its shape.

Schemathesis makes the requests from the document itself: such as it allows, and such as it forbids. Each is sent with a
key of every role and with none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import schemathesis
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from governance.audit import Actor
from governance.upkeep import reconcile
from llm.api import data_plane
from tests.governance.api.test_roles import ACTS, of_invoices
from tests.llm.gateway.test_routes import wav
from tests.product import Product

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROLES = ("agent", "tenant", "viewer", "operator", "")
# Of each operation: so many requests that the document allows, and so many that it forbids.
ALLOWED, FORBIDDEN = 2, 1


# Bodies that are taken, of operators' acts and of what is none.
BODIES = {re.sub(r"<.*?>", "<>", line): body for line, (body, _) in ACTS.items()} | {
    "post decisions": {"tenant": "acme", "model": "mistral-small-latest", "estimated_cost": "0.01"},
    "post llm/route": {"model": "mistral-small-latest", "prompt": "Hello", "max_tokens": 20},
    "post /v1/audio/transcriptions": {"model": "voxtral-mini-latest", "file": wav(1)},
}
# What has to be asked for by name.
QUERIES = {"reports/preview": {"scope_type": "platform", "cadence": "weekly"}}
# The budget that is there renews, and is not closed.
OF_GOALS = {"post /api/budgets/{id}/close"}
MODELS = {f"/v1{path}": body["model"] for path, body in data_plane.EXAMPLES.items()}


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    for operations in found["paths"].values():
        for operation in operations.values():
            # Whatever a model's API refuses with is passed on; that of the tests is known for what is named beside it.
            operation["responses"].pop("4XX", None)
    return found


@cache
def api() -> Any:
    return schemathesis.openapi.from_dict(document())


def described(line: str) -> dict[str, Any]:
    method, _, path = line.partition(" ")
    return dict(document()["paths"][path][method])


def operations() -> list[str]:
    return [f"{method} {path}" for path, found in document()["paths"].items() for method in found]


class Caller:
    """Sends one request as everybody would, and holds each answer against the document."""

    def __init__(self, product: Product, method: str, path: str) -> None:
        self.product = product
        self.operation = api()[path][method.upper()]
        self.keys = {role: product.key(role=role) for role in ROLES if role}
        objects = of_invoices()
        # What was put there past the ledger is no drift of these calls.
        reconcile.repair(by=Actor("test"), now=timezone.now())
        kind = re.sub(r"^/(api|v1)/|/{.*", "", path)
        self.place = {name: str(objects[kind]) for name in re.findall(r"{(\w+)}", path)}
        self.statuses: set[int] = set()

    def everybody(self, case: Any, **headers: str) -> None:
        for role in ROLES:
            key = {"authorization": f"Bearer {self.keys[role]}"} if role else {}
            response = case.call(base_url=self.product.url, headers=key | headers)
            self.statuses.add(response.status_code)
            case.validate_response(response, checks=CHECKS, headers=key)

    def at_what_is_there(self, case: Any) -> None:
        """The request for an object, tenant and model that there are."""
        case.path_parameters = self.place
        there = {"tenant": "acme", "model": MODELS.get(case.path, "mistral-small-latest")}
        if isinstance(case.body, dict):
            case.body |= {name: value for name, value in there.items() if name in case.body}
        self.everybody(case)

    def made(self, mode: GenerationMode, count: int, send: Callable[[Any], None]) -> None:
        """Sends requests that schemathesis makes: the same ones each time."""

        @given(case=self.operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=count,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def each(case: Any) -> None:
            send(case)

        each()


@pytest.mark.parametrize("line", operations())
def test_every_answer_is_one_that_the_document_has(product: Product, line: str) -> None:
    method, _, path = line.partition(" ")
    caller = Caller(product, method, path)
    caller.everybody(known(caller, method, path))
    if "text/csv" in described(line)["responses"].get("200", {}).get("content", {}):
        caller.everybody(known(caller, method, path), accept="text/csv")
    caller.made(GenerationMode.POSITIVE, ALLOWED, caller.at_what_is_there)
    if described(line).get("parameters") or "requestBody" in described(line):
        caller.made(GenerationMode.NEGATIVE, FORBIDDEN, caller.everybody)
    assert min(caller.statuses) < 300 or line in OF_GOALS, "nobody was answered"


def known(caller: Caller, method: str, path: str) -> Any:
    """A request that is meant to go well, for something that is there."""
    name = re.sub(r"{.*?}", "<>", path.removeprefix("/api/"))
    body = BODIES.get(f"{method} {name}", data_plane.EXAMPLES.get(path.removeprefix("/v1")))
    if body is None or method == "delete":
        return caller.operation.Case(path_parameters=caller.place, query=QUERIES.get(name, {}))
    kind = "multipart/form-data" if "file" in body else "application/json"
    return caller.operation.Case(path_parameters=caller.place, body=body, media_type=kind)
