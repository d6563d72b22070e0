"""Usage for Stripe's meters in the console: what was sent, what was not and why, and the operators' last word on it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display

from billing.models import MeterEvent, OutboundRequest, UsageMeter
from billing.usage import outbox
from governance.console import display as shown
from governance.console import reasons
from governance.console.base import LongTableAdmin, ReadOnlyAdmin, actor

COLOURS = {
    "pending": "info",
    "sending": "info",
    "sent": "success",
    "carried": "warning",
    "failed": "danger",
    "held": "danger",
    "void": "default",
}


class MeterEventAdmin(LongTableAdmin):
    list_display = (
        "hour",
        "tenant",
        "event_name",
        "changed_by",
        "sends",
        "carries",
        "status",
        "attempts",
        "sent_at",
        "why",
    )
    list_filter = ("state", "event_name", "hour")
    list_select_related = ("tenant", "meter")
    search_fields = ("id", "stripe_customer_id", "tenant__slug")
    ordering = ("-hour", "-id")
    actions = ("try_again", "give_up")

    @display(description="Changed by", ordering="units")
    def changed_by(self, row: MeterEvent) -> str:
        return shown.count(row.units)

    @display(description="Sends", ordering="value")
    def sends(self, row: MeterEvent) -> str:
        return f"{row.value:,} {row.meter.unit}" if row.value else "–"

    @display(description="Still to set off")
    def carries(self, row: MeterEvent) -> str:
        return shown.count(row.carried_units) if row.carried_units else "–"

    @display(description="State", label=COLOURS)
    def status(self, row: MeterEvent) -> str:
        return row.state

    @display(description="Why")
    def why(self, row: MeterEvent) -> str:
        return row.error[:120] or "–"

    @action(description="Send again what has not arrived", permissions=["operate"])
    def try_again(self, request: HttpRequest, queryset: QuerySet[MeterEvent]) -> None:
        done = 0
        for row in queryset:
            try:
                outbox.retry(event=row, by=actor(request), now=timezone.now())
                done += 1
            except outbox.OutboxError as error:
                self.message_user(request, f"{row}: {error}", messages.ERROR)
        if done:
            self.message_user(request, f"{done} will be sent again.")

    @action(description="Void: never send", permissions=["operate"])
    def give_up(self, request: HttpRequest, queryset: QuerySet[MeterEvent]) -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Void usage",
            verb="Void",
            explanation="The customer is not billed for this usage, unless Stripe has it already. The rows stay.",
            rows=list(queryset),
            act=lambda row, reason: outbox.void(event=row, reason=reason, by=by, now=now),
            back=reverse("admin:billing_meterevent_changelist"),
            action="give_up",
            danger=True,
            refusals=(outbox.OutboxError,),
        )


class UsageMeterAdmin(ReadOnlyAdmin):
    list_display = ("event_name", "unit", "tenant", "account", "since", "carries", "busy_until")
    list_filter = ("event_name",)
    list_select_related = ("tenant", "account")
    search_fields = ("tenant__slug", "account__stripe_customer_id")

    @display(description="Still to set off")
    def carries(self, row: UsageMeter) -> str:
        return shown.count(row.carried_units)


class MeterErrorReportAdmin(ReadOnlyAdmin):
    list_display = ("event_id", "meter_id", "noted_at", "read_at", "errors", "named", "error")


class OutboundRequestAdmin(LongTableAdmin):
    list_display = ("key", "kind", "subject", "status", "created_at", "answered_at", "object_id")
    list_filter = ("kind", "state")
    search_fields = ("subject", "object_id")

    @display(description="State", label={"open": "info", "done": "success", "failed": "danger"})
    def status(self, row: OutboundRequest) -> str:
        return row.state

    def get_ordering(self, request: HttpRequest) -> Any:
        return ("-created_at",)
