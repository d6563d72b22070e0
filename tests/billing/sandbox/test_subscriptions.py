"""Subscriptions from their beginning through renewals, trials, pauses and failures to their end."""

from __future__ import annotations

from typing import Any

import pytest

from billing.sandbox import StripeRefusal, wire
from tests.billing.sandbox.conftest import DAY, Shop


def spans(invoice: dict[str, Any]) -> list[tuple[int, int]]:
    """Amount and length in days of each line."""
    return [
        (line["amount"], round((line["period"]["end"] - line["period"]["start"]) / DAY))
        for line in invoice["lines"]["data"]
    ]


@pytest.mark.parametrize(
    ("interval", "count", "days"), [("day", 3, 3), ("week", 1, 7), ("month", 1, 31), ("month", 3, 92), ("year", 1, 365)]
)
def test_each_interval_renews_at_its_end(shop: Shop, interval: str, count: int, days: int) -> None:
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price(5000, interval, count))
    item = sub["items"]["data"][0]
    assert item["current_period_end"] - item["current_period_start"] == days * DAY
    shop.account.advance(by=days * DAY + 2 * 3600)
    first, second = shop.invoices(customer)
    assert [(one["billing_reason"], one["status"], one["total"]) for one in (first, second)] == [
        ("subscription_create", "paid", 5000),
        ("subscription_cycle", "paid", 5000),
    ]
    assert second["lines"]["data"][0]["period"]["start"] == item["current_period_end"]
    # An hour passes from a renewal's draft to its payment.
    assert second["status_transitions"]["paid_at"] - second["created"] == 3600


def test_a_first_payment_that_fails_expires_within_a_day(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail")
    sub = shop.subscribe(customer, shop.price())
    assert sub["status"] == "incomplete"
    shop.account.advance(by=22 * 3600)
    assert shop.sub(sub["id"])["status"] == "incomplete"
    shop.account.advance(by=2 * 3600)
    assert shop.sub(sub["id"])["status"] == "incomplete_expired"
    assert [one["status"] for one in shop.invoices(customer)] == ["void"]


def test_a_first_payment_that_comes_late_begins_it(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail")
    sub = shop.subscribe(customer, shop.price())
    invoice = shop.invoices(customer)[0]["id"]
    paid = shop.post(f"invoices/{invoice}/pay", payment_method="pm_card_visa")
    assert (paid["status"], shop.sub(sub["id"])["status"]) == ("paid", "active")


@pytest.mark.parametrize("after", ["cancel", "unpaid", "past_due"])
def test_a_renewal_that_fails_is_tried_four_times(shop: Shop, after: str) -> None:
    shop.account.state.after_last_try = after
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price())
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    shop.account.advance(by=31 * DAY + 2 * 3600)
    assert shop.sub(sub["id"])["status"] == "past_due"
    shop.account.advance(by=3 * DAY + 5 * DAY)
    assert shop.sub(sub["id"])["status"] == "past_due"
    shop.account.advance(by=7 * DAY)
    assert shop.sub(sub["id"])["status"] == {"cancel": "canceled"}.get(after, after)
    failed = [event for event in shop.account.events if event["type"] == "invoice.payment_failed"]
    assert [event["data"]["object"]["attempt_count"] for event in failed] == [1, 2, 3, 4]


def test_a_past_due_subscription_is_active_once_its_invoice_is_paid(shop: Shop) -> None:
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price())
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    shop.account.advance(by=32 * DAY)
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_visa"})
    shop.account.advance(by=3 * DAY)
    assert shop.sub(sub["id"])["status"] == "active"


def test_a_trial_costs_nothing_and_is_followed_by_a_whole_period(shop: Shop) -> None:
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price(), trial_period_days=14)
    assert (sub["status"], sub["trial_end"] - sub["trial_start"]) == ("trialing", 14 * DAY)
    shop.account.advance(by=14 * DAY + 2 * 3600)
    assert [(one["total"], spans(one)) for one in shop.invoices(customer)] == [(0, [(0, 14)]), (5000, [(5000, 31)])]
    assert shop.sub(sub["id"])["status"] == "active"
    assert "customer.subscription.trial_will_end" in shop.told()


