"""Workers race to send a report, and one is killed over it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from governance.models import ReportMail
from governance.reports import outbox
from tests.concurrency.processes import FORK, in_threads, let_go_of_connections
from tests.fakes.alert_receivers import MailSink, mail_sink
from tests.governance.reports.conftest import MONDAY, reader, two_weeks

READERS, WORKERS = 6, 4


@pytest.fixture
def mail(settings: Any) -> Iterator[MailSink]:
    with mail_sink() as sink:
        settings.EMAIL_URL = f"smtp://127.0.0.1:{sink.port}"
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", sink.port
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
    let_go_of_connections()

    def work() -> None:
        def die(*args: Any, **kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

        setattr(outbox, "_send" if point == "before the message leaves" else "mark", die)
        outbox.run(clock=lambda: MONDAY)

    child = FORK.Process(target=work, daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert ReportMail.objects.get().state == "sending"
    assert outbox.run(clock=lambda: MONDAY + timedelta(seconds=30)) == 0
    assert outbox.run(clock=lambda: MONDAY + outbox.LEASE) == 1
    assert outbox.run(clock=lambda: MONDAY + outbox.LEASE * 2) == 0
    assert len({message["Message-ID"] for message in mail.got}) == 1
    assert len(mail.got) == (1 if point == "before the message leaves" else 2)
