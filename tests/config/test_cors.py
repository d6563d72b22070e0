"""Cross-origin requests of browsers to the data plane. tests/browser does the same in a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest

from config.planes import compose
from llm.gateway.asgi import Receive, Scope, Send
from tests.product import Product
from tests.servers import served

APP = "https://app.example.test"


@contextmanager
def allowing(settings: Any, *origins: str, debug: bool = False) -> Iterator[str]:
    """The data plane as it starts with these settings; it knows no key."""
    from llm.gateway.application import GatewayApplication

    async def django(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    settings.CORS_ALLOWED_ORIGINS, settings.DEBUG = list(origins), debug
    with served(compose(gateway=GatewayApplication(), django=django)) as url:
        yield url


def preflight(url: str, origin: str, *, path: str = "/v1/chat/completions", method: str = "POST") -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-type,x-agent,x-stainless-os",
    }
    return httpx.options(url + path, headers=headers)


def test_a_preflight_of_an_allowed_page_is_answered_without_a_key(settings: Any) -> None:
    with allowing(settings, APP) as url:
        answer = preflight(url, APP)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert {"authorization", "x-stainless-os"} <= set(answer.headers["access-control-allow-headers"].split(","))
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.test", "http://app.example.test", f"{APP}.evil.test", "null", "*"])
def test_no_other_page_is_allowed(settings: Any, origin: str) -> None:
    with allowing(settings, APP) as url:
        refused, answer = preflight(url, origin), httpx.get(f"{url}/v1/models", headers={"origin": origin})

    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in answer.headers


def test_no_page_is_allowed_unless_told_so(settings: Any) -> None:
    with allowing(settings) as url:
        assert preflight(url, APP).status_code == 405
        assert preflight(url, "http://localhost:5173").status_code == 405


@pytest.mark.parametrize("origin", ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:8080"])
def test_pages_of_this_machine_are_allowed_while_debugging(settings: Any, origin: str) -> None:
    with allowing(settings, debug=True) as url:
        assert preflight(url, origin).headers["access-control-allow-origin"] == origin
        assert preflight(url, origin + ".evil.test").status_code == 400


def test_any_page_never_means_any_cookie(settings: Any) -> None:
    with allowing(settings, "*") as url:
        answers = [
            preflight(url, "https://evil.test"),
            httpx.get(f"{url}/v1/models", headers={"origin": "https://evil.test", "cookie": "sessionid=x"}),
        ]

    for answer in answers:
        assert "access-control-allow-credentials" not in answer.headers


def test_the_control_plane_has_no_other_origins(settings: Any) -> None:
    with allowing(settings, APP) as url:
        for path in ("/api/budgets", "/admin/", "/"):
            assert "access-control-allow-origin" not in preflight(url, APP, path=path).headers


def test_a_page_may_read_what_an_answer_says_of_its_budget(product: Product) -> None:
    answer = product.chat(product.key(), headers={"origin": "http://localhost:5173"})

    from config.cors import EXPOSED

    own = {name for name in answer.headers if name.startswith("x-")} | {"server-timing"}
    # What is said to the browser itself.
    assert own - {"x-content-type-options"} <= set(EXPOSED)
