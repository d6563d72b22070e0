"""What clients are told whose base address is not quite ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from config.logs import LONGEST_HOST, UnknownHosts
from tests.product import Product


def ask(product: Product, method: str, path: str, **headers: str) -> httpx.Response:
    body = {"json": {"model": "m"}} if method in ("POST", "PUT", "PATCH") else {}
    # The path as it is: clients tidy it up.
    url = httpx.URL(product.url).copy_with(raw_path=path.encode())
    return httpx.request(method, url, headers={"accept": "application/json"} | headers, timeout=30, **body)


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/chat/completions/", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/models/mistral-small-latest", "/v1/models/mistral-small-latest"),
        ("/embeddings", "/v1/embeddings"),
        ("/audio/transcriptions", "/v1/audio/transcriptions"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_base_address_without_v1_is_told_what_to_add(product: Product, method: str, path: str, right: str) -> None:
    answer = ask(product, method, path, authorization="Bearer sg_x")

    assert answer.status_code == 404
    assert f"ends in /v1, so this would be {right}." in answer.json()["error"]["message"]
    assert answer.json()["object"] == "error"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1", "/v1/", "//v1", "/v2/chat", "/v1/nothing", "/nothing", "/api/nothing", "/api"])
def test_what_is_nowhere_is_json_for_clients(product: Product, method: str, path: str) -> None:
    answer = ask(product, method, path)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", "GET"),
        ("PUT", "/", "GET"),
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions/", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/v1/budget", "GET"),
        ("DELETE", "/api/budgets", "GET"),
    ],
)
def test_a_wrong_method_is_json(product: Product, method: str, path: str, allowed: str) -> None:
    answer = ask(product, method, path, authorization=f"Bearer {product.key(role='operator')}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert allowed in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/models/"])
def test_a_trailing_slash_changes_nothing(product: Product, path: str) -> None:
    assert ask(product, "POST" if "chat" in path else "GET", path).status_code == 401


def test_people_get_pages(product: Product) -> None:
    found = ask(product, "GET", "/", accept="text/html,*/*")
    missed = ask(product, "GET", "/nothing", accept="text/html,*/*")

    assert (found.status_code, found.headers["location"]) == (302, "/admin/")
    assert (missed.status_code, missed.headers["content-type"]) == (404, "text/html; charset=utf-8")


@pytest.mark.parametrize("path", ["/api/health", "/admin/", "/nothing"])
def test_a_host_that_is_none_of_ours_is_told_so_in_json(product: Product, path: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["governor.example.test"]

    answer = ask(product, "GET", path, host="evil.example.test")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")


@pytest.fixture
def unknown_hosts() -> Iterator[logging.Logger]:
    """Django's logger of them, as if it had said nothing yet."""
    logger = logging.getLogger("django.security.DisallowedHost")
    before, logger.filters = logger.filters, [UnknownHosts()]
    yield logger
    logger.filters = before


def test_unknown_hosts_are_a_warning_of_one_line_now_and_then(
    product: Product, settings: Any, unknown_hosts: logging.Logger, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOWED_HOSTS = ["governor.example.test"]

    def lines() -> list[str]:
        found = [record for record in caplog.records if record.name == unknown_hosts.name]
        assert all(record.levelname == "WARNING" and not record.exc_info for record in found)
        return [record.getMessage() for record in found]

    for _ in range(5):
        ask(product, "GET", "/nothing", host="a" * 900 + ".example.test")
    [line] = lines()
    assert "aaa" in line
    assert len(line) <= LONGEST_HOST
    monkeypatch.setattr("config.logs.HOSTS_AGAIN_S", 0.0)
    ask(product, "GET", "/nothing", host="evil.example.test")
    assert lines()[1].endswith("(4 more since the last such line)")


def test_the_product_logs_unknown_hosts_so() -> None:
    logger = logging.getLogger("django.security.DisallowedHost")
    assert {type(each) for each in logger.filters} == {UnknownHosts}
