"""When an hour is out of all proportion with the hours before it. Pure; money is decided elsewhere.

An hour is compared with hours like it: of the same local hour, on days that are as busy as its weekday. Middle and
spread are medians, which a spike in the history hardly moves, on a scale that is even near nothing and a logarithm
above. The hour itself is never among them. What it may come to is a bound for the whole hour: while the hour goes on
its sum only grows, so however often it is looked at, it is found once or not at all, and a runaway as soon as it has
passed what the whole hour might have had.

Quiet on purpose: of what is younger than `KNOWN_FROM` or was active in fewer than `FEWEST_ACTIVE` hours nothing is
said; steady growth is carried on to today; a busy hour that comes each week, or has come twice, is a usual one; and a
new level is the usual one after half a day of it. Amounts are nanodollars; ratios are floats, and no amount is kept of
them but the bound that is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from math import asinh, exp, log, sinh, sqrt
from statistics import median
from zoneinfo import ZoneInfo

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)
# How far back is looked, and from when on something is said at all.
HISTORY, KNOWN_FROM, FEWEST_ACTIVE = timedelta(days=28), timedelta(days=3), 12
# From so much history on, weekdays are told apart; they are alike where their usual days differ by no more than this.
KNOWS_WEEKDAYS, ALIKE = timedelta(days=14), 1.6
# How many deviations off is out of all proportion, on the scale above; the least a deviation is taken for.
DEVIATIONS, LEAST_DEVIATION = 5.0, 0.12
# At least so many times what was expected; what came before, twice, may come again, and a little more.
LEAST_RATIO, PRECEDENT = 2.5, 1.4
# So much of what a busy hour has (of five that are active one has more) is nothing to tell at any time of the day.
BUSY, OF_BUSY = 0.8, 1.5
# Beyond so many times the third highest hour of the whole history an hour is never usual, however uneven hours are.
OF_ALL = 4.0
# Growth that is carried on, a day; and the new level of the last hours, how many of them say so and by how much.
FASTEST_GROWTH, LATELY, FEWEST_LATELY, MOST_LATELY = 0.10, 12, 6, 20.0
# Of one call's cost, and of failures: so many calls tell, and a normal deviation of a median deviation.
FEWEST_CALLS, FEWEST_FAILURES, NORMAL = 10, 8, 1.4826
LEAST_FAILING = 0.15
# The part of a customer's excess from which on it is told of its agents alone.
MOST_OF = 0.7


class Metric(StrEnum):
    """What of an hour is looked at. In units: nanodollars, calls, nanodollars a call, failed calls."""

    COST = "cost"
    CALLS = "calls"
    COST_PER_CALL = "cost_per_call"
    FAILURES = "failures"

    @property
    def is_money(self) -> bool:
        return self in (Metric.COST, Metric.COST_PER_CALL)


@dataclass(frozen=True, slots=True)
class HourFigures:
    """An hour's sums. `calls` were charged; `failures` came to nothing, most of them uncharged."""

    calls: int = 0
    cost_nanos: int = 0
    failures: int = 0

    def __add__(self, other: HourFigures) -> HourFigures:
        return HourFigures(self.calls + other.calls, self.cost_nanos + other.cost_nanos, self.failures + other.failures)

    @property
    def nanos_per_call(self) -> int:
        return self.cost_nanos // self.calls if self.calls else 0

    def of(self, metric: Metric) -> int:
        """In the metric's unit."""
        return {
            Metric.COST: self.cost_nanos,
            Metric.CALLS: self.calls,
            Metric.COST_PER_CALL: self.nanos_per_call,
            Metric.FAILURES: self.failures,
        }[metric]


@dataclass(frozen=True, slots=True)
class Least:
    """Below these an hour is not worth telling, whatever it is compared with."""

    cost_nanos: int
    calls: int = 30


