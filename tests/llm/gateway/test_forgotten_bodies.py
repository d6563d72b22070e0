"""What a call leaves in memory: nothing, and not only when Python's collector comes by.

A large body is one object, by whose number alone the collector thinks that there is little to do.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import orjson
import pytest

from config.connections import GuardedConnection
from llm.gateway.http import Exchange
from llm.rules.client_requests import Request
from tests import factories as make
from tests.llm.gateway.test_bodies import CHAT, HI
from tests.product import Product, eventually

OF_A_CALL = (GuardedConnection, Exchange, Request)
LARGE = {"messages": [{"role": "user", "content": "a" * 100_000}]}


def alive() -> Counter[str]:
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in OF_A_CALL)


@pytest.fixture
def key(product: Product) -> Iterator[str]:
    make.budget("10.00")
    make.budget("0.0001", scope_type="user", scope_key="poor")
    key = product.key()
    assert product.chat(key).status_code == 200
    gc.collect()
    gc.disable()
    yield key
    gc.enable()


def call(product: Product, key: str, *, headers: dict[str, str] | None = None, **fields: Any) -> int:
    given = {"authorization": f"Bearer {key}", "content-type": "application/json"} | (headers or {})
    return httpx.post(
        product.url + CHAT, content=orjson.dumps(HI | LARGE | fields), headers=given, timeout=60
    ).status_code


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (200, {}),
        (200, {"stream": True}),
        (200, {"headers": {"idempotency-key": "once"}}),
        (400, {"model": "nowhere"}),
        (402, {"headers": {"x-user": "poor"}}),
        (422, {"temperature": "warm"}),
        (401, {"headers": {"authorization": "Bearer nobodys"}}),
    ],
)
def test_a_call_that_was_answered_leaves_nothing(
    product: Product, key: str, status: int, fields: dict[str, Any]
) -> None:
    assert [call(product, key, **fields) for _ in range(3)] == [status] * 3

    assert eventually(lambda: not alive()), alive()


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "once"}])
@pytest.mark.parametrize(("behaviour", "stream"), [("status=500", False), ("status=500", True), ("cut-stream=0", True)])
def test_nor_does_one_that_failed(
    product: Product, key: str, behaviour: str, stream: bool, headers: dict[str, str]
) -> None:
    product.sandbox.next(behaviour, times=20)
    for _ in range(3):
        call(product, key, stream=stream, headers=headers)

    assert eventually(lambda: not alive()), alive()


def test_nor_does_one_whose_client_left(product: Product, key: str) -> None:
    product.sandbox.next("latency=1")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            product.url + CHAT,
            content=orjson.dumps(HI | LARGE | {"stream": True}),
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            timeout=0.5,
        )

    assert eventually(lambda: not alive()), alive()
