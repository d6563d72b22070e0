"""Every ending of every route, plain and streaming: what is held afterwards, and the row that is left in the ledger.

One test is one ending, for all routes: each call goes to a model of its own, and is found again by its session's name.
"""

from __future__ import annotations

import http.client
import io
import socket
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import httpx2 as httpx
import pytest

from governance.models import BudgetWindow, Reservation, SpendEntry
from governance.upkeep import reconcile
from llm.gateway.application import gateway
from llm.gateway.routes import ROUTES
from llm.providers.http import HttpAnswer
from llm.providers.mistral import Mistral
from tests import factories as make
from tests.product import Product, eventually

CODE = {"model": "codestral-latest", "prompt": "def f(", "max_tokens": 600}
CHAT = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 600}
PICTURE = {"type": "image_url", "image_url": "https://example.com/invoice.png"}
PLAIN: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/fim/completions": CODE,
    "/v1/embeddings": {"model": "mistral-embed", "input": ["An invoice.", "An order."]},
    "/v1/moderations": {"model": "mistral-moderation-latest", "input": "An invoice."},
    "/v1/ocr": {"model": "mistral-ocr-latest", "document": PICTURE},
    "/v1/audio/transcriptions": {"model": "voxtral-mini-latest"},
}
STREAMS: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {**CHAT, "stream": True},
    "/v1/fim/completions": {**CODE, "stream": True},
}
# A row at its true cost; at all that was held; at a part of it; none. What is written is counted, the rest held.
TRUE, HELD, PART, NONE, COUNTED = "true", "held", "part", "none", "counted"


@dataclass(frozen=True)
class Left:
    """What the client got, and what is left in the ledger."""

    status: int
    charged: str
    reason: str = ""


@dataclass(frozen=True)
class Ending:
    """`do` tells the simulated Mistral what to do; `arrange` does the rest. `stream` None: as for a plain answer."""

    plain: Left
    do: str = ""
    stream: Left | None = None
    arrange: Callable[[pytest.MonkeyPatch], None] = lambda monkeypatch: None


def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    session = gateway.providers["mistral"].connection._session  # type: ignore[attr-defined]
    monkeypatch.setattr(session, "_timeout", aiohttp.ClientTimeout(sock_read=0.1))


def dripping(monkeypatch: pytest.MonkeyPatch) -> None:
    session = gateway.providers["mistral"].connection._session  # type: ignore[attr-defined]
    monkeypatch.setattr(session, "_timeout", aiohttp.ClientTimeout(total=0.5))


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        base = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(gateway.providers["mistral"].connection, "base", base)  # type: ignore[attr-defined]


def failing(*, at: str) -> Callable[[pytest.MonkeyPatch], None]:
    """An error of our own making, at a stage of the call."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"a defect at {at}")

    async def fail_in_chunks(*_: Any) -> Any:
        fail()
        yield b""

    def arrange(monkeypatch: pytest.MonkeyPatch) -> None:
        if at == "usage":
            for path, route in ROUTES.items():
                monkeypatch.setitem(ROUTES, path, replace(route, read_usage=fail))
        elif at == "read":
            monkeypatch.setattr(HttpAnswer, "chunks", fail_in_chunks)
        else:
            monkeypatch.setattr(Mistral, at, fail)

    return arrange


ENDINGS: Mapping[str, Ending] = {
    "answered": Ending(Left(200, TRUE)),
    "slow": Ending(Left(200, TRUE), do="latency=0.15"),
    "compressed": Ending(Left(200, TRUE), do="gzip"),
    "usage missing": Ending(Left(200, COUNTED, "usage_missing"), do="missing-usage"),
    "usage zero": Ending(Left(200, COUNTED, "usage_missing"), do="zero-usage"),
    "garbage": Ending(Left(502, NONE), do="garbage"),
    "cut": Ending(Left(502, HELD, "upstream_cut"), do="cut-stream=2", stream=Left(200, PART, "upstream_cut")),
    "timeout": Ending(Left(504, HELD, "upstream_timeout"), do="latency=5", arrange=silent),
    "silence in mid-stream": Ending(
        Left(200, TRUE), do="pace=5", arrange=silent, stream=Left(200, HELD, "upstream_timeout")
    ),
    "longer than a call may take": Ending(
        Left(200, TRUE), do="pace=0.4", arrange=dripping, stream=Left(200, PART, "upstream_timeout")
    ),
    "unreachable": Ending(Left(502, NONE), arrange=unreachable),
    "400": Ending(Left(400, NONE), do="status=400"),
    "401": Ending(Left(503, NONE), do="status=401"),
    "402": Ending(Left(503, NONE), do="status=402"),
    "404": Ending(Left(404, NONE), do="status=404"),
    "422": Ending(Left(422, NONE), do="status=422"),
    "429": Ending(Left(429, NONE), do="status=429"),
    "500": Ending(Left(502, HELD, "upstream_failed"), do="status=500"),
    "503": Ending(Left(503, HELD, "upstream_failed"), do="status=503"),
    "a defect before it is sent": Ending(Left(500, NONE), arrange=failing(at="body")),
    "a defect while it is sent": Ending(Left(500, HELD, "interrupted"), arrange=failing(at="send")),
    "a defect while it is read": Ending(Left(500, HELD, "interrupted"), arrange=failing(at="read")),
    "a defect while it is counted": Ending(
        Left(500, HELD, "interrupted"), arrange=failing(at="usage"), stream=Left(0, HELD, "interrupted")
    ),
}


def wav(seconds: int = 2) -> bytes:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(seconds * 16_000))
    return sound.getvalue()


@pytest.fixture
def key(product: Product) -> str:
    make.budget("100.00")
    return product.key(role="tenant")


@pytest.fixture(autouse=True)
def ledger_adds_up(product: Product) -> Iterator[None]:
    yield
    assert eventually(lambda: not BudgetWindow.objects.exclude(reserved_nanos=0).exists())
    assert reconcile.check() == []


def request(product: Product, key: str, path: str, body: Mapping[str, Any]) -> httpx.Request:
    headers = {"authorization": f"Bearer {key}", "x-session": path}
    if "audio" in path:
        return httpx.Request("POST", product.url + path, data=body, files={"file": ("a.wav", wav())}, headers=headers)
    return httpx.Request("POST", product.url + path, json=body, headers=headers)


def status_of(product: Product, key: str, path: str, body: Mapping[str, Any]) -> int:
    """0 where the answer broke off."""
    with httpx.Client(timeout=30) as client:
        try:
            return client.send(request(product, key, path, body)).status_code
        except httpx.RemoteProtocolError:
            return 0


def resolved(path: str) -> bool:
    return not Reservation.objects.filter(session=path, status="pending").exists()


def check(path: str, left: Left) -> None:
    """The holds of a route's call, and the row of each: a chat that fails is tried at other models, too."""
    attempts = Reservation.objects.filter(session=path)
    assert len(attempts) == 1 or (len(attempts) > 1 and "chat" in path and left.status >= 429)
    for held in attempts:
        check_attempt(path, held, left)


