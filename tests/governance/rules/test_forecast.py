"""When a budget runs out, by the hours before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from governance.rules import forecast as forecasts
from governance.rules.forecast import Basis, Forecast

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# A Tuesday.
NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")


ONCE: dict[str, Any] = {"now": NOW, "ends_at": None, "settled_nanos": 0, "cap_nanos": 100, "zone": UTC_ZONE}


def hours(count: int, nanos: int = 100, *, until: datetime = NOW) -> dict[datetime, int]:
    """So much in each of the last full hours."""
    return {until - HOUR * number: nanos for number in range(1, count + 1)}


def found(history: dict[datetime, int], **given: Any) -> Forecast:
    fields: dict[str, Any] = {
        "since": min(history),
        "now": NOW,
        "ends_at": NOW + DAY,
        "settled_nanos": 1_000,
        "cap_nanos": 10_000,
        "zone": UTC_ZONE,
    }
    made = forecasts.forecast(history, **(fields | given))
    assert made is not None
    return made


def test_without_a_full_hour_or_spend_nothing_is_said() -> None:
    rest = {"now": NOW, "ends_at": None, "settled_nanos": 0, "cap_nanos": 10, "zone": UTC_ZONE}
    assert forecasts.forecast({NOW: 5}, since=NOW, **rest) is None
    assert forecasts.forecast({NOW - HOUR: 0}, since=NOW - HOUR, **rest) is None
    assert forecasts.forecast({NOW - HOUR: -5}, since=NOW - HOUR, **rest) is None


def test_of_a_few_hours_the_rate_goes_on() -> None:
    made = found(hours(5), cap_nanos=1_250)
    assert made.basis is Basis.RATE
    assert made.points[0].expected_nanos == made.points[0].low_nanos == made.points[0].high_nanos == 1_000
    assert [point.expected_nanos for point in made.points[1:4]] == [1_100, 1_200, 1_300]
    assert made.points[-1].at == NOW + DAY
    assert made.runs_out_at == NOW + timedelta(hours=2, minutes=30)


def test_what_came_in_part_of_an_hour_is_not_judged_and_the_rest_of_it_counts_in_part() -> None:
    now = NOW + timedelta(minutes=45)
    made = found(hours(5) | {NOW: 9_999}, now=now, since=NOW - HOUR * 5 - timedelta(minutes=10))
    assert [point.at for point in made.points[:3]] == [now, NOW + HOUR, NOW + HOUR * 2]
    assert [point.expected_nanos for point in made.points[:3]] == [1_000, 1_025, 1_125]


def test_a_history_that_begins_within_an_hour_begins_with_the_next() -> None:
    early = hours(4) | {NOW - HOUR * 5: 100_000}
    assert found(early, since=NOW - HOUR * 5 + timedelta(minutes=1)).points[1].expected_nanos == 1_100


def test_money_that_is_used_up_has_run_out_now() -> None:
    made = found(hours(5), settled_nanos=10_000)
    assert (made.earliest, made.runs_out_at, made.latest) == (NOW, NOW, NOW)
    assert made.give_or_take == timedelta(0)


def test_money_that_lasts_runs_out_never() -> None:
    made = found(hours(5), cap_nanos=1_000_000)
    assert (made.earliest, made.runs_out_at, made.latest, made.give_or_take) == (None, None, None, None)


def test_the_band_holds_the_line_and_says_when_at_the_earliest_and_the_latest() -> None:
    made = found(hours(24 * 3), cap_nanos=2_000)
    for point in made.points:
        assert 0 <= point.low_nanos <= point.expected_nanos <= point.high_nanos
    for before, after in zip(made.points, made.points[1:], strict=False):
        assert before.low_nanos <= after.low_nanos
        assert before.high_nanos <= after.high_nanos
    assert made.earliest
    assert made.latest
    assert made.runs_out_at == NOW + HOUR * 10
    assert made.earliest < made.runs_out_at < made.latest
    assert made.give_or_take == (made.latest - made.earliest) / 2


def test_where_it_may_last_there_is_no_latest() -> None:
    made = found(hours(5), cap_nanos=3_300)
    assert made.runs_out_at is not None
    assert made.latest is None
    assert made.give_or_take is None


def office_hours(days: int, *, is_worked: Any = lambda day: True) -> dict[datetime, int]:
    """100 an hour from 9:00 to 17:00, each day from NOW's midnight back."""
    midnight = NOW.replace(hour=0)
    spent = {}
    for number in range(1, days + 1):
        day = midnight - DAY * number
        spent |= {day + HOUR * hour: 100 if 9 <= hour < 17 and is_worked(day) else 0 for hour in range(24)}
    return spent | {midnight + HOUR * hour: 100 if 9 <= hour < 17 else 0 for hour in range(12)}


