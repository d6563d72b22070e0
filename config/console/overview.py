"""The console's first page: how budgets stand, what was spent, when it runs out, what happened. Read from sums.

Its cards are asked for every few seconds, and its chart with them where something was spent. What happened is asked for
every minute, and the rest is read once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.safestring import SafeString

from config import health
from config.console import first_run, happened, health_words, saved
from governance.actions import corrections, reviews
from governance.console import alert_pages, display, outlooks, ranges, spend_chart, stop_pages
from governance.console.base import has_role, is_of_the_platform, may, reader
from governance.console.display import Card
from governance.console.filters import WORDS, zone_of
from governance.console.pages import ConsolePage
from governance.console.spend_address import Address
from governance.models import Budget, BudgetWindow, Reservation, SpendEntry, SpendRollup
from governance.queries import breakdown, budget_status, forecasts, savings, spend
from governance.queries.breakdown import MoreThanRead
from governance.queries.budget_status import BudgetStatus
from governance.queries.spend import Reader, TimeRange
from governance.queries.sums import LongSum
from governance.rules.spend_sums import HOUR, share_e4

CLOSEST, ALERTS = 5, 8
# What spend is told apart by; names of customers' own are never added up.
GROUPS = ("model", "tenant", "agent")
# Whether the chart has changed is seen by what was spent in so much time.
LATELY = timedelta(days=1)
# Nobody needs to know how many more than this wait.
MOST_COUNTED = 1000
STATE_CARDS = (
    ("active", "below their warnings", "check_circle", ""),
    ("warned", "near their caps", "warning", "warning"),
    ("degraded", "cheaper, fewer tools", "trending_down", "warning"),
    ("stopped", "no call goes through", "block", "danger"),
)


@dataclass(frozen=True, slots=True)
class Closest:
    """A budget window near its cap, and when it runs out."""

    name: str
    link: str
    window: str
    status: BudgetStatus
    bar: SafeString
    left: str
    limit: str
    outlook: SafeString | str


@dataclass(frozen=True, slots=True)
class LegendLine:
    """A group of the chart with what it came to: `colour` names a property of the style sheet."""

    name: str
    colour: str
    cost: str
    percent: str
    link: str


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """The whole page's. Without a role there is nothing on it but a sentence."""
    if not has_role(request):
        return {"subtitle": None, "without_role": True}
    address = _address(request, now)
    figures = _live(request, address, now)
    by = address.by
    return {
        "subtitle": None,
        "now": now,
        **figures,
        **_chart(address),
        "range": address.range,
        "ranges": ranges.choices(address.range, {"group": address.group}),
        "kept": {"group": address.group},
        "groups": [
            (f"?{urlencode(address.range.query() | {'group': name})}", WORDS[name], name == address.group)
            for name in _groups(by)
        ],
        "part_link": f"{reverse('admin:overview-happened')}?{urlencode(_query(address))}",
        "closest": [
            _closest(by, window, found, now)
            for window, found in budget_status.fullest(reader=by, now=now, limit=CLOSEST)
        ],
        "may_add_budget": may(request, "governance.add_budget"),
        "first_steps": first_run.of(request, now),
        **(_platform(request, now) if is_of_the_platform(request) else {}),
    }


def live(request: HttpRequest, now: datetime) -> dict[str, Any] | HttpResponse:
    """The cards, with the chart and the notices where they changed. Nothing (204) where whoever asks has all of it."""
    address = _address(request, now)
    figures = _live(request, address, now)
    changed = {name for name, digest in figures["seen"].items() if digest != request.GET.get(name)}
    if not changed:
        return HttpResponse(status=204)
    chart = _chart(address) if "spent" in changed else {}
    return {**figures, **chart, "now": now, "is_renewed": True, "notices_changed": "notices" in changed}


