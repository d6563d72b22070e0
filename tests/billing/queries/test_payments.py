"""Payments as the overview tells them, from what Stripe sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.models import BillingAccount, StripeEvent
from billing.queries import payments
from governance.queries.spend import TimeRange
from tests import factories

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = TimeRange(NOON - timedelta(hours=12), NOON + timedelta(hours=12))


def came(kind: str, customer: str = "cus_1", *, at: datetime = NOON, **fields: Any) -> StripeEvent:
    return StripeEvent.objects.create(
        event_id=f"evt_{StripeEvent.objects.count()}",
        type=kind,
        customer_id=customer,
        created=int(at.timestamp()),
        payload={"data": {"object": fields}},
        received_at=at,
    )


def told(**kwargs: Any) -> list[tuple[str, str, str, bool]]:
    found = payments.latest(period=DAY, **{"limit": 10, **kwargs})
    return [(each.whom, each.said, each.amount, each.is_bad) for each in found]


def test_payments_are_told_by_their_tenant_in_their_currency_the_newest_first() -> None:
    BillingAccount.objects.create(stripe_customer_id="cus_1", tenant=factories.tenant())
    came("invoice.paid", amount_paid=123_456, currency="usd")
    came("invoice.payment_failed", amount_remaining=2_000, currency="eur")
    came("charge.refunded", "cus_2", amount_refunded=500, currency="jpy")
    came("checkout.session.completed", mode="payment", payment_status="paid", amount_total=1_005, currency="usd")
    assert told() == [
        ("acme", "bought", "$10.05", False),
        ("cus_2", "was refunded", "500 JPY", False),
        ("acme", "could not pay", "20.00 EUR", True),
        ("acme", "paid", "$1,234.56", False),
    ]
    assert len(told(limit=2)) == 2


def test_what_is_no_payment_of_the_time_is_not_told() -> None:
    came("invoice.paid", amount_paid=0)
    came("customer.updated")
    came("checkout.session.completed", mode="subscription", payment_status="paid", amount_total=5)
    came("checkout.session.completed", mode="payment", payment_status="unpaid", amount_total=5)
    came("invoice.paid", amount_paid=5, at=NOON - timedelta(days=1))
    StripeEvent.objects.filter(pk=came("invoice.paid", amount_paid=5).pk).update(quarantine_reason="another account")
    assert told() == []
