"""What anomalies are measured against: the ways that people usually judge an hour, on the same figures.

Each gives an hour of a trace a score by metric; an alarm is a score above a number, which the measurement varies. None
says anything below the least amounts that ours has (`Least`), and none before a subject's history is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean

from governance.rules import anomalies
from governance.rules.anomalies import FEWEST_CALLS, FEWEST_FAILURES, HISTORY, KNOWN_FROM, HourFigures, Least, Metric
from governance.sandbox.traces import HOUR, Trace

LEAST = Least(cost_nanos=250_000_000)
WEEK_HOURS = 24 * 7
# A tenth of the widths that STL smooths a week by, as R's has it: a fifteenth of the time, and the same hours found.
TREND_JUMP, LOW_PASS_JUMP = 26, 17
Scores = Mapping[datetime, float]


@dataclass(frozen=True, slots=True)
class Method:
    """`usual`: the number that people take for it. `numbers`: those that the measurement tries."""

    name: str
    scores: Callable[[Trace], Scores]
    usual: float
    numbers: tuple[float, ...]


def ours(trace: Trace) -> Scores:
    """How many times its bound an hour has: 1 is where the product tells."""
    found = {}
    for at in _judged(trace):
        seen = trace.hours.get(at)
        if seen is None or not _is_worth(seen):
            continue
        bounds = anomalies.bounds(trace.hours, hour=at, zone=trace.zone, least=LEAST)
        over = bounds.judge(seen) if bounds else []
        found[at] = max((one.observed / max(1, one.bound) for one in over), default=0.0)
    return found


def static(trace: Trace) -> Scores:
    """A ceiling that somebody set once: so many times the mean hour of the four weeks before."""
    means = {}
    for metric in Metric:
        past = _values(trace, metric, trace.judged_from)
        means[metric] = fmean(past) if past else 0.0
    return _scored(trace, lambda metric, value, at: value / means[metric] if means[metric] else 0.0)


def z_score(trace: Trace) -> Scores:
    """How many standard deviations above the mean of the four weeks before it, the hour itself left out."""
    series = {metric: _values(trace, metric, trace.ends_at) for metric in Metric}
    sums = {metric: _running(values) for metric, values in series.items()}
    first = _first(trace)

    def score(metric: Metric, value: float, at: datetime) -> float:
        end = (at - first) // HOUR
        start = max(0, end - HISTORY // HOUR)
        (total, squares), (total_before, squares_before) = sums[metric][end], sums[metric][start]
        count = end - start
        mean = (total - total_before) / count
        deviation = max(0.0, (squares - squares_before) / count - mean**2) ** 0.5
        return (value - mean) / deviation if deviation else 0.0

    return _scored(trace, score)


def stl(trace: Trace) -> Scores:
    """statsmodels' robust STL by the week, and how many median deviations its remainder is off (as in S-H-ESD).

    Fitted each midnight to the four weeks before it, with its season and level carried on; it takes two whole weeks.
    """
    import numpy as np
    from statsmodels.tsa.seasonal import STL

    first, series = _first(trace), {metric: _values(trace, metric, trace.ends_at) for metric in Metric}
    fitted: dict[tuple[Metric, int], tuple[float, float, list[float]]] = {}

    def fit(metric: Metric, end: int) -> tuple[float, float, list[float]]:
        past = np.asarray(series[metric][max(0, end - HISTORY // HOUR) : end])
        made = STL(past, period=WEEK_HOURS, robust=True, trend_jump=TREND_JUMP, low_pass_jump=LOW_PASS_JUMP).fit()
        rest = made.resid
        middle = float(np.median(rest))
        return (
            float(np.median(made.trend[-24:])) + middle,
            anomalies.NORMAL * float(np.median(np.abs(rest - middle))),
            [float(each) for each in made.seasonal[-WEEK_HOURS:]],
        )

    def score(metric: Metric, value: float, at: datetime) -> float:
        place = (at - first) // HOUR
        end = place - place % 24
        if end < 2 * WEEK_HOURS:
            return 0.0
        if (metric, end) not in fitted:
            fitted[metric, end] = fit(metric, end)
        level, deviation, season = fitted[metric, end]
        off = value - level - season[(place - end) % WEEK_HOURS]
        return off / deviation if deviation > 0 else (0.0 if off <= 0 else 1e9)

    return _scored(trace, score)


METHODS = {
    "robust": Method("robust (ours)", ours, 1.0, (0.999, 1.25, 1.5, 2.0, 3.0)),
    "static": Method("static threshold", static, 10.0, (3, 5, 7, 10, 14, 20, 28, 40, 56, 80)),
    "z-score": Method("plain z-score", z_score, 3.0, (2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20)),
    "stl": Method("STL (statsmodels)", stl, 3.5, (3.5, 5, 7, 10, 14, 20, 28, 40, 60, 90, 130, 200, 300, 500)),
}


def _judged(trace: Trace) -> Iterator[datetime]:
    at = trace.judged_from
    while at < trace.ends_at:
        yield at
        at += HOUR


def _first(trace: Trace) -> datetime:
    return min(trace.hours, default=trace.judged_from)


def _values(trace: Trace, metric: Metric, until: datetime) -> list[float]:
    at, found = _first(trace), []
    while at < until:
        found.append(_value(trace.hours.get(at, HourFigures()), metric))
        at += HOUR
    return found


def _value(seen: HourFigures, metric: Metric) -> float:
    match metric:
        case Metric.COST:
            return float(seen.cost_nanos)
        case Metric.CALLS:
            return float(seen.calls)
        case Metric.COST_PER_CALL:
            return float(seen.nanos_per_call)
        case Metric.FAILURES:
            asked = seen.calls + seen.failures
            return seen.failures / asked if asked else 0.0


def _is_worth(seen: HourFigures) -> bool:
    return seen.cost_nanos > LEAST.cost_nanos or seen.calls > LEAST.calls or seen.failures >= FEWEST_FAILURES


def _is_told(seen: HourFigures, metric: Metric) -> bool:
    match metric:
        case Metric.COST:
            return seen.cost_nanos > LEAST.cost_nanos
        case Metric.CALLS:
            return seen.calls > LEAST.calls
        case Metric.COST_PER_CALL:
            return seen.calls >= FEWEST_CALLS and seen.cost_nanos > LEAST.cost_nanos
        case Metric.FAILURES:
            return seen.failures >= FEWEST_FAILURES


def _scored(trace: Trace, score: Callable[[Metric, float, datetime], float]) -> Scores:
    """The highest score of each hour, where enough is known and there is enough to tell."""
    found, known_from = {}, _first(trace) + KNOWN_FROM
    for at in _judged(trace):
        seen = trace.hours.get(at)
        if seen is None or at < known_from:
            continue
        told = [score(metric, _value(seen, metric), at) for metric in Metric if _is_told(seen, metric)]
        if told:
            found[at] = max(told)
    return found


def _running(values: list[float]) -> list[tuple[float, float]]:
    found, total, squares = [(0.0, 0.0)], 0.0, 0.0
    for value in values:
        total, squares = total + value, squares + value * value
        found.append((total, squares))
    return found
