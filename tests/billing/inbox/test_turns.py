"""Several workers on the events of one customer: what waits is read once, and what comes meanwhile once more."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from billing.accounts import sync
from billing.inbox import envelope, handlers, store
from billing.models import BillingAccount, StripeEvent
from billing.stripe_api import client
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import START, Shop

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_S = 20


class Readings:
    """Readings of Stripe, each of which takes until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.begun, self.go_on = 0, threading.Semaphore(0), threading.Semaphore(0)
        self.read = sync.read_as
        monkeypatch.setattr(sync, "read_as", self)

    def __call__(self, customer_id: str, number: int, *, now: datetime) -> sync.Reading:
        self.count += 1
        found = self.read(customer_id, number, now=now)
        self.begun.release()
        assert self.go_on.acquire(timeout=WAIT_S)
        return found


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    return Readings(monkeypatch)


@pytest.fixture
def workers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def events(shop: Shop) -> list[dict[str, Any]]:
    """What Stripe tells of a customer that subscribes."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    found = [one for one in shop.account.events if one["type"] in handlers.EVENT_TYPES]
    return [one for one in found if one["data"]["object"].get("customer") == customer]


def came(*events: dict[str, Any]) -> None:
    for event in events:
        store.store(envelope.parse(json.dumps(event)), now=START)


def work(event: dict[str, Any], now: datetime = START) -> bool:
    try:
        return store.process(event["id"], now=now)
    finally:
        connection.close()


def test_what_waits_is_read_once_whoever_comes_to_it(
    events: list[dict[str, Any]], readings: Readings, workers: ThreadPoolExecutor
) -> None:
    assert len(events) >= 4
    came(*events)
    first = workers.submit(work, events[0])
    assert readings.begun.acquire(timeout=WAIT_S)
    # They leave theirs to the one that reads.
    assert [workers.submit(work, event).result(WAIT_S) for event in events[1:]] == [False] * (len(events) - 1)
    readings.go_on.release()
    assert first.result(WAIT_S)
    assert (readings.count, StripeEvent.objects.waiting().count()) == (1, 0)
    assert window_of().limit_nanos == factories.nanos("50")


def test_what_comes_while_one_reads_is_read_by_the_next(
    events: list[dict[str, Any]], readings: Readings, workers: ThreadPoolExecutor, shop: Shop
) -> None:
    came(events[0])
    first = workers.submit(work, events[0])
    assert readings.begun.acquire(timeout=WAIT_S)
    shop.post(f"subscriptions/{shop.all('subscriptions')[0]['id']}", metadata={"news": "yes"})
    came(*events[1:])
    assert not workers.submit(work, events[1]).result(WAIT_S)
    readings.go_on.release(2)
    assert first.result(WAIT_S)
    assert (readings.count, StripeEvent.objects.waiting().count()) == (2, 0)
    assert BillingAccount.objects.get().subscriptions.get().data["metadata"] == {"news": "yes"}


def test_of_a_worker_that_died_the_turn_is_over_after_a_minute(
    events: list[dict[str, Any]], readings: Readings
) -> None:
    readings.go_on.release(2)
    came(events[0])
    BillingAccount.objects.create(
        stripe_customer_id=events[0]["data"]["object"]["customer"], turn_until=START + sync.TURN
    )
    assert not store.process(events[0]["id"], now=START)
    assert store.sweep(now=START + sync.TURN - timedelta(seconds=1)) == 0
    assert store.sweep(now=START + sync.TURN) == 1
    assert BillingAccount.objects.get().turn_until is None


def test_a_failure_ends_the_turn_and_leaves_the_others_as_they_were(
    events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fail(customer_id: str) -> client.CustomerSnapshot:
        asked.append(customer_id)
        raise client.StripeUnavailable("no answer")

    monkeypatch.setattr(client, "customer_snapshot", fail)
    came(*events)
    assert not store.process(events[0]["id"], now=START)
    assert len(asked) == 1
    assert sorted(StripeEvent.objects.values_list("attempts", flat=True)) == [0] * (len(events) - 1) + [1]
    assert BillingAccount.objects.get().turn_until is None


def test_a_reading_that_began_before_the_one_that_is_written_changes_nothing(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    early = sync.read(customer, now=START)
    shop.delete(f"subscriptions/{sub}")
    late = sync.read(customer, now=START)
    for reading in (late, early):
        with transaction.atomic():
            assert sync.write(customer, reading, now=START).state == "closed"
    assert BillingAccount.objects.get().subscriptions.get().status == "canceled"
