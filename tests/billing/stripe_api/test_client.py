"""Reading from Stripe: the refetch, its failures, and workers that overtake each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
import responses

from billing.accounts import sync
from billing.inbox import envelope, store
from billing.models import BillingAccount, StripeEvent
from billing.stripe_api import client
from governance.models import Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.events import DAY, START, event, invoice, invoice_paid, price_of, subscription

pytestmark = pytest.mark.django_db
API = "https://api.stripe.com/v1"
STANDARD, PREMIUM = factories.nanos("50"), factories.nanos("200")


class Stripe:
    """What Stripe has now; its answers follow."""

    def __init__(self, api: responses.RequestsMock) -> None:
        self.api = api
        self.customer: dict[str, Any] = {"id": "cus_acme", "object": "customer", "metadata": {"tenant_id": "acme"}}
        self.subscriptions: list[dict[str, Any]] = [subscription()]
        self.invoices: list[dict[str, Any]] = [invoice()]
        self.before_answer: Callable[[], None] = lambda: None
        api.add_callback("GET", f"{API}/customers/cus_acme", lambda _: self.answer(self.customer))
        api.add_callback("GET", f"{API}/subscriptions", lambda _: self.listing(self.subscriptions))
        api.add_callback("GET", f"{API}/invoices", lambda _: self.listing(self.invoices))
        self.payments: dict[str, list[dict[str, Any]]] = {"charges": [], "disputes": []}
        for kind in self.payments:
            api.add_callback("GET", f"{API}/{kind}", lambda _, kind=kind: self.listing(self.payments[kind]))
        for name in ("price_standard", "price_premium"):
            api.add("GET", f"{API}/prices/{name}", json=price_of(name))
        for product in ("prod_standard", "prod_premium"):
            api.add("GET", f"{API}/products/{product}", json={"id": product, "object": "product", "metadata": {}})

    def answer(self, body: Any) -> tuple[int, dict[str, str], str]:
        text = json.dumps(body)
        self.before_answer()
        return 200, {}, text

    def listing(self, rows: list[dict[str, Any]]) -> tuple[int, dict[str, str], str]:
        return self.answer({"object": "list", "data": rows, "has_more": False, "url": "/v1/x"})


@pytest.fixture
def api() -> Any:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def stripe(tenant: Tenant, settings: Any, api: responses.RequestsMock) -> Stripe:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    return Stripe(api)


def handle(sent: dict[str, Any], *, now: Any = START) -> StripeEvent:
    store.store(envelope.parse(json.dumps(sent)), now=now)
    store.process(sent["id"], now=now)
    return StripeEvent.objects.get(event_id=sent["id"])


def test_any_event_rereads_the_whole_customer(stripe: Stripe) -> None:
    row = handle(event("customer.updated", {"id": "cus_acme", "object": "customer", "metadata": {}}))
    assert row.error == ""
    assert window_of().limit_nanos == STANDARD
    request = stripe.api.calls[0].request
    assert request.headers["Stripe-Version"] == "2026-10-28.endive"


def test_the_event_is_a_hint_and_what_it_carries_is_not_believed(stripe: Stripe) -> None:
    handle(invoice_paid(price="price_premium", period_start=START + 90 * DAY, period_end=START + 120 * DAY))
    assert (window_of().starts_at, window_of().limit_nanos) == (START, STANDARD)


def test_change_at_stripe_is_taken_over_in_the_same_second(stripe: Stripe, trusting: None) -> None:
    handle(invoice_paid())
    stripe.subscriptions = [subscription(price="price_premium")]
    handle(invoice_paid())
    assert window_of().limit_nanos == PREMIUM


def test_late_worker_does_not_overwrite_newer_state(stripe: Stripe, trusting: None) -> None:
    """A worker reads, another one reads newer state and writes it, then the first comes to write."""
    overtaken: list[str] = []

    def overtake() -> None:
        if not overtaken:
            overtaken.append("once")
            stripe.subscriptions = [subscription(price="price_premium")]
            sync.customer("cus_acme", now=START)

    stripe.before_answer = overtake
    handle(invoice_paid())
    assert overtaken
    assert window_of().limit_nanos == PREMIUM
    # Twice: what the first came to write was older, and was not asked for again.
    assert BillingAccount.objects.get().fetches == 2


def test_products_metadata_is_read_once_a_day(stripe: Stripe) -> None:
    handle(invoice_paid())
    handle(invoice_paid())
    asked = [call.request.url for call in stripe.api.calls if "/products/" in str(call.request.url)]
    assert len(asked) == 1


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_outage_keeps_the_last_state_and_the_event(stripe: Stripe, status: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
    handle(invoice_paid())
    stripe.api.replace("GET", f"{API}/customers/cus_acme", status=status, json={"error": {"message": "no"}})
    row = handle(invoice_paid())
    assert (row.processed_at, row.attempts, row.quarantine_reason) == (None, 1, "")
    assert row.error.startswith("StripeUnavailable")
    assert window_of().limit_nanos == STANDARD


def test_timeout_is_worth_another_try(stripe: Stripe, monkeypatch: Any) -> None:
    monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
    stripe.api.replace("GET", f"{API}/customers/cus_acme", body=requests.ConnectTimeout("slow"))
    with pytest.raises(client.StripeUnavailable):
        client.customer_snapshot("cus_acme")


def test_unknown_customer_is_final(stripe: Stripe) -> None:
    stripe.api.replace("GET", f"{API}/customers/cus_acme", status=404, json={"error": {"message": "No such customer"}})
    row = handle(invoice_paid())
    assert row.quarantine_reason.startswith("Stripe refuses")


def test_deleted_customer_is_closed(stripe: Stripe, tenant: Tenant) -> None:
    handle(invoice_paid())
    stripe.customer = {"id": "cus_acme", "object": "customer", "deleted": True}
    handle(event("customer.deleted", {"id": "cus_acme", "object": "customer"}))
    tenant.refresh_from_db()
    assert (BillingAccount.objects.get().state, tenant.status) == ("closed", "suspended")


def test_second_reading_of_the_same_state_writes_no_money_or_audit_row(stripe: Stripe) -> None:
    from governance.models import AuditEntry, BudgetEvent, BudgetWindow

    handle(invoice_paid())
    before = list(BudgetWindow.objects.values()), AuditEntry.objects.count(), BudgetEvent.objects.count()
    sync.customer("cus_acme", now=START + DAY)
    assert (list(BudgetWindow.objects.values()), AuditEntry.objects.count(), BudgetEvent.objects.count()) == before


def disputed(stripe: Stripe) -> None:
    stripe.invoices = [invoice() | {"payments": {"data": [{"payment": {"payment_intent": "pi_1"}}]}}]
    charge = {"id": "ch_1", "object": "charge", "customer": "cus_acme", "amount": 5000, "payment_intent": "pi_1"}
    stripe.payments["charges"] = [charge | {"disputed": True}]
    stripe.payments["disputes"] = [
        {"id": "dp_1", "object": "dispute", "charge": "ch_1", "amount": 5000, "status": "needs_response"}
    ]


def test_disputes_are_read_with_the_customer(stripe: Stripe) -> None:
    disputed(stripe)
    handle(event("customer.updated", {"id": "cus_acme", "object": "customer", "metadata": {}}))
    assert (BillingAccount.objects.get().state, window_of().remaining_nanos) == ("frozen", 1)
    stripe.payments["disputes"][0]["status"] = "won"
    sync.customer("cus_acme", now=START)
    assert (BillingAccount.objects.get().state, window_of().limit_nanos) == ("active", STANDARD)


def test_what_stands_in_for_stripe_need_not_know_charges_nor_expand(stripe: Stripe) -> None:
    """Then the events' own objects stand in for what was refunded."""
    refused = 400, {}, json.dumps({"error": {"message": "This property cannot be expanded", "type": "invalid_request"}})
    plain = stripe.invoices
    stripe.api.replace("GET", f"{API}/charges", status=404, json={"error": {"message": "Unrecognized URL"}})
    stripe.api.remove("GET", f"{API}/invoices")
    stripe.api.add_callback(
        "GET", f"{API}/invoices", lambda asked: refused if "expand" in asked.url else stripe.listing(plain)
    )
    handle(invoice_paid())
    assert window_of().limit_nanos == STANDARD
    note = {"id": "cn_1", "object": "credit_note", "customer": "cus_acme", "amount": 5000, "invoice": plain[0]["id"]}
    handle(event("credit_note.created", note))
    assert BillingAccount.objects.get().state == "frozen"
