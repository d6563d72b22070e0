"""Acts on alerts' channels and deliveries: made, changed, tried, deleted; and what was given up, sent again."""

from __future__ import annotations

import time as clocks
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import available_timezones

from django.conf import settings
from django.db import IntegrityError, transaction

from governance import alerts, audit, sealing
from governance.alerts import environment, outbox
from governance.alerts.channels import apprise_url, email, webhook
from governance.audit import Actor
from governance.models import AlertChannel, AlertDelivery, AlertNotice, Tenant
from governance.rules import alert_templates, alerting, names
from governance.rules.alerting import Pace
from governance.rules.errors import Conflict, FieldError, NotOpen

Kind, State = AlertChannel.Kind, AlertDelivery.State
# What may be changed; whose it is, and how it sends, is another channel.
FIELDS = (
    *("name", "target", "enabled", "min_severity", "areas", "tenants", "pace"),
    *("quiet_from", "quiet_until", "time_zone", "tells_ends", "subject_template", "text_template"),
)
MOST_CHANNELS = 200
GONE = "somebody has deleted the channel meanwhile"
# Whoever presses the button waits for one message.
TEST_WAITS_S = 25.0


@dataclass(frozen=True, slots=True)
class Made:
    """A channel, and what its receiver checks signatures with, which is shown this once; empty where nothing is new."""

    channel: AlertChannel
    secret: str = ""


def create(
    *, kind: str, name: str, tenant: Tenant | None = None, secret: str = "", by: Actor, now: datetime, **values: Any
) -> Made:
    """Make a channel. `target`: addresses of e-mail, or of a webhook; `secret`: Apprise's URL.

    Raises FieldError, Conflict.
    """
    channel = AlertChannel(kind=kind, name=name, tenant=tenant, created_at=now, **values)
    channel.time_zone = values.get("time_zone") or (tenant.time_zone if tenant else "UTC")
    if kind not in Kind.values:
        raise FieldError("kind", f"must be one of {', '.join(Kind.values)}")
    if AlertChannel.objects.count() >= MOST_CHANNELS:
        raise Conflict("", f"there are {MOST_CHANNELS} channels already; delete one that nobody reads")
    new_secret = _new_secret(channel, secret, is_new=True)
    validate(channel)
    _save(channel, audit_as="alert_channel.create", by=by, now=now, old=None)
    return Made(channel, new_secret)


def change(
    *, channel: AlertChannel, changes: Mapping[str, Any], secret: str = "", by: Actor, now: datetime
) -> AlertChannel:
    """Change where it sends or what it is told of. Raises FieldError, Conflict, and NotOpen where it is gone.

    What waits for a channel that is switched off is dropped: nobody wants last month's alerts when it is on again.
    """
    with transaction.atomic():
        row = _locked(channel)
        old = facts(row)
        if row.digest_of_url and (secret or changes.get("target", row.target) != row.target):
            raise FieldError("target", "it is ALERT_URLS that says where this one sends")
        for name, value in changes.items():
            setattr(row, name, value)
        if secret:
            _new_secret(row, secret, is_new=False)
        validate(row)
        if changes.get("target", old["target"]) != old["target"] or secret or (row.enabled and not old["enabled"]):
            # Whatever stood in its way may be mended.
            row.failures, row.retry_at, row.last_error = 0, None, ""
        if not row.enabled:
            drop(channel=row)
        _save(row, audit_as="alert_channel.change", by=by, now=now, old=old | ({"secret": "another"} if secret else {}))
    return row


def check(*, channel: AlertChannel, secret: str = "") -> None:
    """Raise FieldError for what `create` of such a channel would, or `change` to it. Nothing is written."""
    if secret or channel.pk is None:
        _new_secret(channel, secret, is_new=channel.pk is None)
    if channel.digest_of_url is None:
        validate(channel)
    else:
        _validate_rules(channel)


def rotate(*, channel: AlertChannel, by: Actor, now: datetime) -> Made:
    """Give a webhook another secret, which counts from the next message on. Raises FieldError, NotOpen."""
    if channel.kind != Kind.WEBHOOK:
        raise FieldError("", "only webhooks are signed")
    secret = webhook.new_secret()
    with transaction.atomic():
        row = _locked(channel)
        row.sealed = sealing.seal(secret)
        row.save(update_fields=["sealed"])
        audit.record(action="alert_channel.rotate", target=_target(row), by=by, now=now)
    return Made(row, secret)


