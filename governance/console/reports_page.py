"""The console's page of weekly and monthly reports: how each is read, its CSV, a test of it, and who gets it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from governance.actions import report_subscriptions
from governance.alerts.channels import NotSent
from governance.console.base import actor, has_role, may, reader
from governance.console.pages import ConsolePage
from governance.models import ReportSubscription, Tenant
from governance.queries.breakdown import MoreThanRead
from governance.reports import mails
from governance.rules import report_periods
from governance.rules.errors import FieldError
from governance.rules.report_periods import Cadence, ReportPeriod

# Periods that are offered, back from the one that is over.
OFFERED = 14
ACT = "governance.add_reportsubscription"
# What a mail program is shown, and nothing that it would run; on our own page alone.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox allow-popups"


@dataclass(frozen=True, slots=True)
class AskedReport:
    """Which report is asked for. `is_bound`: whoever asks may see this customer alone."""

    tenant: Tenant | None
    period: ReportPeriod
    is_bound: bool
    error: str = ""

    def query(self, **changes: str) -> str:
        period = self.period
        asked = {"cadence": period.cadence.value, "first": period.first.isoformat()}
        if self.tenant is not None and not self.is_bound:
            asked["tenant"] = self.tenant.slug
        return urlencode({name: text for name, text in (asked | changes).items() if text})


def read(request: HttpRequest, now: datetime) -> AskedReport:
    """What the address asks for; what it says wrongly is answered by the report that is over, and a word."""
    asked = request.POST if request.method == "POST" else request.GET
    own, slug, error = reader(request).tenant, asked.get("tenant", ""), ""
    tenant = own
    if own is None and slug and "\0" not in slug:
        tenant = Tenant.objects.filter(slug=slug).first()
        error = "" if tenant else "tenant: there is no such customer."
    zone = tenant.zone if tenant else ZoneInfo("UTC")
    cadence = Cadence.MONTHLY if asked.get("cadence") == Cadence.MONTHLY else Cadence.WEEKLY
    latest = report_periods.last_ended(cadence, now, zone)
    period = latest
    if text := asked.get("first", ""):
        try:
            found = report_periods.holding(cadence, date.fromisoformat(text), zone)
        except (ValueError, OverflowError):
            error = error or "first: is a day such as 2026-03-09."
        else:
            # Of one that goes on nothing is told yet; beyond these years no period has one before it.
            period = found if found.first.year > 2000 and found.first <= latest.first else latest
    return AskedReport(tenant, period, own is not None, error)


def context(request: HttpRequest, now: datetime) -> dict[str, Any] | HttpResponse:
    asked = read(request, now)
    if request.method == "POST":
        return _send_test(request, asked, now)
    may_act = may(request, ACT)
    period = asked.period
    of_it = ReportSubscription.objects.filter(tenant=asked.tenant, cadence=period.cadence, ended_at=None)
    readers = list(of_it.values_list("address", flat=True)[:50]) if may_act else []
    known = report_subscriptions.known_addresses(asked.tenant) if may_act else []
    return {
        "asked": asked,
        "errors": [asked.error] if asked.error else [],
        "tenants": [] if asked.is_bound else list(Tenant.objects.values_list("slug", flat=True)[:1_000]),
        "cadences": [
            (f"?{asked.query(cadence=one.value, first='')}", one.value.capitalize(), one is period.cadence)
            for one in Cadence
        ],
        "periods": [(one.first.isoformat(), one.title, one == period) for one in _offered(asked, now)],
        "frame": f"{reverse('admin:report-mail')}?{asked.query()}",
        "csv": f"{reverse('admin:report-mail')}?{asked.query(format='csv')}",
        "may_act": may_act,
        "sends": bool(settings.EMAIL_URL),
        "own_address": getattr(request.user, "email", ""),
        "readers": readers,
        "known": [(one, _begin(asked, one)) for one in known if one not in readers],
        "begin": _begin(asked, ""),
        "subscriptions": reverse("admin:governance_reportsubscription_changelist"),
    }


def _offered(asked: AskedReport, now: datetime) -> Iterator[ReportPeriod]:
    """The latest ones, and the one that is shown."""
    period = report_periods.last_ended(asked.period.cadence, now, asked.period.zone)
    for _ in range(OFFERED):
        yield period
        earliest, period = period, period.before
    if asked.period.first < earliest.first:
        yield asked.period


def _begin(asked: AskedReport, address: str) -> str:
    """The form of a new subscription, filled in."""
    given = {"address": address, "cadence": asked.period.cadence.value, "time_zone": str(asked.period.zone)}
    given["scope_type"] = "tenant" if asked.tenant else "platform"
    if asked.tenant is not None:
        given["tenant"] = str(asked.tenant.pk)
    return f"{reverse('admin:governance_reportsubscription_add')}?{urlencode(given)}"


def _send_test(request: HttpRequest, asked: AskedReport, now: datetime) -> HttpResponse:
    if not may(request, ACT):
        raise PermissionDenied
    try:
        address = report_subscriptions.check(address=request.POST.get("address", ""))
        report_subscriptions.send_test(
            tenant=asked.tenant, period=asked.period, address=address, by=actor(request), now=now
        )
    except (FieldError, NotSent, MoreThanRead) as error:
        messages.error(request, f"It was not sent. {error}")
    else:
        messages.success(request, f"The report was sent to {address}.")
    return redirect(f"{reverse('admin:reports')}?{asked.query()}")


def mail(request: HttpRequest, now: datetime) -> HttpResponse:
    """The message itself, or its table."""
    asked = read(request, now)
    if asked.error:
        raise Http404
    report = mails.preview(tenant=asked.tenant, period=asked.period, now=now)
    if request.GET.get("format") == "csv":
        table = HttpResponse(report.csv, content_type="text/csv; charset=utf-8")
        table["Content-Disposition"] = f'attachment; filename="{report.file_name}"'
        return table
    answer = HttpResponse(report.html)
    answer["Content-Security-Policy"] = POLICY
    answer["X-Frame-Options"] = "SAMEORIGIN"
    return answer


PAGE = ConsolePage(
    title="Reports",
    path="reports/",
    name="reports",
    template="console/reports.html",
    context=context,
    permission=has_role,
)
MAIL = ConsolePage(
    title="Report",
    path="reports/mail/",
    name="report-mail",
    template="reports/report.html",
    context=mail,
    permission=has_role,
)
