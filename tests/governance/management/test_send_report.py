"""`manage.py send_report`"""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command

from governance.models import AuditEntry, ReportMail
from tests import factories as make
from tests.fakes.alert_receivers import MailSink
from tests.governance.reports.conftest import MONDAY, mail, two_weeks

pytestmark = pytest.mark.django_db
__all__ = ["mail"]


def said(*arguments: str, **options: Any) -> str:
    out = StringIO()
    with time_machine.travel(MONDAY, tick=False):
        call_command("send_report", *arguments, stdout=out, **options)
    return out.getvalue()


def test_a_dry_run_prints_it_and_sends_nothing(mail: MailSink) -> None:
    two_weeks()
    words = said("--to", "owner@example.com", "--dry-run")
    assert words.startswith("All customers: $3.00 in 9 to 15 March 2026\n")
    assert "By day" in words
    assert mail.got == []
    assert AuditEntry.objects.count() == 0


def test_it_is_sent_beside_all_subscriptions(mail: MailSink) -> None:
    two_weeks(make.tenant("acme"))
    told = json.loads(
        said("--to", "a@example.com", "--tenant", "acme", "--period", "monthly", "--day", "2026-03-09", "--json")
    )
    assert told["sent"] is True
    assert (told["first_day"], told["error"]) == ("2026-03-01", "")
    assert mail.got[0]["Subject"] == "Test: Acme: $5.00 in March 2026"
    assert mail.got[0]["List-Unsubscribe"] is None
    assert ReportMail.objects.count() == 0
    assert AuditEntry.objects.get().action == "report.send_test"
    mail.refuses = "554 no"
    with pytest.raises(SystemExit) as ended:
        said("--to", "a@example.com", stderr=StringIO())
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "nobody"), "--to: "),
        (("--to", "a@example.com", "--day", "soon"), "--day: is a day such as 2026-03-10"),
        (("--to", "a@example.com", "--day", "0001-01-01"), "--day: "),
        (("--to", "a@example.com", "--day", "9999-12-31"), "--day: "),
        (("--to", "a@example.com", "--tenant", "nobody"), "--tenant: "),
    ],
)
def test_what_is_asked_wrongly_is_named(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        said(*arguments)
