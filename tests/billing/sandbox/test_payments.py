"""Payments of every sort, and what takes them back."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from billing.sandbox import StripeRefusal
from tests.billing.sandbox.conftest import DAY, Shop


def paid_invoice(shop: Shop, method: str = "pm_card_visa") -> tuple[str, str, str]:
    """A customer with a paid subscription: its id, the invoice's and the charge's."""
    customer = shop.customer(method)
    sub = shop.subscribe(customer, shop.price(5000))
    (charge,) = shop.all("charges", customer=customer)
    return customer, str(sub["latest_invoice"]), str(charge["id"])


def undone(shop: Shop, invoice: str) -> Fraction:
    return shop.account.books.share_undone(invoice)


def test_credit_pays_before_the_card_does(shop: Shop) -> None:
    customer = shop.customer()
    shop.post(f"customers/{customer}/balance_transactions", amount=-4500, currency="usd")
    shop.subscribe(customer, shop.price(5000))
    (invoice,) = shop.invoices(customer)
    assert (invoice["starting_balance"], invoice["ending_balance"]) == (-4500, 0)
    assert (invoice["total"], invoice["amount_due"], invoice["amount_paid"]) == (5000, 500, 500)
    payment = shop.account.books.payments[invoice["id"]]
    assert (payment.total, payment.cash, payment.balance) == (5000, 500, 4500)
    (charge,) = shop.all("charges", customer=customer)
    shop.post("refunds", charge=charge["id"])
    assert undone(shop, invoice["id"]) == Fraction(1, 10)


def test_credit_alone_pays_without_a_payment(shop: Shop) -> None:
    customer = shop.customer("")
    shop.post(f"customers/{customer}/balance_transactions", amount=-9000, currency="usd")
    sub = shop.subscribe(customer, shop.price(5000))
    (invoice,) = shop.invoices(customer)
    assert (sub["status"], invoice["status"], invoice["amount_paid"]) == ("active", "paid", 0)
    assert shop.get(f"customers/{customer}")["balance"] == -4000
    assert not shop.all("charges", customer=customer)


@pytest.mark.parametrize(
    ("method", "status"), [("pm_usBankAccount_success", "paid"), ("pm_usBankAccount_insufficientFunds", "open")]
)
def test_a_debit_comes_or_is_returned_days_later(shop: Shop, method: str, status: str) -> None:
    customer = shop.customer(method)
    sub = shop.subscribe(customer, shop.price(5000))
    # Stripe trusts a debit that is on its way.
    assert (shop.sub(sub["id"])["status"], shop.invoices(customer)[0]["status"]) == ("active", "open")
    assert not shop.account.books.spans
    shop.account.advance(by=4 * DAY)
    assert shop.invoices(customer)[0]["status"] == status
    assert shop.sub(sub["id"])["status"] == ("active" if status == "paid" else "past_due")
    assert bool(shop.account.books.spans) == (status == "paid")


def test_a_payment_that_asks_its_payer_leaves_the_subscription_incomplete(shop: Shop) -> None:
    customer = shop.customer("pm_card_authenticationRequired")
    assert shop.subscribe(customer, shop.price())["status"] == "incomplete"
    assert "invoice.payment_action_required" in shop.told()


def test_an_invoice_may_be_paid_by_several_payments(shop: Shop) -> None:
    customer = shop.customer("")
    shop.post("invoiceitems", customer=customer, amount=5000, currency="usd")
    invoice = shop.post(
        "invoices",
        customer=customer,
        collection_method="send_invoice",
        days_until_due=30,
        pending_invoice_items_behavior="include",
    )["id"]
    shop.post(f"invoices/{invoice}/finalize")
    for amount in (2000, 3000):
        about = {"customer": customer, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}
        intent = shop.post("payment_intents", amount=amount, **about)
        shop.post(f"invoices/{invoice}/attach_payment", payment_intent=intent["id"])
    found = shop.get(f"invoices/{invoice}", expand=["payments"])
    assert (found["status"], found["amount_paid"]) == ("paid", 5000)
    assert [one["amount_paid"] for one in found["payments"]["data"]] == [2000, 3000]
    first = shop.all("charges", customer=customer)[-1]
    shop.post("refunds", charge=first["id"])
    assert undone(shop, invoice) == Fraction(2, 5)


def test_a_draft_of_the_businesss_own_waits_to_be_finalized(shop: Shop) -> None:
    customer = shop.customer()
    price = shop.post("prices", currency="usd", unit_amount=700, product_data={"name": "Hours"})["id"]
    invoice = shop.post("invoices", customer=customer)["id"]
    shop.post("invoiceitems", customer=customer, invoice=invoice, pricing={"price": price}, quantity=3)
    shop.account.advance(by=3 * DAY)
    assert shop.get(f"invoices/{invoice}")["status"] == "draft"
    assert shop.post(f"invoices/{invoice}/pay")["status"] == "paid"
    line = shop.get(f"invoices/{invoice}")["lines"]["data"][0]
    assert (line["amount"], line["pricing"]["price_details"]["price"]) == (2100, price)
    with pytest.raises(StripeRefusal, match="already paid"):
        shop.post(f"invoices/{invoice}/pay")


def test_refunds_add_up_and_stop_at_the_charge(shop: Shop) -> None:
    customer, invoice, charge = paid_invoice(shop)
    shop.post("refunds", charge=charge, amount=1250)
    assert undone(shop, invoice) == Fraction(1, 4)
    with pytest.raises(StripeRefusal, match="greater than unrefunded"):
        shop.post("refunds", charge=charge, amount=4000)
    shop.post("refunds", charge=charge)
    assert undone(shop, invoice) == 1
    assert shop.get(f"charges/{charge}")["refunded"] is True
    with pytest.raises(StripeRefusal, match="already been refunded"):
        shop.post("refunds", charge=charge)
    assert shop.invoices(customer)[0]["status"] == "paid"


@pytest.mark.parametrize(
    ("method", "status", "share"), [("pm_card_refundFail", "failed", 0), ("pm_card_pendingRefund", "succeeded", 1)]
)
def test_a_refund_on_its_way_comes_or_fails(shop: Shop, method: str, status: str, share: int) -> None:
    _, invoice, charge = paid_invoice(shop, method)
    refund = shop.post("refunds", charge=charge)
    assert (refund["status"], undone(shop, invoice)) == ("pending", 1)
    shop.account.advance(by=6 * DAY)
    assert shop.get(f"refunds/{refund['id']}")["status"] == status
    assert undone(shop, invoice) == share
    assert shop.get(f"charges/{charge}")["amount_refunded"] == 5000 * share


def test_a_credit_note_after_payment_is_counted_once_however_it_gives_back(shop: Shop) -> None:
    customer, invoice, charge = paid_invoice(shop)
    shop.post("credit_notes", invoice=invoice, amount=1000, refund_amount=1000)
    assert (undone(shop, invoice), shop.get(f"charges/{charge}")["amount_refunded"]) == (Fraction(1, 5), 1000)
    shop.post("credit_notes", invoice=invoice, amount=1000, credit_amount=1000)
    assert (undone(shop, invoice), shop.get(f"customers/{customer}")["balance"]) == (Fraction(2, 5), -1000)
    shop.post("credit_notes", invoice=invoice, amount=500, out_of_band_amount=500)
    assert undone(shop, invoice) == Fraction(1, 2)
    assert shop.get(f"invoices/{invoice}")["post_payment_credit_notes_amount"] == 2500
    with pytest.raises(StripeRefusal, match="must equal"):
        shop.post("credit_notes", invoice=invoice, amount=100)
    with pytest.raises(StripeRefusal, match="what is left"):
        shop.post("credit_notes", invoice=invoice, amount=5000, out_of_band_amount=5000)


def test_a_credit_note_before_payment_lowers_what_is_due(shop: Shop) -> None:
    customer = shop.customer("")
    shop.subscribe(customer, shop.price(5000), collection_method="send_invoice", days_until_due=30)
    invoice = shop.invoices(customer)[0]["id"]
    line = shop.invoices(customer)[0]["lines"]["data"][0]["id"]
    note = shop.post(
        "credit_notes",
        invoice=invoice,
        lines=[{"type": "invoice_line_item", "invoice_line_item": line, "amount": 2000}],
    )
    assert (note["type"], shop.get(f"invoices/{invoice}")["amount_remaining"]) == ("pre_payment", 3000)
    shop.post(f"credit_notes/{note['id']}/void")
    assert shop.get(f"invoices/{invoice}")["amount_remaining"] == 5000
    shop.post("credit_notes", invoice=invoice, amount=2000)
    paid = shop.post(f"invoices/{invoice}/pay", payment_method="pm_card_visa")
    assert (paid["status"], paid["amount_paid"]) == ("paid", 3000)
    assert undone(shop, invoice) == Fraction(2, 5)


@pytest.mark.parametrize("won", [True, False])
def test_a_dispute_takes_the_money_until_it_is_won(shop: Shop, won: bool) -> None:
    _, invoice, charge = paid_invoice(shop)
    dispute = shop.account.dispute(charge)
    assert (undone(shop, invoice), shop.get(f"charges/{charge}")["disputed"]) == (1, True)
    with pytest.raises(StripeRefusal, match="charged back"):
        shop.post("refunds", charge=charge)
    text = "winning_evidence" if won else "losing_evidence"
    closed = shop.post(f"disputes/{dispute['id']}", evidence={"uncategorized_text": text}, submit=True)
    assert closed["status"] == ("won" if won else "lost")
    assert undone(shop, invoice) == (0 if won else 1)
    assert sum(one["amount"] for one in closed["balance_transactions"]) == (0 if won else -5000)
    assert ("charge.dispute.funds_reinstated" in shop.told()) == won


def test_an_inquiry_takes_nothing(shop: Shop) -> None:
    _, invoice, charge = paid_invoice(shop)
    dispute = shop.account.dispute(charge, inquiry=True)
    assert (dispute["status"], undone(shop, invoice)) == ("warning_needs_response", 0)
    assert shop.account.close_dispute(dispute["id"], won=True)["status"] == "warning_closed"


@pytest.mark.parametrize(("prevented_by", "taken"), [("resolution", -5000), ("block", 0)])
def test_a_dispute_that_is_prevented_is_closed_and_may_have_taken_the_money(
    shop: Shop, prevented_by: str, taken: int
) -> None:
    _, invoice, charge = paid_invoice(shop)
    with pytest.raises(StripeRefusal, match="prevented by one of"):
        shop.account.dispute(charge, prevented_by="luck")
    dispute = shop.account.dispute(charge, prevented_by=prevented_by)
    assert dispute["payment_method_details"]["card"]["case_type"] == prevented_by
    assert (dispute["status"], sum(one["amount"] for one in dispute["balance_transactions"])) == ("prevented", taken)
    assert (undone(shop, invoice), "charge.dispute.closed" in shop.told()) == (int(taken < 0), True)
    with pytest.raises(StripeRefusal, match="closed"):
        shop.account.close_dispute(dispute["id"], won=True)


def test_an_invoice_that_is_void_gives_its_credit_back(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail")
    shop.post(f"customers/{customer}/balance_transactions", amount=-1000, currency="usd")
    shop.subscribe(customer, shop.price(5000))
    invoice = shop.invoices(customer)[0]
    assert (invoice["amount_due"], shop.get(f"customers/{customer}")["balance"]) == (4000, 0)
    shop.post(f"invoices/{invoice['id']}/void")
    assert shop.get(f"customers/{customer}")["balance"] == -1000
    with pytest.raises(StripeRefusal, match="no longer be paid"):
        shop.post(f"invoices/{invoice['id']}/pay")


@pytest.mark.parametrize("currency", ["jpy", "kwd", "ugx"])
def test_currencies_of_every_kind_are_billed_and_prorated(shop: Shop, currency: str) -> None:
    customer, price = shop.customer(), shop.price(6200 * 100, currency=currency)
    sub = shop.subscribe(customer, price, quantity=1)["id"]
    shop.account.advance(by=DAY + 17)
    shop.post(
        f"subscriptions/{sub}", items=[{"id": shop.item(sub), "quantity": 2}], proration_behavior="always_invoice"
    )
    step = {"jpy": 1, "kwd": 10, "ugx": 100}[currency]
    assert all(one["total"] > 0 and one["total"] % step == 0 for one in shop.invoices(customer))
    with pytest.raises(StripeRefusal):
        shop.price(6201, currency="ugx")


def test_a_deleted_customer_leaves_its_invoices_and_nothing_else(shop: Shop) -> None:
    customer, invoice, _ = paid_invoice(shop)
    shop.delete(f"customers/{customer}")
    assert shop.get(f"customers/{customer}") == {"id": customer, "object": "customer", "deleted": True}
    assert shop.get(f"invoices/{invoice}")["status"] == "paid"
    assert {one["status"] for one in shop.all("subscriptions", status="all")} == {"canceled"}
    with pytest.raises(StripeRefusal, match="No such customer"):
        shop.post("subscriptions", customer=customer, items=[{"price": shop.price()}])
    told: list[Any] = shop.told()
    assert told.index("customer.subscription.deleted") < told.index("customer.deleted")


def test_a_credit_note_is_of_lines_by_amount_or_quantity_or_of_its_own(shop: Shop) -> None:
    customer, coupon = shop.customer(), shop.post("coupons", percent_off=50, duration="once")["id"]
    shop.subscribe(customer, shop.price(1000), quantity=4, discounts=[{"coupon": coupon}])
    [invoice] = shop.invoices(customer)
    [line] = invoice["lines"]["data"]
    of_line = {"type": "invoice_line_item", "invoice_line_item": line["id"]}
    own = {"type": "custom_line_item", "description": "For the trouble", "unit_amount": 100, "quantity": 2}

    def note(*lines: dict[str, Any], **more: Any) -> dict[str, Any]:
        return shop.post("credit_notes", invoice=invoice["id"], lines=list(lines), **more)

    # Of four seats for $10, halved by the coupon, one.
    found = note(of_line | {"quantity": 1}, own, refund_amount=700)
    shown = [(one["amount"], one["discount_amount"], one["invoice_line_item"]) for one in found["lines"]["data"]]
    assert (found["amount"], shown) == (700, [(1000, 500, line["id"]), (200, 0, None)])
    assert note(of_line | {"amount": 500}, refund_amount=250)["amount"] == 250
    for wrong, words in (
        (of_line, "exactly one of"),
        (of_line | {"amount": 1, "quantity": 1}, "exactly one of"),
        (of_line | {"quantity": 5}, "more than"),
        (of_line | {"amount": 4001}, "more than"),
        (of_line | {"invoice_line_item": "il_none", "amount": 1}, "No such"),
        ({"type": "custom_line_item", "quantity": 1}, "unit_amount"),
    ):
        with pytest.raises(StripeRefusal, match=words):
            note(wrong, refund_amount=1)


def test_a_refunds_metadata_can_be_changed(shop: Shop) -> None:
    customer = shop.customer()
    shop.subscribe(customer, shop.price(1000))
    made = shop.post("refunds", charge=shop.all("charges")[0]["id"], amount=100, metadata={"why": "late"})
    shop.post(f"refunds/{made['id']}", metadata={"case": "7"})
    assert shop.get(f"refunds/{made['id']}")["metadata"] == {"why": "late", "case": "7"}
    assert shop.told()[-1] == "refund.updated"
