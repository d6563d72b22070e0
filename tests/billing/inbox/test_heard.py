"""What the webhooks that we ask for come to, in the order in which the simulated Stripe sends them, and in others."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from billing.accounts import sync
from billing.inbox import envelope, handlers, store
from billing.models import BillingAccount
from billing.sandbox import undoings
from governance.models import Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import Shop

ACME = {"tenant_id": "acme"}
Hear = Callable[..., None]


@pytest.fixture
def hear(shop: Shop) -> Hear:
    """Deliver all that our endpoint is sent, once more with what was sent before."""

    def run(order: int = 1) -> None:
        now = datetime.fromtimestamp(shop.account.now, UTC)
        sent = [event for event in shop.account.events if event["type"] in handlers.asked_for()]
        for event in sent[::order]:
            store.store(envelope.parse(json.dumps(event)), now=now)
            store.process(event["id"], now=now)
        sync.due(now=now)

    return run


@pytest.fixture
def paid(shop: Shop, hear: Hear) -> dict[str, Any]:
    """The charge that paid the first month of Standard."""
    customer = shop.customer(metadata=ACME)
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    hear()
    assert state() == "active"
    return shop.all("charges", customer=customer)[0]


def state() -> str:
    return BillingAccount.objects.get().state


def escalate(shop: Shop, dispute: dict[str, Any]) -> None:
    """The payer's bank takes the money after all."""
    row = shop.account.state.get("dispute", dispute["id"])
    row["status"] = "needs_response"
    undoings._move(shop.account.state, row, -row["amount"])
    shop.account.state.emit("charge.dispute.updated", row)
    shop.account.state.emit("charge.dispute.funds_withdrawn", row)


@pytest.mark.parametrize("key", ["sk_test_1", ""])
def test_an_inquiry_that_becomes_a_dispute_freezes(
    shop: Shop, hear: Hear, paid: dict[str, Any], key: str, settings: Any
) -> None:
    settings.STRIPE_SECRET_KEY = key
    inquiry = shop.account.dispute(paid["id"], inquiry=True)
    hear()
    assert state() == "active"
    shop.account.advance(by=60)
    escalate(shop, inquiry)
    hear()
    assert (state(), window_of().remaining_nanos) == ("frozen", 1)


@pytest.mark.parametrize("key", ["sk_test_1", ""])
def test_a_refund_that_is_cancelled_gives_back(
    shop: Shop, hear: Hear, paid: dict[str, Any], key: str, settings: Any
) -> None:
    """As one that waited for the payer's bank details: Stripe tells of it by an update alone."""
    settings.STRIPE_SECRET_KEY = key
    shop.account.advance(by=60)
    refund = shop.post("refunds", charge=paid["id"])
    hear()
    assert state() == "frozen"
    shop.account.advance(by=60)
    known = shop.account.state
    known.get("charge", paid["id"]).update(amount_refunded=0, refunded=False)
    row = known.get("refund", refund["id"])
    row["status"] = "canceled"
    known.emit("refund.updated", row)
    hear()
    assert state() == "active"


def test_a_credit_note_that_is_voided_takes_nothing(shop: Shop, hear: Hear, settings: Any) -> None:
    """Of an invoice that is open still. With a key the invoice itself says so."""
    settings.STRIPE_SECRET_KEY = ""
    customer = shop.customer(metadata=ACME)
    terms: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 14}
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), **terms)
    [invoice] = shop.invoices(customer)
    note = shop.post("credit_notes", invoice=invoice["id"], amount=4000)
    hear()
    shop.account.advance(by=60)
    shop.post(f"credit_notes/{note['id']}/void")
    shop.post(f"invoices/{invoice['id']}/pay")
    hear()
    assert (state(), BillingAccount.objects.get().reasons) == ("active", [])


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_subscriptions_that_name_a_tenant_each_the_first_binds_in_any_order(
    shop: Shop, hear: Hear, order: int
) -> None:
    for slug in ("red", "blue"):
        factories.tenant(slug)
    customer, price = shop.customer(), shop.price(5000, lookup_key="standard")
    for slug in ("red", "blue"):
        shop.subscribe(customer, price, metadata={"tenant_id": slug})
        shop.account.advance(by=5)
    hear(order)
    account = BillingAccount.objects.get()
    assert (account.tenant, account.reasons) == (Tenant.objects.get(slug="red"), ["names_another_tenant:blue"])
