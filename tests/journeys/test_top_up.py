"""A tenant that has used up what it paid for: the refusal carries a link, a human pays, the next call goes through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
import responses
from django.utils import timezone

from billing.models import OutboundRequest
from governance import ledger
from tests import factories as make
from tests.billing import events
from tests.journeys.conftest import Stripe
from tests.product import Product

PRICE = "price_topup_20"
CHECKOUT = "https://checkout.stripe.com/cs_1"


@pytest.fixture
def checkouts() -> Iterator[responses.RequestsMock]:
    """Stripe's checkout; it is the only thing at Stripe that may be asked for anything."""
    session = {"id": "cs_1", "object": "checkout.session", "status": "open", "url": CHECKOUT}
    with responses.RequestsMock() as api:
        api.add("POST", "https://api.stripe.com/v1/checkout/sessions", body=json.dumps(session))
        yield api


def test_a_paid_top_up_lets_the_next_call_through(
    product: Product, stripe: Stripe, settings: Any, checkouts: responses.RequestsMock
) -> None:
    tenant, now = make.tenant("acme"), timezone.now().replace(microsecond=0)
    key = product.key(of=tenant)
    begun = {"period_start": now - events.DAY, "period_end": now + 29 * events.DAY}
    one_time = {"metadata": {"llm_topup_usd": "20"}, "recurring": None, "type": "one_time", "unit_amount": 2000}
    for event in (
        events.checkout_completed(tenant="acme"),
        events.subscription_created(**begun),
        events.invoice_paid(**begun),
        events.event("price.updated", events.price_of(PRICE, **one_time)),
    ):
        stripe.deliver(event)
    ledger.record(make.reporting("50", by=make.caller(tenant)), now=now)

    settings.STRIPE_SECRET_KEY, settings.STRIPE_TOPUP_PRICE, settings.APP_URL = "sk_test_1", PRICE, product.url
    refused = product.chat(key)
    assert refused.status_code == 402
    link = refused.json()["error"]["metadata"]["upgrade_url"]
    assert len(checkouts.calls) == 0, "the gateway asks Stripe for nothing"

    opened = httpx.get(link, follow_redirects=False, timeout=30)
    assert (opened.status_code, opened.headers["location"]) == (302, CHECKOUT)
    assert b"client_reference_id=acme" in checkouts.calls[0].request.body.encode()
    assert OutboundRequest.objects.get().state == "done"
    assert urlsplit(link).netloc == urlsplit(product.url).netloc

    # The human pays; Stripe's invoice for it is the one webhook that counts.
    settings.STRIPE_SECRET_KEY = ""
    bought = events.invoice_paid(
        subscription=None, price=PRICE, billing_reason="manual", amount_paid=2000, period_start=now, period_end=now
    )
    assert stripe.deliver(bought).status_code == 200
    assert product.chat(key).status_code == 200
    # Told twice it counts once: 20 dollars more, and no more.
    stripe.deliver(bought | {"id": "evt_again"})
    ledger.record(make.reporting("20", by=make.caller(tenant)), now=now)
    assert product.chat(key).status_code == 402
