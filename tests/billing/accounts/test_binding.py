"""Customers that name one tenant: who pays comes before who does not, and what was bought is not lost on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.accounts import binding, sync
from billing.models import BillingAccount
from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.models import Alert, Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, START, Shop

STANDARD, TWENTY = factories.nanos("50"), factories.nanos("20")
ACME = {"tenant_id": "acme"}


def read(shop: Shop, *customers: str) -> None:
    for customer in customers:
        sync.customer(customer, now=datetime.fromtimestamp(shop.account.now, UTC))


def owner() -> str:
    return BillingAccount.objects.get(tenant__slug="acme").stripe_customer_id


def top_up(shop: Shop, customer: str, dollars: str = "20") -> str:
    """A paid invoice that sells a top-up; the charge that paid it."""
    price = shop.post(
        "prices",
        currency="usd",
        unit_amount=2000,
        product=shop.post("products", name="More")["id"],
        metadata={"llm_topup_usd": dollars},
    )
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_visa"})
    invoice = shop.post("invoices", customer=customer, metadata=ACME)["id"]
    shop.post("invoiceitems", customer=customer, invoice=invoice, pricing={"price": price["id"]})
    shop.post(f"invoices/{invoice}/finalize")
    if shop.get(f"invoices/{invoice}")["status"] == "open":
        shop.post(f"invoices/{invoice}/pay")
    return str(shop.all("charges", customer=customer)[0]["id"])


def abandoned(shop: Shop) -> str:
    return shop.customer(metadata=ACME)


def declined(shop: Shop) -> str:
    customer = shop.customer("pm_card_chargeCustomerFail", metadata=ACME)
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), payment_behavior="default_incomplete")
    return customer


def buyer(shop: Shop) -> str:
    customer = shop.customer(metadata=ACME)
    top_up(shop, customer)
    return customer


@pytest.mark.parametrize("first", [abandoned, declined, buyer])
def test_a_customer_that_has_no_subscription_gives_way_to_one_that_pays(shop: Shop, first: Any) -> None:
    early = first(shop)
    read(shop, early)
    assert owner() == early
    payer = shop.customer(metadata=ACME)
    shop.subscribe(payer, shop.price(5000))
    read(shop, payer)
    assert owner() == payer
    assert window_of().remaining_nanos == STANDARD + (TWENTY if first is buyer else 0)
    read(shop, early, payer)
    assert (owner(), Tenant.objects.get().status) == (payer, "active")
    assert not Alert.objects.filter(kind="tenant_taken", cleared_at=None).exists()


def test_one_that_a_subscription_came_of_gives_way_to_nobody(shop: Shop) -> None:
    first, second = shop.customer(metadata=ACME), shop.customer(metadata=ACME)
    shop.subscribe(first, shop.price(5000))
    shop.subscribe(second, shop.price(5000))
    read(shop, first, second, first)
    assert owner() == first
    assert BillingAccount.objects.get(stripe_customer_id=second).reasons == ["unmapped_plan", "tenant_taken:acme"]


def test_a_refund_of_what_was_bought_before_a_tenant_was_given_up_is_taken_back_at_once(shop: Shop) -> None:
    early = shop.customer(metadata=ACME)
    charge = top_up(shop, early)
    read(shop, early)
    payer = shop.customer(metadata=ACME)
    shop.subscribe(payer, shop.price(5000))
    read(shop, payer)
    assert window_of().remaining_nanos == STANDARD + TWENTY
    shop.post("refunds", charge=charge)
    read(shop, early)
    assert sync.due(now=datetime.fromtimestamp(shop.account.now, UTC)) == 1
    assert window_of().remaining_nanos == STANDARD
    # Once.
    read(shop, early)
    assert sync.due(now=datetime.fromtimestamp(shop.account.now, UTC)) == 0


def test_one_that_an_operator_bound_gives_way_to_nobody(shop: Shop) -> None:
    first, second = shop.customer(), shop.customer(metadata=ACME)
    read(shop, first)
    account = BillingAccount.objects.get(stripe_customer_id=first)
    binding.bind(account=account, tenant=Tenant.objects.get(), by=Actor("ann"), now=START)
    shop.subscribe(second, shop.price(5000, lookup_key="standard"))
    read(shop, second, first)
    assert owner() == first
    assert Alert.objects.filter(kind="tenant_taken", cleared_at=None).count() == 1


def test_who_has_no_subscription_takes_nothing_from_the_free_tier(shop: Shop, settings: Any) -> None:
    settings.STRIPE_FREE_BUDGET = Decimal(5)
    left, idle = shop.customer(metadata=ACME), shop.customer(metadata=ACME)
    sub = shop.subscribe(left, shop.price(5000, lookup_key="standard"))["id"]
    read(shop, left)
    shop.delete(f"subscriptions/{sub}")
    read(shop, left, idle)
    assert sync.due(now=START) == 0
    assert (owner(), window_of().limit_nanos) == (left, factories.nanos("5"))
    # Nor does a checkout that was begun and is never paid.
    started = shop.customer("pm_card_chargeCustomerFail", metadata=ACME)
    shop.subscribe(started, shop.price(5000), payment_behavior="default_incomplete")
    read(shop, started, left, started)
    assert sync.due(now=START) == 0
    assert (owner(), window_of().limit_nanos) == (left, factories.nanos("5"))
    # One that pays does, and the one that left takes it back by paying again.
    shop.subscribe(idle, shop.price(5000))
    read(shop, idle)
    assert owner() == idle


def test_one_without_a_subscription_leaves_its_tenant_as_it_was(shop: Shop, settings: Any) -> None:
    """Until the first one, after which nothing falls back on the platform's default budget."""
    settings.DEFAULT_DAILY_BUDGET = Decimal(10)
    budgets.sync_default(now=START)
    customer = abandoned(shop)
    read(shop, customer)
    assert (owner(), ledger.reserve(factories.reserving("9"), now=START).allowed) == (customer, True)
    assert not ledger.reserve(factories.reserving("9"), now=START).allowed
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    read(shop, customer)
    assert ledger.reserve(factories.reserving("45"), now=START).allowed
    shop.delete(f"subscriptions/{sub}")
    read(shop, customer)
    later = START + timedelta(days=3)
    assert not ledger.reserve(factories.reserving("1"), now=later).allowed


