"""A customer's own read-only page, for whoever has its link (`actions.page_links`): no sign-in, and nothing to press.

It shows what the customer's own keys are told, and amounts only where the tenant shows amounts. What a model's tokens
cost stays out of it: beside what was spent there are calls, and no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from governance.actions import page_links
from governance.models import RefusedCall, Tenant
from governance.queries import customer_figures, refusals
from governance.queries.breakdown import Lines
from governance.queries.customer_figures import CustomerFigures, OwnBudget
from governance.rules.errors import NotOpen, Unknown
from governance.rules.spend_sums import SpendSums
from governance.rules.visibility import Audience
from governance.upkeep.budget_notices import dollars

# Of the chart: its size, and the room that a day has.
WIDTH, HEIGHT = 600, 120
STATES = {"active": "has room", "warned": "near its limit", "degraded": "near its limit", "stopped": "used up"}
STATUSES = {
    Tenant.Status.PAUSED: "Calls are refused: an operator has paused them.",
    Tenant.Status.SUSPENDED: "Calls are refused: the subscription is not active.",
}
NOT_NAMED = "not named"
# A key is known by how it begins, which is nobody's business here.
_KEY = re.compile(r"\bkey:[\w-]+")


@never_cache
@require_safe
def show(request: HttpRequest, token: str) -> HttpResponse:
    now = timezone.now()
    try:
        link = page_links.link_of(token, now=now)
    except Unknown as error:
        return _plain(request, "This link leads nowhere", error.message, status=404)
    except NotOpen as error:
        return _plain(request, "This link is over", f"{error.message} Ask whoever sent it for a new one.", status=410)
    figures = customer_figures.of_tenant(link.tenant, now=now)
    context = _words(figures, now) | {"until": _when(link.ends_at, link.tenant.zone)}
    return render(request, "customers/page.html", context)


def _plain(request: HttpRequest, title: str, words: str, *, status: int) -> HttpResponse:
    return render(request, "plain_page.html", {"title": title, "words": words}, status=status)


def _words(figures: CustomerFigures, now: datetime) -> dict[str, Any]:
    tenant, total = figures.tenant, figures.total
    audience = Audience(is_tenants=True, show_amounts=tenant.show_amounts)
    calls, *spent = _figures(total, tenant)
    return {
        "title": tenant.name,
        "words": f"As of {_when(now, tenant.zone)}. Days and times are those of {tenant.time_zone}.",
        "stopped": STATUSES.get(Tenant.Status(tenant.status), ""),
        "budgets": [_budget(each, audience, tenant.zone) for each in figures.budgets],
        "more_budgets": figures.more_budgets,
        "shows_amounts": tenant.show_amounts,
        "total": f"{' spent by '.join([*spent, calls])} in {customer_figures.DAYS} days",
        "bars": _bars(figures),
        "width": WIDTH,
        "height": HEIGHT,
        "days": [
            (f"{day:%a} {day.day} {day:%b}", *_figures(sums, tenant))
            for day, sums in reversed(list(figures.days.items()))
            if sums.calls or sums.cost_nanos
        ],
        "tables": [_table("Models", figures.models, tenant), _table("Agents", figures.agents, tenant)],
        "refusals": [_refusal(row, audience, tenant.zone) for row in figures.refusals],
    }


def _budget(own: OwnBudget, audience: Audience, zone: ZoneInfo) -> dict[str, Any]:
    status = own.status
    shown: dict[str, Any] = {
        "name": own.name,
        "kind": own.budget.get_window_display(),
        "state": STATES[status.state],
        "resets": _when(status.ends_at, zone) if status.ends_at else "",
        "runs_out": _when(own.runs_out_at, zone) if own.runs_out_at else "",
    }
    if audience.sees_amounts(own.budget.scope):
        shown["amounts"] = {
            "Limit": dollars(status.limit_nanos),
            "Spent": dollars(status.settled_nanos),
            "Held": dollars(status.reserved_nanos),
            "Remaining": dollars(status.remaining_nanos),
        }
        shown["percent"] = min(100, max(0, status.settled_nanos * 100 // status.limit_nanos))
    return shown


def _bars(figures: CustomerFigures) -> list[dict[str, Any]]:
    """One for each day: as high as what was spent, or as its calls where amounts are not shown."""
    tenant = figures.tenant
    of = {day: max(0, sums.cost_nanos if tenant.show_amounts else sums.calls) for day, sums in figures.days.items()}
    most, step = max(1, *of.values()), WIDTH // len(of)
    found = []
    for number, (day, size) in enumerate(of.items()):
        height = -(-size * HEIGHT // most)
        words = ", ".join(_figures(figures.days[day], tenant))
        place = {"x": number * step, "y": HEIGHT - height, "width": step - 4, "height": height}
        found.append(place | {"words": f"{day:%a} {day.day} {day:%b}: {words}"})
    return found


def _figures(sums: SpendSums, tenant: Tenant) -> list[str]:
    calls = f"{sums.calls:,} {'call' if sums.calls == 1 else 'calls'}"
    return [calls, dollars(sums.cost_nanos)] if tenant.show_amounts else [calls]


def _table(head: str, lines: Lines, tenant: Tenant) -> dict[str, Any]:
    found: Mapping[Any, SpendSums] = lines.found
    rows = [(key[-1] or NOT_NAMED, *_figures(sums, tenant)) for key, sums in found.items()]
    left = lines.count - len(rows)
    return {"head": head, "rows": rows, "more": f"{left:,} more" if left > 0 else ""}


def _refusal(row: RefusedCall, audience: Audience, zone: ZoneInfo) -> dict[str, str]:
    would_pass = refusals.would_pass(row, audience=audience)
    words = f"{row.sentence.rstrip('.')}."
    words += f" It would have gone with {would_pass}." if would_pass else ""
    return {
        "when": _when(row.refused_at, zone),
        "agent": row.agent or NOT_NAMED,
        "model": row.model,
        "words": _KEY.sub("a key", words),
        "more": f"{row.more:,} more like it in that minute." if row.more else "",
    }


def _when(at: datetime, zone: ZoneInfo) -> str:
    local = at.astimezone(zone)
    return f"{local.day} {local:%B %Y, %H:%M}"
