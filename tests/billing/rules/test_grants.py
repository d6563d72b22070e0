"""What the lines of invoices give, and for which time: to the nanodollar, at the edges."""

from __future__ import annotations

from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rules import grants
from billing.rules.grants import Cycle, Grant, Period
from billing.rules.valuation import PlanRule, Pricing
from billing.stripe_api.objects import Item, Line, StripeInvoice, StripePrice, StripeSubscription
from governance.rules.windows import add_months
from tests.billing.events import DAY, START

NEXT = START + 30 * DAY
MONTH = Period(START, NEXT)
SECOND = timedelta(seconds=1)
PRICE = StripePrice("price_x", unit_amount=3000, currency="usd", interval="month")
FREE = StripePrice("price_x", unit_amount=0, currency="usd", interval="month")
YEARLY = StripePrice(
    "price_y", unit_amount=3000, currency="usd", interval="year", metadata={"llm_budget_usd": "0.000001"}
)
MONTHLY = Cycle("month")


def priced(interval: str = "month", count: int = 1, **metadata: str) -> StripePrice:
    return StripePrice(
        "price_x", unit_amount=3000, currency="usd", interval=interval, interval_count=count, metadata=metadata
    )


def line(starts_at: datetime | None = START, ends_at: datetime | None = NEXT, **fields: Any) -> Line:
    values: dict[str, Any] = {"id": "il_1", "price": PRICE, "quantity": 1, "recurring": True, "proration": False}
    values |= {"amount": 3000, "currency": "usd"} | fields
    return Line(starts_at=starts_at, ends_at=ends_at, **{"listed": values["amount"]} | values)


def change(starts_at: datetime, ends_at: datetime = NEXT, **fields: Any) -> Line:
    return line(starts_at, ends_at, **{"recurring": False, "proration": True} | fields)


def credit(starts_at: datetime, ends_at: datetime = NEXT, **fields: Any) -> Line:
    return change(starts_at, ends_at, **{"credit": True, "amount": -1000} | fields)


def invoice(*lines: Line, id: str = "in_1", status: str = "paid", subscription: str = "sub_1") -> StripeInvoice:
    return StripeInvoice(id, subscription, status, "manual", lines)


def subscription(price: StripePrice = PRICE, **fields: Any) -> StripeSubscription:
    return StripeSubscription("sub_1", "active", (Item("si_1", price, 1, START, NEXT),), **fields)


def of(*invoices: StripeInvoice, sub: StripeSubscription | None = None, limit: int = 1000) -> list[Grant]:
    """All grants of invoices where the price is worth `limit`, by its id, unless its metadata says more."""
    plans = [] if limit == 0 else [PlanRule("Plan", limit, price_ids=frozenset({"price_x"}))]
    found = grants.of(sub, "sub_1", invoices, Pricing(plans, {}), set())
    return [one for all in found.values() for one in all]


def worth(*invoices: StripeInvoice, period: Period = MONTH, **more: Any) -> int:
    return grants.given(of(*invoices, **more), period)


class TestASpan:
    def test_needs_both_ends_and_some_time_between_them(self) -> None:
        assert grants.between(START, NEXT) == MONTH
        assert [grants.between(START, None), grants.between(None, NEXT), grants.between(None, None)] == [None] * 3
        assert [grants.between(START, START), grants.between(NEXT, START)] == [None] * 2

    def test_overlaps_by_what_is_shared_and_never_by_less_than_nothing(self) -> None:
        assert MONTH.overlap(Period(START + 10 * DAY, NEXT + DAY)) == 20 * DAY
        assert MONTH.overlap(Period(NEXT, NEXT + DAY)) == timedelta(0)
        assert MONTH.overlap(Period(NEXT + DAY, NEXT + 2 * DAY)) == timedelta(0)


