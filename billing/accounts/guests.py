"""Top-ups that a checkout without a customer sold: Stripe makes none for what is sold once, unless it is asked to.

Such a checkout counts for the tenant that the business names, by metadata or a reference of ours, once. Its payment has
no customer whose charges could be listed: what becomes of it is known by its payment intent, from events.
"""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import transaction

from billing.accounts import binding, mirror, purchases, references, sync
from billing.models import BillingAccount, TopUp
from billing.stripe_api import objects
from governance import alerts
from governance.models import Tenant

UNNAMED = "checkout_without_customer"


def note(data: objects.Object, *, now: datetime) -> None:
    """Keep the top-up that a paid checkout of nobody's sells, and count it; in the caller's transaction."""
    session = objects.checkout(data)
    nanos = purchases.sold_by(session)
    if not nanos:
        return
    reference = objects.payer_reference(data)
    slug = objects.named_tenant(data) or references.tenant_of(reference, at=session.created_at or now)
    if not slug:
        message = "A top-up was paid for by a checkout that made no customer, and nothing of ours names its tenant: "
        message += "give a tenant its budget by hand, and sell top-ups by links that name one."
        alerts.report(kind=UNNAMED, subject=session.id, message=message, now=now)
        return
    TopUp.objects.get_or_create(
        key=session.id,
        defaults={
            "named_tenant": slug[:200],
            "amount_nanos": nanos,
            "intent_id": session.intent_id,
            "noted_at": now,
        },
    )
    _count(slug[:200], now)


def note_payment(data: objects.Object, *, now: datetime) -> None:
    """Take back what was refunded or is disputed of a top-up of nobody's; in the caller's transaction."""
    slugs = TopUp.objects.filter(account=None, intent_id__in=mirror.intents_of(data)).values_list("named_tenant")
    for (slug,) in slugs.distinct().order_by("named_tenant"):
        _count(slug, now)


def retry(*, now: datetime) -> None:
    """Count what was bought for tenants that were made since, or had no window then."""
    waiting = TopUp.objects.filter(account=None, tenant=None).exclude(
        named_tenant__in=BillingAccount.objects.filter(tenant__isnull=False).values("tenant__slug")
    )
    made = waiting.filter(named_tenant__in=Tenant.objects.values("slug"))
    for slug in made.values_list("named_tenant", flat=True).distinct().order_by("named_tenant"):
        with transaction.atomic():
            _count(slug, now)


def _count(slug: str, now: datetime) -> None:
    """Bring a tenant to what was bought for it by checkouts without a customer, and what became of that.

    Customers are locked before tenants, and those before top-ups and windows.
    """
    if settings.STRIPE_CREATE_TENANTS:
        binding.make_tenant(slug, now)
    holder = BillingAccount.objects.filter(tenant__slug=slug).first()
    account = binding.locked(holder.stripe_customer_id) if holder else None
    tenant = Tenant.objects.select_for_update(no_key=True).filter(slug=slug).first()
    for row in TopUp.objects.filter(account=None, named_tenant=slug):
        purchases.take_back(row, mirror.payments_of(row.intent_id))
    if account is not None:
        sync.apply(account, now=now)
    elif tenant is not None and not BillingAccount.objects.filter(tenant=tenant).exists():
        purchases.count_without_window(None, tenant, now=now)
