"""Alerts to operators: what is wrong and needs a person, once for each thing however often it is seen.

`kind` is a stable word in snake case ("price_missing"), `subject` what it is about ("mistral-small-2603"). An alert is
over when the part that reported it sees that it is (`clear`), or when an operator says so (`acknowledge`). Whoever is
to be told of either is told by `notices`, whose rows are written in the same transaction.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Case, F, Q, QuerySet, Value, When
from django.db.models.functions import Greatest

from governance import audit
from governance.alerts import notices
from governance.audit import Actor
from governance.models import Alert, AlertNotice, Tenant
from governance.rules import alerting

LONGEST_MESSAGE, LONGEST_SUBJECT = 1000, 255
# So long after its last report a machine is taken to be gone. Each minute one of the workers looks, whichever is free,
# so of many each one's turn may take a while to come.
GONE_AFTER = timedelta(hours=1)
# What is seen again after such a silence is told again: an alert that nobody ended does not swallow what comes later.
# Longer than between two looks of whatever looks least often.
NEWS_AFTER = timedelta(days=3)
# Each further round needs an alert that was opened and cleared between two statements.
ROUNDS = 5
GRAVITY = Case(When(severity="critical", then=Value(0)), When(severity="warning", then=Value(1)), default=Value(2))


@dataclass(frozen=True, slots=True)
class Concerns:
    """Whom an alert is about, whether they are told of it, too, and where one acts."""

    tenant_id: int | None = None
    is_for_tenant: bool = False
    path: str = ""


class AlertCleared(Exception):
    """The alert is over already."""


def report(
    *,
    kind: str,
    subject: str,
    message: str,
    now: datetime,
    severity: str = "warning",
    tenant: Tenant | int | None = None,
    is_for_tenant: bool = False,
    path: str = "",
    is_news: bool = False,
) -> Alert:
    """Tell the operators. One open alert for each (kind, subject): a repeat counts up and renews its message.

    A repeat is told again where it is graver, comes days after the last one, or `is_news`, such as what was done about
    it: in the place of what nobody was told yet, else as another message.

    `severity` is info, warning or critical; `tenant` the customer whom it is about, who is told of it as well where it
    `is_for_tenant`; `path` that of the page where one acts, by default its kind's. Runs in the caller's transaction, if
    there is one.
    """
    about = Concerns(tenant.pk if isinstance(tenant, Tenant) else tenant, is_for_tenant, path)
    message, subject = _fitting(message, LONGEST_MESSAGE), _fitting(subject, LONGEST_SUBJECT)
    for _ in range(ROUNDS):
        if repeated := _repeat(kind, subject, message, severity, now, about, is_news):
            return repeated
        try:
            with transaction.atomic():
                made = Alert.objects.create(
                    kind=kind, subject=subject, message=message, severity=severity, first_at=now, last_at=now
                )
                _tell(made, now=now, about=about)
                return made
        except IntegrityError as error:
            # Somebody else was first to tell of it: counted in the next round.
            refused = error
    raise refused


def clear(*, kind: str, subject: str, now: datetime) -> bool:
    """What was wrong is over; True where an alert was open. Runs in the caller's transaction, if there is one."""
    alert = open_ones().filter(kind=kind, subject=_fitting(subject, LONGEST_SUBJECT)).order_by().first()
    if alert is None:
        return False
    with transaction.atomic():
        # The condition settles a race: only one of two finds it open, so it is told once that it is over.
        if not open_ones().order_by().filter(pk=alert.pk).update(cleared_at=now):
            return False
        _tell(alert, now=now, what=AlertNotice.What.OVER)
    return True


def clear_others(
    *, kind: str, found: Collection[str], now: datetime, host: str = "", unseen_for: timedelta = timedelta(0)
) -> None:
    """A look found these subjects: other alerts of the kind are over, unless they were seen lately (`unseen_for`).

    `host`: what it looked at is this machine's, and subjects end in "at HOST". Those of others are theirs to judge,
    unless nothing is heard of them any more: the container of yesterday does not come back.
    """
    rows = open_ones().order_by().filter(kind=kind, last_at__lte=now - unseen_for)
    if host:
        rows = rows.filter(Q(subject__endswith=f" at {host}") | Q(last_at__lt=now - GONE_AFTER))
    kept = {_fitting(subject, LONGEST_SUBJECT) for subject in found}
    for subject in rows.values_list("subject", flat=True):
        if subject not in kept:
            clear(kind=kind, subject=subject, now=now)


