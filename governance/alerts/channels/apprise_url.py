"""Slack, Teams, Discord, PagerDuty, ntfy and a hundred more, each by a URL as Apprise writes it."""

from __future__ import annotations

import socket
from typing import Any

from governance.alerts.channels import NotSent, Target
from governance.alerts.messages import Message
from governance.rules import addresses, alerting

# What would act on this machine and not on the way to somebody.
LOCAL = frozenset(
    "blink1 dbus kde qt glib gio gnome macosx windows syslog".split()  # noqa: SIM905 - read as a line
)
PAGERS = frozenset(("pagerduty", "splunk", "victorops"))
# Arguments of a URL that are text: who is told, as whom, and what lies beside it. Any other text may name a file of
# this machine, or an address that Apprise calls as well.
TEXTS = frozenset(
    (
        *("to", "from", "cc", "bcc", "reply", "sender", "source", "channel", "channels", "topic", "tags", "ping"),
        *("token", "key", "apikey", "secret", "access", "sid", "app_id", "user", "pass", "name", "thread", "group"),
        *("route", "region", "entity", "component", "class", "alias", "category", "subtitle", "sound", "lang", "click"),
    )
)
# What can be no address, whatever it says; and headers and fields of a service of one's own.
NO_ADDRESS = ("bool", "int", "float", "choice")
ADDED = ("+", "-", ":")
NOT_A_URL = "Apprise does not know such a URL; https://appriseit.com/services lists them."


def problem_with(url: str) -> str:
    """What is wrong with a URL, as a sentence that shows nothing of it; empty where nothing is."""
    plugin = _plugin(url)
    if plugin is None:
        return NOT_A_URL
    if _schemes(plugin) & LOCAL:
        return "It would show something on this machine, where nobody looks."
    if odd := _odd_arguments(plugin, url):
        return f"It has arguments that could name a file or another address, and are not taken: {', '.join(odd)[:100]}."
    return ""


def _odd_arguments(plugin: Any, url: str) -> list[str]:
    from apprise.utils.parse import parse_qsd

    def kind(name: str) -> str:
        return str(plugin.template_args.get(name, {}).get("type", "")).partition(":")[0]

    given = parse_qsd(url.partition("?")[2], simple=True)["qsd"]  # type: ignore[no-untyped-call]
    return [
        name for name in given if not (name.startswith(ADDED) or name in TEXTS or kind(name) in NO_ADDRESS or not name)
    ]


def is_pager(url: str) -> bool:
    """Whether what it leads to makes incidents, which end."""
    plugin = _plugin(url)
    return plugin is not None and bool(_schemes(plugin) & PAGERS)


def send(target: Target, message: Message) -> None:
    from apprise import NotifyFormat, NotifyType

    if problem := problem_with(target.secret):
        raise NotSent(problem)
    plugin = _plugin(target.secret)
    if not target.private_allowed:
        _refuse_private(plugin)
    kinds = {"info": NotifyType.INFO, "warning": NotifyType.WARNING, "critical": NotifyType.FAILURE}
    kind = NotifyType.SUCCESS if message.is_over else kinds[message.severity]
    _tie(plugin, message)
    sent = plugin.notify(
        title=alerting.calls_nobody(message.title),
        body=alerting.calls_nobody(message.text),
        notify_type=kind,
        body_format=NotifyFormat.TEXT,
    )
    if not sent:
        raise NotSent(f"{plugin.service_name} did not take it.")


def _plugin(url: str) -> Any:
    """Apprise's own object for a URL; None for one that it does not know."""
    from apprise import Apprise, AppriseAsset

    asset = AppriseAsset(app_id="Spend Governor", app_desc="Alerts", app_url="", async_mode=False)
    plugin = Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    if plugin is not None:
        # An address that was looked at would lead to one that was not.
        plugin.redirects = False
    return plugin


def _schemes(plugin: Any) -> set[str]:
    found: set[str] = set()
    for names in (plugin.protocol, plugin.secure_protocol):
        found |= {names} if isinstance(names, str) else set(names or ())
    return found


def _tie(plugin: Any, message: Message) -> None:
    """Have a pager make one incident of what begins and ends together, and end it."""
    schemes = _schemes(plugin)
    if "pagerduty" in schemes:
        plugin.action, plugin.dedup = "map", message.incident
    elif schemes & PAGERS:
        plugin.action, plugin.entity_id = "map", f"spend-governor/{message.incident}"


def _refuse_private(plugin: Any) -> None:
    """Of services that stand anywhere: no host in a network of our own. (A name may change its mind afterwards.)"""
    host = getattr(plugin, "host", None)
    if not isinstance(host, str) or not any("{host}" in template for template in plugin.templates):
        # A service of its own address: what stands in the host's place is a key.
        return
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise NotSent("Its host is unknown.") from error
    if addresses.is_private(host) or not all(map(addresses.is_public, found)):
        raise NotSent("It leads into a private network; set PRIVATE_ENDPOINTS=true to allow that.")
