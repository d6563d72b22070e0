"""What operators do to calls under way: emergency stops and limits a minute, over real sockets."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.utils import timezone

from governance.actions import stops
from governance.audit import Actor
from governance.models import BudgetWindow, RateLimit, Reservation, SpendEntry
from tests import factories as make
from tests.llm.gateway.test_chat import chunks_of, entry, nothing_is_held, streaming
from tests.product import Product, eventually

ADA = Actor("ada")


def stop(**whom):
    return stops.stop(reason="it runs wild", by=ADA, now=timezone.now(), **whom)


@pytest.mark.parametrize("whom", ["agent", "tenant", "everything"])
def test_an_emergency_stop_cuts_a_running_stream_within_a_second(product: Product, whom: str) -> None:
    make.budget("1.00")
    key = product.key()
    product.sandbox.behave("pace=0.05|output=200")
    with streaming(product, key) as response:
        lines = response.iter_lines()
        for _ in range(4):
            next(lines)
        began = time.monotonic()
        stop(**{"agent": {"agent": make.agent()}, "tenant": {"tenant": make.tenant()}}.get(whom, {}))
        rest = "\n".join(lines)
        took_s = time.monotonic() - began
    assert took_s < 1
    last = chunks_of(rest)[-1]
    assert (last["choices"][0]["finish_reason"], last["governor"]["stopped"]) == ("length", "emergency_stop")
    assert (entry().certainty, entry().reason) == ("estimated", "emergency_stop")
    assert 0 < entry().cost_nanos <= Reservation.objects.get().amount_nanos
    assert eventually(lambda: product.sandbox.requests[-1].closed_early_at is not None, within_s=1)
    assert nothing_is_held()


def test_an_emergency_stop_ends_a_plain_call_that_waits_for_its_answer(product: Product) -> None:
    make.budget("1.00")
    key = product.key()
    product.sandbox.behave("latency=20")
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(product.chat, key)
        assert eventually(lambda: product.sandbox.requests)
        began = time.monotonic()
        stop(tenant=make.tenant())
        response = asked.result()
    assert time.monotonic() - began < 2
    assert (response.status_code, response.json()["code"]) == (403, "emergency_stop")
    assert entry().cost_nanos == Reservation.objects.get().amount_nanos
    assert nothing_is_held()


def test_a_stop_refuses_the_next_call_and_leaves_others_alone_until_it_is_lifted(product: Product) -> None:
    make.budget("1.00")
    invoices, churn = product.key(), product.key(agent="churn")
    made = stop(agent=make.agent())
    refused = product.chat(invoices)
    assert (refused.status_code, refused.json()["code"]) == (403, "emergency_stop")
    assert product.chat(churn).status_code == 200
    stops.lift(stop=made, by=ADA, now=timezone.now())
    assert product.chat(invoices).status_code == 200


def test_a_finished_call_is_not_charged_anew_by_a_stop(product: Product) -> None:
    make.budget("1.00")
    product.chat(product.key())
    stop()
    time.sleep(1)
    assert SpendEntry.objects.count() == 1
    assert BudgetWindow.objects.get().settled_nanos == entry().cost_nanos


def test_too_many_requests_a_minute_are_told_when_to_come_back(product: Product) -> None:
    make.budget("1.00")
    RateLimit.objects.create(tenant=make.tenant(), scope_type="tenant", scope_key="acme", requests_per_minute=2)
    key = product.key()
    assert [product.chat(key).status_code for _ in range(2)] == [200, 200]
    refused = product.chat(key)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limit_exceeded")
    assert refused.json()["type"] == "rate_limit_error"
    assert 0 < int(refused.headers["retry-after"]) < 60
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(product.sandbox.requests) == 2
