"""What is read of a customer of the simulated Stripe: as much as says anything, and each time alike."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from billing.accounts import sync
from billing.inbox import catch_up
from billing.models import BillingAccount, Invoice
from billing.sandbox import views
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, START, Shop

STANDARD = factories.nanos("50")
ACME = {"tenant_id": "acme"}


def at(shop: Shop) -> datetime:
    return datetime.fromtimestamp(shop.account.now, UTC)


def test_addresses_that_carry_a_token_make_no_reading_differ(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, show = itertools.count(), views.show

    def with_tokens(*args: Any) -> Any:
        """As Stripe has them: another each time that the object is read."""
        shown = show(*args)
        for kind, name in (("invoice", "hosted_invoice_url"), ("invoice", "invoice_pdf"), ("charge", "receipt_url")):
            if shown.get("object") == kind:
                shown[name] = f"https://pay.stripe.com/{shown['id']}/{next(tokens)}?s=ap"
        return shown

    monkeypatch.setattr(views, "show", with_tokens)
    shop.subscribe(shop.customer(metadata=ACME), shop.price(5000, lookup_key="standard"))
    assert catch_up.reconcile(now=START).figures["differed"] == 1
    digest = BillingAccount.objects.get().read_digest
    again = catch_up.reconcile(now=START)
    assert (again.figures["differed"], again.lines) == (0, [])
    assert BillingAccount.objects.get().read_digest == digest
    assert next(tokens) > 4


def test_a_year_that_was_paid_before_very_many_small_invoices_is_read(shop: Shop) -> None:
    customer = shop.customer(metadata=ACME)
    shop.subscribe(customer, shop.price(60_000, "year", lookup_key="standard"))
    shop.account.advance(by=DAY)
    for _ in range(210):
        invoice = shop.post("invoices", customer=customer)["id"]
        shop.post(f"invoices/{invoice}/finalize")
    sync.customer(customer, now=at(shop))
    assert window_of().limit_nanos == STANDARD


def test_what_is_too_old_to_say_anything_is_not_read(shop: Shop) -> None:
    customer = shop.customer(metadata=ACME)
    for days in (0, 3 * 366, 2):
        shop.account.advance(by=days * DAY)
        shop.post(f"invoices/{shop.post('invoices', customer=customer)['id']}/finalize")
    sync.customer(customer, now=at(shop))
    assert Invoice.objects.count() == 2


def test_an_invoice_that_was_voided_is_open_no_more(shop: Shop) -> None:
    customer = shop.customer(metadata=ACME)
    terms: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 30}
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), **terms)
    shop.account.advance(by=7200)
    assert sync.customer(customer, now=at(shop)).state == "provisional"
    [invoice] = shop.invoices(customer)
    shop.post(f"invoices/{invoice['id']}/void")
    found = sync.customer(customer, now=at(shop))
    assert (Invoice.objects.get().status, found.state) == ("void", "pending")
