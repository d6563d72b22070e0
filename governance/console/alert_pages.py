"""Alerts in the console: the list, the acknowledgement, and what the overview shows."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Case, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from governance import alerts
from governance.alerts.conditions import GRAVITY
from governance.alerts.notices import kind_of
from governance.console import display as show
from governance.console import reasons
from governance.console.base import ReadOnlyAdmin, actor
from governance.models import Alert

COLOURS = {"info": "info", "warning": "warning", "critical": "danger"}
EXPLANATION = "It leaves the overview. If what is wrong comes back, or goes on and is seen again, a new alert opens."


# What is open comes first.
IS_OVER = Case(When(cleared_at=None, then=Value(0)), default=Value(1))


class AlertAdmin(ReadOnlyAdmin):
    list_display = ("named", "severity_label", "message", "count", "first_at", "last_at", "state")
    list_filter = ("severity", "kind", ("cleared_at", admin.EmptyFieldListFilter))
    search_fields = ("kind", "subject", "message")
    ordering = (IS_OVER, GRAVITY, "-last_at", "-id")
    fields = (
        ("what", "subject"),
        "message",
        "to_do",
        ("severity_label", "count"),
        ("first_at", "last_at"),
        ("cleared_at", "cleared_by"),
    )
    actions = ("acknowledge_selected",)
    actions_detail = ("acknowledge_one",)

    @display(description="Alert", header=True)
    def named(self, obj: Alert) -> list[str]:
        return [obj.subject, kind_of(obj.kind).title]

    @display(description="Alert")
    def what(self, obj: Alert) -> str:
        return kind_of(obj.kind).title

    @display(description="What to do")
    def to_do(self, obj: Alert) -> Any:
        """The advice of its kind, and the page where that is followed."""
        kind = kind_of(obj.kind)
        try:
            page = show.link(reverse(f"admin:{kind.page}"), kind.button) if kind.page else ""
        except NoReverseMatch:
            page = ""
        return format_html("{} {}", kind.advice, page) if kind.advice or page else "Acknowledge it when it is seen to."

    @display(description="Severity", label=COLOURS, ordering="severity")
    def severity_label(self, obj: Alert) -> str:
        return obj.severity

    @display(description="State", label={"open": "danger"}, ordering="cleared_at")
    def state(self, obj: Alert) -> str:
        if obj.cleared_at is None:
            return "open"
        return f"seen to by {obj.cleared_by}" if obj.cleared_by else "over"

    @admin.action(description="Acknowledge selected", permissions=["operate"])
    def acknowledge_selected(self, request: HttpRequest, queryset: QuerySet[Alert]) -> HttpResponse:
        return self._ask(request, list(queryset), back=request.get_full_path(), name="acknowledge_selected")

    @action(
        description="Acknowledge",
        url_path="acknowledge",
        permissions=["operate"],
        icon="check",
        variant=ActionVariant.PRIMARY,
    )
    def acknowledge_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        return self._ask(request, [row], back=reverse("admin:index"))

    def _ask(self, request: HttpRequest, rows: list[Alert], *, back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Acknowledge an alert" if len(rows) == 1 else f"Acknowledge {len(rows)} alerts",
            verb="Acknowledge",
            explanation=EXPLANATION,
            rows=rows,
            act=lambda row, reason: alerts.acknowledge(alert=row, reason=reason, by=by, now=now),
            back=back,
            action=name,
        )


def open_ones(*, limit: int) -> list[dict[str, Any]]:
    """What the overview says of the gravest open alerts."""
    return [
        {
            "id": alert.pk,
            "kind": alert.kind.replace("_", " "),
            "colour": COLOURS[alert.severity],
            "subject": alert.subject,
            "message": alert.message,
            "count": alert.count,
            "at": alert.last_at,
        }
        for alert in alerts.open_ones()[:limit]
    ]
