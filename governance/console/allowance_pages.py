"""Raise or top up: the page that gives a budget more for a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextareaWidget,
)

from governance.actions import allowances
from governance.audit import Actor
from governance.console import display
from governance.console.amounts import AmountField
from governance.console.base import actor
from governance.models import Allowance, Budget
from governance.models.budgets import EACH
from governance.queries import budget_status
from governance.rules import money
from governance.rules.errors import FieldError

# Of a budget for each one: more open windows than this are not offered by name.
MOST_SUBJECTS = 200
# The budget's page shows its latest allowances; the list has them all.
SHOWN = 10


class AllowanceForm(forms.Form):
    amount = AmountField(
        label="More, in dollars",
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any", "min": "0", "autofocus": True}),
        help_text="On top of the limit.",
    )
    until = forms.SplitDateTimeField(
        required=False,
        widget=UnfoldAdminSplitDateTimeWidget(),
        help_text="UTC. Every window of the budget has more until then. Empty: the current window alone is topped up.",
    )
    subject = forms.ChoiceField(
        required=False, label="Whose window", widget=UnfoldAdminSelectWidget(), help_text="Of a top-up."
    )
    reason = forms.CharField(
        max_length=300,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text="Kept in the audit trail, and shown with the allowance.",
    )

    def __init__(self, *args: Any, budget: Budget, now: datetime, subject: str = "", **kwargs: Any) -> None:
        """`subject`: whose window is proposed."""
        super().__init__(*args, **kwargs)
        self.initial["subject"] = subject
        self.budget = budget
        if budget.scope_key != EACH:
            del self.fields["subject"]
            return
        cast(forms.ChoiceField, self.fields["subject"]).choices = subject_choices(budget, "–", now=now, chosen=subject)

    def clean_amount(self) -> int:
        try:
            return money.nanos_from_dollars(self.cleaned_data["amount"], most=money.MAX_LIMIT_NANOS)
        except money.AmountError as error:
            raise forms.ValidationError(str(error)) from error

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("until") and given.get("subject"):
            self.add_error("until", "Every window of the budget would have more. For one alone, leave the time empty.")
        return given

    def grant(self, *, by: Actor, now: datetime) -> Allowance:
        """Raises FieldError."""
        fields = self.cleaned_data
        given: dict[str, Any] = {
            "budget": self.budget,
            "amount_nanos": fields["amount"],
            "reason": fields["reason"],
            "by": by,
            "now": now,
        }
        if fields["until"]:
            return allowances.raise_limit(**given, ends_at=fields["until"])
        return allowances.top_up(**given, subject=fields.get("subject") or None)


def subject_choices(budget: Budget, nobody: str, *, now: datetime, chosen: str = "") -> list[tuple[str, str]]:
    """Whose window an act is for, of a budget for each one; `nobody`: without one. `chosen` is among them."""
    found = [*budget_status.subjects(budget, now=now)[:MOST_SUBJECTS]]
    if chosen and chosen not in found:
        found.append(chosen)
    return [("", nobody), *((subject, subject) for subject in found)]


def table(budget: Budget, *, now: datetime) -> SafeString:
    """What the budget was given on top of its limit, the newest first."""
    rows = budget.allowances.select_related("window").order_by("-id")[:SHOWN]
    shown = [
        {
            "id": row.pk,
            "amount": display.exact(row.amount_nanos),
            "kind": "raise" if row.ends_at else "top-up",
            "subject": row.window.subject if row.window and budget.scope_key == EACH else "",
            "state": (state := allowances.state(row, now=now)),
            "colour": display.ALLOWANCE_COLOURS[state],
            "starts_at": row.starts_at,
            "ends_at": row.ends_at,
            "reason": row.reason,
            "actor": row.actor,
        }
        for row in rows
    ]
    return SafeString(render_to_string("console/allowances.html", {"rows": shown}))


def page(request: HttpRequest, *, model_admin: Any, budget: Budget) -> HttpResponse:
    now = timezone.now()
    form = AllowanceForm(request.POST or None, budget=budget, now=now, subject=request.GET.get("subject", ""))
    back = reverse("admin:governance_budget_change", args=[budget.pk])
    if form.is_valid():
        try:
            made = form.grant(by=actor(request), now=now)
        except FieldError as error:
            names = {"ends_at": "until"}
            field = names.get(error.field, error.field)
            form.add_error(field if field in form.fields else None, error.message)
        else:
            what = f"until {made.ends_at:%Y-%m-%d %H:%M} UTC" if made.ends_at else "in the current window"
            messages.success(request, f"{display.dollars(made.amount_nanos)} more for {budget} {what}.")
            return redirect(back)
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": "Raise or top up",
        "object": budget,
        "budget": budget,
        "limit": display.dollars(budget.limit_nanos),
        "given": table(budget, now=now),
        "form": form,
        "back": back,
        "media": model_admin.media + form.media,
    }
    return TemplateResponse(request, "console/allowance_form.html", context)
