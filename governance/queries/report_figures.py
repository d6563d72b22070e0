"""The figures of a weekly or monthly report: a customer's, of its own alone, or the platform's.

Their number of queries is the same however many customers, agents and models there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from governance.models import BudgetForecast, BudgetWindow, Tenant
from governance.queries import breakdown, budget_status, forecasts, savings
from governance.queries.breakdown import Key, Question
from governance.queries.budget_status import BudgetStatus
from governance.queries.savings import Savings
from governance.queries.spend import Reader, TimeRange
from governance.rules.report_periods import ReportPeriod
from governance.rules.spend_sums import NOTHING, SpendSums

# Of a table; the rest is summed up below it.
MOST_LINES = 8
# So many of the fullest windows are looked through for those to tell of, and so many are told.
LOOKED, MOST_BUDGETS = 200, 8
# A window is near its cap from this share of it on.
NEAR_E4 = 7_500
GROUPS = {"customer": ("tenant",), "agent": ("tenant", "agent"), "model": ("model",)}


@dataclass(frozen=True, slots=True)
class FiguresOf:
    """One customer, agent or model. `before_nanos`: its cost of the period before."""

    key: Key
    sums: SpendSums
    before_nanos: int


@dataclass(frozen=True, slots=True)
class ReportTable:
    """The dearest of a kind, and how many are not among them, which come to `rest`."""

    lines: tuple[FiguresOf, ...]
    left_out: int
    rest: SpendSums


@dataclass(frozen=True, slots=True)
class NearCap:
    """A budget's window that is nearly used up, or will be before it ends.

    `lasts`: a forecast says that it will not be; without one nobody knows.
    """

    window: BudgetWindow
    status: BudgetStatus
    runs_out_at: datetime | None
    lasts: bool

    @property
    def is_used_up(self) -> bool:
        return self.status.settled_nanos >= self.status.cap_nanos


@dataclass(frozen=True, slots=True)
class ReportFigures:
    """`tenant` is None of the platform. `budgets` are as of `made_at`, all else is of the period."""

    tenant: Tenant | None
    period: ReportPeriod
    made_at: datetime
    total: SpendSums
    before: SpendSums
    days: Mapping[date, SpendSums]
    tables: Mapping[str, ReportTable]
    budgets: tuple[NearCap, ...]
    savings: Savings


def of_period(*, tenant: Tenant | None, period: ReportPeriod, now: datetime) -> ReportFigures:
    """Reads the hourly sums, refusals, the latest charges (for the savings) and windows that are open now."""
    reader = Reader(tenant=tenant)
    asked, before = _question(reader, period), _question(reader, period.before)
    by_day = breakdown.first(asked, ("day",), most=len(period.days))
    groups = [name for name in GROUPS if tenant is None or name != "customer"]
    return ReportFigures(
        tenant=tenant,
        period=period,
        made_at=now,
        total=by_day.total,
        before=breakdown.first(before, ("day",), most=1).total,
        days={day: by_day.found.get((day,), NOTHING) for day in period.days},
        tables={name: _table(asked, before, GROUPS[name]) for name in groups},
        budgets=_near_caps(reader, now),
        savings=savings.of_period(reader=reader, period=asked.period, now=now),
    )


def _question(reader: Reader, period: ReportPeriod) -> Question:
    span = TimeRange(period.span.starts_at, period.ends_at)
    return Question(reader=reader, period=span, zone=period.zone)


def _table(asked: Question, before: Question, parts: tuple[str, ...]) -> ReportTable:
    found = breakdown.first(asked, parts, most=MOST_LINES)
    earlier = breakdown.costs(before, parts, only=set(found.found), of=parts)
    lines = tuple(FiguresOf(key, sums, earlier.get(key, NOTHING).cost_nanos) for key, sums in found.found.items())
    return ReportTable(lines, found.count - len(lines), found.total - sum((line.sums for line in lines), NOTHING))


def _near_caps(reader: Reader, now: datetime) -> tuple[NearCap, ...]:
    """Those that are used up come first, then those that run out first, then the fullest."""
    fullest = budget_status.fullest(reader=reader, now=now, limit=LOOKED)
    kept = forecasts.kept({window.budget_id: status for window, status in fullest}, now=now)
    found = [
        _near_cap(window, status, kept.get(window.budget_id)) for window, status in fullest if status.cap_nanos > 0
    ]
    told = [
        one
        for one in found
        if one.runs_out_at is not None or one.status.settled_nanos * 10_000 >= one.status.cap_nanos * NEAR_E4
    ]
    return tuple(sorted(told, key=lambda one: _urgency(one, now))[:MOST_BUDGETS])


def _urgency(near: NearCap, now: datetime) -> tuple[bool, bool, datetime]:
    return not near.is_used_up, near.runs_out_at is None, near.runs_out_at or now


def _near_cap(window: BudgetWindow, status: BudgetStatus, kept: BudgetForecast | None) -> NearCap:
    if kept is None:
        return NearCap(window, status, None, lasts=False)
    at = kept.runs_out_at
    runs_out_at = at if at is not None and (status.ends_at is None or at < status.ends_at) else None
    return NearCap(window, status, runs_out_at, lasts=runs_out_at is None)