def test_of_some_days_the_hours_are_told_apart() -> None:
    made = found(office_hours(5), ends_at=NOW + DAY)
    assert made.basis is Basis.HOURS
    by_hour = {point.at.hour: point.expected_nanos for point in made.points[:-1]}
    # Nothing is expected for the night.
    assert by_hour[17] == by_hour[20] == by_hour[4]
    assert by_hour[17] > by_hour[14] > 1_000


def test_hours_are_those_of_the_zone() -> None:
    zone = ZoneInfo("Asia/Tokyo")
    assert [point.expected_nanos for point in found(office_hours(5), zone=zone).points] == [
        point.expected_nanos for point in found(office_hours(5)).points
    ]
    # Across a change of the clocks the same hour of UTC is another of the place.
    spring, berlin = datetime(2026, 3, 29, 0, 0, tzinfo=UTC), ZoneInfo("Europe/Berlin")
    history = {spring - HOUR * n: 100 if (spring - HOUR * n).astimezone(berlin).hour == 9 else 0 for n in range(1, 97)}
    made = found(history, now=spring, ends_at=spring + DAY, zone=berlin)
    rises = [
        after.at
        for before, after in zip(made.points, made.points[1:], strict=False)
        if after.expected_nanos > before.expected_nanos
    ]
    assert rises == [datetime(2026, 3, 29, 8, 0, tzinfo=UTC)]


def test_of_two_weeks_the_weekdays_are_told_apart() -> None:
    history = office_hours(21, is_worked=lambda day: day.weekday() < 5)
    made = found(history, ends_at=NOW + DAY * 7, cap_nanos=10**9)
    assert made.basis is Basis.WEEKDAYS
    by_day = {point.at: point.expected_nanos for point in made.points if point.at.hour == 0}
    spent = {at.weekday(): by_day[at] - by_day[at - DAY] for at in by_day if at - DAY in by_day}
    # What was spent in the day before midnight: Friday's is seen on Saturday.
    assert spent[6] == spent[0] == 0
    assert spent[5] > 500


def test_one_day_out_of_all_proportion_counts_as_three() -> None:
    usual = hours(24 * 10)
    wild = usual | {at: nanos * 50 for at, nanos in usual.items() if timedelta(days=4) < NOW - at <= timedelta(days=5)}
    ends = {"ends_at": NOW + DAY, "cap_nanos": 10**9}
    more = found(wild, **ends).points[-1].expected_nanos - 1_000
    # Nine days of 100 and one that counts as 300: 120 an hour, seen as a little slower lately.
    assert 2_400 < more < 2_900
    # Of two days nobody knows which one is the usual.
    assert found(hours(24) | {at - DAY: 5_000 for at in hours(24)}, **ends).points[-1].expected_nanos > 30_000


def test_days_without_spend_are_no_extremes() -> None:
    empty = dict.fromkeys(hours(24 * 3), 0)
    assert found(empty | hours(6), cap_nanos=10**9).points[-1].expected_nanos > 1_000
    mostly = {at: 100 if NOW - at <= DAY * 2 else 0 for at in hours(24 * 3)}
    assert found(mostly, cap_nanos=10**9).points[-1].expected_nanos > 1_000


def test_one_day_long_ago_is_no_habit() -> None:
    """Neither does it come again at that hour of that weekday, nor is it what a usual day has."""
    for days_ago in (4, 10, 27):
        past = {NOW - DAY * days_ago: 100_000}
        assert forecasts.forecast(past, **ONCE, since=NOW - DAY * days_ago) is None
        # With a little of today it goes by the rate, and the day counts as three of the little ones.
        made = found(past | hours(2, nanos=10), since=NOW - DAY * days_ago, cap_nanos=10**9)
        assert made.basis is Basis.RATE
        assert made.points[-1].expected_nanos < 1_000 + 24 * 20 * 3


