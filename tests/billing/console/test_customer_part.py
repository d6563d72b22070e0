"""What a customer's page borrows of billing: the plan, the margin, Stripe's page and what Stripe said."""

from __future__ import annotations

from typing import Any

import pytest

from billing.console import customer_part
from billing.models import BillingAccount, StripeEvent
from governance import ledger
from governance.models import Tenant
from governance.ports import CustomerPlan
from tests import factories
from tests.billing.conftest import Deliver
from tests.billing.events import DAY, START, checkout_completed, event, invoice, invoice_paid, subscription_created
from tests.factories import nanos

pytestmark = pytest.mark.django_db


@pytest.fixture
def paying(tenant: Tenant, deliver: Deliver) -> Tenant:
    deliver(checkout_completed(), subscription_created(), invoice_paid(amount_paid=5000))
    return tenant


def test_a_customer_has_its_plan_and_its_margin(paying: Tenant) -> None:
    ledger.record(factories.reporting("12.50", by=factories.caller(paying), occurred_at=START + DAY), now=START + DAY)
    found = customer_part.bill(tenant=paying.pk, since=START, now=START + 30 * DAY)
    assert found is not None
    assert (found.plan, found.customer_id) == (CustomerPlan("Standard", "active"), "cus_acme")
    assert (found.paid_nanos, found.margin_nanos, found.margin_e4) == (nanos("50"), nanos("37.50"), 7500)
    assert found.paid_until == START + 30 * DAY
    assert found.link == f"/admin/billing/billingaccount/{BillingAccount.objects.get().pk}/change/"
    other = factories.tenant("globex")
    assert customer_part.bill(tenant=other.pk, since=START, now=START) is None
    assert customer_part.plans([paying.pk, other.pk]) == {paying.pk: found.plan}


@pytest.mark.parametrize(
    ("key", "base", "link"),
    [
        ("sk_test_1", "https://api.stripe.com", "https://dashboard.stripe.com/test/customers/cus_acme"),
        ("sk_live_1", "https://api.stripe.com", "https://dashboard.stripe.com/customers/cus_acme"),
        ("sk_test_1", "http://127.0.0.1:8020", ""),
        ("", "https://api.stripe.com", ""),
    ],
)
def test_stripes_own_page_is_of_the_same_mode_and_none_where_stripe_is_simulated(
    paying: Tenant, settings: Any, key: str, base: str, link: str
) -> None:
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = key, base
    found = customer_part.bill(tenant=paying.pk, since=START, now=START + DAY)
    assert found is not None
    assert found.dashboard == link


def test_what_stripe_said_is_told_in_words_the_newest_first(paying: Tenant, deliver: Deliver) -> None:
    late = START + DAY
    deliver(
        event("invoice.payment_failed", invoice(amount_paid=0, amount_due=1250, status="open"), created=late),
        event("something.of_a_new_kind", {"id": "x_1", "object": "x", "customer": "cus_acme"}, created=late),
        event(
            "charge.refunded", {"id": "ch_1", "customer": "cus_acme", "currency": "jpy", "amount": 700}, created=late
        ),
        event("customer.updated", {"id": "cus_other", "object": "customer"}, created=late),
    )
    StripeEvent.objects.filter(type="charge.refunded").update(processed_at=None)
    StripeEvent.objects.filter(type="something.of_a_new_kind").update(processed_at=None, quarantine_reason="not ours")

    told = customer_part.events(tenant=paying.pk, most=10)

    assert [(one.words, one.note, one.tone) for one in told] == [
        ("got money back: 700 JPY", "not handled yet", "warning"),
        ("something of a new kind", "put aside: not ours", "warning"),
        ("could not pay an invoice: $12.50", "", "danger"),
        ("paid an invoice: $50.00", "", "success"),
        ("subscribed", "", ""),
        ("finished a checkout", "", "success"),
    ]
    assert told[0].at == late
    assert len(customer_part.events(tenant=paying.pk, most=2)) == 2
    assert customer_part.events(tenant=factories.tenant("globex").pk, most=2) == []


@pytest.mark.parametrize("created", [2**62, 10**12, -(10**12), 0])
def test_an_event_of_a_time_that_is_none_is_told_at_the_time_that_it_came(paying: Tenant, created: int) -> None:
    StripeEvent.objects.update(created=created)
    told = customer_part.events(tenant=paying.pk, most=10)
    assert [one.at for one in told] == [row.received_at for row in StripeEvent.objects.order_by("-id")]
