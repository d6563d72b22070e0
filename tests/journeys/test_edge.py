"""What is refused before a path is looked at is an answer that the OpenAPI document has, at every operation."""

from __future__ import annotations

import http.client
import json
from contextlib import suppress
from typing import Any

import jsonschema
import pytest

from config import gate
from tests import factories as make
from tests.journeys.test_openapi import document
from tests.product import Product

KEY, TWICE = ("authorization", "Bearer {key}"), ("authorization", "Bearer {key}")
# What comes in the head of a request or its body, whatever it asks for: headers, and the body.
ODD: dict[str, tuple[list[tuple[str, str]], bytes]] = {
    "a header twice": ([KEY, TWICE], b""),
    "another charset": ([KEY, ("content-type", "application/json; charset=utf-16")], b"{}"),
    "another coding": ([KEY, ("transfer-encoding", "gzip, chunked")], b"0\r\n\r\n"),
    "another packing": ([KEY, ("content-encoding", "br"), ("content-type", "application/json")], b"{}"),
    "a broken packing": ([KEY, ("content-encoding", "gzip"), ("content-type", "application/json")], b"no gzip"),
    "another type": ([KEY, ("accept", "text/odd"), ("content-type", "text/odd")], b"{}"),
    "odd cookies": ([KEY, ("cookie", 'a="' + "\\" * 1_500)], b""),
    "a large head": ([KEY, ("x-long", "x" * 70_000)], b""),
    "a large body of a stranger's": ([("content-type", "application/json")], b" " * 70_000),
    "too large a body": ([KEY, ("content-type", "application/json")], b" " * (2 * 2**20 + 1)),
    "a body of nothing": ([KEY, ("content-type", "application/json")], b""),
}


def sent(product: Product, method: str, path: str, kind: str, key: str) -> tuple[int, Any]:
    """The status, and what is said."""
    headers, body = ODD[kind]
    connection = http.client.HTTPConnection(product.url.removeprefix("http://"), timeout=30)
    try:
        connection.putrequest(method.upper(), path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value.format(key=key))
        if body and not any(name == "transfer-encoding" for name, _ in headers):
            connection.putheader("content-length", str(len(body)))
        connection.endheaders()
        # It may be answered already.
        with suppress(ConnectionError):
            connection.send(body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


@pytest.mark.parametrize("kind", ODD)
def test_what_the_edge_answers_is_in_the_document(product: Product, kind: str) -> None:
    make.budget("1.00")
    key, components, wrong = product.key(role="operator"), document()["components"], []
    v1_key = product.key()
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            place = path.replace("{", "").replace("}", "")
            status, said = sent(product, method, place, kind, v1_key if path.startswith("/v1") else key)
            described = operation["responses"].get(str(status))
            if described is None:
                wrong.append((method, path, status, said))
            elif status >= 400:
                schema = described["content"]["application/json"]["schema"]
                jsonschema.validate(said, {**schema, "components": components})
    assert not wrong


@pytest.mark.parametrize("status", sorted({status for status, _ in gate.REFUSALS} | {408, 431}))
def test_every_operation_of_the_control_plane_has_the_statuses_of_the_edge(status: int) -> None:
    for path, operations in document()["paths"].items():
        for method, operation in operations.items() if path.startswith("/api/") else ():
            assert str(status) in operation["responses"], f"{method} {path}"
