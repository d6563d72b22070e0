"""What the pages of a customer and of an agent have in common: stops in force, spend over time, budgets, keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.db.models import Count, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from governance.actions import stops
from governance.console import budget_list, display, outlooks, ranges, spend_chart
from governance.console.base import may, reader
from governance.console.display import Card
from governance.console.ranges import Chosen
from governance.console.spend_address import Address
from governance.console.spend_chart import Chart
from governance.models import ApiKey, Budget, EmergencyStop, RefusedCall, Reservation, Tenant
from governance.queries import breakdown, forecasts, key_use, spend
from governance.queries.breakdown import MoreThanRead
from governance.queries.budget_status import OFF, BudgetStatus
from governance.queries.spend import Reader, TimeRange
from governance.queries.sums import LongSum
from governance.rules import names
from governance.rules.errors import FieldError
from governance.rules.spend_sums import NOTHING, SpendSums

# For so many budgets of a page it is said when they run out: a handful of queries each.
MOST_OUTLOOKS, MOST_KEYS = 3, 8


@dataclass(frozen=True, slots=True)
class StopLine:
    """An emergency stop in force. `lift`: where it is lifted, for whoever may."""

    whom: str
    reason: str
    actor: str
    since: SafeString | str
    lift: str


@dataclass(frozen=True, slots=True)
class SpendPart:
    """What was spent in the page's range. `chart`: None where nothing was, or of too many calls."""

    chart: Chart | None
    total: SpendSums
    link: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class OutlookLine:
    """A budget, how it stands, and when it runs out. Without a `link` its reader may see no more than its name."""

    name: str
    link: str
    kind: str
    state: str
    bar: SafeString | str = ""
    figures: SafeString | str = ""
    outlook: SafeString | str = ""


@dataclass(frozen=True, slots=True)
class KeyLine:
    key: ApiKey
    state: str
    last_used: SafeString | str


def stop_lines(request: HttpRequest, where: Q) -> list[StopLine]:
    """The stops in force that cover somebody, as `where` says; those of everything are among them."""
    may_lift = may(request, "governance.change_emergencystop")
    found = stops.active().filter(Q(tenant=None) | where)
    is_bound = reader(request).tenant is not None
    return [
        StopLine(
            str(stop.agent or (stop.tenant.name if stop.tenant else "Everything")),
            # A tenant's staff need not know why all of the platform stands still.
            "" if is_bound and stop.tenant is None else stop.reason,
            "an operator" if is_bound else stop.actor,
            display.moment(stop.started_at),
            _lift(stop) if may_lift else "",
        )
        for stop in found
    ]


def _lift(stop: EmergencyStop) -> str:
    return reverse("admin:governance_emergencystop_lift_one", args=[stop.pk])


def address(request: HttpRequest, tenant: Tenant, found: Chosen, *, group: str, agent: str = "") -> Address:
    """The page of what was spent, narrowed down to a customer or an agent, for this page's range."""
    by = reader(request)
    filters = {"tenant": tenant.slug} if by.tenant is None else {}
    filters |= {"agent": agent} if agent else {}
    return Address(
        by=by,
        range=found,
        group=group,
        within="",
        filters=filters,
        where={name: _spellings(name, text) for name, text in filters.items()},
        errors=(),
        root=reverse("admin:index"),
    )


def _spellings(kind: str, text: str) -> tuple[str, ...]:
    """Also of a name from before names were checked."""
    try:
        return names.spellings(kind, text)
    except FieldError:
        return (text,)


def spend_part(address: Address) -> SpendPart:
    """The chart of the range, and its sums by the groups of the address."""
    try:
        lines = breakdown.first(address.question(), address.parts, most=spend_chart.TOP)
        is_charged = lines.total.calls or lines.total.cost_nanos
        chart = _shortened(spend_chart.draw(address, lines), address) if is_charged else None
    except MoreThanRead as error:
        return SpendPart(None, NOTHING, address.link(), str(error))
    return SpendPart(chart, lines.total, address.link())


def _shortened(chart: Chart, address: Address) -> Chart:
    """Without the customer's name before each agent's: the page is the customer's."""
    owner = f"{address.filters.get('tenant', '') or getattr(address.by.tenant, 'slug', '')} / "
    for series in chart.figures["series"]:
        series["name"] = series["name"].removeprefix(owner)
    return replace(chart, names=[name.removeprefix(owner) for name in chart.names])


