"""Refused calls in the console: found by their request id, with the figures of that moment."""

from __future__ import annotations

from typing import Any, cast

from django.db.models import BooleanField, QuerySet, Value
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display

from governance import staff
from governance.console import display as show
from governance.console.base import LongTableAdmin, latest_values
from governance.models import RefusedCall
from governance.queries import refusals
from governance.rules.remedies import Blocker
from governance.rules.visibility import STAFF, Audience


class RefusalAdmin(LongTableAdmin):
    """A tenant's own staff is told what /api/refusals tells it: the tenant's amounts, and none of a wider budget."""

    tenant_path = "tenant"
    list_display = ("refused_at", "who", "asked", "reason_label", "because", "cost", "would_pass", "more")
    list_filter = (latest_values("reason"), "tenant")
    search_fields = (
        "request_id__exact",
        "agent__exact",
        "user__exact",
        "session__exact",
        "task__exact",
        "model__exact",
    )
    search_help_text = "A request id, or the whole name of an agent, user, session, task or model."
    list_select_related = ("tenant",)
    ordering = ("-id",)
    fields = (
        ("request_id", "refused_at", "status"),
        ("reason_label", "sentence"),
        ("would_pass",),
        ("cost", "max_tokens"),
        ("standing",),
        ("tenant", "key"),
        ("agent", "task"),
        ("user", "session"),
        ("model", "tools"),
        ("more",),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        # What is shown of a row has the row alone, so that says who looks.
        is_bound = staff.access_of(request.user).is_bound
        rows = super().get_queryset(request).annotate(is_for_tenant=Value(is_bound, BooleanField()))
        return cast("QuerySet[Any]", rows)

    @display(description="Who", header=True)
    def who(self, obj: RefusedCall) -> list[str]:
        more = " · ".join(part for part in (obj.user, obj.session, obj.task) if part)
        return [f"{obj.tenant.slug} / {obj.agent}" if obj.agent else obj.tenant.slug, more]

    @display(description="Asked for", header=True)
    def asked(self, obj: RefusedCall) -> list[str]:
        return [obj.model or "–", ", ".join(obj.tools)]

    @display(description="Reason", label=True, ordering="reason")
    def reason_label(self, obj: RefusedCall) -> str:
        return obj.reason.replace("_", " ")

    @display(description="Because of", header=True)
    def because(self, obj: RefusedCall) -> list[str]:
        if not obj.scope:
            return ["–", ""]
        return [f"{obj.scope} per {obj.window.replace('_', ' ') or 'minute'}", self._left(obj)]

    @display(description="Needed")
    def cost(self, obj: RefusedCall) -> Any:
        return show.exact(obj.wanted_nanos)

    @display(description="Would have passed", empty_value="–")
    def would_pass(self, obj: RefusedCall) -> str:
        return refusals.would_pass(obj, audience=_audience(obj))

    @display(description="Budgets without room", empty_value="–")
    def standing(self, obj: RefusedCall) -> Any:
        audience = _audience(obj)
        told = ((_told(blocker, audience),) for blocker in refusals.remedy_of(obj).blockers)
        return format_html_join("", "<div>{}</div>", told)

    def _left(self, obj: RefusedCall) -> str:
        blockers = refusals.remedy_of(obj).blockers
        if not blockers or not _audience(obj).sees_amounts(blockers[0].scope):
            return ""
        return f"{show.dollars(blockers[0].remaining_nanos)} left"


def _audience(obj: Any) -> Audience:
    return Audience(is_tenants=True) if obj.is_for_tenant else STAFF


def _told(blocker: Blocker, audience: Audience) -> SafeString | str:
    """A budget that had no room, as it stood, as far as its reader may know it."""
    told: SafeString | str = audience.named(blocker.scope, blocker.kind)
    if audience.sees_amounts(blocker.scope):
        figures = (blocker.settled_nanos, blocker.reserved_nanos, blocker.limit_nanos)
        told = format_html("{}: {} spent and {} reserved of {}", told, *map(show.exact, figures))
    if blocker.ends_at is None:
        return told
    return format_html("{}; resets {}", told, show.moment(blocker.ends_at, "day"))
