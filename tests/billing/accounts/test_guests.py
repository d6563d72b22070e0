"""What is sold once makes no customer at Stripe unless it is asked to: it is for the tenant that the business names."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from billing.accounts import guests, references, sync
from billing.inbox import envelope, handlers, store
from billing.models import BillingAccount, TopUp
from governance import ledger
from governance.actions import budgets
from governance.models import Alert, BudgetWindow, Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import Shop

pytestmark = pytest.mark.django_db
TEN, TWENTY, STANDARD = factories.nanos("10"), factories.nanos("20"), factories.nanos("50")
METADATA = {"metadata": {"tenant_id": "acme", "llm_topup_usd": "20"}}
Hear = Callable[[], None]
Buy = Callable[..., dict[str, Any]]


@pytest.fixture
def hear(shop: Shop) -> Hear:
    """Deliver all that our endpoint is sent, once more with what was sent before."""

    def run() -> None:
        sent = [event for event in shop.account.events if event["type"] in handlers.asked_for()]
        for event in sent:
            store.store(envelope.parse(json.dumps(event)), now=at(shop))
            store.process(event["id"], now=at(shop))

    return run


@pytest.fixture
def buy(shop: Shop) -> Buy:
    """A paid checkout of a top-up that makes no customer."""

    def run(dollars: int = 20, **named: Any) -> dict[str, Any]:
        product = shop.post("products", name="More")["id"]
        sold = {"metadata": {"llm_topup_usd": str(dollars)}}
        price = shop.post("prices", currency="usd", unit_amount=dollars * 100, product=product, **sold)
        session = shop.post(
            "checkout/sessions",
            mode="payment",
            line_items=[{"price": price["id"], "quantity": 1}],
            success_url="https://shop.example/",
            **named,
        )
        done = shop.account.complete_checkout(session["id"])
        assert done["customer"] is None
        return done

    return run


def at(shop: Shop) -> datetime:
    return datetime.fromtimestamp(shop.account.now, UTC)


def subscribed(shop: Shop) -> str:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    return customer


def spend(nanos: str, shop: Shop) -> None:
    ledger.record(factories.reporting(nanos), now=at(shop))


def refund(shop: Shop, session: dict[str, Any], **fields: Any) -> None:
    shop.account.advance(by=60)
    shop.post("refunds", payment_intent=session["payment_intent"], **fields)


def with_default_budget(shop: Shop, settings: Any) -> None:
    settings.DEFAULT_DAILY_BUDGET = Decimal(10)
    budgets.sync_default(now=at(shop))


def default_window(slug: str = "acme") -> BudgetWindow:
    return BudgetWindow.objects.get(tenant__slug=slug, closed_at=None, budget__tenant=None)


@pytest.mark.parametrize("by", ["metadata", "reference"])
@pytest.mark.parametrize("key", ["sk_test_1", ""])
def test_it_counts_once_beside_a_plan(shop: Shop, hear: Hear, buy: Buy, by: str, key: str, settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = key
    subscribed(shop)
    hear()
    reference = references.make(tenant="acme", now=at(shop)).text
    # Without a key a checkout's lines are not known, and its own metadata says what it sells.
    buy(**(METADATA if by == "metadata" else {"client_reference_id": reference, "metadata": {"llm_topup_usd": "20"}}))
    for _ in range(2):
        hear()
        assert window_of().limit_nanos == STANDARD + TWENTY
    sync.customer(BillingAccount.objects.get().stripe_customer_id, now=at(shop))
    assert (window_of().limit_nanos, TopUp.objects.count(), Alert.objects.count()) == (STANDARD + TWENTY, 1, 0)


@pytest.mark.parametrize("key", ["sk_test_1", ""])
@pytest.mark.parametrize(("used", "amount", "limit"), [("0", 2000, "50"), ("55", 2000, "55"), ("55", 500, "65")])
def test_it_is_taken_back_as_far_as_it_is_unused(
    shop: Shop, hear: Hear, buy: Buy, used: str, amount: int, limit: str, key: str, settings: Any
) -> None:
    settings.STRIPE_SECRET_KEY = key
    subscribed(shop)
    session = buy(**METADATA)
    hear()
    spend(used, shop)
    refund(shop, session, amount=amount)
    hear()
    assert window_of().limit_nanos == factories.nanos(limit)


def test_one_whose_refund_or_dispute_is_heard_of_first_counts_for_nothing(shop: Shop, hear: Hear, buy: Buy) -> None:
    subscribed(shop)
    hear()
    refund(shop, buy(**METADATA))
    shop.account.dispute(shop.all("charges", payment_intent=buy(**METADATA)["payment_intent"])[0]["id"])
    for event in reversed(shop.account.events):
        if event["type"] in handlers.asked_for():
            store.store(envelope.parse(json.dumps(event)), now=at(shop))
            store.process(event["id"], now=at(shop))
    assert [row.refunded_nanos for row in TopUp.objects.all()] == [TWENTY, TWENTY]
    assert window_of().limit_nanos == STANDARD


def test_it_counts_in_the_windows_of_who_has_no_customer_and_then_beside_the_plan(
    shop: Shop, hear: Hear, buy: Buy, settings: Any
) -> None:
    with_default_budget(shop, settings)
    spend("1", shop)
    session = buy(**METADATA)
    hear()
    assert default_window().limit_nanos == TEN + TWENTY
    spend("14", shop)
    subscribed(shop)
    hear()
    assert window_of().limit_nanos == STANDARD + TWENTY - factories.nanos("5")
    refund(shop, session)
    hear()
    assert window_of().limit_nanos == STANDARD


def test_it_is_taken_back_of_who_has_no_customer(shop: Shop, hear: Hear, buy: Buy, settings: Any) -> None:
    with_default_budget(shop, settings)
    spend("13", shop)
    session = buy(**METADATA)
    hear()
    refund(shop, session, amount=1500)
    hear()
    assert default_window().limit_nanos == TEN + factories.nanos("5")


def test_it_waits_for_a_tenant_that_is_made_later(shop: Shop, hear: Hear, buy: Buy, settings: Any) -> None:
    with_default_budget(shop, settings)
    buy(metadata={"tenant_id": "later"})
    hear()
    guests.retry(now=at(shop))
    assert TopUp.objects.get().tenant is None
    tenant = factories.tenant("later")
    # There is nothing to add it to before its first call.
    guests.retry(now=at(shop))
    ledger.record(factories.reporting("1", by=factories.caller(tenant)), now=at(shop))
    for _ in range(2):
        guests.retry(now=at(shop))
        assert default_window("later").limit_nanos == TEN + TWENTY


def test_its_tenant_is_made_where_stripe_makes_tenants(shop: Shop, hear: Hear, buy: Buy, settings: Any) -> None:
    settings.STRIPE_CREATE_TENANTS = True
    buy(metadata={"tenant_id": "newcomer"})
    hear()
    assert Tenant.objects.filter(slug="newcomer").exists()


@pytest.mark.parametrize("reference", ["acme", "acme-20990101-forged", ""])
def test_operators_hear_of_one_that_nothing_of_ours_names(shop: Shop, hear: Hear, buy: Buy, reference: str) -> None:
    session = buy(**({"client_reference_id": reference} if reference else {}))
    hear()
    assert not TopUp.objects.exists()
    alerts = Alert.objects.filter(kind="checkout_without_customer").values_list("subject", flat=True)
    assert list(alerts) == [session["id"]]


def test_nobody_hears_of_what_is_no_top_up(shop: Shop, hear: Hear, buy: Buy) -> None:
    product = shop.post("products", name="T-shirt")["id"]
    price = shop.post("prices", currency="usd", unit_amount=2000, product=product)
    session = shop.post(
        "checkout/sessions",
        mode="payment",
        line_items=[{"price": price["id"], "quantity": 1}],
        success_url="https://shop.example/",
        metadata={"tenant_id": "acme"},
    )
    shop.account.complete_checkout(session["id"])
    hear()
    assert (TopUp.objects.count(), Alert.objects.count()) == (0, 0)
