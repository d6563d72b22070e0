"""Connections that never come to a request, or to its end: what they may take of bytes and of time."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.own_books import BookedUpstream
from config import connections
from config.connections import MOST_AT_ONCE
from governance.models import Reservation
from tests import factories as make
from tests.llm.gateway.test_odd_answers import plain
from tests.product import Product, eventually

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"


@contextmanager
def connected(product: Product) -> Iterator[socket.socket]:
    parts = urlsplit(product.url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=20)) as peer:
        yield peer


def read(peer: socket.socket) -> bytes:
    """All that comes until the connection ends, however it ends."""
    found = b""
    try:
        while piece := peer.recv(65536):
            found += piece
    except ConnectionError:
        pass
    return found


def next_answer(peer: socket.socket) -> bytes:
    """One whole answer in JSON on a connection that goes on, in however many pieces it comes."""
    found = peer.recv(65536)
    while found and not found.endswith(b"}}"):
        found += peer.recv(65536)
    return found


def answered(peer: socket.socket) -> tuple[int, dict[str, Any]]:
    """The one answer on a connection that ends with it."""
    head, _, body = read(peer).partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)


def flood(peer: socket.socket, data: bytes, times: int) -> None:
    """Send on until the peer no longer wants it."""
    try:
        for _ in range(times):
            peer.sendall(data)
    except ConnectionError:
        pass


@pytest.fixture(autouse=True)
def impatient(settings: Any) -> None:
    settings.HEADER_TIMEOUT_S = settings.BODY_TIMEOUT_S = settings.CLIENT_WRITE_TIMEOUT_S = 1


@pytest.mark.parametrize(
    ("pace_bytes_s", "ends", "comes_whole"),
    [
        (200_000, b"", True),
        (200_000, b"connection: close\r\n", True),
        (4_000, b"", False),
        (0, b"connection: close\r\n", False),
    ],
    ids=["slow", "slow and ends", "drips", "stands"],
)
def test_who_reads_slowly_gets_a_large_answer_and_who_hardly_reads_does_not(
    product: Product,
    booked: BookedUpstream,
    monkeypatch: pytest.MonkeyPatch,
    pace_bytes_s: int,
    ends: bytes,
    comes_whole: bool,
) -> None:
    """Buffers of the kernels hold megabytes, and hide for long that anything is read."""
    monkeypatch.setattr(connections, "AFTER_STREAMS_S", 0.5)
    make.budget("10.00")
    vector = {"object": "embedding", "index": 0, "embedding": [0.125] * 2_000_000}
    used = {"prompt_tokens": 2, "total_tokens": 2}
    booked.usual = plain({"id": "e", "object": "list", "model": "m", "data": [vector], "usage": used})
    body = json.dumps({"model": "mistral-embed", "input": "Hi"}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n" % product.key().encode()
    with connected(product) as peer:
        peer.sendall(head + ends + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        found = peer.recv(65536)
        until = time.monotonic() + 6
        while time.monotonic() < until:
            found += peer.recv(pace_bytes_s // 10) if pace_bytes_s else b""
            time.sleep(0.1)
        with suppress(ConnectionError):
            while not found.endswith(b"}}") and (piece := peer.recv(1 << 20)):
                found += piece
    assert found.endswith(b"}}") == comes_whole


@pytest.mark.parametrize(
    "piece", [b"x-a: " + b"b" * 1_000 + b"\r\n", b"b" * 1_000, b"x: y\r\n" * 200], ids=["headers", "one header", "many"]
)
@pytest.mark.parametrize("first", [HEAD, HEAD + b"x-long: ", b"GET /v1/models?"])
def test_a_header_section_has_a_bound(product: Product, first: bytes, piece: bytes) -> None:
    with connected(product) as peer:
        peer.sendall(first)
        flood(peer, piece, 300)
        said = read(peer)

    # In an address they are malformed besides.
    assert said.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    if first.startswith(b"POST"):
        assert b"at most 65,536 bytes" in said


def test_the_bound_is_a_setting(product: Product, settings: Any) -> None:
    settings.MAX_HEADER_BYTES = 2**13
    with connected(product) as peer:
        peer.sendall(HEAD + b"x-a: " + b"b" * 2**13 + b"\r\n\r\n")

        assert answered(peer)[0] == 431


def test_a_header_section_that_comes_slowly_is_not_waited_for(product: Product) -> None:
    began = time.monotonic()
    with connected(product) as peer:
        peer.sendall(HEAD)
        for _ in range(15):
            flood(peer, b"x-a: b\r\n", 1)
            time.sleep(0.2)
            if time.monotonic() - began > 2:
                break
        assert answered(peer)[0] == 408
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("first", [b"", HEAD[:5]])
def test_a_connection_without_a_request_ends(product: Product, first: bytes) -> None:
    began = time.monotonic()
    with connected(product) as peer:
        peer.sendall(first)
        read(peer)
    assert 0.5 < time.monotonic() - began < 6


def test_a_second_request_that_never_comes_whole_ends_the_connection(product: Product) -> None:
    began = time.monotonic()
    with connected(product) as peer:
        peer.sendall(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nGET /v1/mo")
        said = read(peer)
    assert said.startswith(b"HTTP/1.1 401")
    assert b"HTTP/1.1 408" in said
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/api/spend"])
@pytest.mark.parametrize("pace", [0.0, 0.3])
def test_a_body_that_comes_slowly_is_not_waited_for(product: Product, settings: Any, path: bytes, pace: float) -> None:
    key = product.key().encode()
    began = time.monotonic()
    with connected(product) as peer:
        peer.sendall(
            b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %s\r\ncontent-length: 60000\r\n\r\n"
            % (path, key)
        )
        while pace and time.monotonic() - began < 2:
            flood(peer, b"a", 1)
            time.sleep(pace)
        status, said = answered(peer)

    assert (status, said["error"]["code"]) == (408, "body_timeout")
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/api/spend"])
def test_who_is_refused_reads_why_though_it_sends_on(product: Product, path: bytes) -> None:
    began = time.monotonic()
    with connected(product) as peer:
        peer.sendall(
            b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer sg_bad\r\ncontent-length: 30000000\r\n\r\n"
            % path
        )
        flood(peer, b"a" * 100_000, 10)
        status = int(read(peer).split()[1])

    assert status in (401, 413)
    # And is not listened to without an end.
    assert time.monotonic() - began < 8


def test_who_is_refused_before_the_body_came_goes_on_with_the_same_connection(product: Product) -> None:
    ask = HEAD + b"authorization: Bearer sg_bad\r\ncontent-length: 2\r\n\r\n"
    with connected(product) as peer:
        for _ in range(3):
            peer.sendall(ask)
            assert next_answer(peer).startswith(b"HTTP/1.1 401")
            # Clients send it in a packet of its own, as a rule.
            peer.sendall(b"{}")


@pytest.mark.parametrize(
    "frame", [b"1;" + b"a" * 1_000, b"0\r\n" + b"x-a: b\r\n" * 100], ids=["a chunk's extension", "trailers"]
)
def test_what_frames_a_body_is_bounded(product: Product, frame: bytes) -> None:
    key = product.key().encode()
    with connected(product) as peer:
        peer.sendall(HEAD + b"authorization: Bearer %s\r\ntransfer-encoding: chunked\r\n\r\n" % key + frame)
        flood(peer, frame[-800:] * 10, 1_000)
        began = time.monotonic()
        read(peer)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "framed",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        b"content-length: 4\r\ncontent-length: 40\r\n",
        b"content-length: +4\r\n",
        b"content-length: 4, 40\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding: \x0bchunked\r\n",
        b"x-a: b\r\n transfer-encoding: chunked\r\n",
        b"x-a: b\n\ntransfer-encoding: chunked\r\n",
    ],
)
def test_a_body_that_two_could_read_differently_hides_no_request(product: Product, framed: bytes) -> None:
    """A proxy that reads the other length would take what follows for somebody else's request."""
    hidden = b"0\r\n\r\nGET /v1/hidden HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with connected(product) as peer:
        peer.sendall(HEAD + b"authorization: Bearer %s\r\n" % product.key().encode() + framed + b"\r\n" + hidden)
        answer = read(peer)
    assert b"/v1/hidden" not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert not answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"deflate, chunked"])
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/api/spend"])
def test_a_body_that_is_coded_for_the_way_otherwise_is_told_what_may_be_sent(
    product: Product, path: bytes, coding: bytes
) -> None:
    packed = gzip.compress(b'{"model": "mistral-small-2603"}')
    with connected(product) as peer:
        head = b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %s\r\n" % (path, product.key().encode())
        framed = b"transfer-encoding: %s\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (coding, len(packed), packed)
        peer.sendall(head + framed)
        status, body = answered(peer)
    assert (status, body["error"]["code"]) == (501, "transfer_encoding_unknown")
    assert "chunked, and that alone" in body["error"]["message"]


