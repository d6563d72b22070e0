"""The outbox: notices are put before the channels (`spread`), and what is due for each channel is sent (`drain`).

A delivery is one notice for one channel, and there is one of it ever. The try is committed before the message leaves,
so a worker that dies between sending and marking leaves a delivery that is sent again, under the same message id: twice
rather than never, and a receiver can tell.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Min, Q, QuerySet

from governance import sealing
from governance.alerts import channels, conditions, messages, notices
from governance.alerts.channels import Away, NotSent, Target
from governance.alerts.messages import Message
from governance.models import AlertChannel, AlertDelivery, AlertNotice
from governance.rules import alerting
from governance.rules.alerting import ChannelRule, Told

log = logging.getLogger(__name__)

State, What, Kind = AlertDelivery.State, AlertNotice.What, AlertChannel.Kind
# Of each statement.
NOTICES, GROUP = 200, 200
# What is a flood is told once a minute: nobody reads more, and whoever causes it is not to fill a mailbox.
FLOOD, SPACING = 10, timedelta(minutes=1)
# Longer than a message can take to leave: then its worker is dead.
LEASE = timedelta(minutes=2)
# Whoever answers, and does not take a message, may take the next one, which is not to wait for a day behind it.
NEXT_IN_LINE = timedelta(seconds=10)
# No wait of a channel is so long: a clock was ahead when it was set.
IMPOSSIBLE_WAIT = timedelta(hours=2)
# So many channels are sent to at a time, and a run ends by itself.
AT_A_TIME, LONGEST_RUN = 8, timedelta(seconds=45)
UNDELIVERED = "alerts_undelivered"
# How long what was told can be looked up.
KEPT = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Claimed:
    """Deliveries of a channel that go in one message, and are ours until the lease ends. `problem`: why they cannot."""

    channel: AlertChannel
    deliveries: Sequence[AlertDelivery]
    message: Message | None = None
    target: Target | None = None
    problem: NotSent | None = None


def rule_of(channel: AlertChannel) -> ChannelRule:
    return ChannelRule(
        min_severity=channel.min_severity,
        areas=frozenset(channel.areas),
        tenants=frozenset(channel.tenants),
        owner=channel.tenant.slug if channel.tenant else "",
        pace=channel.pace,
        quiet_from=channel.quiet_from,
        quiet_until=channel.quiet_until,
        zone=ZoneInfo(channel.time_zone),
    )


def spread(*, now: datetime) -> int:
    """Make the deliveries of notices that are not before the channels yet; how many. Twice adds nothing."""
    made = 0
    while found := _spread_some(now):
        made += found[1]
        if found[0] < NOTICES:
            break
    return made


@transaction.atomic
def _spread_some(now: datetime) -> tuple[int, int]:
    """(notices, deliveries)"""
    rows = AlertNotice.objects.filter(spread_at=None).order_by("id")
    found = list(_locked(rows).select_related("tenant", "channel")[:NOTICES])
    elsewhere = _begun_elsewhere(found)
    found = [notice for notice in found if notice.incident not in elsewhere]
    if not found:
        return 0, 0
    all_channels = _channels()
    made = 0
    # One after another: whoever is told here that something began is told as well that it is over.
    for notice in found:
        deliveries = [
            AlertDelivery(
                notice=notice,
                channel=channel,
                created_at=now,
                next_at=now if rule is None else alerting.due_at(rule, notice.severity, now),
            )
            for channel, rule in _told_of(notice, all_channels)
        ]
        AlertDelivery.objects.bulk_create(deliveries, ignore_conflicts=True)
        made += len(deliveries)
    AlertNotice.objects.filter(pk__in=[notice.pk for notice in found]).update(spread_at=now)
    return len(found), made


def _begun_elsewhere(found: Sequence[AlertNotice]) -> set[str]:
    """Incidents that are over of which another worker puts the beginning before the channels at this moment.

    Until it has, nobody knows who is to be told that they are.
    """
    over = {notice.incident for notice in found if notice.what == What.OVER}
    begun = AlertNotice.objects.filter(incident__in=over, what=What.OPENED, spread_at=None)
    return set(begun.exclude(pk__in=[notice.pk for notice in found]).values_list("incident", flat=True))


Ruled = tuple[AlertChannel, ChannelRule | None]


def _channels() -> list[Ruled]:
    """The channels in use with their rules. One that says nonsense keeps no other from being told."""
    found: list[Ruled] = []
    for channel in AlertChannel.objects.filter(enabled=True).select_related("tenant"):
        try:
            found.append((channel, rule_of(channel)))
        except (ValueError, TypeError, KeyError):
            log.exception("the channel %s cannot be used", channel.name)
    return found


def _told_of(notice: AlertNotice, all_channels: Iterable[Ruled]) -> list[Ruled]:
    """Whoever is to be told of it, and by which rule; by none at once."""
    if notice.what == What.TEST:
        return [(notice.channel, None)] if notice.channel is not None else []
    told = Told(notice.severity, _area(notice), notice.tenant.slug if notice.tenant else "", notice.is_for_tenant)
    if notice.what == What.OPENED:
        # That alerts do not arrive is not told there.
        own = notice.facts.get("subject") if notice.kind == UNDELIVERED else None
        return [(one, rule) for one, rule in all_channels if one.name != own and rule and alerting.is_told(rule, told)]
    # Whoever was told that it began is told that it is over; of a budget's window only those who keep incidents.
    heard = AlertDelivery.objects.filter(notice__incident=notice.incident, notice__what=What.OPENED)
    ids = set(heard.values_list("channel_id", flat=True))
    return [
        (one, rule)
        for one, rule in all_channels
        if one.pk in ids and one.tells_ends and (notice.window_id is None or _keeps(one))
    ]


def _area(notice: AlertNotice) -> str:
    return notices.kind_of(notice.kind).area.value


def _keeps(channel: AlertChannel) -> bool:
    """Whether a channel keeps incidents: each of its messages is about one, and none is a digest."""
    return channel.kind == Kind.WEBHOOK or channel.is_pager


def note_sent(notice: AlertNotice, told: Iterable[AlertChannel], *, now: datetime) -> None:
    """Channels were told past the outbox: `spread` leaves them out, and that it is over is told there as well."""
    AlertDelivery.objects.bulk_create(
        AlertDelivery(notice=notice, channel=channel, created_at=now, state=State.SENT, sent_at=now) for channel in told
    )


def drain(*, clock: Callable[[], datetime], only: AlertChannel | None = None) -> int:
    """Send what is due, to several channels at a time; how many messages arrived. `clock` is read for each."""
    arrived = 0
    stop_at = clock() + LONGEST_RUN
    with ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="alerts") as pool:
        while clock() < stop_at:
            claimed = claim(now=clock(), only=only)
            if not claimed:
                break
            # Nothing but the sending itself is in the threads, which have no database.
            for one, error in zip(claimed, pool.map(_send, claimed), strict=True):
                mark(one, error=error, now=clock())
                arrived += error is None
    return arrived


def send_first(*, channel: AlertChannel, now: datetime) -> None:
    """Send the first message that is due for a channel, unless somebody is at it."""
    for one in claim(now=now, only=channel):
        mark(one, error=_send(one), now=now)


def _send(claimed: Claimed) -> NotSent | None:
    """Why it did not leave; None where it did."""
    if claimed.target is None or claimed.message is None:
        return claimed.problem
    try:
        channels.send(claimed.target, claimed.message)
    except NotSent as error:
        return error
    return None


def claim(*, now: datetime, only: AlertChannel | None = None) -> list[Claimed]:
    """Take what is due for some channels, and commit that it is being sent."""
    due = _due(now).filter(channel__in=_free(now))
    if only is not None:
        due = due.filter(channel=only)
    order = due.values("channel_id").annotate(first=Min("next_at")).order_by("first", "channel_id")
    found: list[Claimed] = []
    for channel_id in order.values_list("channel_id", flat=True)[: AT_A_TIME * 2]:
        if len(found) < AT_A_TIME and (claimed := _claim(channel_id, now)) is not None:
            found.append(_written(*claimed, now))
    return found


def _written(channel: AlertChannel, group: Sequence[AlertDelivery], now: datetime) -> Claimed:
    """The message and where it goes. What cannot be written keeps no other channel waiting."""
    try:
        target = target_of(channel)
        message = messages.of([one.notice for one in group], id=str(group[0].message_id), channel=channel, now=now)
    except NotSent as error:
        return Claimed(channel, group, problem=error)
    except Exception:
        log.exception("an alert for %s cannot be written", channel.name)
        return Claimed(channel, group, problem=NotSent("It cannot be written; the log says why."))
    return Claimed(channel, group, message, target)


@transaction.atomic
def _claim(channel_id: int, now: datetime) -> tuple[AlertChannel, list[AlertDelivery]] | None:
    # Looked at again under the lock: another worker may have taken it since.
    channel = _locked(_free(now).filter(pk=channel_id)).select_related("tenant").first()
    if channel is None:
        return None
    group = _group(channel, now)
    if not group:
        return None
    message_id = group[0].message_id or uuid.uuid4()
    for one in group:
        one.state, one.message_id, one.claim = State.SENDING, message_id, one.claim + 1
        one.tries, one.tried_at, one.next_at = one.tries + 1, now, now + LEASE
    fields = ["state", "message_id", "claim", "tries", "tried_at", "next_at"]
    AlertDelivery.objects.bulk_update(group, fields)
    # One message at a time; whoever dies over it keeps the channel until the lease ends.
    AlertChannel.objects.filter(pk=channel.pk).update(retry_at=now + LEASE)
    return channel, group


def _group(channel: AlertChannel, now: datetime) -> list[AlertDelivery]:
    """What goes in the next message: what went together before, one alone, or a digest of all that waits."""
    # Whatever is due longest: what was refused stands in line anew.
    due = _due(now).filter(channel=channel).select_related("notice__tenant").order_by("next_at", "notice_id")
    # Somebody waits for it, and whatever else stands in line may fail.
    if test := due.filter(notice__what=What.TEST).first():
        return [test]
    quiet_until = _quiet_until(channel, now)
    for first in due[:GROUP]:
        if _waits_for_its_beginning(first, now):
            continue
        if first.message_id is not None:
            group = list(due.filter(message_id=first.message_id)[:GROUP])
        elif _keeps(channel):
            group = [first]
        else:
            fresh = due.filter(message_id=None)[:GROUP]
            group = [one for one in fresh if not _waits_for_its_beginning(one, now)]
        if quiet_until > now:
            group = _awake(group, quiet_until)
        if group:
            return group
    return []


def _quiet_until(channel: AlertChannel, now: datetime) -> datetime:
    """When the quiet hours end that a channel has now; `now` where it has none."""
    try:
        return alerting.quiet_ends(rule_of(channel), now)
    except (ValueError, KeyError, OSError):
        # A time zone that is gone: whatever waits for it goes with the next message.
        return now


def _awake(group: Sequence[AlertDelivery], quiet_until: datetime) -> list[AlertDelivery]:
    """What of a group breaks the quiet hours that it has come into, as a receiver was away before; the rest waits.

    That is what is critical, what went with it in one message before, and what a person sends again.
    """
    grave = [one for one in group if one.notice.severity == alerting.GRAVEST]
    if grave and grave[0].message_id is not None:
        return list(group)
    awake = grave + [one for one in group if one not in grave and one.tries == 0 and one.tried_at is not None]
    asleep = [one.pk for one in group if one not in awake]
    AlertDelivery.objects.filter(pk__in=asleep).update(state=State.PENDING, next_at=quiet_until)
    return awake


def _waits_for_its_beginning(delivery: AlertDelivery, now: datetime) -> bool:
    """Whether it says that something is over of which the channel has not heard yet that it began."""
    if delivery.notice.what != What.OVER:
        return False
    began = AlertDelivery.objects.filter(
        channel=delivery.channel_id, notice__incident=delivery.notice.incident, notice__what=What.OPENED
    )
    return began.filter(Q(next_at__gt=now) | Q(tries__gt=0), state__in=(State.PENDING, State.SENDING)).exists()


def mark(claimed: Claimed, *, error: NotSent | None, now: datetime) -> None:
    """Note what came of a message, unless a later claim took it over; and let the channel go."""
    failures = claimed.channel.failures + 1
    given_up = [one for one in claimed.deliveries if error and _is_given_up(one, error, failures, now)]
    with transaction.atomic():
        for one in claimed.deliveries:
            rows = AlertDelivery.objects.filter(pk=one.pk, state=State.SENDING, claim=one.claim)
            if error is None:
                rows.update(state=State.SENT, sent_at=now, next_at=None, error="")
            elif one in given_up or one.notice.what == What.TEST:
                # Whoever pressed the button has the answer, and may press again.
                rows.update(state=State.DEAD, next_at=None, error=str(error)[:500])
            else:
                rows.update(state=State.PENDING, next_at=now + alerting.delay(one.tries), error=str(error)[:500])
        channel = AlertChannel.objects.filter(pk=claimed.channel.pk)
        if error is None:
            next_at = now + SPACING if len(claimed.deliveries) >= FLOOD else None
            channel.update(retry_at=next_at, failures=0, last_error="", last_sent_at=now)
            conditions.clear(kind=UNDELIVERED, subject=claimed.channel.name, now=now)
            return
        wait = alerting.delay(failures) if isinstance(error, Away) else NEXT_IN_LINE
        channel.update(retry_at=now + wait, failures=failures, last_error=str(error)[:500])
        log.warning("an alert did not reach %s: %s", claimed.channel.name, error)
        if given_up:
            message = f"{claimed.channel.name} has not taken an alert for a day: {error} It can be replayed."
            conditions.report(
                kind=UNDELIVERED, subject=claimed.channel.name, message=message, severity="critical", now=now
            )


def _is_given_up(delivery: AlertDelivery, error: NotSent, failures: int, now: datetime) -> bool:
    """Whether a day was enough: of a receiver that does not answer, for all that wait, whoever's turn each try was."""
    is_old = delivery.created_at <= now - timedelta(days=1)
    tries = max(delivery.tries, failures) if isinstance(error, Away) and is_old else delivery.tries
    return alerting.is_given_up(tries)


