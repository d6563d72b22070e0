"""Subscriptions to reports in the console, and which reports have left."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelectWidget

from governance.actions import report_subscriptions
from governance.console import reasons
from governance.console.base import ConsoleAdmin, LongTableAdmin, actor
from governance.models import ReportMail, ReportSubscription
from governance.rules.errors import Conflict, FieldError

END = "No report goes there any more, and what waits is dropped. It can be begun again by adding it anew."
COLOURS = {"sent": "success", "pending": "info", "sending": "info", "given up": "danger", "not wanted any more": ""}


class ReportReaderForm(forms.ModelForm):  # type: ignore[type-arg]
    """Of whom it is has to be said: nobody gets the whole platform's for having left the customer empty."""

    scope_type = forms.ChoiceField(
        label="Of",
        choices=(("", "–"), ("tenant", "one customer"), ("platform", "the whole platform: all customers")),
        widget=UnfoldAdminSelectWidget(),
    )

    class Meta:
        model = ReportSubscription
        fields = ("tenant", "address", "cadence", "time_zone")
        labels = {"tenant": "Customer"}
        help_texts = {"tenant": "That it is about, and nothing wider."}

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if not self.errors and (self.cleaned_data["scope_type"] == "tenant") != bool(self.cleaned_data["tenant"]):
            named = bool(self.cleaned_data["tenant"])
            words = "The platform's is of all customers: leave it empty." if named else "Choose one, or the platform."
            self.add_error("tenant", words)
        if not self.errors:
            given = self.cleaned_data
            try:
                given["address"] = report_subscriptions.check(address=given["address"], time_zone=given["time_zone"])
                report_subscriptions.check_reader(tenant=given["tenant"], address=given["address"])
            except FieldError as error:
                self.add_error(error.field, error.message)
        if not self.errors:
            same = {name: self.cleaned_data[name] for name in ("tenant", "address", "cadence")}
            found = ReportSubscription.objects.filter(**same).first()
            if found is not None and found.ended_at is None:
                self.add_error("address", "This report is sent there already.")
            elif found is not None:
                # It is begun again.
                self.instance = found
        if not self.errors:
            try:
                report_subscriptions.check_room()
            except Conflict as error:
                self.add_error(None, error.message)
        return cleaned


class ReportSubscriptionAdmin(ConsoleAdmin):
    """Who reads which report. Ended, never deleted: whoever begins one again is told who had ended it."""

    form = ReportReaderForm
    list_display = ("address", "whose", "cadence", "time_zone", "since", "state")
    list_select_related = ("tenant",)
    list_filter = ("cadence", ("ended_at", admin.EmptyFieldListFilter))
    search_fields = ("address", "tenant__slug")
    fields = (("scope_type", "tenant"), "address", ("cadence", "time_zone"))
    actions_detail = ("end",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Another address is another subscription."""
        return False

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, "change")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        shown = (("whose", "address"), ("cadence", "time_zone"), ("since", "state"))
        return self.fields if obj is None else shown

    def save_model(self, request: HttpRequest, obj: ReportSubscription, form: Any, change: bool) -> None:
        if obj.ended_by:
            messages.warning(request, f"It had been ended by {obj.ended_by}, and is begun again.")
        made = report_subscriptions.subscribe(
            tenant=obj.tenant,
            address=obj.address,
            cadence=obj.cadence,
            time_zone=obj.time_zone,
            by=actor(request),
            now=timezone.now(),
        )
        # Django's pages go on with their own row.
        obj.pk = made.pk

    @display(description="Of", ordering="tenant__slug")
    def whose(self, obj: ReportSubscription) -> str:
        return obj.tenant.slug if obj.tenant else "the platform"

    @display(description="State", label={"sent": "success"}, ordering="ended_at")
    def state(self, obj: ReportSubscription) -> str:
        return "sent" if obj.ended_at is None else f"ended by {obj.ended_by}"

    @action(description="End", url_path="end", permissions=["operate"], icon="block", variant=ActionVariant.DANGER)
    def end(self, request: HttpRequest, object_id: str) -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Send no more of a report",
            verb="End it",
            explanation=END,
            rows=[self.row(request, object_id)],
            act=lambda row, reason: report_subscriptions.end(subscription=row, reason=reason, by=by, now=now),
            back=reverse("admin:governance_reportsubscription_changelist"),
            danger=True,
        )


class ReportMailAdmin(LongTableAdmin):
    """Which report left to whom, and which did not."""

    list_display = ("subscription", "whose", "first_day", "state_label", "tries", "sent_at", "error")
    list_select_related = ("subscription__tenant",)
    list_filter = ("state", "subscription__cadence")
    search_fields = ("subscription__address",)
    fields = (("subscription", "first_day"), ("state_label", "tries"), "error", ("created_at", "next_at", "sent_at"))
    readonly_fields = ("state_label",)

    @display(description="Of")
    def whose(self, obj: ReportMail) -> str:
        return obj.subscription.tenant.slug if obj.subscription.tenant else "the platform"

    @display(description="State", label=COLOURS, ordering="state")
    def state_label(self, obj: ReportMail) -> str:
        return obj.get_state_display().lower()
