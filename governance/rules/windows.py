"""Half-open windows `[starts_at, ends_at)` for each window kind, in aware UTC.

Calendar windows follow the tenant's IANA time zone, so a day has 23 or 25 hours when the clocks change.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import assert_never
from zoneinfo import ZoneInfo


class WindowKind(StrEnum):
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    BILLING_CYCLE = "billing_cycle"
    LIFETIME = "lifetime"

    @property
    def ends_by_act(self) -> bool:
        """Its windows stay open past their `ends_at`, until an act (a paid period, a reset) opens the next."""
        return self is WindowKind.BILLING_CYCLE


# For queries: the values of the kinds whose windows end only by an act.
ENDING_BY_ACT = tuple(kind.value for kind in WindowKind if kind.ends_by_act)


@dataclass(frozen=True, slots=True)
class Span:
    """`[starts_at, ends_at)`; an `ends_at` of None never ends by time."""

    starts_at: datetime
    ends_at: datetime | None

    def __contains__(self, at: datetime) -> bool:
        return self.starts_at <= at and (self.ends_at is None or at < self.ends_at)


def span_at(kind: WindowKind, at: datetime, tz: ZoneInfo) -> Span:
    """The window of `kind` that holds `at`.

    Kinds that end by an act, and `lifetime`, have no calendar: they start at `at` and time sets them no end.
    """
    local = at.astimezone(tz)
    today = local.date()
    match kind:
        case WindowKind.HOUR:
            # Counted from midnight by time that passes, not by the wall clock: the repeated hour of autumn is two, and
            # where the clocks move by half an hour the day's last one is shorter.
            midnight, hour = _midnight(today, tz), timedelta(hours=1)
            start = midnight + (at - midnight) // hour * hour
            return Span(start, min(start + hour, _midnight(today + timedelta(days=1), tz)))
        case WindowKind.DAY:
            return Span(_midnight(today, tz), _midnight(today + timedelta(days=1), tz))
        case WindowKind.WEEK:
            monday = today - timedelta(days=today.weekday())
            return Span(_midnight(monday, tz), _midnight(monday + timedelta(days=7), tz))
        case WindowKind.MONTH:
            first = today.replace(day=1)
            return Span(_midnight(first, tz), _midnight(add_months(first, 1), tz))
        case WindowKind.BILLING_CYCLE | WindowKind.LIFETIME:
            return Span(at.astimezone(UTC), None)
        case _:
            assert_never(kind)


def add_months(anchor: date, months: int) -> date:
    """`anchor` moved by whole months; the 31st becomes the last day of a shorter month.

    Always count from the anchor, not from the previous result: 31 January + 2 months is 31 March.
    """
    year, month0 = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    return date(year, month0 + 1, min(anchor.day, monthrange(year, month0 + 1)[1]))


def anchored_month(anchor: datetime, at: datetime) -> Span:
    """The monthly window holding `at`, of a cycle that renews on the anchor's day and time of day (UTC).

    `at` must not be before `anchor`.
    """
    anchor, at = anchor.astimezone(UTC), at.astimezone(UTC)

    def renewal(months: int) -> datetime:
        return datetime.combine(add_months(anchor.date(), months), anchor.timetz())

    months = (at.year - anchor.year) * 12 + at.month - anchor.month
    if renewal(months) > at:
        months -= 1
    return Span(renewal(months), renewal(months + 1))


def _midnight(day: date, tz: ZoneInfo) -> datetime:
    """The first instant of a local day; where midnight is skipped, the instant the clocks jump."""
    return datetime.combine(day, time.min, tzinfo=tz).astimezone(UTC)
