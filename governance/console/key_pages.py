"""API keys in the console: issued on a page that shows the key once, with a first call for each client, and tried."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminSplitDateTimeWidget, UnfoldAdminTextInputWidget

from governance import ports, staff
from governance.actions import tenancy
from governance.console import confirm, snippets
from governance.console.base import actor
from governance.console.reasons import CONFIRM, ReasonForm
from governance.models import Agent, ApiKey, Tenant
from governance.models.tenancy import Role, digest_of
from governance.rules.errors import FieldError
from governance.staff import StaffAccess


class KeyForm(forms.Form):
    name = forms.CharField(
        max_length=200, required=False, widget=UnfoldAdminTextInputWidget(), help_text="What the key is for."
    )
    role = forms.ChoiceField(choices=Role.choices, widget=UnfoldAdminSelectWidget())
    tenant = forms.ModelChoiceField(
        Tenant.objects.all(),
        required=False,
        empty_label="None",
        widget=UnfoldAdminSelectWidget(),
        help_text="For the roles tenant and agent. An agent brings its own tenant.",
    )
    agent = forms.ModelChoiceField(
        Agent.objects.select_related("tenant"),
        required=False,
        empty_label="None",
        widget=UnfoldAdminSelectWidget(),
        help_text="For the role agent.",
    )
    expires_at = forms.SplitDateTimeField(
        required=False, widget=UnfoldAdminSplitDateTimeWidget(), help_text="Empty: never. UTC."
    )

    def __init__(self, *args: Any, access: StaffAccess, **kwargs: Any) -> None:
        """Offers what whoever has this access may give; `tenancy.issue_key` holds them to it."""
        super().__init__(*args, **kwargs)
        roles = cast(forms.ChoiceField, self.fields["role"])
        roles.choices = [(value, label) for value, label in Role.choices if value in access.key_roles]
        if access.is_bound:
            tenants: Any = self.fields["tenant"]
            agents: Any = self.fields["agent"]
            tenants.queryset = Tenant.objects.filter(pk__in=[access.tenant.pk] if access.tenant else [])
            agents.queryset = Agent.objects.filter(tenant=access.tenant)


def issue(request: HttpRequest, *, model_admin: Any) -> HttpResponse:
    """The form; and once it is right, the key."""
    form = KeyForm(request.POST or None, access=staff.access_of(request.user), initial=_asked(request))
    if form.is_valid():
        fields = form.cleaned_data
        agent = fields["agent"]
        tenant = fields["tenant"] or (agent.tenant if agent else None)
        try:
            text, key = tenancy.issue_key(
                role=fields["role"],
                tenant=tenant,
                agent=agent,
                name=fields["name"],
                expires_at=fields["expires_at"],
                by=actor(request),
                now=timezone.now(),
            )
        except FieldError as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        else:
            return shown_once(request, model_admin=model_admin, text=text, key=key)
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": "Issue an API key",
        "form": form,
        "media": model_admin.media + form.media,
    }
    return TemplateResponse(request, "console/key_form.html", context)


def _asked(request: HttpRequest) -> dict[str, Any]:
    """What the form begins with, as a page that leads here says; ids that are none are left out by the form."""
    said = {name: request.GET.get(name, "") for name in ("role", "tenant", "agent", "name")}
    numbers = {name: said[name] if said[name].isdecimal() else "" for name in ("tenant", "agent")}
    return {name: value for name, value in (said | numbers).items() if value}


def shown_once(request: HttpRequest, *, model_admin: Any, text: str, key: ApiKey) -> HttpResponse:
    usual, known = snippets.models()
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": "Your new key",
        "key": key,
        "text": text,
        "snippets": snippets.of(text, key.role),
        "calls_models": snippets.calls_models(key.role),
        "usual_model": usual,
        "models": known,
    }
    return TemplateResponse(request, "console/key_issued.html", context, headers={"Cache-Control": "no-store"})


def rotate(request: HttpRequest, *, model_admin: Any, key: ApiKey, in_use: str) -> HttpResponse:
    """Asks why; then the new key, while the old one goes on working for the grace period.

    It asks anew where somebody else has rotated the key since the page was opened.
    """
    back = reverse("admin:governance_apikey_change", args=[key.pk])
    confirmed = request.method == "POST" and CONFIRM in request.POST
    ends = key.expires_at.isoformat() if key.expires_at else "never"
    if confirmed and request.POST.get(confirm.FIELD, ends) != ends:
        messages.warning(request, "This key's end has changed since you opened this page: it may be rotated already.")
        confirmed = False
    form = ReasonForm(request.POST if confirmed else None)
    if confirmed and form.is_valid():
        try:
            reason = form.cleaned_data["reason"]
            text, fresh = tenancy.rotate_key(key=key, reason=reason, by=actor(request), now=timezone.now())
        except FieldError as error:
            messages.error(request, error.message)
            return redirect(back)
        return shown_once(request, model_admin=model_admin, text=text, key=fresh)
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": "Rotate an API key",
        "verb": "Rotate",
        "explanation": f"Its holder gets a new key. The old one goes on working for 24 hours, so that it can be "
        f"replaced without a gap. {in_use}",
        "rows": [key],
        "form": form,
        "back": back,
        "confirm_name": CONFIRM,
        "said_name": confirm.FIELD,
        "said": ends,
    }
    return TemplateResponse(request, "console/reason.html", context)


def tried(request: HttpRequest, *, key: ApiKey) -> HttpResponse:
    """A part of a key's page: how one call with it went. The text comes from the page, as it is kept nowhere."""
    text, model = request.POST.get("key", "").strip(), request.POST.get("model", "").strip()[:200]
    wrong = ""
    if digest_of(text) != key.digest:
        wrong = f"This is not the key {key.prefix}…: nothing was sent."
    elif not snippets.calls_models(key.role) or key.tenant_id is None:
        wrong = f"A key of the role {key.role} calls no models."
    elif not model:
        wrong = "Name a model."
    found = None
    if not wrong:
        found = ports.try_call(key_id=key.pk, tenant_id=cast(int, key.tenant_id), text=text, model=model)
        if found.request_id:
            tenancy.record_try(key=key, request_id=found.request_id, by=actor(request), now=timezone.now())
    return TemplateResponse(
        request, "console/key_tried.html", {"wrong": wrong, "found": found}, headers={"Cache-Control": "no-store"}
    )
