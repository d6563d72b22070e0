"""Signing in to the console: the password, then the code of whoever has set one up; and the page of who must wait."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from axes.handlers.proxy import AxesProxyHandler
from django import forms
from django.conf import settings
from django.contrib.admin import AdminSite
from django.contrib.auth import REDIRECT_FIELD_NAME, authenticate, login
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters
from unfold.forms import AuthenticationForm
from unfold.widgets import UnfoldAdminTextInputWidget

from config import addresses, passwords, second_factor, sign_ins
from config.backends import address_locked_until

# Where the session keeps whose password was right until the code is there; and for how long.
HALF_WAY = "half_way"
HALF_WAY_S = 300
WRONG_CODE = "That code is not right, was used before, or came too soon after a wrong one."


class CodeNeeded(Exception):
    """The password is right, and this user has a second factor."""

    def __init__(self, user: User) -> None:
        super().__init__(user.get_username())
        self.user = user


class SignInForm(AuthenticationForm):
    def clean(self) -> dict[str, Any]:
        """Raises passwords.TooMany, which `PasswordsMiddleware` answers."""
        request, username = cast(HttpRequest, self.request), self.cleaned_data.get("username", "")
        is_known = sign_ins.has_signed_in(username=username, address=counted_address(request), now=timezone.now())
        site = addresses.counted(request.META.get("REMOTE_ADDR", ""), bits=addresses.SITE_BITS)
        with passwords.sign_in(username=username, address=site, is_known=is_known):
            found: dict[str, Any] = super().clean()
            return found

    def confirm_login_allowed(self, user: User) -> None:
        """Raises CodeNeeded, which is no complaint of the form's: `ConsoleSite.login` asks for the code."""
        super().confirm_login_allowed(user)
        if second_factor.is_set_up(user):
            raise CodeNeeded(user)


class CodeForm(forms.Form):
    code = forms.CharField(
        label="Code",
        max_length=20,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "one-time-code", "autofocus": True}),
        help_text="From your authenticator app, or one of your recovery codes.",
    )


@dataclass(frozen=True, slots=True)
class HalfWay:
    """Whose password was right, and where they were going."""

    user: User
    goes_to: str


def go_on_to_code(request: HttpRequest, user: User) -> HttpResponse:
    """Remembers that the password was right, in a session that is nobody's yet, and asks for the code."""
    goes_to = request.POST.get(REDIRECT_FIELD_NAME) or request.GET.get(REDIRECT_FIELD_NAME, "")
    request.session.cycle_key()
    request.session[HALF_WAY] = {
        "user": user.pk,
        "hash": user.get_session_auth_hash(),
        "until": timezone.now().timestamp() + HALF_WAY_S,
        "goes_to": goes_to,
    }
    return redirect("admin:sign-in-code")


@sensitive_post_parameters("code")
@csrf_protect
@never_cache
def code_page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The second page of signing in. Wrong codes count as wrong passwords do."""
    who = _half_way(request)
    if who is None:
        return redirect("admin:login")
    credentials = {"username": who.user.get_username()}
    if not AxesProxyHandler.is_allowed(request, credentials):
        return locked_out(request, None, credentials)
    form = CodeForm(request.POST or None)
    if form.is_valid():
        if is_code(request, who.user, form.cleaned_data["code"]):
            request.session.pop(HALF_WAY)
            login(request, who.user, backend=settings.AUTHENTICATION_BACKENDS[-1])
            return redirect(who.goes_to)
        form.add_error("code", WRONG_CODE)
    context = {
        **site.each_context(request),
        "title": "Your code",
        "form": form,
        "username": who.user.get_username(),
    }
    return TemplateResponse(request, "console/sign_in_code.html", context)


def is_password(request: HttpRequest, password: str) -> bool:
    """Whether it is that of who is signed in: a session may be somebody else's by now. Wrong ones count."""
    found = authenticate(request, username=cast(User, request.user).get_username(), password=password)
    return found is not None and found == request.user


def is_code(request: HttpRequest, user: User, code: str) -> bool:
    """Whether a code is right, which uses it up. A wrong one counts, and is made to wait, as a wrong password is."""
    credentials = {"username": user.get_username()}
    if not AxesProxyHandler.is_allowed(request, credentials):
        # What axes' own backend says of passwords; its middleware then answers.
        request.axes_locked_out = True  # type: ignore[attr-defined]
    elif second_factor.verify(user=user, code=code):
        return True
    user_login_failed.send(sender=__name__, credentials=credentials, request=request)
    return False


def _half_way(request: HttpRequest) -> HalfWay | None:
    kept = request.session.get(HALF_WAY)
    if not kept or timezone.now().timestamp() > kept["until"]:
        return None
    user = User.objects.filter(pk=kept["user"], is_active=True).first()
    # A password that was changed meanwhile is not the one that was right.
    if user is None or not constant_time_compare(user.get_session_auth_hash(), kept["hash"]):
        return None
    goes_to = kept["goes_to"]
    safe = url_has_allowed_host_and_scheme(
        goes_to, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return HalfWay(user, goes_to if safe else reverse(settings.LOGIN_REDIRECT_URL))


def counted_address(request: HttpRequest) -> str:
    """AXES_CLIENT_IP_CALLABLE: the connection's address, of version 6 its /64, as whoever has one has all of it."""
    return addresses.counted(request.META.get("REMOTE_ADDR", ""))


def locked_out(request: HttpRequest, original: HttpResponse | None, credentials: dict[str, Any]) -> HttpResponse:
    """AXES_LOCKOUT_CALLABLE: says when to try again."""
    from django.contrib import admin

    now = timezone.now()
    until = _locked_until(request, credentials, now)
    wait_s = max(1, round((until - now).total_seconds()))
    context = {**admin.site.each_context(request), "title": "Too many tries", "until": until, "now": now}
    page = TemplateResponse(request, "console/locked.html", context, status=429, headers={"Retry-After": str(wait_s)})
    return page.render()


def come_again(request: HttpRequest) -> HttpResponse:
    """The answer to whose password was not looked at."""
    from django.contrib import admin

    context = {**admin.site.each_context(request), "title": "Too many at a time", "again_s": passwords.AGAIN_S}
    headers = {"Retry-After": str(passwords.AGAIN_S)}
    return TemplateResponse(request, "console/busy.html", context, status=429, headers=headers)


def _locked_until(request: HttpRequest, credentials: dict[str, Any], now: datetime) -> datetime:
    cooloff: timedelta = settings.AXES_COOLOFF_TIME
    of_address = address_locked_until(request, credentials)
    rows = [
        row for found in AxesProxyHandler.get_implementation().get_user_attempts(request, credentials) for row in found
    ]
    if of_address and sum(row.failures_since_start for row in rows) < settings.AXES_FAILURE_LIMIT:
        return of_address
    of_name = max((row.attempt_time for row in rows), default=now) + cooloff
    return max(of_name, of_address or of_name)
