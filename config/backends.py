"""Who is let in: django-axes first, which counts wrong tries, then Django's own look at the password."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from axes.backends import AxesStandaloneBackend
from axes.handlers.database import AxesDatabaseHandler
from axes.helpers import get_client_username
from axes.models import AccessAttempt
from django.conf import settings
from django.http import HttpRequest

from config import sign_ins


class CountingBackend(AxesStandaloneBackend):  # type: ignore[misc]
    """Without a request nobody signs in, so there is no address to lock: a command that checks a password goes on."""

    def authenticate(self, request: HttpRequest | None = None, **credentials: Any) -> None:
        if request is not None:
            super().authenticate(request, **credentials)


class CountingHandler(AxesDatabaseHandler):  # type: ignore[misc]
    """AXES_HANDLER: an address is locked too, whatever names it tries: each try costs a third of a second to hash.

    But for names that signed in from there before, as behind one address may be a whole office; each has its own tries.
    """

    def is_locked(self, request: HttpRequest, credentials: dict[str, Any] | None = None) -> bool:
        return super().is_locked(request, credentials) or address_locked_until(request, credentials) is not None


def address_locked_until(request: Any, credentials: dict[str, Any] | None = None) -> datetime | None:
    """When few enough of the tries of its address are young; None where they are few enough now, or the name is known.

    `request` has been through axes, which gave it `axes_ip_address` and `axes_attempt_time`.
    """
    until = _locked_until(request)
    if until is None:
        return None
    username = get_client_username(request, credentials) or ""
    known = sign_ins.has_signed_in(username=username, address=request.axes_ip_address, now=request.axes_attempt_time)
    return None if known else until


def _locked_until(request: Any) -> datetime | None:
    cooloff: timedelta = settings.AXES_COOLOFF_TIME
    since = request.axes_attempt_time - cooloff
    tries = AccessAttempt.objects.filter(ip_address=request.axes_ip_address, attempt_time__gte=since)
    counted = 0
    newest = tries.order_by("-attempt_time").values_list("attempt_time", "failures_since_start")
    for tried_at, failures in newest[: settings.SIGN_IN_TRIES_PER_ADDRESS]:
        counted += failures
        if counted >= settings.SIGN_IN_TRIES_PER_ADDRESS:
            return cast(datetime, tried_at) + cooloff
    return None
