"""Receivers of alerts, and channels that lead to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from governance.actions import alert_channels
from governance.audit import Actor
from governance.models import AlertChannel
from tests.factories import NOON
from tests.fakes.alert_receivers import MailSink, Receiver, mail_server, receiver

ADA = Actor("ada")


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def mail(settings: Any) -> Iterator[MailSink]:
    with mail_server(settings) as sink:
        yield sink


@pytest.fixture(autouse=True)
def own_network(settings: Any) -> None:
    """Receivers are on loopback."""
    settings.PRIVATE_ENDPOINTS = True


def webhook_to(hook: Receiver, name: str = "pager", **fields: Any) -> tuple[AlertChannel, str]:
    made = alert_channels.create(kind="webhook", name=name, target=hook.url, by=ADA, now=NOON, **fields)
    return made.channel, made.secret


def mail_to(address: str = "owner@example.com", name: str = "owner", **fields: Any) -> AlertChannel:
    return alert_channels.create(kind="email", name=name, target=address, by=ADA, now=NOON, **fields).channel