@dataclass(frozen=True, slots=True)
class Excess:
    """An hour's figure beyond its bound, all in the metric's unit."""

    metric: Metric
    observed: int
    expected: int
    bound: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one hour of one subject is expected to have, and at most. `failing`: which part of calls fails at most."""

    cost: tuple[int, int]
    calls: tuple[int, int]
    per_call: tuple[int, int] | None
    failing: tuple[float, float]
    least: Least

    def judge(self, seen: HourFigures) -> list[Excess]:
        """What of the hour, as far as it is known, is beyond its bound. That it had more calls is told by its cost."""
        found = []
        for metric in Metric:
            expected, bound = self.of(metric, seen)
            if expected is None or bound is None or (observed := seen.of(metric)) <= bound:
                continue
            if metric != Metric.COST_PER_CALL or self._tells_per_call(seen, expected):
                found.append(Excess(metric, observed, expected, bound))
        metrics = {one.metric for one in found}
        return [one for one in found if one.metric != Metric.CALLS or Metric.COST not in metrics]

    def of(self, metric: Metric, seen: HourFigures) -> tuple[int, int] | tuple[None, None]:
        """(expected, bound) of an hour's figure; of failures by how many calls there are."""
        if metric == Metric.COST_PER_CALL:
            return self.per_call or (None, None)
        if metric != Metric.FAILURES:
            return self.cost if metric == Metric.COST else self.calls
        asked = seen.calls + seen.failures
        usual, most = (round(asked * share) for share in self.failing)
        # Chance alone makes some more of few.
        most += round(DEVIATIONS * sqrt(max(1.0, asked * self.failing[0])))
        return usual, max(most, FEWEST_FAILURES - 1)

    def _tells_per_call(self, seen: HourFigures, usual_nanos: int) -> bool:
        """Whether enough calls, and enough money beside what they usually cost, say what a call costs."""
        more_nanos = seen.cost_nanos - seen.calls * usual_nanos
        return seen.calls >= FEWEST_CALLS and more_nanos >= self.least.cost_nanos


def explains(parts: Sequence[Excess], whole: Excess) -> bool:
    """Whether what agents have too much of is most of what their customer, or a model, has too much of."""
    alike = [part for part in parts if part.metric == whole.metric]
    if whole.metric == Metric.COST_PER_CALL:
        return bool(alike)
    more = sum(part.observed - part.expected for part in alike)
    return more >= MOST_OF * (whole.observed - whole.expected)


Hours = Mapping[datetime, HourFigures]


def bounds(history: Hours, *, hour: datetime, zone: ZoneInfo, least: Least) -> Bounds | None:
    """What `hour` may have, by the full hours before it; None where these are too few to say.

    `history`: sums by the beginning of hours of UTC, where anything was. What is in it of `hour` and after is not read.
    """
    past = Past.of(history, hour, zone)
    if past is None:
        return None
    return Bounds(
        cost=_most(past, [each.cost_nanos for each in past.figures], least.cost_nanos),
        calls=_most(past, [each.calls for each in past.figures], least.calls),
        per_call=_per_call(past.figures),
        failing=_failing(past.figures),
        least=least,
    )


