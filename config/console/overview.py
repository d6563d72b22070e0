"""The console's first page: what was spent, what is near its cap, what happened. Read from rollups and windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.db.models import Count, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from config import health
from governance.actions import corrections, reviews
from governance.console import alert_pages, display, stop_pages
from governance.console.base import has_role, is_of_the_platform, may, reader
from governance.console.display import Card, Series
from governance.console.pages import ConsolePage
from governance.models import BudgetEvent, BudgetWindow, Reservation, SpendEntry
from governance.queries import budget_status, judgement, spend
from governance.queries.budget_status import BudgetStatus
from governance.queries.spend import Point, Reader, TimeRange
from governance.queries.sums import LongSum

TREND_DAYS = 30
CLOSEST, LATEST, TOP = 6, 8, 5
# Two customers' agents of one name are two agents.
RANKINGS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Customers", "apartment", ("tenant",)),
    ("Agents", "smart_toy", ("tenant", "agent")),
    ("Models", "neurology", ("model",)),
)
# The overview is read every few seconds: nobody needs to know how many more than this there are.
MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Closest:
    """A budget window near its cap."""

    budget_id: int
    name: str
    window: str
    status: BudgetStatus
    bar: SafeString
    remaining: str
    resets_at: datetime | None


@dataclass(frozen=True, slots=True)
class RankingLine:
    """One line of a ranking: `names` are the parts of its name, `percent` is of the first line, for the bar."""

    names: list[str]
    link: str
    cost: str
    calls: int
    percent: float


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """The whole page's. Without a role there is nothing on it but a sentence."""
    if not has_role(request):
        return {"subtitle": None, "without_role": True}
    return {"subtitle": None, "trend_days": TREND_DAYS, **figures(request, now)}


def figures(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """What changes, and is asked for every few seconds. A tenant's own staff sees their tenant's share alone."""
    by = reader(request)
    trend = spend.by_day(reader=by, days=TREND_DAYS, now=now)
    since = TimeRange(starts_at=datetime.combine(trend[0].day, datetime.min.time(), tzinfo=now.tzinfo))
    return {
        "now": now,
        "cards": _cards(by, trend, now),
        "trend": _chart(trend),
        "any_spend": any(point.calls for point in trend),
        "closest": [
            _closest(window, found) for window, found in budget_status.fullest(reader=by, now=now, limit=CLOSEST)
        ],
        "rankings": [
            (title, icon, _top(by, parts, since))
            for title, icon, parts in RANKINGS
            if parts != ("tenant",) or by.tenant is None
        ],
        "events": _events(by, now),
        "may_add_budget": may(request, "governance.add_budget"),
        **(_platform(request) if is_of_the_platform(request) else {}),
    }


def _platform(request: HttpRequest) -> dict[str, Any]:
    """What concerns all tenants, and what may be done about it."""
    services = health.services()
    stopped = stop_pages.active()
    return {
        "may_stop": may(request, "governance.add_emergencystop"),
        "may_lift": may(request, "governance.change_emergencystop"),
        "may_acknowledge": may(request, "governance.change_alert"),
        "services": [(name, state, _tone(state)) for name, state in services.items()],
        "health": health.overall(services),
        "check": health.last_check(),
        "judged": judgement.last(),
        "alerts": alert_pages.open_ones(limit=LATEST),
        "stops": stopped,
        "all_stopped": any(stop["everything"] for stop in stopped),
    }


def _cards(by: Reader, trend: list[Point], now: datetime) -> list[Card]:
    today, yesterday = trend[-1], trend[-2]
    month_nanos, month_calls = spend.total(
        reader=by,
        period=TimeRange(starts_at=now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)),
    )
    pressed, stopped = budget_status.near_the_cap(reader=by, now=now)
    pending = Reservation.objects.filter(by.scope, status=Reservation.Status.PENDING).aggregate(
        running=Count("pk"), nanos=LongSum("amount_nanos")
    )
    return [
        Card(
            "Spent today",
            display.dollars(today.cost_nanos),
            f"{display.dollars(yesterday.cost_nanos)} yesterday",
            "today",
        ),
        Card("This month", display.dollars(month_nanos), f"{month_calls:,} calls", "calendar_month"),
        Card("Calls today", f"{today.calls:,}", f"{yesterday.calls:,} yesterday", "bolt"),
        Card(
            "Near their cap",
            str(pressed),
            f"{stopped} stopped" if stopped else "none stopped",
            "speed",
            "danger" if stopped else "warning" if pressed else "",
        ),
        Card(
            "Running calls",
            f"{pending['running']:,}",
            f"{display.dollars(pending['nanos'] or 0)} reserved for them",
            "hourglass_top",
        ),
        _waiting(by),
    ]


