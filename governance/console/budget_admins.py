"""Budgets in the console: the rules, their windows, what happened to them, and what they were given in addition."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from datetime import datetime
from functools import partial
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget

from governance.actions import allowances, budgets, goals
from governance.audit import Actor
from governance.console import allowance_pages, budget_list, budget_page, budget_preview, changes, reasons, saved_views
from governance.console import display as show
from governance.console.base import ConsoleAdmin, LongTableAdmin, ReadOnlyAdmin, actor, may
from governance.console.budget_list import BudgetList
from governance.console.budget_pages import BudgetForm
from governance.console.display import subject_name
from governance.models import Allowance, Budget, BudgetEvent, BudgetWindow, ScopeType
from governance.models.budgets import EACH
from governance.queries import budget_status, replays
from governance.queries.budget_status import of_window
from governance.rules.windows import WindowKind


class ResetForm(reasons.ReasonForm):
    """Of a budget for each one: whose window it is that is reset."""

    subject = forms.ChoiceField(required=False, label="Whose window", widget=UnfoldAdminSelectWidget())
    field_order = ("subject", "reason")

    def __init__(self, *args: Any, budget: Budget, now: datetime, subject: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["subject"] = subject
        everybody = f"Everybody's: {budget_status.subjects(budget, now=now).count():,} open now"
        choices = allowance_pages.subject_choices(budget, everybody, now=now, chosen=subject)
        cast(forms.ChoiceField, self.fields["subject"]).choices = choices


class BudgetAdmin(ConsoleAdmin):
    tenant_path = "tenant"
    form = BudgetForm
    change_list_template = "console/budgets.html"
    add_form_template = "admin/change_form.html"
    change_form_template = "console/budget.html"
    list_display = ("__str__",)
    # Not by tenant: there may be thousands, and the search finds them.
    list_filter = ("scope_type", "window", "source", "enabled", "tenant")
    list_filter_sheet = True
    search_fields = ("tenant__slug", "tenant__name", "scope_key")
    search_help_text = "A customer, or the name of an agent, a user or a key."
    list_select_related = ("tenant",)
    ordering = ("-id",)
    actions = ("reset_selected",)
    actions_detail = ("allow_one", "reset_one", "close_one")
    fieldsets = (
        ("What it governs", {"fields": ("tenant", "scope_type", "scope_key", "window")}),
        (
            "Limit",
            {"fields": ("limit", ("soft_cap", "hard_cap", "warn_at"), "alert_thresholds", "carry_over", "enabled")},
        ),
        ("Near the limit", {"fields": ("downgrade_rules", "disabled_tools", ("clamp", "clamp_min_tokens"))}),
    )

    def get_urls(self) -> list[URLPattern]:
        own = [
            path("views/", self.admin_site.admin_view(self.save_view), name="governance_budget_views"),
            path("views/<int:pk>/", self.admin_site.admin_view(self.change_saved_view), name="governance_budget_view"),
            path("csv/", self.admin_site.admin_view(self.csv_view), name="governance_budget_csv"),
            path("<int:pk>/preview/", self.admin_site.admin_view(self.preview_view), name="governance_budget_preview"),
        ]
        return [*own, *super().get_urls()]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[BudgetList]:
        return BudgetList

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        asked = request.GET.urlencode()
        csv = reverse("admin:governance_budget_csv") + (f"?{asked}" if asked else "")
        more = {"may_reset": self.has_operate_permission(request), "csv": csv}
        more["saved"] = saved_views.shown(request)
        return super().changelist_view(request, {**more, **(extra_context or {})})

    def save_view(self, request: HttpRequest) -> HttpResponse:
        self._must_see(request)
        return saved_views.save(request)

    def change_saved_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        self._must_see(request)
        return saved_views.change(request, pk)

    def _must_see(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def csv_view(self, request: HttpRequest) -> HttpResponse:
        self._must_see(request)
        return budget_list.as_csv(self.get_changelist_instance(request))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        def read() -> dict[str, Any]:
            # Only where the page is shown: what was saved leads to another request.
            return budget_page.context(request, self.row(request, object_id), timezone.now())

        more = {"read": read, "may_allow": self.has_allow_permission(request)}
        return super().change_view(request, object_id, form_url, {**more, **(extra_context or {})})

    def preview_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """What the posted form would have done; a part of the budget's page."""
        if request.method != "POST" or not self.has_change_permission(request):
            raise PermissionDenied
        budget = self.row(request, str(pk))
        form = self.get_form(request, budget, change=True)(request.POST, instance=copy(budget))
        if not form.is_valid():
            wrong = [
                (form.fields[name].label if name in form.fields else "", error)
                for name, errors in form.errors.items()
                for error in errors
            ]
            return TemplateResponse(request, "console/budget_preview.html", {"errors": wrong})
        typed, limit_nanos = form.typed()
        found = replays.preview(budget, typed=typed, limit_nanos=limit_nanos, now=timezone.now())
        return TemplateResponse(request, "console/budget_preview.html", budget_preview.context(found))

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """A customer's month, unless the address says otherwise."""
        usual = {"scope_type": ScopeType.TENANT.value, "window": WindowKind.MONTH.value}
        return {**usual, **super().get_changeform_initial_data(request)}

    def get_readonly_fields(self, request: HttpRequest, obj: Budget | None = None) -> tuple[str, ...]:
        return ("tenant", "scope_type", "scope_key", "window") if obj else ()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if not self.has_change_permission(request, obj):
            # A viewer reads the page; there is no form to build.
            kwargs["form"] = forms.ModelForm
        return super().get_form(request, obj, change=change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            return []
        return super().get_fieldsets(request, obj)

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        made = form.write(by=actor(request), now=timezone.now())
        obj.__dict__.update(made.__dict__)

    @admin.action(description="Reset selected budgets", permissions=["operate"])
    def reset_selected(self, request: HttpRequest, queryset: QuerySet[Budget]) -> HttpResponse:
        rows = list(queryset.select_related("tenant"))
        return self._reset(request, rows, back=request.get_full_path(), name="reset_selected")

    def has_allow_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, "governance.add_allowance")

    @action(description="Raise or top up", url_path="allow", permissions=["allow"], icon="add_card")
    def allow_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        budget = self.row(request, object_id)
        return allowance_pages.page(request, model_admin=self, budget=budget)

    @action(description="Reset", url_path="reset", permissions=["operate"], icon="restart_alt")
    def reset_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        budget = self.row(request, object_id)
        asks: Callable[..., reasons.ReasonForm] = reasons.ReasonForm
        if budget.scope_key == EACH:
            asks = partial(ResetForm, budget=budget, now=timezone.now(), subject=request.GET.get("subject", ""))
        back = reverse("admin:governance_budget_change", args=[budget.pk])
        return self._reset(request, [budget], back=back, asks=asks)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        """A goal's budget is closed, once; of others it is not offered."""
        offered = super().get_actions_detail(request, object_id)
        budget = self.get_object(request, str(object_id))
        if budget is not None and budget.is_goal and budget.closed_at is None:
            return offered
        return [each for each in offered if not str(each.action_name).endswith("close_one")]

    @action(description="Close", url_path="close", permissions=["operate"], icon="task_alt")
    def close_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        budget = self.row(request, object_id)
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title=f"Close the budget of a {budget.scope_type}",
            verb="Close",
            explanation=f"Calls of this {budget.scope_type} are refused from now on. What is held runs to its end, and"
            " what was spent stays. It does not open again.",
            rows=[budget],
            act=lambda one, reason: goals.close(budget=one, reason=reason, by=by, now=now),
            back=reverse("admin:governance_budget_change", args=[budget.pk]),
        )

    def _reset(
        self,
        request: HttpRequest,
        rows: list[Budget],
        *,
        back: str,
        name: str = "",
        asks: Callable[..., reasons.ReasonForm] = reasons.ReasonForm,
    ) -> HttpResponse:
        by, now = actor(request), timezone.now()
        whose = "The current window"
        if asks is reasons.ReasonForm and any(budget.scope_key == EACH for budget in rows):
            whose = "Every current window, of a budget for each one that of everybody,"
        return reasons.ask(
            request,
            model_admin=self,
            title="Reset a budget" if len(rows) == 1 else f"Reset {len(rows)} budgets",
            verb="Reset",
            explanation=f"{whose} is closed and keeps its figures; a new one opens now, with nothing "
            "spent. Calls that are running are charged to the window they were reserved in.",
            rows=rows,
            act=partial(_reset, by=by, now=now),
            back=back,
            action=name,
            asks=asks,
        )


