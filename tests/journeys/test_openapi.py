"""Whatever is sent to either plane, the answer is one that the OpenAPI document has: its status, its type, its shape.

Schemathesis makes the requests from the document itself: such as it allows, and such as it forbids. Each is sent with a
key of every role and with none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
ALLOWED, FORBIDDEN = 4, 3


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


def operations() -> list[str]:
    return [f"{method} {path}" for path, found in document()["paths"].items() for method in found]


class Caller:
    """Sends one request as everybody would, and holds each answer against the document."""

    def __init__(self, product: Product, operation: Any) -> None:
        self.product = product
        self.operation = operation
        self.keys = {role: product.key(role=role) for role in ROLES if role}
        self.objects = of_invoices()
        # What was put there past the ledger is no drift of these calls.
        reconcile.repair(by=Actor("test"), now=timezone.now())
        self.statuses: set[int] = set()

    def everybody(self, case: Any, **headers: str) -> None:
        for role in ROLES:
            key = {"authorization": f"Bearer {self.keys[role]}"} if role else {}
            response = case.call(base_url=self.product.url, headers=key | headers)
            self.statuses.add(response.status_code)
            case.validate_response(response, checks=CHECKS, headers=key)

    def place(self, path: str) -> dict[str, str]:
        """The path parameters of an object that is there."""
        kind = path.removeprefix("/api/").removeprefix("/v1/").split("/{")[0]
        return {name: str(self.objects[kind]) for name in re.findall(r"{(\w+)}", path)}


@pytest.mark.parametrize("line", operations())
def test_every_answer_is_one_that_the_document_has(product: Product, line: str) -> None:
    method, _, path = line.partition(" ")
    operation = api()[path][method.upper()]
    caller = Caller(product, operation)
    for case in known(operation, caller, method, path):
        caller.everybody(case)
    for mode, count in ((GenerationMode.POSITIVE, ALLOWED), (GenerationMode.NEGATIVE, FORBIDDEN)):
        sent(operation, mode, count, caller.everybody)
    assert min(caller.statuses) < 300, "nobody was answered"


def known(operation: Any, caller: Caller, method: str, path: str) -> Iterator[Any]:
    """A request that is meant to go well, for something that is there."""
    place = caller.place(path)
    name = re.sub(r"{.*?}", "<>", path.removeprefix("/api/"))
    acts = {re.sub(r"<.*?>", "<>", line): body for line, (body, _) in ACTS.items()}
    body = acts.get(f"{method} {name}", data_plane.EXAMPLES.get(path.removeprefix("/v1")))
    given = {} if body is None or method == "delete" else {"body": body, "media_type": "application/json"}
    yield operation.Case(path_parameters=place, **given)


def sent(operation: Any, mode: GenerationMode, count: int, everybody: Any) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def each(case: Any) -> None:
        everybody(case)

    each()