def _waiting(by: Reader) -> Card:
    """Money that waits for an operator's word: claimed beyond a budget, or charged at an estimate."""
    reports, nanos = reviews.waiting_sums(**({"tenant": by.tenant} if by.tenant else {}))
    estimates = corrections.open_estimates(SpendEntry.objects.filter(by.scope))[: MOST_COUNTED + 1].count()
    shown = f"{MOST_COUNTED:,} or more" if estimates > MOST_COUNTED else f"{estimates:,}"
    return Card(
        "To review",
        display.dollars(nanos),
        f"{reports:,} reports, {shown} open estimates",
        "rate_review",
        "warning" if reports else "",
        reverse("admin:governance_pendingreport_changelist") + "?status__exact=waiting",
    )


def _chart(trend: list[Point]) -> dict[str, Any]:
    by_day = Series(
        "Spent",
        [display.plain_dollars(point.cost_nanos) for point in trend],
        calls=[point.calls for point in trend],
    )
    return display.chart("bars", [f"{point.day:%b} {point.day.day}" for point in trend], [by_day])


def _closest(window: BudgetWindow, found: BudgetStatus) -> Closest:
    budget = window.budget
    return Closest(
        budget_id=budget.pk,
        name=display.subject_name(window),
        window=budget.get_window_display(),
        status=found,
        bar=display.bar(found, soft_cap=budget.soft_cap, hard_cap=budget.hard_cap),
        remaining=display.dollars(found.remaining_nanos),
        resets_at=found.ends_at,
    )


def _top(by: Reader, parts: Sequence[str], since: TimeRange) -> list[RankingLine]:
    rows = spend.summary(group_by=parts, reader=by, period=since, limit=TOP)
    dearest = max((row["cost_nanos"] for row in rows), default=0) or 1
    return [
        RankingLine(
            names=[row[part] or "not named" for part in parts],
            link=_spend_of({part: row[part] for part in parts}),
            cost=display.dollars(row["cost_nanos"]),
            calls=row["calls"],
            percent=max(0.0, row["cost_nanos"] * 100 / dearest),
        )
        for row in rows
    ]


def _spend_of(named: dict[str, str]) -> str:
    """The page of what it spent; empty where it has no name to look for."""
    if not all(named.values()):
        return ""
    return f"{reverse('admin:spend')}?{urlencode({'range': f'{TREND_DAYS}d', **named})}"


def _events(by: Reader, now: datetime) -> list[dict[str, Any]]:
    rows = BudgetEvent.objects.filter(Q(tenant=by.tenant) if by.tenant else Q())
    rows = rows.select_related("budget__tenant", "window__budget__tenant").order_by("-id")[:LATEST]
    return [
        {
            "kind": _kind(row),
            "colour": display.KIND_COLOURS[row.kind],
            "name": display.subject_name(row.window),
            "budget_id": row.budget_id,
            "window": row.budget.get_window_display(),
            "detail": _detail(row),
            "at": row.occurred_at,
            "recent": now - row.occurred_at < timedelta(minutes=1),
        }
        for row in rows
    ]


def _detail(row: BudgetEvent) -> str:
    change = f"{row.old_state} → {row.new_state}" if row.kind == BudgetEvent.Kind.STATE_CHANGE else ""
    figures = f"{display.dollars(row.settled_nanos)} of {display.dollars(row.limit_nanos)}"
    return " · ".join(part for part in (change, figures, row.reason) if part)


def _kind(row: BudgetEvent) -> str:
    if row.kind == BudgetEvent.Kind.THRESHOLD_BREACH:
        return f"{Decimal(row.threshold) * 100:.0f}% reached"
    return str(row.kind).replace("-", " ")


def _tone(state: str) -> str:
    if state in health.UNWELL:
        return "danger"
    return "success" if state in ("ok", "configured") else "neutral"


LIVE = ConsolePage(
    title="Overview",
    path="overview/",
    name="overview-live",
    template="console/live.html",
    context=figures,
    permission=has_role,
    is_part=True,
)
