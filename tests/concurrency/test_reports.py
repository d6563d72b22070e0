"""Workers race to send a report, and one is killed over it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from governance.models import ReportMail
from governance.reports import outbox
from tests.concurrency.processes import in_threads, kill_at
from tests.fakes.alert_receivers import MailSink, mail_server
from tests.governance.reports.conftest import MONDAY, reader, two_weeks

READERS, WORKERS = 6, 4


@pytest.fixture
def mail(settings: Any) -> Iterator[MailSink]:
    with mail_server(settings) as sink:
        yield sink


def test_four_workers_send_each_reader_one(mail: MailSink) -> None:
    two_weeks()
    for number in range(READERS):
        reader(f"reader-{number}@example.com")
    left = in_threads(WORKERS, lambda _: outbox.run(clock=lambda: MONDAY))
    assert sum(left) == READERS, left
    assert sorted(to for (to,) in mail.recipients) == [f"reader-{number}@example.com" for number in range(READERS)]
    assert set(ReportMail.objects.values_list("state", "tries")) == {("sent", 1)}


@pytest.mark.parametrize("point", ["before the message leaves", "before it is marked"])
def test_a_worker_that_is_killed_over_a_report_loses_none_and_a_mailbox_can_tell(mail: MailSink, point: str) -> None:
    reader()
    kill_at(
        outbox, "_send" if point == "before the message leaves" else "mark", lambda: outbox.run(clock=lambda: MONDAY)
    )
    assert ReportMail.objects.get().state == "sending"
    assert outbox.run(clock=lambda: MONDAY + timedelta(seconds=30)) == 0
    assert outbox.run(clock=lambda: MONDAY + outbox.LEASE) == 1
    assert outbox.run(clock=lambda: MONDAY + outbox.LEASE * 2) == 0
    assert len({message["Message-ID"] for message in mail.got}) == 1
    assert len(mail.got) == (1 if point == "before the message leaves" else 2)
