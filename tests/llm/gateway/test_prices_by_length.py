"""Calls of a model whose price rises with the prompt, beside the books of an API that charges so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Budget, BudgetWindow, Reservation, SpendEntry
from llm.catalogue import snapshot
from llm.models import Model, Price
from tests import factories as make
from tests.llm.gateway.test_against_books import ask, holds_by_the_books, ledger_nanos
from tests.llm.gateway.test_chat import nothing_is_held
from tests.product import Product, eventually

ABOVE = 500
# All of a longer call costs twice as much.
RATES = (300_000, 30_000, 1_200_000)


@pytest.fixture
def key(product: Product, booked: BookedUpstream) -> Iterator[str]:
    small = Model.objects.get(name="mistral-small-2603")
    for unit, picos in zip(("input", "cached_input", "output"), RATES, strict=True):
        Price(model=small, unit=unit, picos_per_unit=picos, above_input_tokens=ABOVE).save()
    snapshot.changed()
    booked.books.longer = {"mistral-small": (ABOVE, RATES)}
    make.budget("1.00")
    yield product.key()
    booked.books.longer = {}
    snapshot.forget()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("words", [20, 2_000], ids=["short", "long"])
def test_a_call_costs_what_calls_of_its_length_do_and_was_held_for(
    product: Product, booked: BookedUpstream, key: str, words: int, stream: bool
) -> None:
    booked.next(Answer(tokens=300))
    assert ask(product, key, stream=stream, messages=[{"role": "user", "content": "long " * words}])[0] == 200
    assert holds_by_the_books(booked)
    row = SpendEntry.objects.get()
    assert (row.cost_nanos, row.certainty) == (booked.books.spent_nanos, "confirmed")
    is_long = words == 2_000
    assert (row.input_tokens > ABOVE, row.price_rule.endswith(f">{ABOVE}")) == (is_long, is_long)


def test_a_cap_holds_by_the_books_of_long_calls(product: Product, booked: BookedUpstream, key: str) -> None:
    cap_nanos = 10_000_000
    for rows in (Budget.objects, BudgetWindow.objects):
        rows.update(limit_nanos=cap_nanos)
    statuses: list[int] = []
    while not statuses or (statuses[-1] == 200 and len(statuses) < 30):
        booked.next(Answer(tokens=500))
        messages = [{"role": "user", "content": "long " * 2_000}]
        statuses.append(ask(product, key, stream=False, messages=messages)[0])
    assert eventually(nothing_is_held)
    assert len(statuses) > 1
    assert statuses[-1] != 200
    assert booked.books.spent_nanos <= ledger_nanos() <= cap_nanos
    assert Reservation.objects.exists()


def test_a_call_that_its_providers_own_prompt_may_lengthen_is_held_for_at_the_price_of_longer_ones(
    product: Product, booked: BookedUpstream, key: str
) -> None:
    booked.next(Answer(tokens=0, usage={"prompt_tokens": ABOVE + 1, "completion_tokens": 0, "total_tokens": ABOVE + 1}))
    asked = {"messages": [{"role": "user", "content": "7" * (ABOVE - 100)}], "max_tokens": 1}
    assert ask(product, key, stream=False, **asked)[0] == 200
    assert eventually(nothing_is_held)
    assert Reservation.objects.get().amount_nanos > (ABOVE - 100) * RATES[0] // 1_000
    assert SpendEntry.objects.get().cost_nanos == (ABOVE + 1) * RATES[0] // 1_000
