"""What random lives at the simulated Stripe found wrong, told plainly."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from billing.accounts import sync
from billing.models import Plan
from governance import ledger
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop

HOUR = 3_600
STANDARD = 50_000_000_000


def read(shop: Shop, customer: str) -> tuple[str, int]:
    """The state that a customer comes to, and what its tenant can spend."""
    found = sync.customer(customer, now=datetime.fromtimestamp(shop.account.now, UTC))
    return found.state, window_of().remaining_nanos


def spend(shop: Shop, customer: str, *, at_most: float = 1000) -> float:
    """Spend what there is, as soon as its state is known; dollars."""
    state, left = read(shop, customer)
    now, dollars = datetime.fromtimestamp(shop.account.now, UTC), min(at_most, left / 10**9)
    if state not in ("active", "provisional", "trial") or left <= 1:
        return 0
    hold = factories.reserving(str(dollars))
    assert ledger.reserve(hold, now=now).allowed
    ledger.settle(factories.settling(hold.reservation_id, str(dollars)), now=now)
    return dollars


def usage_price(shop: Shop) -> str:
    meter = shop.post(
        "billing/meters", display_name="Calls", event_name="calls", default_aggregation={"formula": "sum"}
    )
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter["id"]}
    return shop.price(10, recurring=recurring, metadata={"llm_budget_usd": "50"})


def use(shop: Shop, customer: str, calls: int) -> None:
    payload = {"stripe_customer_id": customer, "value": str(calls)}
    shop.post("billing/meter_events", event_name="calls", payload=payload)


@pytest.mark.parametrize("way", ["credit_amount", "out_of_band_amount"])
def test_half_refunded_and_half_credited_is_all_of_it(shop: Shop, way: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    charge, invoice = shop.all("charges")[0]["id"], shop.invoices(customer)[0]["id"]
    shop.post("refunds", charge=charge, amount=2500)
    assert read(shop, customer) == ("active", STANDARD)
    shop.post("credit_notes", invoice=invoice, amount=2500, **{way: 2500})
    assert read(shop, customer) == ("frozen", 1)


def test_a_change_to_a_year_that_was_not_paid_gives_no_credit_beside_what_was_paid(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    assert read(shop, customer) == ("active", STANDARD)
    year = shop.price(60_000, "year", metadata={"llm_budget_usd": "600", "llm_budget_period": "billing"})
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "price": year}], proration_behavior="none")
    assert read(shop, customer) == ("active", STANDARD)


@pytest.mark.parametrize(("begins", "months"), [("2026-11-30", 3), ("2026-08-31", 6)])
def test_each_period_of_several_months_gives_a_budget_a_month(shop: Shop, begins: str, months: int) -> None:
    """Of an anchor that February lacks, too: the quarter from 28 February to 30 May has three budgets and no fourth."""
    shop.account.advance(to=int(datetime.fromisoformat(f"{begins}T00:00+00:00").timestamp()))
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000 * months, "month", months, lookup_key="standard"))["id"]
    spent = 0.0
    for period in (1, 2):
        ends_at = shop.sub(sub)["items"]["data"][0]["current_period_end"]
        while shop.account.now < ends_at:
            spent += spend(shop, customer)
            shop.account.advance(to=min(ends_at, shop.account.now + 2 * DAY))
        assert spent == 50 * months * period
        # Stripe finalizes what it renews an hour later.
        shop.account.advance(by=2 * HOUR)


def test_a_refund_that_a_credit_note_carries_is_half_of_it(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    invoice = shop.invoices(customer)[0]["id"]
    shop.post("credit_notes", invoice=invoice, amount=2500, refund_amount=2500)
    assert read(shop, customer) == ("active", STANDARD)


def test_a_cancellation_within_a_period_that_was_not_paid_leaves_nothing_of_the_one_before(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    assert read(shop, customer) == ("active", STANDARD)
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    shop.account.advance(by=33 * DAY)
    shop.post(f"subscriptions/{sub}", cancel_at_period_end=True)
    assert read(shop, customer) == ("provisional", STANDARD // 10)
    shop.account.advance(by=7 * DAY)
    assert read(shop, customer)[0] == "suspended"


def test_grace_begins_with_the_period_that_is_not_paid_whatever_was_paid_for_before(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    shop.account.advance(by=20 * DAY)
    shop.post(f"subscriptions/{sub}", trial_end=shop.account.now + 2 * DAY, proration_behavior="none")
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    shop.account.advance(by=10 * DAY)
    assert read(shop, customer) == ("active", STANDARD)
    # Its invoice has been open for nine days when the month that was paid for is over.
    shop.account.advance(by=DAY)
    assert read(shop, customer)[0] == "suspended"


def test_what_was_used_of_a_subscription_that_ended_was_paid_for(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    first = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}))
    assert spend(shop, customer, at_most=80) == 80
    shop.account.advance(by=DAY)
    shop.delete(f"subscriptions/{first}")
    # What the other one paid for is still there.
    assert read(shop, customer) == ("active", 20_000_000_000)
    shop.account.advance(by=31 * DAY)
    assert spend(shop, customer) == 50


def test_what_was_used_of_one_that_ended_and_was_credited_is_paid_for_as_far_as_that_stands(shop: Shop) -> None:
    shop.account.advance(to=int(datetime(2026, 4, 1, tzinfo=UTC).timestamp()))
    customer = shop.customer(metadata={"tenant_id": "acme"})
    first = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}))
    assert spend(shop, customer, at_most=60) == 60
    shop.account.advance(by=15 * DAY)
    shop.delete(f"subscriptions/{first}", prorate="true", invoice_now="true")
    # Half of a month of the one, and the other.
    assert read(shop, customer) == ("active", 15_000_000_000)


def test_what_was_used_on_credit_of_one_that_ended_is_not_given_beside_another(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    used = shop.subscribe(customer, usage_price(shop))["id"]
    assert spend(shop, customer) == 50
    shop.account.advance(by=DAY)
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    assert spend(shop, customer, at_most=10) == 10
    shop.account.advance(by=DAY)
    shop.delete(f"subscriptions/{used}")
    # It is owed at once, out of what the other one paid for.
    assert read(shop, customer) == ("active", 0)


def test_a_quantity_of_nothing_gives_nothing(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    item = {"price": shop.price(5000, lookup_key="standard"), "quantity": 0}
    more = shop.price(1000, metadata={"llm_budget_usd": "10"})
    sub = shop.post("subscriptions", customer=customer, items=[item, {"price": more}])["id"]
    assert read(shop, customer) == ("active", STANDARD // 5)
    shop.account.advance(by=32 * DAY)
    assert read(shop, customer) == ("active", STANDARD // 5)
    # Nor is what was paid for kept where it is given up uncredited.
    [other] = (one["id"] for one in shop.get(f"subscriptions/{sub}")["items"]["data"] if one["price"]["id"] == more)
    shop.post(f"subscriptions/{sub}", items=[{"id": other, "quantity": 0}], proration_behavior="none")
    assert read(shop, customer) == ("active", 1)


# What is given on credit ------------------------------------------------------------------------------------------


def test_a_subscription_anew_gives_no_usage_anew_while_the_last_ones_is_not_paid(shop: Shop) -> None:
    customer, price = shop.customer(metadata={"tenant_id": "acme"}), usage_price(shop)
    spent = []
    for _ in range(3):
        sub = shop.subscribe(customer, price)["id"]
        spent.append(spend(shop, customer))
        use(shop, customer, 100)
        shop.account.advance(by=DAY)
        shop.delete(f"subscriptions/{sub}")
        read(shop, customer)
    assert spent == [50, 0, 0]
    # Nor does a month that nothing was used in, and nothing paid for, repay it.
    shop.subscribe(customer, price)
    for _ in range(3):
        spent.append(spend(shop, customer))
        shop.account.advance(by=32 * DAY)
    assert sum(spent) == 50


def test_an_anchor_anew_gives_usage_anew_as_soon_as_it_is_paid(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail", metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, usage_price(shop))["id"]
    spent = []
    for _ in range(3):
        spent.append(spend(shop, customer))
        use(shop, customer, 100)
        shop.account.advance(by=DAY)
        shop.post(f"subscriptions/{sub}", billing_cycle_anchor={"type": "now"})
    assert spent == [50, 0, 0]
    for invoice in shop.all("invoices", status="open"):
        shop.post(f"invoices/{invoice['id']}/pay", payment_method="pm_card_visa")
    # All that was used is paid for, however short the period was that it was used in.
    assert spend(shop, customer) == 50


def test_usage_that_is_paid_for_each_month_is_given_each_month(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, usage_price(shop))
    assert spend(shop, customer) == 50
    for month in (4, 5):
        use(shop, customer, 100)
        shop.account.advance(to=int(datetime(2026, month, 1, tzinfo=UTC).timestamp()))
        # Its invoice is a draft for an hour.
        assert spend(shop, customer) == 0
        shop.account.advance(by=HOUR)
        assert spend(shop, customer) == 50


def test_usage_with_terms_is_given_until_its_invoice_is_due(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, usage_price(shop), collection_method="send_invoice", days_until_due=30)
    spent = [spend(shop, customer)]
    for _ in range(2):
        use(shop, customer, 100)
        shop.account.advance(by=31 * DAY)
        spent.append(spend(shop, customer))
    assert spent == [50, 50, 0]


def test_usage_is_tried_as_anything_else(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, usage_price(shop), trial_period_days=5)
    assert read(shop, customer) == ("trial", STANDARD // 10)
    shop.account.advance(by=6 * DAY)
    assert read(shop, customer) == ("active", STANDARD)


def test_free_days_of_usage_are_paid_for_by_nothing(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, usage_price(shop))["id"]
    assert spend(shop, customer, at_most=30) == 30
    use(shop, customer, 100)
    shop.account.advance(by=40 * DAY)
    shop.post(f"subscriptions/{sub}", trial_end=shop.account.now + 20 * DAY, proration_behavior="none")
    assert read(shop, customer) == ("trial", STANDARD // 10)
    shop.account.advance(by=DAY)
    anew: dict[str, Any] = {"billing_cycle_anchor": {"type": "now"}, "proration_behavior": "none"}
    shop.post(f"subscriptions/{sub}", **anew)
    assert read(shop, customer) == ("active", STANDARD)
    # Nor is anything left of them beside what is paid for at once.
    flat = shop.price(700, metadata={"llm_budget_usd": "3"})
    shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "price": flat}], **anew)
    assert spend(shop, customer) == 3


# Periods that begin anew -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("month", "day", "days", "of"), [(3, 1, 15, 31), (3, 1, 30, 31), (4, 10, 28, 30)])
@pytest.mark.parametrize("used", [10, 50])
def test_an_anchor_anew_that_is_not_credited_gives_all_that_both_periods_cost(
    shop: Shop, month: int, day: int, days: int, of: int, used: int
) -> None:
    shop.account.advance(to=int(datetime(2026, month, day, tzinfo=UTC).timestamp()))
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    spent = spend(shop, customer, at_most=used)
    shop.account.advance(by=days * DAY)
    shop.post(f"subscriptions/{sub}", billing_cycle_anchor={"type": "now"}, proration_behavior="none")
    spent += spend(shop, customer)
    # What was paid for until then and not used goes with its time.
    assert spent == pytest.approx(100 - max(0, 50 * days / of - used))
    # And what is used of the new period is all there is until it is over.
    shop.account.advance(by=29 * DAY)
    assert spend(shop, customer) == 0
    shop.account.advance(by=3 * DAY)
    assert spend(shop, customer) == 50


def test_an_anchor_anew_that_is_credited_gives_its_period_and_no_more(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    read(shop, customer)
    shop.account.advance(by=15 * DAY)
    shop.post(f"subscriptions/{sub}", billing_cycle_anchor={"type": "now"})
    assert spend(shop, customer) == 50


def test_what_costs_something_after_it_was_free_begins_anew_when_it_is_paid(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(0, metadata={"llm_budget_usd": "5"}))["id"]
    assert spend(shop, customer) == 5
    shop.account.advance(by=10 * DAY)
    standard = shop.price(5000, lookup_key="standard")
    shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "price": standard}])
    lines = [line for invoice in shop.invoices(customer) for line in invoice["lines"]["data"]]
    assert sorted(line["amount"] for line in lines) == [0, 0, 5000]
    # Of five dollars' time a third had gone by: what was used of the rest is owed.
    assert spend(shop, customer) == pytest.approx(50 - 5 * 21 / 31)
    assert window_of().starts_at == datetime.fromtimestamp(shop.account.now, UTC)


def test_what_is_free_after_it_cost_something_keeps_what_was_paid_for(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    read(shop, customer)
    shop.account.advance(by=int(15.5 * DAY))
    free = shop.price(0, metadata={"llm_budget_usd": "6"})
    shop.post(
        f"subscriptions/{sub}", items=[{"id": shop.item(sub), "price": free}], proration_behavior="always_invoice"
    )
    assert spend(shop, customer) == 28


# What prices are worth together -------------------------------------------------------------------------------------


def test_a_credit_takes_back_the_default_plan_beside_what_is_mapped(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(4000))["id"]
    assert read(shop, customer) == ("active", STANDARD)
    shop.account.advance(by=int(15.5 * DAY))
    items = [{"id": shop.item(sub), "price": shop.price(20_000, lookup_key="premium")}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")
    assert spend(shop, customer) == 125


def test_a_price_that_is_no_item_any_more_has_its_lookup_keys_plan(shop: Shop, settings: Any) -> None:
    settings.STRIPE_DOWNGRADE = "period_end"
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(200_000, "year", lookup_key="premium"))["id"]
    read(shop, customer)
    items = [{"id": shop.item(sub), "price": shop.price(50_000, "year", lookup_key="standard")}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="none")
    # In the window that opens after it, too.
    shop.account.advance(by=40 * DAY)
    assert spend(shop, customer) == 200


def test_what_is_used_beyond_a_plan_is_no_plan_of_its_own(shop: Shop) -> None:
    Plan.objects.filter(name="Premium").update(product_ids=[(product := shop.post("products", name="Premium")["id"])])
    meter = shop.post("billing/meters", display_name="Over", event_name="over", default_aggregation={"formula": "sum"})
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter["id"]}
    licensed, over = shop.price(20_000, product=product), shop.price(1, product=product, recurring=recurring)
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, licensed, over)
    assert spend(shop, customer) == 200
    shop.account.advance(by=32 * DAY)
    assert spend(shop, customer) == 200


def test_an_item_that_was_free_takes_its_own_budget_when_it_goes_and_nothing_else(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    free = shop.price(0, metadata={"llm_budget_usd": "31"})
    shop.account.advance(by=DAY)
    shop.post(f"subscriptions/{sub}", items=[{"price": free}], proration_behavior="always_invoice")
    assert read(shop, customer) == ("active", STANDARD + 30_000_000_000)
    shop.account.advance(by=3 * DAY)
    item = next(one["id"] for one in shop.sub(sub)["items"]["data"] if one["price"]["id"] == free)
    shop.post(f"subscriptions/{sub}", items=[{"id": item, "deleted": True}], proration_behavior="always_invoice")
    assert read(shop, customer) == ("active", STANDARD + 3_000_000_000)


def test_a_free_price_between_two_that_cost_something_leaves_what_both_paid_for(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    more = shop.price(3100, metadata={"llm_budget_usd": "31"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"), more)["id"]
    item = shop.sub(sub)["items"]["data"][1]["id"]
    for days, cents in ((1, 0), (3, 3100)):
        shop.account.advance(by=days * DAY)
        change = {"id": item, "price": shop.price(cents, metadata={"llm_budget_usd": "62"})}
        shop.post(f"subscriptions/{sub}", items=[change], proration_behavior="always_invoice")
        read(shop, customer)
    # Beside the plan a day at the first price, three that were free, and twenty-seven at the last.
    assert read(shop, customer) == ("active", STANDARD + 61_000_000_000)


@pytest.mark.parametrize("how", ["refunded", "disputed"])
def test_a_payment_of_the_same_amount_that_paid_for_no_invoice_takes_nothing_when_it_goes_back(
    shop: Shop, how: str
) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sent: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 14}
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), **sent)
    shop.post(f"invoices/{shop.invoices(customer)[0]['id']}/pay", paid_out_of_band=True)
    beside = {"amount": 5000, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    shop.post("payment_intents", customer=customer, **beside)
    charge = shop.all("charges", customer=customer)[0]["id"]
    if how == "refunded":
        shop.post("refunds", charge=charge)
    else:
        shop.account.dispute(charge)
    assert read(shop, customer) == ("active", STANDARD)


@pytest.mark.parametrize("together", [True, False])
def test_of_several_trials_of_a_product_the_first_is_the_one_whoever_hears_of_them_when(
    shop: Shop, together: bool
) -> None:
    customer, price = shop.customer(metadata={"tenant_id": "acme"}), shop.price(5000, lookup_key="standard")
    for days in (10, 30, 20):
        shop.subscribe(customer, price, trial_period_days=days)
        if not together:
            assert read(shop, customer) == ("trial", STANDARD // 10)
        shop.account.advance(by=60)
    for _ in range(2):
        assert read(shop, customer) == ("trial", STANDARD // 10)
        assert window_of().ends_at == datetime(2026, 3, 11, tzinfo=UTC)


def test_a_dispute_over_a_part_of_what_was_paid_takes_that_part(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.post(f"customers/{customer}/balance_transactions", amount=-4500, currency="usd")
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    assert spend(shop, customer, at_most=40) == 40
    # Nine tenths came from the customer's balance.
    disputed = shop.account.dispute(shop.all("charges")[0]["id"])
    assert read(shop, customer) == ("active", 5_000_000_000)
    shop.account.close_dispute(disputed["id"], won=False)
    assert spend(shop, customer) == 5
    shop.account.advance(by=31 * DAY + 2 * HOUR)
    assert read(shop, customer) == ("active", STANDARD)


def test_what_was_used_of_a_part_that_a_dispute_took_is_owed(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    assert spend(shop, customer) == 50
    disputed = shop.account.dispute(shop.all("charges")[0]["id"], amount=500)
    assert read(shop, customer) == ("active", 0)
    shop.account.close_dispute(disputed["id"], won=False)
    shop.account.advance(by=31 * DAY + 2 * HOUR)
    assert read(shop, customer) == ("active", STANDARD - 5_000_000_000)


def test_a_refund_of_what_a_credit_left_to_pay_leaves_what_the_credit_paid_for(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    dear, cheap = (shop.price(cents, metadata={"llm_budget_usd": str(cents // 100)}) for cents in (10_000, 6000))
    sub = shop.subscribe(customer, dear)["id"]
    assert read(shop, customer)[0] == "active"
    shop.account.advance(by=DAY)
    shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "price": cheap}])
    shop.account.advance(by=31 * DAY + 2 * HOUR)
    assert read(shop, customer) == ("active", 60_000_000_000)
    last = shop.invoices(customer)[-1]
    shop.post("refunds", charge=shop.all("charges", customer=customer)[0]["id"])
    credit = -sum(min(0, one["amount"]) for one in last["lines"]["data"])
    assert read(shop, customer) == ("active", 60_000_000_000 * credit // (credit + last["total"]))


def test_a_refund_of_an_upgrade_takes_what_it_paid_for(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(3100, metadata={"llm_budget_usd": "31"}))["id"]
    shop.account.advance(by=DAY)
    more = {"id": shop.item(sub), "price": shop.price(6200, metadata={"llm_budget_usd": "62"})}
    shop.post(f"subscriptions/{sub}", items=[more], proration_behavior="always_invoice")
    assert read(shop, customer) == ("active", 61_000_000_000)
    shop.post("refunds", charge=shop.all("charges", customer=customer)[0]["id"])
    assert read(shop, customer) == ("active", 31_000_000_000)


def test_each_rhythm_of_a_subscription_has_the_terms_of_its_own_invoices(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    monthly = shop.price(3100, metadata={"llm_budget_usd": "50"})
    days = shop.price(990, "day", count=10, metadata={"llm_budget_usd": "15", "llm_budget_period": "billing"})
    shop.subscribe(customer, monthly, days, collection_method="send_invoice", days_until_due=14)
    assert read(shop, customer)[1] == 65 * 10**9
    # The month's invoice is late; that of the last ten days is not due yet.
    shop.account.advance(by=21 * DAY)
    assert read(shop, customer)[1] == 15 * 10**9


def with_topup(shop: Shop, **params: Any) -> tuple[str, dict[str, Any], dict[str, dict[str, Any]]]:
    """A customer whose first invoice bills a plan of $50 and sells a top-up of $20: its invoice, and the two lines."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    product = shop.post("products", name="More")["id"]
    topup = shop.post("prices", currency="usd", unit_amount=2000, product=product, metadata={"llm_topup_usd": "20"})
    extra = [{"price": topup["id"], "quantity": 1}]
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), add_invoice_items=extra, **params)
    assert read(shop, customer)[1] == 70 * 10**9
    [invoice] = shop.invoices(customer)
    return customer, invoice, {"topup" if one["amount"] == 2000 else "plan": one for one in invoice["lines"]["data"]}