def happened_lately(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """What happened in the range, and what was saved this month."""
    address = _address(request, now)
    zone = address.zone
    begin = now.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    month = TimeRange(begin.astimezone(UTC), now)
    found = savings.of_period(reader=address.by, period=month, now=now)
    return {
        "now": now,
        "lines": happened.lines(request, address.range, now),
        "range_words": address.range.words,
        "savings": saved.lines(found, month),
        "saved_since": display.moment(found.since, "day") if found.since else "",
        "month": f"{begin:%B}",
        "month_spent": display.dollars(spend.total(reader=address.by, period=month)[0]),
        "month_link": f"{reverse('admin:spend')}?{urlencode(ranges.days(begin.date(), now.astimezone(zone).date()))}",
        "again_link": f"{reverse('admin:overview-happened')}?{urlencode(_query(address))}",
    }


def _address(request: HttpRequest, now: datetime) -> Address:
    """The range and the group that are asked for, as an address of the page of what was spent."""
    by = reader(request)
    groups = _groups(by)
    asked = request.GET.get("group", "")
    return Address(
        by=by,
        range=ranges.chosen(request.GET, now=now, zone=zone_of(by.tenant)),
        group=asked if asked in groups else groups[0],
        within="",
        filters={},
        where={},
        errors=(),
        root=reverse("admin:index"),
    )


def _query(address: Address) -> dict[str, str]:
    return address.range.query() | {"group": address.group}


def _groups(by: Reader) -> list[str]:
    return [name for name in GROUPS if name != "tenant" or by.tenant is None]


def _live(request: HttpRequest, address: Address, now: datetime) -> dict[str, Any]:
    """What is asked for every few seconds. `seen` are digests of it: what is not changed is not sent again."""
    cards, running = _cards(address.by, now), _running(address.by)
    notices = _notices(request) if is_of_the_platform(request) else {}
    seen = {
        "cards": _digest([[asdict(card) for card in cards], running]),
        "spent": _digest(_spent_lately(address, now)),
        "notices": _digest([notices.get("stops"), notices.get("alerts")]),
    }
    return {
        "cards": cards,
        "running": running,
        **notices,
        "seen": seen,
        "live_link": f"{reverse('admin:overview-live')}?{urlencode(_query(address) | seen)}",
    }


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:16]


def _notices(request: HttpRequest) -> dict[str, Any]:
    """What stands above everything: stops in force, and alerts that nobody has seen to."""
    stopped = stop_pages.active()
    return {
        "may_stop": may(request, "governance.add_emergencystop"),
        "may_lift": may(request, "governance.change_emergencystop"),
        "may_acknowledge": may(request, "governance.change_alert"),
        "alerts": alert_pages.open_ones(limit=ALERTS),
        "stops": stopped,
        "all_stopped": any(stop["everything"] for stop in stopped),
    }


