"""Weeks and months of reports, on the days when clocks change too."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from governance.rules.report_periods import Cadence, ReportPeriod, holding, last_due, last_ended

BERLIN, AUCKLAND, ANGELES = ZoneInfo("Europe/Berlin"), ZoneInfo("Pacific/Auckland"), ZoneInfo("America/Los_Angeles")
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("cadence", "day", "hours"),
    [
        (Cadence.WEEKLY, date(2026, 3, 18), 168),
        (Cadence.WEEKLY, date(2026, 3, 29), 167),
        (Cadence.WEEKLY, date(2026, 10, 25), 169),
        (Cadence.MONTHLY, date(2026, 3, 10), 31 * 24 - 1),
        (Cadence.MONTHLY, date(2026, 10, 31), 31 * 24 + 1),
        (Cadence.MONTHLY, date(2028, 2, 29), 29 * 24),
    ],
)
def test_a_period_has_its_days_whatever_the_clocks_do(cadence: Cadence, day: date, hours: int) -> None:
    period = holding(cadence, day, BERLIN)
    starts_at, ends_at = period.span.starts_at, period.ends_at
    assert ends_at - starts_at == hours * HOUR
    for edge in (starts_at, ends_at):
        assert edge.astimezone(BERLIN).time().isoformat() == "00:00:00"
    assert day in period.days
    assert (period.days[0], period.days[-1]) == (period.first, period.last)
    # It touches the one before.
    assert period.before.ends_at == starts_at
    assert period.span.ends_at == ends_at


def test_a_week_begins_on_monday_and_a_month_on_its_first() -> None:
    assert holding(Cadence.WEEKLY, date(2026, 3, 15), BERLIN).first == date(2026, 3, 9)
    assert holding(Cadence.WEEKLY, date(2026, 3, 16), BERLIN).first == date(2026, 3, 16)
    assert holding(Cadence.MONTHLY, date(2026, 1, 31), BERLIN).before.first == date(2025, 12, 1)


def test_what_is_over_is_the_readers_own_week() -> None:
    """It is Monday in Auckland while Los Angeles has Sunday noon."""
    now = datetime(2026, 3, 15, 20, 0, tzinfo=UTC)
    assert last_ended(Cadence.WEEKLY, now, AUCKLAND).first == date(2026, 3, 9)
    assert last_ended(Cadence.WEEKLY, now, ANGELES).first == date(2026, 3, 2)
    assert last_ended(Cadence.MONTHLY, now, ANGELES) == ReportPeriod(Cadence.MONTHLY, date(2026, 2, 1), ANGELES)


@pytest.mark.parametrize(
    ("first", "due"),
    [(date(2026, 3, 23), "2026-03-30T06:00:00+00:00"), (date(2026, 10, 19), "2026-10-26T07:00:00+00:00")],
)
def test_it_is_due_at_eight_of_the_readers_clock_after_either_change(first: date, due: str) -> None:
    assert ReportPeriod(Cadence.WEEKLY, first, BERLIN).due_at.isoformat() == due


@pytest.mark.parametrize(("hour", "first"), [(7, date(2026, 3, 2)), (8, date(2026, 3, 9))])
def test_before_eight_the_report_of_the_period_before_is_the_latest(hour: int, first: date) -> None:
    now = datetime(2026, 3, 16, hour, tzinfo=BERLIN)
    assert last_due(Cadence.WEEKLY, now, BERLIN).first == first


@pytest.mark.parametrize(
    ("cadence", "day", "title"),
    [
        (Cadence.MONTHLY, date(2026, 3, 29), "March 2026"),
        (Cadence.WEEKLY, date(2026, 3, 4), "2 to 8 March 2026"),
        (Cadence.WEEKLY, date(2026, 4, 1), "30 March to 5 April 2026"),
        (Cadence.WEEKLY, date(2026, 1, 1), "29 December 2025 to 4 January 2026"),
    ],
)
def test_it_is_called_what_people_call_it(cadence: Cadence, day: date, title: str) -> None:
    assert holding(cadence, day, BERLIN).title == title
