"""When a budget runs out, by what was spent in the hours before. Pure, and for show alone: nothing is decided by it.

Amounts are integer nanodollars. How an hour compares with others is a ratio and a float, from which no amount is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from math import exp, log, sqrt
from statistics import median
from zoneinfo import ZoneInfo

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# From so much history on, hours of the day are told apart, and days of the week.
KNOWS_HOURS, KNOWS_WEEKDAYS = timedelta(days=2), timedelta(days=14)
# A day out of all proportion counts as so many usual ones.
MOST_OF_A_DAY = 3
# What the last hours were faster or slower than expected goes on, and fades: half of it is left after HALF_LIFE.
LATELY, HALF_LIFE = timedelta(hours=6), timedelta(hours=12)
SLOWEST, FASTEST = 0.25, 8.0
# Growth is carried on at most so fast, a day (a tenth), and where so many pairs of days show it.
FASTEST_GROWTH, FEWEST_SLOPES = 0.095, 7
# Eight in ten end within this many standard deviations. Of few days the spread is not known, and of no few is it small.
BAND = 1.28
UNKNOWN_SPREAD, LEAST_SPREAD, FEW_DAYS = 0.5, 0.1, 3
# And what days to come differ by from the ones before, all of them alike: measured (docs/anomalies.md).
OTHER_LEVEL = 0.18
# A budget without an end is looked ahead for, so far.
LONGEST = timedelta(days=60)


class Basis(StrEnum):
    """What of the history the forecast goes by."""

    RATE = "rate"
    HOURS = "hours"
    WEEKDAYS = "weekdays"


@dataclass(frozen=True, slots=True)
class ForecastPoint:
    """What will have been spent at a moment: as expected, and between what eight in ten forecasts end."""

    at: datetime
    expected_nanos: int
    low_nanos: int
    high_nanos: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """`points`: hour by hour from now to the window's end, or for `LONGEST`.

    `runs_out_at` is None where the money lasts that long; `earliest` and `latest` are when it would if more or less is
    spent than expected, None where it then lasts.
    """

    points: tuple[ForecastPoint, ...]
    basis: Basis
    runs_out_at: datetime | None
    earliest: datetime | None
    latest: datetime | None

    @property
    def give_or_take(self) -> timedelta | None:
        """Half of the stretch in which it runs out; None where it may not."""
        if self.earliest is None or self.latest is None:
            return None
        return (self.latest - self.earliest) / 2


@dataclass(frozen=True, slots=True)
class SpendingHabit:
    """How much is spent in an hour, on average and by when it is. Local hours and weekdays."""

    per_hour: float
    by_weekday: Mapping[int, float]
    by_hour: Mapping[int, float]
    zone: ZoneInfo
    basis: Basis

    def expected(self, at: datetime) -> float:
        """Nanodollars of the hour that begins at `at`."""
        local = at.astimezone(self.zone)
        return self.per_hour * self.by_weekday.get(local.weekday(), 1.0) * self.by_hour.get(local.hour, 1.0)


def forecast(
    history: Mapping[datetime, int],
    *,
    since: datetime,
    now: datetime,
    ends_at: datetime | None,
    settled_nanos: int,
    cap_nanos: int,
    zone: ZoneInfo,
) -> Forecast | None:
    """What becomes of a window. None where the history, which begins at `since`, says nothing: no hour, no spend, or
    spend on a day or two long ago.

    `history` has what was spent in each full hour of UTC, by its beginning, where anything was; the hour that goes on
    is not judged. `cap_nanos` is where the money is used up.
    """
    hours = _hours(history, since, now)
    if not any(nanos > 0 for _, nanos in hours):
        return None
    is_rare = _is_rare(hours)
    if is_rare and not any(nanos > 0 for _, nanos in hours[-24:]):
        return None
    growth = _growth(hours)
    carried = _carried(hours, growth)
    habit = _habit(_without_extremes(carried), zone, is_rare=is_rare)
    pace = _pace(carried, habit)
    spread, days = _spread(carried, habit)
    until = ends_at if ends_at is not None and ends_at > now else now + LONGEST
    points = tuple(_ahead(habit, pace, spread, days, now=now, until=until, settled_nanos=settled_nanos))
    return Forecast(
        points=points,
        basis=habit.basis,
        runs_out_at=_crossing([(point.at, point.expected_nanos) for point in points], cap_nanos),
        earliest=_crossing([(point.at, point.high_nanos) for point in points], cap_nanos),
        latest=_crossing([(point.at, point.low_nanos) for point in points], cap_nanos),
    )


def _hours(history: Mapping[datetime, int], since: datetime, now: datetime) -> list[tuple[datetime, int]]:
    """Each full hour from `since` to `now`, also those without spend. A correction downwards is no spend."""
    at = since.replace(minute=0, second=0, microsecond=0)
    if at < since:
        at += HOUR
    found = []
    while at + HOUR <= now:
        found.append((at, max(0, history.get(at, 0))))
        at += HOUR
    return found


def _days(hours: Sequence[tuple[datetime, int]]) -> Iterator[Sequence[tuple[datetime, int]]]:
    """Stretches of 24 hours, counted back from the last one; what is left over at the beginning is none."""
    for end in range(len(hours), 23, -24):
        yield hours[end - 24 : end]


def _growth(hours: Sequence[tuple[datetime, int]]) -> float:
    """What days usually have more, or less, than those a week before them, a day and as a logarithm (Theil and Sen)."""
    totals = [sum(nanos for _, nanos in day) for day in _days(hours)]
    slopes = [
        log(totals[day] / totals[before]) / (before - day)
        for day in range(len(totals))
        for before in range(day + 7, len(totals), 7)
        if totals[day] > 0 and totals[before] > 0
    ]
    if len(slopes) < FEWEST_SLOPES:
        return 0.0
    return max(-FASTEST_GROWTH, min(FASTEST_GROWTH, median(slopes)))


def _carried(hours: Sequence[tuple[datetime, int]], growth: float) -> list[tuple[datetime, int]]:
    """What was spent, as if it were today: with what such hours have grown by since."""
    return [
        (at, round(nanos * exp(growth * ((len(hours) - 1 - place) / 24)))) for place, (at, nanos) in enumerate(hours)
    ]


def _is_rare(hours: Sequence[tuple[datetime, int]]) -> bool:
    """Whether few of the days had spend, which shows no hour and no weekday that it comes at."""
    days = [any(nanos > 0 for _, nanos in day) for day in _days(hours)]
    return sum(days) < min(FEW_DAYS, len(days))


def _without_extremes(hours: Sequence[tuple[datetime, int]]) -> list[tuple[datetime, float]]:
    days = list(_days(hours))
    totals = [sum(nanos for _, nanos in day) for day in days]
    spent = [total for total in totals if total]
    if len(days) < FEW_DAYS or not spent:
        return [(at, float(nanos)) for at, nanos in hours]
    usual = median(spent) if len(spent) >= FEW_DAYS else min(spent)
    rest = hours[: len(hours) - 24 * len(days)]
    kept = [(at, float(nanos)) for at, nanos in rest]
    for day, total in zip(days, totals, strict=True):
        share = min(1.0, MOST_OF_A_DAY * usual / total) if total else 1.0
        kept += [(at, nanos * share) for at, nanos in day]
    return kept


def _habit(hours: Sequence[tuple[datetime, float]], zone: ZoneInfo, *, is_rare: bool) -> SpendingHabit:
    per_hour = sum(nanos for _, nanos in hours) / len(hours)
    known = HOUR * len(hours)
    if is_rare or known < KNOWS_HOURS:
        return SpendingHabit(per_hour, {}, {}, zone, Basis.RATE)
    by_hour = _ratios([(at.astimezone(zone).hour, nanos) for at, nanos in hours], per_hour)
    if known < KNOWS_WEEKDAYS:
        return SpendingHabit(per_hour, {}, by_hour, zone, Basis.HOURS)
    by_weekday = _ratios([(at.astimezone(zone).weekday(), nanos) for at, nanos in hours], per_hour)
    return SpendingHabit(per_hour, by_weekday, by_hour, zone, Basis.WEEKDAYS)


def _ratios(parts: Sequence[tuple[int, float]], per_hour: float) -> dict[int, float]:
    """How the average of each kind of hour compares with that of all."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for kind, nanos in parts:
        found[kind].append(nanos)
    return {kind: sum(each) / len(each) / per_hour for kind, each in found.items()}