def _reset(budget: Budget, *, reason: str, subject: str = "", by: Actor, now: datetime) -> None:
    budgets.reset(budget=budget, reason=reason, subject=subject or None, by=by, now=now)


class BudgetWindowAdmin(ReadOnlyAdmin):
    tenant_path = "tenant"
    list_display = ("whose", "starts_at", "ends_at", "limit", "spent", "reserved", "used", "state_label", "closed_at")
    list_filter = ("state", "budget__window", "budget__scope_type", "tenant", "budget")
    search_fields = ("subject", "tenant__slug")
    list_select_related = ("budget__tenant", "tenant")
    fields = (
        ("budget", "tenant", "subject"),
        ("starts_at", "ends_at"),
        ("limit", "carried", "extra", "extra_until", "limit_lowered"),
        ("spent", "reserved", "used"),
        ("state_label", "thresholds_crossed"),
        ("purged", "purged_unreserved"),
        ("opened_at", "closed_at"),
        ("source_kind", "source_id"),
    )

    @display(description="Window", header=True)
    def whose(self, obj: BudgetWindow) -> list[str]:
        return [subject_name(obj), f"per {obj.budget.get_window_display()}"]

    @display(description="Limit", ordering="limit_nanos")
    def limit(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.limit_nanos)

    @display(description="Spent", ordering="settled_nanos")
    def spent(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.settled_nanos)

    @display(description="Reserved", ordering="reserved_nanos")
    def reserved(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.reserved_nanos)

    @display(description="Used")
    def used(self, obj: BudgetWindow) -> Any:
        return show.bar(of_window(obj), soft_cap=obj.budget.soft_cap, hard_cap=obj.budget.hard_cap)

    @display(description="Of it left of the window before")
    def carried(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.carried_nanos)

    @display(description="Of it given in addition")
    def extra(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.extra_nanos)

    @display(description="Of it in entries that are deleted")
    def purged(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.purged_nanos)

    @display(description="Of that never reserved")
    def purged_unreserved(self, obj: BudgetWindow) -> Any:
        return show.exact(obj.purged_unheld_nanos)

    @display(description="State", label=show.STATE_COLOURS, ordering="state")
    def state_label(self, obj: BudgetWindow) -> str:
        return obj.state


