"""Streams whose holds begin at the usual answer and grow with it, over real sockets."""

from __future__ import annotations

import pytest

from governance.models import BudgetWindow, Reservation, SpendEntry
from llm.gateway.application import gateway
from llm.rules import token_ratios
from llm.state import recall
from tests import factories as make
from tests.factories import nanos
from tests.llm.gateway.test_chat import chunks_of, nothing_is_held, streaming
from tests.product import Product, eventually

MODEL = "mistral-large-2512"
# Nanodollars a token, of input and output.
INPUT, OUTPUT = 500, 1500


@pytest.fixture
def usual_answers(product: Product) -> None:
    """The model's answers have had 100 tokens of four bytes so far."""
    for _ in range(token_ratios.FEWEST_RATIOS):
        gateway.token_ratios.answered(model=MODEL, agent="invoices", output_tokens=100)
        gateway.token_ratios.wrote(model=MODEL, output_tokens=100, output_bytes=400)


def held_at_first(product: Product, key: str, **fields: object) -> int:
    with streaming(product, key, **fields) as response:
        response.read()
        return nanos(response.headers["x-reserved-usd"])


def test_a_stream_first_holds_for_the_usual_answer_not_for_the_longest(product: Product, usual_answers: None) -> None:
    make.budget("1.00")
    held = held_at_first(product, product.key(), max_tokens=4000)
    assert 100 * OUTPUT < held < 200 * OUTPUT
    assert product.sandbox.requests[-1].body["max_tokens"] == 4000


def test_until_something_is_known_a_stream_holds_for_all_that_it_may_write(product: Product) -> None:
    make.budget("1.00")
    assert held_at_first(product, product.key(), max_tokens=4000) > 4000 * OUTPUT


def test_the_hold_stays_ahead_of_a_longer_answer(product: Product, usual_answers: None) -> None:
    make.budget("1.00")
    product.sandbox.next("output=900|pace=0.002")
    with streaming(product, product.key(), max_tokens=4000) as response:
        chunks = chunks_of(response.read().decode())
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 900
    entry = SpendEntry.objects.get()
    assert (entry.certainty, entry.output_tokens, entry.overage_nanos) == ("confirmed", 900, 0)
    assert Reservation.objects.get().amount_nanos >= 900 * OUTPUT
    assert nothing_is_held()


def test_where_no_more_can_be_held_the_answer_ends_as_if_its_length_had_run_out(
    product: Product, usual_answers: None
) -> None:
    budget = make.budget("0.0006")
    product.sandbox.next("output=900|pace=0.005")
    with streaming(product, product.key(), max_tokens=4000) as response:
        chunks = chunks_of(response.read().decode())
    last = chunks[-1]
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["governor"] == {"stopped": "budget_exhausted"}
    window = BudgetWindow.objects.get(budget=budget)
    assert window.settled_nanos <= window.limit_nanos
    # Most of the money was of use, and the model was told to stop.
    assert window.settled_nanos > window.limit_nanos * 6 // 10
    assert SpendEntry.objects.get().reason == "budget_exhausted"
    sent = product.sandbox.requests[-1]
    assert eventually(lambda: sent.closed_early_at is not None)
    assert sent.chunks_sent * 4 * OUTPUT <= window.limit_nanos


def test_a_hold_grows_within_the_limits_of_every_budget(product: Product, usual_answers: None) -> None:
    make.budget("1.00")
    make.budget("0.0005", scope_type="agent", scope_key="invoices")
    product.sandbox.next("output=900|pace=0.005")
    with streaming(product, product.key(), max_tokens=4000) as response:
        chunks = chunks_of(response.read().decode())
    assert chunks[-1]["governor"] == {"stopped": "budget_exhausted"}
    assert all(window.settled_nanos <= window.limit_nanos for window in BudgetWindow.objects.all())


def test_a_process_that_starts_learns_from_what_was_settled(product: Product) -> None:
    make.budget("10.00")
    key = product.key()
    for _ in range(token_ratios.FEWEST_ANSWERS):
        held_at_first(product, key, max_tokens=50)
    recalled = recall.recalled()
    known = gateway.token_ratios.usual_answer(model=MODEL, agent="invoices")
    assert known is not None
    assert recalled.usual_answer(model=MODEL, agent="invoices") == known


def test_an_input_that_is_too_long_at_its_strict_bound_goes_at_its_likely_one(product: Product) -> None:
    make.budget("0.0005")
    content = "All work and no play makes Jack a dull boy. " * 24
    refused = product.chat(product.key(), messages=[{"role": "user", "content": content}], max_tokens=10)
    assert refused.status_code == 402
    for _ in range(token_ratios.FEWEST_BOUNDS):
        gateway.token_ratios.read(model=MODEL, input_tokens=100, input_bytes=350)
    served = product.chat(product.key(), messages=[{"role": "user", "content": content}], max_tokens=10)
    assert served.status_code == 200
    assert SpendEntry.objects.get().overage_nanos == 0


def test_strict_bounds_alone_are_a_setting(product: Product, settings) -> None:
    settings.LEARNED_BOUNDS = False
    make.budget("0.0005")
    for _ in range(token_ratios.FEWEST_BOUNDS):
        gateway.token_ratios.read(model=MODEL, input_tokens=100, input_bytes=350)
    content = "All work and no play makes Jack a dull boy. " * 24
    assert product.chat(product.key(), messages=[{"role": "user", "content": content}]).status_code == 402
