"""Every type we ask Stripe for is done something about, and what it concerns is found."""

from __future__ import annotations

import json
from typing import Any

import pytest
import responses

from billing.inbox import envelope, event_types, handlers, store
from billing.models import BillingAccount, StripeEvent
from governance.models import Alert, Tenant
from tests.billing.conftest import Deliver
from tests.billing.events import DAY, START, event, invoice, invoice_paid

pytestmark = pytest.mark.django_db


def test_every_type_that_is_asked_for_has_a_handler() -> None:
    assert (event_types.SNAPSHOTS | event_types.THIN) - set(handlers.HANDLERS) == set()


def test_the_event_that_would_hold_up_invoices_is_never_asked_for() -> None:
    assert "invoice.created" not in event_types.SNAPSHOTS | event_types.THIN | set(handlers.HANDLERS)


@pytest.mark.parametrize("kind", sorted(handlers.OF_A_CHARGE))
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


@pytest.mark.parametrize("kind", sorted(handlers.OF_A_CHARGE))
def test_without_a_key_a_refund_that_names_nobody_is_kept_and_concerns_nobody(db: None, kind: str) -> None:
    sent = event(kind, {"id": "x_1", "object": "refund", "charge": "ch_1"})
    store.store(envelope.parse(json.dumps(sent)), now=START)
    assert store.process(sent["id"], now=START)
    assert not BillingAccount.objects.exists()


def test_an_invoice_that_stripe_cannot_finalize_is_told_until_it_is_settled(tenant: Tenant, deliver: Deliver) -> None:
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
