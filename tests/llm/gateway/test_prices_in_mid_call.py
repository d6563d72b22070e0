"""A call costs what it was held for, whatever becomes of its model's price while it runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.utils import timezone

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.audit import Actor
from governance.ledger.operations import Reserve
from governance.models import Reservation, SpendEntry
from governance.upkeep import reconcile
from llm.catalogue import prices, repricing, snapshot
from llm.gateway.application import gateway
from llm.models import Model, ModelAlias, Price
from tests import factories as make
from tests.llm.gateway.test_against_books import ask
from tests.product import Product, eventually

OLGA = Actor("olga")


@pytest.fixture(autouse=True)
def fresh_catalogue() -> Iterator[None]:
    yield
    snapshot.forget()


def small() -> Model:
    return Model.objects.get(name="mistral-small-2603")


def retire() -> None:
    Model.objects.filter(pk=small().pk).update(status=Model.Status.RETIRED)


def make_ten_times_dearer() -> None:
    make_dearer(small())


def make_dearer(model: Model) -> None:
    price = Price(
        model=model, unit="output", picos_per_unit=6_000_000, effective_from=timezone.now(), source="announced"
    )
    prices.add(price=price, by=OLGA, now=timezone.now())


@pytest.mark.parametrize("act", [retire, make_ten_times_dearer])
@pytest.mark.parametrize("stream", [True, False])
def test_the_price_that_was_held_for_is_charged(
    product: Product, booked: BookedUpstream, act: Callable[[], None], stream: bool
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(tokens=600, pace=300))
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, product, key, stream=stream, max_tokens=4_000)
        assert eventually(lambda: bool(booked.books.entries) and booked.books.entries[0].output_tokens > 50)
        act()
        snapshot.forget()
        snapshot.current()
        assert asked.result()[0] == 200
    assert eventually(lambda: SpendEntry.objects.exists())
    row = SpendEntry.objects.get()
    assert (row.cost_nanos, row.certainty) == (booked.books.spent_nanos, "confirmed")
    assert row.cost_nanos < Reservation.objects.get().amount_nanos
    assert reconcile.check() == []
    # Nor does charging its calls again find anything.
    later = timezone.now() + timedelta(minutes=1)
    done = repricing.run(model=small(), starts_at=None, ends_at=later, reason="to see", by=OLGA, now=later)
    assert done.changed == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["mistral-small-2701", "mistral-large-2701"])
def test_an_alias_that_moves_in_mid_call_changes_no_price_of_it(
    product: Product, booked: BookedUpstream, name: str, stream: bool
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(tokens=600, pace=300, model="mistral-small-latest"))
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, product, key, stream=stream, max_tokens=4_000)
        assert eventually(lambda: bool(booked.books.entries) and booked.books.entries[0].output_tokens > 50)
        dearer = Model.objects.create(name=name, provider="mistral", owned_by="mistralai", kinds=["chat"])
        for unit, picos in (("input", 1_500_000), ("output", 6_000_000)):
            Price(model=dearer, unit=unit, picos_per_unit=picos).save()
        assert ModelAlias.objects.filter(name="mistral-small-latest").update(model=dearer)
        snapshot.forget()
        snapshot.current()
        assert asked.result()[0] == 200
    assert eventually(lambda: SpendEntry.objects.exists())
    row = SpendEntry.objects.get()
    assert (row.cost_nanos, row.certainty) == (booked.books.spent_nanos, "confirmed")
    assert row.price_rule.startswith("mistral/mistral-small-2603@")


def test_a_price_that_is_put_right_in_mid_call_counts_for_it(product: Product, booked: BookedUpstream) -> None:
    """It was wrong when the call began, too, and whoever charged calls again has not seen this one yet."""
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(tokens=600, pace=300))
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, product, key, stream=True, max_tokens=4_000)
        assert eventually(lambda: bool(booked.books.entries) and booked.books.entries[0].output_tokens > 50)
        wrong = Price.objects.get(model=small(), unit="output", superseded_by=None)
        prices.correct(
            price=wrong, picos_per_unit=1_200_000, source="bill", by=OLGA, now=timezone.now(), reason="read it"
        )
        snapshot.forget()
        snapshot.current()
        assert asked.result()[0] == 200
    assert eventually(lambda: SpendEntry.objects.exists())
    row = SpendEntry.objects.get()
    assert row.cost_nanos == row.input_tokens * 150 + 600 * 1_200
    assert row.price_rule.endswith("#2")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("says", [time.sleep, DatabaseError], ids=["hangs", "is gone"])
def test_a_call_settles_after_a_price_change_while_the_catalogue_cannot_be_read(
    product: Product,
    booked: BookedUpstream,
    monkeypatch: pytest.MonkeyPatch,
    says: Callable[[int], Exception | None],
    stream: bool,
) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(tokens=200, pace=200))
    tries: list[str] = []

    def read(*, now: datetime) -> snapshot.Catalogue:
        tries.append(threading.current_thread().name)
        if error := says(3):
            raise error
        raise DatabaseError

    def act() -> None:
        try:
            make_ten_times_dearer()
        finally:
            connection.close()

    monkeypatch.setattr(snapshot, "read", read)
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1, thread_name_prefix="acting") as acting:
        asked = thread.submit(ask, product, key, stream=stream, max_tokens=4_000)
        assert eventually(lambda: bool(booked.books.entries) and booked.books.entries[0].output_tokens > 50)
        acting.submit(act)
        assert asked.result(timeout=2.5)[0] == 200
    assert eventually(lambda: SpendEntry.objects.exists(), within_s=1)
    row = SpendEntry.objects.get()
    assert (row.cost_nanos, row.certainty) == (booked.books.spent_nanos, "confirmed")
    # Whoever acts waits for it, and the event loop does not.
    assert {"acting_0"} <= set(tries) <= {"acting_0", "catalogue"}


@pytest.mark.django_db
def test_calls_that_begin_wait_for_prices_that_are_over(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held at the old ones, a first burst would pass its cap."""
    make.budget("1.00")
    key, asked = product.key(), {"model": "mistral-small-latest", "max_tokens": 5}
    read = snapshot.read
    assert product.chat(key, **asked).status_code == 200
    [before] = SpendEntry.objects.values_list("cost_nanos", flat=True)

    def slowly(*, now: datetime) -> snapshot.Catalogue:
        time.sleep(0.5)
        return read(now=now)

    monkeypatch.setattr(snapshot, "read", slowly)
    make_ten_times_dearer()
    snapshot.forget()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: product.chat(key, **asked).status_code, range(4)))

    assert answers == [200] * 4
    costs = SpendEntry.objects.order_by("recorded_at").values_list("cost_nanos", flat=True)
    assert all(cost > 5 * before for cost in costs[1:])


