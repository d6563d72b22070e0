"""Odd upstreams and odd clients, and what both cost: the ledger beside the books of a model's API that is not ours.

The API generates at its own pace whoever reads, and counts what it generated. A cap holds by its books, and nothing
that it was paid for is missing from the ledger.
"""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from django.utils import timezone

from benchmarks.answers import USAGES_THAT_TELL, Answer
from benchmarks.own_books import BookedUpstream
from governance.actions import stops
from governance.audit import Actor
from governance.models import Alert, Budget, BudgetWindow, Reservation, SpendEntry
from llm.gateway.application import gateway
from llm.rules.stream_count import MARKS
from tests import factories as make
from tests.factories import nanos
from tests.llm.gateway.test_chat import chunks_of, nothing_is_held, streaming
from tests.product import Product, eventually

MODEL = "mistral-small-latest"
# Nanodollars a token.
INPUT, OUTPUT = 150, 600
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def key(product: Product) -> str:
    make.budget("1.00")
    return product.key()


def ask(product: Product, key: str, *, stream: bool, **fields: Any) -> tuple[int, str]:
    """(status, all that came)."""
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 500} | fields
    if not stream:
        response = product.post("/v1/chat/completions", key, **body)
        return response.status_code, response.text
    with streaming(product, key, **body) as response:
        return response.status_code, response.read().decode()


def ledger_nanos() -> int:
    return sum(row.cost_nanos for row in SpendEntry.objects.all())


def holds_by_the_books(booked: BookedUpstream) -> bool:
    """The ledger has all that the API was paid for, and its hold covered it."""
    assert booked.idle()
    assert eventually(nothing_is_held)
    spent = booked.books.spent_nanos
    assert ledger_nanos() >= spent, f"the ledger says {ledger_nanos()}, the books {spent}"
    assert sum(row.amount_nanos for row in Reservation.objects.all()) >= spent
    assert not SpendEntry.objects.filter(overage_nanos__gt=0).exists()
    return True


