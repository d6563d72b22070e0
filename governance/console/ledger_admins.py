"""Registers governance's pages in the console; what they do is in governance.console."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from governance.actions import budgets, stops, tenancy
from governance.console import allowance_pages, key_pages, reasons, stop_pages
from governance.console import display as show
from governance.console.base import ConsoleAdmin, LongTableAdmin, ReadOnlyAdmin, actor
from governance.console.budget_pages import BudgetForm, BudgetList
from governance.console.display import subject_name
from governance.models import (
    Agent,
    ApiKey,
    AuditEntry,
    Budget,
    BudgetEvent,
    BudgetWindow,
    Reservation,
    SpendRollup,
    Tenant,
)
from governance.queries.budget_status import of_window


@admin.register(Budget)
class BudgetAdmin(ConsoleAdmin):
    form = BudgetForm
    list_display = ("named", "limit", "spent", "held", "used", "state", "resets_at", "is_enabled")
    list_filter = ("scope_type", "window", "source", "enabled", "tenant")
    search_fields = ("tenant__slug", "scope_key")
    list_select_related = ("tenant",)
    ordering = ("tenant__slug", "scope_type", "scope_key", "window")
    actions = ("reset_selected",)
    actions_detail = ("allow_one", "reset_one")
    fieldsets = (
        ("What it governs", {"fields": ("tenant", "scope_type", "scope_key", "window")}),
        (
            "Limit",
            {
                "description": "Soft cap, hard cap and warn at are shares of the limit, such as 0.8.",
                "fields": ("limit", ("soft_cap", "hard_cap", "warn_at"), "alert_thresholds", "enabled"),
            },
        ),
        (
            "From the soft cap on",
            {"fields": ("downgrade_rules", "disabled_tools", ("clamp", "clamp_min_tokens"))},
        ),
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[BudgetList]:
        return BudgetList

    def get_readonly_fields(self, request: HttpRequest, obj: Budget | None = None) -> tuple[str, ...]:
        return ("tenant", "scope_type", "scope_key", "window", "more") if obj else ()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if not self.has_change_permission(request, obj):
            # A viewer sees the values; there is no form to build.
            kwargs["form"] = forms.ModelForm
        return super().get_form(request, obj, change=change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return super().get_fieldsets(request, obj)
        more = ("Raises and top-ups", {"fields": ("more",)})
        if self.has_change_permission(request, obj):
            governs, limit, *rest = super().get_fieldsets(request, obj)
            return [governs, limit, more, *rest]
        return [(None, {"fields": [field.name for field in Budget._meta.fields if field.name != "id"]}), more]

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        made = form.write(by=actor(request), now=timezone.now())
        obj.__dict__.update(made.__dict__)

    @display(description="Given")
    def more(self, obj: Budget) -> Any:
        return allowance_pages.table(obj, now=timezone.now())

    @display(description="Budget", header=True, ordering="tenant__slug")
    def named(self, obj: Any) -> list[str]:
        each = f" · fullest: {obj.status.subject}" if obj.scope_key == "*" and obj.status.subject else ""
        return [obj.scope, f"per {obj.get_window_display()}{each}"]

    @display(description="Limit", ordering="limit_nanos")
    def limit(self, obj: Any) -> Any:
        return show.exact(obj.status.limit_nanos)

    @display(description="Spent")
    def spent(self, obj: Any) -> Any:
        return show.exact(obj.status.settled_nanos)

    @display(description="Held")
    def held(self, obj: Any) -> Any:
        return show.exact(obj.status.reserved_nanos)

    @display(description="Used")
    def used(self, obj: Any) -> Any:
        return show.bar(obj.status, soft_cap=obj.soft_cap, hard_cap=obj.hard_cap)

    @display(description="State", label=show.STATE_COLOURS)
    def state(self, obj: Any) -> str:
        return str(obj.status.state)

    @display(description="Resets at (UTC)", empty_value="by an operator")
    def resets_at(self, obj: Any) -> Any:
        return obj.status.ends_at

    @display(description="On", boolean=True, ordering="enabled")
    def is_enabled(self, obj: Budget) -> bool:
        return obj.enabled

    @admin.action(description="Reset selected budgets", permissions=["operate"])
    def reset_selected(self, request: HttpRequest, queryset: QuerySet[Budget]) -> HttpResponse:
        rows = list(queryset.select_related("tenant"))
        return self._reset(request, rows, back=request.get_full_path(), name="reset_selected")

    @action(description="Raise or top up", url_path="allow", permissions=["operate"], icon="add_card")
    def allow_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        budget = get_object_or_404(Budget.objects.select_related("tenant"), pk=object_id)
        return allowance_pages.page(request, model_admin=self, budget=budget)

    @action(description="Reset", url_path="reset", permissions=["operate"], icon="restart_alt")
    def reset_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        budget = get_object_or_404(Budget.objects.select_related("tenant"), pk=object_id)
        return self._reset(request, [budget], back=reverse("admin:governance_budget_change", args=[budget.pk]))

    def _reset(self, request: HttpRequest, rows: list[Budget], *, back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Reset a budget" if len(rows) == 1 else f"Reset {len(rows)} budgets",
            verb="Reset",
            explanation="The current window is closed and keeps its figures; a new one opens now, with nothing "
            "spent. Calls that are running settle into the window they were reserved in.",
            rows=rows,
            act=lambda budget, reason: budgets.reset(budget=budget, reason=reason, by=by, now=now),
            back=back,
            action=name,
        )


@admin.register(BudgetWindow)
class BudgetWindowAdmin(ReadOnlyAdmin):
    list_display = ("whose", "starts_at", "ends_at", "limit", "spent", "held", "used", "state_label", "closed_at")
    list_filter = ("state", "budget__window", "budget__scope_type", "tenant")
    search_fields = ("subject", "tenant__slug")
    list_select_related = ("budget__tenant", "tenant")

    @display(description="Window", header=True)
    def whose(self, obj: BudgetWindow) -> list[str]:
        return [subject_name(obj), f"per {obj.budget.get_window_display()}"]

    @display(description="Limit", ordering="limit_nanos")
    def limit(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.limit_nanos)

    @display(description="Spent", ordering="settled_nanos")
    def spent(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.settled_nanos)

    @display(description="Held", ordering="reserved_nanos")
    def held(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.reserved_nanos)

    @display(description="Used")
    def used(self, obj: BudgetWindow) -> Any:
        return show.bar(of_window(obj), soft_cap=obj.budget.soft_cap, hard_cap=obj.budget.hard_cap)

    @display(description="State", label=show.STATE_COLOURS, ordering="state")
    def state_label(self, obj: BudgetWindow) -> str:
        return obj.state


@admin.register(BudgetEvent)
class BudgetEventAdmin(LongTableAdmin):
    list_display = ("occurred_at", "kind_label", "whose", "change", "spent", "limit", "reason", "actor")
    list_filter = ("kind", "tenant")
    search_fields = ("reason", "actor", "tenant__slug")
    list_select_related = ("budget__tenant", "window__budget__tenant", "tenant")

    @display(description="Event", label=show.KIND_COLOURS, ordering="kind")
    def kind_label(self, obj: BudgetEvent) -> str:
        return obj.kind

    @display(description="Budget", header=True)
    def whose(self, obj: BudgetEvent) -> list[str]:
        return [subject_name(obj.window), f"per {obj.budget.get_window_display()}"]

    @display(description="Change")
    def change(self, obj: BudgetEvent) -> str:
        if obj.threshold:
            return f"reached {obj.threshold}"
        return f"{obj.old_state} → {obj.new_state}" if obj.old_state else obj.new_state

    @display(description="Spent", ordering="settled_nanos")
    def spent(self, obj: BudgetEvent) -> Any:
        return show.exact(obj.settled_nanos)

    @display(description="Limit", ordering="limit_nanos")
    def limit(self, obj: BudgetEvent) -> Any:
        return show.exact(obj.limit_nanos)


@admin.register(Reservation)
class ReservationAdmin(LongTableAdmin):
    list_display = ("reserved_at", "who", "model_served", "amount", "status_label", "expires_at", "resolved_at")
    list_filter = ("status", "tenant")
    search_fields = ("agent", "user", "session", "task")
    list_select_related = ("tenant",)
    ordering = ("-id",)

    @display(description="Who")
    def who(self, obj: Reservation) -> str:
        return f"{obj.tenant.slug} / {obj.agent}" if obj.agent else obj.tenant.slug

    @display(description="Held", ordering="amount_nanos")
    def amount(self, obj: Reservation) -> Any:
        return show.exact(obj.amount_nanos)

    @display(
        description="Status",
        label={"pending": "info", "settled": "success", "released": "default", "expired": "warning"},
    )
    def status_label(self, obj: Reservation) -> str:
        return obj.status


@admin.register(SpendRollup)
class SpendRollupAdmin(LongTableAdmin):
    list_display = ("hour", "tenant", "agent", "model", "calls", "input_tokens", "output_tokens", "cost")
    list_filter = ("provider", "tenant")
    search_fields = ("agent", "model")
    list_select_related = ("tenant",)
    ordering = ("-hour", "-id")

    @display(description="Cost", ordering="cost_nanos")
    def cost(self, obj: SpendRollup) -> Any:
        return show.exact(obj.cost_nanos)


@admin.register(AuditEntry)
class AuditEntryAdmin(LongTableAdmin):
    list_display = ("occurred_at", "actor", "action", "target", "reason")
    list_filter = ("action",)
    search_fields = ("actor", "action", "target", "reason")
    list_select_related = ("user", "key")


class StatusActions(ConsoleAdmin):
    """Pause, resume and emergency stop, for the selected rows and on the row's own page."""

    actions = ("pause_selected", "resume_selected", "stop_selected")
    actions_detail = ("pause_one", "resume_one", "stop_one")
    pause: Callable[..., object]
    resume: Callable[..., object]

    @display(description="Status", label=show.STATUS_COLOURS, ordering="status")
    def status_label(self, obj: Any) -> str:
        return str(obj.status)

    @admin.action(description="Pause selected", permissions=["operate"])
    def pause_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._ask(request, list(queryset), "Pause", request.get_full_path(), "pause_selected")

    @admin.action(description="Resume selected", permissions=["operate"])
    def resume_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._ask(request, list(queryset), "Resume", request.get_full_path(), "resume_selected")

    @action(description="Pause", url_path="pause", permissions=["operate"], icon="pause")
    def pause_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(request, [get_object_or_404(self.model, pk=object_id)], "Pause", self._page(object_id))

    @action(description="Resume", url_path="resume", permissions=["operate"], icon="play_arrow")
    def resume_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(request, [get_object_or_404(self.model, pk=object_id)], "Resume", self._page(object_id))

    @admin.action(description="Emergency stop of selected", permissions=["operate"])
    def stop_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._stop(request, list(queryset), request.get_full_path(), "stop_selected")

    @action(
        description="Emergency stop",
        url_path="stop",
        permissions=["operate"],
        icon="emergency_home",
        variant=ActionVariant.DANGER,
    )
    def stop_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._stop(request, [get_object_or_404(self.model, pk=object_id)], self._page(object_id))

    def _stop(self, request: HttpRequest, rows: list[Any], back: str, name: str = "") -> HttpResponse:
        by, now, field = actor(request), timezone.now(), str(self.opts.model_name)
        return reasons.ask(
            request,
            model_admin=self,
            title="Emergency stop",
            verb="Stop now",
            explanation=f"{stop_pages.EFFECT} {stop_pages.PAUSE_OR_STOP}",
            rows=rows,
            act=lambda row, reason: stops.stop(**{field: row}, reason=reason, by=by, now=now),
            back=back,
            action=name,
            danger=True,
        )

    def _page(self, object_id: str) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[object_id])

    def _ask(self, request: HttpRequest, rows: list[Any], verb: str, back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        act = self.pause if verb == "Pause" else self.resume
        field = str(self.opts.model_name)
        effect = "From the next call on, every call is decided by the budgets again."
        if verb == "Pause":
            effect = "From the next call on, every call is refused with 403 until it is resumed. "
            effect += stop_pages.PAUSE_OR_STOP
        return reasons.ask(
            request,
            model_admin=self,
            title=f"{verb} {self.opts.verbose_name if len(rows) == 1 else self.opts.verbose_name_plural}",
            verb=verb,
            explanation=effect,
            rows=rows,
            act=lambda row, reason: act(**{field: row}, reason=reason, by=by, now=now),
            back=back,
            action=name,
        )


@admin.register(Tenant)
class TenantAdmin(StatusActions):
    list_display = ("slug", "name", "time_zone", "status_label", "show_amounts", "created_at")
    list_filter = ("status",)
    search_fields = ("slug", "name")
    fields = ("slug", "name", "time_zone", "show_amounts", "default_max_tokens")
    pause = staticmethod(tenancy.pause_tenant)
    resume = staticmethod(tenancy.resume_tenant)

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        by, now = actor(request), timezone.now()
        if change:
            stored = Tenant.objects.get(pk=obj.pk)
            changes = {field: getattr(obj, field) for field in tenancy.TENANT_FIELDS}
            tenancy.change_tenant(tenant=stored, changes=changes, by=by, now=now)
        else:
            fields = {field: getattr(obj, field) for field in tenancy.TENANT_FIELDS}
            obj.__dict__.update(tenancy.create_tenant(slug=obj.slug, **fields, by=by, now=now).__dict__)


@admin.register(Agent)
class AgentAdmin(StatusActions):
    list_display = ("slug", "tenant", "status_label", "created_at")
    list_filter = ("status", "tenant")
    search_fields = ("slug", "tenant__slug")
    list_select_related = ("tenant",)
    fields = ("tenant", "slug")
    pause = staticmethod(tenancy.pause_agent)
    resume = staticmethod(tenancy.resume_agent)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Agent]:
        return super().get_queryset(request).select_related("tenant")  # type: ignore[no-any-return]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # An agent is its name: there is nothing to edit, only to pause.
        return False

    def save_model(self, request: HttpRequest, obj: Agent, form: Any, change: bool) -> None:
        made = tenancy.create_agent(tenant=obj.tenant, slug=obj.slug, by=actor(request), now=timezone.now())
        obj.__dict__.update(made.__dict__)


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    list_display = ("prefix", "name", "role", "holder", "usable", "expires_at", "revoked_at", "created_at")
    list_filter = ("role", "tenant")
    search_fields = ("prefix", "name", "tenant__slug", "agent__slug")
    list_select_related = ("tenant", "agent")
    fields = ("prefix", "name", "role", "tenant", "agent", "created_at", "expires_at", "revoked_at")
    actions = ("revoke_selected",)
    actions_detail = ("rotate_one", "revoke_one")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_operate_permission(request)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            return super().add_view(request, form_url, extra_context)  # type: ignore[no-any-return]
        return key_pages.issue(request, model_admin=self)

    @display(description="Holder")
    def holder(self, obj: ApiKey) -> str:
        return " / ".join(part.slug for part in (obj.tenant, obj.agent) if part) or "the platform"

    @display(description="State", label={"usable": "success", "expired": "warning", "revoked": "danger"})
    def usable(self, obj: ApiKey) -> str:
        if obj.revoked_at:
            return "revoked"
        return "usable" if obj.is_usable(timezone.now()) else "expired"

    @admin.action(description="Revoke selected keys", permissions=["operate"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse:
        return self._revoke(request, list(queryset), request.get_full_path(), "revoke_selected")

    @action(description="Revoke", url_path="revoke", permissions=["operate"], icon="block")
    def revoke_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = get_object_or_404(ApiKey, pk=object_id)
        return self._revoke(request, [key], reverse("admin:governance_apikey_change", args=[key.pk]))

    @action(description="Rotate", url_path="rotate", permissions=["operate"], icon="autorenew")
    def rotate_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = get_object_or_404(ApiKey.objects.select_related("tenant", "agent__tenant"), pk=object_id)
        return key_pages.rotate(request, model_admin=self, key=key)

    def _revoke(self, request: HttpRequest, rows: list[ApiKey], back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Revoke an API key" if len(rows) == 1 else f"Revoke {len(rows)} API keys",
            verb="Revoke",
            explanation="From the next call on the key is refused with 401, for good.",
            rows=rows,
            act=lambda key, reason: tenancy.revoke_key(key=key, reason=reason, by=by, now=now),
            back=back,
            action=name,
        )
