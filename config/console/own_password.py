"""The page on which somebody changes their own password: with the old one, and the code of who has a second factor."""

from __future__ import annotations

from functools import partial
from typing import Any

from django import forms
from django.contrib.admin import AdminSite
from django.contrib.auth.models import User
from django.contrib.auth.views import PasswordChangeView
from django.db import transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import reverse_lazy
from django.utils import timezone
from unfold.forms import AdminOwnPasswordChangeForm
from unfold.widgets import UnfoldAdminTextInputWidget

from config import second_factor
from config.console import sign_in
from governance.actions import people
from governance.console.base import actor


class OwnPasswordForm(AdminOwnPasswordChangeForm):
    """Wrong old passwords and wrong codes count as they do at the sign-in."""

    code = forms.CharField(
        label="Code",
        max_length=20,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "one-time-code"}),
        help_text="From your authenticator app, or one of your recovery codes.",
    )

    def __init__(self, user: User, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(user, *args, **kwargs)
        self.request = request
        if not second_factor.is_set_up(user):
            del self.fields["code"]

    def clean_old_password(self) -> str:
        given: str = self.cleaned_data["old_password"]
        if not sign_in.is_password(self.request, given):
            raise forms.ValidationError(self.error_messages["password_incorrect"], code="password_incorrect")
        return given

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean()
        # Last, as a code is good once.
        if "code" in self.fields and not self.errors and not self._is_code(cleaned["code"]):
            self.add_error("code", sign_in.WRONG_CODE)
        return cleaned

    def _is_code(self, code: str) -> bool:
        return sign_in.is_code(self.request, self.user, code)

    @transaction.atomic
    def save(self, commit: bool = True) -> User:
        user: User = super().save(commit)
        people.record_password(user=user, by=actor(self.request), now=timezone.now())
        return user


def page(request: HttpRequest, site: AdminSite) -> HttpResponseBase:
    view = PasswordChangeView.as_view(
        form_class=partial(OwnPasswordForm, request=request),
        template_name="console/own_password.html",
        success_url=reverse_lazy("admin:password_change_done"),
        extra_context={**site.each_context(request), "title": "Change your password"},
    )
    return view(request)
