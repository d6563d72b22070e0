"""When Stripe's periods begin and end: calendar steps from an anchor, in Unix seconds. Pure."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

HOUR_S = 3_600
DAY_S = 24 * HOUR_S
SECONDS = {"day": DAY_S, "week": 7 * DAY_S}
MONTHS = {"month": 1, "year": 12}
# The latest moment that anything is set for; what follows from it is within the calendar.
LATEST = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
# Stripe bills no longer interval than three years.
MOST = {"day": 1095, "week": 156, "month": 36, "year": 3}


def boundary(anchor: int, interval: str, count: int, number: int) -> int:
    """Where the period after `number` steps from the anchor begins. A day that a month lacks is its last one."""
    if interval in SECONDS:
        return anchor + SECONDS[interval] * count * number
    first = datetime.fromtimestamp(anchor, UTC)
    year, month = divmod(first.year * 12 + first.month - 1 + MONTHS[interval] * count * number, 12)
    day = min(first.day, calendar.monthrange(year, month + 1)[1])
    return int(first.replace(year=year, month=month + 1, day=day).timestamp())


def next_boundary(anchor: int, interval: str, count: int, after: int) -> int:
    """The first boundary later than `after`, which may lie before the anchor."""
    number = _steps(anchor, interval, count, after)
    while boundary(anchor, interval, count, number) <= after:
        number += 1
    return boundary(anchor, interval, count, number)


def whole_period(anchor: int, interval: str, count: int, ends_at: int) -> int:
    """How long the interval is that ends at a boundary, in seconds: what a part of it is measured by."""
    number = _steps(anchor, interval, count, ends_at)
    while boundary(anchor, interval, count, number) < ends_at:
        number += 1
    return ends_at - boundary(anchor, interval, count, number - 1)


def _steps(anchor: int, interval: str, count: int, at: int) -> int:
    """A number of steps that is surely not beyond `at`."""
    longest = SECONDS.get(interval) or MONTHS[interval] * 31 * DAY_S
    steps = (at - anchor) // (longest * count)
    return steps - 1 if at >= anchor else (at - anchor) // ((SECONDS.get(interval) or 28 * DAY_S) * count) - 1


def intervals(interval: str, count: int, start: int, end: int) -> tuple[int, int, int]:
    """A span as whole intervals that end with it, and what is left before them: (whole, seconds, of so many)."""
    whole = 0
    while boundary(end, interval, count, -(whole + 1)) >= start:
        whole += 1
    rest_end = boundary(end, interval, count, -whole)
    return whole, rest_end - start, rest_end - boundary(end, interval, count, -(whole + 1))