@transaction.atomic
def acknowledge(*, alert: Alert, by: Actor, now: datetime, reason: str = "") -> Alert:
    """An operator has seen to it. It opens again if it is seen again. Raises AlertCleared."""
    # The condition settles a race: only one of two finds a row, so one audit row is written.
    if not open_ones().order_by().filter(pk=alert.pk).update(cleared_at=now, cleared_by=by.name[:150]):
        raise AlertCleared(f"{alert} is over already")
    alert.refresh_from_db()
    _tell(alert, now=now, what=AlertNotice.What.OVER, message="It was seen to.", by=by.name)
    facts = {"message": alert.message, "severity": alert.severity, "count": alert.count}
    audit.record(action="alert.acknowledge", target=str(alert), by=by, now=now, reason=reason, old=facts)
    return alert


def incident_of(alert: Alert) -> str:
    """What pagers know it by."""
    return f"alert-{alert.pk}"


def open_ones() -> QuerySet[Alert]:
    """The alerts that nobody has seen to, the gravest first, then the newest."""
    return Alert.objects.filter(cleared_at=None).order_by(GRAVITY, "-last_at", "-id")


@transaction.atomic
def _repeat(
    kind: str, subject: str, message: str, severity: str, now: datetime, about: Concerns, is_news: bool
) -> Alert | None:
    """The open alert, counted up; the row stays locked until it is read. Told again if it is graver than it was."""
    found = Alert.objects.filter(kind=kind, subject=subject, cleared_at=None)
    # The two conditions have no row in common, so a repeat counts once.
    milder = [one for one in alerting.SEVERITIES if severity in alerting.graver_than(one)]
    # Clocks of several machines differ: a late report does not turn the time back.
    last_at = Greatest(F("last_at"), Value(now))
    changes = {"count": F("count") + 1, "message": message, "severity": severity, "last_at": last_at}
    if milder and found.filter(severity__in=milder).update(**changes):
        graver = found.get()
        if not AlertNotice.objects.filter(incident=incident_of(graver), severity=severity).exists():
            _tell(graver, now=now, about=about)
        return graver
    is_back = bool(found.filter(last_at__lt=now - NEWS_AFTER).update(**changes))
    if not is_back and not found.update(**changes):
        return None
    same = found.get()
    if (is_news or is_back) and not notices.reword(incident=incident_of(same), message=message):
        _tell(same, now=now, about=about)
    return same


def _tell(
    alert: Alert,
    *,
    now: datetime,
    what: str = AlertNotice.What.OPENED,
    message: str = "",
    by: str = "",
    about: Concerns | None = None,
) -> None:
    kind = notices.kind_of(alert.kind)
    incident = incident_of(alert)
    if what == AlertNotice.What.OVER:
        # As whoever opened it said; where it was opened before there were notices, nobody did.
        first = AlertNotice.objects.filter(incident=incident, what=AlertNotice.What.OPENED).order_by("id").first()
        about = Concerns(first.tenant_id, first.is_for_tenant, first.path) if first is not None else None
        AlertNotice.objects.filter(incident=incident, over_at=None).update(over_at=now)
    about = about or Concerns()
    subject = alert.subject if alert.subject.lower() not in kind.title.lower() else ""
    notices.tell(
        kind=alert.kind,
        incident=incident,
        title=f"{kind.title}: {subject}" if subject else kind.title,
        message=message or alert.message,
        severity=alert.severity,
        now=now,
        what=what,
        tenant=about.tenant_id,
        is_for_tenant=about.is_for_tenant,
        path=about.path,
        by=by,
        facts={"subject": alert.subject, "count": alert.count},
    )


def _fitting(text: str, length: int) -> str:
    """As the column takes it: words from outside may be of any length, and PostgreSQL keeps no NUL."""
    return text.replace("\x00", "")[:length]
