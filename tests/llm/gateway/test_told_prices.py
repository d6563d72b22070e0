"""What answers say of their own price: a dearer tier served, or the call cost more than its tokens come to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import Alert, Reservation, SpendEntry
from llm.catalogue import snapshot
from llm.models import Model, Price
from tests.llm.gateway.test_odd_answers import CLOSES, DONE, anthropic, charged_since, compatible, event, text
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


def priority_costs_twice() -> None:
    model = Model.objects.get(provider="likes", name="m")
    for unit, picos in (("input", 2_000 * INPUT), ("output", 2_000 * OUTPUT)):
        Price(model=model, unit=unit, picos_per_unit=picos, tier="Priority").save()
    snapshot.forget()
    snapshot.current()


def scripted(said: dict[str, Any], *, status: int = 200) -> Answer:
    body = json.dumps(said).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return Answer(script=[head.encode() + body], tokens=0)


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
    priority_costs_twice()
    row = charged(product, booked, likes, answer(service_tier="priority"), stream=stream)
    assert (row.cost_nanos, row.certainty) == (2 * RECKONED, "confirmed")
    assert row.price_rule.endswith("+Priority")
    # The usual one costs what it did.
    row = charged(product, booked, likes, answer(service_tier="default"), stream=stream)
    assert (row.cost_nanos, row.certainty) == (RECKONED, "confirmed")


@compatible
def test_a_dearer_tier_without_a_price_is_an_estimate_to_be_looked_at(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    row = charged(product, booked, likes, answer(service_tier="priority"))
    assert (row.cost_nanos, row.certainty, row.reason) == (RECKONED, "estimated", "tier_unpriced")
    assert eventually(
        lambda: Alert.objects.filter(kind="tier_unpriced", message__contains="Its tier: priority.").exists()
    )


@compatible
def test_a_tier_that_the_usage_names_alone_counts(product: Product, booked: BookedUpstream, likes: str) -> None:
    priority_costs_twice()
    counted = {"prompt_tokens": READ, "completion_tokens": WRITTEN, "total_tokens": READ + WRITTEN}
    last = event({"id": "c", "model": "m", "choices": [], "service_tier": "priority", "usage": counted})
    stream = CLOSES + text("x" * 300, model="m") + text("", "stop", model="m") + last + DONE
    row = charged(product, booked, likes, Answer(script=[stream, "close"], tokens=WRITTEN), stream=True)
    assert (row.cost_nanos, row.certainty) == (2 * RECKONED, "confirmed")


@compatible
def test_without_a_usage_a_dearer_tier_is_what_has_come_costs(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    stream = [CLOSES + text("1" * WRITTEN, model="m", service_tier="priority"), "reset"]
    for times in (1, 2):
        if times == 2:
            priority_costs_twice()
        row = charged(product, booked, likes, Answer(script=stream, tokens=WRITTEN), stream=True)
        assert row.certainty == "estimated"
        assert row.cost_nanos == times * (row.input_tokens * INPUT + row.output_tokens * OUTPUT)
        assert row.cost_nanos < Reservation.objects.latest("reserved_at").amount_nanos


@anthropic
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("told", "cost_nanos"),
    [
        ({"service_tier": "priority"}, 2 * RECKONED),
        (openrouter(4 * RECKONED), 4 * RECKONED),
        (xai(4 * RECKONED), 4 * RECKONED),
    ],
    ids=["tier", "cost", "ticks"],
)
def test_anthropics_words_on_its_price_are_read_as_well(
    product: Product, booked: BookedUpstream, likes: str, told: dict[str, Any], cost_nanos: int, stream: bool
) -> None:
    priority_costs_twice()
    counted = {"input_tokens": READ, "output_tokens": WRITTEN} | told
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    block = {"type": "text", "text": "x" * 300}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message | {"content": [], "usage": counted | {"output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": WRITTEN}},
        {"type": "message_stop"},
    ]
    streamed = CLOSES + b"".join(event(each, name=each["type"]) for each in events)
    plain = scripted(message | {"content": [block], "usage": counted})
    of = Answer(script=[streamed, "close"], tokens=WRITTEN) if stream else plain
    row = charged(product, booked, likes, of, stream=stream)
    assert (row.cost_nanos, row.certainty) == (cost_nanos, "confirmed")


@compatible
@pytest.mark.parametrize("counted", [{}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
@pytest.mark.parametrize("is_inside", [False, True], ids=["beside", "inside"])
@pytest.mark.parametrize("status", [200, 400, 429])
def test_a_refusal_that_tells_its_cost_costs_it(
    product: Product, booked: BookedUpstream, likes: str, counted: dict[str, int], status: int, is_inside: bool
) -> None:
    error: dict[str, Any] = {"message": "Not that.", "type": "invalid_request_error", "code": status}
    told = {"usage": counted | xai(RECKONED)}
    said = {"error": error | told} if is_inside else {"error": error} | told
    row = charged(product, booked, likes, scripted(said, status=status))
    assert row.cost_nanos >= RECKONED


@compatible
def test_a_refusal_that_has_a_fee_costs_it_whatever_was_held(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    said = {"code": "The caller does not have permission", "error": "Failed check: SAFETY_CHECK_TYPE_BIO"}
    row = charged(product, booked, likes, scripted(said, status=403))
    assert row.cost_nanos == 50_000_000 > Reservation.objects.latest("reserved_at").amount_nanos
    assert (row.input_tokens, row.output_tokens) == (0, 0)


@compatible
def test_a_fee_that_a_prompt_may_have_brought_costs_no_more_than_the_hold(
    product: Product, booked: BookedUpstream, likes: str
) -> None:
    asked = "Failed check: SAFETY_CHECK_TYPE_BIO"
    of = scripted({"error": {"message": f"No answer to: {asked}"}}, status=400)
    charged_since(
        product, booked, likes, of, messages=[{"role": "user", "content": asked}], max_tokens=10, stream=False
    )
    held_nanos = Reservation.objects.latest("reserved_at").amount_nanos
    assert 0 < SpendEntry.objects.latest("id").cost_nanos <= held_nanos < 50_000_000
