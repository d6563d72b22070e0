"""When what is billed is due: by the invoice that was sent, and nothing is where nothing was used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from billing.accounts import sync
from billing.models import BillingAccount
from governance.models import Tenant
from tests import factories
from tests.billing import events
from tests.billing.conftest import Deliver, window_of
from tests.billing.rules.test_entitlement import NEXT
from tests.billing.sandbox.conftest import DAY, START, Shop

STANDARD = factories.nanos("50")
HOUR = 3600
SENT: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 14}
ROLLED: dict[str, Any] = {"period_start": NEXT, "period_end": NEXT + 30 * events.DAY}


def read(shop: Shop, customer: str) -> tuple[str, int]:
    """The state that a customer comes to, and what its tenant can spend."""
    found = sync.customer(customer, now=datetime.fromtimestamp(shop.account.now, UTC))
    return found.state, window_of().remaining_nanos


def metered(shop: Shop, cents: int = 1) -> str:
    meter = shop.post(
        "billing/meters", display_name="Calls", event_name="calls", default_aggregation={"formula": "sum"}
    )
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter["id"]}
    return shop.price(cents, recurring=recurring, metadata={"llm_budget_usd": "30"})


def test_an_invoice_that_was_sent_is_credit_until_it_is_due(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), **SENT)
    assert read(shop, customer) == ("provisional", STANDARD)
    shop.post(f"invoices/{shop.invoices(customer)[0]['id']}/pay", paid_out_of_band=True)
    # It is finalized an hour after the period has begun.
    shop.account.advance(by=31 * DAY + 2 * HOUR)
    assert read(shop, customer) == ("provisional", STANDARD)
    invoice = shop.invoices(customer)[-1]
    shop.account.advance(to=invoice["due_date"] - 60)
    assert shop.account.now > START.timestamp() + (31 + 14) * DAY
    assert read(shop, customer) == ("provisional", STANDARD)
    shop.account.advance(to=invoice["due_date"])
    assert read(shop, customer)[0] == "suspended"


def test_from_a_flat_to_a_metered_price_at_a_periods_end_nothing_is_due(shop: Shop) -> None:
    customer, usage = shop.customer(metadata={"tenant_id": "acme"}), metered(shop)
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    schedule = shop.post("subscription_schedules", from_subscription=sub["id"])
    [now], month = schedule["phases"], {"interval": "month", "interval_count": 3}
    phase = {
        "items": [{"price": one["price"], "quantity": 1} for one in now["items"]],
        "start_date": now["start_date"],
        "end_date": now["end_date"],
    }
    shop.post(
        f"subscription_schedules/{schedule['id']}", phases=[phase, {"items": [{"price": usage}], "duration": month}]
    )
    assert read(shop, customer) == ("active", STANDARD)
    for days in (32, 8, 15):
        shop.account.advance(by=days * DAY)
        assert read(shop, customer) == ("active", factories.nanos("30"))


def test_a_last_period_ends_by_time_alone(tenant: Tenant, deliver: Deliver) -> None:
    ending = events.subscription_created(cancel_at_period_end=True)
    deliver(events.checkout_completed(), ending, events.invoice_paid())
    assert sync.due(now=NEXT) == 1
    account = BillingAccount.objects.get()
    assert (account.state, account.due_at) == ("lapsed", NEXT + 7 * events.DAY)
    assert sync.due(now=NEXT + 7 * events.DAY) == 1
    account.refresh_from_db()
    tenant.refresh_from_db()
    assert (account.state, tenant.status) == ("suspended", "suspended")
    deliver(events.invoice_paid(billing_reason="subscription_cycle", **ROLLED), now=NEXT + 8 * events.DAY)
    tenant.refresh_from_db()
    assert (tenant.status, window_of().remaining_nanos) == ("active", STANDARD)


def test_from_a_metered_to_another_metered_price_the_last_period_is_due(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, metered(shop))["id"]
    shop.account.advance(by=20 * DAY)
    shop.post("billing/meter_events", event_name="calls", payload={"stripe_customer_id": customer, "value": "900"})
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    shop.account.advance(by=12 * DAY)
    assert read(shop, customer)[0] == "active"
    shop.account.advance(by=8 * DAY)
    assert read(shop, customer)[0] == "suspended"
    assert shop.sub(sub)["status"] == "past_due"
