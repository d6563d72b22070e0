"""A database that lacks its last commits: calls whose holds are gone from it end well, and cost what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Alert, BudgetWindow, Reservation, SpendEntry
from governance.upkeep import reconcile
from tests import factories as make
from tests.llm.gateway.test_against_books import ask
from tests.product import Product, eventually


def lose_holds() -> None:
    """As a standby has it that was behind when it took over."""
    assert Reservation.objects.filter(status="pending").delete()[0] == 1
    BudgetWindow.objects.update(reserved_nanos=0)


@contextmanager
def asked_meanwhile(
    product: Product, booked: BookedUpstream, key: str, answer: Answer, *, stream: bool
) -> Iterator[Callable[[], int]]:
    """A call under way at the model; its status once it has ended."""
    booked.next(answer)
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, product, key, stream=stream, max_tokens=4_000)
        assert eventually(lambda: bool(booked.books.entries))
        yield lambda: int(asked.result()[0])


@pytest.mark.parametrize("stream", [True, False])
def test_its_client_has_the_answer_and_it_is_charged_once(
    product: Product, booked: BookedUpstream, stream: bool
) -> None:
    make.budget("1.00")
    with asked_meanwhile(product, booked, product.key(), Answer(tokens=400, pace=300), stream=stream) as status:
        lose_holds()
        assert status() == 200
    assert eventually(lambda: SpendEntry.objects.exists())
    row = SpendEntry.objects.get()
    assert (row.cost_nanos, row.reason, row.agent) == (booked.books.spent_nanos, "hold_lost", "invoices")
    assert BudgetWindow.objects.get().settled_nanos == booked.books.spent_nanos
    alert = Alert.objects.get()
    assert (alert.kind, alert.severity, row.request_id in alert.message) == ("holds_lost", "critical", True)
    assert reconcile.check() == []


def test_a_refusal_is_told_and_costs_nothing(product: Product, booked: BookedUpstream) -> None:
    make.budget("1.00")
    said = b'{"object": "error", "message": "No such tool.", "type": "invalid_request_error"}'
    head = b"HTTP/1.1 422 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(said)
    refusal = Answer(script=[1.5, head + said], tokens=0)
    with asked_meanwhile(product, booked, product.key(), refusal, stream=False) as status:
        lose_holds()
        assert status() == 422
    assert not SpendEntry.objects.exists()
    assert not Alert.objects.exists()