@pytest.mark.parametrize("bought", ["before", "after"])
@pytest.mark.parametrize("how", ["cancelled", "past_due"])
def test_a_top_up_of_who_is_stopped_can_be_spent_and_nothing_else(shop: Shop, how: str, bought: str) -> None:
    customer = shop.customer(metadata=ACME)
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    read(shop, customer)
    shop.account.advance(by=DAY)
    if bought == "before":
        top_up(shop, customer)
    if how == "cancelled":
        shop.delete(f"subscriptions/{sub}")
    else:
        shop.account.state.after_last_try = "past_due"
        shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
        shop.account.advance(by=45 * DAY)
    read(shop, customer)
    if bought == "after":
        assert Tenant.objects.get().status == "suspended"
        top_up(shop, customer)
        read(shop, customer)
    now = datetime.fromtimestamp(shop.account.now, UTC)
    assert (Tenant.objects.get().status, window_of().remaining_nanos) == ("active", TWENTY)
    assert BillingAccount.objects.get().state == ("closed" if how == "cancelled" else "suspended")
    # Nothing is asked of Stripe for it until tomorrow.
    assert sync.due(now=now) == 0
    ledger.record(factories.reporting("20"), now=now)
    assert not ledger.reserve(factories.reserving("1"), now=now).allowed
    assert sync.due(now=now + timedelta(days=1)) == 1
    assert Tenant.objects.get().status == "suspended"
    assert sync.due(now=now + timedelta(days=2)) == 0


def test_a_customer_that_is_stopped_gives_way_to_one_that_pays(shop: Shop) -> None:
    """As one who subscribes anew under another customer, while the old one's invoices stay unpaid."""
    shop.account.state.after_last_try = "unpaid"
    old, new = shop.customer(metadata=ACME), shop.customer(metadata=ACME)
    shop.subscribe(old, shop.price(5000, lookup_key="standard"))
    shop.post(f"customers/{old}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    read(shop, old)
    shop.account.advance(by=20 * DAY)
    shop.subscribe(new, shop.price(5000, metadata={"llm_budget_usd": "50"}))
    # While it pays it gives way to nobody.
    read(shop, old, new)
    assert owner() == old
    shop.account.advance(by=40 * DAY)
    read(shop, old)
    assert Tenant.objects.get().status == "suspended"
    assert sync.due(now=datetime.fromtimestamp(shop.account.now, UTC)) >= 1
    assert (owner(), Tenant.objects.get().status) == (new, "active")
    read(shop, old, new)
    assert (owner(), window_of().remaining_nanos) == (new, STANDARD)
