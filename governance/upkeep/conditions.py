"""Looks at what nobody reports by itself: money that goes fast or runs out, overages, a full disk, a database in
trouble. Each is an alert while it lasts.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import Count, Max, Q
from django.urls import reverse

from governance import alerts
from governance.models import BudgetWindow, ScopeType, SpendEntry, Tenant
from governance.queries import budget_status, forecasts, jobs
from governance.queries.sums import LongSum
from governance.rules import outages
from governance.rules.windows import WindowKind
from governance.upkeep.budget_notices import capital, dollars, name_of, resets

VELOCITY, RUNS_OUT, OVERAGE, LATE = "velocity", "budget_runs_out", "overage", "job_late"
DISK, DATABASE = "disk_full", "database_trouble"
# What comes and goes between two looks is one alert, and no message each time: it is over when so many did not see it.
# Of forecasts, which are looked at each quarter of an hour, two in a row.
UNSEEN_FOR, UNFORESEEN_FOR = timedelta(minutes=5), timedelta(minutes=29)
# What is spent in so long says how fast money goes.
LATELY = timedelta(minutes=15)
DAY = timedelta(days=1)
# Of the windows nearest their caps.
MOST_WINDOWS, MOST_FORECASTS = 500, 100
# Of one that is used up somebody was told.
GOING_ON = ~Q(state=BudgetWindow.State.STOPPED)
# An hourly one is meant to go so fast. Of users, sessions and the like nobody sums what went lately.
PACED = (
    GOING_ON
    & ~Q(budget__window=WindowKind.HOUR)
    & Q(budget__scope_type__in=[ScopeType.PLATFORM, ScopeType.TENANT, ScopeType.AGENT])
)
# A budget that is hardly begun is not forecast.
BEGUN = 0.2


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is wrong now."""

    message: str
    severity: str = "warning"
    tenant: Tenant | None = None
    is_for_tenant: bool = False
    path: str = ""


def look(*, now: datetime) -> int:
    """What is quickly seen, each minute; how many alerts are open of it."""
    kinds = {VELOCITY: velocity, OVERAGE: overages, LATE: late_jobs, DISK: disk, DATABASE: database}
    return sum(_keep(kind, look_at(now), now, UNSEEN_FOR) for kind, look_at in kinds.items())


def look_ahead(*, now: datetime) -> int:
    """Budgets that will not last until their reset; how many."""
    return _keep(RUNS_OUT, running_out(now), now, UNFORESEEN_FOR)


def _keep(kind: str, found: Mapping[str, Found], now: datetime, unseen_for: timedelta) -> int:
    """Open an alert for each thing that is found, by its subject, and end those of what is not any more."""
    for subject, one in found.items():
        alerts.report(
            kind=kind,
            subject=subject,
            message=one.message,
            severity=one.severity,
            tenant=one.tenant,
            is_for_tenant=one.is_for_tenant,
            path=one.path,
            now=now,
        )
    host = socket.gethostname() if kind == DISK else ""
    alerts.clear_others(kind=kind, found=found, now=now, host=host, unseen_for=unseen_for)
    return len(found)


def velocity(now: datetime) -> dict[str, Found]:
    """Budgets of which so much went lately that they are gone within the hour, long before their reset."""
    spent = _spent_lately(now)
    found: dict[str, Found] = {}
    for window, status in budget_status.fullest(now=now, limit=MOST_WINDOWS, where=PACED) if spent else []:
        of_window = _of(window, spent)
        nanos = sum(of_window.values())
        left_nanos = status.cap_nanos - status.settled_nanos
        left_s = outages.gone_in_s(
            spent_nanos=nanos,
            over_s=int(LATELY.total_seconds()),
            left_nanos=left_nanos,
            limit_nanos=status.cap_nanos,
            resets_in_s=int((window.ends_at - now).total_seconds()) if window.ends_at else None,
        )
        if left_s is None:
            continue
        (tenant, agent), most = max(of_window.items(), key=lambda item: item[1])
        who = f"{agent or 'a caller without an agent'} of {tenant}"
        message = (
            f"{dollars(nanos)} of {name_of(window)} went in the last 15 minutes, {dollars(most)} of it"
            f" by {who}. At this pace the {dollars(max(0, left_nanos))} that are left are gone"
            f" in {max(1, left_s // 60)} minutes. {resets(window)}"
        )
        found[_subject(window)] = _of_budget(window, message, "critical")
    return found


def running_out(now: datetime) -> dict[str, Found]:
    """Budgets that, as they are usually spent, will be gone before their reset, even where less is spent than usual.

    The fullest, and whichever were found to be so when forecasts were last kept. Each is forecast anew.
    """
    kept = list(forecasts.before_reset(now=now).values_list("budget", flat=True)[:MOST_FORECASTS])
    found: dict[str, Found] = {}
    resetting = GOING_ON & Q(ends_at__isnull=False)
    for window, status in _nearest(now, resetting, resetting & Q(budget__in=kept)):
        if status.committed_share < BEGUN:
            continue
        outlook = forecasts.of_budget(window.budget, status, now=now)
        ahead = outlook.forecast
        if ahead is None or ahead.runs_out_at is None or ahead.latest is None:
            continue
        at, latest = (moment.astimezone(outlook.zone) for moment in (ahead.runs_out_at, ahead.latest))
        earliest = (ahead.earliest or ahead.runs_out_at).astimezone(outlook.zone)
        message = (
            f"{capital(name_of(window))} will run out at about {at:%H:%M} on"
            f" {at:%Y-%m-%d} (between {earliest:%Y-%m-%d %H:%M} and {latest:%Y-%m-%d %H:%M}):"
            f" {dollars(status.settled_nanos)} of {dollars(status.limit_nanos)} are spent."
            f" {resets(window)}"
        )
        found[_subject(window)] = _of_budget(window, message, "warning")
    return found


