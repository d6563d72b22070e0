"""Plans, Stripe's customers, mirrors of what Stripe said last, the inbox of its events, and usage."""

from billing.models.accounts import BillingAccount, BillingPeriod, TopUp, Trial
from billing.models.exchange import EventQuerySet, OutboundRequest, StripeEvent, StripeRun
from billing.models.mirror import CatalogEntry, Invoice, Mirrored, Payment, Subscription
from billing.models.plans import Plan
from billing.models.usage import MeterErrorReport, MeterEvent, MeterUnit, Restoration, UsageMeter

__all__ = [
    "BillingAccount",
    "BillingPeriod",
    "CatalogEntry",
    "EventQuerySet",
    "Invoice",
    "MeterErrorReport",
    "MeterEvent",
    "MeterUnit",
    "Mirrored",
    "OutboundRequest",
    "Payment",
    "Plan",
    "Restoration",
    "StripeEvent",
    "StripeRun",
    "Subscription",
    "TopUp",
    "Trial",
    "UsageMeter",
]
