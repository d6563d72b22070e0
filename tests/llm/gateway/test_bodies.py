"""What a request's body may be: its charset, its packing, its size and shape; and whom a large one keeps waiting."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import httpx2 as httpx
import orjson
import pytest

from governance.models import Tenant
from llm.gateway import bodies
from tests import factories as make
from tests.product import Product

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {
    "model": "mistral-large-latest",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 10,
}


def send(product: Product, content: bytes, *, key: str = "", path: str = CHAT, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"content-type": "application/json", "authorization": f"Bearer {key or product.key()}"} | named
    return httpx.post(product.url + path, content=content, headers=given, timeout=60)


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    said = answer.json()["error"]
    return answer.status_code, said["code"], said["param"]


@pytest.mark.parametrize("charset", ["bz2", "zlib", "rot13", "utf-16", "latin-1", "utf-7", "idna", "hex", "nonsense"])
@pytest.mark.parametrize("form", ["application/json; charset={}", 'application/json; charset="{}"'])
def test_a_body_in_another_charset_than_utf_8_is_refused(product: Product, charset: str, form: str) -> None:
    answer = send(product, orjson.dumps(HI), content_type=form.format(charset))

    assert error_of(answer) == (415, "unsupported_media_type", "content-type")
    assert "charset=utf-8" in answer.json()["message"]


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", "Utf_8", '"utf-8"'])
def test_utf_8_may_be_spelled_as_anybody_does(product: Product, charset: str) -> None:
    assert send(product, orjson.dumps(HI), content_type=f"application/json;charset={charset}").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "multipart/form-data; boundary=x; charset=bz2"},
        {"content-type": "multipart/form-data; boundary=x"},
    ],
)
def test_no_part_of_a_form_is_in_a_charset_of_its_own(product: Product, headers: dict[str, str]) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="model"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n'
    form = part + b"voxtral-mini-latest" + b"\r\n--x--\r\n"
    answer = send(product, form, path="/v1/audio/transcriptions", content_type=headers["content-type"])

    assert error_of(answer) == (415, "unsupported_media_type", "content-type")


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("packing", "pack"),
    [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)],
)
def test_a_packed_body_is_read(product: Product, packing: str, pack: Any) -> None:
    answer = send(product, pack(orjson.dumps(HI)), content_encoding=packing)

    assert answer.status_code == 200
    assert answer.json()["choices"]


@pytest.mark.parametrize("packing", ["br", "zstd", "compress", "gzip, gzip", "bz2"])
def test_a_body_packed_otherwise_is_told_what_may_be_sent(product: Product, packing: str) -> None:
    answer = send(product, orjson.dumps(HI), content_encoding=packing)

    assert error_of(answer) == (415, "unsupported_media_type", "content-encoding")
    assert "gzip or deflate" in answer.json()["message"]
    assert answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip at all",
        gzip.compress(orjson.dumps(HI))[:-4],
        gzip.compress(orjson.dumps(HI)) + b"more",
        gzip.compress(orjson.dumps(HI)[:20]) + gzip.compress(orjson.dumps(HI)[20:]),
        b"",
    ],
    ids=["not at all", "cut", "followed", "in two", "empty"],
)
def test_a_body_that_is_not_packed_as_it_says_is_a_400(product: Product, content: bytes) -> None:
    assert error_of(send(product, content, content_encoding="gzip")) == (400, "invalid_request", "content-encoding")


def test_a_bomb_is_not_unpacked_beyond_the_bound(product: Product) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b" " * 2**20) for _ in range(300)) + packer.flush()

    answer = send(product, bomb, content_encoding="gzip")

    assert error_of(answer) == (413, "body_too_large", None)
    assert f"{32 * 2**20:,} bytes" in answer.json()["message"]


@pytest.mark.parametrize("depth", [64, 255, 500, 1_000, 1_024, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_json_may_not_be_nested_without_end(product: Product, depth: int, opening: bytes, closing: bytes) -> None:
    body = b'{"model":"m","messages":[],"metadata":' + opening * depth + b"1" + closing * depth + b"}"
    answer = send(product, body)

    assert answer.status_code == 400
    assert answer.json()["code"] in ("out_of_bounds", "invalid_json")


@pytest.mark.parametrize(
    ("fields", "param", "bound"),
    [
        ({"messages": [{}] * 10_001}, "messages", "10,000 messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 1_001}]},
            "messages.0.content",
            "1,000 parts",
        ),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 513}, "tools", "512 tools"),
        ({"metadata": {str(number): 1 for number in range(1_001)}}, "metadata", "1,000 fields"),
        ({"metadata": {"m" * 501: 1}}, "metadata", "500 characters"),
        ({"messages": [{}] * 1_000_000}, "messages", "200,000 values"),
        ({"stop": [[]] * 200_001}, "stop", "200,000 values"),
        ({"messages": [{"role": "user", "content": "a" * 32_000_001}]}, "messages.0.content", "32,000,000 characters"),
    ],
)
def test_what_a_call_may_hold_is_bounded_by_name(product: Product, fields: Any, param: str, bound: str) -> None:
    answer = send(product, orjson.dumps(HI | fields))

    assert error_of(answer) == (400, "out_of_bounds", param)
    assert bound in answer.json()["message"]
    assert param in answer.json()["message"]


def test_each_bound_is_a_setting(product: Product, settings: Any) -> None:
    settings.MAX_MESSAGES = 1

    assert error_of(send(product, orjson.dumps(HI | {"messages": HI["messages"] * 2})))[1] == "out_of_bounds"


def test_a_text_with_many_commas_and_brackets_is_a_text(product: Product) -> None:
    content = '{[,"\\' * 100_000

    answer = send(product, orjson.dumps(HI | {"messages": [{"role": "user", "content": content}]}))

    assert answer.json().get("code") != "out_of_bounds"
    # And one that never ends does not cost more than its length.
    assert error_of(send(product, b'{"a":"' + b'\\"' * 2_000_000 + b",{" * 300_000))[0] == 400


@pytest.mark.parametrize("body", [b"{}", b"{", b'{"messages":' + b"[" * 200_000])
def test_a_paused_tenant_is_told_so_whatever_it_sends(product: Product, body: bytes) -> None:
    tenant = make.tenant("acme")
    key = product.key(of=tenant)
    Tenant.objects.update(status=Tenant.Status.PAUSED)

    assert error_of(send(product, body, key=key))[:2] == (403, "paused")


def test_a_bad_key_and_a_paused_tenant_are_refused_before_a_large_body_is_read(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = product.key(of=make.tenant("acme"))
    Tenant.objects.update(status=Tenant.Status.PAUSED)
    monkeypatch.setattr(bodies, "read", None)
    large = orjson.dumps(HI | {"metadata": {"a": "b" * bodies.LARGE_BYTES}})

    assert error_of(send(product, large, key=key))[:2] == (403, "paused")
    assert error_of(send(product, large, key="sg_no_such_key"))[:2] == (401, "invalid_api_key")


def test_a_body_that_announces_too_much_is_refused_before_it_comes(product: Product) -> None:
    answer = send(product, b"a" * (32 * 2**20 + 1))

    assert error_of(answer) == (413, "body_too_large", None)
