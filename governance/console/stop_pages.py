"""The emergency stop in the console: the page that asks whom and why, and what the overview shows of it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from governance.actions import stops
from governance.console.base import actor
from governance.models import Agent, EmergencyStop, Tenant
from governance.rules.errors import FieldError

# What a stop does, and what the milder thing would be.
EFFECT = (
    "From the next call on every call it covers is refused with 403, and the calls that are running are cut off within "
    "a second; what they have used is charged. It stays in force until somebody lifts it."
)
PAUSE_OR_STOP = (
    "A pause is for planned quiet and lets running calls end; an emergency stop is for trouble and cuts them off too."
)


class StopForm(forms.Form):
    tenant = forms.ModelChoiceField(
        Tenant.objects.order_by("slug"),
        required=False,
        empty_label="Everything: every tenant and agent",
        label="What to stop",
        widget=UnfoldAdminSelectWidget(),
    )
    agent = forms.ModelChoiceField(
        Agent.objects.select_related("tenant").order_by("tenant__slug", "slug"),
        required=False,
        empty_label="All of its agents",
        widget=UnfoldAdminSelectWidget(),
        help_text="One agent alone. It brings its own tenant.",
    )
    reason = forms.CharField(
        max_length=300,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3, "autofocus": True}),
        help_text="Shown to every operator while the stop is in force, and kept in the audit trail.",
    )


def page(request: HttpRequest, *, model_admin: Any) -> HttpResponse:
    """Asks whom to stop and why; then stops, and goes to the overview, where the stop is shown."""
    form = StopForm(request.POST or None)
    if form.is_valid():
        fields = form.cleaned_data
        try:
            made = stops.stop(**fields, by=actor(request), now=timezone.now())
        except FieldError as error:
            form.add_error(error.field or None, error.message)
        else:
            messages.success(request, f"Stopped: {stops.whom(made)}.")
            return redirect("admin:index")
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": "Emergency stop",
        "effect": EFFECT,
        "pause_or_stop": PAUSE_OR_STOP,
        "form": form,
        "back": reverse("admin:index"),
        "media": model_admin.media + form.media,
    }
    return TemplateResponse(request, "console/stop_form.html", context)


def active() -> list[dict[str, Any]]:
    """What the overview says of each stop in force."""
    return [_shown(stop) for stop in stops.active()]


def _shown(stop: EmergencyStop) -> dict[str, Any]:
    whom = stops.whom(stop)
    return {
        "id": stop.pk,
        "whom": f"{whom[0].upper()}{whom[1:]}",
        "everything": stop.tenant is None,
        "actor": stop.actor,
        "reason": stop.reason,
        "since": stop.started_at,
    }
