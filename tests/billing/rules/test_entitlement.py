"""The pure rules: which periods are paid for, and what they are worth."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rules import entitlement, grants, valuation
from billing.rules.entitlement import Entitlement, EntitlementState, entitle
from billing.rules.grants import Period
from billing.rules.refunds import Refund, RefundKind
from billing.rules.valuation import BillingPolicy, PlanRule
from billing.stripe_api import objects
from governance.rules import money
from governance.rules.money import nanos_from_dollars
from tests.billing import events

START, DAY = events.START, events.DAY
NEXT = START + 30 * DAY
BEGUN = int(START.timestamp())
STANDARD = PlanRule("Standard", nanos_from_dollars("50"), lookup_keys=frozenset({"standard"}), is_default=True)
PREMIUM = PlanRule("Premium", nanos_from_dollars("200"), lookup_keys=frozenset({"premium"}))


def sub(**fields: Any) -> objects.StripeSubscription:
    return objects.subscription(events.subscription(**fields))


def paid(**fields: Any) -> objects.StripeInvoice:
    return objects.invoice(events.invoice(**fields))


def entitled(
    subs: list[objects.StripeSubscription], invoices: list[objects.StripeInvoice], *, now: datetime = START, **more: Any
) -> Entitlement:
    return entitle(subscriptions=subs, invoices=invoices, plans=[STANDARD, PREMIUM], now=now, **more)


def test_no_subscription_is_no_entitlement() -> None:
    assert entitled([], []) == Entitlement(EntitlementState.NONE)


@pytest.mark.parametrize("status", ["incomplete", "active"])
def test_unpaid_first_invoice_gives_nothing(status: str) -> None:
    found = entitled([sub(status=status)], [paid(status="open")])
    assert (found.state, found.limit_nanos, found.period) == (EntitlementState.PENDING, None, None)


def test_credit_for_what_was_never_paid_is_no_period() -> None:
    """A year whose card was declined is credited, and the month that comes after it is not paid for."""
    invoice = events.invoice()
    for line in invoice["lines"]["data"]:
        line["amount"] = -5000
    found = entitled([sub()], [objects.invoice(invoice)])
    assert (found.state, found.parts) == (EntitlementState.PENDING, ())


@pytest.mark.parametrize("status", ["unpaid", "paused"])
def test_unpaid_and_paused_are_suspended_now(status: str) -> None:
    assert entitled([sub(status=status)], [paid()]).state == EntitlementState.SUSPENDED


def test_failed_upgrade_payment_gives_no_more_than_what_was_paid() -> None:
    found = entitled([sub(price="price_premium", status="past_due")], [paid()])
    assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, STANDARD.limit_nanos)


def test_paused_collection_counts_as_past_due() -> None:
    rolled = sub(period_start=NEXT, period_end=NEXT + 30 * DAY, pause_collection={"behavior": "void"})
    assert entitled([rolled], [paid()], now=NEXT).state == EntitlementState.PROVISIONAL
    assert entitled([rolled], [paid()], now=NEXT + 8 * DAY).state == EntitlementState.SUSPENDED


def test_cancelled_at_period_end_opens_nothing_past_it() -> None:
    found = entitled([sub(cancel_at_period_end=True)], [paid()], now=NEXT + DAY)
    assert (found.state, found.period and found.period.ends_at) == (EntitlementState.LAPSED, NEXT)
    # The one that has begun ends by it, and waits for its payment until then.
    rolled = sub(period_start=NEXT, period_end=NEXT + 30 * DAY, cancel_at_period_end=True)
    assert entitled([rolled], [paid()], now=NEXT + DAY).state == EntitlementState.PROVISIONAL


def test_quantity_multiplies_only_where_the_price_says_so() -> None:
    for flag, times in (("true", 3), ("", 1)):
        price = events.price_of("price_x", metadata={"llm_budget_usd": "5", "llm_budget_per_unit": flag})
        found = entitled([sub(price=price, quantity=3)], [paid(price="price_x", quantity=3)])
        assert found.limit_nanos == nanos_from_dollars("5") * times


def test_an_item_of_nothing_is_worth_nothing() -> None:
    """Also where what it was paid for before is not credited."""
    assert entitled([sub(quantity=0)], [paid()]).limit_nanos == 0
    assert entitled([sub(quantity=0)], [paid()], policy=BillingPolicy(downgrade="period_end")).limit_nanos == 50 * 10**9
    assert entitled([sub(quantity=0)], [paid(quantity=0, amount_paid=0)]).state == EntitlementState.PENDING


@pytest.mark.parametrize("quantity", [10**6, 10**12, 2**63])
def test_no_quantity_makes_more_of_a_price_than_a_limit_may_be(quantity: int) -> None:
    price = events.price_of("price_x", metadata={"llm_budget_usd": "1000000", "llm_budget_per_unit": "true"})
    found = entitled([sub(price=price, quantity=quantity)], [paid(price="price_x", quantity=quantity)])
    assert found.limit_nanos == money.MAX_LIMIT_NANOS


def test_a_share_of_what_is_billed_is_no_more_than_a_limit_may_be() -> None:
    price = events.price_of("price_x", unit_amount=10**12, metadata={"llm_budget_percent": "100"})
    found = entitled([sub(price=price, quantity=10**6)], [paid(price="price_x", amount_paid=10**18)])
    assert found.limit_nanos == money.MAX_LIMIT_NANOS


def test_metadata_of_price_beats_products_and_plan_row_beats_both() -> None:
    product = {"id": "prod_x", "metadata": {"llm_budget_usd": "1"}}
    price = events.price_of("price_x", metadata={"llm_budget_usd": "2"}) | {"product": product}
    invoice = paid(price="price_x")
    assert entitled([sub(price=price)], [invoice]).limit_nanos == nanos_from_dollars("2")
    only_product = {**price, "metadata": {}}
    assert entitled([sub(price=only_product)], [invoice]).limit_nanos == nanos_from_dollars("1")
    keyed = {**price, "lookup_key": "premium"}
    assert entitled([sub(price=keyed)], [invoice]).limit_nanos == PREMIUM.limit_nanos


def test_names_never_match() -> None:
    price = events.price_of("price_x", nickname="Premium") | {"product": {"id": "prod_x", "name": "Premium"}}
    found = entitled([sub(price=price)], [paid()])
    assert (found.plan, found.reasons) == ("Standard", ("unmapped_plan",))


def test_a_price_is_worth_what_it_was_in_the_span_that_it_was_kept_for_and_in_a_new_one_what_is_said_by_now() -> None:
    """Two subscriptions to one price: the first one has renewed since the plan was changed."""
    renewed = {"period_start": NEXT, "period_end": NEXT + 30 * DAY}
    other = {"subscription": "sub_2", "period_start": START + 10 * DAY, "period_end": NEXT + 10 * DAY}
    first = sub().id
    level, begun = int(valuation.Level.PLAN), BEGUN + 10 * 86_400
    kept = {f"{first} price_standard": (level, 7, 0, 0, 1, BEGUN), "sub_2 price_standard": (level, 8, 0, 0, 1, begun)}
    invoices = [paid(), paid(**renewed), paid(**other)]

    found = entitled([sub(**renewed), sub(**other)], invoices, now=NEXT, kept=kept)

    assert {part.subscription_id: part.limit_nanos for part in found.parts} == {first: 50 * 10**9, "sub_2": 8}
    assert found.kept == {
        f"{first} price_standard": (level, 50 * 10**9, 0, 0, 1, int(NEXT.timestamp())),
        "sub_2 price_standard": kept["sub_2 price_standard"],
    }


def test_override_replaces_the_plan() -> None:
    found = entitled([sub()], [paid()], override_nanos=7)
    assert (found.limit_nanos, found.reasons) == (7, ("override",))


def test_invalid_metadata_keeps_the_old_limit() -> None:
    price = events.price_of("price_x", metadata={"llm_budget_usd": "-3"})
    kept = {"price_x": (int(valuation.Level.PRICE_METADATA), 42, 0, 0, 1, BEGUN)}
    found = entitled([sub(price=price)], [paid()], kept=kept)
    assert (found.limit_nanos, found.reasons) == (42, ("invalid_metadata:llm_budget_usd",))


@pytest.mark.parametrize(("kept_nanos", "now_nanos"), [(10, 42), (80, 80), (42, 42)])
def test_what_says_more_of_a_price_by_now_counts_in_an_open_window_where_it_comes_to_more(
    kept_nanos: int, now_nanos: int
) -> None:
    price = events.price_of("price_x", metadata={"llm_budget_usd": "0.000000042"})
    kept = {"price_x": (int(valuation.Level.PRODUCT_METADATA), kept_nanos, 0, 0, 1, BEGUN)}

    found = entitled([sub(price=price)], [paid()], kept=kept)

    assert found.limit_nanos == now_nanos
    [value] = [value for key, value in found.kept.items() if key.endswith(" price_x")]
    assert value[1:] == (now_nanos, 0, 0, 1, BEGUN)


def sold(id: str, dollars: int, interval: str = "month") -> tuple[objects.StripeSubscription, objects.StripeInvoice]:
    """A subscription to a price of its own, whose product says what it is worth, paid for a month or a year."""
    product = {"id": f"prod_{id}", "metadata": {"llm_budget_usd": str(dollars)}}
    price = events.price_of(f"price_{id}", interval=interval, product=product)
    until = START + (30 if interval == "month" else 365) * DAY
    fields = {"subscription": f"sub_{id}", "period_end": until}
    return sub(price=price, **fields), paid(price=f"price_{id}", **fields)


def test_each_price_rises_by_itself_and_none_falls() -> None:
    (mini, of_mini), (maxi, of_maxi) = sold("mini", 100), sold("maxi", 100)
    facts: dict[str, Any] = {"subscriptions": [mini, maxi], "invoices": [of_mini, of_maxi], "now": START + DAY}
    kept = entitle(**facts, plans=[]).kept
    for low, high in ((20, 200), (20, 150), (99, 100), (90, 105), (20, 90)):
        plans = [
            PlanRule(key, nanos_from_dollars(str(dollars)), price_ids=frozenset({f"price_{key}"}))
            for key, dollars in (("mini", low), ("maxi", high))
        ]
        found = entitle(**facts, plans=plans, kept=kept)
        limits = {part.subscription_id: part.limit_nanos for part in found.parts}
        assert limits == {"sub_mini": 100 * 10**9, "sub_maxi": max(100, high) * 10**9}
        assert found.kept["sub_mini price_mini"] == kept["sub_mini price_mini"]


def test_a_years_budget_is_by_the_month_until_the_year_is_over() -> None:
    year, invoice = sold("year", 50, "year")
    kept = entitle(subscriptions=[year], invoices=[invoice], plans=[], now=START).kept
    plan = PlanRule("Year", nanos_from_dollars("600"), price_ids=frozenset({"price_year"}), monthly=False)
    for days in (1, 40, 360):
        # Each time with what was kept then.
        found = entitle(subscriptions=[year], invoices=[invoice], plans=[plan], now=START + days * DAY, kept=kept)
        assert found.limit_nanos == 50 * 10**9
        kept = found.kept
    fields = {"subscription": "sub_year", "period_start": START + 365 * DAY, "period_end": START + 730 * DAY}
    second = paid(price="price_year", **fields)
    found = entitle(subscriptions=[year], invoices=[invoice, second], plans=[plan], now=START + 366 * DAY, kept=kept)
    assert found.limit_nanos == 600 * 10**9


def test_what_was_sold_in_an_earlier_span_alone_is_worth_what_is_said_when_it_is_bought_again() -> None:
    level, fields = int(valuation.Level.PLAN), {"period_start": NEXT, "period_end": NEXT + 30 * DAY}
    before = paid(price="price_premium", id="in_before")
    kept = {f"{sub().id} price_premium": (level, 200 * 10**9, 0, 0, 1, BEGUN)}
    found = entitled([sub(**fields)], [before, paid(**fields)], now=NEXT, kept=kept)
    assert found.kept[f"{sub().id} price_premium"] == kept[f"{sub().id} price_premium"]
    assert found.kept[f"{sub().id} price_standard"][5] == int(NEXT.timestamp())


def test_old_shapes_open_their_periods_without_a_reason() -> None:
    proration = {
        "id": "il_credit",
        "amount": -3000,
        "proration": True,
        "subscription": "sub_acme",
        "type": "invoiceitem",
        "period": {"start": int((START + 10 * DAY).timestamp()), "end": int(NEXT.timestamp())},
    }

    def with_proration(start: datetime) -> objects.StripeInvoice:
        raw = events.invoice(billing_reason=None, period_start=start, period_end=start + 30 * DAY)
        raw["lines"]["data"].append(proration)
        return objects.invoice(raw)

    changed = entitled([sub()], [paid(billing_reason=None), with_proration(START + 10 * DAY)], now=START + 11 * DAY)
    renewed = entitled([sub()], [paid(billing_reason=None), with_proration(NEXT)], now=NEXT)
    assert changed.period is not None
    assert renewed.period is not None
    assert (changed.period.starts_at, renewed.period.starts_at) == (START + 10 * DAY, NEXT)


def test_a_period_that_begins_anew_without_a_credit_has_the_rest_of_the_one_before() -> None:
    """Switching to a new month on day 10 pays for days 10 to 40: two thirds of the month before are in it."""
    switch = START + 10 * DAY
    update = paid(billing_reason="subscription_update", period_start=switch, period_end=switch + 30 * DAY)
    moved = sub(period_start=switch, period_end=switch + 30 * DAY)
    for now in (switch, NEXT):
        found = entitled([moved], [paid(), update], now=now)
        assert found.period == Period(switch, switch + 30 * DAY)
        assert found.limit_nanos == STANDARD.limit_nanos + STANDARD.limit_nanos * 20 // 30


def test_trial_ended_early_by_payment_opens_its_period() -> None:
    trial_end, early = START + 14 * DAY, START + 3 * DAY
    first = paid(period_end=trial_end, amount_paid=0)
    now_active = sub(
        period_start=early,
        period_end=early + 30 * DAY,
        trial_start=events.seconds(START),
        trial_end=events.seconds(early),
    )
    unpaid = entitled([now_active], [first], now=early)
    assert unpaid.limit_nanos == STANDARD.limit_nanos // 10
    payment = paid(billing_reason="subscription_update", period_start=early, period_end=early + 30 * DAY)
    both = entitled([now_active], [first, payment], now=early)
    assert both.period is not None
    assert (both.limit_nanos, both.period.starts_at) == (STANDARD.limit_nanos, early)


def test_a_trial_without_an_end_gives_nothing() -> None:
    found = entitled([sub(status="trialing", trial_start=events.seconds(START))], [])
    assert (found.state, found.limit_nanos, found.reasons) == (
        EntitlementState.PENDING,
        None,
        ("trial_without_period",),
    )


def test_a_price_may_say_what_its_trial_gives() -> None:
    price = events.price_of("price_x", metadata={"llm_budget_usd": "50", "llm_trial_budget_usd": "3"})
    trial = {"trial_start": events.seconds(START), "trial_end": events.seconds(START + 14 * DAY)}
    found = entitled([sub(price=price, status="trialing", **trial)], [])
    assert (found.state, found.limit_nanos) == (EntitlementState.TRIAL, nanos_from_dollars("3"))


def test_a_second_year_that_is_not_paid_yet_gives_a_part_of_each_month() -> None:
    second = START + 365 * DAY
    renewed = sub(
        price=events.price_of("price_standard", interval="year"), period_start=second, period_end=second + 365 * DAY
    )
    patient = BillingPolicy(grace_days=60)
    found = entitled([renewed], [paid(period_end=second)], now=second + 40 * DAY, policy=patient)
    assert (found.state, found.limit_nanos) == (EntitlementState.PROVISIONAL, STANDARD.limit_nanos // 10)
    assert found.period == Period(datetime(2027, 4, 1, tzinfo=UTC), datetime(2027, 5, 1, tzinfo=UTC))


def test_a_budget_for_each_billing_period_is_not_divided_into_months() -> None:
    """A month, and the year that it was changed to on day 10: the year is one."""
    price = events.price_of(
        "price_x", interval="year", metadata={"llm_budget_usd": "600", "llm_budget_period": "billing"}
    )
    switch = START + 10 * DAY
    year = {"period_start": switch, "period_end": switch + 365 * DAY}
    update = paid(billing_reason="subscription_update", price="price_x", **year)
    before, after = (
        entitled([sub(price=price, **year)], [paid(price="price_x"), update], now=now) for now in (switch, NEXT)
    )
    assert before.period == after.period == Period(switch, switch + 365 * DAY)


def test_an_invoice_pays_by_its_lines_alone() -> None:
    bare, spanless = events.invoice(lines={"data": []}), events.invoice()
    del spanless["lines"]["data"][0]["period"]
    for raw in (bare, spanless):
        found = entitled([sub()], [objects.invoice(raw)])
        assert (found.state, found.limit_nanos) == (EntitlementState.PENDING, None)


def test_a_refund_of_all_that_was_paid_freezes_and_is_forgiven_and_a_dispute_is_not() -> None:
    invoice = paid()
    for kind, forgiven in ((RefundKind.REFUNDED, STANDARD.limit_nanos), (RefundKind.DISPUTED, 0)):
        gone = entitled([sub()], [invoice], refunds={invoice.id: Refund(kind, is_open=kind == RefundKind.DISPUTED)})
        [part] = gone.parts
        assert (gone.state, part.paid_nanos, part.forgiven_nanos) == (EntitlementState.FROZEN, 0, forgiven)
        assert (part.frozen, part.limit_nanos) == (True, STANDARD.limit_nanos)
    partly = entitled([sub()], [invoice], refunds={invoice.id: Refund(RefundKind.PARTIAL)})
    assert (partly.state, [part.paid_nanos for part in partly.parts]) == (
        EntitlementState.ACTIVE,
        [STANDARD.limit_nanos],
    )


def test_what_an_invoice_bills_besides_the_subscription_pays_for_no_budget() -> None:
    raw = events.invoice()
    [line] = raw["lines"]["data"]
    raw["lines"]["data"].append({**line, "id": "il_setup", "parent": None})
    found = entitled([sub()], [objects.invoice(raw)])
    assert [part.paid_nanos for part in found.parts] == [STANDARD.limit_nanos]


def test_a_share_of_what_is_billed_counts_by_list_price_where_no_invoice_says_the_amount() -> None:
    price = events.price_of("price_x", unit_amount=2000, metadata={"llm_budget_percent": "50"})
    trial = {"trial_start": events.seconds(START), "trial_end": events.seconds(START + 14 * DAY)}
    found = entitled([sub(price=price, quantity=3, status="trialing", **trial)], [])
    # One of three: nobody has paid for any.
    assert found.limit_nanos == nanos_from_dollars("1")


def test_a_percentage_too_small_to_count_is_refused() -> None:
    reasons: set[str] = set()
    assert valuation.read_percent({"llm_budget_percent": "0.009"}, "llm_budget_percent", reasons) is None
    assert reasons == {"invalid_metadata:llm_budget_percent"}
    assert valuation.read_percent({"llm_budget_percent": "0.01"}, "llm_budget_percent", set()) == 1


@pytest.mark.parametrize(("soft", "hard"), [("0.9", "0.9"), ("0.9", "0.8"), ("1", "")])
def test_a_soft_cap_that_the_hard_one_comes_before_is_refused(soft: str, hard: str) -> None:
    metadata = {"llm_budget_usd": "5", "llm_soft_cap": soft, "llm_hard_cap": hard}
    value = entitled([sub(price=events.price_of("price_x", metadata=metadata))], [paid(price="price_x")])
    assert (value.soft_e4, value.hard_e4) == (None, int(Decimal(hard) * 10_000) if hard else None)
    assert value.reasons == ("invalid_metadata:llm_soft_cap",)


@given(st.one_of(st.decimals(), st.text(max_size=30), st.floats(), st.integers(), st.booleans(), st.none()))
def test_metadata_amounts_are_positive_bounded_and_exact_or_refused(value: Any) -> None:
    reasons: set[str] = set()
    found = valuation.read_amount({"llm_budget_usd": value}, "llm_budget_usd", reasons)
    if found is None:
        assert reasons or value in (None, "")
    else:
        assert 0 < found <= nanos_from_dollars(valuation.MOST_DOLLARS)
        assert Decimal(found).scaleb(-9) == Decimal(str(value).strip())


@given(days=st.lists(st.integers(0, 300), min_size=1, max_size=12, unique=True))
def test_windows_over_time_grant_what_was_paid_for_to_the_cent(days: list[int]) -> None:
    """Months that begin anew at any time, without a credit, follow each other without a gap in what they give."""
    invoices = [paid(period_start=START + d * DAY, period_end=START + (d + 30) * DAY, id=f"in_{d}") for d in days]
    changes = sorted({START + (day + length) * DAY for day in days for length in (0, 30)})
    found = [entitled([sub()], invoices, now=at) for at in changes]
    limits = {one.period: one.limit_nanos or 0 for one in found if one.state == EntitlementState.ACTIVE and one.period}
    # Each window is rounded down.
    assert 0 <= len(days) * STANDARD.limit_nanos - sum(limits.values()) <= len(limits)
    assert [one for one in limits if any(one.overlap(other) for other in limits if other != one)] == []


def test_annual_windows_tile_the_year_without_gap_or_overlap() -> None:
    year = sub(price=events.price_of("price_standard", interval="year"), period_end=START + 365 * DAY)
    at, starts = START, []
    while at < START + 365 * DAY:
        found = entitled([year], [paid(period_end=START + 365 * DAY)], now=at)
        assert found.period is not None
        assert found.period.starts_at == at
        starts.append(at)
        at = found.period.ends_at
    assert (len(starts), at) == (12, START + 365 * DAY)


def test_plans_without_a_default_give_unmapped_prices_nothing() -> None:
    found = entitle(subscriptions=[sub(price="price_x")], invoices=[paid(price="price_x")], plans=[PREMIUM], now=START)
    assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, 0)
    assert found.reasons == ("no_default_plan", "unmapped_plan")


@pytest.mark.parametrize("module", [entitlement, grants, objects, valuation])
def test_rules_import_no_framework(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name and name.split(".")[0] in {"django", "stripe", "celery"} for name in names)


def test_moments_outside_of_time_are_none() -> None:
    assert [objects.moment(value) for value in (True, -1, 0, 10**18, "1", None, 1.5)] == [None] * 7
    assert objects.moment(1) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1)
