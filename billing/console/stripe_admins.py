"""Stripe's objects and events in the console, as Stripe said them last."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action, display

from billing import dispatch
from billing.inbox import store
from billing.models import StripeEvent, StripeRun
from governance.console.base import LongTableAdmin, ReadOnlyAdmin, actor


class MirrorAdmin(ReadOnlyAdmin):
    """One of Stripe's objects, as Stripe said it last."""

    search_fields: tuple[str, ...] = ("stripe_id",)
    exclude = ("data", "version")
    readonly_fields = ("said",)

    @display(description="As Stripe says")
    def said(self, row: Any) -> SafeString:
        return pretty(row.data)


class SubscriptionAdmin(MirrorAdmin):
    list_display = ("stripe_id", "account", "status", "updated_at")
    list_filter = ("status",)
    list_select_related = ("account",)


class InvoiceAdmin(MirrorAdmin):
    list_display = ("stripe_id", "account", "subscription_id", "status", "billing_reason", "updated_at")
    list_filter = ("status", "billing_reason")
    list_select_related = ("account",)


class PaymentAdmin(MirrorAdmin):
    list_display = ("stripe_id", "kind", "account", "charge_id", "invoice_id", "updated_at")
    list_filter = ("kind",)
    list_select_related = ("account",)
    search_fields = ("stripe_id", "charge_id", "intent_id", "invoice_id")


class CatalogEntryAdmin(MirrorAdmin):
    list_display = ("stripe_id", "kind", "updated_at")
    list_filter = ("kind",)


class StripeEventAdmin(LongTableAdmin):
    list_display = ("event_id", "type", "customer_id", "status", "attempts", "received_at", "processed_at")
    list_filter = (
        "type",
        ("processed_at", admin.EmptyFieldListFilter),
        ("quarantine_reason", admin.EmptyFieldListFilter),
        ("dead_at", admin.EmptyFieldListFilter),
    )
    search_fields = ("event_id", "customer_id", "type")
    exclude = ("payload",)
    readonly_fields = ("said",)
    actions = ("process_again",)

    @display(
        description="State",
        label={"done": "success", "waiting": "info", "failing": "warning", "put aside": "danger", "not ours": "info"},
    )
    def status(self, event: StripeEvent) -> str:
        if event.processed_at:
            return "done"
        if event.quarantine_reason:
            return "put aside" if event.dead_at else "not ours"
        return "failing" if event.attempts else "waiting"

    @display(description="Payload")
    def said(self, event: StripeEvent) -> SafeString:
        return pretty(event.payload)

    @action(description="Process again", permissions=["operate"])
    def process_again(self, request: HttpRequest, queryset: QuerySet[StripeEvent]) -> None:
        due = store.replay(events=queryset, by=actor(request), now=timezone.now())
        for event_id in due:
            dispatch.soon(event_id)
        self.message_user(request, f"{len(due)} events will be processed again.")
        if left := queryset.count() - len(due):
            self.message_user(request, f"{left} events are not ours and stay as they are.", messages.WARNING)


class StripeRunAdmin(ReadOnlyAdmin):
    list_display = ("kind", "started_at", "finished_at", "counted")
    list_filter = ("kind",)
    fields = ("kind", "started_at", "finished_at", "since", "counted", "found")
    readonly_fields = ("counted", "found")

    @display(description="Counted")
    def counted(self, run: StripeRun) -> str:
        figures = {name: len(one) if isinstance(one, list) else one for name, one in run.figures.items()}
        return ", ".join(f"{number:,} {name}" for name, number in figures.items()) or "-"

    @display(description="Findings")
    def found(self, run: StripeRun) -> SafeString:
        return format_html('<pre class="overflow-auto text-xs">{}</pre>', "\n".join(run.findings) or "none")


def pretty(value: Any) -> SafeString:
    return format_html('<pre class="overflow-auto text-xs">{}</pre>', json.dumps(value, indent=2, sort_keys=True))
