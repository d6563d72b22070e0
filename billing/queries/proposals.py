"""Customers about whom somebody has to decide: whom they pay for, what names that, and what is in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import F, Q, QuerySet, TextField, Value
from django.db.models.functions import Cast
from django.db.models.lookups import Contains
from django.utils.text import slugify

from billing.accounts import binding
from billing.models import BillingAccount, Invoice
from billing.queries.health import SPENDABLE
from billing.stripe_api import objects
from governance.models import Tenant

# Reason codes that wait for a person's word.
DECIDED_BY_PEOPLE = (*binding.UNBOUND, "names_another_tenant")


@dataclass(frozen=True, slots=True)
class Proposal:
    """`code` is a reason of the account's, `named` the tenant that is named with it, `tenant` the one it is proposed to
    bind it to. `is_guess`: nothing names that one but its likeness to the customer's name or address.
    """

    account: BillingAccount
    code: str
    named: str
    tenant: Tenant | None
    holder: str = ""
    is_guess: bool = False
    name: str = ""
    email: str = ""


def waiting() -> QuerySet[BillingAccount]:
    """Those that pay for nobody, that name another tenant by now, or whose tenant's own budgets hold them up."""
    names_another = ~Q(claimed_tenant="") & ~Q(claimed_tenant=F("tenant__slug"))
    held_up = Q(Contains(Cast("reasons", TextField()), Value(binding.WAITS_FOR_CONSENT)))
    bound = Q(tenant__isnull=False) & (names_another | held_up)
    return BillingAccount.objects.filter(Q(tenant=None, state__in=SPENDABLE) | bound).select_related("tenant")


def of(accounts: Sequence[BillingAccount]) -> list[Proposal]:
    """Four queries, however many they are."""
    people = _people(accounts)
    reasons = {account.pk: _reason(account) for account in accounts}
    guesses = {account.pk: _alike(*people.get(account.pk, ("", ""))) for account in accounts if _is_open(account)}
    wanted = {named for _, named in reasons.values()} | {slug for some in guesses.values() for slug in some}
    tenants = {tenant.slug: tenant for tenant in Tenant.objects.filter(slug__in=wanted - {""})}
    rows = BillingAccount.objects.filter(tenant__slug__in=tenants).values_list("tenant__slug", "stripe_customer_id")
    holders = dict(rows)
    found = []
    for account in accounts:
        code, named = reasons[account.pk]
        # One that another customer pays for is no guess.
        likely = [slug for slug in guesses.get(account.pk, ()) if slug in tenants and slug not in holders]
        tenant = tenants.get(named) if named else tenants.get(likely[0]) if likely else None
        name, email = people.get(account.pk, ("", ""))
        holder = holders.get(named, "")
        found.append(
            Proposal(
                account=account,
                code=code,
                named=named,
                tenant=tenant,
                holder=holder if holder != account.stripe_customer_id else "",
                is_guess=not named and tenant is not None,
                name=name,
                email=email,
            )
        )
    return found


def _is_open(account: BillingAccount) -> bool:
    return account.tenant_id is None and not account.claimed_tenant


def _reason(account: BillingAccount) -> tuple[str, str]:
    """Why it waits, and the tenant that is named."""
    for reason in account.reasons:
        code, _, detail = str(reason).partition(":")
        if code in DECIDED_BY_PEOPLE:
            return code, detail or account.claimed_tenant
    return "unbound", account.claimed_tenant


def _people(accounts: Sequence[BillingAccount]) -> dict[int, tuple[str, str]]:
    """Account -> the name and address on its latest invoice."""
    found: dict[int, tuple[str, str]] = {}
    for row in Invoice.objects.filter(account__in=accounts).order_by("id"):
        name, email = (objects.text(row.data.get(field)) for field in ("customer_name", "customer_email"))
        if name or email:
            found[row.account_id] = (name, email)
    return found


def _alike(name: str, email: str) -> list[str]:
    """What a tenant would be called that is the customer's own: after its name, or after its address's domain."""
    domain = email.rpartition("@")[2].partition(".")[0]
    return [slug for slug in (slugify(name), slugify(domain)) if slug]