def overages(now: datetime) -> dict[str, Found]:
    """Calls of the last day that cost more than was held for them."""
    rows = SpendEntry.objects.filter(overage_nanos__gt=0, recorded_at__gte=now - DAY).order_by()
    sums = rows.aggregate(calls=Count("pk"), nanos=LongSum("overage_nanos"), most=Max("overage_nanos"))
    if not sums["calls"]:
        return {}
    worst = rows.order_by("-overage_nanos").select_related("tenant").first()
    of = f", the most by {worst.model_served} for {worst.tenant}" if worst is not None else ""
    calls = "1 call" if sums["calls"] == 1 else f"{sums['calls']} calls"
    message = (
        f"{calls} of the last 24 hours cost {dollars(sums['nanos'] or 0)} more than was held for them{of}"
        f" ({dollars(sums['most'] or 0)})."
    )
    return {"calls": Found(message, "critical")}


def late_jobs(now: datetime) -> dict[str, Found]:
    """Periodic jobs that did not succeed in time; this one runs, or nobody looks."""
    return {
        job.name: Found(
            f"{job.name}, which runs every {short_period(job.period)}, last succeeded"
            f" {f'at {job.succeeded_at:%H:%M on %Y-%m-%d} UTC' if job.succeeded_at else 'never'}."
            + (f" Its last run failed: {job.error}" if job.error else "")
        )
        for job in jobs.late(now=now)
    }


def short_period(period: timedelta) -> str:
    seconds = int(period.total_seconds())
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds % length == 0:
            count = seconds // length
            return unit if count == 1 else f"{count} {unit}s"
    return f"{seconds} seconds"


def disk(now: datetime) -> dict[str, Found]:
    """This machine's disk, where the product writes."""
    try:
        usage = shutil.disk_usage(settings.VAR_DIR)
    except OSError:
        return {}
    severity = outages.of_disk(total=usage.total, free=usage.free)
    if severity is None:
        return {}
    message = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.1f} GiB are free at {settings.VAR_DIR}."
    return {f"{settings.VAR_DIR} at {socket.gethostname()}": Found(message, severity)}


def database(now: datetime) -> dict[str, Found]:
    """Connections that run out, and transactions that never end: PostgreSQL's own word."""
    if connection.vendor != "postgresql":
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), current_setting('max_connections')::int,"
            " coalesce(extract(epoch FROM max(now() - xact_start)"
            " FILTER (WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid())), 0)::int"
            " FROM pg_stat_activity WHERE backend_type = 'client backend'"
        )
        used, most, oldest_s = cursor.fetchone()
    found: dict[str, Found] = {}
    if outages.is_nearly_used_up(used=used, most=most):
        words = f"{used} of {most} connections of the database are in use: calls wait for one, and are 503 at last."
        found["connections"] = Found(words, "critical")
    if oldest_s >= outages.LONG_TRANSACTION_S:
        words = f"A transaction is open for {oldest_s // 60} minutes: calls of what it has locked wait for it."
        found["long transaction"] = Found(words, "warning")
    return found


Spender = tuple[str, str]


def _spent_lately(now: datetime) -> dict[Spender, int]:
    """(tenant, agent) -> nanodollars of LATELY."""
    rows = SpendEntry.objects.filter(occurred_at__gt=now - LATELY, occurred_at__lte=now).order_by()
    sums = rows.values_list("tenant__slug", "agent").annotate(nanos=LongSum("cost_nanos"))
    return {(tenant, agent): nanos for tenant, agent, nanos in sums if nanos and nanos > 0}


def _of(window: BudgetWindow, spent: Mapping[Spender, int]) -> dict[Spender, int]:
    """What of it went from a window of the platform, a tenant or an agent."""
    if window.tenant is None:
        return dict(spent)
    tenant = window.tenant.slug
    if window.budget.scope_type == ScopeType.TENANT:
        return {who: nanos for who, nanos in spent.items() if who[0] == tenant}
    # The platform's budgets put the tenant before the agent, whose own name may have a slash.
    agent = window.subject if window.budget.tenant_id else window.subject.removeprefix(f"{tenant}/")
    return {who: nanos for who, nanos in spent.items() if who == (tenant, agent)}


def _nearest(now: datetime, *which: Q) -> Iterable[tuple[BudgetWindow, budget_status.BudgetStatus]]:
    """The windows nearest their caps of each of `which`, each once."""
    found = (one for where in which for one in budget_status.fullest(now=now, limit=MOST_FORECASTS, where=where))
    return {window.pk: (window, status) for window, status in found}.values()


def _subject(window: BudgetWindow) -> str:
    return name_of(window).removeprefix("the ")


def _of_budget(window: BudgetWindow, message: str, severity: str) -> Found:
    tenant = window.tenant or window.budget.tenant
    return Found(
        message,
        severity,
        tenant=tenant,
        is_for_tenant=tenant is not None and window.budget.scope_type != ScopeType.PLATFORM,
        path=reverse("admin:governance_budget_change", args=[window.budget_id]),
    )
