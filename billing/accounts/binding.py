"""Which tenant a Stripe customer pays for. The first binding wins; another one is an operator's act."""

from __future__ import annotations

import logging
from datetime import datetime

from django.conf import settings
from django.db import transaction

from billing.models import BillingAccount
from governance import audit
from governance.actions import tenancy
from governance.audit import Actor
from governance.models import Tenant
from governance.rules.errors import FieldError

log = logging.getLogger(__name__)

STRIPE = Actor("stripe")
# Reason codes of an account without a tenant; all but the first name the tenant after a colon.
UNBOUND = ("unbound", "tenant_taken", "unknown_tenant")


class BindingError(ValueError):
    """The customer and the tenant cannot be bound to each other; the message says why."""


def of_customer(customer_id: str) -> BillingAccount:
    """The customer's account, made on the first sight of it."""
    return BillingAccount.objects.get_or_create(stripe_customer_id=customer_id)[0]


def locked(customer_id: str) -> BillingAccount:
    """The customer's account, locked until the transaction ends: no other worker changes the customer meanwhile."""
    of_customer(customer_id)
    return (
        BillingAccount.objects.select_for_update(of=("self",))
        .select_related("tenant")
        .get(stripe_customer_id=customer_id)
    )


def claim(*, account: BillingAccount, slug: str, now: datetime) -> None:
    """Note which tenant Stripe's objects name, and bind it if both sides are free. `account` is locked."""
    if account.tenant_id is not None or not slug:
        return
    if account.claimed_tenant != slug[:200]:
        account.claimed_tenant = slug[:200]
        account.save(update_fields=["claimed_tenant"])
    bind_claimed(account=account, now=now)


def bind_claimed(*, account: BillingAccount, now: datetime) -> None:
    """Bind the claimed tenant where it exists by now and no other customer pays for it. `account` is locked."""
    if account.tenant_id is not None or not account.claimed_tenant:
        return
    if settings.STRIPE_CREATE_TENANTS:
        _make_tenant(account.claimed_tenant, now)
    # Locked, so that two customers that claim it at once are bound one after the other.
    tenant = Tenant.objects.select_for_update(no_key=True).filter(slug=account.claimed_tenant).first()
    if tenant is not None and not BillingAccount.objects.filter(tenant=tenant).exists():
        _bind(account, tenant, STRIPE, now, reason="named by Stripe's objects")


def _make_tenant(slug: str, now: datetime) -> None:
    """A tenant of this name, where there is none. What cannot be a slug is left to an operator."""
    if Tenant.objects.filter(slug=slug).exists():
        return
    try:
        with transaction.atomic():
            tenancy.create_tenant(slug=slug, by=STRIPE, now=now)
    except FieldError as error:
        log.warning("the tenant that Stripe's objects name was not made: %s", error)


def bind(*, account: BillingAccount, tenant: Tenant | None, by: Actor, now: datetime) -> None:
    """An operator's binding, also in place of another one. Raises BindingError. Resync the account afterwards."""
    with transaction.atomic():
        account = BillingAccount.objects.select_for_update().get(pk=account.pk)
        other = BillingAccount.objects.filter(tenant=tenant).exclude(pk=account.pk).first() if tenant else None
        if other is not None:
            raise BindingError(f"{tenant} is paid for by {other} already; unbind that one first.")
        if account.tenant != tenant:
            _bind(account, tenant, by, now, reason="operator")


def why_unbound(account: BillingAccount) -> str:
    """A reason code for an account without a tenant."""
    if not account.claimed_tenant:
        return "unbound"
    if Tenant.objects.filter(slug=account.claimed_tenant).exists():
        return f"tenant_taken:{account.claimed_tenant}"
    return f"unknown_tenant:{account.claimed_tenant}"


def _bind(account: BillingAccount, tenant: Tenant | None, by: Actor, now: datetime, *, reason: str) -> None:
    old, account.tenant = account.tenant, tenant
    # Another tenant's window knows nothing of what this one's had used.
    account.window_start, account.kept_values = None, {}
    account.save(update_fields=["tenant", "window_start", "kept_values"])
    audit.record(
        action="billing.bind",
        target=f"customer {account}",
        by=by,
        now=now,
        reason=reason,
        old={"tenant": old.slug if old else None},
        new={"tenant": tenant.slug if tenant else None},
    )
