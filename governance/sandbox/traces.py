"""Synthetic customers with labelled trouble: the same ones for the same seed, on every machine and Python.

Each customer has a rhythm (offices, shops, round the clock, nightly and weekly jobs, rare use), hours that differ by
chance, calls whose costs differ by chance, and one or two agents. Some grow, some begin late, some move to a new level
that is meant: none of that is trouble. Into some hours of some of them trouble is put, and noted: a loop, a dearer
model, calls that fail, a busy night. Everything before `Trace.judged_from` is history that nobody is asked about.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import exp
from zoneinfo import ZoneInfo

from governance.rules.anomalies import HourFigures, Metric

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# A Monday. The weeks from here on have Europe's change of the clocks in them.
STARTS_AT = datetime(2026, 2, 16, tzinfo=UTC)
HISTORY_DAYS = 28
ZONES = ("Europe/Paris", "America/New_York", "Asia/Singapore", "UTC")
# Of customers that have trouble at all, so many troubles in the judged time.
TROUBLED, MOST_TROUBLES = 0.6, 2
NANOS = 1_000_000_000

Hours = dict[datetime, HourFigures]


@dataclass(frozen=True, slots=True)
class Label:
    """Trouble that was put in: `[starts_at, ends_at)`, and in what it shows."""

    kind: str
    starts_at: datetime
    ends_at: datetime
    metric: Metric


@dataclass(frozen=True, slots=True)
class Trace:
    """One agent's hours of UTC. `labels` is the truth, empty of a quiet one."""

    name: str
    rhythm: str
    zone: ZoneInfo
    hours: Mapping[datetime, HourFigures]
    judged_from: datetime
    ends_at: datetime
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class AgentHabit:
    """How many calls an hour has on a busy one, what one costs (median, in dollars), and how uneven both are."""

    calls: float
    dollars: float
    unevenness: float
    cost_spread: float
    failing: float


def traces(*, seed: int, customers: int, days: int) -> list[Trace]:
    """`customers` of them, `days` judged days each after four weeks of history."""
    return [_trace(random.Random(f"{seed}/{number}"), number, days) for number in range(customers)]  # noqa: S311


def _trace(dice: random.Random, number: int, days: int) -> Trace:
    rhythm = dice.choices(list(RHYTHMS), [weight for _, weight in RHYTHMS.values()])[0]
    shape, zone = RHYTHMS[rhythm][0], ZoneInfo(dice.choice(ZONES))
    habit = AgentHabit(
        calls=exp(dice.uniform(2.0, 6.5)),
        dollars=exp(dice.uniform(-7.0, -2.5)),
        unevenness=dice.uniform(0.1, 0.5),
        cost_spread=dice.uniform(0.2, 0.7),
        failing=dice.choice((0.0, 0.002, 0.01, 0.03)),
    )
    growth = dice.choice((0.0, 0.0, 0.0, 0.01, 0.02, 0.04))
    # Some begin in the middle of it; some are meant to do more, or less, from a day on.
    begins = dice.randrange(HISTORY_DAYS + days - 2) if dice.random() < 0.15 else 0
    moves_on = HISTORY_DAYS + dice.randrange(days) if dice.random() < 0.1 else None
    moves_by = dice.choice((0.4, 1.6, 2.0))
    hours: dict[datetime, HourFigures] = {}
    judged_from, ends_at = STARTS_AT + DAY * HISTORY_DAYS, STARTS_AT + DAY * (HISTORY_DAYS + days)
    for place in range(24 * (HISTORY_DAYS + days)):
        day, at = place // 24, STARTS_AT + HOUR * place
        level = (1 + growth) ** day * (moves_by if moves_on is not None and day >= moves_on else 1.0)
        made = (
            _hour(dice, habit, habit.calls * level * shape(at.astimezone(zone), dice))
            if day >= begins
            else HourFigures()
        )
        if made != HourFigures():
            hours[at] = made
    labels = _put_trouble(
        dice, habit, hours, judged_from=max(judged_from, STARTS_AT + DAY * (begins + 7)), until=ends_at
    )
    return Trace(f"{rhythm}-{number}", rhythm, zone, hours, judged_from, ends_at, labels)


def _hour(dice: random.Random, habit: AgentHabit, expected: float) -> HourFigures:
    asked = _poisson(dice, expected * dice.lognormvariate(0, habit.unevenness) if expected else 0.0)
    failures = sum(dice.random() < habit.failing for _ in range(asked)) if habit.failing else 0
    return HourFigures(asked - failures, _cost(dice, habit, asked - failures), failures)


def _cost(dice: random.Random, habit: AgentHabit, calls: int, factor: float = 1.0) -> int:
    """Of so many calls. Of many the sum is drawn at once, as a normal one: it is the same to the eye."""
    if calls <= 30:
        return sum(
            int(NANOS * habit.dollars * factor * dice.lognormvariate(0, habit.cost_spread)) for _ in range(calls)
        )
    variance = habit.cost_spread**2
    mean = habit.dollars * factor * exp(variance / 2)
    deviation = mean * (exp(variance) - 1) ** 0.5
    return max(0, int(NANOS * (mean * calls + dice.gauss(0, 1) * deviation * calls**0.5)))


