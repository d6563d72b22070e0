"""What the ledger keeps beside its entries, in the console: reservations, sums and checks."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from unfold.decorators import display

from governance.console import display as show
from governance.console.base import LongTableAdmin, latest_values, reader
from governance.models import LedgerCheck, LedgerJudgement, Reservation, SpendRollup
from governance.queries import one_call


class ReservationAdmin(LongTableAdmin):
    tenant_path = "tenant"
    list_display = ("reserved_at", "who", "model_served", "amount", "status_label", "expires_at", "resolved_at")
    list_filter = ("status", "tenant")
    search_fields = ("id",)
    search_help_text = "Any id of the call. By names calls are found under Calls."
    list_select_related = ("tenant",)
    ordering = ("-id",)
    fields = (
        ("id", "call"),
        ("status_label", "amount"),
        ("reserved_at", "expires_at", "resolved_at"),
        ("tenant", "key"),
        ("agent", "task"),
        ("user", "session"),
        ("provider", "model_requested", "model_served"),
        "tokens",
    )

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term.strip():
            return queryset, False
        found = one_call.find(reader=reader(request), text=search_term)
        return queryset.filter(pk__in=[hold.pk for call in found for hold in call.holds]), False

    @display(description="Its call")
    def call(self, obj: Reservation) -> Any:
        return show.link(reverse("admin:call", args=[str(obj.pk)]), "what it cost, and which budgets it is charged to")

    @display(description="Who")
    def who(self, obj: Reservation) -> str:
        return f"{obj.tenant.slug} / {obj.agent}" if obj.agent else obj.tenant.slug

    @display(description="Reserved")
    def amount(self, obj: Reservation) -> Any:
        return show.exact(obj.amount_nanos)

    @display(
        description="Status",
        label={"pending": "info", "settled": "success", "released": "default", "expired": "warning"},
    )
    def status_label(self, obj: Reservation) -> str:
        return obj.status


class SpendRollupAdmin(LongTableAdmin):
    tenant_path = "tenant"
    list_display = ("hour", "tenant", "agent", "model", "calls", "input_tokens", "output_tokens", "cost")
    list_filter = (latest_values("provider"), "tenant")
    search_fields = ("agent", "model")
    list_select_related = ("tenant",)
    ordering = ("-hour", "-id")
    fields = (
        ("hour", "tenant", "agent"),
        ("provider", "model"),
        ("calls", "cost"),
        ("input_tokens", "cached_tokens", "output_tokens"),
    )

    @display(description="Cost")
    def cost(self, obj: SpendRollup) -> Any:
        return show.exact(obj.cost_nanos)


class LedgerCheckAdmin(LongTableAdmin):
    list_display = ("checked_at", "result", "drifts", "repaired", "of_what", "took")
    ordering = ("-id",)

    @display(description="Of", ordering="since")
    def of_what(self, obj: LedgerCheck) -> str:
        return f"what is newer than {obj.since:%Y-%m-%d}" if obj.since else "all"

    @display(description="Result", label={"holds": "success", "repaired": "warning", "drifted": "danger"})
    def result(self, obj: LedgerCheck) -> str:
        if not obj.drifts:
            return "holds"
        return "repaired" if obj.repaired >= obj.drifts else "drifted"

    @display(description="Took", ordering="took_ms")
    def took(self, obj: LedgerCheck) -> str:
        return f"{obj.took_ms:,} ms"


class LedgerJudgementAdmin(LongTableAdmin):
    list_display = ("judged_at", "days", "own_word", "disagreeing", "silent")
    ordering = ("-id",)

    @display(description="Days")
    def days(self, obj: LedgerJudgement) -> str:
        return f"{obj.details['from']} up to {obj.details['to']}"

    @display(description="On its own word")
    def own_word(self, obj: LedgerJudgement) -> str:
        return f"${obj.details['own_word']} of ${obj.details['ledger']}"
