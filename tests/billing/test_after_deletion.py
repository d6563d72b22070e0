"""What becomes of a payment is known after its customer was deleted, as it is before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import orjson
import pytest

from billing.inbox import envelope, handlers, store
from billing.models import BillingAccount, StripeEvent
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.test_simulated import read, spend

Act = Callable[[], object]


def hear(shop: Shop) -> None:
    """Handle what has happened since, in order."""
    now = datetime.fromtimestamp(shop.account.now, UTC)
    for event in shop.account.events:
        if event["type"] in handlers.EVENT_TYPES and not StripeEvent.objects.filter(event_id=event["id"]).exists():
            store.store(envelope.parse(orjson.dumps(event).decode()), now=now)
            store.process(event["id"], now=now)


def lose(shop: Shop, charge: str) -> None:
    shop.account.close_dispute(shop.account.dispute(charge)["id"], won=False)


def happen(shop: Shop, *acts: Act) -> None:
    for act in acts:
        shop.account.advance(by=3600)
        act()
        hear(shop)


def buy(shop: Shop, customer: str) -> str:
    """A top-up of $100 that is paid; its charge."""
    product, worth = shop.post("products", name="Top-up")["id"], {"llm_topup_usd": "100"}
    price = shop.post("prices", currency="usd", unit_amount=10_000, product=product, metadata=worth)["id"]
    shop.post("invoiceitems", customer=customer, pricing={"price": price})
    invoice = shop.post("invoices", customer=customer, pending_invoice_items_behavior="include")["id"]
    shop.post(f"invoices/{invoice}/pay")
    [charge] = [one["id"] for one in shop.all("charges", customer=customer) if one["amount"] == 10_000]
    return str(charge)


@pytest.mark.parametrize("is_deleted_first", [True, False])
def test_a_dispute_that_is_lost_is_owed_when_the_tenant_comes_back(shop: Shop, is_deleted_first: bool) -> None:
    old, price = shop.customer(metadata={"tenant_id": "acme"}), shop.price(5000, lookup_key="standard")
    shop.subscribe(old, price)
    hear(shop)
    assert spend(shop, old) == 50
    charge = shop.all("charges", customer=old)[0]["id"]
    acts: list[Act] = [lambda: lose(shop, charge), lambda: shop.delete(f"customers/{old}")]
    happen(shop, *(reversed(acts) if is_deleted_first else acts))
    shop.account.advance(by=DAY)

    new = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(new, price)
    hear(shop)

    state, left = read(shop, new)
    assert (state, left <= 1) == ("active", True)
    assert "owed:50.00" in BillingAccount.objects.get(stripe_customer_id=new).reasons


@pytest.mark.parametrize("is_deleted_first", [True, False])
@pytest.mark.parametrize("how", ["refunded", "lost"])
def test_a_top_up_that_goes_back_is_taken_back(shop: Shop, how: str, is_deleted_first: bool) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    charge = buy(shop, customer)
    hear(shop)
    assert window_of().limit_nanos == 150 * 10**9

    def goes_back() -> object:
        return shop.post("refunds", charge=charge) if how == "refunded" else lose(shop, charge)

    acts: list[Act] = [goes_back, lambda: shop.delete(f"customers/{customer}")]
    happen(shop, *(reversed(acts) if is_deleted_first else acts))

    assert window_of().remaining_nanos <= 1


@pytest.mark.parametrize("is_heard_before", [True, False])
def test_a_top_up_that_was_paid_before_counts_whenever_it_is_heard_of(shop: Shop, is_heard_before: bool) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    hear(shop)
    buy(shop, customer)
    if is_heard_before:
        hear(shop)
    happen(shop, lambda: shop.delete(f"customers/{customer}"))

    assert window_of().remaining_nanos // 10**9 == 100


@pytest.mark.parametrize("how", ["won", "failed"])
def test_what_comes_back_of_a_top_up_is_there_again(shop: Shop, how: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    charge = buy(shop, customer)
    hear(shop)
    happen(shop, lambda: shop.delete(f"customers/{customer}"))
    assert window_of().remaining_nanos // 10**9 == 100
    if how == "won":
        opened: list[str] = []
        happen(shop, lambda: opened.append(shop.account.dispute(charge)["id"]))
        assert window_of().remaining_nanos <= 1
        happen(shop, lambda: shop.account.close_dispute(opened[0], won=True))
    else:
        made: list[str] = []
        happen(shop, lambda: made.append(shop.post("refunds", charge=charge)["id"]))
        assert window_of().remaining_nanos <= 1
        happen(shop, lambda: shop.account.fail_refund(made[0]))

    assert window_of().remaining_nanos // 10**9 == 100
