"""Endings that the simulated Mistral does not know: an upstream that says, byte for byte, what a test wants."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest
from django.db import connection

from governance import ledger
from governance.ledger.operations import Reserve, Settle
from governance.models import Reservation, SpendEntry
from llm.gateway.application import gateway
from tests import factories as make
from tests.concurrency.processes import let_go_of_connections
from tests.factories import nanos
from tests.llm.gateway.test_chat import chunks_of, entry, nothing_is_held, streaming
from tests.product import Product, eventually

MESSAGES = [{"role": "user", "content": "Hi"}]
Upstream = Callable[[bytes], None]


@pytest.fixture
def upstream(product: Product) -> Iterator[Upstream]:
    """Makes the model's API answer each request with these bytes, and close the connection."""
    answer = [b""]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                received = b""
                while b'"messages"' not in received:
                    received += client.recv(65536)
                client.sendall(answer[0])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    gateway.providers["mistral"].connection.base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield lambda data: answer.__setitem__(0, data)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def head(status: int = 200, **headers: Any) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Said", "connection: close", *lines, "", ""]).encode()


def chunk(text: str = "", *, prompt: int = 0, completion: int = 0, finish: str | None = None) -> bytes:
    data: dict[str, Any] = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "mistral-large-2512",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
    }
    if prompt:
        data["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def stream_of(*events: bytes) -> bytes:
    return head(content_type="text/event-stream") + b"".join(events)


DONE = b"data: [DONE]\n\n"


@pytest.fixture
def key(product: Product) -> str:
    make.budget("1.00")
    return product.key()


def read_stream(product: Product, key: str) -> list[dict[str, Any]]:
    with streaming(product, key) as response:
        return chunks_of(response.read().decode())


def test_usage_that_grows_from_chunk_to_chunk_is_charged_at_its_last_count(
    product: Product, upstream: Upstream, key: str
) -> None:
    upstream(
        stream_of(
            chunk("a", prompt=10, completion=1),
            chunk("b", prompt=10, completion=2),
            chunk("c", prompt=10, completion=50, finish="stop"),
            DONE,
        )
    )
    chunks = read_stream(product, key)
    # mistral-large: 500 nanodollars an input token, 1500 an output token.
    assert entry().cost_nanos == 10 * 500 + 50 * 1500
    assert entry().certainty == "confirmed"
    assert [c["choices"][0]["delta"]["content"] for c in chunks] == ["a", "b", "c"]
    assert [nanos(c["usage"]["cost_usd"]) for c in chunks if "cost_usd" in c["usage"]] == [entry().cost_nanos]


def test_a_stream_that_ends_without_done_keeps_its_usage_as_the_last_word(
    product: Product, upstream: Upstream, key: str
) -> None:
    upstream(stream_of(chunk("a"), b": keep-alive\n\n", chunk("b", prompt=10, completion=2, finish="stop")))
    chunks = read_stream(product, key)
    assert chunks[-1]["usage"]["completion_tokens"] == 2
    assert nanos(chunks[-1]["usage"]["cost_usd"]) == entry().cost_nanos == 10 * 500 + 2 * 1500
    assert entry().certainty == "confirmed"


def test_a_last_event_without_its_empty_line_counts(product: Product, upstream: Upstream, key: str) -> None:
    upstream(stream_of(chunk("a"), chunk("b", prompt=10, completion=2, finish="stop").rstrip()))
    chunks = read_stream(product, key)
    assert entry().certainty == "confirmed"
    assert chunks[-1]["usage"]["completion_tokens"] == 2


def test_a_stream_cut_after_a_running_count_is_charged_for_what_was_seen(
    product: Product, upstream: Upstream, key: str
) -> None:
    broken = head(content_type="text/event-stream", transfer_encoding="chunked")
    said = chunk("a", prompt=10, completion=1) + chunk("b" * 100)
    upstream(broken + f"{len(said):x}\r\n".encode() + said + b"\r\n")
    chunks = read_stream(product, key)
    assert chunks[-1]["governor"]["stopped"] == "upstream_cut"
    assert entry().certainty == "estimated"
    assert entry().cost_nanos >= 101 * 1500


@pytest.mark.parametrize("status", [429, 404])
def test_a_refusal_whose_body_breaks_off_costs_nothing(
    product: Product, upstream: Upstream, key: str, status: int
) -> None:
    upstream(head(status, content_length=100) + b"{")
    response = product.chat(key)
    assert response.status_code >= 429
    assert {row.status for row in Reservation.objects.all()} == {"released"}
    assert not SpendEntry.objects.exists()


@pytest.mark.parametrize(("given", "passed_on"), [("7", "7"), ("86400", "60"), ("tomorrow", "2"), ("0.2", "1")])
def test_a_client_is_never_told_to_wait_for_long(
    product: Product, upstream: Upstream, key: str, given: str, passed_on: str
) -> None:
    upstream(head(429, retry_after=given, content_length=2) + b"{}")
    assert product.chat(key).headers.get("retry-after") == passed_on


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize(
    ("asked", "wait_s"),
    [
        ("a date", 20),
        ({"retry_after_ms": 900}, 1),
        ({"x_ratelimit_reset_tokens": "12s", "x_ratelimit_remaining_tokens": 0}, 12),
        ({}, 2),
        ({"retry_after": "7"}, 7),
    ],
)
def test_who_opens_a_cool_down_is_told_how_long_it_lasts(
    product: Product, upstream: Upstream, key: str, asked: dict[str, Any] | str, wait_s: int, stated: bool
) -> None:
    """As whoever meets it next: a client that is told less spends its retries in it."""
    fields = {"retry_after": formatdate(time.time() + 20, usegmt=True)} if isinstance(asked, str) else asked
    said = b'{"error":{"message":"Slow down.","code":429}}'
    fields |= {"content_type": "application/json", "content_length": len(said)}
    upstream(head(200 if stated else 429, **fields) + said)
    for _ in range(2):
        response = product.chat(key)
        assert (response.status_code, response.json()["code"]) == (429, "upstream_rate_limit")
        assert wait_s - 2 < int(response.headers["retry-after"]) <= wait_s


@pytest.mark.parametrize(("asked", "wait_s"), [("a date", 20), ({"retry_after_ms": 900}, 1), ({}, None)])
def test_a_model_that_is_overloaded_says_when_to_come_back_in_any_form(
    product: Product, upstream: Upstream, key: str, asked: dict[str, Any] | str, wait_s: int | None
) -> None:
    fields = {"retry_after": formatdate(time.time() + 20, usegmt=True)} if isinstance(asked, str) else asked
    upstream(head(503, content_length=2, **fields) + b"{}")
    response = product.chat(key)
    assert (response.status_code, response.json()["code"]) == (503, "upstream_failed")
    told = response.headers.get("retry-after")
    assert told is None if wait_s is None else wait_s - 2 < int(told) <= wait_s


def test_a_request_larger_than_a_limit_a_minute_says_nothing_of_the_model(
    product: Product, upstream: Upstream, key: str
) -> None:
    said = b'{"error":{"message":"Request too large on tokens per min (TPM): Limit 200000, Requested 250000."}}'
    upstream(head(429, retry_after=300, content_length=len(said)) + said)
    response = product.chat(key)
    assert (response.status_code, response.json()["code"]) == (429, "upstream_rate_limit")
    assert "retry-after" not in response.headers
    assert gateway.breakers.snapshot(time.time()) == []


@pytest.mark.parametrize("name", ["a\x00b", "a\r\nx-injected: 1", "a\x7fb"])
@pytest.mark.parametrize("field", ["agent", "user", "session", "task"])
def test_a_name_with_control_characters_is_a_400(product: Product, field: str, name: str) -> None:
    make.budget("1.00", scope_type=field, scope_key="*")
    response = product.chat(product.key(role="tenant"), metadata={field: name})
    assert (response.status_code, response.json()["param"]) == (400, f"metadata.{field}")
    assert nothing_is_held()


def test_names_outside_latin_letters_are_fine(product: Product) -> None:
    make.budget("1.00", scope_type="session", scope_key="*")
    response = product.chat(product.key(), metadata={"session": "会议 é"})
    assert response.status_code == 200
    assert entry().session == "会议 é"


def test_a_key_of_absurd_length_is_a_401_and_not_remembered(product: Product) -> None:
    product.chat("sg_" + "x" * 5_000)
    assert not any(len(known) > 1_000 for known in gateway.identities._cached)


@pytest.mark.postgres_only
def test_after_the_database_was_away_unknown_keys_are_looked_up_again(product: Product) -> None:
    make.budget("1.00")
    assert product.chat(product.key()).status_code == 200
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
    statuses = [product.chat(product.key(agent=f"agent-{number}")).status_code for number in range(4)]
    # A pool whose connections have all ended is a while about it.
    let_go_of_connections()
    assert statuses[-1] == 200, statuses


def test_a_cut_stream_of_several_answers_is_charged_whole(product: Product, upstream: Upstream, key: str) -> None:
    upstream(stream_of(chunk("x" * 20)))
    with streaming(product, key, n=4) as response:
        response.read()
    # 20 bytes of one came; the other three may have been written and kept for their ends.
    assert entry().cost_nanos == Reservation.objects.get().amount_nanos


def test_a_stream_that_the_servers_end_interrupts_is_charged_for_what_came(product: Product) -> None:
    make.budget("1.00")
    product.sandbox.behave("pace=0.05|output=200")
    with streaming(product, product.key()) as response:
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
        loop = gateway._chores[0].get_loop()
        [call] = [task for task in asyncio.all_tasks(loop) if "RequestResponseCycle" in repr(task.get_coro())]
        loop.call_soon_threadsafe(call.cancel)
        # While it ends, the gateway is not closed under it.
        waits = asyncio.run_coroutine_threadsafe(gateway.holds.have_ended(within_s=20), loop)
        *_, last, done = filter(None, lines)
        waits.result(20)
        assert gateway.holds.running == {}
        assert (json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"], done) == (
            "length",
            "data: [DONE]",
        )
        assert eventually(lambda: SpendEntry.objects.exists(), within_s=2)
    assert (entry().certainty, entry().reason) == ("estimated", "interrupted")
    assert 0 < entry().cost_nanos < Reservation.objects.get().amount_nanos
    assert nothing_is_held()


@pytest.mark.parametrize("text", ["Hi", "a" * 300_000])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_whose_client_left_while_it_waited_for_its_hold_is_not_sent(
    product: Product, monkeypatch: pytest.MonkeyPatch, text: str, stream: bool
) -> None:
    make.budget("1.00")
    key = product.key()
    reserving, left = threading.Event(), threading.Event()
    submit = gateway.commits.submit

    async def slowly(operation: Any, **options: Any) -> Any:
        if isinstance(operation, Reserve):
            reserving.set()
            await asyncio.to_thread(left.wait, 10)
            # The end of a connection comes with what is read next.
            await asyncio.sleep(0.1)
        return await submit(operation, **options)

    monkeypatch.setattr(gateway.commits, "submit", slowly)
    messages = [{"role": "user", "content": text}]
    body = json.dumps({"model": "mistral-small-latest", "messages": messages, "max_tokens": 9, "stream": stream})
    with socket.create_connection(("127.0.0.1", int(product.url.rpartition(":")[2]))) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        assert reserving.wait(10)
    left.set()
    assert eventually(lambda: [row.status for row in Reservation.objects.all()] == ["released"])
    assert len(product.sandbox.requests) == 0
    assert nothing_is_held()


def test_an_answer_does_not_wait_long_for_its_settlement_which_lands_all_the_same(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.budget("1.00")
    key = product.key()
    may_land, apply = threading.Event(), ledger.apply

    def waiting(operations: Any, **options: Any) -> Any:
        if any(isinstance(operation, Settle) for operation in operations):
            may_land.wait(10)
        return apply(operations, **options)

    monkeypatch.setattr(ledger, "apply", waiting)
    monkeypatch.setattr("llm.gateway.holds.SETTLE_PATIENCE_S", 0.2)
    response = product.chat(key)
    assert (response.status_code, SpendEntry.objects.count()) == (200, 0)
    assert float(response.headers["x-request-cost-usd"]) > 0
    may_land.set()
    assert eventually(lambda: SpendEntry.objects.count() == 1)
    assert nothing_is_held()
