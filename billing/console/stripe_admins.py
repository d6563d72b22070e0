"""Stripe's objects and our runs in the console, as Stripe said them last."""

from __future__ import annotations

import json
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from billing.models import StripeRun
from governance.console.base import ReadOnlyAdmin


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