@pytest.mark.parametrize(
    ("behaviour", "status"), [("pause", "paused"), ("cancel", "canceled"), ("create_invoice", "past_due")]
)
def test_a_trial_without_a_card_ends_as_it_was_told(shop: Shop, behaviour: str, status: str) -> None:
    customer = shop.customer("")
    settings = {"end_behavior": {"missing_payment_method": behaviour}}
    sub = shop.subscribe(customer, shop.price(), trial_period_days=7, trial_settings=settings)
    shop.account.advance(by=7 * DAY + 2 * 3600)
    assert shop.sub(sub["id"])["status"] == status
    if behaviour == "pause":
        method = shop.post("payment_methods/pm_card_visa/attach", customer=customer)["id"]
        shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": method})
        resumed = shop.post(f"subscriptions/{sub['id']}/resume")
        assert resumed["status"] == "active"
        assert shop.invoices(customer)[-1]["status"] == "paid"
        assert "customer.subscription.resumed" in shop.told()


def test_a_billing_day_makes_a_short_first_period(shop: Shop) -> None:
    customer = shop.customer()
    now = shop.account.now
    sub = shop.subscribe(customer, shop.price(3100), billing_cycle_anchor=now + 10 * DAY)
    (first,) = shop.invoices(customer)
    # The whole period would have had the 28 days of February before the anchor of 11 March.
    assert spans(first) == [(round(3100 * 10 / 28), 10)]
    shop.account.advance(by=10 * DAY + 2 * 3600)
    assert spans(shop.invoices(customer)[1]) == [(3100, 31)]
    free = shop.subscribe(
        customer, shop.price(3100), billing_cycle_anchor=shop.account.now + 5 * DAY, proration_behavior="none"
    )
    assert shop.get(f"invoices/{free['latest_invoice']}")["total"] == 0
    assert shop.sub(sub["id"])["billing_cycle_anchor"] == now + 10 * DAY


def test_a_backdated_start_is_billed_from_then_on(shop: Shop) -> None:
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price(2800), backdate_start_date=shop.account.now - 14 * DAY)
    assert spans(shop.invoices(customer)[0]) == [(1400, 14), (2800, 31)]
    assert sub["start_date"] == shop.account.now - 14 * DAY


def test_items_of_one_subscription_have_periods_of_their_own(shop: Shop) -> None:
    customer = shop.customer()
    year, month = shop.price(60_000, "year"), shop.price(1000)
    with pytest.raises(StripeRefusal, match="same billing interval"):
        shop.subscribe(customer, year, month, billing_mode={"type": "classic"})
    shop.subscribe(customer, year, month)
    shop.account.advance(by=32 * DAY)
    assert [spans(one) for one in shop.invoices(customer)] == [[(60_000, 365), (1000, 31)], [(1000, 30)]]


@pytest.mark.parametrize(
    ("behaviour", "status"), [("void", "void"), ("mark_uncollectible", "uncollectible"), ("keep_as_draft", "draft")]
)
def test_paused_collection_asks_for_nothing(shop: Shop, behaviour: str, status: str) -> None:
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price())["id"]
    paused = shop.post(
        f"subscriptions/{sub}", pause_collection={"behavior": behaviour, "resumes_at": shop.account.now + 40 * DAY}
    )
    assert paused["status"] == "active"
    shop.account.advance(by=32 * DAY)
    assert shop.invoices(customer)[-1]["status"] == status
    shop.account.advance(by=40 * DAY)
    assert shop.sub(sub)["pause_collection"] is None
    assert shop.invoices(customer)[-1]["status"] == "paid"


def test_it_ends_with_its_period_or_at_once(shop: Shop) -> None:
    customer = shop.customer()
    late, now = (shop.subscribe(customer, shop.price())["id"] for _ in range(2))
    shop.post(f"subscriptions/{late}", cancel_at_period_end=True)
    shop.delete(f"subscriptions/{now}")
    assert (shop.sub(late)["status"], shop.sub(now)["status"]) == ("active", "canceled")
    shop.account.advance(by=31 * DAY)
    assert shop.sub(late)["status"] == "canceled"
    assert len(shop.invoices(customer)) == 2
    with pytest.raises(StripeRefusal, match="No such subscription"):
        shop.post(f"subscriptions/{late}", cancel_at_period_end=False)
    assert [one["id"] for one in shop.all("subscriptions", customer=customer)] == []
    assert len(shop.all("subscriptions", customer=customer, status="all")) == 2


def test_terms_of_payment_leave_an_invoice_open_until_it_is_paid(shop: Shop) -> None:
    customer = shop.customer("")
    sub = shop.subscribe(customer, shop.price(), collection_method="send_invoice", days_until_due=10)
    (invoice,) = shop.invoices(customer)
    assert (sub["status"], invoice["status"], invoice["due_date"]) == ("active", "open", shop.account.now + 10 * DAY)
    shop.account.advance(by=11 * DAY)
    assert shop.sub(sub["id"])["status"] == "past_due"
    assert "invoice.overdue" in shop.told()
    paid = shop.post(f"invoices/{invoice['id']}/pay", paid_out_of_band=True)
    assert (paid["status"], paid["amount_paid"], paid["amount_paid_off_stripe"]) == ("paid", 5000, 5000)
    assert shop.sub(sub["id"])["status"] == "active"
    assert not shop.all("charges", customer=customer)