@transaction.atomic
def delete(*, channel: AlertChannel, by: Actor, now: datetime, reason: str = "") -> None:
    """Take a channel away, with what was sent to it. Raises Conflict where ALERT_URLS names it, NotOpen."""
    channel = _locked(channel)
    if channel.digest_of_url and channel.digest_of_url in environment.urls():
        raise Conflict("", "ALERT_URLS names it; take it out there, or switch the channel off")
    audit.record(
        action="alert_channel.delete", target=_target(channel), by=by, now=now, reason=reason, old=facts(channel)
    )
    channel.delete()


def try_out(
    *, channel: AlertChannel, by: Actor, clock: Callable[[], datetime], waits_s: float = TEST_WAITS_S
) -> AlertDelivery:
    """Send one message now, whatever the channel's rules and quiet hours say; what came of it is in the delivery.

    Raises NotOpen where the channel is switched off, or gone before the answer is there.
    """
    if not channel.enabled:
        raise NotOpen("", "the channel is switched off")
    now = clock()
    with transaction.atomic():
        _locked(channel)
        notice = alerts.tell(
            kind="test",
            incident=f"test-{channel.pk}",
            what=AlertNotice.What.TEST,
            title=f"alerts reach {channel.name}",
            message="Somebody pressed the test button. Nothing is wrong, and nothing is to be done.",
            by=by.name,
            severity="info",
            tenant=channel.tenant,
            channel=channel,
            now=now,
        )
        AlertChannel.objects.filter(pk=channel.pk).update(retry_at=None)
        audit.record(action="alert_channel.test", target=_target(channel), by=by, now=now)
    outbox.spread(now=now)
    ends_at = clocks.monotonic() + waits_s
    outbox.send_first(channel=channel, now=clock())
    while True:
        delivery, is_late = AlertDelivery.objects.filter(notice=notice).first(), clocks.monotonic() >= ends_at
        if delivery is not None and (is_late or delivery.state not in (State.PENDING, State.SENDING)):
            return delivery
        if not AlertChannel.objects.filter(pk=channel.pk).exists():
            raise NotOpen("", GONE)
        if is_late:
            raise NotOpen("", "it is still under way: its deliveries will say what came of it")
        # A worker was quicker, and is at it.
        clocks.sleep(0.2)


def _locked(channel: AlertChannel) -> AlertChannel:
    """The channel as it is now, and stays until the transaction ends. Raises NotOpen where it is gone."""
    row = AlertChannel.objects.select_for_update(of=("self",)).select_related("tenant").filter(pk=channel.pk).first()
    if row is None:
        raise NotOpen("", GONE)
    return row


@transaction.atomic
def replay(*, delivery: AlertDelivery, by: Actor, now: datetime, reason: str = "") -> AlertDelivery:
    """Send what was given up, or was sent, once more: as a message of its own. Raises NotOpen."""
    row = AlertDelivery.objects.select_for_update(of=("self",)).filter(pk=delivery.pk).first()
    if row is None:
        raise NotOpen("", GONE)
    old = row.state
    if not AlertChannel.objects.filter(pk=row.channel_id, enabled=True).exists():
        raise NotOpen("", "its channel is switched off")
    if old not in (State.DEAD, State.SENT, State.DROPPED):
        raise NotOpen("", f"it is {row.get_state_display()}, and is sent by itself")
    row.state, row.tries, row.message_id, row.next_at, row.sent_at, row.error = State.PENDING, 0, None, now, None, ""
    row.save(update_fields=["state", "tries", "message_id", "next_at", "sent_at", "error"])
    AlertChannel.objects.filter(pk=row.channel_id).update(retry_at=None)
    audit.record(
        action="alert_delivery.replay",
        target=str(row)[:200],
        by=by,
        now=now,
        reason=reason,
        old={"state": old},
        new={"state": row.state},
    )
    return row


def drop(*, channel: AlertChannel) -> int:
    """What waits for a channel is not needed any more; how much that is."""
    waiting = AlertDelivery.objects.filter(channel=channel, state__in=(State.PENDING, State.SENDING))
    return waiting.update(state=State.DROPPED, next_at=None)


