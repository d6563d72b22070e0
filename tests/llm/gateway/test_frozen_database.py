"""A ledger that does not answer: callers are told so in time, and nobody pays for a call that nobody waits for."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.ledger import book
from governance.models import Reservation, SpendEntry
from llm.gateway.readers import Readers
from tests import factories as make
from tests.llm.gateway.test_against_books import open_stream
from tests.llm.gateway.test_chat import nothing_is_held
from tests.product import Product, eventually


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Every batch of the ledger waits until it is set."""
    thawed = threading.Event()
    run = book._run

    def waiting(*args: Any, **kwargs: Any) -> Any:
        thawed.wait(20)
        return run(*args, **kwargs)

    monkeypatch.setattr(book, "_run", waiting)
    return thawed


def test_a_call_whose_client_went_meanwhile_is_sent_nowhere(
    product: Product, booked: BookedUpstream, frozen: threading.Event
) -> None:
    make.budget("1.00")
    client = open_stream(product, product.key())
    time.sleep(0.8)
    client.close()
    time.sleep(0.2)
    frozen.set()
    assert eventually(lambda: Reservation.objects.filter(status="released").exists())
    assert nothing_is_held()
    assert booked.books.entries == []
    assert not SpendEntry.objects.exists()


def test_one_that_still_waits_is_answered(product: Product, booked: BookedUpstream, frozen: threading.Event) -> None:
    make.budget("1.00")
    booked.next(Answer(tokens=3))
    client = open_stream(product, product.key())
    time.sleep(0.8)
    frozen.set()
    client.settimeout(10)
    said = b""
    while b"[DONE]" not in said:
        said += client.recv(4_096)
    client.close()
    assert SpendEntry.objects.get().cost_nanos == booked.books.spent_nanos


def test_reads_that_hang_are_a_503_in_time(
    product: Product, booked: BookedUpstream, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LEDGER_DEADLINE_S = 1
    thawed = threading.Event()
    tidily = Readers._tidily
    monkeypatch.setattr(Readers, "_tidily", lambda self, work: (thawed.wait(10), tidily(self, work))[1])
    began = time.monotonic()
    response = product.chat("sg_unknown_" + "x" * 20)
    assert time.monotonic() - began < 3
    assert (response.status_code, response.json()["code"]) == (503, "ledger_unavailable")
    assert response.headers["retry-after"] == "1"
    thawed.set()
    assert eventually(lambda: product.chat("sg_unknown_" + "y" * 20).status_code == 401)
