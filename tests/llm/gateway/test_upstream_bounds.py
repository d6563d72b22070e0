"""What a model's API may answer with: how much, packed or plain, and which of it goes on to the client."""

from __future__ import annotations

import functools
import gzip
import resource
import zlib
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Reservation, SpendEntry
from tests import factories as make
from tests.product import Product

OURS = {"content-type", "content-length", "date", "transfer-encoding", "connection", "cache-control", "vary"}


def head(status: int = 200, type: str = "application/json", **headers: str) -> bytes:
    named = {"content-type": type, "connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode()


@functools.cache
def bomb(size_bytes: int, packing: int = 31) -> bytes:
    packer = zlib.compressobj(9, wbits=packing)
    spaces = b" " * 2**20
    return b"".join(packer.compress(spaces) for _ in range(size_bytes // 2**20)) + packer.flush()


def told(script: list[Any]) -> Answer:
    return Answer(script=script, tokens=10)


@pytest.fixture
def key(product: Product) -> str:
    make.budget("10.00")
    return product.key()


def is_settled_whole(answer: Any) -> bool:
    """As a call whose answer broke off: the whole hold, as an estimate, and a 5xx for the client."""
    certainties = set(SpendEntry.objects.values_list("certainty", flat=True))
    waiting = Reservation.objects.filter(resolved_at__isnull=True).exists()
    return answer.status_code in (502, 504) and certainties == {"estimated"} and not waiting


# Made when they are asked for: packing takes seconds.
ANSWERS: dict[str, Callable[[], list[bytes]]] = {
    "gzip": lambda: [head(content_encoding="gzip"), bomb(300 * 2**20)],
    "deflate": lambda: [head(content_encoding="deflate"), bomb(300 * 2**20, 15)],
    "plain": lambda: [head(), *[b"[1," * (2**20 // 3)] * 80],
    "text": lambda: [head(), b'{"choices":[', *[b'"' + b"a" * 2**20 + b'",'] * 80],
}


@pytest.mark.parametrize("packing", ANSWERS)
def test_an_answer_is_read_no_further_than_its_bound(
    product: Product, booked: BookedUpstream, key: str, packing: str
) -> None:
    booked.usual = told([*ANSWERS[packing](), "close"])
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    answer = product.chat(key)

    assert answer.json()["code"] == "upstream_cut"
    assert is_settled_whole(answer)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 256 * 1024


@pytest.mark.parametrize("packed", [False, True])
def test_a_refusal_is_bounded_too(product: Product, booked: BookedUpstream, key: str, packed: bool) -> None:
    body = [bomb(300 * 2**20)] if packed else [b" " * 2**20] * 80
    booked.usual = told([head(400, **({"content_encoding": "gzip"} if packed else {})), *body, "close"])

    assert product.chat(key).status_code == 502
    assert SpendEntry.objects.count() == 0


def test_headers_without_end_are_a_failure(product: Product, booked: BookedUpstream, key: str) -> None:
    for flood in (b"x-a: " + b"b" * 200_000 + b"\r\n", b"x-a: b\r\n" * 100_000):
        booked.usual = told([b"HTTP/1.1 200 OK\r\n" + flood * 50, "close"])

        assert product.chat(key).status_code == 502


@pytest.mark.parametrize(
    "script",
    [[b"data: " + b"a" * 2**20] + [b"a" * 2**20] * 40, [(b": " + b"b" * 1_000 + b"\n\n") * 2**10] * 90],
    ids=["a line", "in all"],
)
def test_a_stream_is_bounded_by_its_lines_and_in_all(
    product: Product, booked: BookedUpstream, key: str, settings: Any, script: list[Any]
) -> None:
    # A busy machine takes long to read so much.
    settings.SIGN_OF_LIFE_S = 0
    booked.usual = told([head(type="text/event-stream"), *script, "close"])

    assert is_settled_whole(product.chat(key, stream=True))


def test_how_much_is_a_setting(product: Product, booked: BookedUpstream, key: str, settings: Any) -> None:
    settings.MAX_ANSWER_BYTES = 2**16
    booked.usual = told([head(), b" " * 2**17, "close"])

    assert product.chat(key).json()["code"] == "upstream_cut"


PAGE = b"<html><script>alert(1)</script>Blocked by a firewall</html>"
FOREIGN = {
    "set_cookie": "session=1",
    "via": "1.1 nginx",
    "content_security_policy": "default-src 'none'",
    "access_control_allow_origin": "*",
    "access_control_allow_credentials": "true",
    "x_budget_remaining_usd": "1000000.00",
    "location": "https://evil.test/",
    "refresh": "0;url=https://evil.test/",
    "link": "</a>; rel=preload",
    "strict_transport_security": "max-age=1",
    "www_authenticate": "Basic realm=x",
    "trailer": "x-a",
    "upgrade": "h2c",
    "x_powered_by": "PHP",
}


@pytest.mark.parametrize("type", ["text/html", "text/html; charset=utf-16", "image/svg+xml", "application/javascript"])
@pytest.mark.parametrize("status", [400, 404, 413, 418, 422])
def test_a_page_in_place_of_a_refusal_is_json_to_the_client(
    product: Product, booked: BookedUpstream, key: str, type: str, status: int
) -> None:
    booked.usual = told([head(status, type), PAGE, "close"])

    answer = product.chat(key)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["code"] == "upstream_refused"
    assert "html" not in answer.text


@pytest.mark.parametrize(("status", "detail"), [(422, '"Input too long"'), (400, '"no"'), (404, '"Not Found"')])
def test_a_detail_that_is_a_text_is_told_in_our_form(
    product: Product, booked: BookedUpstream, key: str, status: int, detail: str
) -> None:
    booked.usual = told([head(status, "application/json"), b'{"detail": %b}' % detail.encode(), "close"])

    answer = product.chat(key)

    # Mistral's client takes the detail of a 422 for a list.
    assert (answer.status_code, "detail" in answer.json()) == (status, False)
    assert answer.json()["error"]["message"] == orjson.loads(detail)


@pytest.mark.parametrize(
    "detail",
    [
        ["Input too long"],
        {"msg": "too long"},
        [{"msg": "too long"}],
        [{"loc": "body", "msg": "too long", "type": "value_error"}],
        [{"loc": ["body", 1.5], "msg": "too long", "type": "value_error"}],
        [{"loc": ["body"], "msg": None, "type": "too long"}],
    ],
)
def test_so_is_one_that_is_no_list_of_mistakes(product: Product, booked: BookedUpstream, key: str, detail: Any) -> None:
    booked.usual = told([head(422, "application/json"), orjson.dumps({"detail": detail}), "close"])

    answer = product.chat(key)

    assert (answer.status_code, "detail" in answer.json()) == (422, False)
    assert "oo long" in answer.json()["message"]


def test_the_words_of_errors_in_a_list_are_told(product: Product, booked: BookedUpstream, key: str) -> None:
    said = [{"error": {"code": 400, "message": "No such field.", "status": "INVALID_ARGUMENT"}}]
    booked.usual = told([head(400, "application/json"), orjson.dumps(said), "close"])

    answer = product.chat(key)

    assert (answer.status_code, answer.json()["message"]) == (400, "No such field.")


MISTAKE = b'{"detail": [{"type": "value_error", "loc": ["body", "messages", 0], "msg": "too long", "input": null}]}'


@pytest.mark.parametrize("body", [MISTAKE, b'{"detail": []}', b'{"error": {"message": "no"}}'])
def test_a_refusal_that_clients_read_is_relayed_as_it_is(
    product: Product, booked: BookedUpstream, key: str, body: bytes
) -> None:
    booked.usual = told([head(422, "application/json"), body, "close"])

    assert product.chat(key).content == body


def test_a_proxy_that_wants_to_know_us_is_the_operators_to_mend(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.usual = told([head(407, "application/json"), b'{"error": {"message": "proxy"}}', "close"])

    answer = product.chat(key)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_auth")


ANSWER = (
    b'{"id":"c","model":"mistral-large-2512","choices":[{"index":0,"message":{"content":"a"}}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1}}'
)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"object":"error","message":"no"}'),
        (200, ANSWER),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_no_header_of_an_upstream_goes_through(
    product: Product, booked: BookedUpstream, key: str, status: int, body: bytes, packed: bool
) -> None:
    headers = FOREIGN | ({"content_encoding": "gzip"} if packed else {})
    booked.usual = told([head(status, "text/html", **headers), gzip.compress(body) if packed else body, "close"])

    answer = product.chat(key)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json()["object" if status == 400 else "id"]
    named = set(answer.headers) - OURS - {"server"}
    assert not named & {name.replace("_", "-") for name in FOREIGN} - {"x-budget-remaining-usd"}
    assert answer.headers.get("x-budget-remaining-usd") != "1000000.00"
    assert [name for name in named if not name.startswith("x-") and name != "server-timing"] == []
    assert "nginx" not in str(answer.headers)