def spent_card(by: Reader, zone_of: Tenant, agent: str, now: datetime) -> Card:
    """What was spent in the customer's month so far, beside as much of the month before."""
    local = now.astimezone(zone_of.zone)
    month = local.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    before = (month - timedelta(days=1)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    nanos, calls = spend.total(reader=by, period=TimeRange(month, now))
    until = min(before + (now - month), month)
    earlier, _ = spend.total(reader=by, period=TimeRange(before, until))
    link = {"tenant": zone_of.slug, **({"agent": agent} if agent else {})}
    days = ranges.days(month.date(), local.date())
    return Card(
        "Spent this month",
        display.dollars(nanos),
        f"{display.dollars(earlier)} by this day last month" if earlier else f"{calls:,} calls",
        "payments",
        link=f"{reverse('admin:spend')}?{urlencode(days | link)}",
    )


def running_card(by: Reader) -> Card:
    pending = Reservation.objects.filter(by.scope, status=Reservation.Status.PENDING)
    found = pending.aggregate(running=Count("pk"), nanos=LongSum("amount_nanos"))
    note = f"{display.dollars(found['nanos'] or 0)} reserved for them"
    return Card("Running now", f"{found['running']:,}", note, "hourglass_top")


def refused_card(by: Reader, narrowed: Mapping[str, str], now: datetime) -> Card:
    # From the hour on that the page it leads to begins with.
    since = ranges.lasting("24h", now=now, zone=ZoneInfo("UTC")).starts_at
    rows = RefusedCall.objects.filter(by.scope, refused_at__gte=since)
    found = rows.aggregate(rows=Count("pk", filter=~Q(request_id="")), more=LongSum("more"))
    count = found["rows"] + (found["more"] or 0)
    link = f"{reverse('admin:calls')}?{urlencode({'range': '24h', 'status': 'refused', **narrowed})}"
    return Card("Refused", f"{count:,}", "in the last 24 hours", "block", "warning" if count else "", link)


def budget_lines(budgets: Sequence[budget_list.BudgetRow], *, now: datetime) -> list[OutlookLine]:
    return [
        budget_line(row.budget, row.status, row.state, now=now, with_outlook=place < MOST_OUTLOOKS)
        for place, row in enumerate(budgets)
    ]


def budget_line(
    budget: Budget, status: BudgetStatus, state: str, *, now: datetime, with_outlook: bool, subject: str = ""
) -> OutlookLine:
    outlook: SafeString | str = ""
    if with_outlook and state != OFF:
        outlook = outlooks.runs_out(forecasts.of_budget(budget, status, now=now))
    return OutlookLine(
        name=f"{budget.scope}{f' · {subject}' if subject else ''}",
        link=reverse("admin:governance_budget_change", args=[budget.pk]),
        kind=budget.get_window_display(),
        state=state,
        bar=display.bar(status, soft_cap=budget.soft_cap, hard_cap=budget.hard_cap),
        figures=f"{display.dollars(status.settled_nanos)} of {display.dollars(status.limit_nanos)}",
        outlook=outlook,
    )


def key_lines(keys: Iterable[ApiKey], by: Reader, *, now: datetime) -> list[KeyLine]:
    """Keys with what became of them; one query for when all of them were used last."""
    keys = list(keys)
    used = key_use.last_used(reader=by) if keys else {}
    return [KeyLine(key, state_of(key, now), last_used(key, used)) for key in keys]


def state_of(key: ApiKey, now: datetime) -> str:
    if key.revoked_at:
        return "revoked"
    return "usable" if key.is_usable(now) else "expired"


def last_used(key: ApiKey, used: Mapping[int, datetime]) -> SafeString | str:
    if key.tenant_id is None:
        # Under /api/ nothing is kept of what only reads.
        return "not kept"
    return display.moment(used[key.pk]) if key.pk in used else "not lately"


def range_context(request: HttpRequest, tenant: Tenant, now: datetime) -> tuple[Chosen, dict[str, Any]]:
    """The page's range, in the customer's days, and what templates/console/range.html shows of it."""
    found = ranges.chosen(request.GET, now=now, zone=tenant.zone)
    return found, {"range": found, "ranges": ranges.choices(found, {}), "kept": {}}
