"""`manage.py send_report`"""

from __future__ import annotations

import getpass
import json
import sys
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance.actions import report_subscriptions, tenancy
from governance.alerts.channels import NotSent
from governance.audit import Actor
from governance.management.terminal import TerminalCommand
from governance.models import Tenant
from governance.queries.breakdown import MoreThanRead
from governance.reports import mails
from governance.rules import report_periods
from governance.rules.errors import FieldError
from governance.rules.report_periods import Cadence, ReportPeriod


class Command(TerminalCommand):
    help = (
        "Send one weekly or monthly report to somebody, beside all subscriptions. Exits with 1 where it did not leave. "
        "Subscriptions are made in the console: Spend, Reports by e-mail."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--to", required=True, metavar="ADDRESS", help="the e-mail address that it goes to")
        parser.add_argument(
            "--period", default="weekly", choices=[one.value for one in Cadence], help="default: weekly"
        )
        parser.add_argument(
            "--day", metavar="2026-03-10", help="a day of its week or month; default: the last one over"
        )
        parser.add_argument("--tenant", default="", help="this customer's; default: of the whole platform")
        parser.add_argument("--dry-run", action="store_true", help="send nothing; print the report as plain text")
        parser.add_argument("--json", action="store_true", help="print {to, subject, first_day, sent, error}")

    def handle(self, *, to: str, period: str, day: str | None, **options: Any) -> None:
        now = timezone.now()
        try:
            tenant = tenancy.tenant_named(options["tenant"]) if options["tenant"] else None
            address = report_subscriptions.check(address=to)
            asked = _period(Cadence(period), day, tenant)
            report = mails.preview(tenant=tenant, period=asked, now=now)
        except FieldError as error:
            raise CommandError(f"--{'to' if error.field == 'address' else error.field}: {error.message}") from error
        except MoreThanRead as error:
            raise CommandError(str(error)) from error
        problem = ""
        if not options["dry_run"]:
            by = Actor(f"command line ({getpass.getuser()})")
            try:
                report_subscriptions.send_test(tenant=tenant, period=asked, address=address, by=by, now=now)
            except NotSent as error:
                problem = str(error)
        told = {"to": address, "subject": report.subject, "first_day": asked.first.isoformat()}
        is_sent = not problem and not options["dry_run"]
        if options["json"]:
            self.stdout.write(json.dumps(told | {"sent": is_sent, "error": problem}))
        elif options["dry_run"]:
            self.stdout.write(report.text, ending="")
        elif is_sent:
            self.stdout.write(f"Sent to {address}: {report.subject}")
        if problem:
            if not options["json"]:
                self.stderr.write(f"It was not sent. {problem}")
            sys.exit(1)


def _period(cadence: Cadence, day: str | None, tenant: Tenant | None) -> ReportPeriod:
    zone = tenant.zone if tenant else ZoneInfo("UTC")
    if not day:
        return report_periods.last_ended(cadence, timezone.now(), zone)
    try:
        found = report_periods.holding(cadence, date.fromisoformat(day), zone)
    except (ValueError, OverflowError):
        raise FieldError("day", "is a day such as 2026-03-10") from None
    if not 2000 < found.first.year < 9000:
        raise FieldError("day", "is between the years 2001 and 8999")
    return found
