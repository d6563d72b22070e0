"""The ledger's lines in the console, and an operator's word on what they cost."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from governance.actions import corrections
from governance.audit import Actor
from governance.console import display as show
from governance.console import reasons
from governance.console.amounts import AmountField
from governance.console.base import LongTableAdmin, actor, latest_values, reader
from governance.models import SpendEntry
from governance.queries import calls, one_call
from governance.rules import money


class OpenEstimates(admin.SimpleListFilter):
    """The estimates that wait for an operator's word."""

    title = "estimates"
    parameter_name = "estimates"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "estimated and open")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[SpendEntry]) -> QuerySet[SpendEntry]:
        return corrections.open_estimates(queryset) if self.value() == "open" else queryset


class CostForm(reasons.ReasonForm):
    """`cost` comes back in nanodollars."""

    cost = AmountField(label="What each truly cost, in dollars", min_value=0, widget=UnfoldAdminDecimalFieldWidget())
    field_order = ("cost", "reason")

    def clean_cost(self) -> int | None:
        cost = self.cleaned_data["cost"]
        try:
            return None if cost is None else money.nanos_from_dollars(cost, most=money.MAX_AMOUNT_NANOS)
        except money.AmountError as error:
            raise ValidationError(str(error)) from error


class ConfirmForm(CostForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["cost"].required = False
        self.fields["cost"].help_text = "Empty: the estimate is right."


class SpendEntryAdmin(LongTableAdmin):
    tenant_path = "tenant"
    list_display = ("occurred_at", "who", "served", "tokens", "cost", "certain", "kind", "reason")
    list_filter = (OpenEstimates, "kind", "certainty", latest_values("provider"), "tenant")
    search_fields = ("request_id",)
    search_help_text = "Any id of a call. By names calls are found under Calls."
    list_select_related = ("tenant", "reservation")
    ordering = ("-id",)
    fields = (
        ("id", "call"),
        ("kind", "certain"),
        ("occurred_at", "recorded_at"),
        ("cost", "overage", "price_rule"),
        ("input_tokens", "cached_tokens", "output_tokens"),
        ("unit", "units"),
        ("tenant", "key"),
        ("agent", "task"),
        ("user", "session"),
        ("provider", "model_requested", "model_served"),
        ("request_id", "reservation", "corrects"),
        ("reason", "counted_by"),
    )
    actions = ("confirm_selected", "void_selected", "correct_selected")
    actions_detail = ("confirm_one", "void_one", "correct_one")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term.strip():
            return queryset, False
        found = one_call.find(reader=reader(request), text=search_term)
        rows = [entry.pk for call in found for entry in (*call.charges, *call.corrections)]
        return queryset.filter(pk__in=rows), False

    @display(description="Its call")
    def call(self, obj: SpendEntry) -> Any:
        id = obj.reservation_id or obj.corrects_id or obj.pk
        return show.link(reverse("admin:call", args=[str(id)]), "the sum of its price, and the budgets it charged")

    @display(description="Tokens counted by", empty_value="–")
    def counted_by(self, obj: SpendEntry) -> str:
        return str(obj.metadata.get("tokenizer", ""))

    @display(description="Who", header=True)
    def who(self, obj: SpendEntry) -> list[str]:
        more = " · ".join(part for part in (obj.user, obj.session, obj.task) if part)
        return [f"{obj.tenant.slug} / {obj.agent}" if obj.agent else obj.tenant.slug, more]

    @display(description="Model", header=True)
    def served(self, obj: SpendEntry) -> list[str]:
        return [obj.model_served, f"downgraded from {obj.model_requested}" if calls.is_downgraded(obj) else ""]

    @display(description="Tokens in / out")
    def tokens(self, obj: SpendEntry) -> str:
        cached = f" ({obj.cached_tokens:,} cached)" if obj.cached_tokens else ""
        return f"{obj.input_tokens:,}{cached} / {obj.output_tokens:,}"

    @display(description="Cost")
    def cost(self, obj: SpendEntry) -> Any:
        return show.exact(obj.cost_nanos)

    @display(description="More than was reserved")
    def overage(self, obj: SpendEntry) -> Any:
        return show.exact(obj.overage_nanos)

    @display(description="Certainty", label={"confirmed": "success", "estimated": "warning"})
    def certain(self, obj: SpendEntry) -> str:
        return obj.certainty

    @admin.action(description="Confirm selected estimates", permissions=["operate"])
    def confirm_selected(self, request: HttpRequest, queryset: QuerySet[SpendEntry]) -> HttpResponse:
        return self._confirm(request, list(queryset), request.get_full_path(), "confirm_selected")

    @admin.action(description="Void selected", permissions=["operate"])
    def void_selected(self, request: HttpRequest, queryset: QuerySet[SpendEntry]) -> HttpResponse:
        return self._void(request, list(queryset), request.get_full_path(), "void_selected")

    @admin.action(description="Correct selected", permissions=["operate"])
    def correct_selected(self, request: HttpRequest, queryset: QuerySet[SpendEntry]) -> HttpResponse:
        return self._correct(request, list(queryset), request.get_full_path(), "correct_selected")

    @action(description="Confirm", url_path="confirm", permissions=["operate"], icon="check")
    def confirm_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._confirm(request, [self.row(request, object_id)], _page(object_id))

    @action(description="Void", url_path="void", permissions=["operate"], icon="block")
    def void_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._void(request, [self.row(request, object_id)], _page(object_id))

    @action(description="Correct", url_path="correct", permissions=["operate"], icon="edit")
    def correct_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._correct(request, [self.row(request, object_id)], _page(object_id))

    def _confirm(self, request: HttpRequest, rows: list[SpendEntry], back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Confirm an estimate" if len(rows) == 1 else f"Confirm {len(rows)} estimates",
            verb="Confirm",
            explanation="Says what the calls truly cost. The difference to what was charged is posted as an "
            "adjustment, in the windows that were charged; it can be said once.",
            rows=rows,
            asks=ConfirmForm,
            act=partial(_confirm, by=by, now=now),
            back=back,
            action=name,
        )

    def _void(self, request: HttpRequest, rows: list[SpendEntry], back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Void a line" if len(rows) == 1 else f"Void {len(rows)} lines",
            verb="Void",
            explanation="Says that the calls cost nothing. What they were charged at is reversed, in the windows that "
            "were charged; it can be said once.",
            rows=rows,
            act=lambda entry, reason: corrections.void(entry=entry, reason=reason, by=by, now=now),
            back=back,
            action=name,
        )

    def _correct(self, request: HttpRequest, rows: list[SpendEntry], back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Correct a line" if len(rows) == 1 else f"Correct {len(rows)} lines",
            verb="Correct",
            explanation="Says what the calls truly cost, whatever they are charged at now and was said of them before."
            " The difference is posted as an adjustment, in the windows that were charged.",
            rows=rows,
            asks=CostForm,
            act=partial(_correct, by=by, now=now),
            back=back,
            action=name,
        )


def _confirm(entry: SpendEntry, *, cost: int | None, reason: str, by: Actor, now: datetime) -> None:
    corrections.confirm(entry=entry, cost_nanos=cost, reason=reason, by=by, now=now)


def _correct(entry: SpendEntry, *, cost: int, reason: str, by: Actor, now: datetime) -> None:
    corrections.correct(entry=entry, cost_nanos=cost, reason=reason, by=by, now=now)


def _page(object_id: str) -> str:
    return reverse("admin:governance_spendentry_change", args=[object_id])
