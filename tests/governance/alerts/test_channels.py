"""How a message leaves: to whom it may go, what is said where it does not, and what a receiver cannot do to us."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from apprise.plugins import pagerduty
from django.core.mail.backends.smtp import EmailBackend

from governance.alerts import channels
from governance.alerts.channels import NotSent, Target, apprise_url, webhook
from governance.alerts.messages import Message
from tests.factories import NOON
from tests.fakes.alert_receivers import Receiver, mail_server

SECRET = webhook.new_secret()


def message(**fields: Any) -> Message:
    made = {
        "id": "msg-1",
        "title": "A title",
        "text": "Some @everyone text",
        "html": "<p>Some text</p>",
        "severity": "critical",
        "incident": "alert-7",
        "is_over": False,
        "occurred_at": NOON,
        "data": {"alerts": [{"what": "opened", "occurred_at": "2026-03-10T12:00:00Z"}]},
    }
    return Message(**{**made, **fields})


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[tuple[str, int]]:
    """Every name resolves to these; the addresses that are connected to."""
    called: list[tuple[str, int]] = []

    def look_up(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    def connect(address: tuple[str, int], *args: Any, **kwargs: Any) -> Any:
        called.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    return called


def test_a_name_that_leads_inside_is_not_called_and_the_address_that_was_looked_at_is(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.UPSTREAM_PROXY = "none"
    target = Target("webhook", "https://hooks.example.com/", SECRET)
    called = resolving(monkeypatch, "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1")
    with pytest.raises(NotSent, match="leads into a private network"):
        webhook.send(target, message())
    assert called == []
    called = resolving(monkeypatch, "10.0.0.1", "8.8.8.8")
    with pytest.raises(NotSent, match="cannot be reached"):
        webhook.send(target, message())
    assert called == [("8.8.8.8", 443)]


def test_an_address_that_became_impossible_is_not_called() -> None:
    with pytest.raises(NotSent, match="Its address cannot be called"):
        webhook.send(Target("webhook", "http://127.0.0.1:1/", SECRET), message())


@pytest.fixture
def dripping() -> Iterator[str]:
    """A receiver that sends a byte of its answer now and then, for ever."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            peer, _ = listener.accept()
            with peer:
                while not ended.is_set():
                    try:
                        peer.sendall(b"H")
                    except OSError:
                        return
                    ended.wait(0.05)

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        ended.set()
        thread.join(5)


def test_a_receiver_that_drips_keeps_nobody(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WHOLE_S", 0.3)
    began = time.monotonic()
    with pytest.raises(NotSent, match="cannot be reached"):
        channels.send(Target("webhook", dripping, SECRET, private_allowed=True), message())
    assert time.monotonic() - began < 5


def test_a_receiver_that_hangs_behind_tls_keeps_nobody(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.UPSTREAM_PROXY = "none"
    monkeypatch.setattr(webhook, "WHOLE_S", 0.3)
    monkeypatch.setattr(channels, "DEADLINE_S", 8.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://localhost:{silent.getsockname()[1]}/"
        # Not for as long as each of its bytes may take, which is not the whole.
        with pytest.raises(NotSent, match="cannot be reached"):
            channels.send(Target("webhook", url, SECRET, private_allowed=True), message())


def test_a_mail_server_that_reads_a_message_through_gets_it_once(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server(settings) as sink:
        settings.EMAIL_TIMEOUT = 1
        taken = sink.handle_DATA

        async def slowly(*args: Any) -> str:
            await asyncio.sleep(1.5)
            return await taken(*args)

        monkeypatch.setattr(sink, "handle_DATA", slowly)
        channels.send(Target("email", "owner@example.com"), message())
        assert len(sink.got) == 1


def test_a_mail_server_that_says_no_goodbye_has_the_message(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(settings) as sink:
        closes = EmailBackend.close

        def breaks(backend: EmailBackend) -> None:
            closes(backend)
            raise TimeoutError

        monkeypatch.setattr(EmailBackend, "close", breaks)
        channels.send(Target("email", "owner@example.com"), message())
        assert len(sink.got) == 1


def test_a_sender_that_hangs_or_breaks_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "DEADLINE_S", 0.1)
    held = threading.Event()
    monkeypatch.setattr(webhook, "send", lambda *_: held.wait(10))
    with pytest.raises(NotSent, match="did not answer within"):
        channels.send(Target("webhook", "", SECRET), message())
    held.set()
    monkeypatch.setattr(webhook, "send", lambda *_: 1 / 0)
    with pytest.raises(NotSent, match="ZeroDivisionError"):
        channels.send(Target("webhook", "", SECRET), message())


@pytest.mark.parametrize("answers", [[302], [404], [500], [100]])
def test_what_is_no_success_is_said_and_no_redirect_is_followed(hook: Receiver, answers: list[int]) -> None:
    hook.answers = answers
    with pytest.raises(NotSent):
        channels.send(Target("webhook", hook.url, SECRET, private_allowed=True), message())
    assert len(hook.got) == 1


def test_apprise_sends_by_its_urls_and_rings_nobody(hook: Receiver) -> None:
    url = hook.url.replace("http://", "json://")
    channels.send(Target("apprise", "", url, private_allowed=True), message())
    [body] = hook.bodies
    assert (body["title"], body["type"]) == ("A title", "failure")
    assert "@everyone" not in body["message"]
    with pytest.raises(NotSent, match="private network"):
        channels.send(Target("apprise", "", url), message())
    hook.answers = [500]
    with pytest.raises(NotSent, match="JSON did not take it"):
        channels.send(Target("apprise", "", url, private_allowed=True), message())


def test_apprise_follows_no_redirect(hook: Receiver) -> None:
    hook.answers = [302]
    url = hook.url.replace("http://", "json://") + "?redirect=yes"
    with pytest.raises(NotSent):
        channels.send(Target("apprise", "", url, private_allowed=True), message())
    assert len(hook.got) == 1


def test_a_pager_gets_one_incident_that_ends(hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pagerduty.PAGERDUTY_API_LOOKUP, "us", hook.url)
    target = Target("apprise", "", "pagerduty://integration@key")
    hook.answers = [202, 202]
    channels.send(target, message())
    channels.send(target, message(is_over=True))
    began, ended = hook.bodies
    assert (began["event_action"], ended["event_action"]) == ("trigger", "resolve")
    assert began["dedup_key"] == ended["dedup_key"] == "alert-7"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "does not know"),
        ("", "does not know"),
        ("syslog://", "on this machine"),
        ("json://example.com/hook", ""),
        ("ntfy://topic", ""),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", ""),
        ("pagerduty://integration@key?region=us&group=a&overflow=split", ""),
        ("json://example.com/hook?+X-Token=a&-to=b&verify=no&cto=2.5&to=ops", ""),
        ("workflows://example.com/wf/sig/?template=http://127.0.0.1/latest", "not taken: template"),
        ("workflows://example.com/wf/sig/?TEMPLATE=/etc/secrets.json", "not taken: template"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js?%74emplate=a.json", "not taken: template"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/?template=a;batch=no", "not taken: template"),
        ("mailto://u:p@example.com?smtp=127.0.0.1&to=a@example.com", "not taken: smtp"),
        ("mailto://u:p@example.com?to=a@example.com&pgpprv=/etc/key", "not taken: pgpprv"),
    ],
)
def test_which_urls_lead_to_somebody(url: str, problem: str) -> None:
    found = apprise_url.problem_with(url)
    assert problem in found
    assert bool(found) == bool(problem)
