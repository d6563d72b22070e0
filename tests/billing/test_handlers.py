"""Every type we ask Stripe for is done something about, and what it concerns is found."""

from __future__ import annotations

import json
from typing import Any

import pytest
import responses

from billing import handlers, inbox, subscribed, webhooks
from billing.models import BillingAccount, StripeEvent
from governance.models import Tenant
from tests.billing.events import START, event

pytestmark = pytest.mark.django_db


def test_every_type_that_is_asked_for_has_a_handler() -> None:
    assert (subscribed.SNAPSHOTS | subscribed.THIN) - set(handlers.HANDLERS) == set()


def test_the_event_that_would_hold_up_invoices_is_never_asked_for() -> None:
    assert "invoice.created" not in subscribed.SNAPSHOTS | subscribed.THIN | set(handlers.HANDLERS)


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
        inbox.store(webhooks.parse(json.dumps(sent)), now=START)
        inbox.process(sent["id"], now=START)
    row = StripeEvent.objects.get()
    assert (row.error, row.processed_at) == ("", START)
    assert BillingAccount.objects.get().stripe_customer_id == "cus_acme"


@pytest.mark.parametrize("kind", sorted(handlers.OF_A_CHARGE))
def test_without_a_key_a_refund_that_names_nobody_is_kept_and_concerns_nobody(db: None, kind: str) -> None:
    sent = event(kind, {"id": "x_1", "object": "refund", "charge": "ch_1"})
    inbox.store(webhooks.parse(json.dumps(sent)), now=START)
    assert inbox.process(sent["id"], now=START)
    assert not BillingAccount.objects.exists()