def test_requests_in_a_row_and_at_once_are_answered(product: Product) -> None:
    ask = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: " + b"b" * 30_000 + b"\r\n\r\n"
    with connected(product) as peer:
        peer.sendall(ask * 5)
        assert read(peer).count(b"HTTP/1.1 401") == 5
    with connected(product) as peer:
        for _ in range(3):
            peer.sendall(ask)
            assert next_answer(peer).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "x"])
@pytest.mark.parametrize("pause_s", [0, 0.3])
def test_a_wish_for_another_protocol_is_ignored_and_its_body_is_a_body(
    product: Product, protocol: str, pause_s: float
) -> None:
    """Java's own client wishes for h2c with every POST."""
    make.budget("10")
    body = json.dumps({"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    wish = f"connection: Upgrade, HTTP2-Settings\r\nupgrade: {protocol}\r\nhttp2-settings: AAEAAEAA\r\n"
    fields = f"authorization: Bearer {product.key()}\r\ncontent-length: {len(body)}\r\n"
    with connected(product) as peer:
        peer.sendall(HEAD + f"{fields}{wish}\r\n".encode())
        time.sleep(pause_s)
        peer.sendall(body + b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n")
        answers = read(peer)
    assert answers.count(b"HTTP/1.1 200") == answers.count(b"HTTP/1.1 401") == 1
    assert answers.count(b"HTTP/1.1 ") == 2


def test_thousands_of_requests_at_once_end_the_connection_and_delay_nobody(product: Product) -> None:
    with connected(product) as peer:
        began = time.process_time()
        with suppress(ConnectionError):
            peer.sendall(b"GET /v1 HTTP/1.1\r\n\r\n" * 50_000)
        assert read(peer).count(b"HTTP/1.1 404") <= MOST_AT_ONCE
        # The product runs in this process.
        assert time.process_time() - began < 5
    assert product.get("/v1/models").status_code == 401


def test_a_client_that_leaves_with_more_requests_on_their_way_is_noticed(product: Product) -> None:
    make.budget("10")
    product.sandbox.behave("latency=20")
    body = json.dumps(
        {"model": "mistral-small-2603", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    ).encode()
    fields = f"authorization: Bearer {product.key()}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with connected(product) as peer:
        peer.sendall((HEAD + fields + body) * 3)
        assert eventually(lambda: Reservation.objects.filter(status="pending").exists())
    assert eventually(lambda: not Reservation.objects.filter(status="pending").exists(), within_s=5)
    assert Reservation.objects.count() == 1


def test_servers_load_it_before_there_are_models() -> None:
    code = "import config.connections"
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings", "DEBUG": "true"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
