"""Bodies of the control plane, over a real socket: whose they are, how large, in which charset and packing."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from typing import Any

import httpx2 as httpx
import orjson
import pytest
from django.db import OperationalError
from django.test import Client

from governance.api import authentication
from llm.gateway import bodies
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


def test_a_keys_large_bodies_take_their_share_of_a_processor_and_no_more(
    product: Product, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BODY_TIMEOUT_S = 2
    key, other = product.key(role="operator"), product.key(role="operator")
    body = orjson.dumps({"tenant": "acme", "pad": [{"a": 1}] * 60_000})
    took = bodies._Shares.took
    # As if each took as long as a thousand.
    monkeypatch.setattr(bodies._Shares, "took", lambda shares, key, seconds: took(shares, key, seconds * 1_000))

    assert send(product, "/api/tenants", body, key=key).status_code == 400
    again = send(product, "/api/tenants", body, key=key)
    assert (again.status_code, again.json()["error"]["code"]) == (429, "too_many_large_bodies")
    assert again.headers["retry-after"] == "5"
    assert send(product, "/api/tenants", b"{}", key=key).status_code == 400
    assert send(product, "/api/tenants", body, key=other).status_code == 400
