"""What was paid with money that went back stands on no payment, whatever credits and balances lie between.

In dollars. A month of $200 whose half is credited has $100 of credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest

from billing.models import BillingAccount
from governance.models import Tenant
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_calls_under_way import first_charge, left, renew
from tests.billing.worth.test_open_disputes import after_a_reconcile, close, dispute
from tests.billing.worth.test_undone_topups import subscriber, topup_price, undo, use


def three_of_one(shop: Shop) -> None:
    """A plan of $50 a month that was bought three times over: $150 are paid for a budget of $50."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}), quantity=3)
    hear(shop)


def change(shop: Shop, dollars: int, *, how: str = "always_invoice", also: Sequence[str] = ()) -> str:
    """To one of another plan, at once, with more that is sold on the same invoice; the charge, where there is one."""
    before, sub = {one["id"] for one in shop.all("charges")}, shop.all("subscriptions")[0]["id"]
    price = shop.price(100 * dollars, metadata={"llm_budget_usd": str(dollars)})
    for one in also:
        shop.post("invoiceitems", customer=shop.sub(sub)["customer"], pricing={"price": one})
    items = [{"id": shop.item(sub), "price": price, "quantity": 1}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior=how)
    hear(shop)
    return next((str(one["id"]) for one in shop.all("charges") if one["id"] not in before), "")


def rest_of_month(shop: Shop) -> Fraction:
    [item] = shop.all("subscriptions")[0]["items"]["data"]
    start, end = item["current_period_start"], item["current_period_end"]
    return Fraction(end - shop.account.now, end - start)


@pytest.mark.parametrize("undone", [(), ("older",), ("newer",), ("older", "newer"), ("newer", "older")])
@pytest.mark.parametrize("how", ["refund", "dispute"])
def test_an_upgrade_stands_as_far_as_what_its_credits_took_back_does(
    shop: Shop, how: str, undone: Sequence[str]
) -> None:
    three_of_one(shop)
    shop.account.advance(by=12 * DAY)
    rest, older = rest_of_month(shop), first_charge(shop)
    charges = {"older": older, "newer": change(shop, 200)}
    for which in undone:
        undo(shop, how, charges[which])
    # The upgrade was charged 200, of which the credit paid 150, for its rest of the month.
    before = 0 if "older" in undone else 50 * (1 - rest)
    stands = 200 - (150 if "older" in undone else 0) - (50 if "newer" in undone else 0)
    assert after_a_reconcile(shop) == pytest.approx(float(before + stands * rest), abs=0.02)


@pytest.mark.parametrize("won", [True, False])
def test_a_month_that_the_balance_paid_stands_on_what_left_it_there(shop: Shop, won: bool) -> None:
    subscriber(shop, 200)
    charge = first_charge(shop)
    shop.account.advance(by=15 * DAY)
    change(shop, 50)
    renew(shop)
    assert (left(shop), shop.all("invoices")[0]["amount_paid"]) == (50, 0)
    id = dispute(shop, charge)
    assert after_a_reconcile(shop) == 0
    assert "disputed" in BillingAccount.objects.get().reasons
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (50 if won else 0)


@pytest.mark.parametrize("won", [True, False])
def test_a_top_up_that_credits_paid_stands_on_what_they_took_back(shop: Shop, won: bool) -> None:
    subscriber(shop, 200)
    charge = first_charge(shop)
    shop.account.advance(by=15 * DAY)
    change(shop, 50, also=[topup_price(shop)])
    stood = left(shop)
    assert stood > 20
    id = dispute(shop, charge)
    assert after_a_reconcile(shop) == 0
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (stood if won else 0)


def test_what_an_operator_took_off_the_balance_carries_nothing_on(shop: Shop) -> None:
    customer = subscriber(shop, 200)
    charge = first_charge(shop)
    shop.account.advance(by=15 * DAY)
    change(shop, 50)
    balance = shop.get(f"customers/{customer}")["balance"]
    shop.post(f"customers/{customer}/balance_transactions", amount=-balance, currency="usd")
    renew(shop)
    undo(shop, "refund", charge)
    # The month was paid for in money.
    assert after_a_reconcile(shop) == 50


# What was never paid ------------------------------------------------------------------------------------------------


def decline(shop: Shop, customer: str) -> None:
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})


def spent_by(shop: Shop, months: int) -> float:
    """All that a customer can spend from now on, month by month."""
    spent = 0.0
    for _ in range(months):
        rest = after_a_reconcile(shop)
        if rest >= 0.01 and Tenant.objects.get(slug="acme").status == Tenant.Status.ACTIVE:
            use(shop, rest)
            spent += rest
        shop.account.advance(by=31 * DAY + 7200)
        hear(shop)
    return spent