class TestACycle:
    @pytest.mark.parametrize(
        ("cycle", "days"),
        [
            (Cycle("day"), 1),
            (Cycle("day", 10), 10),
            (Cycle("week", 2), 14),
            (Cycle("month"), 31),
            (Cycle("month", 3), 92),
            (Cycle("year"), 365),
            (Cycle("year", 2), 731),
        ],
    )
    def test_is_as_long_as_the_calendar_says(self, cycle: Cycle, days: int) -> None:
        assert cycle.from_start(START) == Period(START, START + timedelta(days=days))

    def test_of_months_counts_from_its_first_day(self) -> None:
        at = datetime(2026, 1, 31, tzinfo=UTC)
        assert Cycle("month").from_start(at) == Period(at, datetime(2026, 2, 28, tzinfo=UTC))
        assert Cycle("month", 2).from_start(at) == Period(at, datetime(2026, 3, 31, tzinfo=UTC))
        assert Cycle("").from_start(at) is None

    def test_is_whole_within_what_months_differ_by(self) -> None:
        natural = Period(START, START + 31 * DAY)
        for days, whole in ((27, natural), (28, None), (31, None), (34, None), (35, natural)):
            span = Period(START, START + days * DAY)
            assert MONTHLY.whole(span) == (whole or span)
        assert MONTHLY.whole(MONTH, in_part=True) == natural
        week = Cycle("week")
        assert week.whole(Period(START, START + 6 * DAY)) == Period(START, START + 7 * DAY)
        assert Cycle("").whole(Period(START, START + DAY), in_part=True) == Period(START, START + DAY)

    def test_of_a_month_divides_what_is_longer(self) -> None:
        year = Period(START, START + 365 * DAY)
        april = Period(datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))
        assert MONTHLY.at(year, april.starts_at) == (april, april)
        assert MONTHLY.at(year, START - DAY)[0].starts_at == START
        last = Period(datetime(2027, 2, 1, tzinfo=UTC), datetime(2027, 3, 1, tzinfo=UTC))
        assert MONTHLY.at(year, START + 400 * DAY) == (last, last)
        cut = Period(START, START + 40 * DAY)
        assert MONTHLY.at(cut, cut.ends_at) == (Period(april.starts_at, cut.ends_at), april)
        assert Cycle("year").at(year, april.starts_at) == (year, year)
        assert MONTHLY.at(Period(START, START + 32 * DAY), START)[0].length == 32 * DAY

    @pytest.mark.parametrize(
        "first", ["2023-11-01", "2023-11-28", "2023-11-29", "2023-11-30", "2023-08-31", "2024-02-29"]
    )
    @pytest.mark.parametrize(
        ("interval", "count"), [("month", 2), ("month", 3), ("month", 6), ("year", 1), ("year", 3)]
    )
    def test_of_a_month_has_as_many_as_were_billed_whatever_day_they_begin_on(
        self, interval: str, count: int, first: str
    ) -> None:
        """Stripe counts from its anchor: a quarter of the 30th ends on 28 February, and the next one begins then."""
        anchor = datetime.fromisoformat(f"{first}T13:05+00:00")
        step = count * (12 if interval == "year" else 1)
        ends = [datetime.combine(add_months(anchor.date(), step * n), anchor.timetz()) for n in range(9)]
        for span in (Period(*pair) for pair in pairwise(ends)):
            [grant] = of(invoice(line(*astuple(span), price=priced(interval, count))))
            windows, at = [], span.starts_at
            while at < span.ends_at:
                window, whole = MONTHLY.at(span, at)
                assert window == whole
                windows.append(window)
                at = window.ends_at
            assert [grants.given([grant], one) for one in windows] == [1000] * step

    def test_of_a_month_is_cut_where_what_was_billed_is_cut(self) -> None:
        for starts_at, ends_at in ((START, START + 40 * DAY), (datetime(2026, 2, 28, tzinfo=UTC), START + 40 * DAY)):
            first, last = grants.months(Period(starts_at, ends_at))
            assert (first.starts_at, last.starts_at) == (starts_at, first.ends_at)
            assert last.starts_at < ends_at < last.ends_at

    def test_is_a_month_where_the_budget_is_one_and_no_shorter_price_bills_it(self) -> None:
        def cycle(price: StripePrice) -> Cycle:
            [worth] = Pricing([], {}).worths([price], set()).values()
            return grants.cycle_of(price, worth)

        monthly = {"llm_budget_usd": "1"}
        billing = monthly | {"llm_budget_period": "billing"}
        assert [cycle(priced(name, **monthly)) for name in ("month", "year", "")] == [MONTHLY] * 3
        assert cycle(priced("month", 6, **monthly)) == MONTHLY
        assert [cycle(priced("week", n, **monthly)) for n in (1, 4, 5)] == [Cycle("week"), Cycle("week", 4), MONTHLY]
        assert [cycle(priced(name, **billing)) for name in ("month", "year")] == [MONTHLY, Cycle("year")]
        used = StripePrice("price_x", interval="month", metered=True, metadata=monthly)
        assert cycle(used) == Cycle("month", in_arrears=True)
        assert [str(one) for one in (MONTHLY, cycle(used))] == ["1 month", "1 month in arrears"]


