"""Who is told of what, when, and how often it is tried: rules of alerts' channels. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum

# The mildest first.
SEVERITIES = ("info", "warning", "critical")
GRAVEST = SEVERITIES[-1]


class Area(StrEnum):
    """What kinds of alerts there are, as people choose between them."""

    BUDGETS = "budgets"
    SPEND = "spend"
    MODELS = "models"
    BILLING = "billing"
    LEDGER = "ledger"
    OPERATIONS = "operations"
    SECURITY = "security"


AREAS = tuple(area.value for area in Area)


class Pace(StrEnum):
    """How often a channel is told of what can wait."""

    AT_ONCE = "at_once"
    HOURLY = "hourly"
    DAILY = "daily"


# A daily digest comes when people begin to work.
DIGEST_HOUR = 8
# What waits after each try in vain; the last one again and again.
_DELAYS = tuple(timedelta(seconds=s) for s in (30, 60, 120, 300, 600, 900, 900, 900, 900, 900, 900, 900, 900, 3600))
# With the waits above that is a day.
MOST_TRIES = 34
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Told:
    """What a notice says of itself. `tenant`: the slug of the customer it is about, empty where it is about none.

    `is_for_tenant`: it shows nothing that the customer may not see.
    """

    severity: str
    area: str
    tenant: str = ""
    is_for_tenant: bool = False


@dataclass(frozen=True, slots=True)
class ChannelRule:
    """What a channel is told of, and when. `owner`: the slug of the customer it belongs to, empty for the operators'.

    Empty `areas` or `tenants` mean all there are. Quiet hours go from `quiet_from` to `quiet_until` in `zone`, through
    midnight too; what is critical breaks them, and comes at once whatever the `pace`.
    """

    min_severity: str = "warning"
    areas: Collection[str] = ()
    tenants: Collection[str] = ()
    owner: str = ""
    pace: str = Pace.AT_ONCE
    quiet_from: time | None = None
    quiet_until: time | None = None
    zone: tzinfo = UTC


def is_told(rule: ChannelRule, notice: Told) -> bool:
    """Whether a channel is told of a notice."""
    if rule.owner and (notice.tenant != rule.owner or not notice.is_for_tenant):
        return False
    if rule.tenants and notice.tenant not in rule.tenants:
        return False
    if rule.areas and notice.area not in rule.areas:
        return False
    return SEVERITIES.index(notice.severity) >= SEVERITIES.index(rule.min_severity)


def due_at(rule: ChannelRule, severity: str, now: datetime) -> datetime:
    """When a channel is told of what happens now."""
    if severity == GRAVEST:
        return now
    return quiet_ends(rule, _paced(rule, now))


def quiet_ends(rule: ChannelRule, at: datetime) -> datetime:
    """The end of the quiet hours that a moment is in, else the moment."""
    if rule.quiet_from is None or rule.quiet_until is None or rule.quiet_from == rule.quiet_until:
        return at
    local = at.astimezone(rule.zone)
    clock = local.time().replace(tzinfo=None)
    through_midnight = rule.quiet_from > rule.quiet_until
    within = (
        clock >= rule.quiet_from or clock < rule.quiet_until
        if through_midnight
        else rule.quiet_from <= clock < rule.quiet_until
    )
    if not within:
        return at
    day = local.date() + timedelta(days=1 if through_midnight and clock >= rule.quiet_from else 0)
    return datetime.combine(day, rule.quiet_until, tzinfo=rule.zone).astimezone(at.tzinfo)


def _paced(rule: ChannelRule, now: datetime) -> datetime:
    if rule.pace == Pace.HOURLY:
        return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    if rule.pace == Pace.DAILY:
        local = now.astimezone(rule.zone)
        day = local.date() + timedelta(days=0 if local.hour < DIGEST_HOUR else 1)
        return datetime.combine(day, time(DIGEST_HOUR), tzinfo=rule.zone).astimezone(now.tzinfo)
    return now


def delay(tries: int) -> timedelta:
    """How long to wait after so many tries in vain."""
    return _DELAYS[min(max(tries, 1), len(_DELAYS)) - 1]


def is_given_up(tries: int) -> bool:
    """Whether so many tries in vain are enough."""
    return tries >= MOST_TRIES


def one_line(text: str, length: int) -> str:
    """Words that may come from anybody, as one line without what controls a screen; at most so long."""
    shown = "".join(each if each.isprintable() else " " for each in text)
    shown = _SPACES.sub(" ", shown).strip()
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def calls_nobody(text: str) -> str:
    """The text, in which no name of a chat (@everyone, <!channel>, <@U1>) rings anybody, and nothing is markup.

    A name or a reason could else be a link that says something other than where it leads ([Approve](https://...)).
    """
    return text.replace("@", "@\u2060").replace("<", "<\u2060").replace("](", "]\u2060(")


def graver_than(severity: str) -> tuple[str, ...]:
    return SEVERITIES[SEVERITIES.index(severity) + 1 :]


def gravest(severities: Collection[str]) -> str:
    """The gravest of some severities, of which there is one at least."""
    return max(severities, key=SEVERITIES.index)
