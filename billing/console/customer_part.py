"""What a customer's page shows of billing: who pays for it, what comes of that, and what Stripe said.

The page is governance's, which knows nothing of billing: it borrows these (`governance.ports`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.urls import reverse

from billing.models import BillingAccount, StripeEvent
from billing.queries import margin
from billing.rules.valuation import amount_words
from billing.stripe_api import client, objects
from governance.models import Tenant
from governance.ports import BilledEvent, CustomerBill, CustomerPlan
from governance.queries.spend import TimeRange

STRIPE = "https://api.stripe.com"
DASHBOARD = "https://dashboard.stripe.com"
# What Stripe's events say, in words; others are told by their own name.
WORDS = {
    "checkout.session.completed": "finished a checkout",
    "checkout.session.async_payment_succeeded": "paid for a checkout",
    "checkout.session.async_payment_failed": "could not pay for a checkout",
    "customer.created": "became a customer",
    "customer.updated": "changed as a customer",
    "customer.deleted": "was deleted as a customer",
    "customer.subscription.created": "subscribed",
    "customer.subscription.updated": "changed its subscription",
    "customer.subscription.deleted": "has no subscription any more",
    "customer.subscription.paused": "had its subscription paused",
    "customer.subscription.resumed": "had its subscription resumed",
    "customer.subscription.trial_will_end": "has a trial that ends soon",
    "invoice.finalized": "was billed",
    "invoice.paid": "paid an invoice",
    "invoice.payment_succeeded": "paid an invoice",
    "invoice.payment_failed": "could not pay an invoice",
    "invoice.payment_action_required": "has to confirm a payment",
    "invoice.finalization_failed": "could not be billed",
    "invoice.overdue": "is late with an invoice",
    "invoice.voided": "need not pay an invoice",
    "invoice.marked_uncollectible": "will not pay an invoice",
    "charge.refunded": "got money back",
    "charge.dispute.created": "disputes a payment",
    "charge.dispute.closed": "ended a dispute",
    "credit_note.created": "got a credit note",
}
GOOD = ("paid", "succeeded", "resumed", "completed")
BAD = ("failed", "deleted", "dispute.created", "uncollectible", "action_required", "overdue")


def plans(tenants: Collection[int]) -> Mapping[int, CustomerPlan]:
    """See `governance.ports.CustomerPlans`."""
    rows = BillingAccount.objects.filter(tenant__in=tenants).values_list("tenant_id", "plan", "state")
    return {tenant_id: CustomerPlan(plan, state) for tenant_id, plan, state in rows.order_by()}


def bill(*, tenant: int, since: datetime, now: datetime) -> CustomerBill | None:
    """See `governance.ports.CustomerBills`."""
    account = BillingAccount.objects.filter(tenant=tenant).first()
    if account is None:
        return None
    [found] = margin.of([Tenant.objects.get(pk=tenant)], period=TimeRange(since, now))
    return CustomerBill(
        plan=CustomerPlan(account.plan, account.state),
        customer_id=account.stripe_customer_id,
        link=reverse("admin:billing_billingaccount_change", args=[account.pk]),
        dashboard=_dashboard(account.stripe_customer_id),
        paid_until=account.period_end,
        paid_nanos=found.revenue_nanos,
        margin_nanos=found.margin_nanos,
        margin_e4=found.margin_e4,
    )


def events(*, tenant: int, most: int) -> Sequence[BilledEvent]:
    """See `governance.ports.BilledEvents`."""
    customers = BillingAccount.objects.filter(tenant=tenant).values("stripe_customer_id")
    rows = StripeEvent.objects.filter(customer_id__in=customers).order_by("-id")[:most]
    return [_told(row) for row in rows]


def _dashboard(customer_id: str) -> str:
    """A customer's page at Stripe; empty where Stripe is not asked, or only simulated."""
    if not client.is_configured() or settings.STRIPE_API_BASE != STRIPE:
        return ""
    return f"{DASHBOARD}/{'' if client.is_live() else 'test/'}customers/{customer_id}"


def _told(row: StripeEvent) -> BilledEvent:
    words = WORDS.get(row.type, row.type.replace(".", " ").replace("_", " "))
    if amount := _amount(row.object):
        words = f"{words}: {amount}"
    note = f"put aside: {row.quarantine_reason}" if row.quarantine_reason else ""
    if not note and row.processed_at is None:
        note = "not handled yet"
    tone = "danger" if row.type.endswith(BAD) else "success" if row.type.endswith(GOOD) else ""
    link = reverse("admin:billing_stripeevent_change", args=[row.pk])
    # What happened at a time that is none is told at the time that it came.
    at = objects.moment(row.created) or row.received_at
    return BilledEvent(at, words, note, link, "warning" if note else tone)


def _amount(data: Mapping[str, Any]) -> str:
    """What an event is about in money, as its object says it: "$50.00", "12.00 EUR". Empty where that is none."""
    currency = str(data.get("currency") or "").lower()
    named = ("amount_paid", "amount_due", "amount_refunded", "amount_total", "amount")
    cents = next((objects.whole(data[name]) for name in named if data.get(name)), 0)
    if not currency or not cents:
        return ""
    return amount_words(cents, currency)
