"""A table that is locked for long holds up what needs it, and neither stops nor calls of keys that nobody knows yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest
from django.db import connection, transaction

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.ledger import sql_dialect
from governance.ledger.sql_dialect import Deadlines
from governance.upkeep import reconcile
from llm.catalogue import snapshot
from llm.gateway import process
from llm.gateway.application import gateway
from llm.providers import registry
from tests import factories as make
from tests.llm.gateway.test_against_books import ask
from tests.product import Product, eventually

# A stop is seen within a second, and the rest of what is upstream read then.
SOON_S = 1.5


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sql_dialect, "BRIEF", Deadlines(lock="500ms", statement="500ms", idle="10s", transaction="2s"))
    monkeypatch.setattr(registry, "RENEW_PERIOD_S", 0.2)
    yield
    snapshot.forget()


@contextmanager
def locked(table: str) -> Iterator[None]:
    """As ALTER TABLE or VACUUM FULL has it, or a transaction that somebody left open."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def slow_reads() -> Iterator[None]:
    """Reads of others, as many as there are threads for them."""
    done, loop = Event(), gateway.loop
    assert loop is not None
    try:
        for _ in range(2 * process.READERS):
            asyncio.run_coroutine_threadsafe(gateway.read(lambda: done.wait(20)), loop)
        yield
    finally:
        done.set()


@contextmanager
def stopping(product: Product, booked: BookedUpstream, key: str) -> Iterator[Callable[[], float]]:
    """A stream of half a minute, and an act that stops it: the seconds until it has ended."""
    operator = product.key(role="operator")
    booked.next(Answer(tokens=3_000, pace=100))
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, product, key, stream=True, max_tokens=4_000)
        assert eventually(lambda: bool(booked.books.entries) and booked.books.entries[0].output_tokens > 5)

        def stop() -> float:
            since = time.monotonic()
            assert product.post("/api/stops", operator, tenant="acme", reason="runs wild").status_code == 201
            asked.result()
            return time.monotonic() - since

        yield stop


@pytest.mark.postgres_only
@pytest.mark.parametrize("table", ["llm_price", "llm_model", "llm_providerendpoint"])
def test_a_stop_holds_while_a_table_of_the_catalogue_is_locked(
    product: Product, booked: BookedUpstream, table: str
) -> None:
    make.budget("10.00")
    key, unknown = product.key(), product.key(of=make.tenant("other"), agent="reports")
    with stopping(product, booked, key) as stop, locked(table):
        for _ in range(process.READERS + 1):
            snapshot.forget()
            began = time.monotonic()
            # The price of before goes on, as while the database is away.
            assert product.chat(key, max_tokens=2).status_code == 200
            assert time.monotonic() - began < 3
        began = time.monotonic()
        assert product.get("/v1/budget", unknown).status_code == 200
        assert time.monotonic() - began < 1
        assert stop() < SOON_S
    assert reconcile.check() == []


def test_a_stop_holds_while_others_read_much(product: Product, booked: BookedUpstream) -> None:
    make.budget("10.00")
    with stopping(product, booked, product.key()) as stop, slow_reads():
        assert stop() < SOON_S


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_who_waited_while_the_catalogue_could_not_be_read_does_not_try_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = snapshot.fresh()
    snapshot.forget()
    with locked("llm_price"), ThreadPoolExecutor(4) as threads:

        def reads() -> bool:
            try:
                return snapshot.fresh() is old
            finally:
                connection.close()

        since = time.monotonic()
        assert all(each.result() for each in [threads.submit(reads) for _ in range(4)])
        assert time.monotonic() - since < 1.5
    assert snapshot.fresh() is not old
