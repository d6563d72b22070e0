"""The page on which somebody sets up, renews or removes their own second factor.

A session may be somebody else's by now. So whoever sets one up gives their password first, and sees the secret only
then; whoever has one gives its code.
"""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from config import second_factor
from config.console import sign_in
from governance.console.base import actor

# Where a session keeps until when its password counts as given, in seconds since 1970; and for how long.
PROVED, PROVED_S = "password_proved_until", 600


class PasswordForm(forms.Form):
    password = forms.CharField(
        label="Your password",
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "current-password", "autofocus": True}),
    )


class ActForm(forms.Form):
    """Every act on this page takes a code, so that an unlocked screen is not enough."""

    code = forms.CharField(
        label="Code",
        max_length=20,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "one-time-code", "inputmode": "text"}),
    )


@sensitive_post_parameters("code", "password")
def page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    user = cast(User, request.user)
    if second_factor.is_set_up(user):
        return _set_up(request, site, user)
    if request.session.get(PROVED, 0) < timezone.now().timestamp():
        return _ask_password(request, site, user)
    form = ActForm(request.POST or None)
    if form.is_valid():
        codes = second_factor.confirm(user=user, code=form.cleaned_data["code"], by=actor(request), now=timezone.now())
        if codes is not None:
            # What this session may do has changed: it goes on under another name.
            request.session.cycle_key()
            request.session.pop(PROVED)
            return _codes(request, site, codes)
        form.add_error("code", "That code is not right. Is the clock of your device?")
    device = second_factor.begun(user)
    return _shown(
        request,
        site,
        "Set up a second factor",
        form=form,
        qr_code=second_factor.qr_code(device),
        secret=second_factor.secret_of(device),
        required=settings.REQUIRE_TOTP,
    )


def _ask_password(request: HttpRequest, site: AdminSite, user: User) -> HttpResponse:
    form = PasswordForm(request.POST or None)
    if form.is_valid():
        if sign_in.is_password(request, form.cleaned_data["password"]):
            # Nobody who had this session before sees what it shows from now on, nor anybody what was shown before.
            request.session.cycle_key()
            request.session[PROVED] = timezone.now().timestamp() + PROVED_S
            second_factor.forget_begun(user)
            return redirect("admin:second-factor")
        form.add_error("password", "That is not your password.")
    return _shown(request, site, "Set up a second factor", form=form, required=settings.REQUIRE_TOTP)


def _set_up(request: HttpRequest, site: AdminSite, user: User) -> HttpResponse:
    form = ActForm(request.POST or None)
    if form.is_valid():
        by, now = actor(request), timezone.now()
        if not sign_in.is_code(request, user, form.cleaned_data["code"]):
            form.add_error("code", sign_in.WRONG_CODE)
        elif "renew" in request.POST:
            return _codes(request, site, second_factor.renew_codes(user=user, by=by, now=now))
        elif "remove" in request.POST:
            second_factor.remove(user=user, by=by, now=now)
            messages.success(request, "Your second factor is removed.")
            return redirect("admin:second-factor")
    return _shown(
        request,
        site,
        "Your second factor",
        form=form,
        device=second_factor.device_of(user),
        codes_left=second_factor.codes_left(user),
        required=settings.REQUIRE_TOTP,
    )


def _codes(request: HttpRequest, site: AdminSite, codes: list[str]) -> HttpResponse:
    return _shown(request, site, "Your recovery codes", codes=codes)


def _shown(request: HttpRequest, site: AdminSite, title: str, **more: Any) -> HttpResponse:
    context = {**site.each_context(request), "title": title, **more}
    return TemplateResponse(request, "console/second_factor.html", context, headers={"Cache-Control": "no-store"})