@pytest.mark.parametrize("how", ["always_invoice", "create_prorations"])
@pytest.mark.parametrize("voided", [False, True])
def test_a_month_that_was_never_paid_pays_for_no_other_when_it_is_credited(shop: Shop, how: str, voided: bool) -> None:
    customer = subscriber(shop, 200)
    use(shop, 200)
    decline(shop, customer)
    renew(shop)
    shop.account.advance(by=8 * DAY)
    hear(shop)
    change(shop, 50, how=how)
    for invoice in shop.all("invoices", status="open") if voided else ():
        shop.post(f"invoices/{invoice['id']}/void")
    hear(shop)
    assert spent_by(shop, 4) == 0


def test_a_year_after_a_trial_that_was_never_paid_pays_for_no_month(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail", metadata={"tenant_id": "acme"})
    worth = {"llm_budget_usd": "600", "llm_budget_period": "billing"}
    shop.subscribe(customer, shop.price(60_000, "year", metadata=worth), trial_period_days=5)
    shop.account.advance(by=15 * DAY)
    hear(shop)
    change(shop, 50)
    assert shop.get(f"customers/{customer}")["balance"] < -50_000
    assert spent_by(shop, 3) == 0


def test_an_upgrade_that_was_never_paid_buys_no_top_up(shop: Shop) -> None:
    customer = subscriber(shop)
    shop.account.advance(by=DAY)
    decline(shop, customer)
    change(shop, 1000)
    change(shop, 50)
    shop.post("invoiceitems", customer=customer, pricing={"price": topup_price(shop)})
    invoice = shop.post("invoices", customer=customer, pending_invoice_items_behavior="include")["id"]
    shop.post(f"invoices/{invoice}/pay")
    hear(shop)
    assert shop.get(f"invoices/{invoice}")["status"] == "paid"
    # And what was paid for stays.
    assert after_a_reconcile(shop) == 50


@pytest.mark.parametrize("seats", [3, 12])
def test_seats_that_were_never_paid_are_not_those_that_were(shop: Shop, seats: int) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    worth = {"llm_budget_usd": "50", "llm_budget_per_unit": "true"}
    sub = shop.subscribe(customer, shop.price(5000, metadata=worth))["id"]
    hear(shop)
    shop.account.advance(by=DAY)
    decline(shop, customer)
    for quantity in (seats, 1):
        items = [{"id": shop.item(sub), "quantity": quantity}]
        shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")
        hear(shop)
    assert (after_a_reconcile(shop), shop.get(f"customers/{customer}")["balance"] < 0) == (50, True)
    assert spent_by(shop, 2) == 50


# What comes to the balance otherwise --------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [0, 50])
@pytest.mark.parametrize("won", [True, False])
def test_what_a_credit_note_put_on_the_balance_stands_on_what_it_credits(shop: Shop, used: int, won: bool) -> None:
    customer = subscriber(shop)
    if used:
        use(shop, used)
    charge, invoice = first_charge(shop), shop.invoices(customer)[0]["id"]
    shop.post("credit_notes", invoice=invoice, amount=5000, credit_amount=5000)
    hear(shop)
    renew(shop)
    assert after_a_reconcile(shop) == 50
    close(shop, dispute(shop, charge), won=won)
    assert after_a_reconcile(shop) == (50 if won else 0)


@pytest.mark.parametrize("won", [True, False])
def test_so_does_what_was_paid_beyond_what_was_asked(shop: Shop, won: bool) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    terms = {"collection_method": "send_invoice", "days_until_due": 30}
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}), **terms)
    shop.account.advance(by=3700)
    [invoice] = shop.invoices(customer)
    about = {"amount": 10_000, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    intent = shop.post("payment_intents", customer=customer, **about)["id"]
    shop.post(f"invoices/{invoice['id']}/attach_payment", payment_intent=intent)
    shop.account.advance(by=31 * DAY + 7200)
    hear(shop)
    assert after_a_reconcile(shop) == 50
    close(shop, dispute(shop, first_charge(shop)), won=won)
    assert after_a_reconcile(shop) == (50 if won else 0)


@pytest.mark.parametrize("how", ["refund", "dispute"])
def test_nothing_is_left_of_a_month_where_both_that_paid_for_it_went_back(shop: Shop, how: str) -> None:
    subscriber(shop, 200)
    shop.account.advance(by=15 * DAY)
    change(shop, 50)
    renew(shop)
    renew(shop)
    charges = [one["id"] for one in shop.all("charges")]
    assert len(charges) == 2
    for charge in charges:
        undo(shop, how, charge)
    assert after_a_reconcile(shop) == 0


def test_the_balance_pays_when_an_invoice_is_finalized(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    plans = [shop.price(100 * dollars, metadata={"llm_budget_usd": str(dollars)}) for dollars in (200, 50, 10)]
    high = shop.subscribe(customer, plans[0])["id"]
    charge = first_charge(shop)
    shop.account.advance(by=10 * DAY)
    low = shop.subscribe(customer, plans[1])["id"]
    hear(shop)
    ends = {sub: shop.sub(sub)["items"]["data"][0]["current_period_end"] for sub in (high, low)}
    shop.account.advance(to=ends[high] + 7200)
    hear(shop)
    charge = next(one["id"] for one in shop.all("charges") if one["amount"] == 20_000 and one["id"] != charge)
    # The month of the other is a draft when the balance comes about.
    shop.account.advance(to=ends[low] + 60)
    items = [{"id": shop.item(high), "price": plans[2]}]
    shop.post(f"subscriptions/{high}", items=items, proration_behavior="always_invoice")
    shop.account.advance(by=7200)
    hear(shop)
    before = left(shop)
    close(shop, dispute(shop, charge), won=False)
    # Nothing but the share of the first plan's month that is over.
    assert (before > 50, after_a_reconcile(shop)) == (True, 0)


def test_of_a_payment_for_both_what_a_note_gave_back_of_the_top_up_is_not_lost(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.post("invoiceitems", customer=customer, pricing={"price": topup_price(shop)})
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}))
    hear(shop)
    use(shop, 50)
    [invoice] = shop.invoices(customer)
    [line] = [one["id"] for one in invoice["lines"]["data"] if one["amount"] == 2000]
    lines = [{"type": "invoice_line_item", "invoice_line_item": line, "amount": 2000}]
    shop.post("credit_notes", invoice=invoice["id"], lines=lines, refund_amount=2000)
    hear(shop)
    close(shop, dispute(shop, first_charge(shop), amount=5000), won=False)
    renew(shop)
    assert after_a_reconcile(shop) == 0
    assert "owed:50.00" in BillingAccount.objects.get().reasons


