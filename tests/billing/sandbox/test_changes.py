"""Changes in mid-period: what is given back, what is billed, and what the books say was paid for."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from billing.sandbox import StripeRefusal, changes
from tests.billing.sandbox.conftest import DAY, Shop


def change(shop: Shop, sub: str, **params: Any) -> dict[str, Any]:
    return shop.post(f"subscriptions/{sub}", **params)


def test_a_rise_is_prorated_to_the_second_and_billed_with_the_next_invoice(shop: Shop) -> None:
    customer, small, large = shop.customer(), shop.price(3100), shop.price(6200)
    sub = shop.subscribe(customer, small)["id"]
    shop.account.advance(by=10 * DAY)
    change(shop, sub, items=[{"id": shop.item(sub), "price": large}])
    assert len(shop.invoices(customer)) == 1
    shop.account.advance(by=21 * DAY + 2 * 3600)
    lines = shop.invoices(customer)[1]["lines"]["data"]
    assert [line["amount"] for line in lines] == [-2100, 4200, 6200]
    assert [line["parent"]["subscription_item_details"]["proration"] for line in lines] == [True, True, False]


@pytest.mark.parametrize(
    ("behaviour", "billed"), [("always_invoice", [3100, 2100]), ("none", [3100]), ("create_prorations", [3100])]
)
def test_each_way_to_prorate(shop: Shop, behaviour: str, billed: list[int]) -> None:
    customer, price = shop.customer(), shop.price(3100)
    sub = shop.subscribe(customer, price, quantity=1)["id"]
    shop.account.advance(by=10 * DAY)
    changed = change(shop, sub, items=[{"id": shop.item(sub), "quantity": 2}], proration_behavior=behaviour)
    assert changed["items"]["data"][0]["quantity"] == 2
    assert [one["total"] for one in shop.invoices(customer)] == billed
    waiting = shop.all("invoiceitems", customer=customer, pending=True)
    assert sorted(one["amount"] for one in waiting) == ([-2100, 4200] if behaviour == "create_prorations" else [])


def test_going_up_and_down_again_gives_back_what_was_billed_and_no_more(shop: Shop) -> None:
    customer, price = shop.customer(), shop.price(3100)
    sub = shop.subscribe(customer, price, quantity=1)["id"]
    for quantity in (5, 1, 7, 1):
        change(shop, sub, items=[{"id": shop.item(sub), "quantity": quantity}], proration_behavior="always_invoice")
    assert sum(span.amount for span in shop.account.books.paid(customer)) == 3100
    taken = sum(payment.cash for payment in shop.account.books.payments.values())
    assert taken + shop.get(f"customers/{customer}")["balance"] == 3100


def test_six_changes_put_the_plans_line_beyond_the_tenth(shop: Shop) -> None:
    customer, price = shop.customer(), shop.price(1000)
    sub = shop.subscribe(customer, price, quantity=1)["id"]
    for quantity in range(2, 8):
        shop.account.advance(by=2 * DAY)
        change(shop, sub, items=[{"id": shop.item(sub), "quantity": quantity}])
    shop.account.advance(by=25 * DAY)
    invoice = shop.invoices(customer)[1]
    assert (len(invoice["lines"]["data"]), invoice["lines"]["has_more"]) == (10, True)
    lines = shop.all(f"invoices/{invoice['id']}/lines")
    assert (len(lines), lines[-1]["amount"]) == (13, 7000)
    assert all(line["parent"]["subscription_item_details"]["proration"] for line in lines[:10])


def test_another_interval_begins_a_period_and_is_billed_at_once(shop: Shop) -> None:
    customer, month, year = shop.customer(), shop.price(3100), shop.price(30_000, "year")
    sub = shop.subscribe(customer, month)["id"]
    shop.account.advance(by=10 * DAY)
    changed = change(shop, sub, items=[{"id": shop.item(sub), "price": year}])
    item = changed["items"]["data"][0]
    assert item["current_period_start"] == shop.account.now
    invoice = shop.invoices(customer)[1]
    assert (invoice["billing_reason"], invoice["status"]) == ("subscription_update", "paid")
    assert [line["amount"] for line in invoice["lines"]["data"]] == [-2100, 30_000]


@pytest.mark.parametrize(("behaviour", "total"), [("create_prorations", 1000), ("none", 3100)])
def test_a_new_anchor_begins_a_whole_period_now(shop: Shop, behaviour: str, total: int) -> None:
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price(3100))["id"]
    shop.account.advance(by=10 * DAY)
    changed = change(shop, sub, billing_cycle_anchor={"type": "now"}, proration_behavior=behaviour)
    assert changed["billing_cycle_anchor"] == shop.account.now
    assert shop.invoices(customer)[1]["total"] == total


def test_free_days_put_the_next_period_off(shop: Shop) -> None:
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price(3100))["id"]
    shop.account.advance(by=10 * DAY)
    until = shop.account.now + 30 * DAY
    changed = change(shop, sub, trial_end=until, proration_behavior="none")
    assert (changed["status"], changed["items"]["data"][0]["current_period_end"]) == ("trialing", until)
    shop.account.advance(by=30 * DAY + 2 * 3600)
    assert [one["total"] for one in shop.invoices(customer)] == [3100, 0, 3100]
    assert shop.sub(sub)["status"] == "active"


def test_a_trial_that_is_ended_early_is_paid_from_then_on(shop: Shop) -> None:
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price(3100), trial_period_days=14)["id"]
    shop.account.advance(by=2 * DAY)
    changed = change(shop, sub, trial_end="now")
    assert (changed["status"], changed["trial_end"]) == ("active", shop.account.now)
    assert [(one["billing_reason"], one["total"]) for one in shop.invoices(customer)] == [
        ("subscription_create", 0),
        ("subscription_update", 3100),
    ]


def test_a_change_that_is_not_paid_waits_and_is_made_or_dropped(shop: Shop) -> None:
    customer, small, large = shop.customer(), shop.price(3100), shop.price(6200)
    subs = [shop.subscribe(customer, small)["id"] for _ in range(2)]
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    how = {"proration_behavior": "always_invoice", "payment_behavior": "pending_if_incomplete"}
    for sub in subs:
        changed = change(shop, sub, items=[{"id": shop.item(sub), "price": large}], **how)
        assert changed["pending_update"] is not None
        assert changed["items"]["data"][0]["price"]["id"] == small
    shop.post(f"invoices/{shop.sub(subs[0])['latest_invoice']}/pay", payment_method="pm_card_visa")
    made = shop.sub(subs[0])
    assert (made["pending_update"], made["items"]["data"][0]["price"]["id"]) == (None, large)
    shop.account.advance(by=DAY)
    dropped = shop.sub(subs[1])
    assert (dropped["pending_update"], dropped["items"]["data"][0]["price"]["id"]) == (None, small)
    assert {"customer.subscription.pending_update_applied", "customer.subscription.pending_update_expired"} <= set(
        shop.told()
    )
    assert shop.get(f"invoices/{dropped['latest_invoice']}")["status"] == "void"


def test_an_error_is_preferred_to_a_change_that_is_not_paid(shop: Shop) -> None:
    customer, small, large = shop.customer(), shop.price(3100), shop.price(6200)
    sub = shop.subscribe(customer, small)["id"]
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    with pytest.raises(StripeRefusal) as caught:
        change(
            shop,
            sub,
            items=[{"id": shop.item(sub), "price": large}],
            proration_behavior="always_invoice",
            payment_behavior="error_if_incomplete",
        )
    assert caught.value.status == 402
    assert shop.sub(sub)["items"]["data"][0]["price"]["id"] == small
    assert not shop.all("invoiceitems", customer=customer)


def test_a_coupon_counts_for_prorations_too(shop: Shop) -> None:
    shop.post("coupons", id="free", percent_off=100, duration="forever")
    customer, small, large = shop.customer(), shop.price(3100), shop.price(31_000)
    sub = shop.subscribe(customer, small, discounts=[{"coupon": "free"}])["id"]
    shop.account.advance(by=10 * DAY)
    change(shop, sub, items=[{"id": shop.item(sub), "price": large}], proration_behavior="always_invoice")
    assert [one["total"] for one in shop.invoices(customer)] == [0, 0]
    assert [line["amount"] for line in shop.invoices(customer)[1]["lines"]["data"]] == [-2100, 21_000]
    assert {span.amount for span in shop.account.books.paid(customer)} == {0}


def test_a_coupon_that_counted_once_is_not_paid_out_by_a_downgrade(shop: Shop) -> None:
    shop.post("coupons", id="once", percent_off=100, duration="once")
    customer, price = shop.customer(), shop.price(3100)
    sub = shop.subscribe(customer, price, quantity=10, discounts=[{"coupon": "once"}])["id"]
    change(shop, sub, items=[{"id": shop.item(sub), "quantity": 1}], proration_behavior="always_invoice")
    assert shop.invoices(customer)[-1]["total"] == 3100
    assert shop.get(f"customers/{customer}")["balance"] == 0


def test_items_come_and_go(shop: Shop) -> None:
    customer, plan, addon = shop.customer(), shop.price(3100), shop.price(310)
    sub = shop.subscribe(customer, plan)["id"]
    shop.account.advance(by=10 * DAY)
    changed = change(shop, sub, items=[{"price": addon, "quantity": 2}], proration_behavior="always_invoice")
    assert shop.invoices(customer)[-1]["total"] == 420
    added = changed["items"]["data"][1]
    assert added["current_period_end"] == changed["items"]["data"][0]["current_period_end"]
    change(shop, sub, items=[{"id": added["id"], "deleted": True}], proration_behavior="always_invoice")
    assert shop.get(f"customers/{customer}")["balance"] == -420
    with pytest.raises(StripeRefusal, match="from 1 to"):
        change(shop, sub, items=[{"id": shop.item(sub), "deleted": True}])
    with pytest.raises(StripeRefusal, match="No such subscription item"):
        change(shop, sub, items=[{"id": "si_none", "quantity": 2}])


def test_a_schedule_changes_the_plan_at_the_periods_end(shop: Shop) -> None:
    customer, small, large = shop.customer(), shop.price(3100), shop.price(6200)
    sub = shop.subscribe(customer, large)["id"]
    schedule = shop.post("subscription_schedules", from_subscription=sub)
    (phase,) = schedule["phases"]
    phases = [
        {"items": [{"price": large, "quantity": 1}], "start_date": phase["start_date"], "end_date": phase["end_date"]},
        {"items": [{"price": small, "quantity": 1}], "duration": {"interval": "month", "interval_count": 1}},
    ]
    shop.post(f"subscription_schedules/{schedule['id']}", phases=phases)
    assert shop.sub(sub)["items"]["data"][0]["price"]["id"] == large
    shop.account.advance(by=31 * DAY + 2 * 3600)
    assert [one["total"] for one in shop.invoices(customer)] == [6200, 3100]
    shop.account.advance(by=31 * DAY)
    assert shop.get(f"subscription_schedules/{schedule['id']}")["status"] == "released"
    assert shop.sub(sub)["schedule"] is None


def test_the_books_say_what_part_of_a_price_was_paid(shop: Shop) -> None:
    customer, price = shop.customer(), shop.price(3100)
    sub = shop.subscribe(customer, price, quantity=1)["id"]
    shop.account.advance(by=10 * DAY)
    change(shop, sub, items=[{"id": shop.item(sub), "quantity": 3}], proration_behavior="always_invoice")
    at = shop.account.now + DAY
    covering = shop.account.books.paid(customer, at=at)
    shares = [Fraction(span.amount, span.end - span.start) * 31 * DAY / 3100 for span in covering]
    # One seat for the month, less one for the rest of it, and three for that.
    assert [round(float(share), 3) for share in shares] == [1.0, -1.0, 3.0]
    assert {span.whole_amount for span in covering} == {3100, 9300}


def test_an_item_by_itself_is_added_changed_and_taken_away(shop: Shop) -> None:
    customer = shop.customer()
    sub = shop.subscribe(customer, shop.price(3100))["id"]
    shop.account.advance(by=15 * DAY)
    now = {"proration_behavior": "always_invoice"}
    added = shop.post("subscription_items", subscription=sub, price=shop.price(6200), quantity=2, **now)
    assert (added["object"], added["subscription"], added["quantity"]) == ("subscription_item", sub, 2)
    assert shop.invoices(customer)[-1]["total"] == 6400
    shop.post(f"subscription_items/{added['id']}", quantity=1, metadata={"seat": "1"}, proration_behavior="none")
    found = shop.get(f"subscription_items/{added['id']}")
    assert (found["quantity"], found["metadata"]) == (1, {"seat": "1"})
    gone = shop.delete(f"subscription_items/{added['id']}", proration_behavior="none")
    assert gone == {"id": added["id"], "object": "subscription_item", "deleted": True}
    [left] = shop.sub(sub)["items"]["data"]
    with pytest.raises(StripeRefusal, match="at least one"):
        shop.delete(f"subscription_items/{left['id']}")
    with pytest.raises(StripeRefusal, match="No such subscription"):
        shop.post("subscription_items", subscription="sub_none", price=left["price"]["id"])


def test_an_item_may_bring_its_own_price(shop: Shop) -> None:
    product = shop.post("products", name="Bespoke")["id"]
    data = {"currency": "usd", "product": product, "unit_amount": 700, "recurring": {"interval": "week"}}
    sub = shop.post("subscriptions", customer=shop.customer(), items=[{"price_data": data}])
    [item] = sub["items"]["data"]
    assert (item["price"]["unit_amount"], item["price"]["product"]) == (700, product)
    more = data | {"unit_amount": 900}
    sub = shop.post(f"subscriptions/{sub['id']}", items=[{"price_data": more}], proration_behavior="none")
    assert [one["price"]["unit_amount"] for one in sub["items"]["data"]] == [700, 900]
    for wrong in ({"price": item["price"]["id"], "price_data": data}, {"price_data": data | {"product": "prod_none"}}):
        with pytest.raises(StripeRefusal):
            shop.post(f"subscriptions/{sub['id']}", items=[wrong])


def test_a_coupon_is_listed_renamed_and_deleted_and_who_has_it_keeps_it(shop: Shop) -> None:
    coupon = shop.post("coupons", percent_off=50, duration="forever")["id"]
    customer = shop.customer()
    shop.subscribe(customer, shop.price(5000), discounts=[{"coupon": coupon}])
    assert shop.post(f"coupons/{coupon}", name="Half")["name"] == "Half"
    assert [one["id"] for one in shop.all("coupons")] == [coupon]
    shop.delete(f"coupons/{coupon}")
    assert shop.all("coupons") == []
    for ask in (
        lambda: shop.get(f"coupons/{coupon}"),
        lambda: shop.subscribe(customer, shop.price(100), discounts=[{"coupon": coupon}]),
    ):
        with pytest.raises(StripeRefusal, match="No such coupon"):
            ask()
    shop.account.advance(by=32 * DAY)
    assert [one["total"] for one in shop.invoices(customer)] == [2500, 2500]


def test_of_a_debit_without_time_nothing_is_left_to_cut() -> None:
    debit = {"start": 5, "end": 5, "amount": 100, "discounts": []}
    changes.cut(debit, 7)
    assert debit == {"start": 5, "end": 5, "amount": 100, "discounts": []}
