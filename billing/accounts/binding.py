"""Which tenant a Stripe customer pays for.

The business's word binds a tenant: a reference that we signed, metadata that only its secret key writes, an operator.
Whatever else names one, such as the reference in a payment link's address, is the payer's word and waits for an
operator; so does a claim to a tenant that another customer pays for or that has budgets of its own. The first binding
wins, and a customer whose subscriptions are over, or that was deleted, gives its tenant up to the next. So does one of
which no subscription has come about, or that is stopped as it does not pay, to one that pays.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet, TextField, Value
from django.db.models.functions import Cast
from django.db.models.lookups import Contains

from billing.accounts import references
from billing.models import BillingAccount, BillingPeriod
from billing.rules.entitlement import LIVE
from billing.stripe_api import objects
from governance import audit
from governance.actions import tenancy
from governance.audit import Actor
from governance.models import Budget, ScopeType, Tenant
from governance.rules.errors import FieldError
from governance.rules.windows import WindowKind

log = logging.getLogger(__name__)

STRIPE = Actor("stripe")
# What a budget of the tenant's own holds up is an operator's to decide.
WAITS_FOR_CONSENT = "tenant_has_budgets"
# Reason codes of an account that counts for no tenant; all but the first name the tenant after a colon.
UNBOUND = ("unbound", "tenant_taken", "unknown_tenant", "unproven_claim", WAITS_FOR_CONSENT)
# A closed customer of the free tier is closed all the same.
State = BillingAccount.State
FREE, NONE, PENDING, SUSPENDED = State.FREE, State.NONE, State.PENDING, State.SUSPENDED
CLOSED = (State.CLOSED, FREE)
OVER = Q(deleted_at__isnull=False) | Q(state__in=CLOSED)
# Who has nothing: over, or stopped as it does not pay. To one that pays it gives way.
STOPPED = OVER | Q(state=SUSPENDED)
Source = BillingAccount.ClaimSource
# A budget for billing cycles is meant for Stripe, whoever made it: a subscription takes it over. One that is switched
# off limits nobody.
OWN_BUDGETS = Budget.objects.filter(scope_type=ScopeType.TENANT, enabled=True).exclude(
    window=WindowKind.BILLING_CYCLE.value
)


class BindingError(ValueError):
    """The customer and the tenant cannot be bound to each other; the message says why."""


def of_customer(customer_id: str) -> BillingAccount:
    """The customer's account, made on the first sight of it."""
    return BillingAccount.objects.get_or_create(stripe_customer_id=customer_id)[0]


def make_known(customer_ids: Collection[str]) -> None:
    """Make an account for each of these customers that has none."""
    known = BillingAccount.objects.filter(stripe_customer_id__in=customer_ids)
    new = sorted(set(customer_ids) - set(known.values_list("stripe_customer_id", flat=True)))
    BillingAccount.objects.bulk_create([BillingAccount(stripe_customer_id=id) for id in new], ignore_conflicts=True)


def locked(customer_id: str) -> BillingAccount:
    """The customer's account, locked until the transaction ends: no other worker changes the customer meanwhile.

    Its tenant is read once it is locked. Along with it PostgreSQL would answer with the one of before the wait, or,
    where it was bound meanwhile, with none.
    """
    rows = BillingAccount.objects.select_for_update()
    found = rows.filter(stripe_customer_id=customer_id).first()
    return found or rows.get(pk=of_customer(customer_id).pk)


def claim(*, account: BillingAccount, data: objects.Object, now: datetime) -> None:
    """Note which tenant one of Stripe's objects names, and bind it if nothing is in the way. `account` is locked.

    A payer's word never replaces the business's, and one about a tenant that an operator has decided on is idle.
    """
    slug, source, reference = _named_by(account, data, now)
    if not slug or slug in account.decided_claims:
        return
    if account.tenant is not None:
        # One that names another tenant by now is an operator's to decide, one such at a time.
        if source == Source.PAYER or slug == account.tenant.slug or names_another(account):
            return
    elif source == Source.PAYER != account.claim_source and account.claimed_tenant:
        return
    wanted = {"claimed_tenant": slug, "claim_source": source, "claim_reference": reference or account.claim_reference}
    changed = [name for name, value in wanted.items() if getattr(account, name) != value]
    if changed:
        for name in changed:
            setattr(account, name, wanted[name])
        # A reference that another customer has spent at this moment fails here, and is the payer's word next time.
        account.save(update_fields=changed)
    bind_claimed(account=account, now=now)


