"""Alerts to operators: what is wrong and needs a person, once for each thing however often it is seen.

`kind` is a stable word in snake case ("price_missing"), `subject` what it is about ("mistral-small-2603"). An alert is
over when the part that reported it sees that it is (`clear`), or when an operator says so (`acknowledge`).
"""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import Case, F, QuerySet, Value, When
from django.db.models.functions import Greatest

from governance import audit
from governance.audit import Actor
from governance.models import Alert

LONGEST_MESSAGE, LONGEST_SUBJECT = 1000, 255
# Each further round needs an alert that was opened and cleared between two statements.
ROUNDS = 5
GRAVITY = Case(When(severity="critical", then=Value(0)), When(severity="warning", then=Value(1)), default=Value(2))


class AlertCleared(Exception):
    """The alert is over already."""


def report(*, kind: str, subject: str, message: str, now: datetime, severity: str = "warning") -> Alert:
    """Tell the operators. One open alert for each (kind, subject): a repeat counts up and renews its message.

    `severity` is info, warning or critical. Runs in the caller's transaction, if there is one.
    """
    message, subject = _fitting(message, LONGEST_MESSAGE), _fitting(subject, LONGEST_SUBJECT)
    for _ in range(ROUNDS):
        if repeated := _repeat(kind, subject, message, severity, now):
            return repeated
        try:
            with transaction.atomic():
                return Alert.objects.create(
                    kind=kind, subject=subject, message=message, severity=severity, first_at=now, last_at=now
                )
        except IntegrityError as error:
            # Somebody else was first to tell of it: counted in the next round.
            refused = error
    raise refused


def clear(*, kind: str, subject: str, now: datetime) -> bool:
    """What was wrong is over; True where an alert was open. Runs in the caller's transaction, if there is one."""
    return bool(
        open_ones().filter(kind=kind, subject=_fitting(subject, LONGEST_SUBJECT)).order_by().update(cleared_at=now)
    )


@transaction.atomic
def acknowledge(*, alert: Alert, by: Actor, now: datetime, reason: str = "") -> Alert:
    """An operator has seen to it. It opens again if it is seen again. Raises AlertCleared."""
    # The condition settles a race: only one of two finds a row, so one audit row is written.
    if not open_ones().order_by().filter(pk=alert.pk).update(cleared_at=now, cleared_by=by.name[:150]):
        raise AlertCleared(f"{alert} is over already")
    alert.refresh_from_db()
    facts = {"message": alert.message, "severity": alert.severity, "count": alert.count}
    audit.record(action="alert.acknowledge", target=str(alert), by=by, now=now, reason=reason, old=facts)
    return alert


def open_ones() -> QuerySet[Alert]:
    """The alerts that nobody has seen to, the gravest first, then the newest."""
    return Alert.objects.filter(cleared_at=None).order_by(GRAVITY, "-last_at", "-id")


@transaction.atomic
def _repeat(kind: str, subject: str, message: str, severity: str, now: datetime) -> Alert | None:
    """The open alert, counted up; the row stays locked until it is read."""
    found = Alert.objects.filter(kind=kind, subject=subject, cleared_at=None)
    # Clocks of several machines differ: a late report does not turn the time back.
    last_at = Greatest(F("last_at"), Value(now))
    if not found.update(count=F("count") + 1, message=message, severity=severity, last_at=last_at):
        return None
    return found.get()


def _fitting(text: str, length: int) -> str:
    """As the column takes it: words from outside may be of any length, and PostgreSQL keeps no NUL."""
    return text.replace("\x00", "")[:length]
