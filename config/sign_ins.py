"""Who signed in to the console and who tried to in vain: for how long it is kept, and what it says of who tries now."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from config import addresses
from governance import alerts

BATCH = 5_000
THIS_ONE = timedelta(seconds=1)


def has_signed_in(*, username: str, address: str, now: datetime) -> bool:
    """Whether somebody signed in by this name from this address within SIGN_INS_DAYS; `address` as it is counted."""
    since = now - timedelta(days=settings.SIGN_INS_DAYS)
    found = AccessLog.objects.filter(username=username, ip_address=address, attempt_time__gte=since)
    return bool(found.exists())


def tell_of_new_place(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    """On `user_logged_in`: somebody who signed in before did so from an address that they did not do so from.

    Runs before or after the log has this one; what is of the last moments is this one.
    """
    now = timezone.now()
    address = addresses.counted(request.META.get("REMOTE_ADDR", ""))
    known = AccessLog.objects.filter(
        username=user.get_username(),
        attempt_time__gte=now - timedelta(days=settings.SIGN_INS_DAYS),
        attempt_time__lt=now - THIS_ONE,
    )
    if not known.exists() or known.filter(ip_address=address).exists():
        return
    agent = request.META.get("HTTP_USER_AGENT", "")[:200]
    alerts.tell(
        kind="sign_in_from_new_place",
        incident=f"sign-in-{user.pk}-{address}",
        title=f"{user.get_username()} signed in from a new place",
        message=f"{user.get_username()} signed in to the console from {address} for the first time"
        f" in {settings.SIGN_INS_DAYS} days{f', with {agent}' if agent else ''}.",
        facts={"user": user.get_username(), "address": address},
        now=now,
    )


def purge(*, now: datetime) -> int:
    """Delete rows that are older than SIGN_INS_DAYS, in batches; how many. What locks somebody out is younger."""
    before = now - timedelta(days=settings.SIGN_INS_DAYS)
    total = 0
    for model in (AccessLog, AccessFailureLog, AccessAttempt):
        old = model.objects.filter(attempt_time__lt=before).order_by("attempt_time")
        while ids := list(old.values_list("pk", flat=True)[:BATCH]):
            total += model.objects.filter(pk__in=ids).delete()[0]
    return total
