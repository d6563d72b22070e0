"""Answers far beyond `max_tokens`, broken off, unreadable or in odd places: one passes a cap, and none after it.

So do refusals that show what was written before them. The API's own books say what was spent.
"""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Overrun, Reservation, SpendEntry
from tests import factories as make
from tests.factories import nanos
from tests.llm.gateway.test_against_books import MODEL, ask, ledger_nanos
from tests.llm.gateway.test_chat import nothing_is_held
from tests.llm.gateway.test_odd_answers import CLOSES, DONE, event, text
from tests.product import Product, eventually

TOKENS = 20_000
LONG = "1234567890" * (TOKENS // 10)
USED = {"prompt_tokens": 14, "completion_tokens": 5, "total_tokens": 19}


@pytest.fixture
def key(product: Product) -> str:
    make.budget("0.01")
    return product.key()


def body(data: bytes, *, status: int = 200, kind: str = "application/json", missing: int = 0) -> list[Any]:
    """Bytes of a body from which `missing` more are said to come."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data) + missing}\r\n\r\n"
    return [head.encode() + data, *([0.05, "close"] if missing else [])]


def whole(message: Any = None, **more: Any) -> bytes:
    choice = {"index": 0, "message": message or {"role": "assistant", "content": LONG}, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "model": MODEL, "choices": [choice], **more}).encode()


def delta(**fields: Any) -> bytes:
    return event({"id": "c", "model": MODEL, "choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


def stream(*events: bytes, used: bool = True) -> list[Any]:
    end = text("", "stop", **({"usage": USED} if used else {}))
    return [CLOSES + b"".join(events) + end + DONE, "close"]


EVENTS = "text/event-stream"
BROKEN: dict[str, tuple[bool, list[Any]]] = {
    "plain, cut": (False, body(whole()[:-9], missing=9)),
    "plain, its status too": (False, body(whole()[:-9], status=500, missing=9)),
    "plain, under a refusal's status": (False, body(whole()[:-9], status=400, missing=9)),
    "plain, another end": (False, body(whole()[:-1] + b"]")),
    "plain, another end under a refusal's status": (False, body(whole()[:-1] + b"]", status=400)),
    "plain, a line's end in a text": (False, body(whole().replace(b"12345", b"1234\n5", 1))),
    "plain in place of a stream, cut": (True, body(whole()[:-9], missing=9)),
    "a stream in place of plain, cut": (False, body(text(LONG)[:-9], kind=EVENTS, missing=9)),
    "an event without its end": (True, body(text(LONG)[:-9], kind=EVENTS, missing=9)),
    "a second event without its end": (True, body(text("1") + text(LONG)[:-9], kind=EVENTS, missing=9)),
    "in two bytes a letter": (False, body(whole().decode().encode("utf-16"))),
}


def passes_once(product: Product, booked: BookedUpstream, key: str, answer: Answer, *, streams: bool) -> bool:
    """Whether one such answer is paid for, and no call after it is sent."""
    booked.next(answer)
    ask(product, key, stream=streams, max_tokens=5)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert Overrun.objects.exists()
    statuses = {ask(product, key, stream=streams, max_tokens=5)[0] for _ in range(3)}
    sent = [entry for entry in booked.books.entries if entry.output_tokens > 5]
    # But for a few tokens that had not come.
    assert ledger_nanos() >= booked.books.spent_nanos * 0.99 > nanos("0.01")
    assert not SpendEntry.objects.filter(certainty="confirmed", cost_nanos__gt=nanos("0.0001")).exists()
    return statuses == {402} and len(sent) == 1


@pytest.mark.parametrize(("streams", "script"), BROKEN.values(), ids=BROKEN)
def test_what_came_of_a_broken_answer_counts(
    product: Product, booked: BookedUpstream, key: str, streams: bool, script: list[Any]
) -> None:
    answer = Answer(tokens=TOKENS, obeys_max_tokens=False, script=script, billed=True)
    assert passes_once(product, booked, key, answer, streams=streams)


ANOTHERS: dict[str, bytes] = {
    "Anthropic's": json.dumps({"content": [{"type": "text", "text": LONG}]}).encode(),
    "the Responses API's": json.dumps({"output": [{"content": [{"text": LONG}]}]}).encode(),
    "Ollama's": json.dumps({"message": {"role": "assistant", "content": LONG}}).encode(),
}
IN_ANOTHER_DIALECT: dict[str, tuple[bool, list[Any]]] = {
    f"{name}, {framing}, {'stream' if streams else 'plain'}": (streams, script)
    for name, data in ANOTHERS.items()
    for framing, script in {
        "whole": body(data),
        "cut": body(data[:-4], missing=4),
        "an event": body(b"data: " + data + b"\n\n", kind=EVENTS),
        "an event, cut": body(b"data: " + data + b"\n\n", kind=EVENTS, missing=4),
    }.items()
    for streams in (False, True)
}


@pytest.mark.parametrize(("streams", "script"), IN_ANOTHER_DIALECT.values(), ids=IN_ANOTHER_DIALECT)
def test_what_came_of_an_answer_in_another_dialect_costs_its_hold(
    product: Product, booked: BookedUpstream, key: str, streams: bool, script: list[Any]
) -> None:
    booked.next(Answer(tokens=TOKENS, obeys_max_tokens=False, script=script, billed=True))
    ask(product, key, stream=streams, max_tokens=5)
    assert costs_its_hold(booked)


HALF = text("12345").partition(b"5")[0]
WHOLE_TEXT = whole({"role": "assistant", "content": "12345"})
LATER_ERROR = json.dumps({"error": {"message": LONG}}).encode()
UNREADABLE: dict[str, tuple[bool, list[Any]]] = {
    "an event that cannot be read": (True, stream(text("1"), b"data: {broken " + LONG.encode() + b"\n\n")),
    "a line that is no field": (True, stream(text("1"), LONG.encode() + b"\n\n")),
    "behind the end": (True, [CLOSES + text("1") + b"data: [DONE]\n" + LONG.encode() + b"\n\n", "close"]),
}
for name, behind in {
    "a log": b"2026-11-29 ERROR the worker has died\n" * 500 + b"\n",
    "a traceback": b"Traceback (most recent call last):\n  ValueError: " + LONG.encode() + b"\n\n",
    "an error in words": b"event: error\ndata: ValueError: bad message: " + LONG.encode() + b"\n\n",
    "an error of Python's": b"data: {'error': {'message': '" + LONG.encode() + b"'}}\n\n",
    "an error in a list": b"data: " + json.dumps([{"error": {"message": LONG}}]).encode() + b"\n\n",
    "an error as a text": b"data: " + json.dumps("bad: " + LONG).encode() + b"\n\n",
    "half an error": event({"message": {"role": "user", "content": LONG}, "error": {"message": "x"}})[:-60],
    "half a mistake": event({"detail": [{"type": "x", "loc": ["body"], "msg": "m", "input": LONG}]})[:-20],
    "a page": b"<html><body>" + LONG.encode() + b"</body></html>",
    "an error": LATER_ERROR,
}.items():
    UNREADABLE[f"{name} behind a text"] = (True, [CLOSES + text("1") + behind, "close"])
    UNREADABLE[f"{name} behind half an event"] = (True, [CLOSES + HALF + b"\n" + behind, "close"])
    UNREADABLE[f"{name} behind an answer"] = (False, body(WHOLE_TEXT + b"\n" + behind))
for name, script in {
    "a log": [CLOSES + text("1") + LONG.encode() + b"\n\n", "close"],
    "a log under a refusal's status": body(WHOLE_TEXT + b"\n" + LONG.encode(), status=400),
    "an error under a refusal's status": body(WHOLE_TEXT + b"\n" + LATER_ERROR, status=400),
}.items():
    UNREADABLE[f"{name}, plain"] = (False, script)
UNREADABLE["an error behind an answer, stream"] = (True, body(WHOLE_TEXT + b"\n" + LATER_ERROR))


@pytest.mark.parametrize(("streams", "script"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_nobody_can_read_behind_a_text_costs_its_hold_and_makes_no_call_dearer(
    product: Product, booked: BookedUpstream, key: str, streams: bool, script: list[Any]
) -> None:
    booked.next(Answer(tokens=5, script=script, billed=True))
    ask(product, key, stream=streams, max_tokens=5)
    assert costs_its_hold(booked)


def costs_its_hold(booked: BookedUpstream) -> bool:
    """Whether the first call costs all that was held for it, as an estimate, and makes no other dearer."""
    assert booked.idle()
    assert eventually(nothing_is_held)
    hold = Reservation.objects.order_by("reserved_at")[0]
    row = SpendEntry.objects.get(reservation=hold)
    assert not Overrun.objects.exists()
    return (row.cost_nanos, row.certainty) == (hold.amount_nanos, "estimated")


MODELS = json.dumps({"data": [{"id": f"m-{at}", "pricing": {"completion": "1", "output": 2}} for at in range(3_000)]})
PACKED = "application/json\r\ncontent-encoding: gzip"
NO_ANSWERS: dict[str, list[Any]] = {
    "packed, without end": body(gzip.compress(b'{"a": "' + b"a" * 20_000_000), kind=PACKED),
    "what cannot be unpacked": body(random.Random(1).randbytes(100_000), kind=PACKED),
    "a list of models": body(MODELS.encode()),
    "a list of models, cut": body(MODELS.encode()[:-9], missing=9),
    "a list of models, as an event": body(b"data: " + MODELS.encode() + b"\n\ndata: [DONE]\n\n", kind=EVENTS),
    "a list of models, a line each": body(b'{"id": "a model", "object": "model"}\n' * 3_000),
    "a log": body(b"2026-11-29 INFO something has happened in the proxy\n" * 3_000, kind="text/plain"),
    "a page": body(b"<!doctype html>" + b"<p>We are down.</p>\n\n" * 5_000, kind="text/html"),
    "a page with data": body(b'<html><script>x = {"content": "' + b"x" * 100_000 + b'"}</script>', kind="text/html"),
    "a text in JSON": body(json.dumps("We are down. " * 9_000).encode()),
}


SCHEMA = {"properties": {"choices": {"type": "array"}, "usage": {"type": "object"}, "message": {"x": "x" * 500}}}
PROMPT = [{"role": "user", "content": "word " * 4_000}]
SENT = {"model": MODEL, "messages": PROMPT, "max_tokens": 50}
MISTAKE = {"type": "missing", "loc": ["body", "x"], "msg": "Field required", "input": SENT}
NO_ANSWERS |= {
    name: body(json.dumps(said).encode())
    for name, said in {
        "the request": SENT,
        "an echo": {"method": "POST", "data": json.dumps(SENT), "json": SENT},
        "a mistake": {"detail": [MISTAKE]},
        "a mistake as a text": {"statusCode": 400, "body": json.dumps({"input": SENT})},
        "a list of errors": {"errors": [{"message": "bad", "request": SENT}]},
        "messages of a chat": {"ok": True, "result": [{"message": {"text": "x" * 500}}] * 200},
        "a document": {"openapi": "3.1.0", "components": {f"s{at}": SCHEMA for at in range(200)}},
    }.items()
}
NO_ANSWERS["an echo, as an event"] = body(b"data: " + json.dumps({"body": SENT}).encode() + b"\n\n", kind=EVENTS)


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("script", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_shows_no_answer_costs_its_hold_at_most_and_makes_no_call_dearer(
    product: Product, booked: BookedUpstream, key: str, script: list[Any], streams: bool
) -> None:
    booked.next(Answer(tokens=0, script=script, billed=False))
    ask(product, key, stream=streams, max_tokens=50, messages=PROMPT)
    assert booked.idle()
    assert eventually(nothing_is_held)
    hold = Reservation.objects.order_by("reserved_at")[0]
    assert sum(row.cost_nanos for row in SpendEntry.objects.filter(reservation=hold)) <= hold.amount_nanos
    assert not Overrun.objects.exists()


CALL = {"id": "abcdefghi", "type": "function", "index": 0}
THOUGHT = [{"type": "thinking", "thinking": [{"type": "text", "text": LONG}]}]
PLACES: dict[str, dict[str, Any]] = {
    "thinking parts": {"content": THOUGHT},
    "arguments as an object": {"tool_calls": [CALL | {"function": {"name": "f", "arguments": {"x": LONG}}}]},
    "a name in arguments": {"tool_calls": [CALL | {"function": {"name": "f", "arguments": {LONG: 1}}}]},
    "a function's name": {"tool_calls": [CALL | {"function": {"name": LONG, "arguments": "{}"}}]},
    "a call's id": {"tool_calls": [CALL | {"id": LONG, "function": {"name": "f", "arguments": "{}"}}]},
    "a field that nobody knows": {"thinking": LONG},
    "a name that nobody knows": {"found": {LONG: 1}},
}


@pytest.mark.parametrize("usage", [True, False], ids=["little usage", "no usage"])
@pytest.mark.parametrize("streams", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("fields", PLACES.values(), ids=PLACES)
def test_text_counts_in_whatever_place(
    product: Product, booked: BookedUpstream, key: str, fields: dict[str, Any], streams: bool, usage: bool
) -> None:
    message = {"role": "assistant", "content": "", **fields}
    script = (
        stream(delta(**fields), used=usage) if streams else body(whole(message, **({"usage": USED} if usage else {})))
    )
    answer = Answer(tokens=TOKENS, obeys_max_tokens=False, script=script)
    assert passes_once(product, booked, key, answer, streams=streams)


@pytest.mark.parametrize("name", ["annotations", "citations", "executed_tools", "context"])
def test_what_endpoints_put_beside_an_answer_is_not_written_by_its_model(
    product: Product, booked: BookedUpstream, key: str, name: str
) -> None:
    message = {"role": "assistant", "content": "1234", name: [{"title": "x", "content": "found " * 2_000}]}
    booked.next(Answer(tokens=5, script=body(whole(message, usage=USED))))
    assert ask(product, key, stream=False, max_tokens=5)[0] == 200
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert (SpendEntry.objects.get().certainty, ledger_nanos()) == ("confirmed", booked.books.spent_nanos)
    assert not Overrun.objects.exists()


def test_beside_an_answer_that_says_no_usage_all_may_be_the_models(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    message = {"role": "assistant", "content": "", "annotations": [{"title": LONG}]}
    booked.next(Answer(tokens=TOKENS, obeys_max_tokens=False, script=body(whole(message))))
    ask(product, key, stream=False, max_tokens=5)
    assert costs_its_hold(booked)


def test_log_probabilities_that_break_off_are_no_text(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(Answer(tokens=5, logprobs=True, framing="json", ends_after_bytes=9_000, ends_by="close"))
    ask(product, key, stream=False, max_tokens=5)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() >= booked.books.spent_nanos
    assert not Overrun.objects.exists()


FAILED = {"message": "Failed to call a function.", "type": "invalid_request_error", "code": "tool_use_failed"}
SHOWN = {**FAILED, "failed_generation": "<function=look>" + "1234567890" * 100}
SPENT = {"prompt_tokens": 14, "completion_tokens": 1_000, "total_tokens": 1_014}
PRODUCED = {"message": "The model produced an invalid tool call", "type": "server_error"}
BLOCKED = {"message": "Output blocked by content filtering policy", "type": "invalid_request_error"}
QUOTED = {"error": {"message": "Provider returned error", "metadata": {"raw": json.dumps({"error": SHOWN})}}}
REFUSALS: dict[str, tuple[bool, list[Any]]] = {
    "what failed": (False, body(json.dumps({"error": SHOWN}).encode(), status=400)),
    "nothing of what failed": (False, body(json.dumps({"error": FAILED}).encode(), status=400)),
    "a usage": (False, body(json.dumps({"error": {"message": "no", "usage": SPENT}}).encode(), status=400)),
    "a usage in half": (False, body(json.dumps({"error": {"usage": {"total_tokens": 1_014}}}).encode(), status=429)),
    "in details": (False, body(json.dumps({"detail": [{"completion": LONG[:1_000]}]}).encode(), status=422)),
    "quoted": (False, body(json.dumps(QUOTED).encode(), status=400)),
    "words": (False, body(json.dumps({"error": PRODUCED}).encode(), status=400)),
    "what was blocked": (False, body(json.dumps({"type": "error", "error": BLOCKED}).encode(), status=400)),
    "what was blocked, in a 200": (False, body(json.dumps({"type": "error", "error": BLOCKED}).encode())),
    "what was blocked, as a stream's first event": (True, [CLOSES + event({"error": BLOCKED}), "close"]),
    "a code": (False, body(b'{"error":{"message":"no","code":"OutputTextSensitiveContentDetected"}}', status=400)),
    "broken JSON": (False, body(b'{"error":{"message":"1 validation error: Invalid JSON","code":400}}', status=400)),
    "a list": (False, body(json.dumps([{"error": SHOWN}]).encode(), status=400)),
    "a text": (False, body(b"Failed: " + json.dumps({"error": SHOWN}).encode(), status=422, kind="text/plain")),
    "words in a text": (False, body(b"Request failed during generation", status=424, kind="text/plain")),
    "words in a 200": (False, body(json.dumps({"error": PRODUCED}).encode())),
    "a usage in a 200": (False, body(json.dumps({"error": {"message": "no", "code": 400, "usage": SPENT}}).encode())),
    "a stream's first event": (True, [CLOSES + event({"error": {**SHOWN, "status_code": 400}}), "close"]),
    "under a stream's status": (True, [CLOSES.replace(b"200 OK", b"400 No") + event({"error": SHOWN}), "close"]),
}


@pytest.mark.parametrize(("streams", "script"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_that_shows_work_is_charged(
    product: Product, booked: BookedUpstream, key: str, streams: bool, script: list[Any]
) -> None:
    booked.next(Answer(tokens=1_000, script=script, billed=True))
    ask(product, key, stream=streams, max_tokens=1_000)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() >= booked.books.spent_nanos > 0
    assert not Overrun.objects.exists()


@pytest.mark.parametrize("status", [400, 422, 429])
@pytest.mark.parametrize(
    "said",
    [
        {"error": {"message": "Provider returned error", "metadata": {"raw": '{"error":{"message":"no"}}'}}},
        {"object": "error", "message": "messages: invalid role", "type": "invalid_request_error"},
        {"detail": [{"loc": ["body", "n"], "msg": "too large", "input": {"completion": "1", "output": "1"}}]},
        {"error": {"message": "max_tokens is above what the model can write", "usage": {"total_tokens": 0}}},
        {"error": {"message": "no", "output": None, "choices": []}},
        {"message": "The model returned the following errors: `temperature` is deprecated for this model."},
        {"message": "Input data may contain inappropriate content.", "code": "data_inspection_failed"},
        {"error": {"message": "Invalid parameter: 'response_format' must be one of text, json_object"}},
        [{"error": {"message": "no", "code": 400}}],
        "no",
    ],
)
def test_a_mere_refusal_costs_nothing(
    product: Product, booked: BookedUpstream, key: str, said: Any, status: int
) -> None:
    booked.next(Answer(tokens=0, billed=False, script=body(json.dumps(said).encode(), status=status)))
    ask(product, key, stream=False)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() == booked.books.spent_nanos


ERROR = {"type": "invalid_request_error", "message": "no"}
COUNTED = {"input_tokens": 14, "output_tokens": 1_000}
REFUSED = CLOSES.replace(b"200 OK", b"400 No")


def failed(status: int = 400, **more: Any) -> list[Any]:
    return body(json.dumps({"type": "error", "error": ERROR, **more}).encode(), status=status)


def failed_event(**more: Any) -> bytes:
    return event({"type": "error", "error": ERROR, **more})


ANTHROPIC_S: dict[str, tuple[bool, list[Any]]] = {
    "a usage in the error": (False, failed(error={**ERROR, "usage": COUNTED})),
    "a usage in the error of a 200": (False, failed(200, error={**ERROR, "usage": COUNTED})),
    "a part of the answer": (False, failed(error={**ERROR, "partial_output": LONG[:1_000]})),
    "a part of the answer beside": (False, failed(partial_output=LONG[:1_000])),
    "a part of the answer beside in a 200": (False, failed(200, partial_output=LONG[:1_000])),
    "a list": (False, body(json.dumps([{"error": SHOWN}]).encode(), status=400)),
    "a code": (False, failed(error=FAILED)),
    "a usage beside what is no content": (False, failed(type="message", usage=COUNTED, content=7)),
    "an event": (True, [CLOSES + failed_event(usage=COUNTED), "close"]),
    "an event with more in its error": (True, [CLOSES + failed_event(error={**ERROR, "usage": COUNTED}), "close"]),
    "an event under its status": (True, [REFUSED + failed_event(error={**ERROR, "usage": COUNTED}), "close"]),
}


@pytest.mark.parametrize("likes", ["anthropic"], indirect=True)
@pytest.mark.parametrize(("streams", "script"), ANTHROPIC_S.values(), ids=ANTHROPIC_S)
def test_a_refusal_of_anthropic_s_likes_that_shows_work_is_charged(
    product: Product, booked: BookedUpstream, likes: str, streams: bool, script: list[Any]
) -> None:
    before = ledger_nanos()
    booked.next(Answer(tokens=1_000, script=script, billed=True))
    ask(product, likes, stream=streams, model="likes/m", max_tokens=1_000)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() - before >= booked.books.spent_nanos > 0


def test_an_error_in_mid_stream_is_charged_by_what_it_says(product: Product, booked: BookedUpstream, key: str) -> None:
    script = [CLOSES + text("1") + event({"error": {"message": "no", "usage": SPENT}}), "close"]
    booked.next(Answer(tokens=1_000, script=script, billed=True))
    ask(product, key, stream=True, max_tokens=1_000)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() >= booked.books.spent_nanos > 0


STARTED = event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "1"}})
FOUND = {"type": "web_search_tool_result", "content": [{"type": "web_search_result", "encrypted_content": LONG}]}
GREW = event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": LONG}})
BEGUN = event({"type": "message_start", "message": {"id": "m", "model": "m", "usage": {"input_tokens": 14}}})
MESSAGE = json.dumps({"id": "m", "type": "message", "model": "m", "content": [{"type": "text", "text": LONG}]}).encode()


@pytest.mark.parametrize(
    ("likes", "streams", "script"),
    [
        ("anthropic", False, body(MESSAGE[:-9], missing=9)),
        ("anthropic", True, body(BEGUN + GREW, kind=EVENTS, missing=9)),
        ("openai_compatible", False, body(whole()[:-9], missing=9)),
        ("openai_compatible", True, body(text("1", model="m") + text(LONG, model="m")[:-9], kind=EVENTS, missing=9)),
    ],
    indirect=["likes"],
)
def test_what_came_counts_in_whatever_dialect(
    product: Product, booked: BookedUpstream, likes: str, streams: bool, script: list[Any]
) -> None:
    before = ledger_nanos()
    booked.next(Answer(tokens=TOKENS, obeys_max_tokens=False, script=script))
    ask(product, likes, stream=streams, model="likes/m", max_tokens=5)
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert ledger_nanos() - before >= booked.books.spent_nanos * 0.99 > nanos("0.01")
    assert Overrun.objects.get().place == "likes/m"


@pytest.mark.parametrize("likes", ["anthropic"], indirect=True)
@pytest.mark.parametrize(
    ("streams", "script"),
    [
        (True, [CLOSES + BEGUN + STARTED + event({"type": "content_block_delta", "delta": LONG}), "close"]),
        (True, [CLOSES + BEGUN + STARTED + event({"type": "content_block_start", "content_block": FOUND}), "close"]),
        (False, body(json.dumps({"type": "message", "model": "m", "content": [FOUND]}).encode())),
    ],
    ids=["untranslated", "found", "plain"],
)
def test_what_has_no_place_in_an_answer_costs_its_hold_and_makes_no_call_dearer(
    product: Product, booked: BookedUpstream, likes: str, streams: bool, script: list[Any]
) -> None:
    booked.next(Answer(tokens=5, script=script, billed=True))
    ask(product, likes, stream=streams, model="likes/m", max_tokens=5)
    assert booked.idle()
    assert eventually(nothing_is_held)
    row = SpendEntry.objects.order_by("-id")[0]
    assert (row.cost_nanos, row.certainty) == (row.reservation.amount_nanos, "estimated")
    assert not Overrun.objects.exists()
