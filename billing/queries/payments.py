"""What customers paid, failed to pay and got back of late, from the events that Stripe sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from billing.models import BillingAccount, StripeEvent
from billing.rules.valuation import amount_words
from billing.stripe_api import objects
from governance.queries.spend import TimeRange

# An event's type: what it says of a payment, and its fields with the amount, the first that is there.
SAID = {
    "invoice.paid": ("paid", ("amount_paid",)),
    "invoice.payment_failed": ("could not pay", ("amount_remaining", "amount_due")),
    "charge.refunded": ("was refunded", ("amount_refunded",)),
    "charge.dispute.created": ("disputes", ("amount",)),
    "checkout.session.completed": ("bought", ("amount_total",)),
}
FAILED = ("invoice.payment_failed", "charge.dispute.created")
# Of other types there are many more: so many of the newest events are looked through.
LOOKED = 2_000


@dataclass(frozen=True, slots=True)
class PaymentNews:
    """`whom` is the customer's tenant, else Stripe's id of it; `amount` as "$20.00" or "EUR 20.00"."""

    event_id: int
    at: datetime
    whom: str
    said: str
    amount: str
    is_bad: bool


def latest(*, period: TimeRange, limit: int) -> list[PaymentNews]:
    """The newest first. Of checkouts only those that pay at once: a subscription's payment is its invoice."""
    newest = StripeEvent.objects.order_by("-id").values("id")[LOOKED : LOOKED + 1]
    oldest = next((row["id"] for row in newest), 0)
    rows = StripeEvent.objects.filter(period.on("received_at"), id__gt=oldest, type__in=SAID, quarantine_reason="")
    events = [event for event in rows.order_by("-id")[: 2 * limit] if _is_payment(event)][:limit]
    accounts = BillingAccount.objects.filter(stripe_customer_id__in={event.customer_id for event in events})
    tenants = {row.stripe_customer_id: row.tenant.slug for row in accounts.select_related("tenant") if row.tenant}
    return [_payment(event, tenants.get(event.customer_id, event.customer_id)) for event in events]


def _is_payment(event: StripeEvent) -> bool:
    if event.type == "checkout.session.completed":
        return event.object.get("mode") == "payment" and event.object.get("payment_status") == "paid"
    return bool(_units(event))


def _units(event: StripeEvent) -> int:
    """In the currency's smallest unit."""
    _, fields = SAID[event.type]
    return next((found for name in fields if (found := objects.whole(event.object.get(name)))), 0)


def _payment(event: StripeEvent, whom: str) -> PaymentNews:
    currency = objects.text(event.object.get("currency")).lower() or "usd"
    return PaymentNews(
        event_id=event.pk,
        at=event.received_at,
        whom=whom or "a customer",
        said=SAID[event.type][0],
        amount=amount_words(_units(event), currency),
        is_bad=event.type in FAILED,
    )