def _named_by(account: BillingAccount, data: objects.Object, now: datetime) -> tuple[str, Source, str]:
    """The tenant that an object names, on whose word, and the reference of ours that it came with, if it did."""
    ours = Source.PURCHASE if objects.is_purchase(data) else Source.BUSINESS
    if slug := objects.named_tenant(data):
        return slug[:200], ours, ""
    said = objects.payer_reference(data)
    # A checkout began when it was created, however late we hear of its end.
    slug = references.tenant_of(said, at=objects.moment(data.get("created")) or now)
    if slug:
        spent = BillingAccount.objects.filter(claim_reference=said).exclude(pk=account.pk).exists()
        return (slug, Source.PAYER, "") if spent else (slug, ours, said)
    return said[:200], Source.PAYER, ""


def bind_claimed(*, account: BillingAccount, now: datetime) -> bool:
    """Bind the claimed tenant where it exists by now and nothing is in the way; whether it was. `account` is locked."""
    if account.tenant_id is not None or not account.claimed_tenant or account.claim_source == Source.PAYER:
        return False
    if settings.STRIPE_CREATE_TENANTS:
        make_tenant(account.claimed_tenant, now)
    # Customers before tenants, as whoever applies what a customer has bought locks them.
    holders = _holders(account.claimed_tenant, account).filter(STOPPED | Q(has_begun=False))
    giving_up = holders.select_for_update(of=("self",)).first()
    # Locked, so that two customers that claim it at once are bound one after the other.
    tenant = Tenant.objects.select_for_update(no_key=True).filter(slug=account.claimed_tenant).first()
    if tenant is None:
        return False
    holder = _holders(tenant.slug, account).first()
    if holder != giving_up or _obstacle(account, holder):
        return False
    if holder is not None:
        why = "over" if _is_over(holder) else "does not pay"
        _give_up(holder, tenant, STRIPE, now, reason=f"{why}; {account} pays since")
    _bind(account, tenant, STRIPE, now, reason="named by Stripe's objects")
    return True


def claims_to_retry() -> Q:
    """Accounts whose claim can be met by now: the tenant was made since, or its customer is over."""
    business = Q(tenant__isnull=True, claim_source__in=(Source.BUSINESS, Source.PURCHASE))
    free = Tenant.objects.filter(billing_account=None)
    bound = BillingAccount.objects.filter(tenant__isnull=False)
    over, needs_more = bound.filter(STOPPED), bound.filter(state__in=(FREE, SUSPENDED), deleted_at=None)
    owning = Tenant.objects.filter(Exists(OWN_BUDGETS.filter(tenant=OuterRef("pk"))))
    claimed = Q(claimed_tenant__in=free.values("slug")) | (
        Q(claimed_tenant__in=over.values("tenant__slug"), deleted_at__isnull=True)
        & ~Q(state__in=CLOSED)
        & (Q(state__in=LIVE) | ~Q(claimed_tenant__in=needs_more.values("tenant__slug")))
    )
    return business & claimed & (Q(claim_source=Source.PURCHASE) | ~Q(claimed_tenant__in=owning.values("slug")))


def waits_for_nothing() -> Q:
    """Accounts that waited for an operator's word as their tenant had budgets of its own, and it has none by now."""
    owning = Tenant.objects.filter(Exists(OWN_BUDGETS.filter(tenant=OuterRef("pk"))))
    waited = Q(Contains(Cast("reasons", TextField()), Value(WAITS_FOR_CONSENT)))
    return Q(tenant__isnull=False) & waited & ~Q(tenant__in=owning)


def is_held_up(account: BillingAccount) -> bool:
    """Whether somebody has to act before the account's tenant, or the one that it claims, can be given anything."""
    if account.tenant is not None:
        return waits_for_consent(account)
    return bool(_obstacle(account, _holders(account.claimed_tenant, account).first()))


def make_tenant(slug: str, now: datetime) -> None:
    """A tenant of this name, where there is none that reads alike. What cannot be a slug is left to an operator."""
    if Tenant.objects.filter(slug__iexact=slug).exists():
        return
    try:
        with transaction.atomic():
            tenancy.create_tenant(slug=slug, by=STRIPE, now=now)
    except FieldError as error:
        log.warning("the tenant that Stripe's objects name was not made: %s", error)