def _platform(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """How the product itself is: of no concern to a tenant's own staff."""
    services = health.services()
    tone, words = health_words.overall(services)
    return {
        "health_tone": tone,
        "health_words": words,
        "health": health_words.lines(services, check=health.last_check(), now=now),
        "waiting": _waiting(),
    }


def _waiting() -> list[tuple[str, str]]:
    """(sentence, address) of money that waits for an operator's word: claimed beyond a budget, or estimated."""
    reports, nanos = reviews.waiting_sums()
    estimates = corrections.open_estimates(SpendEntry.objects.all())[: MOST_COUNTED + 1].count()
    found = []
    if reports:
        words = f"{reports:,} report{'' if reports == 1 else 's'} of {display.dollars(nanos)} wait for your word."
        found.append((words, f"{reverse('admin:governance_pendingreport_changelist')}?status__exact=waiting"))
    if estimates:
        shown = f"{MOST_COUNTED:,} or more" if estimates > MOST_COUNTED else f"{estimates:,}"
        words = f"{shown} charge{'' if estimates == 1 else 's'} at an estimate may be confirmed or voided."
        found.append((words, f"{reverse('admin:calls')}?{urlencode({'range': '30d', 'status': 'estimated'})}"))
    return found


def _cards(by: Reader, now: datetime) -> list[Card]:
    own = Budget.objects.filter(tenant=by.tenant) if by.tenant else Budget.objects.all()
    counts, budgets = budget_status.counts(own, now=now), reverse("admin:governance_budget_changelist")
    return [
        *(
            Card(
                state.capitalize(),
                f"{counts[state]:,}",
                note,
                icon,
                tone if counts[state] else "",
                f"{budgets}?state={state}",
            )
            for state, note, icon, tone in STATE_CARDS
        ),
        _spent_today(by, now),
    ]


def _spent_today(by: Reader, now: datetime) -> Card:
    """With what it was yesterday at the end of this hour, by which sums are kept."""
    local = now.astimezone(zone_of(by.tenant))
    today = local.replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(days=1)
    hour_ends = (local.replace(minute=0, second=0, microsecond=0).astimezone(UTC) + HOUR).astimezone(local.tzinfo)
    until = min(today, hour_ends - timedelta(days=1))
    nanos, _ = spend.total(reader=by, period=TimeRange(today.astimezone(UTC), now))
    before, _ = spend.total(reader=by, period=TimeRange(yesterday.astimezone(UTC), until.astimezone(UTC)))
    by_then = "by midnight" if until == today else f"by {until:%H:%M}"
    return Card(
        "Spent today",
        display.dollars(nanos),
        f"{display.dollars(before)} yesterday {by_then}",
        "payments",
        link=f"{reverse('admin:spend')}?{urlencode(ranges.days(today.date(), today.date()))}",
    )


def _spent_lately(address: Address, now: datetime) -> Any:
    """What differs where the chart does: its range, and what was spent in the latest of it."""
    shown = address.range
    lately = TimeRange(max(shown.starts_at, now - LATELY), min(shown.ends_at, now))
    return [shown.starts_at, shown.ends_at, spend.total(reader=address.by, period=lately)]


def _chart(address: Address) -> dict[str, Any]:
    """What was spent, stacked by the group, and the same as a list and as a table."""
    parts = breakdown.GROUPS[address.group]
    try:
        lines = breakdown.first(address.question(), parts, most=spend_chart.TOP)
        drawn = spend_chart.draw(address, lines)
    except MoreThanRead as error:
        return {"chart": None, "chart_error": str(error)}
    total = lines.total
    return {
        "chart": drawn,
        "chart_figures": drawn.figures | {"legend": False},
        "legend": _legend(address, drawn.figures["series"], lines.found, total.cost_nanos),
        "group_word": WORDS[address.group].lower(),
        "any_spend": bool(total.calls),
        "range_spent": display.dollars(total.cost_nanos),
        "range_calls": total.calls,
        "spend_link": address.link(subgroup=""),
        "is_new": not total.calls and not SpendRollup.objects.filter(address.by.scope).exists(),
    }


def _legend(
    address: Address, series: Sequence[Mapping[str, Any]], lines: Mapping[Any, Any], total_nanos: int
) -> list[LegendLine]:
    parts = breakdown.GROUPS[address.group]
    named = {spend_chart.name_of(address, parts, key): key for key in lines}
    found, rest = [], total_nanos
    for each in series:
        key = named.get(each["name"])
        nanos = rest if key is None else lines[key].cost_nanos
        rest -= nanos
        found.append(
            LegendLine(
                name=each["name"],
                colour=each["colour"],
                cost=display.dollars(nanos),
                percent=display.percent(share_e4(nanos, total_nanos)),
                link=address.slice_of(dict(zip(parts, key, strict=True))) if key else address.link(subgroup=""),
            )
        )
    return found


def _running(by: Reader) -> str:
    """Calls that run now, and what is reserved for them; empty where none do."""
    pending = Reservation.objects.filter(by.scope, status=Reservation.Status.PENDING).aggregate(
        running=Count("pk"), nanos=LongSum("amount_nanos")
    )
    if not pending["running"]:
        return ""
    number = pending["running"]
    return f"{number:,} call{' runs' if number == 1 else 's run'} now, {display.dollars(pending['nanos'])} reserved"


def _closest(by: Reader, window: BudgetWindow, found: BudgetStatus, now: datetime) -> Closest:
    budget = window.budget
    is_own = by.tenant is None or budget.tenant_id == by.tenant.pk
    return Closest(
        name=display.subject_name(window),
        link=reverse("admin:governance_budget_change", args=[budget.pk]) if is_own else "",
        window=budget.get_window_display(),
        status=found,
        bar=display.bar(found, soft_cap=budget.soft_cap, hard_cap=budget.hard_cap),
        left=display.dollars(found.remaining_nanos),
        limit=display.dollars(found.limit_nanos),
        outlook=outlooks.runs_out(forecasts.of_budget(budget, found, now=now)),
    )


LIVE = ConsolePage(
    title="Overview",
    path="overview/",
    name="overview-live",
    template="console/overview_live.html",
    context=live,
    permission=has_role,
    is_part=True,
)
HAPPENED = ConsolePage(
    title="Overview",
    path="overview/happened/",
    name="overview-happened",
    template="console/happened.html",
    context=happened_lately,
    permission=has_role,
    is_part=True,
)
