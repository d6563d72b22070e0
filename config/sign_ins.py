"""Who signed in to the console and who tried to in vain: for how long it is kept, and what it says of who tries now."""

from __future__ import annotations

from datetime import datetime, timedelta

from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.conf import settings

BATCH = 5_000


def has_signed_in(*, username: str, address: str, now: datetime) -> bool:
    """Whether somebody signed in by this name from this address within SIGN_INS_DAYS; `address` as it is counted."""
    since = now - timedelta(days=settings.SIGN_INS_DAYS)
    found = AccessLog.objects.filter(username=username, ip_address=address, attempt_time__gte=since)
    return bool(found.exists())


def purge(*, now: datetime) -> int:
    """Delete rows that are older than SIGN_INS_DAYS, in batches; how many. What locks somebody out is younger."""
    before = now - timedelta(days=settings.SIGN_INS_DAYS)
    total = 0
    for model in (AccessLog, AccessFailureLog, AccessAttempt):
        old = model.objects.filter(attempt_time__lt=before).order_by("attempt_time")
        while ids := list(old.values_list("pk", flat=True)[:BATCH]):
            total += model.objects.filter(pk__in=ids).delete()[0]
    return total