def _pace(hours: Sequence[tuple[datetime, int]], habit: SpendingHabit) -> float:
    """How much faster than expected money was spent lately. Some usual hours are added: a quiet night says little."""
    lately = hours[-(LATELY // HOUR) :]
    usual = habit.per_hour * len(lately) / 2
    spent, expected = (sum(nanos for _, nanos in lately), sum(habit.expected(at) for at, _ in lately))
    return min(FASTEST, max(SLOWEST, (spent + usual) / (expected + usual)))


def _spread(hours: Sequence[tuple[datetime, int]], habit: SpendingHabit) -> tuple[float, int]:
    """By which part of what was expected days usually differ from it, and how many days say so."""
    off = [
        abs(sum(nanos for _, nanos in day) / expected - 1)
        for day in _days(hours)
        if (expected := sum(habit.expected(at) for at, _ in day)) > 0
    ]
    if len(off) < FEW_DAYS:
        return UNKNOWN_SPREAD, max(1, len(off))
    # The median of normal deviations is 0.6745 standard ones.
    return max(LEAST_SPREAD, median(off) / 0.6745), len(off)


def _ahead(
    habit: SpendingHabit, pace: float, spread: float, days: int, *, now: datetime, until: datetime, settled_nanos: int
) -> Iterator[ForecastPoint]:
    yield ForecastPoint(now, settled_nanos, settled_nanos, settled_nanos)
    at, more, low, high = now, 0.0, 0.0, 0.0
    while at < until:
        hour = at.replace(minute=0, second=0, microsecond=0)
        following = min(hour + HOUR, until)
        fading = (pace - 1) * 0.5 ** ((at - now) / HALF_LIFE)
        more += habit.expected(hour) * (1 + fading) * ((following - at) / HOUR)
        at = following
        # Days differ by chance, which evens out over many, and all of them from a habit that few days show.
        by_chance = spread**2 * (1 / max(0.25, (at - now) / DAY) + 1 / days)
        off = BAND * sqrt(by_chance + OTHER_LEVEL**2)
        low, high = max(low, more * (1 - off)), max(high, more * (1 + off))
        yield ForecastPoint(at, *(settled_nanos + round(nanos) for nanos in (more, low, high)))


def _crossing(line: Sequence[tuple[datetime, int]], cap_nanos: int) -> datetime | None:
    """When a line reaches the cap, between its points as if it were straight; None where it does not."""
    if line[0][1] >= cap_nanos:
        return line[0][0]
    for (before, below), (after, above) in pairwise(line):
        if above >= cap_nanos:
            # The share by itself: a stretch of time times an amount is longer than any.
            return before + (after - before) * ((cap_nanos - below) / (above - below))
    return None
