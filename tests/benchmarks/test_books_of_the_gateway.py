"""The ledger and the upstream's own books, side by side."""

from __future__ import annotations

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import SpendEntry
from tests import factories as make
from tests.product import Product


@pytest.mark.parametrize("stream", [False, True])
def test_an_honest_answer_is_in_both_to_the_nanodollar(product: Product, booked: BookedUpstream, stream: bool) -> None:
    make.budget("1.00")
    asked = Answer(tokens=30, name="honest").marked(label="one")
    messages = [{"role": "user", "content": f"Hi {asked}"}]
    answer = product.chat(product.key(), model="mistral-small-latest", messages=messages, stream=stream)
    assert answer.status_code == 200
    [entry] = booked.books.entries
    assert (entry.label, entry.answer, entry.output_tokens) == ("one", "honest", 30)
    assert SpendEntry.objects.get().cost_nanos == booked.books.spent_nanos
