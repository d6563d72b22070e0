"""Streams whose parts come faster than anybody looks for their end: they are stopped all the same, and paid for."""

from __future__ import annotations

import json
import socket
import time

import pytest
from django.utils import timezone

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.actions import stops
from governance.audit import Actor
from governance.models import SpendEntry
from llm.gateway.application import gateway
from llm.gateway.streaming import ENDED_S
from tests import factories as make
from tests.llm.gateway.test_against_books import INPUT, OUTPUT, ask, holds_by_the_books, ledger_nanos, open_stream
from tests.product import Product, eventually

TOKENS = 60_000
# Events a second, of a token each.
PACES = [300, 600, 1_000, 4_000, None]
# What a second and a half of them bring, on a machine that is busy with others.
SOON_S = 6


@pytest.fixture
def key(product: Product) -> str:
    make.budget("1.00")
    return product.key()


def begun(product: Product, booked: BookedUpstream, key: str, pace: float) -> socket.socket:
    booked.next(Answer(tokens=TOKENS, pace=pace, usage="none"))
    client = open_stream(product, key, window=65_536, max_tokens=TOKENS)
    client.settimeout(10)
    came = 0
    while came < 4_000:
        came += len(client.recv(4_096))
    return client


@pytest.mark.parametrize("pace", PACES[:-1])
def test_one_whose_client_leaves_is_closed(product: Product, booked: BookedUpstream, key: str, pace: float) -> None:
    client = begun(product, booked, key, pace)
    client.close()
    assert eventually(lambda: SpendEntry.objects.exists(), within_s=SOON_S)
    entry = SpendEntry.objects.get()
    assert (entry.reason, entry.certainty) == ("client_closed", "estimated")
    assert holds_by_the_books(booked)
    assert booked.books.entries[0].output_tokens < TOKENS / 2


@pytest.mark.parametrize("pace", PACES[:-1])
def test_one_that_an_operator_stops_is_closed(product: Product, booked: BookedUpstream, key: str, pace: float) -> None:
    with begun(product, booked, key, pace) as client:
        stops.stop(tenant=make.tenant(), reason="a loop", by=Actor("ada"), now=timezone.now())
        began = time.monotonic()
        while client.recv(65_536):
            assert time.monotonic() - began < SOON_S
        assert eventually(lambda: SpendEntry.objects.exists(), within_s=SOON_S)
    assert SpendEntry.objects.get().reason == "emergency_stop"
    assert holds_by_the_books(booked)
    assert booked.books.entries[0].output_tokens < TOKENS / 2


@pytest.mark.parametrize("pace", PACES)
def test_one_that_writes_more_than_was_asked_for_is_closed(
    product: Product, booked: BookedUpstream, key: str, pace: float | None
) -> None:
    booked.next(Answer(tokens=TOKENS, pace=pace, obeys_max_tokens=False, usage="none"))
    _, said = ask(product, key, stream=True, max_tokens=10)
    assert booked.idle()
    assert SpendEntry.objects.get().reason in ("upstream_overrun", "usage_missing")
    # It is seen after 256 bytes a token. Then what it wrote in a second or two; a burst is over before anybody ends it.
    assert booked.books.entries[0].output_tokens < (10 * 256 + 6 * pace if pace else TOKENS + 1)
    # Charged is what came: of what was on its way when it was ended nobody knows.
    assert ledger_nanos() >= (said.count("data: {") - 3) * OUTPUT > 2_000 * OUTPUT


def test_a_usage_that_came_while_this_process_was_stopped_is_the_calls(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    def event(**more: object) -> bytes:
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mistral-small-2603"} | more
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def choice(finish: str | None) -> dict[str, object]:
        return {"index": 0, "delta": {"content": "" if finish else "Hello there"}, "finish_reason": finish}

    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    said = head + event(choices=[choice(None)]) + event(choices=[choice("stop")])
    booked.next(Answer(script=[said, 1.0, event(choices=[], usage=usage) + b"data: [DONE]\n\n", 5.0], tokens=3))
    with open_stream(product, key, window=65_536) as client:
        client.settimeout(20)
        came = client.recv(4_096)
        while b'"stop"' not in came:
            came += client.recv(4_096)
        # For longer than a stream has after its end, as where the machine is frozen.
        assert gateway.loop is not None
        gateway.loop.call_soon_threadsafe(time.sleep, ENDED_S + 1)
        assert eventually(lambda: SpendEntry.objects.exists(), within_s=20)
    entry = SpendEntry.objects.get()
    assert (entry.certainty, entry.cost_nanos) == ("confirmed", 10 * INPUT + 3 * OUTPUT)
