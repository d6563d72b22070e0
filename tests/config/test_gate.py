"""Bodies of the control plane, over a real socket: whose they are, how large, in which charset and packing."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx2 as httpx
import orjson
import pytest
from django.db import OperationalError
from django.http.cookie import parse_cookie
from django.test import Client

from config import gate
from config.gate import Gate
from governance.api import authentication
from llm.gateway import bodies
from llm.gateway.turns import Owner, Turns
from tests import factories as make
from tests.product import Product

LARGE = b" " * (64 * 1024 + 1)


def send(product: Product, path: str, content: Any, *, key: str = "", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    authorization = {"authorization": f"Bearer {key}"} if key else {}
    given = {"content-type": "application/json"} | authorization | named
    return httpx.post(product.url + path, content=content, headers=given, timeout=30)


def chunked(data: bytes) -> Any:
    for start in range(0, len(data), 16 * 1024):
        yield data[start : start + 16 * 1024]


@pytest.mark.parametrize("path", ["/api/spend", "/api/budgets", "/admin/login/", "/api/no/such/path", "/metrics"])
@pytest.mark.parametrize("pieces", [False, True])
def test_a_large_body_is_not_taken_from_a_stranger(product: Product, path: str, pieces: bool) -> None:
    for key in ("", "sg_unknown"):
        answer = send(product, path, chunked(LARGE) if pieces else LARGE, key=key)

        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "authentication_required")


def test_a_body_never_becomes_a_file(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: Any, **__: Any) -> Any:
        raise AssertionError("a body was written to a file")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", no_file)
    body = orjson.dumps({"tenant": "acme", "pad": "a" * (2 * 2**20 - 100)})

    answer = send(product, "/api/tenants", body, key=product.key(role="operator"))

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tenant")


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(("path", "most"), [("/api/spend", 2 * 2**20), ("/api/webhooks/stripe", 512 * 1024)])
def test_the_size_of_a_body_is_bounded(product: Product, path: str, most: int, pieces: bool) -> None:
    body = b" " * (most + 1)
    answer = send(product, path, chunked(body) if pieces else body, key=product.key(role="operator"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert f"{most:,} bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_packed_body_is_read(product: Product, pack: Any) -> None:
    packing = "gzip" if pack is gzip.compress else "deflate"
    body = pack(orjson.dumps({"slug": "acme", "name": "Acme"}))

    answer = send(product, "/api/tenants", body, key=product.key(role="operator"), content_encoding=packing)

    assert answer.status_code == 201


def test_a_bomb_and_other_packings_are_refused(product: Product) -> None:
    key = product.key(role="operator")
    bomb = gzip.compress(b" " * (300 * 2**20), 9)

    assert send(product, "/api/spend", bomb, key=key, content_encoding="gzip").status_code == 413
    other = send(product, "/api/spend", b"{}", key=key, content_encoding="br")
    assert (other.status_code, other.headers["accept-encoding"]) == (415, "gzip, deflate")


CHARSETS = ["bz2", "zlib", "rot13", "utf-16", "latin-1", "utf-7", "nonsense"]
TYPES = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/csv"]


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("path", ["/api/spend", "/api/webhooks/stripe", "/admin/login/", "/metrics", "/nowhere"])
@pytest.mark.django_db
def test_nothing_is_decoded_by_a_codec_that_a_client_names(path: str, type: str, charset: str) -> None:
    key, _ = make.key(role="operator")
    client = Client(headers={"authorization": f"Bearer {key}"})

    answer = client.generic("POST", path, b"a", content_type=f"{type}; charset={charset}")

    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("path", ["/api/spend", "/admin/login/", "/v1/chat/completions", "/v1/audio/transcriptions"])
def test_a_content_type_has_an_end(product: Product, path: str) -> None:
    kind = "multipart/form-data; boundary=x" + ";" * 60_000
    headers = {"authorization": f"Bearer {product.key()}", "content-type": kind}
    answer = httpx.post(product.url + path, content=b"a", headers=headers, timeout=30)
    assert answer.status_code == 415
    assert "1,000 characters" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["x-user", "idempotency-key", "authorization", "x-agent"])
def test_what_a_request_says_once_is_refused_where_it_says_it_twice(product: Product, name: str) -> None:
    key = product.key(role="tenant")
    call = orjson.dumps({"prompt": "hi", "model": "mistral-small-latest", "max_tokens": 5})
    headers = [("authorization", f"Bearer {key}"), ("content-type", "application/json"), (name, "alice")]

    twice = [*headers, (name, "bob")]
    answer = httpx.post(product.url + "/api/llm/route", content=call, headers=twice, timeout=30)
    asked = httpx.get(product.url + "/api/budgets", headers=twice, timeout=30)

    for refused in (answer, asked):
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
    if name != "authorization":
        once = httpx.post(product.url + "/api/llm/route", content=call, headers=headers, timeout=30)
        assert once.status_code != 400


def test_whose_key_nobody_can_look_up_is_told_so(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> None:
        raise OperationalError("the database is away")

    monkeypatch.setattr(authentication, "key_of", away)
    answer = send(product, "/api/spend", LARGE, key="sg_x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")


@pytest.mark.parametrize("path", ["/api/health/live", "/admin/login/"])
def test_cookies_that_take_a_second_to_read_are_refused(product: Product, path: str) -> None:
    def asked(cookie: str) -> int:
        return httpx.get(product.url + path, headers={"cookie": cookie}, timeout=30).status_code

    assert asked('a="' + "\\" * 1_001 + '"') == 431
    assert asked('a="' + "\\" * 1_000 + '"') == 200
    assert asked("a=" + "b" * 8_000) == 200


@pytest.mark.parametrize(
    "cookies",
    [
        "sessionid=abc",
        "a=1; sessionid=abc; b=2",
        'a="x; y"; [odd]=1; sessionid="abc"',
        "sessionid=one;sessionid = abc ",
        "xsessionid=abc; sessionidx=abc; csrftoken=sessionid=abc",
        "=; ;;sessionid",
        "",
    ],
)
def test_the_session_that_counts_is_the_one_that_django_reads(cookies: str) -> None:
    assert gate._session_of(cookies) == parse_cookie(cookies).get("sessionid", "")


@pytest.mark.parametrize("cookies", ["; ".join(f"c{number}=1" for number in range(6_000)), ";sessionid" + " " * 60_000])
def test_whose_session_it_is_takes_no_look_at_all_other_cookies(cookies: str) -> None:
    """Threads that everybody's keys wait for do it, and nobody's share is counted."""
    began_s = time.thread_time()
    for _ in range(10):
        assert not gate._session_of(cookies)
    assert time.thread_time() - began_s < 0.1


def test_a_keys_large_bodies_take_their_share_of_a_processor_and_no_more(
    product: Product, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BODY_TIMEOUT_S = 2
    key, other = product.key(role="operator"), product.key(role="operator")
    body = orjson.dumps({"tenant": "acme", "pad": [{"a": 1}] * 60_000})
    took = bodies.Shares.took
    # As if each took as long as a thousand.
    monkeypatch.setattr(bodies.Shares, "took", lambda shares, key, seconds: took(shares, key, seconds * 1_000))

    assert send(product, "/api/tenants", body, key=key).status_code == 400
    again = send(product, "/api/tenants", body, key=key)
    assert (again.status_code, again.json()["error"]["code"]) == (429, "too_many_requests")
    assert again.headers["retry-after"] == "5"
    assert "25% over time" in again.json()["error"]["message"]
    # Whatever it asks for; another key and a probe wait for none of it.
    assert httpx.get(product.url + "/api/tenants", headers={"authorization": f"Bearer {key}"}).status_code == 429
    assert httpx.get(product.url + "/api/health/ready").status_code == 200
    assert send(product, "/api/tenants", body, key=other).status_code == 400


@pytest.mark.parametrize("key", ["", "Bearer sg_one"])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_whoever_reads_slowly_keeps_no_place_of_others_once_all_is_made(
    monkeypatch: pytest.MonkeyPatch, key: str, pieces: int
) -> None:
    """Of a table for a key the database makes the next lines while the last are read; nothing else is so."""

    async def django(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(pieces):
            await send({"type": "http.response.body", "body": b"a", "more_body": number + 1 < pieces})

    async def ask(*, slowly: bool) -> bool:
        """Whether it is answered whole within half a second."""

        async def send(message: Any) -> None:
            if slowly and message["type"] == "http.response.body":
                await asyncio.Event().wait()

        headers = [(b"authorization", key.encode())] if key else []
        scope = {"type": "http", "method": "GET", "path": "/admin/", "headers": headers, "client": ("192.0.2.1", 1)}
        running.append(asyncio.create_task(through(scope, asyncio.Event().wait, send)))
        done, _ = await asyncio.wait([running[-1]], timeout=0.5)
        return bool(done)

    monkeypatch.setattr(gate, "_looked_up", lambda headers: Owner(key, key) if key else None)
    through, running = Gate(django, turns=Turns(share=1.0)), list[asyncio.Task[None]]()
    try:
        assert [await ask(slowly=True) for _ in range(4)] == [False] * 4
        assert await ask(slowly=False) is (pieces == 1 or not key)
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Waiting:
    """Requests at a gate whose bodies have come but for their ends."""

    def __init__(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100_000
        monkeypatch.setattr(gate.envelope, "MOST_BYTES", 100_000)
        monkeypatch.setattr(gate, "_looked_up", self.owner)
        self.gate = Gate(self.django, turns=Turns(share=0.25))
        self.running: list[asyncio.Task[None]] = []

    @staticmethod
    def owner(headers: dict[bytes, bytes]) -> Owner:
        key = headers[b"authorization"].decode()
        return Owner(key, key.partition("-")[0])

    async def django(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(self, key: str, *, path: str = "/api/spend", address: str = "192.0.2.1", whole: bool = False) -> int:
        """The status of the answer; 0 where the gate waits for the rest."""
        parts = iter([{"type": "http.request", "body": b"a" * 100_000, "more_body": not whole}])
        answers: list[int] = []

        async def receive() -> Any:
            if (part := next(parts, None)) is None:
                await asyncio.Event().wait()
            return part

        async def send(message: Any) -> None:
            answers.append(message.get("status", 0))

        headers = [(b"authorization", key.encode()), (b"transfer-encoding", b"chunked")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "client": (address, 1)}
        running = asyncio.create_task(self.gate(scope, receive, send))
        done, _ = await asyncio.wait([running], timeout=5 if whole else 0.1)
        if not done:
            self.running.append(running)
        return answers[0] if answers else 0

    async def leave(self) -> None:
        for running in self.running:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        self.running.clear()


@pytest.fixture
def waiting(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(settings, monkeypatch)


async def test_what_is_held_of_large_bodies_is_bounded(waiting: Waiting) -> None:
    assert [await waiting.ask("acme-1") for _ in range(9)] == [0] * 8 + [429]
    assert [await waiting.ask("acme-2") for _ in range(9)] == [0] * 8 + [429]
    assert await waiting.ask("acme-3", whole=True) == 429
    assert await waiting.ask("globex-1", whole=True) == 200
    await waiting.leave()
    assert await waiting.ask("acme-1", whole=True) == 200
    assert not waiting.gate._known._held


async def test_so_it_is_for_who_is_no_more_than_an_address(waiting: Waiting) -> None:
    hook = {"path": "/api/webhooks/stripe"}
    one, same, other = "2001:db8:1:1::7", "2001:db8:1:2::7", "2001:db8:2:1::7"
    assert [await waiting.ask("", address=one, **hook) for _ in range(32)] == [0] * 32
    assert await waiting.ask("", address=same, whole=True, **hook) == 429
    assert await waiting.ask("", address=other, whole=True, **hook) == 200
    # They leave to who is known what is theirs.
    assert await waiting.ask("acme-1", whole=True) == 200
    await waiting.leave()
    assert await waiting.ask("", address=same, whole=True, **hook) == 200
    assert not waiting.gate._webhooks._held


async def test_what_is_unpacked_is_held_too(waiting: Waiting) -> None:
    body = gzip.compress(b"a" * 90_000)
    held: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def django(scope: Any, receive: Any, send: Any) -> None:
        held.append(waiting.gate._webhooks._held[("", 0)])

    waiting.gate._django = django
    headers = [(b"content-encoding", b"gzip"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": "/api/webhooks/stripe", "headers": headers, "client": None}
    await waiting.gate(scope, receive, receive)  # type: ignore[arg-type]
    assert held == [90_000 + len(body)]
    assert not waiting.gate._webhooks._held


def test_whose_key_takes_long_to_find_holds_up_nobody_else(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    key, found, free = product.key(role="operator"), authentication.key_of, threading.Event()
    begun = threading.Event()

    def key_of(authorization: str) -> Any:
        if "sg_slow" in authorization:
            begun.set()
            free.wait(10)
        return found(authorization)

    monkeypatch.setattr(authentication, "key_of", key_of)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(send, product, "/api/tenants", LARGE, key="sg_slow")
        try:
            assert begun.wait(10)
            assert send(product, "/api/tenants", LARGE, key=key).status_code == 400
            assert not slow.done()
        finally:
            free.set()
        assert slow.result(10).status_code == 401
