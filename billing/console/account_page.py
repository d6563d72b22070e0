"""A Stripe customer as it is read: whom it pays for, what that gives, why, and what happened to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.console import event_page, unbound_page
from billing.console.tones import STATE_TONES
from billing.models import BillingAccount, StripeEvent
from billing.queries import proposals
from governance.console import display
from governance.console.base import may
from governance.console.display import Card
from governance.models import AuditEntry

LATEST = 10
# Reason codes of an account, in words; "{}" is what stands behind the code's colon.
REASONS = {
    "awaiting_payment": "Payment is on its way, or failed.",
    "awaiting_first_payment": "Its first invoice is not paid yet.",
    "past_due": "A payment is late.",
    "on_credit": "The period is paid for later, by agreement.",
    "trial": "A trial runs.",
    "trial_used": "The trial of this product was had before.",
    "trial_without_period": "Its trial has no beginning and end at Stripe.",
    "period_ended": "The paid period is over.",
    "cancels_at_period_end": "It ends with the period.",
    "cancels": "It is to be cancelled.",
    "collection_paused": "Collection is paused at Stripe.",
    "refunded": "A payment was refunded: what it paid for allows no more than what is used.",
    "partial_refund": "A part of a payment was refunded; nothing changes.",
    "disputed": "A payment is in dispute.",
    "credit_undone": "Credit for what was refunded or never paid has paid for it: that allows nothing.",
    "free_tier": "The free tier's limit holds.",
    "override": "An operator set the limit.",
    "owed": "${} was used beyond what was paid for, and is less to spend until it is paid.",
    "topups": "${} of it is bought in addition.",
    "unmapped_plan": "No plan or metadata says what its prices are worth: the default plan's limit holds.",
    "no_default_plan": "Its prices are unmapped, and there is no default plan.",
    "invalid_metadata": "Stripe's metadata has no usable {}; what held before holds on.",
    "no_exchange_rate": "It pays in {}, which STRIPE_EXCHANGE_RATES does not name.",
    "unbound": "Nothing says whom it pays for.",
    "tenant_taken": "It names {}, which another customer pays for already.",
    "unknown_tenant": "It names {}, which does not exist here.",
    "unproven_claim": "Whoever paid named {}, and nothing of yours did.",
    "tenant_has_budgets": "It names {}, which has budgets of its own.",
    "names_another_tenant": "Stripe's objects name {} by now.",
}


@dataclass(frozen=True, slots=True)
class AccountRow:
    """A customer as the list shows it."""

    account: BillingAccount
    tone: str
    gives: SafeString | str
    until: SafeString | str
    why: str


def row(account: BillingAccount) -> AccountRow:
    return AccountRow(
        account=account,
        tone=STATE_TONES[account.state],
        gives=display.exact(account.limit_nanos),
        until=display.moment(account.period_end, "day"),
        why=" ".join(sentence(str(code)) for code in account.reasons),
    )


def context(request: HttpRequest, account: BillingAccount, now: datetime) -> dict[str, Any]:
    may_act = may(request, "billing.change_billingaccount")
    waits = proposals.waiting().filter(pk=account.pk).exists()
    (found,) = proposals.of([account])
    proposal = unbound_page.row(found, may_act=may_act, may_add=may(request, "governance.add_tenant"))
    events = list(StripeEvent.objects.filter(customer_id=account.stripe_customer_id).order_by("-id")[:LATEST])
    return {
        "account": account,
        "tone": STATE_TONES[account.state],
        "who": proposal.who,
        "cards": _cards(account),
        "reasons": [sentence(str(code)) for code in account.reasons],
        "rows": [proposal] if waits else [],
        "events": event_page.rows(events),
        "events_link": f"{reverse('admin:billing_stripeevent_changelist')}?q={account.stripe_customer_id}",
        "acts": list(_acts(account)),
        "read_at": display.moment(account.fetched_at, "second"),
    }


def sentence(code: str) -> str:
    """A reason code as people read it; one that is not known stays as it is."""
    kind, _, detail = code.partition(":")
    return REASONS[kind].format(detail) if kind in REASONS else code.replace("_", " ")


def _cards(account: BillingAccount) -> list[Card]:
    own = account.limit_override_nanos is not None
    begins = format_html("since {}", display.moment(account.period_start, "day")) if account.period_start else ""
    bought = sum(one.amount_nanos - one.refunded_nanos for one in account.topups.all())
    topups = f"{reverse('admin:billing_topup_changelist')}?q={account.stripe_customer_id}"
    return [
        Card("Gives", display.dollars(account.limit_nanos), "by an operator" if own else "for the period", "flag"),
        Card("Plan", account.plan or "none", "by Stripe's prices", "sell"),
        Card("Until", display.moment(account.period_end, "day"), begins, "event"),
        Card("Top-ups", display.dollars(bought), "bought so far, net", "add_card", link=topups),
    ]


def _acts(account: BillingAccount) -> Iterator[tuple[SafeString | str, str, str, str]]:
    """(when, who, what, because) of what people and Stripe's objects decided about it, the newest first."""
    for row in AuditEntry.objects.filter(target=f"customer {account}").order_by("-id")[:LATEST]:
        words = {
            "billing.override": f"limit set to {display.dollars((row.new or {}).get('limit_nanos'))}",
            "billing.dismiss_claim": f"refused to {(row.old or {}).get('claimed_tenant', 'nobody')}",
            "billing.confirm": f"confirmed for {(row.new or {}).get('tenant')}",
            "billing.bind": f"bound to {(row.new or {}).get('tenant') or 'nobody'}",
        }
        said = words.get(row.action, row.action.partition(".")[2].replace("_", " "))
        yield display.moment(row.occurred_at, "second"), row.actor, said, row.reason
