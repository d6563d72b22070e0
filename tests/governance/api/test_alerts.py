"""/api/alerts through HTTP."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from standardwebhooks.webhooks import Webhook

from governance import alerts
from governance.management.commands.send_test_alert import Command
from governance.models import Alert, AlertChannel, AlertDelivery, AuditEntry
from governance.upkeep import telling
from tests import factories
from tests.fakes.alert_receivers import receiver
from tests.governance.api.conftest import Api

CHANNELS, DELIVERIES = "/api/alerts/channels", "/api/alerts/deliveries"


def body(**fields: Any) -> dict[str, Any]:
    return {"name": "mail", "kind": "email", "target": "owner@example.com", **fields}


def test_a_channel_is_made_changed_and_deleted(operator: Api, viewer: Api) -> None:
    factories.tenant("acme")
    made = operator.post(CHANNELS, body(tenants=["acme"], areas=["budgets"], quiet_from="22:00", quiet_until="07:00"))
    assert made.status_code == 201, made.json()
    found = made.json()
    assert (found["tenants"], found["areas"], found["quiet_from"]) == (["acme"], ["budgets"], "22:00:00")
    assert "signing_secret" not in found
    assert operator.post(CHANNELS, body()).status_code == 409
    one = f"{CHANNELS}/{found['id']}"
    changed = operator.patch(one, {"min_severity": "critical", "quiet_from": None, "quiet_until": None})
    assert (changed.status_code, changed.json()["min_severity"], changed.json()["quiet_from"]) == (
        200,
        "critical",
        None,
    )
    assert operator.patch(one, {"kind": "webhook"}).status_code == 400
    assert viewer.get(one).json()["target"] == "owner@example.com"
    assert viewer.patch(one, {"enabled": False}).status_code == 403
    assert operator.delete(one).status_code == 204
    assert [row.action for row in AuditEntry.objects.order_by("id")] == [
        "alert_channel.create",
        "alert_channel.change",
        "alert_channel.delete",
    ]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"target": ""}, "target"),
        ({"target": "nobody"}, "target"),
        ({"target": "a@example.com\nBcc: b@example.com"}, "target"),
        ({"kind": "webhook", "target": "http://127.0.0.1/hook"}, "target"),
        ({"kind": "webhook", "target": "https://169.254.169.254/latest"}, "target"),
        ({"kind": "webhook", "target": "https://2130706433/"}, "target"),
        ({"kind": "webhook", "target": "https://user:pass@example.com/"}, "target"),
        ({"kind": "webhook", "target": "file:///etc/passwd"}, "target"),
        ({"kind": "webhook", "target": "https://example.com:99999/"}, "target"),
        ({"kind": "apprise", "target": ""}, "secret"),
        ({"kind": "apprise", "target": "", "secret": "nonsense"}, "secret"),
        ({"kind": "apprise", "target": "", "secret": "dbus://"}, "secret"),
        ({"kind": "apprise", "target": "", "secret": "json://example.com", "tenant": "acme"}, "kind"),
        ({"secret": "json://example.com"}, "secret"),
        ({"areas": ["weather"]}, "areas.0"),
        ({"tenants": ["nobody"]}, "tenants"),
        ({"quiet_from": "22:00"}, "quiet_until"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"kind": "webhook", "target": "https://example.com/", "pace": "daily"}, "pace"),
        ({"subject_template": "{titel}"}, "subject_template"),
        ({"text_template": "{message}"}, "text_template"),
        ({"kind": "webhook", "target": "https://example.com/", "text_template": "{link}"}, "text_template"),
        ({"name": ""}, "name"),
        ({"severity": "info"}, "severity"),
    ],
)
def test_a_channel_that_cannot_be_names_the_field(
    operator: Api, settings: Any, wrong: dict[str, Any], param: str
) -> None:
    settings.PRIVATE_ENDPOINTS = False
    factories.tenant("acme")
    refused = operator.post(CHANNELS, body(**wrong))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.json()
    assert not AlertChannel.objects.exists()


def test_a_webhooks_secret_is_shown_once_and_again_where_it_is_made_anew(operator: Api, settings: Any) -> None:
    settings.PRIVATE_ENDPOINTS = True
    with receiver() as hook:
        made = operator.post(CHANNELS, body(kind="webhook", target=hook.url)).json()
        one = f"{CHANNELS}/{made['id']}"
        assert "signing_secret" not in operator.get(one).json()
        tried = operator.post(f"{one}/test")
        assert (tried.status_code, tried.json()["state"], tried.json()["what"]) == (200, "sent", "test")
        second = operator.post(f"{one}/rotate").json()["signing_secret"]
        assert second != made["signing_secret"]
        operator.post(f"{one}/test")
        for secret, (headers, sent) in zip((made["signing_secret"], second), hook.got, strict=True):
            Webhook(secret).verify(sent.decode(), headers)
        hook.answers = [410]
        assert operator.post(f"{one}/test").json()["error"] == "It answers 410."


def test_a_customers_webhook_never_reaches_our_own_network(operator: Api, settings: Any) -> None:
    # What operators may, no customer's channel may.
    settings.PRIVATE_ENDPOINTS = True
    factories.tenant("acme")
    with receiver() as hook:
        refused = operator.post(CHANNELS, body(kind="webhook", target=hook.url, tenant="acme"))
        assert refused.json()["error"]["param"] == "target"
        # A name that leads there: it is looked at when it is called.
        made = operator.post(CHANNELS, body(kind="webhook", target="https://hooks.example.com/", tenant="acme")).json()
        settings.UPSTREAM_PROXY = "none"
        row = AlertChannel.objects.get(pk=made["id"])
        AlertChannel.objects.filter(pk=row.pk).update(target=f"https://localtest.example:{hook.url.split(':')[2]}")
        answer = operator.post(f"{CHANNELS}/{row.pk}/test").json()
        assert answer["state"] == "dead"
        assert hook.got == []


def test_alerts_and_deliveries_are_listed_acknowledged_and_replayed(operator: Api, viewer: Api, settings: Any) -> None:
    settings.PRIVATE_ENDPOINTS = True
    with receiver() as hook:
        operator.post(CHANNELS, body(kind="webhook", target=hook.url))
        alerts.report(kind="dead_letter", subject="evt_1", message="It failed.", now=timezone.now())
        telling.run(clock=timezone.now)
        [row] = viewer.get(DELIVERIES, state="sent").json()["results"]
        assert (row["title"], row["channel"]) == ("An event of Stripe's was given up: evt_1", "mail")
        assert "evt_1" in viewer.client.get(DELIVERIES, headers={"accept": "text/csv"}).getvalue().decode()
        [alert] = viewer.get("/api/alerts", open="true").json()["results"]
        done = operator.post(f"/api/alerts/{alert['id']}/acknowledge", {"reason": "mended"})
        assert (done.status_code, done.json()["cleared_at"] is not None) == (200, True)
        assert operator.post(f"/api/alerts/{alert['id']}/acknowledge").status_code == 409
        assert operator.post(f"{DELIVERIES}/{row['id']}/replay", {"reason": "lost"}).json()["state"] == "pending"
        assert operator.post(f"{DELIVERIES}/{row['id']}/replay").status_code == 409
        telling.run(clock=timezone.now)
        assert [sent["data"]["what"] for sent in hook.bodies] == ["opened", "opened", "over"]
        assert Alert.objects.get().cleared_by


def test_the_command_tries_every_channel_and_says_which_failed(operator: Api, settings: Any) -> None:
    settings.PRIVATE_ENDPOINTS = True
    with pytest.raises(CommandError, match="There is no channel"):
        call_command("send_test_alert", stdout=StringIO())
    with receiver() as hook:
        operator.post(CHANNELS, body(kind="webhook", name="hook", target=hook.url))
        printed = StringIO()
        call_command("send_test_alert", "--json", stdout=printed)
        assert json.loads(printed.getvalue()) == [{"channel": "hook", "kind": "webhook", "sent": True, "error": ""}]
        # Without EMAIL_URL no mail leaves.
        settings.EMAIL_URL = ""
        operator.post(CHANNELS, body())
        printed, said = StringIO(), StringIO()
        with pytest.raises(SystemExit, match="1"):
            call_command("send_test_alert", stdout=printed, stderr=said)
        assert "mail (email): did not arrive: EMAIL_URL is not set" in printed.getvalue()
        assert said.getvalue() == "1 of 2 did not arrive.\n"
        printed, command = StringIO(), Command()
        # As from a command line, where a failure is one object.
        command._called_from_command_line = True  # type: ignore[attr-defined]
        with pytest.raises(SystemExit, match="1"):
            call_command(command, "--json", "--channel", "mail", stdout=printed)
        [tried] = json.loads(printed.getvalue())
        assert (tried["sent"], tried["error"].startswith("EMAIL_URL is not set")) == (False, True)
        call_command("send_test_alert", "--dry-run", "--channel", "mail", stdout=printed)
        with pytest.raises(CommandError):
            call_command("send_test_alert", "--channel", "nobody", stdout=printed)
    assert AlertDelivery.objects.count() == 4
