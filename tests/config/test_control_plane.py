"""Django behind ASGI: one thread a request, and the threads used again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest
from django.db import connection
from django.http import HttpRequest

from config import control_plane, middleware
from tests.product import Product


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bool]]:
    """(where, which thread, whether it had a connection already) of each request, outside and inside of it."""
    found: list[tuple[str, str, bool]] = []

    def noting(where: str, call: Any) -> Any:
        def noted(self: Any, request: HttpRequest) -> Any:
            if request.path.startswith("/api/budgets"):
                found.append((where, threading.current_thread().name, connection.connection is not None))
            return call(self, request)

        return noted

    for where, kind in (("first", middleware.RequestIdMiddleware), ("last", middleware.SecondFactorMiddleware)):
        monkeypatch.setattr(kind, "__call__", noting(where, kind.__call__))
    return found


def test_a_request_stays_in_its_thread_and_the_next_one_has_it_again(
    product: Product, seen: list[tuple[str, str, bool]]
) -> None:
    key = product.key(role="operator")
    for _ in range(5):
        assert product.get("/api/budgets", key).status_code == 200
    assert [where for where, _, _ in seen] == ["first", "last"] * 5
    names = {name for _, name, _ in seen}
    assert len(names) == 1
    assert names.pop().startswith("control-plane")
    # Given back at the end of each request, as if the thread had ended with it.
    assert not any(is_connected for where, _, is_connected in seen if where == "first")


def test_as_many_run_at_once_as_there_are_and_a_few_threads_are_kept(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = control_plane.MOST_IDLE + 4
    # A key by itself has two reads at a time.
    keys = [product.key(role="operator") for _ in range(count)]
    all_there = threading.Barrier(count)
    call = middleware.SecondFactorMiddleware.__call__

    def waiting(self: Any, request: HttpRequest) -> Any:
        if request.path.startswith("/api/budgets"):
            all_there.wait(20)
        return call(self, request)

    monkeypatch.setattr(middleware.SecondFactorMiddleware, "__call__", waiting)
    with ThreadPoolExecutor(count) as clients:
        answers: list[httpx.Response] = list(clients.map(lambda key: product.get("/api/budgets", key), keys))
    assert {answer.status_code for answer in answers} == {200}


def test_a_table_comes_by_lines_as_before(product: Product) -> None:
    headers = {"authorization": f"Bearer {product.key(role='operator')}", "accept": "text/csv"}
    with httpx.stream("GET", f"{product.url}/api/budgets", headers=headers) as answer:
        assert answer.status_code == 200
        assert next(answer.iter_lines()).startswith("id,")
