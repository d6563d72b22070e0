"""The outbox of reports: a row for each reader and period that is over (`put`), and what is due is sent (`drain`).

There is one row of a period ever. The try is committed before the message leaves, so a worker that dies between sending
and marking leaves one that is sent again, under the same Message-ID: twice rather than never, and a mailbox can tell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.db.models import F, QuerySet

from governance.alerts.channels import Away, NotSent
from governance.models import ReportMail, ReportSubscription
from governance.reports import mails, readers
from governance.rules import alerting, report_periods
from governance.rules.report_periods import Cadence, ReportPeriod

log = logging.getLogger(__name__)

State = ReportMail.State
# Longer than a report takes to be reckoned and to leave: then its worker is dead.
LEASE = timedelta(minutes=10)
# Of a query.
MAILS = 20
# A run ends by itself.
LONGEST_RUN = timedelta(minutes=2)
# After so many tries in a row at a server that is away no more are reckoned for it in this run.
MOST_IN_VAIN = 5
# How long what was sent can be looked up.
KEPT = timedelta(days=400)


def run(*, clock: Callable[[], datetime]) -> int:
    """How many reports left. Any number of workers may run it at once."""
    put(now=clock())
    return drain(clock=clock)


def put(*, now: datetime) -> int:
    """Make the rows of what has become due; how many. Of several periods that were missed it is the latest alone."""
    due = []
    for subscription in ReportSubscription.objects.filter(ended_at=None):
        period = _last_due(subscription, now)
        if period is not None and period.ends_at > subscription.since:
            due.append(ReportMail(subscription=subscription, first_day=period.first, created_at=now, next_at=now))
    known = set(
        ReportMail.objects.filter(first_day__in={mail.first_day for mail in due}).values_list(
            "subscription_id", "first_day"
        )
    )
    new = [mail for mail in due if (mail.subscription_id, mail.first_day) not in known]
    # Another worker may have made them since.
    ReportMail.objects.bulk_create(new, ignore_conflicts=True)
    return len(new)


def _last_due(subscription: ReportSubscription, now: datetime) -> ReportPeriod | None:
    """The latest period whose report may leave; None where nobody can tell, for which no other reader waits."""
    try:
        return report_periods.last_due(Cadence(subscription.cadence), now, ZoneInfo(subscription.time_zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # A system's zones are others after an update.
        log.error("%s: there is no time zone %r here", subscription, subscription.time_zone)
        return None


def drain(*, clock: Callable[[], datetime]) -> int:
    """Send what is due; how many reports left. `clock` is read for each."""
    left, in_vain, stop_at = 0, 0, clock() + LONGEST_RUN
    while in_vain < MOST_IN_VAIN and clock() < stop_at and (mail := claim(now=clock())) is not None:
        try:
            error = _send(mail, clock())
            in_vain = 0
        except Away as away:
            error = str(away)
            in_vain += 1
        mark(mail, error=error, now=clock())
        left += not error
    return left


def claim(*, now: datetime) -> ReportMail | None:
    """Take one that is due, and commit that it is being sent."""
    # Each that is not taken is due no more, so whoever is behind many of them waits for no other run.
    while found := list(_due(now).select_related("subscription__tenant").order_by("next_at", "pk")[:MAILS]):
        for mail in found:
            if _is_taken(mail, now):
                return mail
    return None


def _is_taken(mail: ReportMail, now: datetime) -> bool:
    """Whether it is ours to send. What nobody wants, or may read, is dropped."""
    subscription = mail.subscription
    if subscription.ended_at is not None:
        _same(mail).update(state=State.DROPPED, next_at=None)
    elif not readers.may_read(subscription.address, subscription.tenant_id):
        _same(mail).update(state=State.DROPPED, next_at=None, error=readers.FORMER)
    elif alerting.is_given_up(mail.tries):
        # Its workers died over it each time.
        _same(mail).update(state=State.DEAD, next_at=None, error="The worker ended while it was sent.")
    # Whoever comes second finds other figures in the row.
    elif _same(mail).update(state=State.SENDING, tries=F("tries") + 1, next_at=now + LEASE):
        mail.state, mail.tries, mail.next_at = State.SENDING, mail.tries + 1, now + LEASE
        return True
    return False


def mark(mail: ReportMail, *, error: str, now: datetime) -> None:
    """Note what came of it, unless a later claim took it over."""
    if not error:
        _same(mail).update(state=State.SENT, sent_at=now, next_at=None, error="")
        return
    log.warning("a report did not reach %s: %s", mail.subscription.address, error)
    if alerting.is_given_up(mail.tries):
        _same(mail).update(state=State.DEAD, next_at=None, error=error[:500])
    else:
        _same(mail).update(state=State.PENDING, next_at=now + alerting.delay(mail.tries), error=error[:500])


def purge(*, now: datetime) -> int:
    """Delete what left longer ago than it is kept; how many rows."""
    old = ReportMail.objects.filter(created_at__lt=now - KEPT).exclude(state__in=(State.PENDING, State.SENDING))
    return old.delete()[0]


def _send(mail: ReportMail, now: datetime) -> str:
    """Why it did not leave; empty where it did. One that cannot be written keeps no other waiting. Raises Away."""
    try:
        mails.send(mail, now=now)
    except Away:
        raise
    except NotSent as error:
        return str(error)
    except Exception:
        log.exception("the report for %s cannot be written", mail.subscription.address)
        return "It cannot be written; the log says why."
    return ""


def _due(now: datetime) -> QuerySet[ReportMail]:
    """What is to be sent, and what a worker died over."""
    return ReportMail.objects.filter(state__in=(State.PENDING, State.SENDING), next_at__lte=now)


def _same(mail: ReportMail) -> QuerySet[ReportMail]:
    """The row as it was read: nothing of it, once another worker has taken it."""
    return ReportMail.objects.filter(pk=mail.pk, state=mail.state, tries=mail.tries)
