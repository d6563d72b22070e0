"""What is sent of notices: a title, a text, a page of HTML, and what programs read. The same for every channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import escape, format_html
from django.utils.safestring import mark_safe

from governance import ports
from governance.alerts.notices import kind_of
from governance.models import AlertChannel, AlertNotice
from governance.rules import alert_templates, alerting
from governance.rules.visibility import Audience

# Titles of what is over, and of what is tried, begin so.
PREFIXES = {AlertNotice.What.OVER: "Over: ", AlertNotice.What.TEST: "Test: "}
# Of a digest; the console has all of them.
MOST_SHOWN = 25
# Of these a customer's own channels are led to where it can buy more, if the budget is its billing cycle's.
BUYABLE = ("budget_stopped", "budget_threshold")


@dataclass(frozen=True, slots=True)
class AlertLine:
    """One notice as people read it."""

    title: str
    message: str
    advice: str
    link: str
    button: str
    severity: str
    at: str
    # In a channel's own words, as text and as HTML; empty where it has none.
    own: str = ""
    own_html: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """What a channel sends. `id` is the same at every try. `incident` and `is_over` are what pagers go by."""

    id: str
    title: str
    text: str
    html: str
    severity: str
    incident: str
    is_over: bool
    occurred_at: datetime
    data: dict[str, Any] = field(default_factory=dict)


def of(notices: Sequence[AlertNotice], *, id: str, channel: AlertChannel, now: datetime) -> Message:
    """One message of one notice, or a digest of several, the gravest first."""
    shown = sorted(notices, key=lambda one: (-alerting.SEVERITIES.index(one.severity), one.pk))
    zone = ZoneInfo(channel.time_zone)
    items = [_item(one, channel, zone, now) for one in shown[:MOST_SHOWN]]
    first = shown[0]
    severity = alerting.gravest({one.severity for one in shown})
    title = items[0].title if len(shown) == 1 else f"{len(shown)} alerts, the gravest: {items[0].title}"
    context = {
        "items": items,
        "title": title,
        "more": len(shown) - len(items),
        "console": settings.APP_URL,
        "channel": channel.name,
        "is_own": bool(channel.text_template),
    }
    return Message(
        id=id,
        title=alerting.one_line(title, 200),
        text=render_to_string("alerts/message.txt", context).strip() + "\n",
        html=render_to_string("alerts/message.html", context),
        severity=severity,
        incident=first.incident,
        is_over=first.what == AlertNotice.What.OVER,
        occurred_at=first.occurred_at,
        data={"alerts": [_data(one, item) for one, item in zip(shown, items, strict=False)]},
    )


def _item(notice: AlertNotice, channel: AlertChannel, zone: ZoneInfo, now: datetime) -> AlertLine:
    kind = kind_of(notice.kind)
    is_on = notice.what == AlertNotice.What.OPENED
    link, button = _link(notice, channel, now)
    line = AlertLine(
        title=PREFIXES.get(AlertNotice.What(notice.what), "") + notice.title,
        message=words(notice, channel),
        advice=kind.advice if is_on and channel.tenant_id is None else "",
        link=link,
        button=button or kind.button,
        severity=notice.severity,
        at=timezone.localtime(notice.occurred_at, zone).strftime("%Y-%m-%d %H:%M %Z"),
    )
    return _in_own_words(line, notice, channel)


def _in_own_words(line: AlertLine, notice: AlertNotice, channel: AlertChannel) -> AlertLine:
    """The line as the channel's own templates have it."""
    values = {
        "title": line.title,
        "message": line.message,
        "advice": line.advice,
        "link": line.link,
        "button": line.button,
        "severity": line.severity,
        "customer": notice.tenant.slug if notice.tenant else "",
        "kind": notice.kind,
        "time": line.at,
        "channel": channel.name,
    }
    if channel.subject_template:
        line = replace(line, title=alert_templates.filled(channel.subject_template, values) or line.title)
    if not channel.text_template:
        return line
    shown = {name: str(escape(value)) for name, value in values.items()}
    shown["link"] = format_html('<a href="{}">{}</a>', line.link, line.link)
    html = alert_templates.filled(escape(channel.text_template), shown).replace("\n", "<br>")
    return replace(line, own=alert_templates.filled(channel.text_template, values), own_html=mark_safe(html))  # noqa: S308


def words(notice: AlertNotice, channel: AlertChannel) -> str:
    """What a channel's people are told, and who did it; to a customer's a person is "an operator"."""
    who = Audience(is_tenants=channel.tenant_id is not None).actor(notice.actor)
    return f"{notice.message} By {who}." if who else notice.message


def _link(notice: AlertNotice, channel: AlertChannel, now: datetime) -> tuple[str, str]:
    """Where one acts, and what its button says where that is not the kind's own. A customer's owners may buy more."""
    if channel.tenant is not None and notice.kind in BUYABLE:
        url = ports.upgrade_url(tenant=channel.tenant.slug, window=str(notice.facts.get("window", "")), now=now)
        if url:
            return url, "Buy more"
    return f"{settings.APP_URL}{notice.path or page_of(notice)}", ""


def page_of(notice: AlertNotice) -> str:
    """The path of a kind's page, else of the alert itself, else of the console."""
    page = kind_of(notice.kind).page
    try:
        if page:
            return reverse(f"admin:{page}")
        if notice.incident.startswith("alert-"):
            return reverse("admin:governance_alert_change", args=[int(notice.incident.removeprefix("alert-"))])
    except (NoReverseMatch, ValueError):
        pass
    return reverse("admin:index")


def _data(notice: AlertNotice, item: AlertLine) -> dict[str, Any]:
    return {
        "kind": notice.kind,
        "area": kind_of(notice.kind).area.value,
        "what": notice.what,
        "severity": notice.severity,
        "incident": notice.incident,
        "title": item.title,
        "message": item.message,
        "tenant": notice.tenant.slug if notice.tenant else None,
        "occurred_at": notice.occurred_at.isoformat().replace("+00:00", "Z"),
        "link": item.link,
        "facts": notice.facts,
    }
