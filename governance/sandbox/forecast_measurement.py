"""How far forecasts of a budget's window are off, beside what one would guess without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median

from governance.rules import forecast
from governance.sandbox.traces import DAY, HOUR, Trace

# Windows in days, and the parts of one after which it is asked what it will come to.
WINDOWS, ASKED_AFTER = {"day": 1, "week": 7}, (0.25, 0.5, 0.75)
NAIVE = ("run rate", "as before", "mean of 7 days")
WEEK = 7 * DAY


@dataclass(slots=True)
class Errors:
    """Of one kind of window. Amounts are dollars of what was still to come when it was asked."""

    window: str
    cases: int = 0
    actual: float = 0.0
    off: dict[str, float] = field(default_factory=dict)
    # Each case's part by which it was off.
    parts: dict[str, list[float]] = field(default_factory=dict)
    inside: int = 0
    late_hours: list[float] = field(default_factory=list)
    run_outs: int = 0
    run_outs_inside: int = 0

    def add(self, name: str, guess: float, actual: float) -> None:
        self.off[name] = self.off.get(name, 0.0) + abs(guess - actual)
        self.parts.setdefault(name, []).append(abs(guess - actual) / actual)

    def weighted(self, name: str) -> float:
        """The sum of what it was off, as a part of the sum of what came."""
        return self.off[name] / self.actual

    @property
    def usual_late_hours(self) -> float:
        """By how many hours it is usually wrong about when the money is gone."""
        return median(self.late_hours)

    def median_part(self, name: str) -> float:
        return median(self.parts[name])


def measure(traces: Sequence[Trace]) -> list[Errors]:
    found = []
    for window, days in WINDOWS.items():
        errors = Errors(window)
        for trace in traces:
            for starts_at, ends_at in _windows(trace, days):
                for part in ASKED_AFTER:
                    now = starts_at + (ends_at - starts_at) * part
                    _ask(errors, trace, starts_at, now.replace(minute=0, second=0, microsecond=0), ends_at)
        found.append(errors)
    return found


def _windows(trace: Trace, days: int) -> Iterator[tuple[datetime, datetime]]:
    """Whole ones of the judged time, by the customer's own midnights."""
    local = trace.judged_from.astimezone(trace.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    while (following := local + timedelta(days=days)) <= trace.ends_at:
        if local >= trace.judged_from:
            yield local, following
        local = following


def _ask(errors: Errors, trace: Trace, starts_at: datetime, now: datetime, ends_at: datetime) -> None:
    history = {at: seen.cost_nanos for at, seen in trace.hours.items() if now - 4 * WEEK <= at < now}
    settled, actual = _sum(trace, starts_at, now), _sum(trace, now, ends_at)
    if not history or actual <= 0:
        return
    cap = settled + actual // 2
    made = forecast.forecast(
        history,
        since=min(history),
        now=now,
        ends_at=ends_at,
        settled_nanos=settled,
        cap_nanos=cap,
        zone=trace.zone,
    )
    if made is None:
        return
    last, left = made.points[-1], ends_at - now
    errors.cases += 1
    errors.actual += actual
    errors.add("forecast", last.expected_nanos - settled, actual)
    errors.add("run rate", settled * (left / (now - starts_at)), actual)
    errors.add("as before", _sum(trace, now - (ends_at - starts_at), now - (now - starts_at)), actual)
    errors.add("mean of 7 days", _sum(trace, now - WEEK, now) * (left / WEEK), actual)
    errors.inside += last.low_nanos - settled <= actual <= last.high_nanos - settled
    _ask_when(errors, trace, made, settled, cap, now, ends_at)


def _ask_when(
    errors: Errors, trace: Trace, made: forecast.Forecast, settled: int, cap: int, now: datetime, ends_at: datetime
) -> None:
    """By how many hours it is wrong about when the money is gone, had there been half of what was still needed."""
    at, spent = now, settled
    while at < ends_at and spent < cap:
        spent += trace.hours[at].cost_nanos if at in trace.hours else 0
        at += HOUR
    errors.run_outs += 1
    told = made.runs_out_at or ends_at
    errors.late_hours.append(abs(told - at) / HOUR)
    errors.run_outs_inside += (made.earliest or ends_at) - HOUR <= at <= (made.latest or ends_at) + HOUR


def _sum(trace: Trace, since: datetime, until: datetime) -> int:
    at, total = since.astimezone(trace.judged_from.tzinfo).replace(minute=0), 0
    while at < until:
        total += trace.hours[at].cost_nanos if at in trace.hours else 0
        at += HOUR
    return total