def target_of(channel: AlertChannel) -> Target:
    """Where a channel's messages go. Raises NotSent where its secret cannot be had."""
    from governance.alerts import environment

    private_allowed = channel.tenant_id is None and settings.PRIVATE_ENDPOINTS
    if channel.digest_of_url:
        url = environment.urls().get(channel.digest_of_url)
        if url is None:
            raise Away("ALERT_URLS names it no more.")
        return environment.target(url)
    try:
        secret = sealing.unseal(channel.sealed) if channel.sealed else ""
    except sealing.Unreadable as error:
        raise Away("Its secret was sealed under another SECRET_KEY; enter it again.") from error
    return Target(channel.kind, channel.target, secret, private_allowed)


def purge(*, now: datetime, limit: int = 5_000) -> int:
    """Delete notices that are older than they are kept, with their deliveries; how many notices."""
    old = AlertNotice.objects.filter(occurred_at__lt=now - KEPT).order_by("occurred_at").values_list("pk", flat=True)
    total = 0
    while ids := list(old[:limit]):
        AlertNotice.objects.filter(pk__in=ids).delete()
        total += len(ids)
    return total


def _free(now: datetime) -> QuerySet[AlertChannel]:
    """Channels in use for which nobody waits, or holds them."""
    waits = Q(retry_at__gt=now, retry_at__lte=now + IMPOSSIBLE_WAIT)
    return AlertChannel.objects.filter(Q(retry_at=None) | ~waits, enabled=True)


def _due(now: datetime) -> QuerySet[AlertDelivery]:
    """What is to be sent, and what a worker died over."""
    return AlertDelivery.objects.filter(state__in=(State.PENDING, State.SENDING), next_at__lte=now)


def _locked(rows: QuerySet[AlertNotice] | QuerySet[AlertChannel]):  # type: ignore[no-untyped-def]
    features = connection.features
    return rows.select_for_update(of=("self",) if features.has_select_for_update_of else (), **_skipping())


def _skipping() -> dict[str, bool]:
    return {"skip_locked": connection.features.has_select_for_update_skip_locked}
