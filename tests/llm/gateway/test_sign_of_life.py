"""A model that thinks for long: its client is told that it lives, and what comes then ends the stream it has."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Reservation, SpendEntry
from tests import factories as make
from tests.llm.gateway.test_against_books import holds_by_the_books, ledger_nanos
from tests.llm.gateway.test_chat import chunks_of, nothing_is_held, streaming
from tests.llm.gateway.test_odd_answers import plain
from tests.product import Product, eventually

MODEL = "mistral-small-latest"


@pytest.fixture
def key(product: Product, settings: Any) -> str:
    settings.SIGN_OF_LIFE_S = 0.3
    make.budget("10.00")
    return product.key()


def test_headers_and_a_comment_come_while_the_model_thinks(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(Answer(tokens=20, head_after_s=2.5))
    began = time.monotonic()
    with streaming(product, key, model=MODEL) as response:
        heads_after_s = time.monotonic() - began
        said = response.read().decode()
    assert heads_after_s < 2.0
    headers = response.headers
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["x-accel-buffering"], headers["x-model-served"]) == ("no", MODEL)
    assert 2 <= said.split("data:")[0].count(":\n\n") <= 8
    assert chunks_of(said)[-1]["usage"]["completion_tokens"] == 20
    assert said.endswith("data: [DONE]\n\n")
    assert holds_by_the_books(booked)
    assert ledger_nanos() == booked.books.spent_nanos


def test_a_pause_in_the_middle_is_bridged_too(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(Answer(tokens=3, pace=1.5))
    with streaming(product, key, model=MODEL) as response:
        said = response.read().decode()
    assert said.count(":\n\n") >= 3
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks_of(said)) == "074"
    assert ledger_nanos() == booked.books.spent_nanos


def test_a_quick_answer_has_no_comments_and_no_buffers(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(Answer(tokens=20))
    with streaming(product, key, model=MODEL) as response:
        said = response.read().decode()
    assert ":\n\n" not in said
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize(
    ("answer", "reason", "is_charged"),
    [
        (Answer(head_after_s=0.8, status=500, error={"message": "broken"}), "upstream_failed", True),
        (Answer(head_after_s=0.8, status=429, error={"message": "slow down"}), "upstream_rate_limit", False),
        (Answer(head_after_s=0.8, status=401, error={"message": "no such api key"}), "upstream_auth", False),
        (Answer(head_after_s=0.8, status=400, error={"message": "too long"}), "upstream_refused", False),
        (Answer(head_after_s=0.8, status=403, error={"message": "flagged"}), "upstream_refused", False),
        (Answer(head_after_s=0.8, error={"message": "overloaded"}, billed=False), "upstream_failed", False),
        (Answer(script=[0.8, "close"], tokens=0), "upstream_disconnected", True),
        (
            Answer(
                script=[0.8, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<html></html>", "close"],
                tokens=0,
                billed=False,
            ),
            "upstream_garbage",
            False,
        ),
    ],
)
def test_what_fails_after_the_first_sign_ends_the_stream_and_no_other_model_answers(
    product: Product, booked: BookedUpstream, key: str, answer: Answer, reason: str, is_charged: bool
) -> None:
    booked.next(answer)
    # A chain follows on this model.
    with streaming(product, key, model="mistral-large-latest", n=2) as response:
        assert response.status_code == 200
        said = response.read().decode()
    [last] = chunks_of(said)
    assert [choice["finish_reason"] for choice in last["choices"]] == ["length", "length"]
    assert last["governor"] == {"stopped": reason}
    assert said.endswith("data: [DONE]\n\n")
    assert len(booked.books.entries) == 1
    assert booked.idle()
    assert eventually(nothing_is_held)
    assert SpendEntry.objects.exists() is is_charged
    assert ledger_nanos() >= booked.books.spent_nanos
    if is_charged:
        assert ledger_nanos() == Reservation.objects.get().amount_nanos


def test_before_the_first_sign_another_model_answers(
    product: Product, booked: BookedUpstream, key: str, settings: Any
) -> None:
    settings.SIGN_OF_LIFE_S = 5
    booked.next(Answer(head_after_s=0.3, status=503, error={"message": "busy"}))
    with streaming(product, key, model="mistral-large-latest") as response:
        said = response.read().decode()
    assert response.headers["x-downgrade-reason"] == "fallback"
    assert len(booked.books.entries) == 2
    assert chunks_of(said)[-1]["choices"][0]["finish_reason"] == "stop"


def test_by_policy_silence_is_kept_so_that_another_model_can_answer(
    product: Product, booked: BookedUpstream, key: str, settings: Any
) -> None:
    settings.SIGN_OF_LIFE_S = 0
    booked.next(Answer(head_after_s=0.8, status=503, error={"message": "busy"}))
    with streaming(product, key, model="mistral-large-latest") as response:
        said = response.read().decode()
    assert response.headers["x-downgrade-reason"] == "fallback"
    assert not said.startswith(":")


def test_a_client_that_leaves_while_the_model_thinks_takes_its_call_with_it(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.next(Answer(tokens=20, head_after_s=5.0))
    with streaming(product, key, model=MODEL) as response:
        assert next(response.iter_raw()).startswith(b":")
    assert eventually(lambda: SpendEntry.objects.exists())
    assert SpendEntry.objects.get().reason == "client_closed"
    assert eventually(nothing_is_held)


def test_a_plain_call_waits_for_its_answer(product: Product, booked: BookedUpstream, key: str) -> None:
    booked.next(plain({"error": {"message": "busy"}}, 503), Answer(tokens=5, head_after_s=0.5))
    response = product.chat(key, model="mistral-large-latest")
    assert json.loads(response.text)["usage"]["completion_tokens"] == 5


def test_a_stream_that_was_ended_so_is_not_kept_for_a_repeat(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.next(Answer(head_after_s=0.8, status=429, error={"message": "slow down"}))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    headers = {"idempotency-key": "once"}
    said = [product.post("/v1/chat/completions", key, headers=headers, **body).text for _ in range(2)]
    assert "upstream_rate_limit" in said[0]
    assert "governor" not in said[1]
