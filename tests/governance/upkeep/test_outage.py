"""A database that is away is told of all the same: to ALERT_URLS, once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import time_machine
from django.db import OperationalError

from governance import tasks
from governance.actions import alert_channels
from governance.alerts import channels
from governance.alerts.channels import NotSent, Target
from governance.alerts.messages import Message
from governance.audit import Actor
from governance.models import AlertDelivery, AlertNotice
from governance.upkeep import outage, telling
from tests.factories import NOON
from tests.fakes.alert_receivers import Receiver, receiver

MINUTE = timedelta(minutes=1)
AWAY = OperationalError("the server closed the connection")


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture(autouse=True)
def var_dir(settings: Any, tmp_path: Path) -> Path:
    settings.VAR_DIR, settings.ALERT_URLS = tmp_path, []
    return tmp_path


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """What goes to ALERT_URLS; "json://nobody" takes nothing."""
    found: list[Message] = []

    def send(target: Target, message: Message) -> None:
        if target.secret == "json://nobody":
            raise NotSent("Nobody is there.")
        found.append(message)

    monkeypatch.setattr(channels, "send", send)
    return found


def answered(sqlstate: str) -> OperationalError:
    """Django's error of PostgreSQL's."""
    error = OperationalError("as PostgreSQL says")
    error.__cause__ = psycopg.errors.lookup(sqlstate)()
    return error


@pytest.mark.django_db
def test_it_is_told_once_after_a_minute_and_that_it_is_over_when_it_answers(
    settings: Any, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALERT_URLS = [hook.url.replace("http://", "json://"), "json://127.0.0.1:1/nobody"]
    with monkeypatch.context() as patched:

        def away(**_: Any) -> int:
            raise AWAY

        patched.setattr(telling, "run", away)
        for minute in (0, 0.5, 1, 2, 60):
            with time_machine.travel(NOON + minute * MINUTE, tick=False), pytest.raises(OperationalError):
                tasks.send_alerts()
    # One that takes too long to answer gets the same again.
    [words] = {body["message"] for body in hook.bodies}
    assert words.startswith("The database of Spend Governor has not answered since 12:00 UTC")
    for minute in (62, 63):
        with time_machine.travel(NOON + minute * MINUTE, tick=False):
            tasks.send_alerts()
    body = hook.bodies[-1]
    assert body["title"] == "Over: The database was away"
    assert "It did not answer from 12:00 to 13:02 UTC" in body["message"]


@pytest.mark.django_db
def test_it_is_one_incident_of_which_others_hear_when_it_is_over(settings: Any, sent: list[Message]) -> None:
    settings.ALERT_URLS = ["pagerduty://key@key"]
    alert_channels.create(kind="email", name="owner", target="owner@example.com", by=Actor("ada"), now=NOON)
    outage.seen(AWAY, now=NOON)
    assert outage.seen(AWAY, now=NOON + MINUTE)
    telling.run(clock=lambda: NOON + 2 * MINUTE)
    outage.over(now=NOON + 2 * MINUTE)
    telling.run(clock=lambda: NOON + 3 * MINUTE)
    assert {notice.incident for notice in AlertNotice.objects.all()} == {sent[0].incident}
    assert sorted(AlertDelivery.objects.values_list("channel__name", "notice__what", "state")) == [
        ("ALERT_URLS 1", "opened", "sent"),
        ("ALERT_URLS 1", "over", "sent"),
        ("owner", "opened", "sent"),
        ("owner", "over", "sent"),
    ]
    assert [message.is_over for message in sent if not message.title.startswith("2 alerts")] == [False, True]


def test_several_processes_tell_once(settings: Any, sent: list[Message], monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ALERT_URLS = ["json://somebody"]
    outage.seen(AWAY, now=NOON)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: outage.seen(AWAY, now=NOON + MINUTE), range(32)))
    assert (sum(told), len(sent)) == (1, 1)


def test_where_nobody_takes_it_the_next_job_tries_again(settings: Any, sent: list[Message]) -> None:
    settings.ALERT_URLS = ["json://nobody"]
    outage.seen(AWAY, now=NOON)
    assert not outage.seen(AWAY, now=NOON + MINUTE)
    settings.ALERT_URLS = ["json://nobody", "json://somebody"]
    assert outage.seen(AWAY, now=NOON + 2 * MINUTE)
    assert not outage.seen(AWAY, now=NOON + 3 * MINUTE)
    assert "since 12:00 UTC" in sent[0].text


def test_where_whoever_tells_is_killed_another_one_tells(
    settings: Any, sent: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALERT_URLS = ["json://somebody"]
    outage.seen(AWAY, now=NOON)

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(outage, "_is_sent", killed)
        with pytest.raises(Killed):
            outage.seen(AWAY, now=NOON + MINUTE)
    # It may be at it still.
    assert not outage.seen(AWAY, now=NOON + 2 * MINUTE)
    long_ago = time.time() - outage.LEASE.total_seconds() - 1
    os.utime(outage._file(outage.TELLING), (long_ago, long_ago))
    assert outage.seen(AWAY, now=NOON + 7 * MINUTE)
    assert "since 12:00 UTC" in sent[0].text


@pytest.mark.django_db
def test_an_outage_that_ends_while_it_is_told_is_over(
    settings: Any, sent: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALERT_URLS = ["json://somebody"]
    telling.run(clock=lambda: NOON)
    outage.seen(AWAY, now=NOON)
    tell = outage._is_sent

    def meanwhile(*args: Any) -> bool:
        outage.over(now=NOON + MINUTE)
        return tell(*args)

    monkeypatch.setattr(outage, "_is_sent", meanwhile)
    assert not outage.seen(AWAY, now=NOON + MINUTE)
    assert [notice.what for notice in AlertNotice.objects.order_by("pk")] == ["opened", "over"]
    assert not list(outage._file(outage.UNTOLD).parent.glob("database-away*"))


@pytest.mark.parametrize(
    ("sqlstate", "is_away"),
    [
        ("57P01", True),
        ("57P03", True),
        ("53300", True),
        ("53100", True),
        ("08006", True),
        # A statement took too long, a lock was not to be had, two waited for each other: it answered.
        ("57014", False),
        ("55P03", False),
        ("40P01", False),
    ],
)
def test_a_database_that_answers_is_not_away(sqlstate: str, is_away: bool) -> None:
    for minute in range(3):
        outage.seen(answered(sqlstate), now=NOON + minute * MINUTE)
    assert (outage._since(outage._file(outage.TOLD)) is not None) == is_away


def test_what_no_file_can_say_begins_anew(var_dir: Path) -> None:
    (var_dir / outage.UNTOLD).write_text(NOON.isoformat()[:16])
    assert not outage.seen(AWAY, now=NOON)
    assert not outage.seen(AWAY, now=NOON + MINUTE / 2)
    assert outage.seen(AWAY, now=NOON + MINUTE)


def test_where_nothing_can_be_noted_nobody_is_told_twice(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path / "nowhere"
    assert not outage.seen(AWAY, now=NOON)
    assert not outage.seen(AWAY, now=NOON + MINUTE)