class TestALine:
    def test_pays_for_the_part_of_the_budget_that_it_bills(self) -> None:
        assert worth(invoice(line())) == 1000
        assert worth() == 0
        ten_days = line(ends_at=START + 10 * DAY, amount=1000)
        # Of a month that has 31, and rounded against the customer.
        assert repr(worth(invoice(ten_days))) == str(1000 * 10 // 31)
        assert worth(invoice(line(NEXT, NEXT + 30 * DAY))) == 0
        assert worth(invoice(line(START - 30 * DAY, START + 10 * DAY))) == 333

    def test_that_is_a_credit_counts_against_it_and_never_below_nothing(self) -> None:
        # 333 and a third are taken off, and what is left is rounded down.
        assert worth(invoice(line(), credit(START + 20 * DAY))) == 666
        assert worth(invoice(credit(START + 20 * DAY))) == 0
        # Measured alone, it is a part of the month that begins with it.
        assert worth(invoice(credit(START + 20 * DAY), line())) == 1000 - 1000 * 10 // 31 - 1

    def test_that_bills_something_else_or_has_no_span_pays_for_nothing(self) -> None:
        assert worth(invoice(line(recurring=False), change(START + 20 * DAY, amount=1000))) == 1000 * 10 // 31
        for ends in ({"starts_at": None}, {"ends_at": None}, {"ends_at": START}):
            assert worth(invoice(line(**ends))) == 0

    def test_of_an_invoice_that_is_not_paid_or_of_another_subscription_pays_for_nothing(self) -> None:
        assert worth(invoice(line(), status="open")) == 0
        assert worth(invoice(line(subscription_id="sub_2"))) == 0
        assert worth(invoice(line(), subscription="sub_2")) == 0
        # Any invoice may bill what was waiting for the next one.
        assert worth(invoice(line(subscription_id="sub_1"), subscription="")) == 1000

    def test_that_charges_nothing_for_what_has_a_price_gives_nothing(self) -> None:
        assert worth(invoice(line(amount=0))) == 0
        assert worth(invoice(line(amount=0, listed=3000))) == 1000
        for price in (StripePrice("price_x", interval="month"), FREE):
            assert worth(invoice(line(amount=0, price=price))) == 1000
        # In another currency the list price says nothing.
        assert worth(invoice(line(amount=0, currency="eur"))) == 1000
        # Nor does one of nothing, but where that has no price.
        assert worth(invoice(line(amount=0, quantity=0))) == 0
        assert worth(invoice(line(amount=0, quantity=0, price=StripePrice("price_x", interval="month")))) == 0
        assert worth(invoice(line(amount=0, quantity=0, price=FREE))) == 1000

    def test_of_a_trial_gives_nothing_whatever_its_price(self) -> None:
        tiers = StripePrice("price_x", interval="month")
        for starts_at, ends_at, found in (
            (START, START + DAY, 0),
            (NEXT, NEXT + DAY, 1000),
            (START - DAY, START, 1000),
        ):
            tried = subscription(tiers, trial_starts_at=starts_at, trial_ends_at=ends_at)
            assert worth(invoice(line(amount=0, price=tiers)), sub=tried) == found
        tried = subscription(tiers, trial_starts_at=START, trial_ends_at=NEXT)
        assert worth(invoice(line(amount=1, price=tiers)), sub=tried) == 1000
        used = StripePrice("price_x", interval="month", metered=True)
        assert worth(invoice(line(amount=0, price=used)), sub=subscription(used)) == 1000

    def test_that_charged_less_than_its_price_bills_a_part(self) -> None:
        [whole], [part] = of(invoice(line())), of(invoice(line(amount=2999)))
        assert (whole.in_part, part.in_part) == (False, True)
        assert [one.in_part for one in of(invoice(line(amount=5999, quantity=2), line(amount=6000, quantity=2)))] == [
            True,
            False,
        ]

    @pytest.mark.parametrize("days", [28, 31])
    @pytest.mark.parametrize("is_change", [True, False])
    def test_until_an_anchor_is_a_part_of_the_interval_by_which_it_was_charged(
        self, days: int, is_change: bool
    ) -> None:
        """From 1 to 21 March: of a month that begins then, or of the one from 21 February."""
        make, until = change if is_change else line, START + 20 * DAY
        first = make(START, until, amount=3000 * 20 // days)
        assert worth(invoice(first)) == 1000 * 20 // days
        # What is credited of it is of the same.
        back = credit(START + 10 * DAY, until, amount=-3000 * 10 // days)
        assert worth(invoice(first, back)) == 1000 * 10 // days

    def test_until_an_anchor_whose_price_does_not_say_what_a_whole_one_costs(self) -> None:
        until = START + 20 * DAY
        for price in (StripePrice("price_x", interval="month"), replace(PRICE, currency="eur")):
            assert worth(invoice(change(START, until, amount=3000 * 20 // 28, price=price))) == 1000 * 20 // 31
        # Of a year's price a month's budget is no part that its charge tells, and all weeks are as long.
        assert worth(invoice(change(START, until, amount=100, price=priced("year")))) == 1000 * 20 // 31
        weekly = change(START, START + 3 * DAY, amount=1200, price=priced("week"))
        assert worth(invoice(weekly)) == 1000 * 7 // 31 * 3 // 7

    def test_that_names_its_price_by_the_id_alone_is_told_the_rest_by_the_item(self) -> None:
        known = priced("year", llm_budget_usd="12", llm_budget_period="billing")
        bare = line(ends_at=START + 365 * DAY, price=StripePrice("price_x"), amount=3000)
        [found] = of(invoice(bare), sub=subscription(known), limit=0)
        assert (found.cycle, found.nanos) == (Cycle("year"), 12 * 10**9)

    def test_beside_a_mapped_item_that_nothing_maps_is_worth_nothing(self) -> None:
        other = StripePrice("price_y", unit_amount=100, currency="usd", interval="month")
        default = PlanRule("Standard", 50, is_default=True)
        mapped = PlanRule("Plan", 1000, price_ids=frozenset({"price_x"}))
        items = (Item("si_1", PRICE, 1, START, NEXT), Item("si_2", other, 1, START, NEXT))
        sub = StripeSubscription("sub_1", "active", items)

        def total(plans: list[PlanRule], sub: StripeSubscription | None, *invoices: StripeInvoice) -> int:
            found = grants.of(sub, "sub_1", invoices, Pricing(plans, {}), set())
            return sum(grants.given(all, MONTH) for all in found.values())

        alone, both = invoice(line(price=other, amount=100)), invoice(line(), line(price=other, amount=100))
        assert total([default, mapped], sub, alone) == 0
        assert total([default, mapped], sub, both) == 1000
        assert total([default, mapped], None, both) == 1000
        assert total([default, mapped], None, alone) == 50
        # Where none is mapped the default counts once for a span.
        assert total([default], sub, both) == 50
        assert total([default], sub, invoice(line(), credit(START), line(price=other, amount=100))) == 0

    def test_that_is_a_credit_takes_back_what_its_price_was_charged_as(self) -> None:
        default = PlanRule("Standard", 90, is_default=True)
        mapped = PlanRule("Plan", 1000, price_ids=frozenset({"price_x"}))
        other = StripePrice("price_y", unit_amount=100, currency="usd", interval="month")

        def total(*invoices: StripeInvoice, sub: StripeSubscription | None) -> int:
            found = grants.of(sub, "sub_1", invoices, Pricing([default, mapped], {}), set())
            return sum(grants.given(all, MONTH) for all in found.values())

        rest = {"starts_at": START + 20 * DAY, "price": other}
        up = invoice(credit(**rest), change(START + 20 * DAY, amount=1000), id="in_2")
        alone, both = invoice(line(price=other, amount=100)), invoice(line(), line(price=other, amount=100))
        assert total(alone, up, sub=subscription()) == 90 - 30 + 333
        # What was worth nothing beside another is that when it goes.
        assert total(both, invoice(credit(**rest), id="in_2"), sub=subscription()) == 1000
        # Of two that nothing maps the first was worth the plan.
        third = replace(other, id="price_z")
        two = invoice(line(price=other, amount=100), line(price=third, amount=100))
        assert total(two, invoice(credit(**rest), id="in_2"), sub=None) == 60
        assert total(two, invoice(credit(**rest | {"price": third}), id="in_2"), sub=None) == 90

    def test_whose_price_bills_each_tier_by_itself_counts_once(self) -> None:
        tiers = StripePrice("price_x", interval="month")
        assert worth(invoice(line(price=tiers), line(price=tiers, amount=500))) == 1000
        rest = credit(START + 20 * DAY, price=tiers)
        assert worth(invoice(line(price=tiers), line(price=tiers)), invoice(rest, rest, id="in_2")) == 666

    def test_in_arrears_pays_for_what_was_used_however_short_its_span(self) -> None:
        used = StripePrice("price_x", interval="month", metered=True)
        short = line(ends_at=START + DAY, price=used, amount=7)
        assert worth(invoice(short), sub=subscription(used)) == 1000
        year = Period(START, START + 345 * DAY)
        yearly = replace(used, interval="year")
        long = invoice(line(ends_at=year.ends_at, price=yearly))
        # A month's budget twelve times, the last of them for what there was of it.
        assert worth(long, sub=subscription(yearly), period=year) == 12 * 1000
        last = Period(datetime(2027, 2, 1, tzinfo=UTC), year.ends_at)
        assert worth(long, sub=subscription(yearly), period=last) == 1000

    def test_in_arrears_of_time_to_come_that_charges_nothing_is_a_trials(self) -> None:
        used = StripePrice("price_x", interval="month", metered=True)

        def billed(at: datetime | None, amount: int = 0) -> int:
            return worth(replace(invoice(line(price=used, amount=amount)), created_at=at), sub=subscription(used))

        assert [billed(at) for at in (START, NEXT - SECOND, NEXT, None)] == [0, 0, 1000, 1000]
        assert billed(START, amount=7) == 1000

    def test_of_nothing_that_gives_back_what_was_free_takes_it(self) -> None:
        paid = StripePrice("price_y", unit_amount=3000, currency="usd", interval="month")
        free, part = line(amount=0, price=FREE), change(START + 20 * DAY, amount=0, price=FREE)
        for sub in (subscription(paid), subscription(FREE)):
            assert worth(invoice(free), invoice(part, id="in_2"), sub=sub) == 666
            assert worth(invoice(free), invoice(replace(part, credit=True), id="in_2"), sub=sub) == 666
            # As a change of its quantity does, and gives it anew.
            assert worth(invoice(free), invoice(part, part, id="in_2"), sub=sub) == 1000

    def test_of_nothing_for_time_that_was_not_given_gives_it_and_the_next_takes_it_back(self) -> None:
        part, rest = (change(START + days * DAY, amount=0, price=FREE) for days in (15, 20))
        first, second, third = invoice(part), invoice(rest, id="in_2"), invoice(rest, id="in_3")
        # Fifteen days of a month of 31, and ten of them.
        for sub in (subscription(), subscription(FREE)):
            assert worth(first, sub=sub) == worth(first, second, third, sub=sub) == 1000 * 15 // 31
            assert worth(first, second, sub=sub) == 1000 * 5 // 31
        # Beside what was paid it takes nothing of that, nor what is of other time.
        paid = invoice(line(), id="in_0")
        other = replace(FREE, id="price_y")
        for more in (replace(rest, ends_at=NEXT + DAY), replace(rest, ends_at=None), replace(rest, price=other)):
            assert worth(paid, invoice(more, id="in_2")) >= worth(paid)

    def test_of_a_share_of_revenue_is_worth_that_of_what_it_charged(self) -> None:
        share = priced(llm_budget_percent="50")
        assert worth(invoice(line(price=share, amount=2000, listed=3000)), limit=0) == 10 * 10**9
        assert worth(invoice(line(price=share, amount=2380, included_tax=380)), limit=0) == 10 * 10**9
        undone = credit(START, price=share, amount=-2380, included_tax=-380)
        assert worth(invoice(line(price=share, amount=2380, included_tax=380), undone), limit=0) == 0
        part = change(START + 20 * DAY, price=share, amount=1000)
        assert worth(invoice(part), limit=0) == 5 * 10**9
        assert worth(invoice(line(price=share), credit(START + 20 * DAY, price=share)), limit=0) == 10 * 10**9
        assert worth(invoice(part), limit=0, period=Period(START, START + 25 * DAY)) == 25 * 10**8

    def test_of_a_share_of_a_years_revenue_is_worth_a_twelfth_each_month(self) -> None:
        year = line(ends_at=START + 365 * DAY, price=priced("year", llm_budget_percent="50"), amount=120_000)
        month = Period(START, START + 31 * DAY)
        assert worth(invoice(year), limit=0, period=month) == 50 * 10**9
        assert worth(invoice(year), limit=0) == 50 * 10**9 * 30 // 31
        whole = line(
            ends_at=START + 365 * DAY,
            price=priced("year", llm_budget_percent="50", llm_budget_period="billing"),
            amount=120_000,
        )
        span = Period(START, START + 365 * DAY)
        assert worth(invoice(whole), period=span, limit=0) == 600 * 10**9

    @pytest.mark.parametrize("first", [datetime(2026, 2, 1, tzinfo=UTC), START, datetime(2026, 4, 1, tzinfo=UTC)])
    def test_of_a_share_of_a_years_revenue_that_is_credited_takes_back_all_of_it(self, first: datetime) -> None:
        """However often a month becomes a year and a month again, in months of any length."""
        month, year = (cast(Period, Cycle(name).from_start(first)) for name in ("month", "year"))
        monthly, yearly = priced(llm_budget_percent="100"), replace(priced("year", llm_budget_percent="100"), id="y")
        bought = line(*astuple(month), price=monthly, amount=10_000), line(*astuple(year), price=yearly, amount=120_000)
        back = [replace(one, amount=-one.amount, credit=True, proration=True, recurring=False) for one in bought]
        for times in range(1, 4):
            found = of(invoice(*(back[0], bought[1], back[1], bought[0]) * times, bought[0]), limit=0)
            assert grants.given(found, month) == grants.given(found, year) == 100 * 10**9
            assert grants.given(found, Period(month.ends_at, year.ends_at)) == 0

    def test_of_a_share_of_revenue_gives_what_it_charged_however_it_is_divided(self) -> None:
        share = priced("year", llm_budget_percent="100")
        for first, last in ((0, 365), (10, 365), (45, 365), (40, 200), (3, 20)):
            span = Period(START + first * DAY, START + last * DAY)
            found = of(invoice(change(*astuple(span), price=share, amount=1000)), limit=0)
            assert grants.given(found, span) == 10 * 10**9
            divided = sum((found[0].within(one) for one in grants.months(span)), Fraction(0))
            assert divided == 10 * 10**9
        # Each month has as much, but for the last one that is cut.
        part = Period(START, START + 46 * DAY)
        [grant] = of(invoice(line(*astuple(part), price=share, amount=1500)), limit=0)
        assert [grant.within(one) for one in grants.months(part)] == [10 * 10**9, 5 * 10**9]

    def test_of_a_week_under_a_months_budget_is_worth_its_days(self) -> None:
        week = Period(START, START + 7 * DAY)
        weekly = line(ends_at=week.ends_at, price=priced("week"))
        assert worth(invoice(weekly), period=week, limit=3100) == 700
        billing = {"llm_budget_usd": "31", "llm_budget_period": "billing"}
        whole = line(ends_at=week.ends_at, price=priced("week", **billing))
        assert worth(invoice(whole), period=week, limit=0) == 31 * 10**9

    def test_that_was_paid_back_is_left_out(self) -> None:
        found = of(invoice(line()), invoice(credit(START + 20 * DAY), id="in_2"))
        assert grants.given(found, MONTH, lost={"in_1": Fraction(1)}) == 0
        assert grants.given(found, MONTH, lost={"in_1": Fraction(1, 2)}) == 500 - 333 - 1
        # What is left of a credit's own invoice is nothing to it; it takes back what is left of its charge.
        assert grants.given(found, MONTH, lost={"in_2": Fraction(1)}) == grants.given(found, MONTH) == 666
        half = {"in_1": Fraction(1, 2), found[1].line_id: Fraction(1, 2)}
        assert grants.given(found, MONTH, lost=half) == 333
        assert grants.given(found, MONTH, lost={}) == grants.given(found, MONTH, lost={"in_1": Fraction(0)}) == 666

    def test_pays_for_a_microsecond(self) -> None:
        part = Period(START, START + timedelta(microseconds=1))
        assert worth(invoice(line()), period=part, limit=10**15) == 10**15 // (30 * 86_400 * 10**6)


class TestTimeThatIsPaidFor:
    def spans(self, *lines: Line) -> list[tuple[int, int]]:
        found = grants.spans(of(invoice(*lines)))
        return [((span.starts_at - START) // DAY, (span.ends_at - START) // DAY) for span in found]

    def at(self, first: int, last: int, **fields: Any) -> Line:
        return line(START + first * DAY, START + last * DAY, **fields)

    def test_is_in_order_and_as_it_was_billed(self) -> None:
        assert self.spans() == []
        assert self.spans(self.at(30, 60), self.at(0, 30), self.at(100, 130)) == [(0, 30), (30, 60), (100, 130)]

    def test_is_not_divided_by_changes_within_a_period(self) -> None:
        up = credit(START + 10 * DAY), change(START + 10 * DAY, amount=9000)
        assert self.spans(self.at(0, 30), *up) == [(0, 30)]
        # The change of a period that is not paid for counts by itself.
        assert self.spans(*up) == [(10, 30)]
        assert self.spans(change(START), self.at(0, 30)) == [(0, 30)]

    def test_begins_anew_where_the_rest_was_credited(self) -> None:
        assert self.spans(self.at(0, 30), credit(START + 10 * DAY), self.at(10, 40)) == [(0, 10), (10, 40)]
        year = self.at(0, 365)
        assert self.spans(year, credit(START + 10 * DAY, year.ends_at), self.at(10, 40)) == [(0, 10), (10, 40)]
        moved = self.at(10, 40, recurring=False, proration=True)
        assert self.spans(self.at(0, 30), credit(START + 10 * DAY), moved) == [(0, 30), (30, 40)]

    def test_begins_anew_where_it_was_not_and_goes_on_beyond_it(self) -> None:
        assert self.spans(self.at(0, 30), self.at(10, 40)) == [(0, 10), (10, 40)]
        # What is billed within a period, and does not go on beyond it, is a part of it.
        year = self.at(0, 365)
        for rest in ((), (credit(START + 11 * DAY, year.ends_at),), (credit(START + 10 * DAY, year.ends_at - DAY),)):
            assert self.spans(year, *rest, self.at(10, 40)) == [(0, 365)]
        assert self.spans(self.at(0, 30), self.at(10, 30)) == [(0, 30)]
        assert self.spans(self.at(0, 30), self.at(0, 365)) == [(0, 30), (30, 365)]
        assert self.spans(self.at(0, 30), credit(START), self.at(0, 30)) == [(0, 30)]

    def year(self, first: int, last: int, **fields: Any) -> Line:
        return self.at(first, last, price=YEARLY, **fields)

    def test_begins_anew_where_what_began_together_lasts_for_a_month_and_a_year(self) -> None:
        both = self.at(0, 30), self.year(0, 365)
        back = credit(START + 18 * DAY), credit(START + 18 * DAY, START + 365 * DAY, price=YEARLY)
        anew = self.at(18, 48), self.year(18, 383)
        assert self.spans(*both) == [(0, 30), (30, 365)]
        # A moved anchor, with and without credits; and the year becomes another month's price.
        assert self.spans(*both, *back, *anew) == [(0, 18), (18, 48), (48, 383)]
        assert self.spans(*both, *anew) == [(0, 18), (18, 383)]
        assert self.spans(*both, *back, anew[0], anew[0]) == [(0, 18), (18, 48)]
        # As well where other months were billed before.
        later = credit(START + 48 * DAY, START + 365 * DAY, price=YEARLY)
        assert self.spans(*both, self.at(30, 60), later, self.at(48, 78)) == [(0, 30), (30, 48), (48, 78)]
        # What does not go on beyond the year is a part of it.
        assert self.spans(*both, anew[0]) == self.spans(*both) == [(0, 30), (30, 365)]

    def test_goes_on_no_longer_than_until_the_rest_was_credited(self) -> None:
        both = self.at(0, 30), self.year(0, 365)

        def back(day: int) -> Line:
            return credit(START + day * DAY, START + 365 * DAY, price=YEARLY)

        assert [self.spans(*both, back(day)) for day in (0, 30, 200)] == [[(0, 30)], [(0, 30)], [(0, 30), (30, 200)]]
        assert self.spans(*both, back(200), self.at(200, 230)) == [(0, 30), (30, 200), (200, 230)]
        # Months go on beside it and after it, as they were billed.
        months = [self.at(30 * number, 30 * number + 30) for number in range(1, 4)]
        for day in (30, 48, 60, 70):
            assert self.spans(*both, *months, back(day)) == [(0, 30), (30, 60), (60, 90), (90, 120)]
        # A change credits the rest and charges it anew, and a month that became a year may become one again.
        more = change(START + 9 * DAY, START + 365 * DAY, price=YEARLY, amount=9000)
        assert self.spans(*both, back(9), more) == [(0, 30), (30, 365)]
        assert self.spans(*both, back(9), more, back(50)) == [(0, 30), (30, 50)]
        assert self.spans(*both, back(0), self.year(0, 365)) == [(0, 30), (30, 365)]

    @given(st.lists(st.tuples(*[st.integers(0, 9)] * 2, *[st.booleans()] * 3), max_size=9))
    def test_never_ends_before_it_begins_and_never_overlaps(
        self, lines: list[tuple[int, int, bool, bool, bool]]
    ) -> None:
        whole, part = {}, {"proration": True, "recurring": False}
        bought = [
            line(
                START + first * 10 * DAY,
                START + (first + length + 1) * 10 * DAY,
                **(part if is_change or is_back else whole),
                **({"amount": -3000, "credit": True} if is_back else {}),
                price=YEARLY if is_year else PRICE,
            )
            for first, length, is_change, is_back, is_year in lines
        ]
        found = self.spans(*bought)
        assert all(first < last for first, last in found)
        assert all(last <= first for (_, last), (first, _) in pairwise(found))
        charged = [one for one in of(invoice(*bought)) if not one.is_credit]
        assert [first for first, _ in found[:1]] == sorted((one.span.starts_at - START) // DAY for one in charged)[:1]

    def test_is_known_afterwards_to_have_ended_with_the_next(self) -> None:
        known = of(invoice(self.at(0, 30), credit(START + 10 * DAY), self.at(10, 40)))
        assert grants.until_next(MONTH, known) == Period(START, START + 10 * DAY)
        later = Period(START + 10 * DAY, START + 40 * DAY)
        assert grants.until_next(later, known) == later
        assert grants.until_next(MONTH, []) == MONTH

    def test_tells_its_cycle_at_a_moment(self) -> None:
        known = grants.of(None, "sub_1", [invoice(line())], Pricing([], {"price_x": (2, 5, 0)}), set())
        found = [grants.cycle_at(known, at) for at in (START - SECOND, START, NEXT - SECOND, NEXT)]
        assert found == ["", "1 month", "1 month", ""]


def test_an_item_is_worth_what_its_whole_cycle_is_by_list_price() -> None:
    def item(price: StripePrice, quantity: int = 1) -> int:
        pricing = Pricing([], {})
        [worth] = pricing.worths([price], set()).values()
        return grants.per_cycle(pricing, worth, price, quantity, MONTH, set())

    assert item(priced(llm_budget_usd="5", llm_budget_per_unit="yes"), 3) == 15 * 10**9
    assert item(priced(llm_budget_percent="50"), 2) == 30 * 10**9
    assert item(priced("year", 2, llm_budget_percent="50"), 24) == 15 * 10**9
    assert item(priced("year", llm_budget_percent="50", llm_budget_period="billing")) == 15 * 10**9
    assert item(priced("week", llm_budget_usd="31")) == 7 * 10**9
    assert item(priced("week", llm_budget_percent="50")) == item(priced("", llm_budget_percent="50")) == 15 * 10**9
    # Ten weeks from March on are two months and nine days of May.
    assert item(priced("week", 10, llm_budget_percent="50")) == 15 * 10**9 * 31 // 71


def test_invoices_about_a_period_are_those_that_bill_some_of_it() -> None:
    before, after = line(START - DAY, START), line(NEXT, NEXT + DAY)
    touching, long = invoice(before, after, id="in_1"), invoice(line(START - DAY, NEXT + DAY), id="in_2")
    within, half = invoice(before, change(START + DAY), id="in_3"), invoice(line(starts_at=None), id="in_4")
    open_ended = invoice(line(ends_at=None), id="in_5")
    assert grants.about(MONTH, [touching, long, within, half, open_ended]) == [long, within]
