"""How much trouble a method finds, how soon, and how often it cries for nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

from governance.sandbox.methods import Method, Scores
from governance.sandbox.traces import DAY, HOUR, Label, Trace

# Alarms with no more than so many quiet hours between them are one; so long after trouble they are still of it.
SAME, AFTER = 3 * HOUR, 3 * HOUR


@dataclass(slots=True)
class Result:
    """Of one method at one number. `late_hours`: from the first hour of trouble to the first alarm."""

    number: float
    customer_days: float = 0.0
    false_alarms: int = 0
    found: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    there: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    late_hours: list[int] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return sum(self.found.values()) / max(1, sum(self.there.values()))

    @property
    def false_per_thousand(self) -> float:
        return 1000 * self.false_alarms / self.customer_days

    @property
    def late(self) -> float:
        return median(self.late_hours) if self.late_hours else 0.0


def measure(method: Method, cases: Sequence[tuple[Trace, Scores]]) -> list[Result]:
    """A method at each of its numbers."""
    return [_at(number, cases) for number in sorted({*method.numbers, method.usual})]


def _at(number: float, cases: Sequence[tuple[Trace, Scores]]) -> Result:
    result = Result(number)
    for trace, scores in cases:
        alarms = sorted(at for at, score in scores.items() if score > number)
        result.customer_days += (trace.ends_at - trace.judged_from) / DAY
        for label in trace.labels:
            result.there[label.kind] += 1
            within = [at for at in alarms if label.starts_at <= at < label.ends_at]
            if within:
                result.found[label.kind] += 1
                result.late_hours.append((within[0] - label.starts_at) // HOUR)
        result.false_alarms += _false(alarms, trace.labels)
    return result


def _false(alarms: Sequence[datetime], labels: Sequence[Label]) -> int:
    count, last = 0, None
    for at in alarms:
        if any(label.starts_at <= at < label.ends_at + AFTER for label in labels):
            continue
        if last is None or at - last > SAME:
            count += 1
        last = at
    return count


def by_kind(result: Result) -> Mapping[str, str]:
    return {kind: f"{result.found[kind]}/{there}" for kind, there in sorted(result.there.items())}
