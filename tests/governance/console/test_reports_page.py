"""The console's page of reports, and who may do what there."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client

from governance.actions import report_subscriptions
from governance.models import AuditEntry, ReportSubscription, Tenant
from governance.rules.errors import Conflict
from tests import factories as make
from tests.fakes.alert_receivers import MailSink
from tests.governance.reports.conftest import HOSTILE, MONDAY, mail, reader, spend, two_weeks

pytestmark = pytest.mark.django_db
__all__ = ["mail"]
PAGE, MAIL = "/admin/reports/", "/admin/reports/mail/"
NEW = "/admin/governance/reportsubscription/add/"


@pytest.fixture(autouse=True)
def monday() -> Any:
    with time_machine.travel(MONDAY + timedelta(hours=1), tick=False):
        yield


def signed_in(*roles: str, of: Tenant | None = None, **fields: Any) -> Client:
    client = Client()
    client.force_login(make.person("pat", *roles, of=of, **fields))
    return client


def asked_for(address: str, time_zone: str = "UTC") -> dict[str, str]:
    """A filled-in form for the platform's weekly report."""
    of_whom = {"scope_type": "platform", "tenant": ""}
    return of_whom | {"address": address, "cadence": "weekly", "time_zone": time_zone}


def html(client: Client, path: str, **asked: str) -> str:
    answer = client.get(path, asked)
    assert answer.status_code == 200
    return answer.content.decode()


def test_any_report_can_be_read_before_anybody_gets_it(admin_client: Client) -> None:
    two_weeks(make.tenant("acme", name=HOSTILE))
    page = html(admin_client, PAGE, tenant="acme", cadence="weekly", first="2026-03-05")
    assert "2 to 8 March 2026</option>" in page
    frame = re.search(r'src="(/admin/reports/mail/[^"]+)"', page)
    assert frame is not None
    answer = admin_client.get(frame[1].replace("&amp;", "&"))
    shown = answer.content.decode()
    assert "$2.00" in shown
    assert "data:image/png;base64," in shown
    assert "<img src=x" not in shown
    # It runs nothing, and is framed by our own page alone.
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert "sandbox" in answer["Content-Security-Policy"]
    assert answer["X-Frame-Options"] == "SAMEORIGIN"
    table = admin_client.get(MAIL, {"tenant": "acme", "cadence": "monthly", "format": "csv"})
    assert table["Content-Disposition"] == 'attachment; filename="spend-acme-2026-02-01-2026-02-28.csv"'


def test_what_is_asked_wrongly_is_answered_by_the_last_one(admin_client: Client) -> None:
    for asked in (
        {"first": "soon"},
        {"first": "0001-01-01"},
        {"first": "9999-12-31"},
        {"cadence": "x"},
        {"tenant": "no"},
    ):
        assert "9 to 15 March 2026" in html(admin_client, PAGE, **asked)
    assert admin_client.get(MAIL, {"tenant": "no"}).status_code == 404


def test_a_test_is_sent_to_whoever_presses(mail: MailSink) -> None:
    two_weeks()
    client = signed_in("operator", email="pat@example.com")
    page = html(client, PAGE)
    assert 'value="pat@example.com"' in page
    asked = {"cadence": "weekly", "first": "2026-03-09", "tenant": "acme", "address": "pat@example.com"}
    assert "The report was sent to pat@example.com." in client.post(PAGE, asked, follow=True).content.decode()
    assert mail.got[0]["Subject"] == "Test: Acme: $3.00 in 9 to 15 March 2026"
    assert AuditEntry.objects.get().actor == "pat"
    mail.refuses = "554 no"
    assert "It was not sent. The mail server answers 554." in client.post(PAGE, asked, follow=True).content.decode()
    for wrong in ("", "a@example.com,b@example.com"):
        assert "It was not sent." in client.post(PAGE, asked | {"address": wrong}, follow=True).content.decode()
    assert len(mail.got) == 1


