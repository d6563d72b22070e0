"""Alerts' channels and deliveries in the console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from governance import alerts
from governance.models import AlertChannel, AlertDelivery
from governance.upkeep import telling
from tests import factories
from tests.confirmed import press
from tests.fakes.alert_receivers import Receiver, receiver
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.django_db
ADD = "/admin/governance/alertchannel/add/"
LIST = "/admin/governance/alertchannel/"


@pytest.fixture
def hook(settings: Any) -> Iterator[Receiver]:
    settings.PRIVATE_ENDPOINTS = True
    with receiver() as made:
        yield made


def form(**fields: Any) -> dict[str, Any]:
    return {
        "name": "hook",
        "kind": "webhook",
        "target": "",
        "enabled": "on",
        "min_severity": "warning",
        "pace": "at_once",
        "time_zone": "UTC",
        "tells_ends": "on",
        **fields,
    }


def test_a_channel_is_added_tried_and_taken_away(hook: Receiver) -> None:
    operator = signed_in("olga", "operator")
    page = operator.post(ADD, form(target=hook.url, areas=["billing"]), follow=True).content.decode()
    assert "whsec_" in page
    channel = AlertChannel.objects.get()
    assert channel.areas == ["billing"]
    one = reverse("admin:governance_alertchannel_change", args=[channel.pk])
    assert "whsec_" not in operator.get(one).content.decode()
    tried = press(operator, reverse("admin:governance_alertchannel_try_out", args=[channel.pk]))
    assert "hook took the message." in tried.content.decode()
    page = operator.post(one, form(target=hook.url, min_severity="critical"), follow=True).content.decode()
    channel.refresh_from_db()
    assert (channel.min_severity, channel.areas) == ("critical", []), page
    made = press(operator, reverse("admin:governance_alertchannel_rotate", args=[channel.pk]))
    assert "whsec_" in made.content.decode()
    remove = reverse("admin:governance_alertchannel_remove", args=[channel.pk])
    operator.post(remove, {"_confirmed": "yes", "reason": "nobody reads it"})
    assert not AlertChannel.objects.exists()


def test_what_cannot_be_is_said_beside_its_field(settings: Any) -> None:
    settings.PRIVATE_ENDPOINTS = False
    operator = signed_in("olga", "operator")
    page = operator.post(ADD, form(target="http://127.0.0.1/")).content.decode()
    assert "lead to no private network" in page
    page = operator.post(ADD, form(kind="apprise", secret="nonsense")).content.decode()
    assert "Apprise does not know such a URL" in page
    assert not AlertChannel.objects.exists()


def test_own_words_are_entered_with_their_names_beside_them() -> None:
    operator = signed_in("olga", "operator")
    mail = {"kind": "email", "target": "owner@example.com", "subject_template": "[acme] {title}"}
    page = operator.post(ADD, form(**mail, text_template="{message}\r\n\r\nCall 555. {lonk}")).content.decode()
    assert "Put {link} where it is to lead" in page
    operator.post(ADD, form(**mail, text_template="{message}\r\n\r\nCall 555. {link}"))
    channel = AlertChannel.objects.get()
    assert (channel.subject_template, channel.text_template) == ("[acme] {title}", "{message}\n\nCall 555. {link}")
    page = operator.get(reverse("admin:governance_alertchannel_change", args=[channel.pk])).content.decode()
    assert "<code>{customer}</code> whom it is about" in page
    assert "Call 555. {link}" in page


def test_a_secret_goes_in_and_never_comes_out(settings: Any) -> None:
    operator = signed_in("olga", "operator")
    operator.post(ADD, form(kind="apprise", secret="pagerduty://integration-1@key-1"))
    channel = AlertChannel.objects.get()
    assert channel.is_pager
    one = reverse("admin:governance_alertchannel_change", args=[channel.pk])
    for page in (operator.get(one), operator.get(LIST)):
        assert page.status_code == 200
        assert "integration-1" not in page.content.decode()


def test_what_was_given_up_is_sent_again(hook: Receiver) -> None:
    operator = signed_in("olga", "operator")
    operator.post(ADD, form(target=hook.url))
    alerts.report(kind="dead_letter", subject="<b>evt_1", message="It <i>failed</i>.", now=timezone.now())
    telling.run(clock=timezone.now)
    row = AlertDelivery.objects.get()
    page = operator.get("/admin/governance/alertdelivery/").content.decode()
    assert "&lt;b&gt;evt_1" in page
    assert "<b>evt_1" not in page
    replay = reverse("admin:governance_alertdelivery_replay", args=[row.pk])
    operator.post(replay, {"_confirmed": "yes", "reason": "lost"})
    telling.run(clock=timezone.now)
    assert len(hook.got) == 2


def test_viewers_read_and_a_tenants_staff_does_not() -> None:
    viewer = signed_in("vera", "viewer")
    assert viewer.get(LIST).status_code == 200
    assert viewer.get(ADD).status_code == 403
    bound = signed_in("tina", "tenant staff", of=factories.tenant())
    for path in (LIST, ADD, "/admin/governance/alertdelivery/"):
        assert bound.get(path).status_code in (302, 403, 404)