def noted(shop: Shop, invoice: dict[str, Any], line: dict[str, Any], amount: int) -> dict[str, Any]:
    lines = [{"type": "invoice_line_item", "invoice_line_item": line["id"], "amount": amount}]
    return shop.post("credit_notes", invoice=invoice["id"], lines=lines, refund_amount=amount)


@pytest.mark.parametrize(("cents", "left"), [(500, 65), (2000, 50), (3000, 50), (7000, 0)])
def test_what_is_refunded_of_a_plan_and_a_topup_is_the_topups_first(shop: Shop, cents: int, left: int) -> None:
    customer, _, _ = with_topup(shop)
    shop.post("refunds", charge=shop.all("charges", customer=customer)[0]["id"], amount=cents)
    assert read(shop, customer)[1] == max(1, left * 10**9)


@pytest.mark.parametrize(
    ("line", "cents", "left"), [("topup", 2000, 50), ("topup", 500, 65), ("plan", 2000, 70), ("plan", 5000, 20)]
)
def test_a_credit_note_takes_back_what_it_is_of(shop: Shop, line: str, cents: int, left: int) -> None:
    """A part of a plan's is the business's gift, as any refund in part."""
    customer, invoice, lines = with_topup(shop)
    noted(shop, invoice, lines[line], cents)
    assert read(shop, customer)[1] == left * 10**9


