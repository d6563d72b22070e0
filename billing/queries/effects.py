"""What came of one of Stripe's events: what was written in the moment in which it was handled, and what stands now.

All that a reading of a customer changes is written with one moment, which is also that of the events it was for. So
what is shown is of them together, and `alike` counts the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from billing.accounts.binding import STRIPE
from billing.inbox import handlers
from billing.models import BillingAccount, CatalogEntry, Invoice, Mirrored, Payment, StripeEvent, Subscription, TopUp
from billing.stripe_api import objects
from governance.models import Alert, AuditEntry, BudgetWindow

# A window has the database's moment, which comes after the one that its event was handled in.
SOON = timedelta(seconds=10)
MIRRORS: tuple[type[Mirrored], ...] = (Subscription, Invoice, Payment, CatalogEntry)
# Of each kind no more are shown.
MOST = 20
# What Stripe says of an object that is another each time, and of no interest to anybody.
NOISE = frozenset({"object", "lastResponse", "invoice_pdf", "hosted_invoice_url", "livemode"})


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field of the event's object that is another by now; texts, empty for what is more than a word."""

    name: str
    then: str
    now: str


@dataclass(frozen=True, slots=True)
class Effect:
    """`asks_for_something`: a type that none of ours acts on is kept and that is all."""

    asks_for_something: bool
    account: BillingAccount | None
    kept: Mirrored | None
    differences: list[FieldChange] = field(default_factory=list)
    acts: list[AuditEntry] = field(default_factory=list)
    windows: list[BudgetWindow] = field(default_factory=list)
    topups: list[TopUp] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    alike: int = 0


def of(event: StripeEvent) -> Effect:
    """Ten queries at most, however much is in the inbox."""
    account = None
    if event.customer_id:
        found = BillingAccount.objects.filter(stripe_customer_id=event.customer_id)
        account = found.select_related("tenant").first()
    kept = _kept(event)
    return Effect(
        asks_for_something=handlers.is_known(event.type),
        account=account,
        kept=kept,
        differences=differences(event.object, kept.data) if kept else [],
        **(_written(event, account, event.processed_at) if event.processed_at and account else {}),
    )


def _kept(event: StripeEvent) -> Mirrored | None:
    """What Stripe said last of the object that the event is about."""
    id = objects.text(event.object.get("id")) or objects.text(event.related.get("id"))
    if not id:
        return None
    found = (model._default_manager.filter(stripe_id=id).first() for model in MIRRORS)
    return next((row for row in found if row is not None), None)


def _written(event: StripeEvent, account: BillingAccount, at: datetime) -> dict[str, Any]:
    tenant = account.tenant
    about = Q(target=f"customer {account}")
    windows = BudgetWindow.objects.none()
    if tenant is not None:
        about |= Q(target=f"tenant {tenant}") | Q(target__startswith=f"{tenant} ")
        opened = BudgetWindow.objects.filter(budget__tenant=tenant, source_kind="stripe", source_id=str(account))
        windows = opened.filter(opened_at__gte=at, opened_at__lt=at + SOON).order_by("id")
    acts = AuditEntry.objects.filter(about, occurred_at=at, actor=STRIPE.name)
    alike = StripeEvent.objects.filter(customer_id=event.customer_id, processed_at=at).exclude(pk=event.pk)
    return {
        "acts": list(acts.order_by("id")[:MOST]),
        "windows": list(windows[:MOST]),
        "topups": list(account.topups.filter(noted_at=at).order_by("id")[:MOST]),
        "alerts": list(Alert.objects.filter(first_at=at, subject__startswith=str(account)).order_by("id")[:MOST]),
        "alike": alike.count(),
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[FieldChange]:
    """What an object said that it says otherwise by now, by its fields' names. Pure."""
    names = sorted((then.keys() & now.keys()) - NOISE)
    return [FieldChange(name, _word(then[name]), _word(now[name])) for name in names if then[name] != now[name]][:MOST]


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)[:80] if isinstance(value, str | int) else ""