def test_a_customers_own_people_read_their_own_and_send_nothing(mail: MailSink) -> None:
    acme, globex = make.tenant("acme"), make.tenant("globex")
    spend("7.00", MONDAY - timedelta(days=2), of=globex, agent="secret-agent")
    reader("globex@example.com", of=globex)
    client = signed_in("tenant staff", of=acme)
    for path in (PAGE, MAIL):
        for asked in ({}, {"tenant": "globex"}):
            shown = html(client, path, **asked)
            assert not any(other in shown for other in ("globex", "secret-agent", "$7.00", "All customers"))
    asked = {"cadence": "weekly", "tenant": "globex", "address": "a@example.com"}
    assert client.post(PAGE, asked).status_code == 403
    assert client.get("/admin/governance/reportsubscription/").status_code == 403
    assert mail.got == []


def test_a_viewer_reads_and_begins_nothing() -> None:
    client = signed_in("viewer")
    assert "Send a test" not in html(client, PAGE)
    assert client.post(PAGE, {"address": "a@example.com"}).status_code == 403
    assert client.get(NEW).status_code == 403
    assert Client().get(PAGE).status_code == 302


def test_known_addresses_are_offered_and_one_is_begun_and_ended() -> None:
    client = signed_in("operator")
    make.person("olga", "owner", email="Olga@example.com")
    page = html(client, PAGE)
    link = re.search(r'href="([^"]+address=olga%40example.com[^"]*)"', page)
    assert link is not None
    form = html(client, link[1].replace("&amp;", "&"))
    assert 'value="olga@example.com"' in form
    assert '<option value="platform" selected>the whole platform: all customers</option>' in form
    given = {
        "scope_type": "platform",
        "tenant": "",
        "address": "Olga@example.com",
        "cadence": "weekly",
        "time_zone": "Europe/Berlin",
    }
    assert client.post(NEW, given).status_code == 302
    row = ReportSubscription.objects.get()
    assert (row.address, row.time_zone) == ("olga@example.com", "Europe/Berlin")
    assert "sent there already" in client.post(NEW, given).content.decode()
    assert "IANA" in client.post(NEW, given | {"address": "b@example.com", "time_zone": "Mars"}).content.decode()
    assert "olga@example.com" in html(client, PAGE)
    client.post(f"/admin/governance/reportsubscription/{row.pk}/end/", {"reason": "She left.", "_confirmed": "1"})
    row.refresh_from_db()
    assert row.ended_by == "pat"
    assert "ended by pat" in html(client, "/admin/governance/reportsubscription/")
    again = client.post(NEW, given, follow=True).content.decode()
    assert "It had been ended by pat, and is begun again." in again
    assert ReportSubscription.objects.get(ended_at=None).pk == row.pk


def test_of_whom_it_is_is_said_and_nobody_reads_more_than_in_the_console() -> None:
    client, acme = signed_in("operator"), make.tenant("acme")
    given = {"tenant": "", "address": "olga@example.com", "cadence": "weekly", "time_zone": "UTC"}
    assert "This field is required." in client.post(NEW, given).content.decode()
    assert "Choose one, or the platform." in client.post(NEW, given | {"scope_type": "tenant"}).content.decode()
    both = given | {"scope_type": "platform", "tenant": str(acme.pk)}
    assert "of all customers: leave it empty." in client.post(NEW, both).content.decode()
    make.person("olga", "tenant staff", of=acme, email="olga@example.com")
    wide = client.post(NEW, given | {"scope_type": "platform"}).content.decode()
    assert "is of a console user who may not read this report" in wide
    assert client.post(NEW, both | {"scope_type": "tenant"}).status_code == 302
    row = ReportSubscription.objects.get()
    assert row.tenant == acme
    assert "acme" in html(client, f"/admin/governance/reportsubscription/{row.pk}/change/")


def test_a_form_says_whom_it_is_of_and_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    client = signed_in("operator")
    assert "the whole platform: all customers</option>" in html(client, NEW)
    reader("ann@example.com")
    monkeypatch.setattr(report_subscriptions, "MOST_SUBSCRIPTIONS", 1)
    given = {
        "scope_type": "platform",
        "tenant": "",
        "address": "olga@example.com",
        "cadence": "weekly",
        "time_zone": "UTC",
    }
    assert "there are 1 subscriptions already" in client.post(NEW, given).content.decode()
    with pytest.raises(Conflict):
        reader("bob@example.com")
    assert ReportSubscription.objects.count() == 1
