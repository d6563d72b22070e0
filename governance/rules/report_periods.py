"""The weeks and months that reports are about, in their readers' own zones. Pure.

A period begins and ends at a local midnight, so a week has 167 or 169 hours when the clocks change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from governance.rules.windows import Span, WindowKind, add_months, span_at

# A report comes when people begin to work, on the day after its period.
REPORT_HOUR = 8


class Cadence(StrEnum):
    WEEKLY = "weekly"
    MONTHLY = "monthly"


_WINDOWS = {Cadence.WEEKLY: WindowKind.WEEK, Cadence.MONTHLY: WindowKind.MONTH}


@dataclass(frozen=True, slots=True)
class ReportPeriod:
    """A week from Monday on, or a calendar month. `first`: its first day."""

    cadence: Cadence
    first: date
    zone: ZoneInfo

    @property
    def next_first(self) -> date:
        return add_months(self.first, 1) if self.cadence is Cadence.MONTHLY else self.first + timedelta(days=7)

    @property
    def last(self) -> date:
        return self.next_first - timedelta(days=1)

    @property
    def days(self) -> tuple[date, ...]:
        return tuple(self.first + timedelta(days=n) for n in range((self.next_first - self.first).days))

    @property
    def span(self) -> Span:
        return Span(_at(self.first, time.min, self.zone), self.ends_at)

    @property
    def ends_at(self) -> datetime:
        return _at(self.next_first, time.min, self.zone)

    @property
    def due_at(self) -> datetime:
        """From when on its report may leave."""
        return _at(self.next_first, time(REPORT_HOUR), self.zone)

    @property
    def before(self) -> ReportPeriod:
        """What it is compared with."""
        first = add_months(self.first, -1) if self.cadence is Cadence.MONTHLY else self.first - timedelta(days=7)
        return ReportPeriod(self.cadence, first, self.zone)

    @property
    def title(self) -> str:
        """ "March 2026", "2 to 8 March 2026", "30 March to 5 April 2026"."""
        first, last = self.first, self.last
        if self.cadence is Cadence.MONTHLY:
            return f"{first:%B %Y}"
        if first.month == last.month:
            return f"{first.day} to {last.day} {last:%B %Y}"
        year = f" {first.year}" if first.year != last.year else ""
        return f"{first.day} {first:%B}{year} to {last.day} {last:%B %Y}"


def holding(cadence: Cadence, day: date, zone: ZoneInfo) -> ReportPeriod:
    """The period that a day is in."""
    noon = datetime.combine(day, time(12), tzinfo=zone)
    starts_at = span_at(_WINDOWS[cadence], noon, zone).starts_at
    return ReportPeriod(cadence, starts_at.astimezone(zone).date(), zone)


def last_ended(cadence: Cadence, now: datetime, zone: ZoneInfo) -> ReportPeriod:
    """The latest period that is over."""
    return holding(cadence, now.astimezone(zone).date(), zone).before


def last_due(cadence: Cadence, now: datetime, zone: ZoneInfo) -> ReportPeriod:
    """The latest period whose report may leave."""
    period = last_ended(cadence, now, zone)
    return period if period.due_at <= now else period.before


def _at(day: date, clock: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, clock, tzinfo=zone).astimezone(UTC)