def check_attempt(path: str, held: Reservation, left: Left) -> None:
    if left.charged == NONE:
        assert held.status == "released"
        assert not held.entries.exists()
        return
    assert held.status == "settled"
    row = held.entries.get()
    assert (row.certainty, row.reason) == ("estimated" if left.reason else "confirmed", left.reason)
    if path == "/v1/moderations":
        assert row.cost_nanos == held.amount_nanos == 0
    elif left.charged == HELD or (left.charged == COUNTED and path not in STREAMS):
        assert row.cost_nanos == held.amount_nanos > 0
    else:
        assert 0 < row.cost_nanos <= held.amount_nanos
    if left.charged == PART or (left.charged == COUNTED and path in STREAMS):
        assert row.cost_nanos < held.amount_nanos
    if path in ("/v1/ocr", "/v1/audio/transcriptions"):
        assert (row.unit, row.units > 0) == ("page" if "ocr" in path else "audio_second", True)


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", ENDINGS)
def test_an_ending_leaves_its_row_on_every_route(
    product: Product, key: str, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests, name: str, streaming: bool
) -> None:
    ending = ENDINGS[name]
    left = ending.stream or ending.plain if streaming else ending.plain
    ending.arrange(monkeypatch)
    product.sandbox.behave(ending.do)
    for path, body in (STREAMS if streaming else PLAIN).items():
        with subtests.test(path):
            assert status_of(product, key, path, body) == left.status
            assert eventually(lambda path=path: resolved(path))
            check(path, left)


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "stream"])
def test_a_client_that_leaves_is_charged_on_every_route(
    product: Product, key: str, subtests: pytest.Subtests, streaming: bool
) -> None:
    """A plain answer is paid for in full, as the model's API has all of the call; a stream is stopped."""
    product.sandbox.behave("pace=0.05|output=50" if streaming else "latency=0.1")
    for path, body in (STREAMS if streaming else PLAIN).items():
        with subtests.test(path):
            before = product.sandbox.received
            sent = request(product, key, path, body)
            connection = http.client.HTTPConnection(sent.url.host, sent.url.port, timeout=10)
            connection.request("POST", path, body=sent.read(), headers=dict(sent.headers))
            if streaming:
                answer = connection.getresponse()
                # Some text has come, after the part that says that it is one.
                for _ in range(5):
                    answer.readline()
                answer.close()
            else:
                assert eventually(lambda before=before: product.sandbox.received > before)
            connection.close()
            assert eventually(lambda path=path: Reservation.objects.filter(session=path).exists() and resolved(path))
            check(path, Left(200, PART, "client_closed") if streaming else Left(200, TRUE))


def test_a_stream_of_a_thousand_chunks_arrives_whole(product: Product, key: str, subtests: pytest.Subtests) -> None:
    product.sandbox.behave("output=4000")
    for path, body in STREAMS.items():
        with subtests.test(path), httpx.Client(timeout=30) as client:
            answer = client.send(request(product, key, path, {**body, "max_tokens": 4_000}))
            assert answer.text.count("data: ") >= 1_000
            assert answer.text.endswith("data: [DONE]\n\n")
            check(path, Left(200, TRUE))
            assert SpendEntry.objects.get(reservation__session=path).output_tokens == 4_000


def test_a_body_of_30_megabytes_leaves_the_row_of_any_other(
    product: Product, key: str, subtests: pytest.Subtests
) -> None:
    large = "x" * 30_000_000
    picture = {"type": "image_url", "image_url": "data:image/png;base64," + large}
    bodies: Mapping[str, Mapping[str, Any]] = {
        "/v1/ocr": {"model": "mistral-ocr-latest", "document": picture},
    }
    for path, body in bodies.items():
        with subtests.test(path):
            assert status_of(product, key, path, body) == 200
            check(path, Left(200, TRUE))
            assert len(product.sandbox.requests[-1].raw) > 30_000_000
        product.sandbox.forget()
