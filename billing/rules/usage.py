"""The rules of reporting usage: units, what is sent and what is carried, when, and what Stripe's sums prove. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from billing.stripe_api import objects

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
MILLISECOND = timedelta(milliseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NANOS_PER_MICRO = 1_000
# Stripe takes events of the past 35 days, and knows an identifier again for 24 hours.
OLDEST_STAMP = timedelta(days=34)
RESEND_LIMIT = timedelta(hours=20)
FIRST_DELAY = timedelta(seconds=30)
LONGEST_DELAY = timedelta(hours=1)


class Unit(StrEnum):
    MICRODOLLARS = "microdollars"
    TOKENS = "tokens"
    CALLS = "calls"


@dataclass(frozen=True, slots=True)
class Sums:
    """An hour of a tenant, from its rollups."""

    cost_nanos: int = 0
    tokens: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What a change of an hour comes to: `value` is sent, `carried_units` (0 or less) is set off later."""

    value: int
    carried_units: int


class Verdict(StrEnum):
    """What Stripe's sum says of events that nobody knows the fate of."""

    ARRIVED = "arrived"
    MISSING = "missing"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Failure:
    """An event that Stripe took and could not count."""

    identifier: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """`count` events could not be counted; the report names some of them."""

    count: int
    failures: tuple[Failure, ...]
    summary: str = ""


def floor_hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def units_of(sums: Sums, unit: str) -> int:
    """Whole units of an hour so far; what is less than one joins when the hour grows."""
    if unit == Unit.MICRODOLLARS:
        return sums.cost_nanos // NANOS_PER_MICRO
    return sums.tokens if unit == Unit.TOKENS else sums.calls


def identifier(stripe_customer_id: str, event_name: str, *, tenant_id: int, hour: datetime, sequence: int) -> UUID:
    """The same for the same change of an hour, whenever it is noted: a UUIDv7 of the hour, the rest of it a digest.

    So a database that is put back to what it was sends nothing under a new name that Stripe has under the old one.
    """
    said = f"{stripe_customer_id}\n{event_name}\n{tenant_id}\n{sequence}"
    digest = int.from_bytes(hashlib.sha256(said.encode()).digest()[:10])
    milliseconds = (hour - EPOCH) // MILLISECOND
    # RFC 9562: 48 bits of time, the version, 12 bits, the variant, 62 bits.
    high, low = digest >> 62 & 0xFFF, digest & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low)


def step(units: int, carried_units: int) -> Step:
    """Stripe takes no negative usage: what an hour takes back lessens what is sent next."""
    balance = units + carried_units
    return Step(balance, 0) if balance > 0 else Step(0, balance)


def stamp(hour: datetime, *, period_end: datetime | None, now: datetime) -> datetime:
    """The time an hour's event carries: its last second, so that a period that began within it is billed for it.

    Where a period ends within the hour, the last second of that; an hour too old for Stripe becomes the last full one.
    """
    if hour < now - OLDEST_STAMP:
        hour, period_end = floor_hour(now) - HOUR, None
    end = hour + HOUR
    if period_end is not None and hour < period_end < end:
        end = period_end
    return end - SECOND


def may_resend(first_attempt_at: datetime | None, now: datetime) -> bool:
    """Whether Stripe still knows the identifier again: four hours are left for slow clocks and calls."""
    return first_attempt_at is None or now < first_attempt_at + RESEND_LIMIT


def delay(attempts: int) -> timedelta:
    doublings = min(max(attempts - 1, 0), 10)
    return min(FIRST_DELAY * (1 << doublings), LONGEST_DELAY)


def verdict(*, total: int, sent: int, held: int, was_restored: bool = False) -> Verdict:
    """`total` is Stripe's sum of an hour, `sent` what has arrived for certain, `held` what may have.

    `was_restored`: the ledger has lost some of the hour, so that Stripe may have more of it.
    """
    if total == sent + held or (was_restored and total > sent + held):
        return Verdict.ARRIVED
    return Verdict.MISSING if total == sent else Verdict.UNCLEAR


def error_report(data: Any) -> ErrorReport | None:
    """The details of a meter's error event; None where they are left out, as webhooks leave them."""
    reason = objects.mapping(objects.mapping(data).get("reason"))
    if not reason:
        return None
    failures = tuple(
        failure
        for kind in objects.members(reason.get("error_types"))
        for sample in objects.members(kind.get("sample_errors"))
        if (failure := _failure(kind, sample)).identifier
    )
    count = reason.get("error_count")
    total = count if isinstance(count, int) and not isinstance(count, bool) else len(failures)
    return ErrorReport(total, failures, objects.text(objects.mapping(data).get("developer_message_summary")))


def _failure(kind: Mapping[str, Any], sample: Mapping[str, Any]) -> Failure:
    return Failure(
        identifier=objects.text(objects.mapping(sample.get("request")).get("identifier")),
        code=objects.text(kind.get("code")),
        message=objects.text(sample.get("error_message")),
    )
