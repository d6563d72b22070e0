"""Answers under a status, in a packing or at a time that no answer should have: they are paid for all the same."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.books import Request
from benchmarks.own_books import BookedUpstream
from governance.models import Reservation
from tests import factories as make
from tests.llm.gateway.test_against_books import ask, holds_by_the_books, ledger_nanos
from tests.llm.gateway.test_chat import nothing_is_held
from tests.llm.gateway.test_odd_answers import CHUNKED, CLOSES, DIGITS, DONE, chunked, event, text
from tests.product import Product, eventually

USED = {"prompt_tokens": 14, "completion_tokens": 400, "total_tokens": 414}
anthropic = pytest.mark.parametrize("likes", ["anthropic"], indirect=True)


@pytest.fixture
def key(product: Product) -> str:
    make.budget("10.00")
    return product.key()


def json_answer(said: Any, status: int = 200, head: bytes = b"") -> bytes:
    data = said if isinstance(said, bytes) else json.dumps(said).encode()
    kind = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n" % status
    return kind + head + b"content-length: %d\r\n\r\n" % len(data) + data


def chat(said: str = DIGITS, tokens: int = 400) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    used = {"prompt_tokens": 14, "completion_tokens": tokens, "total_tokens": 14 + tokens}
    return {"id": "c", "model": "mistral-small-2603", "choices": [choice], "usage": used}


@pytest.mark.parametrize("ending", ["usage", "no usage", "broken off"])
@pytest.mark.parametrize("status", [302, 400, 408, 422, 429, 499, 503])
def test_events_are_read_whatever_the_status(
    product: Product, booked: BookedUpstream, key: str, status: int, ending: str
) -> None:
    head = b"HTTP/1.1 %d X\r\ncontent-type: text/event-stream\r\nretry-after: 1\r\n" % status
    used = {"usage": USED} if ending == "usage" else {}

    def answer(request: Request) -> Answer:
        # Also as a model that stands in.
        model = request.payload["model"]
        said = text(DIGITS, model=model) + text("", "stop", model=model, **used) + DONE
        script: list[Any] = [head + b"connection: close\r\n\r\n" + said, "close"]
        if ending == "broken off":
            script = [head + b"content-length: 9999\r\n\r\n" + said[:200], 0.1, "reset"]
        return Answer(script=script, tokens=400, billed=True)

    booked.answer_to = answer
    ask(product, key, stream=True)
    assert booked.books.entries
    assert holds_by_the_books(booked)


@pytest.mark.parametrize("status", [400, 429, 503])
def test_an_error_in_events_costs_nothing(product: Product, booked: BookedUpstream, key: str, status: int) -> None:
    head = b"HTTP/1.1 %d X\r\ncontent-type: text/event-stream\r\nretry-after: 1\r\nconnection: close\r\n\r\n" % status
    booked.usual = Answer(script=[head + event({"error": {"message": "no"}}), "close"], tokens=0, billed=False)
    ask(product, key, stream=True)
    assert eventually(nothing_is_held)
    assert ledger_nanos() == 0


@anthropic
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 302, 400, 403, 429, 500, 529])
def test_a_message_of_anthropic_s_is_paid_for_whatever_its_status(
    product: Product, booked: BookedUpstream, likes: str, status: int, stream: bool
) -> None:
    said = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    said |= {"content": [{"type": "text", "text": DIGITS}], "usage": {"input_tokens": 14, "output_tokens": 400}}
    before = ledger_nanos()
    booked.usual = Answer(script=[json_answer(said, status)], tokens=400, billed=True)
    code, body = ask(product, likes, stream=stream, model="likes/m")
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() - before >= booked.books.spent_nanos > 0
    assert (code, DIGITS in body) == (200, True) or status > 299


@anthropic
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("status", [202, 400, 529])
def test_anthropic_s_events_are_read_whatever_the_status(
    product: Product, booked: BookedUpstream, likes: str, status: int, whole: bool
) -> None:
    used = {"input_tokens": 14, "output_tokens": 1}
    message = {"id": "m", "type": "message", "model": "m", "usage": used}
    said = event({"type": "message_start", "message": message}, "message_start")
    block = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": DIGITS}}
    said += event(block, "content_block_delta")
    if whole:
        end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 400}}
        said += event(end, "message_delta") + event({"type": "message_stop"}, "message_stop")
    before = ledger_nanos()
    head = b"HTTP/1.1 %d X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" % status
    booked.usual = Answer(script=[head + said, "close"], tokens=400, billed=True)
    ask(product, likes, stream=True, model="likes/m")
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() - before >= booked.books.spent_nanos > 0


STARTED = {"type": "message_start", "message": {"id": "m", "model": "m"}}
GREW = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "1" * 50}}


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize(
    ("likes", "status", "said"),
    [
        ("openai_compatible", 400, text("1" * 50, model="m")),
        ("openai_compatible", 429, text("1" * 50, model="m")),
        ("openai_compatible", 400, b""),
        ("anthropic", 400, event(STARTED) + event(GREW)),
        ("anthropic", 529, b""),
    ],
    indirect=["likes"],
)
def test_a_stream_under_an_error_s_status_that_breaks_off_is_charged_whole(
    product: Product, booked: BookedUpstream, likes: str, status: int, said: bytes, how: str
) -> None:
    before = ledger_nanos()
    head = CHUNKED.replace(b"200 OK", b"%d No" % status)
    booked.usual = Answer(script=[head, *([chunked(said)] if said else []), 0.1, how], tokens=300, billed=True)
    ask(product, likes, stream=True, model="likes/m")
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() - before >= booked.books.spent_nanos > 0


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize(
    ("status", "said", "charged"),
    [
        # Broken off in a 200, anything may be missing; under an error's status, what came says whether it is one.
        (200, b"", "held"),
        (200, b'{"id": "c", "choi', "held"),
        (200, b'{"error": {"message": "Inv', "held"),
        (400, b"", "nothing"),
        (400, b'{"error": {"message": "Inv', "nothing"),
        (400, b'{"detail": [{"loc": ["messages", 0, "content"], "input": {"content": "Hi"', "nothing"),
        # What may be a cut quotation of an answer.
        (400, b'{"message": "see \\"choices\\": ', "held"),
        (400, b'{"id": "c", "choices": [{"message": {"content": "111', "held"),
        (400, b'{"model": "m", "usage" :{"prompt_tokens": 14, "completion_tokens": 30', "held"),
        (400, b'{"id": "m", "type": "message", "content": [{"text": "111', "held"),
        (429, b'{"error": {"message": "Slow d', "nothing"),
        (429, b'{"choices":[{"message"', "held"),
        (302, b"<html", "nothing"),
        (403, b"<html><head>", "nothing"),
        (500, b'{"error": {"message": "Inter', "held"),
        (502, b"<html>", "held"),
        # Overloaded, with a time to come back: it took no work on.
        (503, b'{"error": {"mess', "nothing"),
        (503, b'{"choices":[{"message"', "held"),
        (529, b'{"error": {"mess', "nothing"),
        (504, b"", "held"),
    ],
)
@pytest.mark.parametrize("likes", ["openai_compatible", "anthropic"], indirect=True)
def test_what_a_plain_body_that_breaks_off_costs(
    product: Product, booked: BookedUpstream, likes: str, status: int, said: bytes, charged: str, how: str
) -> None:
    before, known = ledger_nanos(), set(Reservation.objects.values_list("pk", flat=True))
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\nretry-after: 1\r\ncontent-length: 9999\r\n\r\n" % status
    worked = charged == "held"
    booked.usual = Answer(script=[head, *([said] if said else []), 0.05, how], tokens=400 * worked, billed=worked)
    assert ask(product, likes, stream=False, model="likes/m")[0] >= 400
    assert booked.idle()
    assert eventually(nothing_is_held)
    calls = Reservation.objects.exclude(pk__in=known)
    held_nanos = sum(call.amount_nanos for call in calls)
    assert ledger_nanos() - before == (held_nanos if worked else 0)
    assert ledger_nanos() - before >= booked.books.spent_nanos


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("usage_at", ["first", "growing"])
def test_a_usage_in_the_middle_of_what_breaks_off_is_not_the_last_word(
    product: Product, booked: BookedUpstream, key: str, usage_at: str, how: str
) -> None:
    counted = {"prompt_tokens": 14, "completion_tokens": 1, "total_tokens": 15}
    said = text("1", model="mistral-small-2603", usage=counted)
    said += text("1" * 50, **({"usage": {**counted, "completion_tokens": 50}} if usage_at == "growing" else {}))
    head = CHUNKED.replace(b"200 OK", b"400 No")
    booked.usual = Answer(script=[head, chunked(said), 0.1, how], tokens=300, billed=True)
    ask(product, key, stream=True)
    assert booked.books.entries
    assert holds_by_the_books(booked)


@anthropic
@pytest.mark.parametrize(
    "said",
    [
        {"type": "message_start", "message": "x"},
        {"type": "content_block_delta", "index": 0, "delta": "x"},
        {"type": "content_block_start", "index": [], "content_block": {"type": "tool_use", "id": 1}},
    ],
)
def test_odd_events_of_a_refusal_are_no_failure_of_ours(
    product: Product, booked: BookedUpstream, likes: str, said: dict[str, Any]
) -> None:
    head = CLOSES.replace(b"200 OK", b"400 No")
    booked.usual = Answer(script=[head + event(said), "close"], tokens=0, billed=False)
    assert ask(product, likes, stream=False, model="likes/m")[0] == 400


@anthropic
@pytest.mark.parametrize("status", [400, 429, 529])
def test_anthropic_s_refusals_cost_nothing(product: Product, booked: BookedUpstream, likes: str, status: int) -> None:
    before = ledger_nanos()
    said = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    booked.usual = Answer(script=[json_answer(said, status)], tokens=0, billed=False)
    ask(product, likes, stream=False, model="likes/m")
    assert eventually(nothing_is_held)
    assert ledger_nanos() == before


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 200 OK\r\ncontent-ty", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"]
)
@pytest.mark.parametrize("how", ["reset", "close"])
def test_no_end_of_a_connection_shows_that_a_call_was_not_read(
    product: Product, booked: BookedUpstream, key: str, first: bytes, how: str
) -> None:
    messages = [{"role": "user", "content": "1" * 20_000}]
    ask(product, key, stream=False, messages=messages, max_tokens=5)
    booked.next(Answer(script=[*([first, 0.02] if first else []), how], tokens=5))
    ask(product, key, stream=False, messages=messages, max_tokens=5)
    assert len(booked.books.entries) == Reservation.objects.count()
    assert holds_by_the_books(booked)


PACKINGS = ["x-gzip", "gzip, gzip", "", "GZIP", "deflate", "gzip, x-gzip"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("packing", PACKINGS)
def test_what_comes_packed_is_unpacked(
    product: Product, booked: BookedUpstream, key: str, packing: str, stream: bool
) -> None:
    data = json.dumps(chat()).encode()
    for _ in range(max(1, packing.count("gzip"))):
        data = gzip.compress(data)
    head = f"content-encoding: {packing}\r\n".encode() if packing else b""
    booked.usual = Answer(script=[json_answer(data, head=head)], tokens=400)
    code, said = ask(product, key, stream=stream)
    if packing != "deflate":
        assert (code, DIGITS in said) == (200, True)
        assert ledger_nanos() == booked.books.spent_nanos
    assert holds_by_the_books(booked)


UNREADABLE = {
    "utf-16": f"data: {json.dumps(chat())}\n\n".encode("utf-16"),
    "msgpack": b"\x83\xa2id\xa1c\xa7choices\x91\x82\xa5index\x00\xa5delta\x81\xa7content\xd9\xc8" + b"1" * 200,
    "xml": b"<response><choices><content>" + b"1" * 200 + b"</content></choices></response>",
    "xml with a head": b"<?xml version='1.0'?><response><content>" + b"1" * 200 + b"</content></response>",
    "json in a text": json.dumps(json.dumps(chat())).encode(),
    "events of json in a text": b"data: " + json.dumps(json.dumps(chat())).encode() + b"\n\n",
    "base64": b"data: " + b"eyJpZCI6ImMi" * 20 + b"\n\n",
    "text": b"1" * 200,
    "half a gzip": gzip.compress(json.dumps(chat()).encode())[:60],
    "a broken gzip": b"\x1f\x8b\x08\x00" + b"1" * 200,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_nobody_can_read_may_be_an_answer(
    product: Product, booked: BookedUpstream, key: str, body: bytes, stream: bool
) -> None:
    head = CLOSES if stream else CLOSES.replace(b"text/event-stream", b"application/octet-stream")
    booked.usual = Answer(script=[head + body, "close"], tokens=200, billed=True)
    assert ask(product, key, stream=stream)[0] != 500
    assert holds_by_the_books(booked)


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html>\n<p>Log in first</p>", b"\n<!-- x --><html></html>", b"{}", b"Down."]
)
def test_a_page_is_no_answer(product: Product, booked: BookedUpstream, key: str, body: bytes) -> None:
    booked.usual = Answer(script=[CLOSES + body, "close"], tokens=0, billed=False)
    assert ask(product, key, stream=False)[0] == 502
    assert eventually(nothing_is_held)
    assert ledger_nanos() == 0


@pytest.mark.parametrize("part", [1.0, 0.5, 0.05], ids=["whole", "half", "head"])
def test_an_answer_that_nobody_asked_for_reaches_nobody(
    product: Product, booked: BookedUpstream, key: str, part: float
) -> None:
    other = make.tenant("other")
    make.budget("10.00", tenant=other)
    late = json_answer(chat("late, for the first", 5))
    booked.next(
        Answer(script=[json_answer(chat("for the first", 5)), 0.2, late[: int(len(late) * part)], 0.3], tokens=5),
        Answer(script=[json_answer(chat("for the second", 5))], tokens=5),
    )
    assert "for the first" in ask(product, key, stream=False)[1]
    time.sleep(0.4)
    status, said = ask(product, product.key(of=other), stream=False)
    assert (status, "for the second" in said, "late" in said) == (200, True, False)
    assert holds_by_the_books(booked)


def test_a_whole_answer_that_writes_nothing_costs_its_hold_under_an_error_s_status_too(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    body = b'{"object": "list", "data": [{"index": 0, "embedding": [0.1, 0.2]}]}'
    head = b"HTTP/1.1 400 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    booked.usual = Answer(script=[head + body], tokens=0, billed=True)
    assert product.post("/v1/embeddings", key, model="mistral-embed", input="Hi").status_code == 400
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() == Reservation.objects.get().amount_nanos > 0
    assert ledger_nanos() >= booked.books.spent_nanos