def test_a_credit_note_before_the_payment_takes_back_what_it_is_of(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail", metadata={"tenant_id": "acme"})
    product = shop.post("products", name="More")["id"]
    topup = shop.post("prices", currency="usd", unit_amount=2000, product=product, metadata={"llm_topup_usd": "20"})
    extra = [{"price": topup["id"], "quantity": 1}]
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), add_invoice_items=extra)
    [invoice] = shop.invoices(customer)
    [line] = [one for one in invoice["lines"]["data"] if one["amount"] == 2000]
    shop.post(
        "credit_notes",
        invoice=invoice["id"],
        lines=[{"type": "invoice_line_item", "invoice_line_item": line["id"], "quantity": 1}],
    )
    shop.post(f"invoices/{invoice['id']}/pay", payment_method="pm_card_visa")
    assert read(shop, customer) == ("active", STANDARD)


def test_a_note_and_a_refund_beside_it_are_of_what_each_is_of(shop: Shop) -> None:
    customer, invoice, lines = with_topup(shop)
    noted(shop, invoice, lines["plan"], 1000)
    shop.post("refunds", charge=shop.all("charges", customer=customer)[0]["id"], amount=1500)
    # The note's $10 is a gift, and the refund's $15 the top-up's.
    assert read(shop, customer)[1] == 55 * 10**9