def test_spend_of_three_days_of_many_is_a_habit() -> None:
    weekly = {NOW - DAY * 7 * number: 1_000 for number in (1, 2, 3)}
    made = found(weekly, ends_at=NOW + DAY * 2, cap_nanos=10**9)
    assert made.basis is Basis.WEEKDAYS
    # Today's weekday, in the hour to come.
    assert [point.expected_nanos > 1_000 for point in made.points[:4]] == [False, True, True, True]
    two = {at: nanos for at, nanos in weekly.items() if at > NOW - DAY * 15}
    assert forecasts.forecast(two, **ONCE, since=min(two)) is None


@pytest.mark.parametrize("dollars", [1, 24, 25, 1_000, 9_000_000])
def test_any_amount_an_hour_reaches_its_cap(dollars: int) -> None:
    nanos = dollars * 10**9
    made = found(hours(48, nanos=nanos), settled_nanos=nanos * 48, cap_nanos=nanos * 53 + nanos // 2)
    assert made.runs_out_at == NOW + HOUR * 5.5
    assert made.earliest is not None
    assert made.earliest < made.runs_out_at


def test_a_faster_pace_goes_on_and_fades() -> None:
    usual = hours(24 * 10)
    running_away = usual | hours(3, nanos=2_000)
    made = found(running_away, ends_at=NOW + DAY * 4, cap_nanos=10**9)
    steps = [
        after.expected_nanos - before.expected_nanos
        for before, after in zip(made.points, made.points[1:], strict=False)
    ]
    assert steps[0] > 300
    assert steps[0] > steps[12] > steps[36] > 100
    stopped = found(usual | hours(6, nanos=0), ends_at=NOW + DAY * 4, cap_nanos=10**9)
    slow = [
        after.expected_nanos - before.expected_nanos
        for before, after in zip(stopped.points, stopped.points[1:], strict=False)
    ]
    assert 20 < slow[0] < 60 < slow[48]


@pytest.mark.parametrize("ends_at", [None, NOW - HOUR])
def test_without_an_end_it_looks_two_months_ahead(ends_at: datetime | None) -> None:
    made = found(hours(5), ends_at=ends_at, cap_nanos=10**9)
    assert made.points[-1].at == NOW + timedelta(days=60)
    assert len(made.points) == 60 * 24 + 1


def test_days_that_differ_widen_the_band() -> None:
    even = hours(24 * 10)
    uneven = {at: 40 if (NOW - at - HOUR) // DAY % 2 else 160 for at in even}
    wide, narrow = (found(history, cap_nanos=10**9).points[-1] for history in (uneven, even))
    assert wide.high_nanos - wide.low_nanos > 3 * (narrow.high_nanos - narrow.low_nanos)
    # However even they were, a tenth may come of it.
    assert narrow.high_nanos > narrow.expected_nanos > narrow.low_nanos


def test_what_is_not_expected_at_all_says_nothing_of_the_spread() -> None:
    """A day of nothing but hours without spend is a day without a deviation."""
    silent = {NOW - HOUR * number: 0 for number in range(1, 24 * 20 + 1)}
    history = silent | {at: 100 for at in silent if at.weekday() == 0 and at.hour == 9}
    made = found(history, ends_at=NOW + DAY * 7, cap_nanos=10**9)
    assert made.points[-1].expected_nanos > 1_000


def at_hour(made: Forecast, number: int) -> tuple[int, int, int]:
    """(low, expected, high) so many hours ahead."""
    point = made.points[number]
    return point.low_nanos, point.expected_nanos, point.high_nanos


def test_the_band_of_a_few_hours_is_wide() -> None:
    made = found(hours(5), cap_nanos=10**9)
    # Half up or down on one day that nobody knows: 0.5 ** 2 x (1 / days ahead, at least a quarter, + 1); and 0.18 of
    # another level: 1.28 x sqrt(0.25 x 5 + 0.18 ** 2).
    assert at_hour(made, 1) == (1_000, 1_100, 1_000 + 245)
    assert at_hour(made, 24) == (1_000 + 158, 3_400, 1_000 + 4_642)


def test_the_band_of_ten_even_days_is_narrow() -> None:
    made = found(hours(24 * 10), cap_nanos=10**9)
    # A tenth at least: 1.28 x sqrt(0.1 ** 2 x (1 + 1 / 10) + 0.18 ** 2).
    assert at_hour(made, 24) == (1_000 + 1_760, 3_400, 1_000 + 3_040)


def test_the_band_of_uneven_days_is_as_wide_as_they_differ() -> None:
    # Each is six tenths off, which is 0.8895 of a standard deviation:
    # 1.28 x sqrt(0.8895 ** 2 x (1 + 1 / 10) + 0.18 ** 2) is 1.216.
    history = {at: 40 if (NOW - at - HOUR) // DAY % 2 else 160 for at in hours(24 * 10)}
    low, expected, high = at_hour(found(history, cap_nanos=10**9), 24)
    assert low == 1_000
    assert (high - 1_000) / (expected - 1_000) == pytest.approx(2.216, abs=0.001)


def test_growth_from_week_to_week_is_carried_on_to_today() -> None:
    # A twentieth more each day, for four weeks: tomorrow is not the mean of them.
    history = {at: round(1_000 * 1.05 ** (27 - (NOW - at - HOUR) // DAY)) for at in hours(24 * 28)}
    today = 1_000 * 1.05**27
    assert at_hour(found(history, cap_nanos=10**9), 24)[1] == pytest.approx(1_000 + 24 * today, rel=0.05)


def test_growth_that_cannot_go_on_is_carried_on_in_part() -> None:
    history = {at: round(10 * 1.5 ** (27 - (NOW - at - HOUR) // DAY)) for at in hours(24 * 28)}
    made = found(history, cap_nanos=10**12)
    assert made.points[24].expected_nanos < 1_000 + 24 * 10 * 1.5**28


@pytest.mark.parametrize(
    ("count", "basis"),
    [(47, Basis.RATE), (48, Basis.HOURS), (14 * 24 - 1, Basis.HOURS), (14 * 24, Basis.WEEKDAYS)],
)
def test_how_much_history_is_enough(count: int, basis: Basis) -> None:
    assert found(hours(count)).basis is basis


def test_three_days_are_enough_to_know_the_usual_one() -> None:
    wild = hours(48) | {at - DAY * 2: 5_000 for at in hours(24)}
    # 100, 100 and what counts as 300 an hour; lately it was 100: (600 + 500) / (1,000 + 500) of 166.7.
    assert at_hour(found(wild), 1)[1] == 1_000 + 122


def test_the_pace_of_the_last_hours_is_weighed_with_some_usual_ones() -> None:
    history = hours(24 * 10) | hours(6, nanos=400)
    # On average 107.5 an hour, of these hours 130: (2,400 + 322.5) / (780 + 322.5) of the 100 that are usual at noon.
    assert at_hour(found(history, cap_nanos=10**9), 1)[1] == 1_000 + 247


def test_an_hour_that_the_history_does_not_name_had_no_spend() -> None:
    assert found({NOW - HOUR * 2: 200}, cap_nanos=10**9).points[1].expected_nanos == 1_100


def test_a_cap_is_reached_when_the_line_touches_it() -> None:
    assert found(hours(5), cap_nanos=1_100).runs_out_at == NOW + HOUR
    assert found(hours(5), cap_nanos=3_400).runs_out_at == NOW + DAY
    assert found(hours(5), cap_nanos=3_401).runs_out_at is None


def test_weekdays_are_those_of_the_zone() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    history = {at: 100 if at.astimezone(tokyo).weekday() < 5 else 0 for at in hours(24 * 21)}
    made = found(history, ends_at=NOW + DAY * 7, cap_nanos=10**9, zone=tokyo)
    steps = {
        after.at - HOUR: after.expected_nanos - before.expected_nanos
        for before, after in zip(made.points, made.points[1:], strict=False)
    }
    assert {step for at, step in steps.items() if at.astimezone(tokyo).weekday() >= 5} == {0}
    assert min(step for at, step in steps.items() if at.astimezone(tokyo).weekday() < 5) > 50
