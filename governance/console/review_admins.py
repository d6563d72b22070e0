"""Reports of spend beyond what tenants' budgets left, in the console: the list, and an operator's word on them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display

from governance.actions import reviews
from governance.console import display as show
from governance.console import reasons
from governance.console.base import ReadOnlyAdmin, actor, is_of_the_platform
from governance.models import PendingReport

COLOURS = {"waiting": "warning", "accepted": "success", "rejected": "danger"}


class PendingReportAdmin(ReadOnlyAdmin):
    tenant_path = "tenant"
    list_display = ("reported_at", "who", "served", "waiting", "charged", "bound", "status_label", "decided")
    list_filter = ("status", "tenant")
    search_fields = ("request_id", "agent", "user", "session", "task", "reason")
    list_select_related = ("tenant", "key")
    ordering = ("-id",)
    fields = (
        ("id", "status_label"),
        ("reported_at", "occurred_at"),
        ("cost", "charged", "waiting"),
        ("bound", "windows"),
        ("input_tokens", "cached_tokens", "output_tokens"),
        ("tenant", "key"),
        ("agent", "task"),
        ("user", "session"),
        ("provider", "model_requested", "model_served"),
        ("request_id", "price_rule"),
        ("reservation", "corrects", "entry"),
        ("decided", "decided_at", "reason"),
    )
    actions = ("accept_selected", "reject_selected")
    actions_detail = ("accept_one", "reject_one")

    def get_list_display(self, request: HttpRequest) -> Any:
        shown = super().get_list_display(request)
        return [name for name in shown if name != "bound" or is_of_the_platform(request)]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What a report was held against may be a wider scope's than a tenant's own staff sees."""
        shown = super().get_fields(request, obj)
        return [names for names in shown if "bound" not in names or is_of_the_platform(request)]

    @display(description="Who", header=True)
    def who(self, obj: PendingReport) -> list[str]:
        more = " · ".join(part for part in (obj.user, obj.session, obj.task) if part)
        return [f"{obj.tenant.slug} / {obj.agent}" if obj.agent else obj.tenant.slug, more]

    @display(description="Model")
    def served(self, obj: PendingReport) -> str:
        return obj.model_served

    @display(description="Claimed", ordering="cost_nanos")
    def cost(self, obj: PendingReport) -> Any:
        return show.exact(obj.cost_nanos)

    @display(description="Charged at once", ordering="charged_nanos")
    def charged(self, obj: PendingReport) -> Any:
        return show.exact(obj.charged_nanos)

    @display(description="Waiting")
    def waiting(self, obj: PendingReport) -> Any:
        return show.exact(obj.waiting_nanos)

    @display(description="More than", header=True)
    def bound(self, obj: PendingReport) -> list[str]:
        left = f"{show.dollars(max(0, obj.bound_nanos))} left"
        if not obj.bound_scope:
            return ["no budget of its own", left]
        return [f"{obj.bound_scope} per {obj.bound_window.replace('_', ' ')}", left]

    @display(description="Status", label=COLOURS, ordering="status")
    def status_label(self, obj: PendingReport) -> str:
        return obj.status

    @display(description="Decided by", empty_value="–")
    def decided(self, obj: PendingReport) -> str:
        return obj.decided_by

    @admin.action(description="Accept selected reports", permissions=["operate"])
    def accept_selected(self, request: HttpRequest, queryset: QuerySet[PendingReport]) -> HttpResponse:
        return self._accept(request, list(queryset), request.get_full_path(), "accept_selected")

    @admin.action(description="Reject selected reports", permissions=["operate"])
    def reject_selected(self, request: HttpRequest, queryset: QuerySet[PendingReport]) -> HttpResponse:
        return self._reject(request, list(queryset), request.get_full_path(), "reject_selected")

    @action(description="Accept", url_path="accept", permissions=["operate"], icon="check")
    def accept_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._accept(request, [self.row(request, object_id)], _page(object_id))

    @action(description="Reject", url_path="reject", permissions=["operate"], icon="block")
    def reject_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._reject(request, [self.row(request, object_id)], _page(object_id))

    def _accept(self, request: HttpRequest, rows: list[PendingReport], back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Accept a report" if len(rows) == 1 else f"Accept {len(rows)} reports",
            verb="Accept",
            explanation="What waits is charged, in the windows that it belonged to when it was reported, although it "
            "is more than the budget left. It can be decided once.",
            rows=rows,
            act=lambda row, reason: reviews.accept(report=row, reason=reason, by=by, now=now),
            back=back,
            action=name,
        )

    def _reject(self, request: HttpRequest, rows: list[PendingReport], back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Reject a report" if len(rows) == 1 else f"Reject {len(rows)} reports",
            verb="Reject",
            explanation="What waits is not charged. The report stays listed. It can be decided once.",
            rows=rows,
            act=lambda row, reason: reviews.reject(report=row, reason=reason, by=by, now=now),
            back=back,
            action=name,
            danger=True,
        )


def _page(object_id: str) -> str:
    return reverse("admin:governance_pendingreport_change", args=[object_id])