@dataclass(frozen=True)
class Past:
    """The full hours before one, without a gap, oldest first, and which of them are like it."""

    hour: datetime
    zone: ZoneInfo
    hours: Sequence[datetime]
    figures: Sequence[HourFigures]

    @classmethod
    def of(cls, history: Hours, hour: datetime, zone: ZoneInfo) -> Past | None:
        known = [at for at in history if hour - HISTORY <= at < hour]
        if len(known) < FEWEST_ACTIVE or hour - (first := min(known)) < KNOWN_FROM:
            return None
        hours = [first + HOUR * number for number in range((hour - first) // HOUR)]
        return cls(hour, zone, hours, [history.get(at, HourFigures()) for at in hours])

    @cached_property
    def local(self) -> list[tuple[int, int, int]]:
        """(day's number, weekday, hour) of each, by the subject's own clock; the last is the judged hour's."""
        found = []
        for at in (*self.hours, self.hour):
            there = at.astimezone(self.zone)
            found.append((there.toordinal(), there.weekday(), there.hour))
        return found

    @cached_property
    def places(self) -> Mapping[tuple[int, int], Sequence[int]]:
        """The hours by weekday and local hour."""
        found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for place, (_, weekday, hour) in enumerate(self.local[:-1]):
            found[weekday, hour].append(place)
        return found


def _most(past: Past, amounts: Sequence[int], least: int) -> tuple[int, int]:
    """(expected, bound) of a sum."""
    values = [float(max(0, each)) for each in amounts]
    active = [value for value in values if value]
    if len(active) < FEWEST_ACTIVE:
        return 0, max(least, round(OF_ALL * max(active, default=0.0)))
    season = Season(past, values, unit=median(active) / 2)
    busy = sorted(active)[int(BUSY * len(active))]
    middle, deviation = season.usual(len(values))
    pace = season.pace()
    expected = season.unit * sinh(middle) * pace
    bound = max(
        season.unit * sinh(min(middle + DEVIATIONS * deviation, 40.0)) * pace,
        LEAST_RATIO * expected,
        PRECEDENT * season.precedent() * pace,
        OF_BUSY * busy * pace,
    )
    ceiling = OF_ALL * sorted(values)[-3] * max(1.0, season.growth_of(len(values) - 1)) * pace
    return round(expected), max(least, round(min(bound, max(ceiling, LEAST_RATIO * expected))))


class Season:
    """One sum's hours, and what hours like another have. `unit` is where the scale turns from even to a logarithm."""

    def __init__(self, past: Past, values: Sequence[float], *, unit: float) -> None:
        self.past, self.values, self.unit = past, values, unit
        self._daily = self._days()
        self._growth = _growth(self._daily)
        self._alike = self._alike_weekdays()

    def growth_of(self, place: int) -> float:
        """By which factor a value of that hour would be higher today."""
        last = self.past.local[-1][0]
        return exp(self._growth * (last - self.past.local[place][0]))

    def usual(self, place: int) -> tuple[float, float]:
        """(middle, deviation) on the scale, of hours like the one at `place`, that one left out."""
        peers = [asinh(value / self.unit) for value in self._peers(place, around=0)]
        if len(peers) < 4:
            peers = [asinh(value / self.unit) for value in self._peers(place, around=1)] or [0.0]
        middle = median(peers)
        return middle, max(LEAST_DEVIATION, NORMAL * median(abs(peer - middle) for peer in peers))

    def precedent(self) -> float:
        """What hours like the judged one had twice: at about its hour on days alike, or a week or more ago."""
        found = sorted(self._peers(len(self.values), around=1))
        return found[-2] if len(found) > 1 else 0.0

    def pace(self) -> float:
        """How much more the last hours had than hours like them; 1 where they did not agree on it."""
        count = len(self.values)
        ratios = []
        for place in range(max(0, count - LATELY), count):
            middle, _ = self.usual(place)
            expected = self.unit * sinh(middle)
            if expected > self.unit / 4 or self.values[place] > self.unit / 4:
                ratios.append((self.values[place] + self.unit / 4) / (expected + self.unit / 4))
        return min(MOST_LATELY, max(1.0, median(ratios))) if len(ratios) >= FEWEST_LATELY else 1.0

    def _peers(self, place: int, *, around: int) -> list[float]:
        """The values of hours like one, carried on to its day."""
        day, weekday, hour = self.past.local[place]
        found = []
        for other in self._alike[weekday]:
            for near in range(hour - around, hour + around + 1):
                for at in self.past.places.get((other, near % 24), ()):
                    if self.past.local[at][0] != day:
                        found.append(self.values[at] * exp(self._growth * (day - self.past.local[at][0])))
        return found

    def _days(self) -> list[tuple[int, int, float]]:
        """(day's number, weekday, sum) of each day that is whole."""
        sums: defaultdict[int, float] = defaultdict(float)
        hours: defaultdict[int, int] = defaultdict(int)
        weekdays = {}
        for (day, weekday, _), value in zip(self.past.local, self.values, strict=False):
            sums[day] += value
            hours[day] += 1
            weekdays[day] = weekday
        # A day of 23 hours is whole where clocks change.
        return [(day, weekdays[day], total) for day, total in sums.items() if hours[day] >= 23]

    def _alike_weekdays(self) -> Mapping[int, Sequence[int]]:
        """The weekdays whose usual days are about as busy, by weekday; all of them while few days are known."""
        every = {weekday: range(7) for weekday in range(7)}
        if len(self.values) * HOUR < KNOWS_WEEKDAYS:
            return every
        last = self.past.local[-1][0]
        totals: defaultdict[int, list[float]] = defaultdict(list)
        for day, weekday, total in self._daily:
            totals[weekday].append(total * exp(self._growth * (last - day)))
        usual = {weekday: median(each) + self.unit for weekday, each in totals.items()}
        return {
            weekday: [
                other
                for other in every
                if other == weekday
                or (other in usual and weekday in usual and 1 / ALIKE <= usual[other] / usual[weekday] <= ALIKE)
            ]
            for weekday in every
        }


def _growth(days: Sequence[tuple[int, int, float]]) -> float:
    """The usual growth a day, as a logarithm: the median of what days grew by within whole weeks (Theil and Sen)."""
    spent = {day: total for day, _, total in days if total > 0}
    slopes = [
        log(spent[later] / spent[day]) / (later - day)
        for day in spent
        for later in range(day + 7, day + 29, 7)
        if later in spent
    ]
    if len(slopes) < 5:
        return 0.0
    return min(log(1 + FASTEST_GROWTH), max(0.0, median(slopes)))


def _per_call(figures: Sequence[HourFigures]) -> tuple[int, int] | None:
    """(expected, bound) of what a call costs on average in an hour that has enough of them."""
    costs = sorted(log(each.nanos_per_call) for each in figures if each.calls >= 3 and each.nanos_per_call > 0)
    if len(costs) < FEWEST_ACTIVE:
        return None
    middle = median(costs)
    deviation = max(LEAST_DEVIATION, NORMAL * median(abs(cost - middle) for cost in costs))
    bound = max(exp(middle + DEVIATIONS * deviation), 2 * exp(middle), 1.2 * exp(costs[-3]))
    return round(exp(middle)), round(min(bound, OF_ALL * exp(costs[-3])))


def _failing(figures: Sequence[HourFigures]) -> tuple[float, float]:
    """(usual, most) part of an hour's calls that fails."""
    parts = sorted(
        each.failures / (each.calls + each.failures) for each in figures if each.calls + each.failures >= FEWEST_CALLS
    )
    asked, failed = (sum(each.calls + each.failures for each in figures), sum(each.failures for each in figures))
    if len(parts) < FEWEST_ACTIVE:
        usual = failed / asked if asked else 0.0
        return usual, max(LEAST_FAILING, 2 * usual)
    usual = median(parts)
    # The mean of all but the worst hours: where few fail the median is none at all.
    rest = parts[: max(1, len(parts) * 9 // 10)]
    usual = max(usual, sum(rest) / len(rest))
    deviation = NORMAL * median(abs(part - usual) for part in parts)
    return usual, min(0.9, max(LEAST_FAILING, 2 * usual, usual + DEVIATIONS * deviation, 1.2 * parts[-3]))


def course(
    history: Hours, *, until: datetime, count: int, zone: ZoneInfo, least: Least
) -> Iterator[tuple[datetime, HourFigures, Bounds | None]]:
    """The last `count` hours up to and with `until`, each with the bounds that it is judged by."""
    for number in range(count - 1, -1, -1):
        at = until - HOUR * number
        yield at, history.get(at, HourFigures()), bounds(history, hour=at, zone=zone, least=least)