def test_what_a_call_falls_back_to_is_held_at_the_prices_of_then(product: Product, booked: BookedUpstream) -> None:
    make.budget("1.00")
    key = product.key()
    booked.next(Answer(head_after_s=1.0, status=503, error={"message": "overloaded"}))
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(product.chat, key, model="mistral-large-latest", max_tokens=1_000)
        assert eventually(lambda: Reservation.objects.filter(status="pending").exists())
        make_ten_times_dearer()
        answer = asked.result()

    assert (answer.status_code, answer.headers["x-model-served"]) == (200, "mistral-small-latest")
    held = Reservation.objects.order_by("reserved_at").last()
    assert held is not None
    # At the old price its answer could have cost six ten-thousandths of a dollar.
    assert held.amount_nanos > 1_000 * 6_000


@pytest.mark.django_db
def test_the_next_call_has_the_price_that_an_act_before_it_made(product: Product) -> None:
    make.budget("1.00")
    key, operator = product.key(), product.key(role="operator")
    assert product.chat(key, model="mistral-small-latest", max_tokens=5).status_code == 200
    asked = {"model": "mistral-small-latest", "unit": "output", "usd_per_million": "60", "source": "bill"}
    assert product.post("/api/prices", operator, **asked).status_code == 201
    assert product.chat(key, model="mistral-small-latest", max_tokens=5).status_code == 200

    before, after = (row.cost_nanos for row in SpendEntry.objects.order_by("recorded_at"))
    assert after > 10 * before


@pytest.mark.django_db
def test_a_report_and_a_settlement_cost_what_they_did_when_they_were_made(product: Product) -> None:
    make.budget("1.00")
    key, before = product.key(), timezone.now()
    held = product.post(
        "/api/reservations", key, model="mistral-small-latest", input_tokens=100, max_tokens=1_000
    ).json()
    make_ten_times_dearer()
    snapshot.forget()
    usage = {"provider": "mistral", "model": "mistral-small-2603", "input_tokens": 0, "output_tokens": 1_000}
    settled = product.post(f"/api/reservations/{held['id']}/settle", key, **usage)
    late = product.post("/api/spend", key, request_id="a", occurred_at=before.isoformat(), **usage)
    new = product.post("/api/spend", key, request_id="b", **usage)
    assert [each.status_code for each in (settled, late, new)] == [200, 201, 201], (settled.text, late.text)
    assert [row.cost_nanos for row in SpendEntry.objects.order_by("id")] == [600_000, 600_000, 6_000_000]


@pytest.mark.django_db
@pytest.mark.parametrize("change", ["dearer", "retired", "of another model"])
def test_a_call_that_waits_for_its_hold_is_held_at_the_price_of_when_it_has_it(
    product: Product, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Somebody else has its window for seconds; what is sent after a price was changed costs that price."""
    make.budget("1.00")
    key, commits, waited = product.key(), gateway.commits, list[str]()
    submit = commits.submit

    async def after_a_change(operation: Any, **more: Any) -> Any:
        decision = await submit(operation, **more)
        if not waited and isinstance(operation, Reserve):
            waited.append(change)
            await asyncio.to_thread(change_price)
        return decision

    def change_price() -> None:
        other = Model.objects.get(name="mistral-large-2512")
        act = {"dearer": make_ten_times_dearer, "retired": retire}.get(change, lambda: make_dearer(other))
        act()
        snapshot.forget()
        connection.close()

    monkeypatch.setattr(commits, "submit", after_a_change)
    answer = product.chat(key, model="mistral-small-2603", max_tokens=1_000)

    assert eventually(lambda: not Reservation.objects.filter(status="pending").exists())
    held = list(Reservation.objects.order_by("reserved_at").values_list("status", "amount_nanos"))
    if change == "dearer":
        assert answer.status_code == 200
        assert [status for status, _ in held] == ["released", "settled"]
        assert held[1][1] > 9 * held[0][1]
        assert SpendEntry.objects.get().cost_nanos > 1_000
    elif change == "retired":
        assert answer.status_code == 400, answer.text
        assert [status for status, _ in held] == ["released"]
    else:
        assert [status for status, _ in held] == ["settled"]
