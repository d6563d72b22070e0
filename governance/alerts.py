"""Alerts to operators: what is wrong and needs a person, once for each thing however often it is seen."""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Greatest

from governance import audit
from governance.audit import Actor
from governance.models import Alert

LONGEST_MESSAGE, LONGEST_SUBJECT = 1000, 255


class AlertCleared(Exception):
    """The alert is over already."""


def report(*, kind: str, subject: str, message: str, now: datetime, severity: str = "warning") -> Alert:
    """Tell the operators. One open alert for each (kind, subject): a repeat counts up and renews its message.

    `severity` is info, warning or critical.
    """
    message, subject = message[:LONGEST_MESSAGE], subject[:LONGEST_SUBJECT]
    if repeated := _repeat(kind, subject, message, severity, now):
        return repeated
    try:
        with transaction.atomic():
            return Alert.objects.create(
                kind=kind, subject=subject, message=message, severity=severity, first_at=now, last_at=now
            )
    except IntegrityError:
        # Somebody else was first to tell of it.
        if repeated := _repeat(kind, subject, message, severity, now):
            return repeated
        raise


def clear(*, kind: str, subject: str, now: datetime) -> bool:
    """What was wrong is over; True where an alert was open."""
    return bool(open_ones().filter(kind=kind, subject=subject[:LONGEST_SUBJECT]).update(cleared_at=now))


@transaction.atomic
def acknowledge(*, alert: Alert, by: Actor, now: datetime) -> Alert:
    """An operator has seen to it. It opens again if it is seen again. Raises AlertCleared."""
    if not open_ones().filter(pk=alert.pk).update(cleared_at=now, cleared_by=by.name[:150]):
        raise AlertCleared(f"{alert} is over already")
    audit.record(action="alert.acknowledge", target=str(alert)[:200], by=by, now=now, old={"message": alert.message})
    alert.refresh_from_db()
    return alert


def open_ones() -> QuerySet[Alert]:
    """The alerts that nobody has seen to, the newest first."""
    return Alert.objects.filter(cleared_at=None)


def _repeat(kind: str, subject: str, message: str, severity: str, now: datetime) -> Alert | None:
    found = open_ones().filter(kind=kind, subject=subject)
    if not found.update(count=F("count") + 1, message=message, severity=severity, last_at=Greatest(F("last_at"), now)):
        return None
    return found.first()
