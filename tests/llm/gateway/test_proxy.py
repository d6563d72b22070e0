"""Calls through a proxy: a real one, on loopback, that notes what it is asked for."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from asgiref.sync import async_to_sync

from billing.stripe_api import client as stripe_client
from config import supervisor
from governance import proxies
from governance.models import SpendEntry
from llm.providers import ProviderError
from llm.providers.http import Connection
from tests import factories as make
from tests.product import Product

NAMED = "http://mistral.example.test:8099"


class Proxy(socketserver.ThreadingTCPServer):
    """Passes requests in absolute form, and tunnels, to one address, whatever name they are for."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.target = urlsplit(target)
        self.asked: list[str] = []
        self.refuses = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Passing(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := self.request.recv(65536)):
                return
            data += piece
        line, rest = data.split(b"\r\n", 1)
        method, target, version = line.split(b" ")
        self.server.asked.append(f"{method.decode()} {target.decode()}")
        if self.server.refuses:
            self.request.sendall(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        with socket.create_connection((self.server.target.hostname, self.server.target.port)) as peer:
            if method == b"CONNECT":
                self.request.sendall(b"HTTP/1.1 200 Go on\r\n\r\n")
            else:
                path = target.split(b"/", 3)[3]
                peer.sendall(b"%s /%s %s\r\n%s" % (method, path, version, rest))
            back = threading.Thread(target=self.pump, args=(peer, self.request), daemon=True)
            back.start()
            self.pump(self.request, peer)
            back.join(5)

    @staticmethod
    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def proxy(sandbox_url: str) -> Iterator[Proxy]:
    proxy = Proxy(sandbox_url)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # The clients of these tests.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return monkeypatch


@pytest.fixture
def upstream_url(environment: pytest.MonkeyPatch, proxy: Proxy, request: pytest.FixtureRequest, settings: Any) -> str:
    """A name that only the proxy knows; how it is told to the product is the test's."""
    if request.param == "environment":
        environment.setenv("HTTP_PROXY", proxy.url)
    else:
        environment.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        settings.UPSTREAM_PROXY = proxy.url
    return NAMED


@pytest.mark.parametrize("upstream_url", ["environment", "setting"], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_goes_through_the_proxy(product: Product, proxy: Proxy, stream: bool) -> None:
    answer = product.chat(product.key(), stream=stream)

    assert answer.status_code == 200
    assert proxy.asked == [f"POST {NAMED}/v1/chat/completions"]


@pytest.mark.parametrize("upstream_url", ["environment"], indirect=True)
def test_a_proxy_that_is_away_cost_nothing(product: Product, proxy: Proxy) -> None:
    make.budget("10.00")
    proxy.shutdown()
    proxy.server_close()

    answer = product.chat(product.key())

    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_unreachable")
    assert SpendEntry.objects.count() == 0


def test_a_tunnel_that_is_refused_was_no_call(proxy: Proxy, settings: Any) -> None:
    settings.UPSTREAM_PROXY, proxy.refuses = proxy.url, True

    async def call() -> None:
        connection = Connection(base="https://mistral.example.test", headers={})
        await connection.open()
        try:
            await connection.post("/v1/x", b"{}", content_type="application/json", request_id="r")
        finally:
            await connection.close()

    with pytest.raises(ProviderError) as refused:
        async_to_sync(call)()

    assert (refused.value.code, refused.value.sent) == ("upstream_unreachable", False)
    assert proxy.asked == ["CONNECT mistral.example.test:443"]


def test_the_control_plane_asks_through_the_same_proxy(proxy: Proxy, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTP_PROXY", proxy.url)
    connection = Connection(base=f"{NAMED}/v1", headers={})

    async_to_sync(connection.list_models)("/models")

    assert proxy.asked == [f"GET {NAMED}/v1/models"]


def test_stripe_is_asked_through_the_same_proxy(proxy: Proxy, environment: pytest.MonkeyPatch, settings: Any) -> None:
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = "sk_test_x", "http://stripe.example.test:12111"
    settings.UPSTREAM_PROXY = proxy.url
    environment.setattr(stripe_client, "NETWORK_RETRIES", 0)

    # The proxy knows of none, as of what was deleted.
    assert "price_1" in str(stripe_client.price("price_1"))

    assert proxy.asked == ["GET http://stripe.example.test:12111/v1/prices/price_1"]


def test_this_machine_is_never_asked_for_at_a_proxy(
    environment: pytest.MonkeyPatch, sandbox_url: str, settings: Any
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        environment.setenv(name, "http://127.0.0.1:9")
    environment.delenv("NO_PROXY")

    # What `serve` waits for.
    assert supervisor.answers(f"{sandbox_url}/v1/models")
    settings.UPSTREAM_PROXY = "http://127.0.0.1:9"
    assert async_to_sync(Connection(base=f"{sandbox_url}/v1", headers={}).list_models)("/models")
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = "sk_test_x", sandbox_url
    environment.setattr(stripe_client, "NETWORK_RETRIES", 0)
    # It answers, that it has none.
    assert "price_1" in str(stripe_client.price("price_1"))


@pytest.mark.parametrize(
    ("url", "setting", "variables", "wanted"),
    [
        ("https://api.mistral.ai", "", {}, None),
        ("https://api.mistral.ai", "", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.mistral.ai", "", {"https_proxy": "p:1"}, "http://p:1"),
        ("https://api.mistral.ai", "", {"HTTP_PROXY": "http://p:1"}, None),
        ("https://api.mistral.ai", "", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.mistral.ai", "", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "mistral.ai"}, None),
        ("https://api.mistral.ai", "", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("http://gpu.lan:8000/v1", "", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "gpu.lan:8000"}, None),
        ("https://api.mistral.ai", "none", {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://api.mistral.ai", "http://q:2", {"HTTPS_PROXY": "http://p:1"}, "http://q:2"),
        *[
            (url, "http://q:2", {"ALL_PROXY": "http://p:1"}, None)
            for url in (
                "http://localhost:1",
                "http://127.0.0.1",
                "http://127.1.2.3:1",
                "http://[::1]:1",
                "http://a.localhost",
            )
        ],
    ],
)
def test_which_proxy(
    environment: pytest.MonkeyPatch,
    settings: Any,
    url: str,
    setting: str,
    variables: dict[str, str],
    wanted: str | None,
) -> None:
    environment.delenv("NO_PROXY")
    for name, value in variables.items():
        environment.setenv(name, value)
    settings.UPSTREAM_PROXY = setting

    assert proxies.proxy_for(url) == wanted