class BudgetEventAdmin(LongTableAdmin):
    tenant_path = "tenant"
    list_display = ("occurred_at", "kind_label", "whose", "change", "spent", "limit", "because")
    list_filter = ("kind", "tenant", "budget")
    search_fields = ("reason", "actor", "tenant__slug")
    list_select_related = ("budget__tenant", "window__budget__tenant", "tenant")
    fields = (
        ("occurred_at", "kind_label", "change"),
        ("budget", "window", "tenant"),
        ("spent", "limit"),
        ("actor", "reason"),
    )

    @display(description="Event", label=show.KIND_COLOURS, ordering="kind")
    def kind_label(self, obj: BudgetEvent) -> tuple[str, str]:
        return obj.kind, obj.kind.replace("-", " ")

    @display(description="Budget", header=True)
    def whose(self, obj: BudgetEvent) -> list[str]:
        return [subject_name(obj.window), f"per {obj.budget.get_window_display()}"]

    @display(description="Change")
    def change(self, obj: BudgetEvent) -> str:
        return changes.of_events([obj])

    @display(description="By")
    def because(self, obj: BudgetEvent) -> str:
        """Who reset it, and why; what happened by itself was done by nobody."""
        return ": ".join(part for part in (obj.actor, obj.reason) if part) or "–"

    @display(description="Spent", ordering="settled_nanos")
    def spent(self, obj: BudgetEvent) -> Any:
        return show.exact(obj.settled_nanos)

    @display(description="Limit", ordering="limit_nanos")
    def limit(self, obj: BudgetEvent) -> Any:
        return show.exact(obj.limit_nanos)


class AllowanceAdmin(ReadOnlyAdmin):
    tenant_path = "budget__tenant"
    list_display = ("given_for", "amount", "kind", "state_label", "starts_at", "ends_at", "reason", "actor")
    list_filter = ("budget__tenant", "budget")
    search_fields = ("reason", "actor", "budget__tenant__slug", "budget__scope_key")
    list_select_related = ("budget__tenant", "window")
    fields = ("budget", "amount", "kind", "state_label", "starts_at", "ends_at", "reason", "actor", "created_at")
    actions_detail = ("end_one",)

    @display(description="Budget", header=True)
    def given_for(self, obj: Allowance) -> list[str]:
        subject = f" · {obj.window.subject}" if obj.window and obj.budget.scope_key == "*" else ""
        return [obj.budget.scope, f"per {obj.budget.get_window_display()}{subject}"]

    @display(description="More", ordering="amount_nanos")
    def amount(self, obj: Allowance) -> Any:
        return show.exact(obj.amount_nanos)

    @display(description="Kind")
    def kind(self, obj: Allowance) -> str:
        return "raise" if obj.ends_at else "top-up"

    @display(description="State", label=show.ALLOWANCE_COLOURS)
    def state_label(self, obj: Allowance) -> str:
        return allowances.state(obj, now=timezone.now())

    @action(description="End now", url_path="end", permissions=["operate"], icon="event_busy")
    def end_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="End an allowance",
            verb="End",
            explanation="The budget is back at its limit at once. What was spent stays spent.",
            rows=[row],
            act=lambda one, reason: allowances.end(allowance=one, reason=reason, by=by, now=now),
            back=reverse("admin:governance_budget_change", args=[row.budget_id]),
        )
