"""Rate limits and emergency stops in the console."""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from governance.actions import rate_limits, stops
from governance.console import display as show
from governance.console import reasons, stop_pages
from governance.console.base import ConsoleAdmin, ReadOnlyAdmin, actor
from governance.console.rate_pages import RateLimitForm
from governance.models import EmergencyStop, RateLimit


class RateLimitAdmin(ConsoleAdmin):
    tenant_path = "tenant"
    form = RateLimitForm
    list_display = ("named", "dollars", "requests", "tokens", "is_enabled")
    list_filter = ("scope_type", "enabled", "tenant")
    search_fields = ("tenant__slug", "scope_key")
    list_select_related = ("tenant",)
    ordering = ("tenant__slug", "scope_type", "scope_key")
    actions_detail = ("delete_one",)
    fieldsets = (
        ("What it governs", {"fields": ("tenant", "scope_type", "scope_key")}),
        (
            "Ceilings a minute",
            {
                "description": "A minute's worth may come at once, then only as fast as it flows off. What is over is "
                "refused with 429 and uses up nothing. Empty: no ceiling.",
                "fields": ("dollars_per_minute", ("requests_per_minute", "tokens_per_minute"), "enabled"),
            },
        ),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: RateLimit | None = None) -> tuple[str, ...]:
        return ("tenant", "scope_type", "scope_key") if obj else ()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if not self.has_change_permission(request, obj):
            # A viewer sees the values; there is no form to build.
            kwargs["form"] = forms.ModelForm
        return super().get_form(request, obj, change=change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None or self.has_change_permission(request, obj):
            return super().get_fieldsets(request, obj)
        names = ("tenant", "scope_type", "scope_key", "dollars", "requests_per_minute", "tokens_per_minute", "enabled")
        return [(None, {"fields": names})]

    def save_model(self, request: HttpRequest, obj: RateLimit, form: Any, change: bool) -> None:
        obj.__dict__.update(form.write(by=actor(request), now=timezone.now()).__dict__)

    @display(description="Rate limit", ordering="tenant__slug")
    def named(self, obj: RateLimit) -> str:
        return obj.scope

    @display(description="Dollars a minute", ordering="nanos_per_minute")
    def dollars(self, obj: RateLimit) -> Any:
        return show.exact(obj.nanos_per_minute)

    @display(description="Requests a minute", ordering="requests_per_minute")
    def requests(self, obj: RateLimit) -> str:
        return show.count(obj.requests_per_minute)

    @display(description="Tokens a minute", ordering="tokens_per_minute")
    def tokens(self, obj: RateLimit) -> str:
        return show.count(obj.tokens_per_minute)

    @display(description="On", boolean=True, ordering="enabled")
    def is_enabled(self, obj: RateLimit) -> bool:
        return obj.enabled

    @action(
        description="Delete", url_path="remove", permissions=["operate"], icon="delete", variant=ActionVariant.DANGER
    )
    def delete_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        limit = self.row(request, object_id)
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Delete a rate limit",
            verb="Delete",
            explanation="From the next call on nothing of this scope is slowed down by it. Budgets go on as before.",
            rows=[limit],
            act=lambda row, reason: rate_limits.delete(limit=row, reason=reason, by=by, now=now),
            back=reverse("admin:governance_ratelimit_changelist"),
            danger=True,
        )


class EmergencyStopAdmin(ReadOnlyAdmin):
    tenant_path = "tenant"
    list_display = ("whom", "state_label", "reason", "actor", "started_at", "lifted_at", "lifted_by")
    list_filter = ("tenant",)
    search_fields = ("reason", "actor", "tenant__slug", "agent__slug")
    list_select_related = ("tenant", "agent__tenant")
    fields = ("whom", "state_label", "reason", "actor", "started_at", "lifted_at", "lifted_by")
    actions_detail = ("lift_one",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "add")

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            return super().add_view(request, form_url, extra_context)  # type: ignore[no-any-return]
        return stop_pages.page(request, model_admin=self)

    @display(description="Stopped")
    def whom(self, obj: EmergencyStop) -> str:
        return stops.whom(obj)

    @display(description="State", label={"in force": "danger", "lifted": "default"})
    def state_label(self, obj: EmergencyStop) -> str:
        return "lifted" if obj.lifted_at else "in force"

    @action(
        description="Lift", url_path="lift", permissions=["operate"], icon="play_arrow", variant=ActionVariant.PRIMARY
    )
    def lift_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Lift an emergency stop",
            verb="Lift",
            explanation="From the next call on the budgets decide again. Whatever is paused stays paused.",
            rows=[row],
            act=lambda one, reason: stops.lift(stop=one, reason=reason, by=by, now=now),
            back=reverse("admin:index"),
        )