def bind(*, account: BillingAccount, tenant: Tenant | None, by: Actor, now: datetime) -> None:
    """An operator's binding, also in place of another one. Raises BindingError. Resync the account afterwards.

    It decides on what is claimed as well: what Stripe's objects say of these tenants counts no more.
    """
    with transaction.atomic():
        account = _as_read(account)
        other = _holders(tenant.slug, account).select_for_update(of=("self",)).first() if tenant else None
        if other is not None and not _is_over(other):
            raise BindingError(f"{tenant} is paid for by {other} already; unbind that one first.")
        if other is not None and tenant is not None:
            _give_up(other, tenant, by, now, reason="operator")
        old = account.tenant
        _decide(account, account.claimed_tenant, *(one.slug for one in (old, tenant) if one is not None))
        if old != tenant:
            _bind(account, tenant, by, now, reason="operator")
        elif tenant is not None:
            _audit("billing.confirm", account, by, now, new={"tenant": tenant.slug})
        if old is not None and old != tenant:
            _lift_suspension(old, account, by, now)


def refer(
    *, tenant: Tenant, payment_link: str = "", by: Actor, now: datetime
) -> tuple[references.Reference, str | None]:
    """An operator's reference for the tenant, and the payment link that carries it. Raises FieldError."""
    made = references.make(tenant=tenant.slug, now=now)
    url = references.link(payment_link, made) if payment_link else None
    new = {"expires_at": made.expires_at.isoformat(), "payment_link": payment_link}
    audit.record(action="billing.refer", target=f"tenant {tenant}", by=by, now=now, new=new)
    return made, url


def accept(*, account: BillingAccount, by: Actor, now: datetime) -> None:
    """An operator's word for what is claimed, or for the tenant that is bound. Raises BindingError. Resync after it."""
    if not account.claimed_tenant and account.tenant is None:
        raise BindingError(f"{account} names no tenant.")
    tenant = Tenant.objects.filter(slug=account.claimed_tenant).first() if account.claimed_tenant else account.tenant
    if tenant is None:
        raise BindingError(f"There is no tenant {account.claimed_tenant!r}.")
    bind(account=account, tenant=tenant, by=by, now=now)


def dismiss(*, account: BillingAccount, by: Actor, now: datetime) -> None:
    """An operator's no to what is claimed. Raises BindingError. Resync the account afterwards."""
    with transaction.atomic():
        account = _as_read(account)
        claimed = account.claimed_tenant
        if not claimed or (account.tenant is not None and not names_another(account)):
            raise BindingError(f"{account} claims no tenant that it does not pay for.")
        _decide(account, claimed)
        _audit("billing.dismiss_claim", account, by, now, old={"claimed_tenant": claimed})


def why_unbound(account: BillingAccount, *, state: str) -> str:
    """A reason code for an account without a tenant, whose subscriptions come to `state`."""
    slug = account.claimed_tenant
    if not slug:
        return "unbound"
    if not Tenant.objects.filter(slug=slug).exists():
        # What a payer writes may be any number of the business's own.
        return "unbound" if account.claim_source == Source.PAYER else f"unknown_tenant:{slug}"
    # Of one that is over nothing waits for a decision any more.
    code = "" if state in CLOSED else _obstacle(account, _holders(slug, account).first())
    if code == "tenant_taken" and state in (NONE, PENDING) and not account.topups.filter(tenant=None).exists():
        # Nor of one that never had anything, while another has the tenant.
        code = ""
    return f"{code}:{slug}" if code else "unbound"


def names_another(account: BillingAccount) -> bool:
    """Whether Stripe's objects name another tenant than the one that the account is bound to."""
    return account.tenant is not None and account.claimed_tenant not in ("", account.tenant.slug)


def waits_for_consent(account: BillingAccount) -> bool:
    """Whether a bound tenant has budgets of its own, which no subscription of this customer has come beside yet."""
    tenant = account.tenant
    if tenant is None or tenant.slug in account.decided_claims or not OWN_BUDGETS.filter(tenant=tenant).exists():
        return False
    return not BillingPeriod.objects.filter(account=account, tenant=tenant).exists()


