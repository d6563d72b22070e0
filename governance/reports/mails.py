"""A report as a message: its picture within it, its figures attached, and headers by which mail programs end it."""

from __future__ import annotations

import base64
from datetime import datetime
from email.mime.image import MIMEImage
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import uuid_utils.compat as uuids
from django.conf import settings
from django.core.mail import EmailMultiAlternatives

from governance.alerts.channels import email
from governance.models import ReportMail, Tenant
from governance.queries import report_figures
from governance.reports import links, rendering
from governance.reports.rendering import CHART, RenderedReport
from governance.rules.report_periods import Cadence, ReportPeriod


def period_of(mail: ReportMail) -> ReportPeriod:
    subscription = mail.subscription
    return ReportPeriod(Cadence(subscription.cadence), mail.first_day, ZoneInfo(subscription.time_zone))


def send(mail: ReportMail, *, now: datetime) -> None:
    """Send what a row of the outbox says. Raises NotSent."""
    subscription = mail.subscription
    link = links.unsubscribe(subscription)
    figures = report_figures.of_period(tenant=subscription.tenant, period=period_of(mail), now=now)
    report = rendering.render(figures, image=_by_content_id, unsubscribe=link)
    # RFC 8058: mail programs have a button for these.
    headers = {"List-Unsubscribe": f"<{link}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    email.post(_message(report, id=f"report-{mail.pk}", to=subscription.address, headers=headers))


def send_test(*, tenant: Tenant | None, period: ReportPeriod, to: str, now: datetime) -> None:
    """Send one report to somebody, at once and beside all subscriptions. Raises NotSent."""
    figures = report_figures.of_period(tenant=tenant, period=period, now=now)
    report = rendering.render(figures, image=_by_content_id, is_test=True)
    email.post(_message(report, id=f"report-test-{uuids.uuid7()}", to=to, headers={}))


def preview(*, tenant: Tenant | None, period: ReportPeriod, now: datetime) -> RenderedReport:
    """As it is read, with its picture in the HTML itself. Nothing is sent."""
    figures = report_figures.of_period(tenant=tenant, period=period, now=now)
    return rendering.render(figures, image=_in_the_page)


def _message(report: RenderedReport, *, id: str, to: str, headers: dict[str, str]) -> EmailMultiAlternatives:
    mail = email.written(id=id, to=[to], subject=report.subject, text=report.text, headers=headers)
    mail.attach_alternative(report.html, "text/html")
    if report.chart:
        picture = MIMEImage(report.chart, "png")
        picture.add_header("Content-ID", f"<{_content_id()}>")
        picture.add_header("Content-Disposition", "inline", filename="spend.png")
        mail.attach(picture)
    mail.attach(report.file_name, report.csv, "text/csv")
    return mail


def _content_id() -> str:
    return f"{CHART}@{urlsplit(settings.APP_URL).hostname or 'localhost'}"


def _by_content_id(picture: bytes) -> str:
    return f"cid:{_content_id()}"


def _in_the_page(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
