"""Realistic Stripe events in the current shape. Ids count up, so that no two events are the same by accident."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from billing.accounts import references
from billing.models import Plan
from governance.rules.money import nanos_from_dollars

FIXTURES = Path(__file__).parent.parent / "fixtures" / "stripe_events"
API_VERSION = "2026-10-28.endive"
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SMALLER = [{"from": ["mistral-large-latest", "mistral-medium-latest"], "to": "mistral-small-latest"}]
_numbers = itertools.count(1)


def recorded(name: str) -> list[dict[str, Any]]:
    """A recorded stream: "current_shapes" or "old_shapes"."""
    return list(json.loads((FIXTURES / f"{name}.json").read_text()))


def standard_plans() -> None:
    """The plans that migrations seed, for tests that empty the tables."""
    for name, dollars, default in (("Standard", "50", True), ("Premium", "200", False)):
        Plan.objects.get_or_create(
            name=name,
            defaults={
                "limit_nanos": nanos_from_dollars(dollars),
                "is_default": default,
                "downgrade_rules": SMALLER,
                "lookup_keys": [name.lower()],
            },
        )


def event(type: str, data: dict[str, Any], *, created: datetime = START, id: str = "") -> dict[str, Any]:
    return {
        "id": id or f"evt_{next(_numbers):024d}",
        "object": "event",
        "api_version": API_VERSION,
        "created": seconds(created),
        "data": {"object": data},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": type,
    }


def seconds(at: datetime) -> int:
    return int(at.timestamp())


def price_of(price: str, product: str = "", interval: str = "month", **fields: Any) -> dict[str, Any]:
    """A price; one called "price_standard" has the lookup key "standard" of the seeded plan."""
    key = price.removeprefix("price_").split("_")[0]
    return {
        "id": price,
        "object": "price",
        "active": True,
        "currency": "usd",
        "lookup_key": key if key in ("standard", "premium") else None,
        "metadata": {},
        "product": product or f"prod_{key}",
        "recurring": {"interval": interval, "interval_count": 1, "usage_type": "licensed"},
        "type": "recurring",
        **fields,
    }


def subscription(
    *,
    customer: str = "cus_acme",
    subscription: str = "sub_acme",
    price: str | dict[str, Any] = "price_standard",
    period_start: datetime = START,
    period_end: datetime = START + 30 * DAY,
    status: str = "active",
    quantity: int = 1,
    metadata: dict[str, str] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A subscription of one item, in the current shape: periods on the item."""
    return {
        "id": subscription,
        "object": "subscription",
        "customer": customer,
        "status": status,
        "cancel_at_period_end": False,
        "currency": "usd",
        "items": {
            "object": "list",
            "data": [
                {
                    "id": f"si_{subscription}",
                    "object": "subscription_item",
                    "current_period_start": seconds(period_start),
                    "current_period_end": seconds(period_end),
                    "price": price_of(price) if isinstance(price, str) else price,
                    "quantity": quantity,
                    "subscription": subscription,
                }
            ],
        },
        "latest_invoice": None,
        "metadata": metadata or {},
        "pause_collection": None,
        "trial_start": None,
        "trial_end": None,
        **fields,
    }


def invoice(
    *,
    customer: str = "cus_acme",
    subscription: str | None = "sub_acme",
    price: str = "price_standard",
    period_start: datetime = START,
    period_end: datetime = START + 30 * DAY,
    billing_reason: str | None = "subscription_create",
    amount_paid: int = 5000,
    status: str = "paid",
    id: str = "",
    proration: bool = False,
    quantity: int = 1,
    tenant: str = "",
    **fields: Any,
) -> dict[str, Any]:
    """An invoice of one line. `tenant` is the subscription's metadata, which Stripe copies onto its invoices."""
    id = id or f"in_{subscription or customer}_{seconds(period_start)}_{billing_reason}"
    details = {"subscription": subscription, "metadata": {"tenant_id": tenant} if tenant else {}}
    line_parent = {
        "type": "subscription_item_details",
        "subscription_item_details": {
            "subscription": subscription,
            "subscription_item": f"si_{subscription}",
            "proration": proration,
        },
    }
    product = price_of(price)["product"]
    return {
        "id": id,
        "object": "invoice",
        "amount_due": amount_paid,
        "amount_paid": amount_paid if status == "paid" else 0,
        "billing_reason": billing_reason,
        "created": seconds(period_start),
        "currency": "usd",
        "customer": customer,
        "lines": {
            "object": "list",
            "data": [
                {
                    "id": f"il_{id}",
                    "object": "line_item",
                    "amount": amount_paid,
                    "currency": "usd",
                    "parent": line_parent if subscription else None,
                    "period": {"start": seconds(period_start), "end": seconds(period_end)},
                    "pricing": {
                        "type": "price_details",
                        "price_details": {"price": price, "product": product},
                    },
                    "quantity": quantity,
                }
            ],
        },
        "metadata": {},
        "parent": {"type": "subscription_details", "subscription_details": details} if subscription else None,
        "period_start": seconds(period_start),
        "period_end": seconds(period_start),
        "status": status,
        "total": amount_paid,
        **fields,
    }


def invoice_paid(*, created: datetime | None = None, id: str = "", **fields: Any) -> dict[str, Any]:
    """`invoice.paid` for `invoice(**fields)`; `created` defaults to the period's start."""
    return event("invoice.paid", invoice(**fields), created=created or fields.get("period_start", START), id=id)


def subscription_created(*, created: datetime | None = None, id: str = "", **fields: Any) -> dict[str, Any]:
    return event("customer.subscription.created", subscription(**fields), created=created or START, id=id)


def subscription_updated(*, created: datetime | None = None, id: str = "", **fields: Any) -> dict[str, Any]:
    """`customer.subscription.updated` for `subscription(**fields)`."""
    return event("customer.subscription.updated", subscription(**fields), created=created or START, id=id)


def subscription_deleted(*, created: datetime | None = None, id: str = "", **fields: Any) -> dict[str, Any]:
    return event(
        "customer.subscription.deleted",
        subscription(**{"status": "canceled", **fields}),
        created=created or START,
        id=id,
    )


def checkout_completed(
    *, tenant: str = "acme", customer: str = "cus_acme", created: datetime = START, id: str = "", **fields: Any
) -> dict[str, Any]:
    """A checkout of a payment link that carries a reference of ours for `tenant`."""
    data = {
        "id": f"cs_{customer}",
        "object": "checkout.session",
        "client_reference_id": references.make(tenant=tenant, now=created).text,
        "created": seconds(created),
        "customer": customer,
        "metadata": {},
        "mode": "subscription",
        "status": "complete",
        "payment_link": "plink_1",
        "payment_status": "paid",
        **fields,
    }
    return event("checkout.session.completed", data, created=created, id=id)
