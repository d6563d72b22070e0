"""The console's page of customers about whom somebody has to decide, each with a proposal to accept or to refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from billing.accounts.binding import OWN_BUDGETS
from billing.console.tones import STATE_TONES
from billing.models import BillingAccount
from billing.queries import proposals
from billing.queries.proposals import Proposal
from governance.console import display
from governance.console.base import may
from governance.console.pages import ConsolePage
from governance.models import Tenant

SHOWN = 50
SENTENCES: dict[str, Callable[[Proposal], str]] = {
    "tenant_has_budgets": lambda one: f"Stripe names {one.named}, which has budgets of its own.",
    "unproven_claim": lambda one: f"Whoever paid typed {one.named}, and nothing of yours says so.",
    "tenant_taken": lambda one: f"Stripe names {one.named}, which {one.holder or 'another customer'} pays for already.",
    "unknown_tenant": lambda one: f"Stripe names {one.named}, and you have no customer of that name.",
    "names_another_tenant": lambda one: f"It pays for {one.account.tenant}, and Stripe names {one.named} by now.",
}


@dataclass(frozen=True, slots=True)
class ProposalRow:
    """A customer, what it pays, why it waits, and what can be done. Links are empty where whoever asks may not act."""

    account: BillingAccount
    link: str
    who: str
    tone: str
    worth: SafeString | str
    until: SafeString | str
    sentence: str
    proposal: str
    accept_link: str
    dismiss_link: str
    create_link: str


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    waiting = proposals.waiting().order_by("-id")
    found = list(waiting[: SHOWN + 1])
    may_act = may(request, "billing.change_billingaccount")
    may_add = may(request, "governance.add_tenant")
    return {
        "rows": [row(one, may_act=may_act, may_add=may_add) for one in proposals.of(found[:SHOWN])],
        "more": waiting.count() - SHOWN if len(found) > SHOWN else 0,
        "may_act": may_act,
        "accounts": reverse("admin:billing_billingaccount_changelist"),
    }


def row(one: Proposal, *, may_act: bool, may_add: bool) -> ProposalRow:
    account, tenant = one.account, one.tenant
    is_taken = one.code == "tenant_taken"
    accept = ""
    if may_act and tenant is not None and not is_taken:
        accept = f"{_act(account, 'accept')}?{urlencode({'tenant': tenant.slug})}"
    has_claim = bool(account.claimed_tenant) and (
        account.tenant is None or account.claimed_tenant != account.tenant.slug
    )
    return ProposalRow(
        account=account,
        link=reverse("admin:billing_billingaccount_change", args=[account.pk]),
        who=" · ".join(part for part in (one.name, one.email) if part),
        tone=STATE_TONES[account.state],
        worth=display.exact(account.limit_nanos) if account.limit_nanos else "–",
        until=display.moment(account.period_end, "day") if account.period_end else "",
        sentence=_sentence(one),
        proposal=tenant.slug if tenant is not None and not is_taken else "",
        accept_link=accept,
        dismiss_link=_act(account, "dismiss") if may_act and has_claim else "",
        create_link=f"{reverse('admin:governance_tenant_add')}?{urlencode({'slug': one.named})}"
        if may_add and one.code == "unknown_tenant"
        else "",
    )


def _sentence(one: Proposal) -> str:
    if one.is_guess and one.tenant is not None:
        return f"Nothing names a customer of yours. Its name or address is like {one.tenant.slug}'s."
    if not one.named:
        return "Nothing names a customer of yours."
    known = SENTENCES.get(one.code)
    if known is not None:
        return known(one)
    return f"It names {one.named}{'' if one.tenant else ', and you have no customer of that name'}."


def _act(account: BillingAccount, name: str) -> str:
    return reverse(f"admin:billing_billingaccount_{name}_one", args=[account.pk])


def consequence(account: BillingAccount, tenant: Tenant) -> str:
    """What comes of binding a customer to a tenant, with its amounts."""
    gives = display.dollars(account.limit_nanos) if account.limit_nanos else "what its payments come to"
    said = f"{tenant} can spend {gives} of what {account} pays for, from now on and as Stripe says then."
    own = list(OWN_BUDGETS.filter(tenant=tenant).order_by("limit_nanos")[:3])
    if own:
        kept = ", ".join(f"{display.dollars(one.limit_nanos)} per {one.get_window_display()}" for one in own)
        said += f" Its own budgets stay beside that ({kept}): the one that leaves least decides."
    if account.tenant is not None and account.tenant != tenant:
        said += f" {account.tenant} has nothing of it any more."
    return said


def acceptance(account: BillingAccount) -> str:
    """What comes of an operator's word for what a customer claims, or for the tenant that it is bound to."""
    slug = account.claimed_tenant
    tenant = Tenant.objects.filter(slug=slug).first() if slug else account.tenant
    return consequence(account, tenant) if tenant else f"{account} names {slug or 'nobody'}, and stays as it is."


def refusal(account: BillingAccount) -> str:
    """What comes of refusing what a customer claims."""
    claimed = account.claimed_tenant or "nobody"
    return (
        f"{account} names {claimed}, and is not bound to it. Whatever Stripe's objects say of {claimed} counts no more "
        "for this customer; it can still be bound by hand."
    )


PAGE = ConsolePage(
    title="Customers to bind",
    path="unbound/",
    name="unbound",
    template="console/unbound.html",
    context=context,
    permission=lambda request: may(request, "billing.view_billingaccount"),
)