def _obstacle(account: BillingAccount, holder: BillingAccount | None) -> str:
    """What is in the way of a claim to a tenant that exists, and that `holder` has: a reason code, or nothing."""
    if holder is not None and not _gives_way(holder, to=account):
        return "tenant_taken"
    if account.claim_source == Source.PAYER:
        return "unproven_claim"
    if account.claim_source != Source.PURCHASE and OWN_BUDGETS.filter(tenant__slug=account.claimed_tenant).exists():
        return WAITS_FOR_CONSENT
    return ""


def _holders(slug: str, account: BillingAccount) -> QuerySet[BillingAccount]:
    """The other customer that is bound to a tenant."""
    return BillingAccount.objects.filter(tenant__slug=slug).exclude(pk=account.pk)


def _is_over(account: BillingAccount) -> bool:
    return account.deleted_at is not None or account.state in CLOSED


def _gives_way(holder: BillingAccount, *, to: BillingAccount) -> bool:
    """Whether a customer gives its tenant up to another that the business names for it."""
    if _is_over(to):
        return False
    if _is_over(holder):
        # Who has nothing yet, as one that never pays, takes nothing from the free tier.
        return holder.deleted_at is not None or holder.state != FREE or to.state in LIVE
    # An abandoned checkout, who has bought something once, or who does not pay. What an operator has decided stays.
    has_decided = holder.tenant is not None and holder.tenant.slug in holder.decided_claims
    has_less = holder.state == SUSPENDED or not (holder.has_begun or holder.state in LIVE)
    return to.state in LIVE and has_less and not has_decided


def _as_read(account: BillingAccount) -> BillingAccount:
    """The account, locked, on which a decision was taken as it stood. Raises BindingError where that is another now."""
    found = locked(account.stripe_customer_id)
    if (found.tenant_id, found.claimed_tenant) != (account.tenant_id, account.claimed_tenant):
        raise BindingError(f"{account} pays for another, or names another, than a moment ago: look at it again.")
    return found


def _decide(account: BillingAccount, *slugs: str) -> None:
    account.decided_claims = sorted({*account.decided_claims, *slugs} - {""})
    account.claimed_tenant, account.claim_source = "", Source.PAYER
    account.save(update_fields=["decided_claims", "claimed_tenant", "claim_source"])


def _give_up(account: BillingAccount, tenant: Tenant, by: Actor, now: datetime, *, reason: str) -> None:
    """Free the tenant of a customer that is over. Should it come back, an operator hears of it."""
    account.decided_claims = [slug for slug in account.decided_claims if slug != tenant.slug]
    account.claimed_tenant, account.claim_source = tenant.slug, Source.BUSINESS
    # What it has bought beside a subscription is the tenant's.
    account.topups.filter(tenant=None).update(tenant=tenant)
    account.save(update_fields=["decided_claims", "claimed_tenant", "claim_source"])
    _bind(account, None, by, now, reason=reason)


def _lift_suspension(tenant: Tenant, account: BillingAccount, by: Actor, now: datetime) -> None:
    """Nobody's subscription stops a tenant from which an operator has taken its customer."""
    suspended = Tenant.objects.filter(pk=tenant.pk, status=Tenant.Status.SUSPENDED)
    if suspended.update(status=Tenant.Status.ACTIVE):
        audit.record(
            action="tenant.unsuspend",
            target=f"tenant {tenant}",
            by=by,
            now=now,
            reason=f"{account} pays for it no more",
            old={"status": Tenant.Status.SUSPENDED.value},
            new={"status": Tenant.Status.ACTIVE.value},
        )


def _bind(account: BillingAccount, tenant: Tenant | None, by: Actor, now: datetime, *, reason: str) -> None:
    old, account.tenant = account.tenant, tenant
    # Another tenant's window knows nothing of what this one's had used.
    account.window_start, account.kept_values = None, {}
    account.save(update_fields=["tenant", "window_start", "kept_values"])
    _audit(
        "billing.bind",
        account,
        by,
        now,
        reason=reason,
        old={"tenant": old.slug if old else None},
        new={"tenant": tenant.slug if tenant else None},
    )


def _audit(action: str, account: BillingAccount, by: Actor, now: datetime, **more: Any) -> None:
    audit.record(action=action, target=f"customer {account}", by=by, now=now, **more)