def test_usage_is_billed_in_arrears(shop: Shop) -> None:
    meter = shop.post(
        "billing/meters", display_name="Calls", event_name="calls", default_aggregation={"formula": "sum"}
    )
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter["id"]}
    price = shop.price(None, recurring=recurring, unit_amount_decimal="0.5")
    customer = shop.customer()
    sub = shop.subscribe(customer, price)
    assert sub["items"]["data"][0]["quantity"] is None
    for number in range(3):
        payload = {"stripe_customer_id": customer, "value": "1000"}
        shop.post("billing/meter_events", event_name="calls", payload=payload, identifier=f"e{number}")
    shop.account.advance(by=31 * DAY + 2 * 3600)
    assert [(one["total"], one["lines"]["data"][0]["quantity"]) for one in shop.invoices(customer)] == [
        (0, 0),
        (1500, 3000),
    ]
    (paid,) = [span for span in shop.account.books.paid(customer) if span.amount]
    assert (paid.arrears, paid.end - paid.start) == (True, 31 * DAY)
    with pytest.raises(StripeRefusal, match="metered"):
        shop.subscribe(customer, price, quantity=3)


def test_what_was_used_before_the_end_comes_on_a_last_invoice(shop: Shop) -> None:
    meter = shop.post(
        "billing/meters", display_name="Calls", event_name="calls", default_aggregation={"formula": "sum"}
    )
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter["id"]}
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price(2, recurring=recurring))["id"]
    shop.post(f"subscriptions/{sub}", cancel_at_period_end=True)
    payload = {"stripe_customer_id": customer, "value": "30"}
    shop.post("billing/meter_events", event_name="calls", payload=payload, identifier="e1")
    shop.account.advance(by=32 * DAY)
    assert shop.sub(sub)["status"] == "canceled"
    last = shop.invoices(customer)[-1]
    assert (last["total"], last["status"]) == (60, "paid")


def test_what_cannot_be_billed_is_refused_and_leaves_nothing(shop: Shop) -> None:
    customer = shop.customer()
    dollars, euros = shop.price(), shop.price(currency="eur")
    once = (
        shop.price(recurring=None)
        if False
        else shop.post("prices", currency="usd", unit_amount=5, product_data={"name": "x"})["id"]
    )
    for prices, param in (
        ((dollars, euros), "items[1][price]"),
        ((dollars, dollars), "items"),
        ((once,), "items[0][price]"),
    ):
        with pytest.raises(StripeRefusal) as caught:
            shop.subscribe(customer, *prices)
        assert caught.value.body["error"]["param"] == param
    assert not shop.all("subscriptions", status="all")
    assert not shop.invoices(customer)


def test_an_embedded_list_is_cut_at_ten_and_read_whole_elsewhere(shop: Shop) -> None:
    customer = shop.customer()
    prices = [shop.price(100 + number) for number in range(12)]
    sub = shop.subscribe(customer, *prices)
    assert (len(sub["items"]["data"]), sub["items"]["has_more"]) == (wire.EMBEDDED, True)
    assert len(shop.all("subscription_items", subscription=sub["id"])) == 12
    (invoice,) = shop.invoices(customer)
    assert (len(invoice["lines"]["data"]), invoice["lines"]["has_more"]) == (10, True)
    lines = shop.all(f"invoices/{invoice['id']}/lines")
    assert sum(line["amount"] for line in lines) == invoice["total"] == sum(range(100, 112))


def test_entitlements_follow_the_products_of_live_subscriptions(shop: Shop) -> None:
    feature = shop.post("entitlements/features", lookup_key="agents", name="Agents")
    product = shop.post("products", name="Plan")["id"]
    shop.post(f"products/{product}/features", entitlement_feature=feature["id"])
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price(product=product))
    assert [one["lookup_key"] for one in shop.all("entitlements/active_entitlements", customer=customer)] == ["agents"]
    shop.delete(f"subscriptions/{sub['id']}")
    summaries = [e["data"]["object"] for e in shop.account.events if e["type"].startswith("entitlements.")]
    assert [len(one["entitlements"]["data"]) for one in summaries] == [1, 0]
