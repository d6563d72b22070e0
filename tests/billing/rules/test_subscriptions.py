"""What becomes of several subscriptions, of statuses, trials and policies: whole entitlements, to the nanodollar."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from billing.rules.entitlement import Entitlement, EntitlementState, closed, entitle
from billing.rules.grants import Period
from billing.rules.refunds import Refund, RefundKind
from billing.rules.shares import WindowShare, is_due
from billing.rules.valuation import BillingPolicy, PlanPolicy, PlanRule
from billing.stripe_api import objects
from tests.billing import events
from tests.billing.events import DAY, START
from tests.billing.rules.test_entitlement import NEXT, paid, sub

# By product too, since an invoice's line does not say its price's lookup key.
STANDARD, PREMIUM = (
    PlanRule(name, dollars * 10**9, lookup_keys=frozenset({key}), product_ids=frozenset({f"prod_{key}"}))
    for name, key, dollars in (("Standard", "standard", 50), ("Premium", "premium", 200))
)
TRIAL_END = START + 14 * DAY
TRYING = {"status": "trialing", "trial_start": events.seconds(START), "trial_end": events.seconds(TRIAL_END)}
# An amount that a tenth of is no whole nanodollar.
ODD = PlanRule("Odd", 55, lookup_keys=frozenset({"standard"}), is_default=True)


def premium(**fields: Any) -> tuple[objects.StripeSubscription, objects.StripeInvoice]:
    """A second subscription, with its invoice."""
    return (
        sub(subscription="sub_b", price="price_premium", **fields),
        paid(subscription="sub_b", price="price_premium", **fields),
    )


def entitled(subs: list[objects.StripeSubscription], invoices: list[objects.StripeInvoice], **more: Any) -> Entitlement:
    return entitle(subscriptions=subs, invoices=invoices, **{"plans": [STANDARD, PREMIUM], "now": START} | more)


def odd(subs: list[objects.StripeSubscription], invoices: list[objects.StripeInvoice], **more: Any) -> Entitlement:
    return entitle(subscriptions=subs, invoices=invoices, **{"plans": [ODD], "now": START} | more)


def test_subscriptions_add_up_in_the_newest_period() -> None:
    other, invoice = premium()
    found = entitled([sub(period_start=START + DAY), other], [paid(period_start=START + DAY), invoice], now=START + DAY)
    assert found.limit_nanos == entitled([sub(), other], [paid(), invoice]).limit_nanos
    assert found.limit_nanos == STANDARD.limit_nanos + PREMIUM.limit_nanos
    assert (found.subscription_id, found.period, found.plan) == (
        "sub_acme",
        Period(START + DAY, NEXT),
        "Premium + Standard",
    )
    assert [part.subscription_id for part in found.parts] == ["sub_b", "sub_acme"]


def test_a_period_that_is_over_adds_nothing_to_one_that_is_not() -> None:
    other, invoice = premium(period_start=NEXT, period_end=NEXT + 30 * DAY)
    over = sub(cancel_at_period_end=True)
    found = entitled([over, other], [paid(), invoice], now=NEXT)
    assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, PREMIUM.limit_nanos)
    assert "period_ended" in found.reasons


def test_of_periods_that_are_over_the_last_one_is_shown() -> None:
    other, invoice = premium(period_start=START + DAY)
    found = entitled([sub(), other], [paid(), invoice], now=NEXT + DAY)
    assert (found.state, found.limit_nanos) == (EntitlementState.LAPSED, PREMIUM.limit_nanos)
    assert (found.period, found.subscription_id) == (Period(START + DAY, NEXT), "sub_b")


def test_of_a_year_that_is_over_its_last_month_is_shown() -> None:
    year = sub(
        price=events.price_of("price_standard", interval="year"),
        period_end=START + 365 * DAY,
        cancel_at_period_end=True,
    )
    found = entitled([year], [paid(period_end=START + 365 * DAY)], now=START + 370 * DAY)
    assert (found.state, found.period) == (
        EntitlementState.LAPSED,
        Period(datetime(2027, 2, 1, tzinfo=UTC), datetime(2027, 3, 1, tzinfo=UTC)),
    )


def test_whoever_has_no_subscription_has_nothing() -> None:
    found = entitled([], [])
    assert (found.state, found.limit_nanos, found.period, found.parts) == (EntitlementState.NONE, None, None, ())
    assert (found.subscription_id, found.plan, found.reasons) == ("", "", ())


def test_a_period_of_thirty_two_days_is_a_month() -> None:
    end = START + 32 * DAY
    rolled = sub(period_start=end, period_end=end + 32 * DAY)
    assert entitled([rolled], [paid(period_end=end)], now=end).period == Period(end, end + 32 * DAY)
    over = entitled([sub(period_end=end, cancel_at_period_end=True)], [paid(period_end=end)], now=end + DAY)
    assert (over.state, over.period) == (EntitlementState.LAPSED, Period(START, end))
    # One of thirty-three days is more than a month.
    longer = START + 33 * DAY
    divided = entitled([sub(period_end=longer)], [paid(period_end=longer)])
    assert divided.period == Period(START, datetime(2026, 4, 1, tzinfo=UTC))


def test_a_budget_for_a_whole_year_follows_the_years() -> None:
    price = events.price_of(
        "price_x", interval="year", metadata={"llm_budget_usd": "600", "llm_budget_period": "billing"}
    )
    first, second = Period(START, START + 365 * DAY), Period(START + 365 * DAY, START + 730 * DAY)
    renewed = sub(price=price, period_start=second.starts_at, period_end=second.ends_at)
    opened = paid(price="price_x", period_end=first.ends_at)
    unpaid = entitled([renewed], [opened], now=second.starts_at)
    assert (unpaid.state, unpaid.period) == (EntitlementState.PROVISIONAL, second)
    update = paid(
        price="price_x",
        billing_reason="subscription_update",
        period_start=second.starts_at,
        period_end=second.ends_at,
    )
    found = [entitled([renewed], [opened, update], now=at).period for at in (START, second.starts_at)]
    assert found == [first, second]


def test_amounts_in_other_currencies_count_by_the_policys_rates() -> None:
    price = events.price_of("price_x", unit_amount=1000, currency="eur", metadata={"llm_budget_percent": "100"})
    raw = events.invoice(price="price_x", amount_paid=1000)
    raw["lines"]["data"][0]["currency"] = "eur"
    invoice = objects.invoice(raw)
    without = entitled([sub(price=price)], [invoice])
    assert (without.limit_nanos, without.reasons) == (0, ("no_exchange_rate:eur",))
    rates = {"eur": Decimal("1.1")}
    assert entitled([sub(price=price)], [invoice], policy=BillingPolicy(rates=rates)).limit_nanos == 11 * 10**9


@pytest.mark.parametrize(
    ("told", "limit"),
    [
        ({"taxes": [{"amount": 380, "tax_behavior": "inclusive"}, {"amount": 1, "tax_behavior": "exclusive"}]}, 20),
        ({"tax_amounts": [{"amount": 380, "inclusive": True}, {"amount": 1, "inclusive": False}]}, 20),
        ({"taxes": [{"amount": 380, "tax_behavior": "exclusive"}], "tax_amounts": None}, "23.80"),
    ],
)
def test_a_share_of_revenue_is_without_the_tax_that_the_price_includes(told: dict[str, Any], limit: Any) -> None:
    price = events.price_of("price_x", unit_amount=2380, metadata={"llm_budget_percent": "100"})
    raw = events.invoice(price="price_x", amount_paid=2380)
    raw["lines"]["data"][0] |= told
    assert entitled([sub(price=price)], [objects.invoice(raw)]).limit_nanos == int(Decimal(limit) * 10**9)


def test_a_trial_and_a_paid_subscription_add_up() -> None:
    other, invoice = premium()
    found = entitled([sub(**TRYING), other], [invoice])
    assert (found.state, found.limit_nanos) == (
        EntitlementState.ACTIVE,
        STANDARD.limit_nanos // 10 + PREMIUM.limit_nanos,
    )


def test_a_subscription_that_ended_says_less_than_one_whose_period_did() -> None:
    ended = sub(subscription="sub_b", status="canceled")
    assert entitled([sub(cancel_at_period_end=True), ended], [paid()], now=NEXT).state == EntitlementState.LAPSED


def test_the_strictest_cap_of_all_subscriptions_counts() -> None:
    def capped(id: str, soft: str, hard: str) -> objects.StripeSubscription:
        metadata = {"llm_budget_usd": "5", "llm_soft_cap": soft, "llm_hard_cap": hard}
        return sub(subscription=id, price=events.price_of(f"price_{id}", metadata=metadata))

    subs = [capped("sub_a", "0.5", "0.9"), capped("sub_b", "0.6", "0.8"), sub(subscription="sub_c")]
    invoices = [paid(subscription=one.id, price=one.items[0].price.id) for one in subs]
    found = entitled(subs, invoices)
    assert (found.soft_e4, found.hard_e4) == (5000, 8000)
    alone = entitled([sub()], [paid()])
    assert (alone.soft_e4, alone.hard_e4) == (None, None)


def test_an_operators_limit_is_shared_as_the_plans_was() -> None:
    other, invoice = premium()
    found = entitled([sub(), other], [paid(), invoice], override_nanos=101)
    assert found.limit_nanos == 101
    # 50 of 250 dollars of 101 nanodollars, rounded down; the rest is the other's.
    assert [(part.limit_nanos, part.given_nanos) for part in found.parts] == [(20, 20), (81, 81)]
    third = sub(subscription="sub_c")
    shared = entitled([sub(), other, third], [paid(), invoice, paid(subscription="sub_c")], override_nanos=100)
    assert [part.limit_nanos for part in shared.parts] == [16, 66, 18]


def test_an_operators_limit_where_the_plans_give_nothing() -> None:
    other, invoice = sub(subscription="sub_b", price="price_y"), paid(subscription="sub_b", price="price_y")
    found = entitle(
        subscriptions=[sub(price="price_x"), other],
        invoices=[paid(price="price_x"), invoice],
        plans=[PREMIUM],
        now=START,
        override_nanos=7,
    )
    assert found.limit_nanos == 7
    assert [part.limit_nanos for part in found.parts] == [7, 0]


def test_an_operators_limit_below_a_trials_takes_nothing_that_was_given() -> None:
    found = entitled([sub(**TRYING)], [], override_nanos=7)
    assert [(part.limit_nanos, part.given_nanos) for part in found.parts] == [(7, STANDARD.limit_nanos // 10)]


def test_the_free_tiers_month_is_utcs_whatever_the_zone_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        found = closed(policy=BillingPolicy(free_nanos=1), now=datetime(2026, 3, 31, 23, tzinfo=UTC))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found.period == Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))


@pytest.mark.parametrize("status", ["canceled", "incomplete_expired"])
def test_whoever_left_has_nothing_or_the_free_tier_of_the_calendar_month(status: str) -> None:
    gone = [sub(status=status)]
    kept = {"price_standard": (3, 42, 0, 0, 1, 1)}
    assert entitled(gone, [paid()], kept=kept) == Entitlement(EntitlementState.CLOSED, kept={})
    now = datetime(2026, 3, 31, 21, 5, 9, 3, tzinfo=timezone(timedelta(hours=-5)))
    april = Period(datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))
    found = entitled(gone, [paid()], now=now, policy=BillingPolicy(free_nanos=7))
    assert found == Entitlement(
        EntitlementState.FREE,
        7,
        april,
        (WindowShare("free", april, 7, given_nanos=7),),
        plan="free",
        reasons=("free_tier",),
        until=april.ends_at,
    )


def test_a_customer_that_is_closed_keeps_its_reasons_and_what_prices_were_worth() -> None:
    kept = {"price_standard": (3, 42, 0)}
    now = START + 12 * DAY
    nothing = closed(policy=BillingPolicy(), now=now, reasons=("gone",), kept=kept)
    assert nothing == Entitlement(EntitlementState.CLOSED, reasons=("gone",), kept=kept)
    free = closed(policy=BillingPolicy(free_nanos=1), now=now, reasons=("gone",), kept=kept)
    assert (free.state, free.limit_nanos, free.reasons) == (EntitlementState.FREE, 1, ("gone", "free_tier"))
    assert free.kept == kept
    assert closed(policy=BillingPolicy(free_nanos=1), now=now).kept == {}


@pytest.mark.parametrize(
    ("fields", "state", "reasons"),
    [
        ({}, "active", ()),
        ({"status": "unpaid"}, "suspended", ("unpaid",)),
        ({"cancel_at_period_end": True}, "active", ("cancels_at_period_end",)),
        ({"cancel_at": events.seconds(START + DAY)}, "active", ("cancels",)),
        ({"pause_collection": {"behavior": "void"}}, "active", ("collection_paused",)),
    ],
)
def test_a_status_says_why(fields: dict[str, Any], state: str, reasons: tuple[str, ...]) -> None:
    found = entitled([sub(**fields)], [paid()])
    assert (found.state, found.reasons) == (state, reasons)


def test_what_waits_for_its_payment_says_so() -> None:
    first = entitled([sub()], [])
    assert (first.state, first.reasons) == (EntitlementState.PENDING, ("awaiting_first_payment",))
    rolled = sub(period_start=NEXT, period_end=NEXT + 30 * DAY)
    later = entitled([rolled], [paid()], now=NEXT)
    assert (later.state, later.reasons) == (EntitlementState.PROVISIONAL, ("awaiting_payment",))
    period = Period(NEXT, NEXT + 30 * DAY)
    assert later.subscription_id == "sub_acme"
    assert later.parts == (WindowShare("sub_acme", period, STANDARD.limit_nanos // 10, "1 month"),)
    # Grace ends by time alone.
    assert later.until == NEXT + 7 * DAY


def test_a_tenth_of_a_plan_is_rounded_down() -> None:
    rolled = sub(period_start=NEXT, period_end=NEXT + 30 * DAY)
    assert [part.limit_nanos for part in odd([rolled], [paid()], now=NEXT).parts] == [5]
    assert [part.limit_nanos for part in odd([sub(**TRYING)], []).parts] == [5]


def test_a_payment_that_fails_has_grace_to_the_second() -> None:
    late = sub(status="past_due", period_start=NEXT, period_end=NEXT + 30 * DAY)
    last = entitled([late], [paid()], now=NEXT + 7 * DAY - timedelta(seconds=1))
    over = entitled([late], [paid()], now=NEXT + 7 * DAY)
    assert (last.state, over.state, over.reasons) == (
        EntitlementState.PROVISIONAL,
        EntitlementState.SUSPENDED,
        ("past_due",),
    )


def test_a_plan_has_its_own_grace_trial_and_provisional_share() -> None:
    policy = PlanPolicy(trial_percent=20, provisional_percent=40, grace_days=2)
    own = {"plans": [PlanRule("Odd", 55, product_ids=frozenset({"prod_standard"}), policy=policy)]}
    late = sub(status="past_due", period_start=NEXT, period_end=NEXT + 30 * DAY)
    assert odd([late], [paid()], now=NEXT + 2 * DAY - timedelta(seconds=1), **own).limit_nanos == 22
    assert odd([late], [paid()], now=NEXT + 2 * DAY, **own).state == EntitlementState.SUSPENDED
    assert odd([sub(**TRYING)], [], **own).limit_nanos == 11


@pytest.mark.parametrize(
    ("pause", "state"), [("past_due", "provisional"), ("suspended", "suspended"), ("ignore", "provisional")]
)
def test_paused_collection_is_what_the_policy_says(pause: str, state: str) -> None:
    rolled = sub(period_start=NEXT, period_end=NEXT + 30 * DAY, pause_collection={"behavior": "void"})
    found = entitled([rolled], [paid()], now=NEXT, policy=BillingPolicy(pause=pause))
    assert (found.state, "collection_paused" in found.reasons) == (state, True)
    at_last = entitled([rolled], [paid()], now=NEXT + 8 * DAY, policy=BillingPolicy(pause=pause))
    assert at_last.state == ("provisional" if pause == "ignore" else "suspended")


def test_an_upgrade_counts_at_once_or_as_far_as_it_is_paid_for() -> None:
    upgraded, invoices = [sub(price="price_premium")], [paid()]
    whole = entitled(upgraded, invoices, policy=BillingPolicy(upgrade="whole"))
    as_paid = entitled(upgraded, invoices)
    assert (whole.limit_nanos, as_paid.limit_nanos) == (PREMIUM.limit_nanos, STANDARD.limit_nanos)
    assert [part.paid_nanos for part in whole.parts] == [STANDARD.limit_nanos]
    # Trust has a bound, and ends with a payment that fails.
    twice = BillingPolicy(upgrade="whole", upgrade_times=2)
    assert entitled(upgraded, invoices, policy=twice).limit_nanos == 2 * STANDARD.limit_nanos
    late = [sub(price="price_premium", status="past_due")]
    assert entitled(late, invoices, policy=twice).limit_nanos == STANDARD.limit_nanos


def test_a_downgrade_counts_at_once_or_at_the_periods_end() -> None:
    downgraded, invoices = [sub()], [paid(price="price_premium")]
    at_end = BillingPolicy(downgrade="period_end")
    assert entitled(downgraded, invoices).limit_nanos == STANDARD.limit_nanos
    assert entitled(downgraded, invoices, policy=at_end).limit_nanos == PREMIUM.limit_nanos
    # An upgrade is none.
    assert entitled([sub(price="price_premium")], [paid()], policy=at_end).limit_nanos == STANDARD.limit_nanos


def test_an_invoice_speaks_for_a_subscription_that_is_not_known_or_says_nothing() -> None:
    assert entitled([], [paid(price="price_premium")]).limit_nanos == PREMIUM.limit_nanos
    empty = sub(items={"data": []})
    assert entitled([empty], [paid(price="price_premium")]).limit_nanos == PREMIUM.limit_nanos


def test_a_trial_is_a_window_of_its_own_and_remembered_by_its_product() -> None:
    found = entitled([sub(**TRYING)], [])
    tenth, period = STANDARD.limit_nanos // 10, Period(START, TRIAL_END)
    assert (found.state, found.trials) == (EntitlementState.TRIAL, {"prod_standard": "sub_acme"})
    assert found.parts == (WindowShare("sub_acme", period, tenth, given_nanos=tenth),)
    assert found.until == TRIAL_END
    assert entitled([sub()], [paid()]).trials == {}


def test_a_trial_begins_where_what_was_paid_for_ends() -> None:
    free = {"price": events.price_of("price_standard", unit_amount=5000), "period_end": TRIAL_END}
    before = paid(period_start=START - 20 * DAY, period_end=START + 10 * DAY)
    gift = paid(period_end=TRIAL_END, amount_paid=0, billing_reason="subscription_update")
    days_off = sub(**TRYING, **free)
    first = entitled([days_off], [before, gift], now=START)
    assert (first.state, first.limit_nanos) == (EntitlementState.ACTIVE, STANDARD.limit_nanos)
    then = entitled([days_off], [before, gift], now=START + 10 * DAY)
    assert (then.state, then.period) == (EntitlementState.TRIAL, Period(START + 10 * DAY, TRIAL_END))


def test_a_product_is_tried_once() -> None:
    used = entitled([sub(**TRYING)], [], trials_used={"prod_standard": "sub_old"})
    assert (used.state, used.reasons, used.limit_nanos) == (EntitlementState.PENDING, ("trial_used",), None)
    for had in ({"prod_standard": "sub_acme"}, {"prod_other": "sub_old"}):
        assert entitled([sub(**TRYING)], [], trials_used=had).state == EntitlementState.TRIAL


@pytest.mark.parametrize("order", [("standard", "premium"), ("premium", "standard")])
def test_of_several_products_each_is_tried_once(order: tuple[str, str]) -> None:
    items = [{**events.subscription()["items"]["data"][0], "price": events.price_of(f"price_{key}")} for key in order]
    both = sub(items={"data": items}, **TRYING)
    ids = {"prod_standard": "sub_acme", "prod_premium": "sub_acme"}
    whole = entitled([both], [])
    assert (whole.limit_nanos, whole.trials) == ((STANDARD.limit_nanos + PREMIUM.limit_nanos) // 10, ids)
    had = {"prod_standard": "sub_old"}
    rest = entitled([both], [], trials_used=had)
    assert (rest.limit_nanos, rest.trials) == (PREMIUM.limit_nanos // 10, {"prod_premium": "sub_acme"})
    # What was tried among others is tried by itself no more.
    again = entitled([sub(subscription="sub_new", **TRYING)], [], trials_used=whole.trials)
    assert again.reasons == ("trial_used",)


def test_what_metadata_says_of_a_trial_counts_for_what_is_tried() -> None:
    own = events.price_of("price_premium", metadata={"llm_trial_budget_usd": "3"})
    items = [
        {**events.subscription()["items"]["data"][0], "price": one} for one in (own, events.price_of("price_standard"))
    ]
    both = sub(items={"data": items}, **TRYING)
    assert entitled([both], []).limit_nanos == 3 * 10**9
    assert entitled([both], [], trials_used={"prod_premium": "sub_old"}).limit_nanos == STANDARD.limit_nanos // 10


def test_a_trial_of_a_price_without_a_product_is_remembered_by_the_price() -> None:
    found = entitled([sub(price=events.price_of("price_standard") | {"product": None}, **TRYING)], [])
    assert found.trials == {"price_standard": "sub_acme"}


def test_a_trial_of_nothing_is_remembered_by_nothing() -> None:
    empty = sub(items={"data": []}, **TRYING)
    assert entitled([empty], [paid(period_end=TRIAL_END, amount_paid=0)]).trials == {}


def test_a_trial_that_ends_as_it_begins_gives_nothing() -> None:
    found = entitled([sub(**TRYING | {"trial_end": events.seconds(START)})], [])
    assert (found.state, found.reasons) == (EntitlementState.PENDING, ("trial_without_period",))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(RefundKind.PARTIAL, "partial_refund"), (RefundKind.REFUNDED, "refunded"), (RefundKind.DISPUTED, "disputed")],
)
def test_what_became_of_a_payment_is_told_while_its_period_lasts(kind: RefundKind, reason: str) -> None:
    opened, added = paid(id="in_1"), paid(id="in_2", billing_reason="subscription_update", period_start=START + DAY)
    old = paid(id="in_0", period_start=START - 30 * DAY, period_end=START)
    for id, told in (("in_1", (reason,)), ("in_2", (reason,)), ("in_0", ())):
        found = entitled([sub()], [old, opened, added], now=START + DAY, refunds={id: Refund(kind)})
        assert found.reasons == told


def test_an_item_counts_with_what_the_invoice_billed_for_it() -> None:
    price = events.price_of("price_x", unit_amount=2000, metadata={"llm_budget_percent": "50"})
    found = entitled([sub(price=price)], [paid(price="price_x", amount_paid=1500)])
    # Half of the fifteen dollars billed, not of the twenty that the list says.
    assert found.limit_nanos == 7_500_000_000
    raw = events.invoice(price="price_x", amount_paid=1500)
    raw["lines"]["data"][0]["currency"] = "eur"
    rates = BillingPolicy(rates={"eur": Decimal(2)})
    assert entitled([sub(price=price)], [objects.invoice(raw)], policy=rates).limit_nanos == 15_000_000_000
    # What an invoice bills for another price is no share of this one.
    assert entitled([sub(price=price)], [paid(price="price_y", amount_paid=1500)]).limit_nanos == 0


def test_the_last_moment_of_what_is_paid_through_is_in_its_last_month() -> None:
    """Twelve months and a rest: the rest's share of a month's limit, rounded down."""
    year = sub(price=events.price_of("price_standard", interval="year"), period_end=START + 366 * DAY)
    found = odd([year], [paid(period_end=START + 366 * DAY)], now=START + 366 * DAY - timedelta(microseconds=1))
    last = Period(START + 365 * DAY, START + 366 * DAY)
    assert (found.period, found.limit_nanos) == (last, 55 // 31)
    none = [PlanRule("Other", 1, lookup_keys=frozenset({"other"}))]
    assert odd([year], [paid(period_end=START + 366 * DAY)], now=last.starts_at, plans=none).limit_nanos == 0


def metered(**fields: Any) -> objects.StripeSubscription:
    price = events.price_of("price_standard")
    price["recurring"]["usage_type"] = "metered"
    return sub(price=price, **fields)


def test_usage_is_given_on_credit_until_it_is_behind_and_owed_no_sooner() -> None:
    second = {"period_start": NEXT, "period_end": NEXT + 30 * DAY}
    first = entitled([metered(start_date=events.seconds(START))], [])
    assert (first.state, first.reasons, first.until) == (EntitlementState.ACTIVE, ("on_credit",), NEXT)
    [part] = first.parts
    assert (part.cycle, part.paid_nanos, part.given_nanos) == ("1 month in arrears", 0, STANDARD.limit_nanos)
    assert part.given_until == NEXT
    going_on = metered(start_date=events.seconds(START), **second)
    behind = entitled([going_on], [], now=NEXT)
    assert (behind.state, behind.until) == (EntitlementState.ACTIVE, NEXT + 7 * DAY)
    over = entitled([going_on], [], now=NEXT + 7 * DAY)
    assert (over.state, over.reasons) == (EntitlementState.SUSPENDED, ("past_due",))
    settled = entitled([going_on], [paid()], now=NEXT + 7 * DAY)
    assert (settled.state, settled.until) == (EntitlementState.ACTIVE, NEXT + 30 * DAY)
    # A trial is nothing to pay for.
    tried = metered(trial_start=events.seconds(START), trial_end=events.seconds(NEXT), **second)
    assert entitled([tried], [], now=NEXT + 8 * DAY).state == EntitlementState.ACTIVE
    late = metered(status="past_due", **second)
    assert entitled([late], [paid()], now=NEXT + 7 * DAY).state == EntitlementState.SUSPENDED


def test_usage_that_is_paid_for_is_covered_and_leaves_nothing_over() -> None:
    # Stripe's clock may be ahead of ours.
    found = entitled([metered()], [paid()], now=START + DAY)
    assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, STANDARD.limit_nanos)
    assert [(part.paid_nanos, part.given_nanos) for part in found.parts] == [(0, STANDARD.limit_nanos)]


def test_what_was_given_before_its_payment_is_due_with_its_period_its_terms_and_its_subscription() -> None:
    second = {"period_start": NEXT, "period_end": NEXT + 30 * DAY}
    sent: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 10}
    [part] = entitled([metered(start_date=events.seconds(START))], []).parts

    def due(part: WindowShare, now: datetime, **fields: Any) -> bool:
        return is_due(part, metered(**fields), now)

    assert not due(part, NEXT - DAY)
    assert due(part, NEXT)
    # A period that is cut short is over, and so is one whose subscription is, or is not known.
    assert due(part, START + DAY, period_start=START + DAY)
    assert due(part, START, status="canceled")
    assert is_due(part, None, START)
    [agreed] = entitled([metered(start_date=events.seconds(START), **sent)], []).parts
    assert [due(agreed, NEXT + days * DAY, **second, **sent) for days in (9, 10)] == [False, True]
    assert [due(agreed, START + days * DAY, period_start=START + DAY, **sent) for days in (10, 11)] == [False, True]
    # What needs no payment is never due.
    assert not due(replace(part, given_until=None), NEXT, status="canceled")
    # A year's usage is due when the year is over, whatever begins each month beside it.
    year, month = metered(period_end=START + 365 * DAY), metered(**second)
    both = replace(year, items=(*month.items, *year.items))
    assert not is_due(replace(part, given_until=START + 365 * DAY), both, NEXT + DAY)


def test_an_item_that_nothing_maps_gives_nothing_beside_one_that_is() -> None:
    other = events.subscription(subscription="sub_x", price="price_x")["items"]["data"]
    raw = events.subscription()
    raw["items"]["data"] += [{**one, "id": "si_x"} for one in other]
    found = entitled([objects.subscription(raw)], [paid()])
    assert (found.limit_nanos, found.plan, found.reasons) == (STANDARD.limit_nanos, "Standard", ())


def test_terms_are_grace_and_credit_until_an_invoice_is_due() -> None:
    terms: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 10}
    renewed = sub(period_start=NEXT, period_end=NEXT + 30 * DAY, **terms)
    given = entitled([renewed], [paid()], now=NEXT)
    assert (given.state, given.limit_nanos, given.until) == (
        EntitlementState.PROVISIONAL,
        STANDARD.limit_nanos,
        NEXT + 10 * DAY,
    )
    assert entitled([renewed], [paid()], now=NEXT + 10 * DAY).state == EntitlementState.SUSPENDED
    short = entitled(
        [sub(period_start=NEXT, period_end=NEXT + 30 * DAY, **terms | {"days_until_due": 2})], [paid()], now=NEXT
    )
    assert (short.limit_nanos, short.until) == (STANDARD.limit_nanos, NEXT + 2 * DAY)
    then = entitled([renewed], [paid()], now=NEXT, policy=BillingPolicy(credit_percent=30))
    assert then.limit_nanos == STANDARD.limit_nanos * 30 // 100
    # An invoice that is collected has no terms, whatever is said of days.
    at_once = sub(period_start=NEXT, period_end=NEXT + 30 * DAY, days_until_due=10)
    assert entitled([at_once], [paid()], now=NEXT).limit_nanos == STANDARD.limit_nanos // 10


FALLBACK = PlanRule("Fallback", 30 * 10**9, is_default=True)


def unmapped(id: str, day: int = 0, **fields: Any) -> tuple[objects.StripeSubscription, objects.StripeInvoice]:
    """A subscription to a price of its own that nobody has mapped, and its paid invoice."""
    period = {"period_start": START + day * DAY, "period_end": NEXT + day * DAY}
    metadata = fields.pop("worth", {})
    price = events.price_of(f"price_{id}", f"prod_{id}", metadata=metadata)
    more = {"start_date": events.seconds(START + day * DAY)} | fields
    return sub(subscription=id, price=price, **period, **more), paid(subscription=id, price=f"price_{id}", **period)


def of_all(*pairs: tuple[objects.StripeSubscription, objects.StripeInvoice], **more: Any) -> Entitlement:
    found = {"plans": [STANDARD, PREMIUM, FALLBACK], "now": START + 3 * DAY} | more
    return entitled([one for one, _ in pairs], [one for _, one in pairs], **found)


def test_a_tenant_has_the_default_plan_once_and_it_is_the_oldest_subscriptions() -> None:
    five = [unmapped(f"sub_{name}", day) for name, day in zip("edcba", (2, 1, 0, 1, 2), strict=True)]
    for pairs in (five, five[::-1]):
        found = of_all(*pairs)
        assert (found.limit_nanos, found.reasons) == (FALLBACK.limit_nanos, ("unmapped_plan",))
        assert [part.subscription_id for part in found.parts] == ["sub_c"]
    # Renewed or not, it stays with it; once that is over it is the next one's.
    renewed = paid(subscription="sub_c", price="price_sub_c", period_start=NEXT, period_end=NEXT + 30 * DAY)
    rolled = sub(subscription="sub_c", price="price_sub_c", period_start=NEXT, start_date=events.seconds(START))
    later = of_all(*five[:2], (rolled, renewed), now=NEXT)
    assert [part.subscription_id for part in later.parts] == ["sub_c"]
    over = replace(five[2][0], status="canceled"), five[2][1]
    assert [part.subscription_id for part in of_all(*five[:2], over).parts] == ["sub_d"]


def test_the_default_plan_is_no_more_beside_one_that_is_mapped_and_paid_for() -> None:
    assert of_all(unmapped("sub_a"), premium()).limit_nanos == PREMIUM.limit_nanos
    assert of_all(unmapped("sub_a"), premium()).reasons == ()
    # One that is not paid for takes nothing of what is, and neither does one that gives nothing.
    tried = unmapped("sub_b", worth={"llm_budget_usd": "70"}, **TRYING)[0]
    trial = of_all(unmapped("sub_a"), (tried, paid(status="open", subscription="sub_b")))
    assert trial.limit_nanos == FALLBACK.limit_nanos + 7 * 10**9
    other, invoice = premium()
    gone = of_all(unmapped("sub_a"), (other, invoice), refunds={invoice.id: Refund(RefundKind.REFUNDED, 5000)})
    assert (gone.limit_nanos, len(gone.parts)) == (FALLBACK.limit_nanos + PREMIUM.limit_nanos, 2)
    plans = [replace(PREMIUM, limit_nanos=0), FALLBACK]
    assert of_all(unmapped("sub_a"), premium(), plans=plans).limit_nanos == FALLBACK.limit_nanos


def test_a_payment_that_went_back_leaves_the_default_plan_to_another_that_was_paid_for() -> None:
    first, second = unmapped("sub_a"), unmapped("sub_b", 1)
    found = of_all(first, second, refunds={first[1].id: Refund(RefundKind.REFUNDED, 5000)})
    assert [(part.subscription_id, part.frozen) for part in found.parts] == [("sub_a", True), ("sub_b", False)]


def test_of_trials_that_nobody_has_mapped_one_counts_and_those_whose_metadata_names_them() -> None:
    open_ = {"status": "open"}
    trials = [(unmapped(f"sub_{name}", **TRYING)[0], paid(subscription=f"sub_{name}", **open_)) for name in "ab"]
    found = of_all(*trials)
    assert (found.limit_nanos, found.trials) == (FALLBACK.limit_nanos // 10, {"prod_sub_a": "sub_a"})
    worth = {"llm_trial_budget_usd": "2"}
    named = [(unmapped(one.id, worth=worth, **TRYING)[0], invoice) for one, invoice in trials]
    assert of_all(*named).limit_nanos == 2 * 2 * 10**9