def test_a_year_that_is_late_has_no_credit_again_with_a_month_beside_it(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    year, month = (
        shop.price(cents, interval, metadata={"llm_budget_usd": dollars})
        for cents, interval, dollars in ((120_000, "year", "30"), (4900, "month", "5"))
    )
    items = [{"price": year}, {"price": month}]
    terms = {"collection_method": "send_invoice", "days_until_due": 14, "billing_mode": {"type": "flexible"}}
    shop.post("subscriptions", customer=customer, items=items, **terms)
    shop.account.advance(by=DAY)
    hear(shop)
    assert after_a_reconcile(shop) == 35
    shop.account.advance(by=32 * DAY)
    hear(shop)
    assert after_a_reconcile(shop) == 5


@pytest.mark.parametrize("dollars", [200, 10])
def test_a_change_while_the_renewal_is_a_draft_is_what_was_bought(shop: Shop, dollars: int) -> None:
    """It is finalized an hour before what it credits, which what it leaves on the balance pays for."""
    three_of_one(shop)
    [item] = shop.all("subscriptions")[0]["items"]["data"]
    shop.account.advance(to=item["current_period_end"] + 600)
    change(shop, dollars)
    shop.account.advance(by=DAY // 4)
    hear(shop)
    assert after_a_reconcile(shop) == pytest.approx(dollars, abs=0.05)
    assert "credit_undone" not in BillingAccount.objects.get().reasons


def test_what_was_paid_of_an_open_invoice_is_money_once_it_is_credited(shop: Shop) -> None:
    """Of $200 three quarters are paid, and so are they of all that the credit for it pays."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    price = shop.price(20_000, metadata={"llm_budget_usd": "200"})
    shop.subscribe(customer, price, collection_method="send_invoice", days_until_due=10)
    shop.account.advance(by=DAY // 4)
    [sent] = shop.invoices(customer)
    paying = {"currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    part = shop.post("payment_intents", customer=customer, amount=15_000, **paying)
    shop.post(f"invoices/{sent['id']}/attach_payment", payment_intent=part["id"])
    hear(shop)
    change(shop, 50)
    shop.account.advance(by=DAY // 4)
    hear(shop)
    assert after_a_reconcile(shop) == pytest.approx(50 * 3 / 4, abs=0.5)
    for _ in range(2):
        renew(shop)
        assert after_a_reconcile(shop) == pytest.approx(50 * 3 / 4, abs=0.01)


def test_a_note_and_the_invoice_that_it_pays_may_be_of_one_second(shop: Shop) -> None:
    """What the card paid of the second plan is left once the payment that the note came from is lost."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(10_000, metadata={"llm_budget_usd": "100"}))
    hear(shop)
    [first], paid = shop.invoices(customer), first_charge(shop)
    line = first["lines"]["data"][0]
    lines = [{"type": "invoice_line_item", "invoice_line_item": line["id"], "quantity": 1}]
    shop.post("credit_notes", invoice=first["id"], lines=lines, credit_amount=10_000)
    shop.subscribe(customer, shop.price(20_000, metadata={"llm_budget_usd": "200"}))
    hear(shop)
    assert after_a_reconcile(shop) == 200
    close(shop, dispute(shop, paid), won=False)
    assert after_a_reconcile(shop) == 100
