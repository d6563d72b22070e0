"""What answers say of their own price: a dearer tier served, or the call cost more than its tokens come to."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Alert, Reservation, SpendEntry
from llm.catalogue import snapshot
from llm.models import Model, Price
from tests.llm.gateway.test_odd_answers import charged_since, compatible
from tests.product import Product, eventually

INPUT, OUTPUT = 150, 600
READ, WRITTEN = 10, 100
RECKONED = READ * INPUT + WRITTEN * OUTPUT
HI = [{"role": "user", "content": "Hi"}]


def answer(**told: Any) -> Answer:
    counted = {"prompt_tokens": READ, "completion_tokens": WRITTEN, "total_tokens": READ + WRITTEN}
    return Answer(tokens=WRITTEN, usage=counted | told)


def xai(nanos: int) -> dict[str, Any]:
    return {"cost_in_usd_ticks": nanos * 10}


def openrouter(nanos: int) -> dict[str, Any]:
    return {"cost": nanos / 1e9, "cost_details": {"upstream_inference_cost": None}}


def charged(product: Product, booked: BookedUpstream, key: str, of: Answer, *, stream: bool = False) -> SpendEntry:
    charged_since(product, booked, key, of, messages=HI, max_tokens=1_000, stream=stream)
    return SpendEntry.objects.latest("id")


@compatible
@pytest.mark.parametrize("told", [xai, openrouter])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_call_costs_what_its_endpoint_says_where_that_is_more_than_its_tokens(
    product: Product, booked: BookedUpstream, likes: str, told: Any, stream: bool
) -> None:
    row = charged(product, booked, likes, answer(**told(4 * RECKONED)), stream=stream)
    assert (row.cost_nanos, row.certainty, row.reason) == (4 * RECKONED, "confirmed", "")
    # No price of ours says so: one that is put right later changes nothing of it.
    assert (row.price_rule, row.metadata) == ("", {"told_cost_usd": "0.000246"})
    assert row.overage_nanos == 0


@compatible
def test_a_cost_below_what_its_tokens_come_to_makes_nothing_cheaper(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    row = charged(product, booked, likes, answer(**xai(RECKONED - 1)))
    assert (row.cost_nanos, row.certainty, row.metadata) == (RECKONED, "confirmed", {})
    assert row.price_rule


@compatible
def test_one_number_of_an_answer_charges_no_more_than_was_held_for(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    row = charged(product, booked, likes, answer(**xai(10**12)))
    held_nanos = Reservation.objects.latest("reserved_at").amount_nanos
    assert (row.cost_nanos, row.certainty, row.reason) == (held_nanos, "estimated", "told_above_hold")
    assert row.metadata == {"told_cost_usd": "1000.00"}
    assert eventually(lambda: Alert.objects.filter(kind="told_above_hold", subject="likes/m").exists())


@compatible
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_dearer_tier_is_charged_by_its_row(
    product: Product, booked: BookedUpstream, likes: str, stream: bool
) -> None:
    model = Model.objects.get(provider="likes", name="m")
    for unit, picos in (("input", 2_000 * INPUT), ("output", 2_000 * OUTPUT)):
        Price(model=model, unit=unit, picos_per_unit=picos, tier="priority").save()
    snapshot.forget()
    snapshot.current()
    row = charged(product, booked, likes, answer(service_tier="priority"), stream=stream)
    assert (row.cost_nanos, row.certainty) == (2 * RECKONED, "confirmed")
    assert row.price_rule.endswith("+priority")
    # The usual one costs what it did.
    row = charged(product, booked, likes, answer(service_tier="default"), stream=stream)
    assert (row.cost_nanos, row.certainty) == (RECKONED, "confirmed")


@compatible
def test_a_dearer_tier_without_a_price_is_an_estimate_to_be_looked_at(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    row = charged(product, booked, likes, answer(service_tier="priority"))
    assert (row.cost_nanos, row.certainty, row.reason) == (RECKONED, "estimated", "tier_unpriced")
    assert eventually(lambda: Alert.objects.filter(kind="tier_unpriced", subject="likes/m").exists())
