"""Which periods invoices pay for, and how much of a budget: to the nanodollar, at the edges."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from billing.rules import periods
from billing.rules.periods import Grant, Period
from billing.rules.valuation import PlanRule, Pricing
from billing.stripe_api.objects import Item, Line, StripeInvoice, StripePrice, StripeSubscription
from tests.billing.events import DAY, START

NEXT = START + 30 * DAY
MONTH = Period(START, NEXT)
PRICE = StripePrice("price_x", unit_amount=3000, currency="usd", interval="month")
UNKNOWN = StripePrice("price_x")
SECOND = timedelta(seconds=1)


def line(starts_at: datetime | None = START, ends_at: datetime | None = NEXT, **fields: Any) -> Line:
    values: dict[str, Any] = {"id": "il_1", "price": PRICE, "quantity": 1, "recurring": True, "proration": False}
    return Line(starts_at=starts_at, ends_at=ends_at, **values | {"amount": 3000, "currency": "usd"} | fields)


def invoice(*lines: Line, id: str = "in_1", reason: str = "subscription_create", **fields: Any) -> StripeInvoice:
    return StripeInvoice(id, "sub_1", "paid", reason, lines, **fields)


def subscription(*spans: tuple[datetime | None, datetime | None], **fields: Any) -> StripeSubscription:
    items = tuple(Item(f"si_{number}", PRICE, 1, *span) for number, span in enumerate(spans))
    return StripeSubscription("sub_1", "active", items, **fields)


def test_a_span_needs_both_ends_and_some_time_between_them() -> None:
    assert periods.between(START, NEXT) == MONTH
    assert [periods.between(START, None), periods.between(None, NEXT), periods.between(None, None)] == [None] * 3
    assert [periods.between(START, START), periods.between(NEXT, START)] == [None] * 2


def test_spans_overlap_by_what_they_share_and_never_by_less_than_nothing() -> None:
    assert MONTH.overlap(Period(START + 10 * DAY, NEXT + DAY)) == 20 * DAY
    assert MONTH.overlap(Period(NEXT, NEXT + DAY)) == timedelta(0)
    assert MONTH.overlap(Period(NEXT + DAY, NEXT + 2 * DAY)) == timedelta(0)


def test_a_prorated_line_counts_as_the_whole_that_it_is_a_part_of() -> None:
    half = {"ends_at": START + 15 * DAY, "proration": True, "recurring": False, "amount": -1500}
    by_list = periods.item_of(line(quantity=2, **half))
    assert by_list == Item("il_1", PRICE, 2, None, None, 6000, "usd")
    by_days = periods.item_of(line(price=UNKNOWN, **half | {"amount": 1001}))
    assert by_days == Item("il_1", UNKNOWN, 1, None, None, 2002, "usd")
    # Of 1000 for seven of thirty days: 4285 and no fraction.
    assert periods.item_of(line(price=UNKNOWN, **half | {"amount": 1000, "ends_at": START + 7 * DAY})).amount == 4285
    longer = half | {"amount": 1000, "ends_at": START + 60 * DAY}
    assert periods.item_of(line(price=UNKNOWN, **longer)).amount == 1000


@pytest.mark.parametrize("ends", [{"starts_at": None}, {"ends_at": None}])
def test_a_prorated_line_without_a_span_and_a_whole_line_count_as_billed(ends: dict[str, Any]) -> None:
    assert periods.item_of(line(proration=True, amount=700, **ends)).amount == 700
    assert periods.item_of(line(price=UNKNOWN, proration=True, amount=700, **ends)).amount == 700
    assert periods.item_of(line(ends_at=START + 15 * DAY, amount=700)).amount == 700
    assert periods.item_of(line(ends_at=START + 15 * DAY, amount=700, price=UNKNOWN)).amount == 700


def test_the_newest_period_that_an_invoice_opened_counts() -> None:
    older = invoice(line(START - 30 * DAY, START), id="in_0", reason="subscription_cycle")
    newer = invoice(line(), id="in_1", reason="subscription_cycle")
    update = invoice(line(START + DAY, NEXT + DAY), id="in_2", reason="subscription_update")
    for paid in ([older, newer, update], [newer, update, older]):
        assert periods.newest_grant(None, paid) == Grant(MONTH, newer.lines, "in_1")
    assert periods.newest_grant(None, [update]) is None


def test_after_a_trial_that_ended_early_the_first_payment_opens_its_period() -> None:
    trial = invoice(line(START, START + 14 * DAY))
    tried = subscription((START, NEXT), trial_starts_at=START)
    first = invoice(line(START + DAY, NEXT), id="in_2", reason="subscription_update")
    second = invoice(line(START + 2 * DAY, NEXT), id="in_3", reason="subscription_update")
    assert periods.newest_grant(tried, [trial]) == Grant(Period(START, START + 14 * DAY), trial.lines, "in_1")
    assert periods.newest_grant(tried, [second, trial, first]) == Grant(
        Period(START + 2 * DAY, NEXT), second.lines, "in_3"
    )
    bare = invoice(line(None, None), id="in_4", reason="subscription_update")
    assert periods.newest_grant(tried, [trial, bare]) == Grant(Period(START, START + 14 * DAY), trial.lines, "in_1")
    # Without a trial an update opens nothing.
    untried = subscription((START, NEXT))
    assert periods.newest_grant(untried, [trial, first]) == Grant(Period(START, START + 14 * DAY), trial.lines, "in_1")


def test_a_period_without_one_on_its_line_is_the_subscriptions_or_the_invoices() -> None:
    bare = line(None, None)
    own = subscription((START + DAY, NEXT + DAY), (START, NEXT), (None, None))
    assert periods.newest_grant(own, [invoice(bare)]) == Grant(Period(START + DAY, NEXT + DAY), (bare,), "in_1")
    said = invoice(bare, starts_at=START, ends_at=NEXT)
    assert periods.newest_grant(None, [said]) == Grant(MONTH, (bare,), "in_1")
    assert periods.newest_grant(None, [invoice(bare, starts_at=START)]) is None
    assert periods.newest_grant(None, [invoice(bare, ends_at=NEXT)]) is None


def test_the_grant_at_a_moment_is_the_newest_that_had_begun() -> None:
    first = invoice(line(), id="in_1")
    update = invoice(line(START + DAY, NEXT + DAY), id="in_2", reason="subscription_update")
    second = invoice(line(NEXT, NEXT + 30 * DAY), id="in_3", reason="subscription_cycle")
    for paid in ([first, update, second], [second, update, first]):
        found = [periods.grant_at(at, paid) for at in (START, START + DAY, NEXT - SECOND, NEXT)]
        assert [one and one.invoice_id for one in found] == ["in_1", "in_2", "in_2", "in_3"]
    assert periods.grant_at(START - SECOND, [first, update, second]) is None
    assert periods.grant_at(START, [invoice(line(None, None), reason="subscription_update")]) is None


def test_time_is_paid_through_as_long_as_there_is_no_gap() -> None:
    grant = Grant(MONTH, (), "in_1")

    def through(*spans: tuple[int, int]) -> int:
        paid = [invoice(line(START + first * DAY, START + last * DAY)) for first, last in spans]
        return (periods.paid_through(grant, paid) - START) // DAY

    assert through() == 30
    assert through((0, 40)) == 40
    assert through((30, 60)) == 60
    assert through((31, 60)) == 30
    assert through((-1, 60)) == 30
    assert through((50, 90), (10, 50)) == 90
    assert through((10, 20)) == 30


def test_a_subscription_has_rolled_on_only_to_what_comes_after_and_not_where_it_ends() -> None:
    rolled = subscription((NEXT, NEXT + 30 * DAY))
    assert periods.rolled_period(rolled, after=NEXT) == Period(NEXT, NEXT + 30 * DAY)
    assert periods.rolled_period(rolled, after=NEXT + SECOND) is None
    assert periods.rolled_period(None, after=START) is None
    ending = subscription((NEXT, NEXT + 30 * DAY), cancel_at_period_end=True)
    assert periods.rolled_period(ending, after=NEXT) is None


def worth(*invoices: StripeInvoice, period: Period = MONTH, whole: Period = MONTH, limit: int = 1000) -> int:
    pricing = Pricing(plans=[PlanRule("Plan", limit, price_ids=frozenset({"price_x"}))], kept={})
    grant = Grant(MONTH, (line(),), "in_1")
    return periods.paid_nanos(period=period, whole=whole, grant=grant, paid=invoices, pricing=pricing)


def test_a_line_pays_for_the_part_of_the_budget_that_it_bills() -> None:
    assert worth(invoice(line())) == 1000
    assert worth() == 0
    ten_days = line(ends_at=START + 10 * DAY)
    # A third of 1000, rounded against the customer.
    assert worth(invoice(ten_days)) == 333
    assert worth(invoice(line(NEXT, NEXT + 30 * DAY))) == 0
    assert worth(invoice(line(START - 30 * DAY, START + 10 * DAY))) == 333


def test_a_credit_counts_against_it_and_never_below_nothing() -> None:
    credit = line(START + 20 * DAY, NEXT, proration=True, recurring=False, credit=True, amount=-1000)
    # 333 and a third are taken off as 334.
    assert worth(invoice(line(), credit)) == 666
    assert worth(invoice(credit)) == 0
    assert worth(invoice(credit, line())) == 666


def test_a_prorated_line_pays_and_a_line_for_something_else_does_not() -> None:
    prorated = line(START + 20 * DAY, NEXT, proration=True, recurring=False, amount=1000)
    something = line(recurring=False, amount=1000)
    assert worth(invoice(something, prorated)) == 333
    assert worth(invoice(something)) == 0


def test_a_line_without_a_span_pays_for_the_grants_period_where_it_is_the_grants() -> None:
    assert worth(invoice(line(None, None))) == 1000
    assert worth(invoice(line(START, None))) == 1000
    assert worth(invoice(line(None, NEXT))) == 1000
    assert worth(invoice(line(None, None), id="in_2")) == 0
    assert worth(invoice(line(None, None, recurring=False, proration=True))) == 0
    # A line that has its own span keeps it.
    assert worth(invoice(line(ends_at=START + 15 * DAY))) == 500


def test_a_part_of_a_month_costs_its_part() -> None:
    part = Period(START, START + timedelta(microseconds=1))
    assert worth(invoice(line()), period=part, limit=10**15) == 10**15 * 1 // (30 * 86_400 * 10**6)


def test_an_invoice_is_within_a_period_where_one_of_its_lines_is() -> None:
    before = line(START - 30 * DAY, START)
    assert periods.is_within(invoice(before, line(NEXT - DAY, NEXT + DAY)), MONTH)
    assert not periods.is_within(invoice(before), MONTH)
    assert not periods.is_within(invoice(line(None, None), line(START, None), line(None, NEXT)), MONTH)
    assert not periods.is_within(invoice(), MONTH)


def test_an_old_shape_opens_a_period_unless_it_prorates_within_it() -> None:
    change = line(START + DAY, NEXT, proration=True, recurring=False)
    at_start = line(START, NEXT, proration=True, recurring=False)
    renewal = line(START - DAY, START, proration=True, recurring=False)
    opened = Grant(MONTH, (line(),), "in_1")
    assert periods.newest_grant(None, [invoice(line(), reason="")]) == opened
    assert periods.newest_grant(None, [invoice(line(), renewal, reason="")]) == opened
    assert periods.newest_grant(None, [invoice(line(), change, reason="")]) is None
    assert periods.newest_grant(None, [invoice(line(), at_start, reason="")]) is None
    assert periods.newest_grant(subscription((START, NEXT)), [invoice(line(None, None), reason="")]) is None
