"""Plans in the console."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action

from billing.accounts import plans
from billing.console import plan_page
from billing.console.plan_form import PlanForm
from billing.models import BillingAccount, Plan
from governance.console import reasons
from governance.console.base import ConsoleAdmin, actor
from governance.rules import policy


class PlanList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.rows = plan_page.rows(list(self.result_list))


class PlanAdmin(ConsoleAdmin):
    form = PlanForm
    change_list_template = "console/plans.html"
    change_form_template = "console/plan.html"
    list_display = ("name",)
    actions_list = ("apply_now",)
    fieldsets = (
        ("What it gives", {"fields": ("name", "limit", "monthly", "per_unit", "is_default")}),
        ("For which of Stripe's prices", {"fields": ("lookup_keys", "price_ids", "product_ids")}),
        ("Near the limit", {"fields": tuple(policy.COLUMNS)}),
        (
            "Before it is paid for",
            {"fields": ("trial_percent", "provisional_percent", "credit_percent", "grace_days")},
        ),
        ("Changes in mid-period", {"fields": ("upgrade", "upgrade_times", "downgrade", "pause")}),
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[PlanList]:
        return PlanList

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        more = {"unnamed": plan_page.unnamed}
        return super().changelist_view(request, {**more, **(extra_context or {})})

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        plan = context.get("original")
        context["page"] = plan_page.context(plan) if plan else {"unnamed": plan_page.unnamed()}
        return super().render_change_form(request, context, *args, **kwargs)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            # Whoever may not change it reads the page; there is no form to build.
            kwargs["form"] = forms.ModelForm
        return super().get_form(request, obj, change=change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            return []
        return super().get_fieldsets(request, obj)

    def save_model(self, request: HttpRequest, obj: Plan, form: PlanForm, change: bool) -> None:
        plans.save(plan=obj, changes={}, by=actor(request), now=timezone.now())

    @action(description="Apply to current windows", url_path="apply", permissions=["operate"])
    def apply_now(self, request: HttpRequest) -> HttpResponse:
        by, now = actor(request), timezone.now()
        bound = BillingAccount.objects.exclude(tenant=None).count()
        return reasons.ask(
            request,
            model_admin=self,
            title="Apply all plans to current windows now",
            verb="Apply",
            explanation="Whoever pays for a tenant has at once what plans and Stripe's metadata say now, be it more or "
            "less than when the current period began. Without this it counts from the next period on.",
            rows=[f"the current windows of {bound:,} {'customer' if bound == 1 else 'customers'}"],
            act=lambda _, reason: plans.apply_now(reason=reason, by=by, now=now),
            back=reverse("admin:billing_plan_changelist"),
            danger=True,
        )
