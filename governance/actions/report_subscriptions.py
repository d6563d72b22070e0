"""Who reads weekly and monthly reports: begun by a person, ended by a person or by the link in each message."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import available_timezones

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from governance import audit
from governance.alerts.channels import email
from governance.audit import Actor
from governance.models import AlertChannel, ReportMail, ReportSubscription, Tenant, TenantStaff
from governance.reports import mails, readers
from governance.rules.errors import Conflict, FieldError
from governance.rules.report_periods import Cadence, ReportPeriod
from governance.staff import StaffRole

MOST_SUBSCRIPTIONS = 1_000
# The audit trail's name for whoever has the link.
BY_LINK = Actor("the link in a report")


def check(*, address: str, time_zone: str = "") -> str:
    """The address in the form that is kept. Raises FieldError."""
    listed = email.addresses(address.lower())
    if len(listed) != 1:
        raise FieldError("address", "Name one e-mail address.")
    [found] = listed
    problem = email.problem_with(found)
    if problem or len(found) > 254:
        raise FieldError("address", problem or "may have at most 254 characters.")
    if time_zone and time_zone not in available_timezones():
        raise FieldError("time_zone", f"{time_zone!r} is not an IANA time zone such as Europe/Paris.")
    return found


def check_reader(*, tenant: Tenant | None, address: str) -> None:
    """Raises FieldError where the address is of somebody who may not read that report in the console either."""
    if not readers.may_read(address, tenant.pk if tenant else None):
        raise FieldError("address", "is of a console user who may not read this report")


def check_room() -> None:
    """Raises Conflict where there are as many subscriptions as there may be."""
    if ReportSubscription.objects.filter(ended_at=None).count() >= MOST_SUBSCRIPTIONS:
        raise Conflict("", f"there are {MOST_SUBSCRIPTIONS:,} subscriptions already; end one that nobody reads")


@transaction.atomic
def subscribe(
    *, tenant: Tenant | None, address: str, cadence: str, time_zone: str = "", by: Actor, now: datetime
) -> ReportSubscription:
    """Send reports there from the period on that runs now. One that was ended is begun again.

    `time_zone`: by default the customer's. Raises FieldError, and Conflict where it is sent there already.
    """
    address = check(address=address, time_zone=time_zone)
    if cadence not in tuple(Cadence):
        raise FieldError("cadence", f"must be one of {', '.join(Cadence)}")
    check_reader(tenant=tenant, address=address)
    same = ReportSubscription.objects.filter(tenant=tenant, address=address, cadence=cadence).order_by("pk")
    row = same.select_for_update().first() or ReportSubscription(tenant=tenant, address=address, cadence=cadence)
    if row.pk and row.ended_at is None:
        raise Conflict("address", "this report is sent there already")
    check_room()
    row.time_zone = time_zone or (tenant.time_zone if tenant else "UTC")
    row.since, row.ended_at, row.ended_by = now, None, ""
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError as error:
        raise Conflict("address", "this report is sent there already") from error
    audit.record(action="report_subscription.begin", target=_target(row), by=by, now=now, new=facts(row))
    return row


@transaction.atomic
def end(*, subscription: ReportSubscription, by: Actor, now: datetime, reason: str = "") -> bool:
    """Send no more of it; what waits is dropped. False where it was ended already."""
    running = ReportSubscription.objects.filter(pk=subscription.pk, ended_at=None)
    if not running.update(ended_at=now, ended_by=by.name[:150]):
        return False
    waiting = ReportMail.objects.filter(subscription=subscription, state=ReportMail.State.PENDING)
    waiting.update(state=ReportMail.State.DROPPED, next_at=None)
    audit.record(
        action="report_subscription.end",
        target=_target(subscription),
        by=by,
        now=now,
        reason=reason,
        old=facts(subscription),
    )
    return True


def send_test(*, tenant: Tenant | None, period: ReportPeriod, address: str, by: Actor, now: datetime) -> None:
    """Send one report somewhere at once, whoever else gets it. Raises FieldError, NotSent, MoreThanRead."""
    address = check(address=address)
    mails.send_test(tenant=tenant, period=period, to=address, now=now)
    target = f"tenant:{tenant.slug}" if tenant else "platform"
    sent = {"address": address, "cadence": period.cadence.value, "first": period.first.isoformat()}
    audit.record(action="report.send_test", target=target, by=by, now=now, new=sent)


def known_addresses(tenant: Tenant | None) -> list[str]:
    """Whoever a report would be for, as far as they are known: people of the console, and channels of alerts."""
    people = User.objects.filter(is_active=True).exclude(email="")
    if tenant is None:
        people = people.filter(groups__name=StaffRole.OWNER) | people.filter(is_superuser=True)
        # Whoever is bound to a customer sees no more than that, as an owner too.
        bound = User.objects.filter(groups__name=StaffRole.TENANT_STAFF, is_superuser=False)
        people = people.exclude(pk__in=bound.values("pk"))
    else:
        people = people.filter(pk__in=TenantStaff.objects.filter(tenant=tenant).values("user"))
    told = AlertChannel.objects.filter(tenant=tenant, kind=AlertChannel.Kind.EMAIL, enabled=True)
    listed = [*people.values_list("email", flat=True), *(one for row in told for one in email.addresses(row.target))]
    return sorted({one.lower() for one in listed})


def facts(row: ReportSubscription) -> dict[str, Any]:
    return {"address": row.address, "cadence": row.cadence, "time_zone": row.time_zone}


def _target(row: ReportSubscription) -> str:
    return f"report_subscription:{row.pk}"
