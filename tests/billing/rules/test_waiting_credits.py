"""A downgrade that Stripe has not credited yet, or never will, lowers what can be spent to the new plan's now, whatever
the prices are: of another interval, usage-based, or worth a share of what they bill."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.rules.entitlement import Entitlement, entitle
from billing.rules.valuation import BillingPolicy
from billing.stripe_api import objects

USD, DAY = 10**9, timedelta(days=1)
START = datetime(2026, 4, 1, tzinfo=UTC)
NOW, MONTH, YEAR = START + DAY, START + 30 * DAY, START + 365 * DAY
AT_END = BillingPolicy(downgrade="period_end")
TRUSTED = BillingPolicy(upgrade="whole")


def price(
    id: str, dollars: int | None, interval: str = "month", *, metered: bool = False, **said: str
) -> dict[str, Any]:
    usage = {"usage_type": "metered" if metered else "licensed"}
    return {
        "id": f"price_{id}",
        "product": f"prod_{id}",
        "currency": "usd",
        "unit_amount": None if dollars is None else 100 * dollars,
        "recurring": {"interval": interval, "interval_count": 1, **usage},
        "metadata": {f"llm_budget_{key}": value for key, value in said.items()},
    }


def flat(dollars: int) -> dict[str, Any]:
    return price(f"flat_{dollars}", dollars, usd=str(dollars))


def share(dollars: int | None, percent: int = 100) -> dict[str, Any]:
    return price(f"share_{dollars}", dollars, percent=str(percent))


USAGE = price("usage", 0, metered=True, usd="5")
YEARS_BUDGET = price("year", 600, "year", usd="600", period="billing")


def sub(*prices: dict[str, Any], quantity: int = 1, **more: Any) -> objects.StripeSubscription:
    items = [
        {"id": one["id"], "price": one, "quantity": quantity, "current_period_start": START.timestamp()}
        for one in prices
    ]
    for one in items:
        ends_at = YEAR if one["price"]["recurring"]["interval"] == "year" else MONTH
        one["current_period_start"], one["current_period_end"] = int(START.timestamp()), int(ends_at.timestamp())
    known = {"id": "sub_1", "customer": "cus_1", "status": "active", "items": {"data": items}}
    return objects.subscription({**known, "start_date": int(START.timestamp()), **more})


def line(
    of: dict[str, Any], dollars: int, *, quantity: int = 1, since: datetime = START, change: bool = False
) -> dict[str, Any]:
    ends_at = YEAR if of["recurring"]["interval"] == "year" else MONTH
    return {
        "id": f"il_{of['id']}_{dollars}",
        "amount": 100 * dollars,
        "currency": "usd",
        "quantity": quantity,
        "price": of,
        "period": {"start": int(since.timestamp()), "end": int(ends_at.timestamp())},
        "parent": {
            "type": "subscription_item_details",
            "subscription_item_details": {"subscription": "sub_1", "proration": change},
        },
    }


def paid(*lines: dict[str, Any], id: str = "in_1", at: datetime = START) -> objects.StripeInvoice:
    known = {"id": id, "customer": "cus_1", "status": "paid", "currency": "usd", "created": int(at.timestamp())}
    details = {"subscription_details": {"subscription": "sub_1"}}
    return objects.invoice({**known, "parent": details, "lines": {"data": list(lines)}})


def comes_to(
    now: objects.StripeSubscription, *invoices: objects.StripeInvoice, policy: BillingPolicy | None = None
) -> Entitlement:
    return entitle(subscriptions=[now], invoices=invoices, plans=[], now=NOW, policy=policy)


def dollars(
    now: objects.StripeSubscription, *invoices: objects.StripeInvoice, policy: BillingPolicy | None = None
) -> float:
    return (comes_to(now, *invoices, policy=policy).limit_nanos or 0) / USD


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        ([flat(200)], [flat(50)], 50),
        ([flat(200), USAGE], [USAGE], 5),
        ([flat(200)], [USAGE], 5),
        ([YEARS_BUDGET, flat(10)], [flat(10)], 10),
        ([YEARS_BUDGET], [price("cheap", 60, "year", usd="5")], 5),
        ([share(200)], [share(20)], 20),
        ([flat(200), share(1)], [flat(50), share(1)], 51),
        ([flat(200), share(1)], [share(1)], 1),
        ([share(200)], [flat(20)], 20),
        # What is left has no budget.
        ([flat(200)], [price("fee", 20) | {"metadata": {"llm_topup_usd": "1"}}], 0),
    ],
)
def test_what_waits_to_be_credited_is_not_to_be_spent_before(
    before: list[dict[str, Any]], after: list[dict[str, Any]], left: int
) -> None:
    first = paid(*(line(one, (one["unit_amount"] or 0) // 100) for one in before if one is not USAGE))
    used = 5 if USAGE in after else 0
    bought = sum(one["unit_amount"] // 100 for one in before if one is not USAGE)
    assert dollars(sub(*before), first) == bought + (5 if USAGE in before else 0)
    assert dollars(sub(*after), first) == left
    assert dollars(sub(*after), first, policy=AT_END) == bought + used


def test_fewer_seats_of_a_share_are_their_part_of_what_was_charged() -> None:
    seats, charged = share(10), 100
    # With a coupon for half of it.
    first = paid(line(seats, charged, quantity=20))
    assert dollars(sub(seats, quantity=20), first) == 100
    assert dollars(sub(seats, quantity=1), first) == 5
    assert dollars(sub(seats, quantity=30), first) == 100
    assert dollars(sub(seats, quantity=30), first, policy=TRUSTED) == 150


def test_a_share_that_was_credited_leaves_what_stands() -> None:
    """Whatever cents are rounded in a part of a period."""
    high, low = share(200), share(20)
    change = line(high, -193, since=NOW, change=True), line(low, 19, since=NOW, change=True)
    assert dollars(sub(low), paid(line(high, 200)), paid(*change, id="in_2", at=NOW)) == 26
    rise = line(low, -19, since=NOW, change=True), line(high, 193, since=NOW, change=True)
    risen = paid(*rise, id="in_2", at=NOW)
    for policy in (None, TRUSTED):
        assert dollars(sub(high), paid(line(low, 20)), risen, policy=policy) == 194


def test_a_share_of_what_nobody_knows_before_it_is_billed_lowers_nothing() -> None:
    tiers, first = share(None), paid(line(share(200), 200))
    assert dollars(sub(tiers), first) == 200
    billed = paid(line(tiers, 30))
    assert dollars(sub(tiers, quantity=1), billed) == 30
    # As many as were billed tell what one of them is.
    assert dollars(sub(tiers, quantity=1), paid(line(tiers, 30, quantity=3))) == 10


def test_a_rise_that_is_trusted_counts_beside_a_share() -> None:
    first = paid(line(flat(50), 50), line(share(1), 1))
    assert dollars(sub(flat(200), share(1)), first) == 51
    assert dollars(sub(flat(200), share(1)), first, policy=TRUSTED) == 201


def test_an_interval_that_is_not_paid_for_yet_takes_nothing_of_the_one_that_is() -> None:
    assert dollars(sub(YEARS_BUDGET), paid(line(flat(50), 50))) == 50
    # Of several that nothing is sold of any more it counts in one.
    first = paid(line(flat(50), 50), line(YEARS_BUDGET, 600))
    assert dollars(sub(price("week", 40, "week", usd="40", period="billing")), first) == 40
    # Nor do free days for somebody who has paid.
    trial = {"status": "trialing", "trial_start": int(START.timestamp()), "trial_end": int(MONTH.timestamp())}
    assert dollars(sub(USAGE, **trial), paid(line(flat(50), 50), at=START - DAY)) == 5


def test_a_price_whose_interval_is_told_otherwise_by_its_line_is_still_sold() -> None:
    told = line(flat(50) | {"recurring": {"interval": "day", "interval_count": 30}}, 50)
    told["price"]["metadata"] = {"llm_budget_usd": "50", "llm_budget_period": "billing"}
    now = sub(flat(50) | {"metadata": told["price"]["metadata"]})
    assert dollars(now, paid(told)) == 50
