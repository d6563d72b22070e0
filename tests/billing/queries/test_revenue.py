"""What invoices bring in, and when it counts."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.queries import revenue
from billing.queries.revenue import Bill, BilledShare
from billing.rules.refunds import Known, Refund, RefundKind
from billing.rules.standing import of_invoices
from billing.stripe_api import objects
from tests.billing.events import DAY, START, invoice, recorded, seconds

CENT = 10**7
PAID = ("invoice.paid", "invoice.payment_succeeded")
END = START + 30 * DAY
MIDDLE = START + 15 * DAY


def of(refund: Refund | None = None, **fields: Any) -> Bill:
    return revenue.bill(invoice(**fields), refund)


@pytest.mark.parametrize(
    "tax",
    [
        {"total": 6000, "total_excluding_tax": 5000},
        {"total": 6000, "total_taxes": [{"amount": 600}, {"amount": 400}]},
        {"total": 6000, "total_tax_amounts": [{"amount": 1000}]},
        {"total": 6000, "tax": 1000},
    ],
)
def test_tax_is_no_revenue_in_any_shape(tax: dict[str, Any]) -> None:
    assert of(amount_paid=6000, **tax).net_nanos == 5000 * CENT


def test_what_went_back_is_taken_off_with_its_part_of_the_tax() -> None:
    fields = {"amount_paid": 6000, "total": 6000, "total_excluding_tax": 5000}
    assert of(Refund(RefundKind.PARTIAL, 1500), **fields).net_nanos == 3750 * CENT
    assert of(Refund(RefundKind.REFUNDED, 6000), **fields).net_nanos == 0
    assert of(Refund(RefundKind.REFUNDED, 9999), **fields).net_nanos == 0
    assert of(post_payment_credit_notes_amount=1500, **fields).net_nanos == 3750 * CENT


def test_a_disputed_payment_is_not_ours_for_now() -> None:
    assert of(Refund(RefundKind.DISPUTED, 5000, paid=5000), amount_paid=5000).net_nanos == 0


@pytest.mark.parametrize(
    ("disputed", "refunded", "left"), [(500, 0, 4500), (500, 1000, 3500), (4500, 500, 0), (0, 0, 0)]
)
def test_of_a_payment_that_is_disputed_in_part_the_rest_is_ours(disputed: int, refunded: int, left: int) -> None:
    charge = {"id": "ch_1", "object": "charge", "amount": 5000, "amount_refunded": refunded, "status": "succeeded"}
    dispute = {"id": "dp_1", "object": "dispute", "charge": "ch_1", "amount": disputed, "status": "needs_response"}
    invoice = {
        "id": "in_1",
        "object": "invoice",
        "status": "paid",
        "charge": "ch_1",
        "total": 5000,
        "amount_paid": 5000,
    }
    known = [Known(objects.payment(data), 0) for data in (charge, dispute)]
    assert of(of_invoices([objects.invoice(invoice)], known)["in_1"], amount_paid=5000).net_nanos == left * CENT


def test_what_the_balance_paid_counts_and_what_filled_it_was_taken_off() -> None:
    paid = of(amount_paid=10000)
    credit = of(amount_paid=0, total=-2000, billing_reason="subscription_update")
    renewed = of(amount_paid=8000, total=10000)
    assert sum(one.net_nanos for one in (paid, credit, renewed)) == 18000 * CENT


def test_a_period_counts_as_its_time_passes() -> None:
    bill = of(amount_paid=3000)
    assert revenue.within(bill, START, MIDDLE) == 1500 * CENT
    assert revenue.within(bill, MIDDLE, None) == 1500 * CENT
    assert revenue.within(bill, None, START) == 0
    assert revenue.within(bill, END, None) == 0
    assert revenue.within(bill, None, None) == 3000 * CENT


def test_a_line_without_a_period_counts_when_it_was_paid() -> None:
    paid_at = seconds(MIDDLE)
    bill = of(
        amount_paid=3000,
        period_end=START,
        subscription=None,
        billing_reason="manual",
        status_transitions={"paid_at": paid_at},
    )
    assert revenue.within(bill, START, MIDDLE) == 0
    assert revenue.within(bill, MIDDLE, MIDDLE + timedelta(seconds=1)) == 3000 * CENT


def test_currencies_stay_apart_and_know_their_decimals() -> None:
    bills = [of(amount_paid=5000), of(amount_paid=4000, currency="eur"), of(amount_paid=700, currency="JPY")]
    assert revenue.total(bills, None, None) == {
        "eur": 40 * 10**9,
        "jpy": 700 * 10**9,
        "usd": 50 * 10**9,
    }


def test_an_unreadable_invoice_brings_nothing() -> None:
    for odd in ({}, {"total": "x", "amount_paid": None, "lines": 3}, {"lines": {"data": [{"amount": 1}]}}):
        assert revenue.within(revenue.bill(odd), None, None) == 0


@pytest.mark.parametrize("name", ["current_shapes", "old_shapes"])
def test_recorded_invoices_of_both_shapes_bring_what_was_paid(name: str) -> None:
    found = [one["data"]["object"] for one in recorded(name) if one["type"] in PAID]
    assert found
    for data in found:
        bill = revenue.bill(data)
        assert revenue.within(bill, None, None) == bill.net_nanos == data["amount_paid"] * CENT


moments = st.integers(0, 60).map(lambda days: START + days * DAY / 2)


@st.composite
def shares(draw: st.DrawFn) -> BilledShare:
    weight = draw(st.integers(-5000, 9000))
    if draw(st.booleans()):
        return BilledShare(weight)
    starts_at = draw(moments)
    return BilledShare(weight, starts_at, starts_at + timedelta(seconds=draw(st.integers(1, 10**7))))


@given(st.lists(shares(), max_size=5), st.integers(-(10**12), 10**13), st.lists(moments, max_size=6))
def test_neighbouring_periods_add_up_to_the_whole(parts: list[BilledShare], net: int, cuts: list[datetime]) -> None:
    bill = Bill("usd", net, START + 3 * DAY, tuple(parts))
    edges: list[datetime | None] = [None, *sorted(cuts), None]
    assert sum(revenue.within(bill, a, b) for a, b in pairwise(edges)) == net
