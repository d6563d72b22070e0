"""API keys in the console: issued on a page that shows the key once."""

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

from governance import staff
from governance.actions import tenancy
from governance.console import confirm
from governance.console.base import actor
from governance.models import Agent, ApiKey, Tenant
from governance.models.tenancy import Role
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
    form = KeyForm(request.POST or None, access=staff.access_of(request.user))
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


def shown_once(request: HttpRequest, *, model_admin: Any, text: str, key: ApiKey) -> HttpResponse:
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": "Your new key",
        "key": key,
        "text": text,
    }
    return TemplateResponse(request, "console/key_issued.html", context, headers={"Cache-Control": "no-store"})


def rotate(request: HttpRequest, *, model_admin: Any, key: ApiKey) -> HttpResponse:
    """Asks first; then the new key, while the old one goes on working for the grace period."""
    back = reverse("admin:governance_apikey_change", args=[key.pk])
    if request.method == "POST":
        try:
            text, fresh = tenancy.rotate_key(key=key, by=actor(request), now=timezone.now())
        except FieldError as error:
            messages.error(request, error.message)
            return redirect(back)
        return shown_once(request, model_admin=model_admin, text=text, key=fresh)
    return confirm.page(
        request,
        model_admin=model_admin,
        title="Rotate an API key",
        verb="Rotate",
        explanation=f"The holder of {key.prefix}… gets a new key. The old one goes on working for 24 hours, so that it "
        "can be replaced without a gap.",
        back=back,
    )