def validate(channel: AlertChannel) -> None:
    """Raise FieldError for the first thing that no channel can be."""
    channel.name = names.checked("label", channel.name, field="name")[:100]
    if not channel.name:
        raise FieldError("name", "give it a name")
    private_allowed = channel.tenant is None and settings.PRIVATE_ENDPOINTS
    if channel.kind == Kind.EMAIL:
        problem = email.problem_with(channel.target)
    elif channel.kind == Kind.WEBHOOK:
        problem = webhook.problem_with(channel.target, private_allowed=private_allowed)
    else:
        problem = "Its URL has a field of its own." if channel.target else ""
    if problem:
        raise FieldError("target", problem)
    if channel.tenant is not None and channel.kind == Kind.APPRISE:
        raise FieldError("kind", "a customer's own channel is e-mail or a webhook")
    _validate_rules(channel)


def _validate_rules(channel: AlertChannel) -> None:
    if channel.min_severity not in alerting.SEVERITIES:
        raise FieldError("min_severity", f"must be one of {', '.join(alerting.SEVERITIES)}")
    if channel.pace not in [pace.value for pace in Pace]:
        raise FieldError("pace", "must be at_once, hourly or daily")
    if channel.pace != Pace.AT_ONCE and (channel.kind == Kind.WEBHOOK or channel.is_pager):
        raise FieldError("pace", "a webhook and a pager are told at once, each alert for itself")
    channel.areas = _some_of(channel.areas, alerting.AREAS, "areas")
    known = set(Tenant.objects.filter(slug__in=channel.tenants or []).values_list("slug", flat=True))
    channel.tenants = _some_of(channel.tenants, known, "tenants")
    if (channel.quiet_from is None) != (channel.quiet_until is None):
        raise FieldError("quiet_until", "quiet hours need a beginning and an end")
    if channel.time_zone not in available_timezones():
        raise FieldError("time_zone", f"{channel.time_zone!r} is not an IANA time zone such as Europe/Paris")
    _validate_words(channel)


def _validate_words(channel: AlertChannel) -> None:
    """Raise FieldError for words of one's own that cannot be sent."""
    # Browsers end lines as mail does.
    channel.text_template = channel.text_template.replace("\r\n", "\n").strip()
    channel.subject_template = channel.subject_template.strip()
    for field, problem in (
        ("subject_template", alert_templates.problem_with_subject(channel.subject_template)),
        ("text_template", alert_templates.problem_with_text(channel.text_template)),
    ):
        if getattr(channel, field) and channel.kind == Kind.WEBHOOK:
            raise FieldError(field, "what a webhook gets is for programs, and has no words of one's own")
        if problem:
            raise FieldError(field, problem)


def _some_of(given: Any, known: Collection[str], field: str) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise FieldError(field, "must be a list of names")
    for one in given:
        if one not in known:
            raise FieldError(field, f"there is no {one!r}")
    return sorted(set(given))


def _new_secret(channel: AlertChannel, secret: str, *, is_new: bool) -> str:
    """Seal what opens the channel; the secret that is to be shown, which is a webhook's alone."""
    if channel.kind == Kind.WEBHOOK and is_new:
        made = webhook.new_secret()
        channel.sealed = sealing.seal(made)
        return made
    if channel.kind == Kind.APPRISE:
        secret = secret.strip()
        if not secret:
            raise FieldError("secret", "give Apprise's URL, such as slack://... or pagerduty://...")
        if problem := apprise_url.problem_with(secret):
            raise FieldError("secret", problem)
        channel.sealed, channel.is_pager = sealing.seal(secret), apprise_url.is_pager(secret)
    elif secret:
        raise FieldError("secret", "only Apprise's channels take one")
    return ""


def _save(channel: AlertChannel, *, audit_as: str, by: Actor, now: datetime, old: Mapping[str, Any] | None) -> None:
    try:
        with transaction.atomic():
            channel.save()
            audit.record(action=audit_as, target=_target(channel), by=by, now=now, old=old, new=facts(channel))
    except IntegrityError as error:
        same = AlertChannel.objects.filter(name=channel.name).exclude(pk=channel.pk).first()
        if same is None:
            raise
        raise Conflict("name", f"there is a channel {channel.name} already", existing=same) from error


def facts(channel: AlertChannel) -> dict[str, Any]:
    """What the audit trail shows; nothing of a secret."""
    found = {name: getattr(channel, name) for name in FIELDS} | {
        "kind": channel.kind,
        "tenant": channel.tenant.slug if channel.tenant else None,
    }
    return {
        name: value if value is None or isinstance(value, bool | list) else str(value) for name, value in found.items()
    }


def _target(channel: AlertChannel) -> str:
    return f"alert channel {channel.name}"
