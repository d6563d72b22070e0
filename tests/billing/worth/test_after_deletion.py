"""What becomes of a payment is known after its customer was deleted, as it is before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from billing.inbox import envelope, handlers, store
from billing.models import BillingAccount, StripeEvent
from governance.models import Tenant
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_simulated import read, spend

Act = Callable[[], object]


def news(shop: Shop) -> list[dict[str, Any]]:
    """The events of what has happened since, in order."""
    asked_for = [event for event in shop.account.events if event["type"] in handlers.EVENT_TYPES]
    return [one for one in asked_for if not StripeEvent.objects.filter(event_id=one["id"]).exists()]


def hear(shop: Shop, order: Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]] = list) -> None:
    """Handle what has happened since, in order or in another one."""
    now = datetime.fromtimestamp(shop.account.now, UTC)
    for event in order(news(shop)):
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


def refund_by_halves(shop: Shop, charge: str) -> None:
    for _ in range(2):
        shop.post("refunds", charge=charge, amount=5000)


@pytest.mark.parametrize("number", [0, 5, 7, 16, 23])
@pytest.mark.parametrize("has_key", [True, False])
@pytest.mark.parametrize("is_deleted_first", [True, False])
def test_within_one_second_no_order_keeps_what_went_back(
    shop: Shop, settings: Any, is_deleted_first: bool, has_key: bool, number: int
) -> None:
    """Also where the last reading of the customer is of that second, and so tells of none of it."""
    if not has_key:
        settings.STRIPE_SECRET_KEY = ""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    hear(shop)
    charge = buy(shop, customer)
    hear(shop)
    assert window_of().remaining_nanos // 10**9 == 150
    acts: list[Act] = [lambda: refund_by_halves(shop, charge), lambda: shop.delete(f"customers/{customer}")]
    for act in reversed(acts) if is_deleted_first else acts:
        act()
    assert len(news(shop)) == 4

    hear(shop, lambda events: list(itertools.permutations(events))[number])

    assert window_of().remaining_nanos <= 1
    assert Tenant.objects.get().status == Tenant.Status.SUSPENDED


def test_what_was_paid_for_in_the_second_of_the_deletion_stays(shop: Shop) -> None:
    """A reading of that second, and an event that tells of the time before it."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    hear(shop)
    buy(shop, customer)
    late = [event for event in news(shop) if event["type"] == "invoice.finalized"]
    hear(shop, lambda events: [event for event in events if event not in late])
    shop.delete(f"customers/{customer}")
    hear(shop, lambda events: [*(event for event in events if event not in late), *late])

    assert window_of().remaining_nanos // 10**9 == 100
