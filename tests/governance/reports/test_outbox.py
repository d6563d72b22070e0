"""Who gets which report, when, and how often: once."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from governance.actions import report_subscriptions
from governance.alerts.channels import Away, NotSent
from governance.models import AuditEntry, ReportMail, ReportSubscription
from governance.reports import links, mails, outbox, readers
from governance.rules import alerting, report_periods
from governance.rules.errors import Conflict, FieldError
from tests import factories as make
from tests.fakes.alert_receivers import MailSink
from tests.governance.reports.conftest import ADA, HOSTILE, MONDAY, WEEK, reader, spend, two_weeks

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def run(at: Any = MONDAY) -> int:
    return outbox.run(clock=lambda: at)


def parts(message: EmailMessage) -> dict[str, EmailMessage]:
    return {part.get_content_type(): part for part in message.walk()}  # type: ignore[misc]


def test_a_zone_that_is_gone_keeps_nobody_else_waiting(mail: MailSink) -> None:
    lost = reader("lost@example.com")
    reader("here@example.com")
    ReportSubscription.objects.filter(pk=lost.pk).update(time_zone="Mars/Olympus")
    assert run() == 1
    assert [to for (to,) in mail.recipients] == ["here@example.com"]


def test_a_week_that_is_over_is_told_once_at_eight_with_its_picture_and_its_table(mail: MailSink) -> None:
    two_weeks()
    reader()
    assert run(MONDAY - HOUR) == 0
    assert [run(), run(), run(MONDAY + HOUR)] == [1, 0, 0]
    (message,) = mail.got
    assert message["Subject"] == "All customers: $3.00 in 9 to 15 March 2026"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    found = parts(message)
    html, picture = found["text/html"].get_content(), found["image/png"]
    assert f"cid:{picture['Content-ID'].strip('<>')}" in html
    assert picture.get_content().startswith(b"\x89PNG")
    assert picture.get_content_disposition() == "inline"
    for shown in ("$3.00", "+50.0 %", "acme", "invoices", "large"):
        assert shown in html
        assert shown in found["text/plain"].get_content()
    assert found["text/csv"].get_filename() == "spend-all-2026-03-09-2026-03-15.csv"
    assert "total,,,3.00,2,200,40,0,2.00" in found["text/csv"].get_content()
    assert [run(MONDAY + WEEK), len(mail.got)] == [1, 2]
    assert "Nothing was spent, and no call was refused." in parts(mail.got[1])["text/html"].get_content()


def test_each_reader_has_eight_o_clock_and_mondays_of_their_own(mail: MailSink) -> None:
    berlin = make.tenant("berlin", time_zone="Europe/Berlin")
    reader("berlin@example.com", of=berlin)
    reader("angeles@example.com", time_zone="America/Los_Angeles")
    reader("monthly@example.com", cadence="monthly")
    at = MONDAY - HOUR
    assert run(at) == 1
    assert run(MONDAY + 6 * HOUR) == 0
    assert run(MONDAY + 7 * HOUR) == 1
    # The month was not over when its reader began.
    assert run(MONDAY.replace(month=4, day=1)) == 3
    assert [to[0] for to in mail.recipients[:2]] == ["berlin@example.com", "angeles@example.com"]


def test_what_did_not_run_is_told_late_and_the_latest_alone(mail: MailSink) -> None:
    reader()
    assert run(MONDAY + 3 * WEEK + timedelta(days=2)) == 1
    assert "30 March to 5 April 2026" in mail.got[0]["Subject"]


def test_a_morning_before_eight_still_tells_of_the_week_before(mail: MailSink) -> None:
    reader()
    assert [run(MONDAY + WEEK - HOUR), run(MONDAY + WEEK)] == [1, 1]
    assert ["9 to 15" in each["Subject"] for each in mail.got] == [True, False]


def test_whoever_begins_today_gets_no_report_of_what_was_before(mail: MailSink) -> None:
    reader(now=MONDAY - HOUR)
    assert run() == 0
    assert run(MONDAY + WEEK) == 1


def test_a_server_that_is_away_gets_it_later_and_one_row_says_why(mail: MailSink) -> None:
    reader()
    mail.refuses = "451 come back later"
    assert run() == 0
    row = ReportMail.objects.get()
    assert (row.state, row.tries, row.error) == ("pending", 1, "The mail server answers 451.")
    mail.refuses = ""
    assert run(MONDAY + timedelta(seconds=29)) == 0
    assert run(MONDAY + timedelta(seconds=30)) == 1
    # A mailbox can tell that it is the one that was tried before.
    assert mail.got[0]["Message-ID"].startswith(f"<report-{row.pk}@")


def test_one_that_cannot_be_written_keeps_no_other_waiting(mail: MailSink, monkeypatch: pytest.MonkeyPatch) -> None:
    reader("first@example.com")
    reader("second@example.com")
    send = mails.send

    def failing(row: ReportMail, **more: Any) -> None:
        if row.subscription.address == "first@example.com":
            raise ValueError
        send(row, **more)

    monkeypatch.setattr(mails, "send", failing)
    assert run() == 1
    assert mail.recipients == [["second@example.com"]]
    at = MONDAY
    while ReportMail.objects.filter(state="pending").exists():
        at = ReportMail.objects.get(state="pending").next_at  # type: ignore[assignment]
        outbox.drain(clock=lambda moment=at: moment)  # type: ignore[misc]
    assert at - MONDAY > timedelta(hours=20)
    assert ReportMail.objects.get(state="dead").error == "It cannot be written; the log says why."


def test_a_server_that_is_away_is_not_tried_for_every_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(outbox.MOST_IN_VAIN + 2):
        reader(f"reader{number}@example.com")
    tried = []

    def away(mail: ReportMail, **_: Any) -> None:
        tried.append(mail.pk)
        raise Away("The mail server cannot be reached.")

    monkeypatch.setattr(mails, "send", away)
    assert [run(), len(tried)] == [0, outbox.MOST_IN_VAIN]
    # Whoever was not reached yet comes first.
    run(MONDAY + timedelta(seconds=1))
    assert len(set(tried)) == len(tried) == outbox.MOST_IN_VAIN + 2


def test_readers_whom_the_server_refuses_keep_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(outbox.MOST_IN_VAIN + 2):
        reader(f"reader{number}@example.com")
    refused = []

    def refuses(mail: ReportMail, **_: Any) -> None:
        if mail.subscription.address != f"reader{outbox.MOST_IN_VAIN + 1}@example.com":
            refused.append(mail.pk)
            raise NotSent("The mail server refuses the addresses.")

    monkeypatch.setattr(mails, "send", refuses)
    assert [run(), len(refused)] == [1, outbox.MOST_IN_VAIN + 1]


def test_former_users_get_no_report_and_are_no_readers_of_a_new_one(mail: MailSink) -> None:
    acme, globex = make.tenant("acme"), make.tenant("globex")
    people = {
        "left": make.person("left", "owner", email="Left@example.com"),
        "lost": make.person("lost", "viewer", email="lost@example.com"),
        "moved": make.person("moved", "tenant staff", of=acme, email="moved@example.com"),
        "stays": make.person("stays", "viewer", email="stays@example.com"),
    }
    for name in people:
        reader(f"{name}@example.com", of=acme if name == "moved" else None)
    # Nobody's account: whoever subscribed it answers for it.
    reader("outside@example.com", of=acme)
    User.objects.filter(pk=people["left"].pk).update(is_active=False)
    people["lost"].groups.clear()
    people["moved"].tenant_staff.tenant = globex
    people["moved"].tenant_staff.save()
    assert run() == 2
    assert sorted(to for (to,) in mail.recipients) == ["outside@example.com", "stays@example.com"]
    dropped = ReportMail.objects.filter(state=ReportMail.State.DROPPED)
    assert {row.error for row in dropped} == {readers.FORMER}
    assert dropped.count() == 3
    with pytest.raises(FieldError, match="may not read this report"):
        reader("left@example.com", cadence="monthly")
    # Back again, the next report comes.
    User.objects.filter(pk=people["left"].pk).update(is_active=True)
    assert run(MONDAY + WEEK) == 3


def test_however_many_are_dropped_the_next_in_line_gets_its_report(
    mail: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAILS", 2)
    for number in range(5):
        report = reader(f"gone{number}@example.com")
        outbox.put(now=MONDAY)
        ReportSubscription.objects.filter(pk=report.pk).update(ended_at=MONDAY, ended_by="ada")
    reader("here@example.com")
    assert run(MONDAY + HOUR) == 1
    assert mail.recipients == [["here@example.com"]]


def test_one_that_ends_each_worker_is_given_up(mail: MailSink) -> None:
    reader()
    outbox.put(now=MONDAY)
    ReportMail.objects.update(state=ReportMail.State.SENDING, tries=alerting.MOST_TRIES)
    assert [run(), mail.got] == [0, []]
    assert ReportMail.objects.get().state == ReportMail.State.DEAD


def test_an_address_that_cannot_be_written_is_told(mail: MailSink) -> None:
    period = report_periods.last_ended(report_periods.Cadence.WEEKLY, MONDAY, ZoneInfo("UTC"))
    with pytest.raises(NotSent, match="to this address"):
        report_subscriptions.send_test(tenant=None, period=period, address=f"a@{'ä' * 60}.example", by=ADA, now=MONDAY)


def test_a_customers_own_owner_is_not_offered_the_platforms() -> None:
    for name, roles in (("ada", ["owner"]), ("eve", ["owner", "tenant staff"])):
        user = User.objects.create_user(name, f"{name}@example.com", is_staff=True)
        user.groups.set([Group.objects.get_or_create(name=role)[0] for role in roles])
    assert report_subscriptions.known_addresses(None) == ["ada@example.com"]


def test_a_customer_is_told_of_itself_alone(mail: MailSink) -> None:
    acme, globex = make.tenant("acme"), make.tenant("globex")
    two_weeks(acme)
    for _ in range(3):
        spend("500.00", MONDAY - timedelta(days=3), of=globex, agent="secret-agent")
    make.budget("1.00", scope_type="platform", window="lifetime")
    reader("acme@example.com", of=acme)
    assert run() == 1
    for part in parts(mail.got[0]).values():
        words = part.get_content() if not part.is_multipart() else ""
        if isinstance(words, str):
            assert not any(other in words for other in ("globex", "secret-agent", "500", "1,50", "platform")), words


def test_names_are_words_and_nothing_else(mail: MailSink) -> None:
    acme = make.tenant("acme", name=HOSTILE)
    spend("1.00", MONDAY - timedelta(days=2), of=acme, agent=HOSTILE.replace("\u202e", ""))
    reader()
    reader("acme@example.com", of=acme)
    assert run() == 2
    for message in mail.got:
        found = parts(message)
        assert "<img src=x" not in found["text/html"].get_content()
        assert "\u202e" not in message["Subject"] + found["text/plain"].get_content()
        rows = list(csv.DictReader(io.StringIO(found["text/csv"].get_content())))
        assert [row["name"][:5] for row in rows if row["group"] == "agent"] == ["'=cmd"]
        assert len(message["Subject"]) <= 200


def test_a_link_ends_it_by_a_post_alone(mail: MailSink, client: Client) -> None:
    subscription = reader()
    assert run() == 1
    path = urlsplit(mail.got[0]["List-Unsubscribe"].strip(" <>\r\n")).path
    assert path in parts(mail.got[0])["text/plain"].get_content()
    strict = Client(enforce_csrf_checks=True)
    # What scans mail follows every link.
    assert "Send no more of these" in strict.get(path).content.decode()
    assert ReportSubscription.objects.get().ended_at is None
    for _ in range(2):
        answer = strict.post(path, {"List-Unsubscribe": "One-Click"})
        assert "is not sent any more" in answer.content.decode()
    assert ReportSubscription.objects.get().ended_by == "the link in a report"
    assert "is not sent any more" in strict.get(path).content.decode()
    assert AuditEntry.objects.filter(action="report_subscription.end").count() == 1
    assert run(MONDAY + WEEK) == 0
    for wrong in (path[:-2], path.replace(":", "x"), "/reports/unsubscribe/x"):
        assert strict.post(wrong).status_code == 404
    # Begun again, it is the same one, and tells of what is over from now on.
    again = report_subscriptions.subscribe(
        tenant=None, address="Owner@example.com ", cadence="weekly", by=ADA, now=MONDAY + WEEK
    )
    assert again.pk == subscription.pk
    assert run(MONDAY + 2 * WEEK) == 1


def test_what_waits_is_dropped_when_its_reader_has_enough(mail: MailSink) -> None:
    subscription = reader()
    outbox.put(now=MONDAY)
    row = outbox.claim(now=MONDAY)
    assert row is not None
    report_subscriptions.end(subscription=subscription, by=ADA, now=MONDAY)
    outbox.mark(row, error="The mail server answers 451.", now=MONDAY)
    assert run(MONDAY + HOUR) == 0
    assert ReportMail.objects.get().state == "dropped"


def test_an_address_is_one_and_a_report_is_sent_there_once() -> None:
    reader()
    with pytest.raises(Conflict, match="already"):
        reader(" OWNER@example.com")
    for wrong in ("", "nobody", "a@example.com,b@example.com", "a@example.com\nBcc: b@example.com"):
        with pytest.raises(FieldError):
            reader(wrong)
    with pytest.raises(FieldError, match="weekly"):
        reader("a@example.com", cadence="daily")
    with pytest.raises(FieldError, match="IANA"):
        reader("a@example.com", time_zone="Mars/Base")
    token = links.unsubscribe(reader("b@example.com"))
    ReportSubscription.objects.filter(address="b@example.com").delete()
    assert links.subscription_of(token.rsplit("/", 1)[-1]) is None


def test_what_is_old_is_deleted(mail: MailSink) -> None:
    reader()
    run()
    assert outbox.purge(now=MONDAY + outbox.KEPT) == 0
    assert outbox.purge(now=MONDAY + outbox.KEPT + HOUR) == 1


def test_an_address_has_one_form() -> None:
    assert report_subscriptions.check(address=" Ada@Example.com, ") == "ada@example.com"
    for wrong in ("", ",", "ada@example.com, eve@example.com"):
        with pytest.raises(FieldError, match="one e-mail address"):
            report_subscriptions.check(address=wrong)
