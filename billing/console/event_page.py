"""An event of Stripe's as it is read: how it went, what it said, and beside that what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.console.tones import EVENT_TONES, STATE_TONES
from billing.models import BillingAccount, StripeEvent
from billing.queries import effects, inbox
from billing.queries.effects import Effect
from billing.stripe_api import objects
from governance.console import changes, display
from governance.models import AuditEntry

ACTS = {
    "billing.bind": "bound the customer to a tenant",
    "tenant.suspend": "stopped the tenant",
    "tenant.unsuspend": "let the tenant go on",
    "budget.take_over": "took over the tenant's budget for billing cycles",
}


@dataclass(frozen=True, slots=True)
class InboxRow:
    """An event as the list shows it. `why`: what is in its way, where something is."""

    event: StripeEvent
    at: SafeString | str
    tenant: str
    state: str
    tone: str
    why: str


@dataclass(frozen=True, slots=True)
class WayPoint:
    """A moment of an event's way, and how long it took to get there."""

    words: str
    at: SafeString | str
    took: str = ""


@dataclass(frozen=True, slots=True)
class EffectLine:
    """A line of what came of an event; `link` leads to it."""

    words: SafeString | str
    link: str = ""
    because: str = ""


def rows(events: Sequence[StripeEvent]) -> list[InboxRow]:
    """Two queries."""
    ids = {event.customer_id for event in events} - {""}
    accounts = BillingAccount.objects.filter(stripe_customer_id__in=ids)
    tenants = dict(accounts.values_list("stripe_customer_id", "tenant__slug"))
    return [
        InboxRow(
            event=event,
            at=display.moment(event.received_at, "second"),
            tenant=tenants.get(event.customer_id) or "",
            state=(state := inbox.state_of(event)),
            tone=EVENT_TONES[state],
            why=event.quarantine_reason or event.error,
        )
        for event in events
    ]


def context(event: StripeEvent, now: datetime) -> dict[str, Any]:
    effect = effects.of(event)
    state = inbox.state_of(event)
    return {
        "event": event,
        "state": state,
        "tone": EVENT_TONES[state],
        "steps": list(_steps(event)),
        "advice": _advice(event, state),
        "payload": json.dumps(event.payload, indent=2, sort_keys=True, ensure_ascii=False),
        "outcomes": list(_outcomes(effect)),
        "nothing": _nothing(event, effect, state),
        "alike": effect.alike,
        "account": effect.account,
        "account_tone": STATE_TONES[effect.account.state] if effect.account else "",
        "facts": list(_facts(effect.account)) if effect.account else [],
        "kept": effect.kept,
        "kept_link": _page_of(effect.kept) if effect.kept else "",
        "kept_at": display.moment(effect.kept.updated_at, "second") if effect.kept else "",
        "differences": effect.differences,
    }


def _steps(event: StripeEvent) -> Iterator[WayPoint]:
    happened = objects.moment(event.created)
    told = display.moment(happened, "second") if happened else f"{event.created}, which is no time"
    yield WayPoint("Happened at Stripe", told)
    # Stripe says whole seconds.
    took = display.duration(_since(happened, event.received_at)) if happened else ""
    yield WayPoint("Came", display.moment(event.received_at, "second"), took)
    if event.processed_at:
        tries = f", at try {event.attempts}" if event.attempts > 1 else ""
        took = display.duration(_since(event.received_at, event.processed_at))
        yield WayPoint(f"Handled{tries}", display.moment(event.processed_at, "second"), took)
    elif event.dead_at:
        yield WayPoint(f"Put aside after {event.attempts} tries", display.moment(event.dead_at, "second"))
    elif event.next_attempt_at and not event.quarantine_reason:
        words = f"Next try, the {event.attempts + 1}." if event.attempts else "Is handled by"
        yield WayPoint(words, display.moment(event.next_attempt_at, "second"))


def _since(begin: datetime, end: datetime) -> timedelta:
    return max(timedelta(), end - begin)


def _advice(event: StripeEvent, state: str) -> str:
    """What stands in the way, and what to do about it; empty where nothing does."""
    if state == inbox.DEAD:
        return "It has had no effect. Mend the cause that stands below, then replay it."
    if state == inbox.NOT_OURS:
        return f"It was kept and not acted on: it is {event.quarantine_reason}."
    if state == inbox.FAILING:
        return "It failed and is tried again by itself. Nothing is lost meanwhile: its effect is what Stripe says then."
    return ""


def _nothing(event: StripeEvent, effect: Effect, state: str) -> str:
    """Why there is nothing to list, where there is nothing."""
    if state != inbox.DONE:
        return "Nothing yet."
    if not effect.asks_for_something:
        return "Nothing here asks for events of this type. It was kept, and that is all."
    if effect.account is None:
        return "It concerns no customer of ours, or is about Stripe's prices and products."
    return "No window was opened, nothing bound, bought or stopped; below is what the customer has."


def _outcomes(effect: Effect) -> Iterator[EffectLine]:
    account = effect.account
    tenant = account.tenant if account else None
    for act in effect.acts:
        yield EffectLine(_act(act), reverse("admin:governance_auditentry_change", args=[act.pk]), act.reason)
    for window in effect.windows:
        ends = display.moment(window.ends_at, "day")
        opened = format_html("opened a window of {} until {}", display.dollars(window.limit_nanos), ends)
        yield EffectLine(opened, reverse("admin:governance_budgetwindow_change", args=[window.pk]))
    for topup in effect.topups:
        waits = "" if tenant else ", which waits for a tenant"
        added = f"added a top-up of {display.dollars(topup.amount_nanos)}{waits}"
        yield EffectLine(added, reverse("admin:billing_topup_change", args=[topup.pk]))
    for alert in effect.alerts:
        yield EffectLine("told operators", reverse("admin:governance_alert_change", args=[alert.pk]), alert.message)


def _act(row: AuditEntry) -> SafeString | str:
    if row.action == "billing.bind":
        tenant = (row.new or {}).get("tenant")
        return f"bound the customer to {tenant}" if tenant else "took the customer's tenant away"
    return ACTS.get(row.action) or format_html("the budget {}: {}", row.target, changes.of_audit(row))


def _facts(account: BillingAccount) -> Iterator[tuple[str, SafeString | str]]:
    yield "Plan", account.plan or "none"
    yield "Limit", display.exact(account.limit_nanos)
    if account.period_start and account.period_end:
        begins, ends = (display.moment(at, "day") for at in (account.period_start, account.period_end))
        yield "Period", format_html("{} to {}", begins, ends)
    yield "Read from Stripe", display.moment(account.fetched_at, "second")


def _page_of(row: Any) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
