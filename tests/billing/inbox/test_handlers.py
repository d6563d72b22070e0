"""Every type we ask Stripe for is done something about, and what it concerns is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from stripe.params import _webhook_endpoint_create_params

from billing.inbox import catch_up, endpoint, envelope, handlers, store
from billing.models import BillingAccount, StripeEvent
from governance.audit import Actor
from governance.models import Alert, Tenant
from tests.billing.conftest import Deliver
from tests.billing.events import DAY, START, event, invoice, invoice_paid
from tests.fakes import stripe_api

pytestmark = pytest.mark.django_db


@pytest.fixture
def stripe(settings: Any) -> Iterator[stripe_api.Account]:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    with stripe_api.answering() as account:
        yield account


NAMING_A_CHARGE = sorted(name for name, one in handlers.EVENT_TYPES.items() if one.names_a_charge)


def test_what_is_handled_is_asked_for_in_one_way_and_nothing_else_is() -> None:
    snapshots, thin = handlers.asked_for(), handlers.asked_for(thin=True)
    assert snapshots | thin == set(handlers.EVENT_TYPES)
    assert snapshots & thin == set()
    assert {"customer.created", "price.created", "checkout.session.async_payment_succeeded"} <= snapshots
    assert all(callable(one.handler) for one in handlers.EVENT_TYPES.values())


def test_stripe_knows_every_type_that_our_endpoint_asks_for() -> None:
    """It refuses an endpoint with a type that it does not know. The installed SDK lists those of its version."""
    known = Path(_webhook_endpoint_create_params.__file__).read_text()
    assert [name for name in handlers.asked_for() if f'"{name}"' not in known] == []


def test_the_event_that_would_hold_up_invoices_is_never_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "invoice.created" not in handlers.EVENT_TYPES
    monkeypatch.setitem(handlers.EVENT_TYPES, "invoice.created", handlers.EVENT_TYPES["invoice.paid"])
    assert "invoice.created" not in handlers.asked_for() | handlers.asked_for(thin=True)


def test_a_row_is_all_that_a_new_type_needs(
    stripe: stripe_api.Account, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for, fetched where it did not come, and handled."""
    seen: list[str] = []
    row = handlers.EventType(lambda event, readings, now: seen.append(event.event_id))
    monkeypatch.setitem(handlers.EVENT_TYPES, "payout.paid", row)
    stripe.events = [event("payout.paid", {"id": "po_1", "object": "payout"}, id="evt_new")]
    endpoint.set_up(url="https://governor.example.com/api/webhooks/stripe", by=Actor("ann"), now=START)
    assert "payout.paid" in stripe.webhook_endpoints[0]["enabled_events"]
    assert catch_up.backfill(since=START - DAY, now=START + DAY).event_ids == ["evt_new"]
    assert store.sweep(now=START + DAY) == 1
    assert seen == ["evt_new"]


@pytest.mark.parametrize("kind", NAMING_A_CHARGE)
def test_the_customer_of_a_refund_or_dispute_is_asked_for_by_its_charge(
    tenant: Tenant, settings: Any, kind: str
) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    api = "https://api.stripe.com/v1"
    nothing = {"object": "list", "data": [], "has_more": False, "url": "/v1/x"}
    sent = event(kind, {"id": "x_1", "object": "refund", "charge": "ch_1"})
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.add("GET", f"{api}/charges/ch_1", json={"id": "ch_1", "object": "charge", "customer": "cus_acme"})
        mock.add("GET", f"{api}/customers/cus_acme", json={"id": "cus_acme", "object": "customer", "metadata": {}})
        for listed in ("subscriptions", "invoices", "refunds", "disputes", "charges", "credit_notes"):
            mock.add("GET", f"{api}/{listed}", json=nothing)
        store.store(envelope.parse(json.dumps(sent)), now=START)
        store.process(sent["id"], now=START)
    row = StripeEvent.objects.get()
    assert (row.error, row.processed_at) == ("", START)
    assert BillingAccount.objects.get().stripe_customer_id == "cus_acme"


@pytest.mark.parametrize("kind", NAMING_A_CHARGE)
def test_without_a_key_a_refund_that_names_nobody_is_kept_and_concerns_nobody(db: None, kind: str) -> None:
    sent = event(kind, {"id": "x_1", "object": "refund", "charge": "ch_1"})
    store.store(envelope.parse(json.dumps(sent)), now=START)
    assert store.process(sent["id"], now=START)
    assert not BillingAccount.objects.exists()


def test_an_invoice_that_stripe_cannot_finalize_raises_an_alert_until_it_is_paid(
    tenant: Tenant, deliver: Deliver
) -> None:
    draft = invoice(status="draft", last_finalization_error={"message": "the tax location is not known"})
    deliver(event("invoice.finalization_failed", draft))
    alert = Alert.objects.get(kind="invoice_not_finalized", cleared_at=None)
    assert alert.subject == draft["id"]
    assert "the tax location is not known" in alert.message
    deliver(invoice_paid())
    assert not Alert.objects.filter(kind="invoice_not_finalized", cleared_at=None).exists()


def test_word_of_it_that_comes_after_the_payment_tells_nobody(tenant: Tenant, deliver: Deliver) -> None:
    deliver(invoice_paid(created=START + DAY), event("invoice.finalization_failed", invoice(status="draft")))
    assert not Alert.objects.filter(kind="invoice_not_finalized").exists()
