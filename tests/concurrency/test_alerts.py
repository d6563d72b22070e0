"""A hundred calls cross one threshold at a moment, workers race to tell of it, and one is killed over the message."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from standardwebhooks.webhooks import Webhook

from governance import alerts, ledger
from governance.actions import alert_channels
from governance.alerts import outbox
from governance.audit import Actor
from governance.models import Alert, AlertDelivery, AlertNotice
from governance.upkeep import telling
from tests import factories as make
from tests.concurrency.processes import in_threads, kill_at
from tests.factories import NOON
from tests.fakes.alert_receivers import MailSink, Receiver, mail_server, receiver

ADA = Actor("ada")
CROSSERS, WORKERS = 100, 4


@pytest.fixture
def hook(settings: Any) -> Iterator[Receiver]:
    settings.PRIVATE_ENDPOINTS = True
    with receiver() as made:
        yield made


@pytest.fixture
def mail(settings: Any) -> Iterator[MailSink]:
    with mail_server(settings) as sink:
        yield sink


def told_of(hook: Receiver, secret: str) -> list[str]:
    return [Webhook(secret).verify(body.decode(), headers)["data"]["title"] for headers, body in hook.got]


def test_a_hundred_crossers_and_four_workers_are_one_message_a_channel(hook: Receiver, mail: MailSink) -> None:
    make.budget("1.00")
    secret = alert_channels.create(kind="webhook", name="hook", target=hook.url, by=ADA, now=NOON).secret
    alert_channels.create(kind="email", name="owner", target="owner@example.com", by=ADA, now=NOON)
    held = [make.reserving("0.0076") for _ in range(CROSSERS)]
    for op in held:
        ledger.reserve(op, now=NOON)

    def cross(index: int) -> None:
        ledger.settle(make.settling(held[index].reservation_id, "0.0076"), now=NOON)

    assert in_threads(CROSSERS, cross) == [None] * CROSSERS
    arrived = in_threads(WORKERS, lambda _: telling.run(clock=lambda: NOON))
    assert sum(arrived) == 2, arrived
    assert told_of(hook, secret) == ["The daily budget of acme is at 75%"]
    assert [message["subject"] for message in mail.got] == ["The daily budget of acme is at 75%"]


def test_many_who_see_one_thing_are_one_alert_and_one_message(hook: Receiver) -> None:
    secret = alert_channels.create(kind="webhook", name="hook", target=hook.url, by=ADA, now=NOON).secret

    def see(_: int) -> None:
        alerts.report(kind="upstream_auth", subject="mistral", message="It was refused.", severity="critical", now=NOON)

    assert in_threads(16, see) == [None] * 16
    in_threads(WORKERS, lambda _: telling.run(clock=lambda: NOON))
    in_threads(16, lambda _: alerts.clear(kind="upstream_auth", subject="mistral", now=NOON))
    in_threads(WORKERS, lambda _: telling.run(clock=lambda: NOON))
    title = "A provider refuses our key: mistral"
    assert told_of(hook, secret) == [title, f"Over: {title}"]
    assert Alert.objects.get().count == 16


@pytest.mark.parametrize("point", ["before the message leaves", "before it is marked"])
def test_a_worker_that_is_killed_over_a_message_loses_none_and_a_receiver_can_tell(hook: Receiver, point: str) -> None:
    secret = alert_channels.create(kind="webhook", name="hook", target=hook.url, by=ADA, now=NOON).secret
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed.", now=NOON)
    kill_at(
        outbox, "_send" if point == "before the message leaves" else "mark", lambda: telling.run(clock=lambda: NOON)
    )
    assert AlertDelivery.objects.get().state == "sending"
    assert telling.run(clock=lambda: NOON + timedelta(seconds=30)) == 0
    assert telling.run(clock=lambda: NOON + outbox.LEASE) == 1
    assert telling.run(clock=lambda: NOON + outbox.LEASE * 2) == 0
    assert len({headers["webhook-id"] for headers, _ in hook.got}) == 1
    assert len(told_of(hook, secret)) == (1 if point == "before the message leaves" else 2)


def test_a_transaction_that_is_undone_tells_of_nothing(hook: Receiver) -> None:
    alert_channels.create(kind="webhook", name="hook", target=hook.url, by=ADA, now=NOON)
    with transaction.atomic():
        alerts.report(kind="dead_letter", subject="evt_1", message="It failed.", now=NOON)
        transaction.set_rollback(True)
    telling.run(clock=lambda: NOON)
    assert (hook.got, AlertNotice.objects.count()) == ([], 0)
