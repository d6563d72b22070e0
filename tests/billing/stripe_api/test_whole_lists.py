"""Lists are read to their end, whoever the customer is: Stripe embeds the first ten of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from billing.accounts import sync
from billing.inbox import envelope, store
from billing.models import BillingAccount, StripeEvent
from billing.stripe_api import client
from governance.models import Tenant
from tests import factories
from tests.billing.conftest import Deliver, window_of
from tests.billing.events import DAY, START, event, invoice, invoice_paid, seconds, subscription, subscription_created
from tests.fakes import stripe_api

pytestmark = pytest.mark.django_db
STANDARD = factories.nanos("50")


@pytest.fixture
def stripe(tenant: Tenant, settings: Any) -> Iterator[stripe_api.Account]:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    with stripe_api.answering() as account:
        account.customer()
        account.subscriptions, account.invoices = [subscription()], [invoice()]
        yield account


def changes(count: int) -> list[dict[str, Any]]:
    """Prorations of the time before the period, as many as there were changes."""
    [line] = invoice(proration=True, period_start=START - 9 * DAY, period_end=START)["lines"]["data"]
    return [{**line, "id": f"il_{number}"} for number in range(count)]


def test_an_invoice_of_twelve_lines_is_read_whole(stripe: stripe_api.Account) -> None:
    lines = stripe.invoices[0]["lines"]
    lines["data"] = [*changes(12), *lines["data"]]
    sync.customer("cus_acme", now=START)
    assert (window_of().starts_at, window_of().limit_nanos) == (START, STANDARD)


def test_payments_and_items_beyond_the_tenth_are_read(stripe: stripe_api.Account) -> None:
    paid_by = [{"payment": {"type": "payment_intent", "payment_intent": f"pi_{number}"}} for number in range(12)]
    stripe.invoices[0]["payments"] = {
        "object": "list",
        "data": [{"id": f"inpay_{n}", **one} for n, one in enumerate(paid_by)],
    }
    items = stripe.subscriptions[0]["items"]
    items["data"] = [{**items["data"][0], "id": f"si_{number}"} for number in range(11)]
    read = client.customer_snapshot("cus_acme")
    assert len(read.invoices[0]["payments"]["data"]) == 12
    assert len(read.subscriptions[0]["items"]["data"]) == 11
    assert "/v1/invoice_payments" in stripe.calls("GET")


def test_what_is_embedded_whole_is_not_asked_for_again(stripe: stripe_api.Account) -> None:
    client.customer_snapshot("cus_acme")
    assert not [path for path in stripe.calls("GET") if path.endswith("/lines") or "items" in path]


def test_open_invoices_are_read_and_drafts_are_not(stripe: stripe_api.Account) -> None:
    stripe.invoices = [invoice(status="draft")]
    assert client.customer_snapshot("cus_acme").invoices == ()
    stripe.invoices = [invoice(status="open")]
    stripe.subscriptions = [subscription(collection_method="send_invoice", days_until_due=30)]
    assert [one["status"] for one in client.customer_snapshot("cus_acme").invoices] == ["open"]
    sync.customer("cus_acme", now=START)
    assert (BillingAccount.objects.get().state, window_of().limit_nanos) == ("provisional", STANDARD)


class TestAnAccountThatIsACustomer:
    ID = "acct_1"

    @pytest.fixture
    def account(self, stripe: stripe_api.Account) -> stripe_api.Account:
        stripe.accounts[self.ID] = {"id": self.ID, "object": "v2.core.account", "metadata": {"tenant_id": "acme"}}
        of = {"customer": None, "customer_account": self.ID}
        stripe.subscriptions = [subscription(subscription="sub_v2") | of]
        stripe.invoices = [invoice(subscription="sub_v2") | of]
        return stripe

    def test_has_its_budget(self, account: stripe_api.Account, deliver: Deliver) -> None:
        deliver(event("invoice.paid", account.invoices[0]))
        assert BillingAccount.objects.get().stripe_customer_id == self.ID
        assert window_of().limit_nanos == STANDARD
        assert not [path for path in account.calls("GET") if path.startswith("/v1/customers")]

    def test_that_is_closed_gives_its_tenant_up(
        self, account: stripe_api.Account, deliver: Deliver, tenant: Tenant
    ) -> None:
        deliver(event("invoice.paid", account.invoices[0]))
        account.accounts[self.ID]["closed"] = True
        deliver(thin("v2.core.account.closed", self.ID, f"/v2/core/accounts/{self.ID}"), now=START + DAY)
        tenant.refresh_from_db()
        assert (BillingAccount.objects.get().state, tenant.status) == ("closed", "suspended")

    def test_that_is_nobodys_customer_is_left_alone(self, account: stripe_api.Account, deliver: Deliver) -> None:
        deliver(thin("v2.core.account.updated", "acct_2", "/v2/core/accounts/acct_2"))
        assert not BillingAccount.objects.exists()
        assert not StripeEvent.objects.waiting().exists()

    def test_is_known_without_a_key_by_what_its_events_carry(self, tenant: Tenant, deliver: Deliver) -> None:
        of = {"customer": None, "customer_account": self.ID}
        deliver(
            subscription_created(subscription="sub_v2", metadata={"tenant_id": "acme"}, **of),
            event("invoice.paid", invoice(subscription="sub_v2") | of),
        )
        assert window_of().limit_nanos == STANDARD


def thin(type: str, id: str, url: str, *, name: str = "evt_thin") -> dict[str, Any]:
    return {
        "id": name,
        "object": "v2.core.event",
        "type": type,
        "created": "2026-03-01T00:00:00Z",
        "livemode": False,
        "related_object": {"id": id, "type": type.split(".")[1], "url": url},
    }


class TestAThinTwin:
    """An event destination sends `v1.invoice.paid` with the invoice's id alone."""

    def test_has_the_effect_of_the_event_that_carries_its_object(
        self, stripe: stripe_api.Account, deliver: Deliver
    ) -> None:
        id = stripe.invoices[0]["id"]
        deliver(thin("v1.invoice.paid", id, f"/v1/invoices/{id}"))
        assert window_of().limit_nanos == STANDARD
        assert not StripeEvent.objects.waiting().exists()

    def test_of_what_is_known_without_a_key_looks_again(self, tenant: Tenant, deliver: Deliver) -> None:
        deliver(subscription_created(metadata={"tenant_id": "acme"}), invoice_paid())
        window_of().budget.windows.update(limit_nanos=1)
        deliver(thin("v1.customer.subscription.updated", "sub_acme", "/v1/subscriptions/sub_acme"), now=START)
        assert window_of().limit_nanos == STANDARD

    @pytest.mark.parametrize("url", ["https://elsewhere.example/v1/x", "/v1/../x?y", "/v3/x", ""])
    def test_asks_nobody_but_stripe(self, stripe: stripe_api.Account, url: str) -> None:
        sent = thin("v1.invoice.paid", "in_1", url)
        store.store(envelope.parse(json.dumps(sent)), now=START)
        assert not store.process(sent["id"], now=START)
        assert "not an object of Stripe's" in StripeEvent.objects.get().error
        assert not stripe.requests

    def test_of_a_type_that_asks_for_nothing_is_kept(self, stripe: stripe_api.Account, deliver: Deliver) -> None:
        deliver(thin("v1.payout.paid", "po_1", "/v1/payouts/po_1"))
        assert not StripeEvent.objects.waiting().exists()
        assert not stripe.requests


def test_a_time_of_an_event_is_its_second() -> None:
    assert envelope.envelope(thin("v1.invoice.paid", "in_1", "/v1/invoices/in_1")).created == seconds(START)