USAGES = [
    "honest",
    "none",
    "null",
    "floats",
    "texts",
    "fraction",
    "no_output",
    "no_output_no_total",
    "null_output",
    "zero_output",
    "negative",
    "true",
    "list",
    "peta",
    "past_64_bits",
    "smaller_later",
    "zero_later",
    "null_later",
    "growing",
    "in_pieces",
    "no_prompt",
    "cached_at_top",
    "other_names",
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("token_bytes", [1, 4])
@pytest.mark.parametrize("usage", USAGES)
def test_however_usage_is_told_the_ledger_has_what_was_paid_and_no_more_than_was_held(
    product: Product, booked: BookedUpstream, key: str, usage: str, token_bytes: int, stream: bool
) -> None:
    booked.next(Answer(tokens=300, token_bytes=token_bytes, usage=usage))
    status, said = ask(product, key, stream=stream)
    assert status == 200
    assert holds_by_the_books(booked)
    assert ledger_nanos() <= Reservation.objects.get().amount_nanos
    row = SpendEntry.objects.get()
    if usage in USAGES_THAT_TELL:
        assert (row.cost_nanos, row.certainty) == (booked.books.spent_nanos, "confirmed")
    if usage in ("none", "null", "no_output_no_total", "list", "peta") or (usage == "in_pieces" and stream):
        assert row.certainty == "estimated"
    assert len(said) > 300


@pytest.mark.parametrize("at", ["finish", "end", "choice", "x_groq", "every", "first"])
def test_wherever_usage_is_told_it_is_read(product: Product, booked: BookedUpstream, key: str, at: str) -> None:
    booked.next(Answer(tokens=40, usage_at=at))
    ask(product, key, stream=True)
    assert holds_by_the_books(booked)
    if at != "first":
        assert ledger_nanos() == booked.books.spent_nanos


def test_usage_that_comes_for_each_answer_by_itself_is_added_up(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    def chunk(index: int, tokens: int) -> bytes:
        used = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
        choice = {"index": index, "delta": {"content": "1" * tokens}, "finish_reason": "stop", "usage": used}
        return b"data: " + json.dumps({"model": "mistral-small-2603", "choices": [choice]}).encode() + b"\n\n"

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    booked.next(Answer(script=[head + chunk(0, 30) + chunk(1, 20) + b"data: [DONE]\n\n", "close"], tokens=50))
    ask(product, key, stream=True, n=2)
    assert ledger_nanos() == 3 * INPUT + 50 * OUTPUT


@pytest.mark.parametrize("framing", ["json", "sse_single", "ndjson", "sse_crlf"])
@pytest.mark.parametrize("usage", ["honest", "none"])
def test_a_stream_in_another_framing_is_read_as_what_it_is(
    product: Product, booked: BookedUpstream, key: str, framing: str, usage: str
) -> None:
    booked.next(Answer(tokens=50, framing=framing, usage=usage, content_type="application/json"))
    status, said = ask(product, key, stream=True)
    assert status == 200
    assert holds_by_the_books(booked)
    text = "".join(
        choice["delta"].get("content") or "" for chunk in chunks_of(said) for choice in chunk.get("choices") or ()
    )
    assert len(text) == 50
    assert said.endswith("data: [DONE]\n\n")
    if usage == "honest":
        assert ledger_nanos() == booked.books.spent_nanos
        assert nanos(chunks_of(said)[-1]["usage"]["cost_usd"]) == ledger_nanos()
    else:
        # A byte is a token.
        assert SpendEntry.objects.get().output_tokens == 50 + MARKS


def test_a_plain_call_that_is_answered_with_a_stream_gets_one_answer(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    events = b"".join(
        b"data: " + json.dumps(chunk).encode() + b"\n\n"
        for chunk in (
            {"id": "c", "model": "mistral-small-2603", "choices": [{"index": 0, "delta": {"content": "12"}}]},
            {
                "choices": [{"index": 0, "delta": {"content": "34"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4},
            },
        )
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    booked.next(Answer(script=[head + events + b"data: [DONE]\n\n", "close"], tokens=4))
    status, said = ask(product, key, stream=False)
    assert (status, json.loads(said)["choices"][0]["message"]["content"]) == (200, "1234")
    assert ledger_nanos() == 3 * INPUT + 4 * OUTPUT


def open_stream(product: Product, key: str, *, window: int = 4_096, **fields: Any) -> socket.socket:
    """A client on a bare socket that has asked for a stream and reads nothing; `window` bytes fit its buffer."""
    parts = urlsplit(product.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    client.connect((str(parts.hostname), int(parts.port or 0)))
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": True} | fields).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    client.sendall(head.encode() + body)
    return client


def limits(limit: str) -> int:
    return nanos(limit)


def test_clients_that_do_not_read_pass_no_cap(product: Product, booked: BookedUpstream) -> None:
    make.budget("0.03", soft_cap=None)
    key = product.key()
    booked.usual = Answer(tokens=3_000, pace=1_500, event_tokens=10, logprobs=True, usage="none")
    clients = [open_stream(product, key, max_tokens=20_000) for _ in range(10)]
    assert eventually(lambda: bool(booked.books.entries) and not booked.books.running, within_s=20)
    for client in clients:
        client.close()
    assert eventually(nothing_is_held, within_s=20)
    spent = booked.books.spent_nanos
    assert 0 < spent <= limits("0.03")
    assert ledger_nanos() >= spent
    assert not SpendEntry.objects.filter(overage_nanos__gt=0).exists()


@pytest.mark.parametrize("leave", ["crawl", "stay"])
def test_a_stuck_client_is_cut_and_its_call_settled(
    product: Product, booked: BookedUpstream, key: str, settings: Any, leave: str
) -> None:
    settings.CLIENT_WRITE_TIMEOUT_S, settings.STREAM_BUFFER_BYTES = 1, 50_000_000
    booked.next(Answer(tokens=18_000, pace=2_000, event_tokens=20, logprobs=True))
    with open_stream(product, key, max_tokens=20_000):
        assert eventually(lambda: SpendEntry.objects.exists(), within_s=15)
    row = SpendEntry.objects.get()
    assert (row.reason, row.certainty) == ("client_stalled", "estimated")
    assert holds_by_the_books(booked)
    # Long before its end, nine seconds after it began.
    assert booked.books.entries[0].output_tokens < 12_000


def test_a_client_for_whom_too_much_waits_is_cut(
    product: Product, booked: BookedUpstream, key: str, settings: Any
) -> None:
    settings.STREAM_BUFFER_BYTES = 100_000
    booked.next(Answer(tokens=5_000, pace=800, event_tokens=5, logprobs=True))
    with open_stream(product, key, max_tokens=20_000):
        assert eventually(lambda: SpendEntry.objects.exists(), within_s=10)
    assert SpendEntry.objects.get().reason == "client_stalled"
    assert holds_by_the_books(booked)
    # It was stopped, well before its end.
    assert booked.books.entries[0].output_tokens < 4_500


def test_a_stop_settles_the_call_of_a_client_that_does_not_read_at_once(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.next(Answer(tokens=20_000, pace=1_000, event_tokens=5, logprobs=True))
    with open_stream(product, key, max_tokens=20_000):
        assert eventually(lambda: bool(booked.books.entries) and booked.books.entries[0].output_tokens > 500)
        stops.stop(tenant=make.tenant(), reason="a loop", by=Actor("ada"), now=timezone.now())
        assert eventually(lambda: SpendEntry.objects.exists(), within_s=3)
    assert SpendEntry.objects.get().reason == "emergency_stop"
    assert holds_by_the_books(booked)


@pytest.mark.parametrize("reads", [0, 1, 4_000, 40_000])
@pytest.mark.parametrize("pace", [300, 5_000, None])
def test_a_client_that_leaves_has_paid_for_what_was_written(
    product: Product, booked: BookedUpstream, key: str, reads: int, pace: float | None
) -> None:
    booked.next(Answer(tokens=3_000, pace=pace, usage_at="end", head_after_s=0.05))
    client = open_stream(product, key, window=65_536, max_tokens=4_000)
    came = 0
    while came < reads:
        came += len(client.recv(4_096)) or reads
    client.close()
    # One that left before its call was sent on has paid nothing.
    assert eventually(lambda: SpendEntry.objects.exists() or (not reads and not booked.books.entries))
    assert holds_by_the_books(booked)


@pytest.mark.parametrize(
    ("wait_s", "answer"),
    [
        (2.0, Answer(tokens=3_000, pace=800, whole_from=0, text_field="tool_calls")),
        (2.0, Answer(tokens=3_000, pace=800, whole_from=40, heartbeat_s=0.1)),
        (0.3, Answer(tokens=3_000, pace=800, whole_from=0)),
        (1.5, Answer(tokens=3_000, pace=800, whole_from=100, usage_at="every")),
    ],
    ids=["a tool call", "after some text", "at once", "after its usage"],
)
def test_what_was_written_and_not_sent_is_paid_for_by_a_client_that_leaves(
    product: Product, booked: BookedUpstream, key: str, wait_s: float, answer: Answer
) -> None:
    booked.next(answer)
    client = open_stream(product, key, window=65_536, max_tokens=4_000)
    client.recv(100)
    time.sleep(wait_s)
    client.close()
    assert eventually(lambda: SpendEntry.objects.exists())
    assert holds_by_the_books(booked)
    assert SpendEntry.objects.get().reason == "client_closed"


@pytest.mark.parametrize("by", ["reset", "close"])
def test_what_was_written_and_not_sent_before_a_connection_ends_is_paid_for(
    product: Product, booked: BookedUpstream, key: str, by: str
) -> None:
    booked.next(Answer(tokens=600, pace=600, whole_from=20, ends_after_tokens=500, ends_by=by))
    ask(product, key, stream=True, max_tokens=1_000)
    assert holds_by_the_books(booked)


def test_calls_that_are_left_while_they_write_unseen_pass_no_cap(product: Product, booked: BookedUpstream) -> None:
    make.budget("0.01", soft_cap=None)
    key = product.key()
    booked.usual = Answer(tokens=2_000, pace=1_000, whole_from=0, text_field="tool_calls")
    for _ in range(3):
        clients = [open_stream(product, key, max_tokens=2_000) for _ in range(5)]
        time.sleep(1.0)
        for client in clients:
            client.close()
        assert eventually(nothing_is_held)
    assert booked.idle()
    assert 0 < booked.books.spent_nanos <= limits("0.01")
    assert ledger_nanos() >= booked.books.spent_nanos


def test_several_answers_of_which_one_is_not_sent_are_paid_for(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    def part(tokens: int) -> bytes:
        choice = {"index": 0, "delta": {"content": "1" * tokens}, "finish_reason": None}
        return b"data: " + json.dumps({"model": "mistral-small-2603", "choices": [choice]}).encode() + b"\n\n"

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    steps = [step for _ in range(100) for step in (part(5), 0.05)]
    booked.next(Answer(script=[head, *steps], tokens=400))
    client = open_stream(product, key, n=2, max_tokens=500)
    client.recv(100)
    time.sleep(1.0)
    client.close()
    assert eventually(lambda: SpendEntry.objects.exists())
    assert holds_by_the_books(booked)


def test_an_answer_is_read_to_its_end_for_a_client_that_left_where_that_is_wished(
    product: Product, booked: BookedUpstream, key: str, settings: Any
) -> None:
    settings.READ_CANCELLED_ANSWERS = True
    booked.next(Answer(tokens=600, pace=1_500, token_bytes=4))
    client = open_stream(product, key, max_tokens=4_000)
    client.recv(1_000)
    client.close()
    assert eventually(lambda: SpendEntry.objects.exists())
    row = SpendEntry.objects.get()
    assert (row.certainty, row.cost_nanos) == ("confirmed", booked.books.spent_nanos)
    assert row.output_tokens == 600


@pytest.mark.parametrize("repeats", ["meanwhile", "afterwards"])
def test_a_repeat_of_a_stream_that_is_read_out_for_nobody_gets_its_answer_and_pays_nothing(
    product: Product, booked: BookedUpstream, key: str, settings: Any, repeats: str
) -> None:
    settings.READ_CANCELLED_ANSWERS = True
    booked.next(Answer(tokens=600, pace=1_000, token_bytes=4))
    asked = {
        "url": f"{product.url}/v1/chat/completions",
        "headers": {"authorization": f"Bearer {key}", "idempotency-key": "k1"},
        "json": {"model": MODEL, "messages": MESSAGES, "stream": True, "max_tokens": 4_000},
    }
    with httpx.stream("POST", **asked) as first:
        next(first.iter_raw())
    if repeats == "afterwards":
        assert eventually(lambda: SpendEntry.objects.exists())
    again = httpx.post(**asked, timeout=30)
    assert (again.status_code, again.headers.get("x-idempotent-replay")) == (200, "true")
    assert again.text.endswith("data: [DONE]\n\n")
    assert len(booked.books.entries) == 1
    assert SpendEntry.objects.get().cost_nanos == booked.books.spent_nanos


@pytest.mark.parametrize("ends_by", ["a stop", "a shutdown", "a break"])
def test_what_is_cut_costs_its_hold_where_models_write_on_for_nobody(
    product: Product, booked: BookedUpstream, key: str, settings: Any, ends_by: str
) -> None:
    """Whoever has answers read out knows an API that bills what it writes after its stream was closed."""
    settings.READ_CANCELLED_ANSWERS = True
    cut_after = 300 if ends_by == "a break" else None
    booked.next(Answer(tokens=2_500, pace=1_000, keeps_going=True, ends_after_tokens=cut_after, ends_by="reset"))
    with open_stream(product, key, max_tokens=2_500):
        assert eventually(lambda: bool(booked.books.entries) and booked.books.entries[0].output_tokens > 200)
        if ends_by == "a stop":
            stops.stop(tenant=make.tenant(), reason="a loop", by=Actor("ada"), now=timezone.now())
        elif ends_by == "a shutdown":
            [hold] = gateway.holds.running.values()
            assert gateway.loop is not None
            gateway.loop.call_soon_threadsafe(hold._task.cancel)
        assert eventually(lambda: SpendEntry.objects.exists(), within_s=3)
    assert eventually(lambda: booked.books.entries[0].output_tokens == (cut_after or 2_500), within_s=5)
    assert holds_by_the_books(booked)
    assert SpendEntry.objects.get().cost_nanos == Reservation.objects.get().amount_nanos


def test_after_a_hundred_ordinary_answers_dense_text_passes_no_cap(product: Product, booked: BookedUpstream) -> None:
    budget = make.budget("1.00", soft_cap=None)
    key = product.key()
    booked.usual = Answer(tokens=20, token_bytes=4)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ask(product, key, stream=True), range(100)))
    before = booked.books.spent_nanos
    assert ledger_nanos() == before
    cap = nanos("0.003")
    product.post(f"/api/budgets/{budget.pk}/reset", product.key(role="operator"), reason="a new day")
    changed = product.key(role="operator")
    assert _patch(product, changed, budget, "0.003") == 200
    booked.usual = Answer(tokens=None, usage_at="end")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ask(product, key, stream=True, max_tokens=12_000), range(8)))
    spent = booked.books.spent_nanos - before
    assert 0 < spent <= cap
    assert ledger_nanos() - before >= spent


def _patch(product: Product, key: str, budget: Budget, limit: str) -> int:
    return httpx.patch(
        f"{product.url}/api/budgets/{budget.pk}",
        json={"limit": limit},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    ).status_code


@pytest.mark.parametrize("body", ["x" * 60_000, "7" * 60_000, "é" * 30_000], ids=["letters", "digits", "accents"])
def test_a_dense_prompt_is_held_for_at_a_token_a_byte(product: Product, booked: BookedUpstream, body: str) -> None:
    make.budget("0.0162", soft_cap=None)
    booked.usual = Answer(tokens=None, counts="bytes", usage="none")
    key = product.key()
    for _ in range(3):
        ask(product, key, stream=True, messages=[{"role": "user", "content": body}], max_tokens=12_000)
    spent = booked.books.spent_nanos
    assert 0 < spent <= nanos("0.0162")
    assert ledger_nanos() >= spent


@pytest.mark.parametrize(
    "twice",
    [
        b'"max_tokens":100000,"max_tokens":5',
        b'"n":100,"n":1,"max_tokens":5',
        b'"model":"mistral-medium-latest","model":"mistral-small-latest","max_tokens":5',
    ],
)
def test_of_two_equal_keys_none_is_left_to_choose(
    product: Product, booked: BookedUpstream, key: str, twice: bytes
) -> None:
    booked.usual = Answer(tokens=None)
    raw = b'{"model":"mistral-small-latest","messages":[{"role":"user","content":"Hi"}],' + twice + b"}"
    response = httpx.post(
        f"{product.url}/v1/chat/completions",
        content=raw,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    assert response.status_code == 200, response.text
    assert holds_by_the_books(booked)
    assert booked.books.entries[0].output_tokens == 5
    assert ledger_nanos() == booked.books.spent_nanos


@pytest.mark.parametrize("field", ["models", "plugins", "provider", "best_of", "max_output_tokens", "MAX_TOKENS", "N"])
def test_what_nobody_knows_is_sent_nowhere(product: Product, booked: BookedUpstream, key: str, field: str) -> None:
    status, said = ask(product, key, stream=False, **{field: 100_000})
    assert (status, json.loads(said)["code"], json.loads(said)["param"]) == (400, "unknown_field", field)
    assert booked.books.entries == []


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("status", [200, 201, 202, 206, 500, 502, 503, 504, 400, 404, 429])
@pytest.mark.parametrize("usage", ["honest", "none"])
def test_whatever_the_status_what_was_paid_for_is_charged(
    product: Product, booked: BookedUpstream, key: str, status: int, usage: str, stream: bool
) -> None:
    paid = status < 400 or status >= 500
    booked.usual = Answer(status=status, tokens=30, usage=usage, billed=paid or usage == "honest", framing="json")
    if not paid and usage == "none":
        booked.usual = Answer(status=status, billed=False, error={"message": "no"}, framing="json")
    ask(product, key, stream=stream)
    assert holds_by_the_books(booked)
    if usage == "honest":
        assert ledger_nanos() == booked.books.spent_nanos
    if not paid and usage == "none":
        assert ledger_nanos() == 0


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("error", "status", "is_charged"),
    [
        ({"message": "Rate limit reached", "type": "rate_limit_error", "code": 429}, 429, False),
        ({"message": "Overloaded", "type": "overloaded_error"}, 503, False),
        (
            {"message": "This model's maximum context length is 8192 tokens", "type": "invalid_request_error"},
            400,
            False,
        ),
        ({"message": "oops"}, 502, True),
        ({"message": "Internal", "code": 500}, 502, True),
    ],
)
def test_an_error_in_a_200_counts_as_what_it_says(
    product: Product,
    booked: BookedUpstream,
    key: str,
    error: dict[str, Any],
    status: int,
    is_charged: bool,
    stream: bool,
) -> None:
    booked.usual = Answer(tokens=0, error=error, error_after=0, billed=False)
    answered, _ = ask(product, key, stream=stream)
    assert answered == status
    assert nothing_is_held()
    # Another model is asked where it is the model that failed: each attempt has its own hold.
    holds = Reservation.objects.all()
    assert ledger_nanos() == (sum(hold.amount_nanos for hold in holds) if is_charged else 0)
    assert {hold.status for hold in holds} == {"settled" if is_charged else "released"}


def test_an_error_in_mid_stream_ends_it_cleanly_and_is_paid_for(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.next(Answer(tokens=100, error={"message": "oops"}, error_after=40))
    status, said = ask(product, key, stream=True)
    assert status == 200
    last = chunks_of(said)[-1]
    assert last["choices"][0]["finish_reason"] == "length"
    assert "error" not in last
    assert said.endswith("data: [DONE]\n\n")
    assert holds_by_the_books(booked)


@pytest.mark.parametrize("by", ["reset", "close"])
@pytest.mark.parametrize("after", [0, 1, 37, 199])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_connection_that_ends_anywhere_has_been_paid_for(
    product: Product, booked: BookedUpstream, key: str, after: int, by: str, stream: bool
) -> None:
    booked.usual = Answer(tokens=200, pace=4_000, ends_after_tokens=after, ends_by=by, usage="none")
    ask(product, key, stream=stream)
    assert holds_by_the_books(booked)


def test_a_stream_that_is_reset_is_charged_what_was_held(product: Product, booked: BookedUpstream, key: str) -> None:
    # A reset takes along what came and was not read yet, so what was read says nothing of what was written.
    booked.usual = Answer(tokens=200, pace=100, ends_after_tokens=20, ends_by="reset", usage="none")
    ask(product, key, stream=True)
    assert holds_by_the_books(booked)
    assert ledger_nanos() == Reservation.objects.get().amount_nanos


@pytest.mark.parametrize("after", [1, 60, 120, 400, 900])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_bytes_that_break_off_anywhere_have_been_paid_for(
    product: Product, booked: BookedUpstream, key: str, after: int, stream: bool
) -> None:
    booked.usual = Answer(tokens=100, ends_after_bytes=after)
    ask(product, key, stream=stream)
    assert holds_by_the_books(booked)


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"{}", b"null", b"Hello", b'"text"', b"[]"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_page_of_somebody_else_is_a_failure_and_costs_nothing(
    product: Product, booked: BookedUpstream, key: str, body: bytes, stream: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(body)
    booked.usual = Answer(script=[head + body], tokens=0, billed=False)
    status, said = ask(product, key, stream=stream)
    assert (status, json.loads(said)["code"]) == (502, "upstream_garbage")
    assert ledger_nanos() == 0
    assert nothing_is_held()


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"message": {"content": "12',
        b'{"id": "1", "usage": {"prompt_tokens": 1, "completion_tok',
        b'data: {"choices": [{"delta": {"content": "1"\n\n',
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_what_is_left_of_an_answer_may_have_cost_all_of_it(
    product: Product, booked: BookedUpstream, key: str, body: bytes, stream: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    booked.usual = Answer(script=[head + body], tokens=400)
    ask(product, key, stream=stream)
    assert holds_by_the_books(booked)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_count_beyond_what_a_model_can_is_charged_at_the_hold_and_told(
    product: Product, booked: BookedUpstream, key: str, stream: bool
) -> None:
    booked.next(Answer(tokens=10, usage="peta"))
    ask(product, key, stream=stream)
    row = SpendEntry.objects.get()
    assert (row.reason, row.certainty) == ("usage_implausible", "estimated")
    assert row.cost_nanos == Reservation.objects.get().amount_nanos
    assert eventually(lambda: Alert.objects.filter(kind="usage_implausible").exists())


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_an_answer_of_a_model_that_nobody_knows_is_charged_at_the_hold_and_told(
    product: Product, booked: BookedUpstream, key: str, stream: bool
) -> None:
    booked.next(Answer(tokens=10, model="mistral-huge-1"))
    ask(product, key, stream=stream)
    row = SpendEntry.objects.get()
    assert (row.reason, row.certainty) == ("model_unknown", "estimated")
    assert row.cost_nanos == Reservation.objects.get().amount_nanos
    assert eventually(lambda: Alert.objects.filter(kind="model_unknown").exists())


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("usage", ["honest", "none"])
def test_a_stream_ends_for_its_client_when_its_answer_has(
    product: Product, booked: BookedUpstream, key: str, finish: str, usage: str
) -> None:
    booked.next(Answer(tokens=5, finish=finish, usage=usage, done=False, stays_open=True, heartbeat_s=0.05))
    began = time.monotonic()
    status, said = ask(product, key, stream=True)
    assert time.monotonic() - began < 3
    assert (status, said.endswith("data: [DONE]\n\n")) == (200, True)
    assert chunks_of(said)[-1]["choices"][0]["finish_reason"] == finish
    assert holds_by_the_books(booked)


def test_a_stream_ends_at_done_although_the_connection_stays(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.next(Answer(tokens=5, stays_open=True))
    began = time.monotonic()
    _, said = ask(product, key, stream=True)
    assert time.monotonic() - began < 2
    assert said.endswith("data: [DONE]\n\n")
    assert ledger_nanos() == booked.books.spent_nanos


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thoughts", "refusal", "tool_calls"])
def test_whatever_the_field_what_is_written_counts(
    product: Product, booked: BookedUpstream, key: str, field: str
) -> None:
    booked.next(Answer(tokens=200, text_field=field, usage="none"))
    ask(product, key, stream=True)
    assert holds_by_the_books(booked)
    assert SpendEntry.objects.get().output_tokens >= 200


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": {"a": "b" * 50}}}]},
        {"tool_calls": [{"index": "x", "function": "odd"}]},
        {"tool_calls": "odd"},
        {"content": ["odd", {"type": "text", "text": None}]},
        {"content": 5},
        "odd",
        None,
    ],
)
def test_nothing_that_an_api_sends_breaks_us(product: Product, booked: BookedUpstream, key: str, delta: Any) -> None:
    chunk = {"id": "c", "model": "mistral-small-2603", "choices": [{"index": {}, "delta": delta}]}
    end = {"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    events = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in (chunk, end))
    booked.next(Answer(script=[head + events + b"data: [DONE]\n\n", "close"], tokens=9))
    status, said = ask(product, key, stream=True)
    assert (status, said.endswith("data: [DONE]\n\n")) == (200, True)
    assert ledger_nanos() == 3 * INPUT + 9 * OUTPUT


def test_a_connection_that_is_reset_may_have_brought_the_call_there_and_is_tried_once_more(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    assert ask(product, key, stream=False)[0] == 200
    booked.next(Answer(script=["reset"], tokens=5))
    assert ask(product, key, stream=False)[0] == 200
    assert len(booked.books.entries) == Reservation.objects.count() == 3
    assert [row.reason for row in SpendEntry.objects.order_by("id")] == ["", "upstream_disconnected", ""]
    assert holds_by_the_books(booked)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_connection_that_ends_idle_costs_nothing_and_is_replaced(
    product: Product, booked: BookedUpstream, key: str, how: str
) -> None:
    said = {"model": "mistral-small-2603", "choices": [{"index": 0, "message": {"content": "1"}}]}
    data = json.dumps(said | {"usage": {"prompt_tokens": 14, "completion_tokens": 1}}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
    booked.next(Answer(script=[head + data, 0.1, how], tokens=1))
    assert ask(product, key, stream=False)[0] == 200
    time.sleep(0.3)
    assert ask(product, key, stream=False)[0] == 200
    assert len(booked.books.entries) == SpendEntry.objects.count() == 2
    assert ledger_nanos() == booked.books.spent_nanos


def test_one_that_ends_in_good_order_may_have_brought_the_call_there_and_is_tried_once_more(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    assert ask(product, key, stream=False)[0] == 200
    booked.next(Answer(script=["close"], tokens=20))
    assert ask(product, key, stream=False)[0] == 200
    assert [entry.model for entry in booked.books.entries] == [MODEL] * 3
    assert [row.reason for row in SpendEntry.objects.order_by("id")] == ["", "upstream_disconnected", ""]
    assert holds_by_the_books(booked)


@pytest.mark.parametrize(
    "said",
    [[b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"], [b"garbage\r\n\r\n"], [b"HTTP/1", "close"], [b"HTTP/1", 0.02, "reset"]],
    ids=["header", "status", "cut", "reset"],
)
def test_one_that_ends_after_anything_came_had_brought_it_there_too(
    product: Product, booked: BookedUpstream, key: str, said: list[Any]
) -> None:
    assert ask(product, key, stream=False)[0] == 200
    booked.next(Answer(script=said, tokens=20))
    assert ask(product, key, stream=False)[0] == 200
    first, broken, stand_in = [entry.model for entry in booked.books.entries]
    assert first == broken == MODEL != stand_in
    assert holds_by_the_books(booked)


def test_one_that_ends_only_later_had_brought_the_call_there_and_is_not_tried_again(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    assert ask(product, key, stream=False)[0] == 200
    booked.next(Answer(script=[0.4, "close"], tokens=20))
    assert ask(product, key, stream=False)[0] == 200
    first, cut, stand_in = [entry.model for entry in booked.books.entries]
    assert first == cut == MODEL != stand_in
    assert [row.reason for row in SpendEntry.objects.order_by("id")] == ["", "upstream_disconnected", ""]
    assert holds_by_the_books(booked)


def test_one_that_ends_again_and_again_is_a_failure(product: Product, booked: BookedUpstream, key: str) -> None:
    assert ask(product, key, stream=False)[0] == 200
    booked.usual = Answer(script=["close"], tokens=20)
    assert ask(product, key, stream=False)[0] == 502
    assert holds_by_the_books(booked)


def test_a_client_that_leaves_before_the_answer_begins_takes_the_call_with_it(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.next(Answer(tokens=100, head_after_s=30))
    client = open_stream(product, key)
    assert eventually(lambda: bool(booked.books.entries))
    client.close()
    assert eventually(lambda: SpendEntry.objects.exists(), within_s=2)
    assert SpendEntry.objects.get().reason == "client_closed"
    assert holds_by_the_books(booked)


def test_a_new_connection_that_ends_at_once_is_no_idle_one(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.usual = Answer(script=["close"], tokens=50)
    assert ask(product, key, stream=False)[0] == 502
    assert holds_by_the_books(booked)
    # Once at each model that stands in.
    asked = [entry.model for entry in booked.books.entries]
    assert len(asked) == len(set(asked)) == Reservation.objects.count()


def test_a_model_that_nothing_holds_back_is_stopped(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(Answer(tokens=200_000, obeys_max_tokens=False, pace=100_000, event_tokens=500, usage="none"))
    ask(product, key, stream=True, max_tokens=10)
    assert SpendEntry.objects.get().reason == "upstream_overrun"
    assert booked.idle()
    assert booked.books.entries[0].output_tokens < 50_000


def test_what_windows_hold_is_never_passed_by_many_at_once(product: Product, booked: BookedUpstream) -> None:
    budget = make.budget("0.01", soft_cap=None)
    booked.usual = Answer(tokens=None, pace=20_000, event_tokens=50, usage_at="end")
    key = product.key()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: ask(product, key, stream=number % 2 == 0, max_tokens=1_500), range(48)))
    assert 0 < booked.books.spent_nanos <= nanos("0.01")
    window = BudgetWindow.objects.get(budget=budget)
    assert window.settled_nanos == booked.books.spent_nanos


def test_the_pool_knows_its_open_answers(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(Answer(tokens=5, stays_open=True), Answer(tokens=5, done=False, stays_open=True), Answer(tokens=5))
    for _ in range(3):
        ask(product, key, stream=True)
    assert eventually(lambda: not gateway.providers["mistral"].busy)