def _poisson(dice: random.Random, expected: float) -> int:
    if expected > 50:
        return max(0, round(dice.gauss(expected, expected**0.5)))
    count, left = 0, exp(-expected)
    product = dice.random()
    while product > left:
        count += 1
        product *= dice.random()
    return count


def _office(local: datetime, dice: random.Random) -> float:
    if local.weekday() >= 5:
        return 0.04
    return 1.0 if 9 <= local.hour < 18 else 0.08 if 7 <= local.hour < 22 else 0.01


def _shop(local: datetime, dice: random.Random) -> float:
    busy = 1.0 if 10 <= local.hour < 22 else 0.15 if local.hour >= 7 else 0.03
    return busy * (1.5 if local.weekday() >= 5 else 1.0)


def _around_the_clock(local: datetime, dice: random.Random) -> float:
    return 0.8 + 0.2 * (9 <= local.hour < 21)


def _nightly(local: datetime, dice: random.Random) -> float:
    """A job at two that now and then is late."""
    return (1.0 if dice.random() < 0.85 else 0.05) if local.hour == 2 else (0.3 if local.hour == 3 else 0.01)


def _weekly(local: datetime, dice: random.Random) -> float:
    return 3.0 if local.weekday() == 0 and 4 <= local.hour < 7 else 0.05


def _rare(local: datetime, dice: random.Random) -> float:
    """Somebody tries something now and then."""
    return 0.5 * dice.random() if 8 <= local.hour < 20 and dice.random() < 0.15 else 0.0


def _bursty(local: datetime, dice: random.Random) -> float:
    """Work comes in batches, at any hour of the day."""
    return dice.uniform(0.5, 2.0) if dice.random() < 0.2 else 0.1


RHYTHMS: Mapping[str, tuple[Callable[[datetime, random.Random], float], int]] = {
    "office": (_office, 6),
    "shop": (_shop, 4),
    "clock": (_around_the_clock, 4),
    "nightly": (_nightly, 2),
    "weekly": (_weekly, 2),
    "rare": (_rare, 1),
    "bursty": (_bursty, 2),
}


def _put_trouble(
    dice: random.Random,
    habit: AgentHabit,
    hours: dict[datetime, HourFigures],
    *,
    judged_from: datetime,
    until: datetime,
) -> tuple[Label, ...]:
    found: list[Label] = []
    if dice.random() >= TROUBLED:
        return ()
    for _ in range(dice.randint(1, MOST_TROUBLES)):
        kind = dice.choice(list(TROUBLES))
        count = (until - judged_from) // HOUR - 6
        if count < 1:
            break
        starts_at = judged_from + HOUR * dice.randrange(count)
        # Two at one time would be one.
        if any(abs(starts_at - other.starts_at) < 2 * DAY for other in found):
            continue
        ends_at = starts_at + HOUR * dice.randint(1, 6)
        if (label := TROUBLES[kind](dice, habit, hours, starts_at, ends_at)) is not None:
            found.append(Label(kind, starts_at, ends_at, label))
    return tuple(found)


def _each(starts_at: datetime, ends_at: datetime) -> list[datetime]:
    return [starts_at + HOUR * number for number in range((ends_at - starts_at) // HOUR)]


def _more_calls(factor: tuple[float, float]) -> Callable[..., Metric | None]:
    def put(
        dice: random.Random,
        habit: AgentHabit,
        hours: dict[datetime, HourFigures],
        starts_at: datetime,
        ends_at: datetime,
    ) -> Metric:
        # Of a usual busy hour, at whatever time: a loop knows no night.
        more = round(habit.calls * dice.uniform(*factor)) + 60
        for at in _each(starts_at, ends_at):
            hours[at] = hours.get(at, HourFigures()) + HourFigures(more, _cost(dice, habit, more))
        return Metric.COST

    return put


def _dearer(
    dice: random.Random, habit: AgentHabit, hours: Hours, starts_at: datetime, ends_at: datetime
) -> Metric | None:
    factor = dice.uniform(4, 15)
    seen = [at for at in _each(starts_at, ends_at) if hours.get(at, HourFigures()).calls >= 10]
    if not seen:
        return None
    for at in seen:
        had = hours[at]
        hours[at] = HourFigures(had.calls, _cost(dice, habit, had.calls, factor), had.failures)
    return Metric.COST_PER_CALL


def _failing(
    dice: random.Random, habit: AgentHabit, hours: Hours, starts_at: datetime, ends_at: datetime
) -> Metric | None:
    part = dice.uniform(0.4, 0.95)
    seen = [at for at in _each(starts_at, ends_at) if hours.get(at, HourFigures()).calls >= 20]
    if not seen:
        return None
    for at in seen:
        had = hours[at]
        failed = round(had.calls * part)
        hours[at] = HourFigures(
            had.calls - failed, had.cost_nanos * (had.calls - failed) // had.calls, had.failures + failed
        )
    return Metric.FAILURES


# "loop" is a runaway; "surge" is as hard to see as anything that should be.
TROUBLES: Mapping[str, Callable[..., Metric | None]] = {
    "loop": _more_calls((8, 40)),
    "surge": _more_calls((3, 5)),
    "dearer": _dearer,
    "failing": _failing,
}
