"""When budgets run out: forecasts of their windows, from hourly sums and windows, never from entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from django.db.models import Q, QuerySet

from governance.models import Budget, BudgetEvent, BudgetForecast, BudgetWindow, ScopeType, SpendRollup, Tenant
from governance.models.budgets import EACH
from governance.queries.budget_status import BudgetStatus
from governance.queries.sums import LongSum
from governance.rules import forecast, names
from governance.rules.decision import WindowView
from governance.rules.forecast import HOUR, Forecast

# How far back a forecast looks. Hours of the whole platform are sums of very many rows.
HISTORY, HISTORY_OF_ALL = timedelta(days=28), timedelta(days=7)
# What is kept is shown so long, unless it is of another window or another cap. `upkeep.forecasts` renews it.
FRESH = timedelta(hours=2)
# Of scopes that have no hourly sums: so many of their windows, and of what happened in one.
MOST_WINDOWS, MOST_EVENTS = 100, 50
# Of those that run out: the soonest.
MOST_RUNNING_OUT = 10_000

Hours = Mapping[datetime, int]


@dataclass(frozen=True, slots=True)
class Outlook:
    """A window's course. Amounts in nanodollars.

    `spent`: what had been spent at moments from its beginning (or the history's, if that is later) to now. `forecast`
    is None where nothing is known to go by.
    """

    status: BudgetStatus
    now: datetime
    zone: ZoneInfo
    spent: tuple[tuple[datetime, int], ...]
    soft_nanos: int | None
    cap_nanos: int
    forecast: Forecast | None


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a window is for: a tenant, and the key of the budget's scope."""

    tenant: Tenant | None
    key: str


def of_budget(budget: Budget, status: BudgetStatus, *, now: datetime) -> Outlook:
    """The outlook of a budget's current window, in a few queries."""
    subject = _subject(budget, status)
    found = _by_hours(budget, subject, now) if _has_hours(budget, subject) else _by_windows(budget, status, now)
    zone = subject.tenant.zone if subject.tenant else ZoneInfo("UTC")
    ends_by_time = status.ends_at if status.ends_at and status.ends_at > now else None
    return Outlook(
        status=status,
        now=now,
        zone=zone,
        spent=_course(budget, subject, status, found, now),
        soft_nanos=None if budget.soft_cap is None else int(status.limit_nanos * budget.soft_cap),
        cap_nanos=status.cap_nanos,
        forecast=forecast.forecast(
            found,
            since=min(found, default=now),
            now=now,
            ends_at=ends_by_time,
            settled_nanos=status.settled_nanos,
            cap_nanos=status.cap_nanos,
            zone=zone,
        ),
    )


def _subject(budget: Budget, status: BudgetStatus) -> Subject:
    if budget.scope_key != EACH:
        return Subject(budget.tenant, budget.scope_key)
    if budget.tenant is not None:
        return Subject(budget.tenant, status.subject)
    slug, _, key = status.subject.partition("/")
    return Subject(Tenant.objects.filter(slug=slug).first() if slug else None, key)


def _has_hours(budget: Budget, subject: Subject) -> bool:
    """Whether hourly sums tell what is spent for a subject: they know tenants and agents."""
    if budget.scope_type == ScopeType.PLATFORM:
        return True
    is_known = budget.scope_type == ScopeType.TENANT or (budget.scope_type == ScopeType.AGENT and subject.key != "")
    return is_known and subject.tenant is not None


def _by_hours(budget: Budget, subject: Subject, now: datetime) -> Hours:
    of_whom = Q()
    if budget.scope_type != ScopeType.PLATFORM:
        of_whom &= Q(tenant=subject.tenant)
    if budget.scope_type == ScopeType.AGENT:
        of_whom &= Q(agent__in=names.spellings("agent", subject.key))
    since = now - (HISTORY_OF_ALL if budget.scope_type == ScopeType.PLATFORM else HISTORY)
    rows = SpendRollup.objects.filter(of_whom, hour__gt=since, hour__lte=now).order_by()
    found = rows.values_list("hour").annotate(nanos=LongSum("cost_nanos"))
    return {hour.astimezone(UTC): nanos or 0 for hour, nanos in found}


def _by_windows(budget: Budget, status: BudgetStatus, now: datetime) -> Hours:
    """What windows spent, as if evenly: for users, sessions and the like nothing finer is kept but entries."""
    windows = BudgetWindow.objects.filter(budget=budget, subject=status.subject, settled_nanos__gt=0)
    latest = windows.order_by("-id").values_list("starts_at", "ends_at", "closed_at", "settled_nanos")[:MOST_WINDOWS]
    found: defaultdict[datetime, int] = defaultdict(int)
    for starts_at, ends_at, closed_at, nanos in latest:
        until = min(each for each in (ends_at, closed_at, now) if each is not None)
        first = max(starts_at, now - HISTORY).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        hours = max(1, -((first - until) // HOUR))
        part = nanos * min(1, (until - first) / max(until - starts_at, HOUR)) if until > first else 0
        for number in range(hours):
            found[first + HOUR * number] += int(part / hours)
    return found


def _course(
    budget: Budget, subject: Subject, status: BudgetStatus, hours: Hours, now: datetime
) -> tuple[tuple[datetime, int], ...]:
    """What had been spent by when. The last figure is the window's own, which hours are made to lead to."""
    if status.window_id is None:
        return ((status.starts_at, 0), (now, 0)) if status.starts_at < now else ((now, 0),)
    if not _has_hours(budget, subject):
        events = BudgetEvent.objects.filter(window=status.window_id).order_by("-id")
        known = events.values_list("occurred_at", "settled_nanos")[:MOST_EVENTS]
        between = reversed([each for each in known if each[0] < now])
        return ((status.starts_at, 0), *between, (now, status.settled_nanos))
    first = max(status.starts_at, min(hours, default=now))
    within = sorted((hour, nanos) for hour, nanos in hours.items() if hour + HOUR > first)
    # What came before the history, or beside the hours; less where the hour began in the window before.
    so_far = status.settled_nanos - sum(nanos for _, nanos in within)
    line = [(first, max(0, so_far))]
    for hour, nanos in within:
        so_far += nanos
        line.append((min(hour + HOUR, now), max(0, so_far)))
    return (*line, (now, status.settled_nanos))


def kept(statuses: Mapping[int, BudgetStatus], *, now: datetime) -> dict[int, BudgetForecast]:
    """What was last reckoned of these budgets' current windows, by budget id, in one query.

    Left out is what is older than FRESH, or was reckoned for another window or another cap.
    """
    rows = BudgetForecast.objects.filter(
        budget__in=statuses, budget__enabled=True, made_at__gt=now - FRESH, expected_nanos__isnull=False
    )
    found = ((row, statuses[row.budget_id]) for row in rows)
    return {row.budget_id: row for row, status in found if _is_of(row, status)}


def running_out(*, now: datetime, budgets: Collection[int] | None = None) -> dict[int, BudgetForecast]:
    """What was last reckoned of windows that are used up before they end, by budget id: of these budgets, or of all."""
    rows = BudgetForecast.objects.filter(budget__enabled=True, made_at__gt=now - FRESH, runs_out_at__gt=now)
    if budgets is not None:
        rows = rows.filter(budget__in=budgets)
    return {row.budget_id: row for row in rows.order_by("runs_out_at", "pk")[:MOST_RUNNING_OUT]}


def runs_out_at(row: BudgetForecast | None, window: WindowView | BudgetStatus, *, now: datetime) -> datetime | None:
    """The minute in which a window runs out by what was kept of its budget, which may have been read a while ago.

    None where it lasts or is used up, and where what was kept is not of it any more.
    """
    if row is None or row.runs_out_at is None or row.made_at <= now - FRESH or not _is_of(row, window):
        return None
    if row.runs_out_at <= now or window.settled_nanos >= window.cap_nanos:
        return None
    return row.runs_out_at.replace(second=0, microsecond=0)


def _is_of(row: BudgetForecast, window: WindowView | BudgetStatus) -> bool:
    return row.made_at >= window.starts_at and (row.ends_at, row.cap_nanos) == (window.ends_at, window.cap_nanos)


def before_reset(*, now: datetime) -> QuerySet[BudgetForecast]:
    """Those kept that run out before their window ends, even where less is spent than usual; the soonest first."""
    rows = BudgetForecast.objects.filter(budget__enabled=True, made_at__gt=now - FRESH, ends_at__gt=now)
    return rows.filter(latest__isnull=False).order_by("latest")
