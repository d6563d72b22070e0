"""Large answers that come whole: read beside the event loop, and cut where no model can have written so much."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import SpendEntry
from llm.gateway import whole_answers
from llm.gateway.bodies import LARGE_BYTES, Bodies
from llm.gateway.http import PIECE_BYTES, Exchange
from llm.rules.sse import MOST_VALUES
from tests import factories as make
from tests.llm.gateway.test_against_books import ledger_nanos
from tests.llm.gateway.test_odd_answers import DONE, event, plain
from tests.product import Product, eventually

HEAD = {"id": "c", "object": "chat.completion", "created": 1, "model": "mistral-small-2603"}


@pytest.fixture
def key(product: Product) -> str:
    make.budget("1000.00")
    return product.key()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In which thread each piece of work was done that takes time by a body's size."""
    seen: list[str] = []
    timed = Bodies._timed

    def noted(bodies: Bodies, key_id: int, do: Callable[[], Any], counts: bool) -> Any:
        seen.append(threading.current_thread().name)
        return timed(bodies, key_id, do, counts)

    monkeypatch.setattr(Bodies, "_timed", noted)
    return seen


def raw(data: bytes) -> Answer:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
    return Answer(script=[head + data], tokens=20)


def chat(content: Any, **over: Any) -> dict[str, Any]:
    used = {"prompt_tokens": 14, "completion_tokens": 2_000, "total_tokens": 2_014}
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return HEAD | {"choices": [choice], "usage": used} | over


def test_a_large_answer_is_read_and_completed_beside_the_event_loop(
    product: Product, booked: BookedUpstream, key: str, threads: list[str]
) -> None:
    text = "x" * LARGE_BYTES
    booked.usual = plain(chat(text, id=None))
    response = product.chat(key, model="mistral-small-latest", max_tokens=30_000)
    assert response.json()["choices"][0]["message"]["content"] == text
    assert response.json()["id"]
    # Translated, read, counted, completed; and what leaves for the provider is small.
    assert len(threads) == 4
    assert {name.rpartition("_")[0] for name in threads} == {"gateway-bodies"}


def test_a_large_stream_that_nobody_asked_for_is_read_in_slices(
    product: Product, booked: BookedUpstream, key: str, threads: list[str]
) -> None:
    chunk = HEAD | {"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
    end = HEAD | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": chat("")["usage"]}
    data = event(chunk) * 2_000 + event(end) + DONE
    booked.usual = raw(data)
    response = product.chat(key, model="mistral-small-latest", max_tokens=30_000)
    assert response.json()["choices"][0]["message"]["content"] == "word " * 2_000
    assert len(threads) >= len(data) // whole_answers.SLICE_BYTES
    assert eventually(SpendEntry.objects.exists)
    assert SpendEntry.objects.get().output_tokens == 2_000


@pytest.mark.parametrize("is_stream", [False, True])
def test_more_than_a_model_can_write_is_cut_and_charged_no_less_than_it_cost(
    product: Product, booked: BookedUpstream, key: str, settings: Any, is_stream: bool
) -> None:
    settings.MAX_ANSWER_BYTES = 8 * 2**17
    text = "x" * 2**18
    streamed = event(HEAD | {"choices": [{"delta": {"content": text}}]})
    booked.usual = raw(streamed if is_stream else json.dumps(chat(text)).encode())
    response = product.chat(key, model="mistral-small-latest", max_tokens=50)
    assert (response.status_code, response.json()["code"]) == (502, "upstream_cut")
    assert eventually(SpendEntry.objects.exists)
    assert booked.idle()
    assert ledger_nanos() >= booked.books.spent_nanos


@pytest.mark.parametrize("body", [{"a": [0] * 1_100_000}, [[0]] * 1_100_000])
def test_what_has_too_many_values_is_no_answer(product: Product, booked: BookedUpstream, key: str, body: Any) -> None:
    data = json.dumps(body, separators=(",", ":")).encode()
    assert whole_answers.json_object(data) == {}
    booked.usual = raw(data)
    response = product.chat(key, model="mistral-small-latest", max_tokens=50)
    assert (response.status_code, response.json()["code"]) == (502, "upstream_garbage")


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, 3 * PIECE_BYTES + 7])
async def test_an_answer_is_sent_in_pieces(size: int) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope: Any = {"type": "http", "method": "POST", "path": "/v1/x", "headers": []}
    data = bytes(index % 251 for index in range(size))
    await Exchange(scope, receive, send, request_id="r").answer(200, data, [])
    pieces = [message for message in sent if message["type"] == "http.response.body"]
    assert b"".join(message["body"] for message in pieces) == data
    assert max(len(message["body"]) for message in pieces) <= PIECE_BYTES
    assert [message["more_body"] for message in pieces] == [True] * (len(pieces) - 1) + [False]
    assert len(pieces) == max(1, -(-size // PIECE_BYTES))


@pytest.mark.parametrize("in_lines", [True, False])
def test_an_event_that_grows_without_end_is_cut(
    product: Product, booked: BookedUpstream, key: str, in_lines: bool
) -> None:
    """Of events, and of JSON in their place, which is read when it is whole."""
    first = event(HEAD | {"choices": [{"index": 0, "delta": {"content": "a"}}]})
    grows = b'data: {"choices": [{"delta": {"content": "' if in_lines else b'{"choices": [{"message": {"content": "'
    said = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\nconnection: close\r\n\r\n" % (
        b"text/event-stream" if in_lines else b"application/json"
    )
    booked.usual = Answer(script=[said + (first if in_lines else b"") + grows, *[b"x" * 2**20] * 6], tokens=20)
    response = product.chat(key, model="mistral-small-latest", max_tokens=50, stream=True)
    assert eventually(SpendEntry.objects.exists)
    assert booked.idle()
    assert ledger_nanos() >= booked.books.spent_nanos
    assert (response.status_code == 200) == in_lines
    assert len(response.content) < 5 * 2**20


def test_an_event_of_too_many_values_counts_as_text_and_is_not_passed_on(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    parts = [{"type": "text", "text": "a"}] * (MOST_VALUES // 2 + 1)
    first = event(HEAD | {"choices": [{"index": 0, "delta": {"content": "a"}}]})
    large = event(HEAD | {"choices": [{"index": 0, "delta": {"content": parts}}]})
    end = event(HEAD | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    said = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    booked.usual = Answer(script=[said + first + large + end + DONE], tokens=20)
    response = product.chat(key, model="mistral-small-latest", max_tokens=50, stream=True)
    assert response.status_code == 200
    assert b'"type"' not in response.content
    assert eventually(SpendEntry.objects.exists)
    assert ledger_nanos() >= booked.books.spent_nanos
