"""Who signed in to the console, who failed to, and who is locked out."""

from __future__ import annotations

from typing import Any

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.decorators import display

from config.console.user_admins import is_owner
from governance import audit
from governance.console import reasons
from governance.console.base import LongTableAdmin, actor


class OwnersTable(LongTableAdmin):
    """A table that owners alone read."""

    search_fields: tuple[str, ...] = ("username", "ip_address")
    ordering = ("-attempt_time",)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_owner(request)


class SignInAdmin(OwnersTable):
    list_display = ("attempt_time", "username", "ip_address", "user_agent", "logout_time")
    fields = ("attempt_time", "username", "ip_address", "user_agent", "logout_time")


class FailedSignInAdmin(OwnersTable):
    list_display = ("attempt_time", "username", "ip_address", "user_agent", "locked_out")
    list_filter = ("locked_out",)
    fields = ("attempt_time", "username", "ip_address", "user_agent", "locked_out")


class LockOutAdmin(OwnersTable):
    """Names that were tried in vain from an address lately; the count begins anew after a sign-in or a while."""

    list_display = ("username", "ip_address", "state", "failures_since_start", "attempt_time")
    fields = ("username", "ip_address", "user_agent", "state", "failures_since_start", "attempt_time")
    actions = ("forget_selected",)

    @display(description="State", label={"locked": "danger", "counted": "info", "over": "default"})
    def state(self, obj: AccessAttempt) -> str:
        if obj.attempt_time + settings.AXES_COOLOFF_TIME <= timezone.now():
            return "over"
        return "locked" if obj.failures_since_start >= settings.AXES_FAILURE_LIMIT else "counted"

    def has_unlock_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_owner(request)

    @admin.action(description="Unlock selected", permissions=["unlock"])
    def forget_selected(self, request: HttpRequest, queryset: QuerySet[AccessAttempt]) -> HttpResponse:
        by, now = actor(request), timezone.now()

        def forget(row: AccessAttempt, reason: str) -> None:
            AccessAttempt.objects.filter(username=row.username, ip_address=row.ip_address).delete()
            target = f"user {row.username} at {row.ip_address}"
            audit.record(action="sign_in.unlock", target=target, by=by, now=now, reason=reason)

        return reasons.ask(
            request,
            model_admin=self,
            title="Unlock",
            verb="Unlock",
            explanation="The wrong tries of this name from this address are forgotten, so that it can be tried again.",
            rows=list(queryset),
            act=forget,
            back=request.get_full_path(),
            action="forget_selected",
        )
