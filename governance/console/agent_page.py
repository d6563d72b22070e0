"""An agent's page: whether it may call, how fast it goes now, what governs it, what it spent, its calls and keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse

from governance.console import caller_parts, calls_page, customer_list, display, histories
from governance.console.base import may, reader
from governance.console.caller_parts import OutlookLine
from governance.console.calls_page import CallLine
from governance.console.display import Card
from governance.console.ranges import Chosen
from governance.models import Agent, ApiKey
from governance.queries import calls, customers, spend
from governance.queries.calls import Filters
from governance.queries.customers import GoverningBudget, RateUse
from governance.queries.spend import Reader
from governance.rules.errors import FieldError
from governance.rules.scopes import PLATFORM
from governance.rules.visibility import STAFF, Audience

# Its rate is that of so many minutes.
MINUTES = 5
MOST_CALLS = 10


@dataclass(frozen=True, slots=True)
class RateLine:
    """A ceiling a minute and how full it is: `percent` for the bar, `figures` to read."""

    name: str
    link: str
    what: str
    figures: str
    percent: str
    tone: str


def context(request: HttpRequest, agent: Agent, now: datetime) -> dict[str, Any]:
    tenant, by = agent.tenant, Reader(tenant=agent.tenant, agent=agent.slug)
    is_bound = reader(request).tenant is not None
    standing = customers.of_agents([agent], since=customer_list.month_of(now), now=now)[agent.pk]
    governing = customers.governing(agent, now=now)
    found, range_context = caller_parts.range_context(request, tenant, now)
    address = caller_parts.address(request, tenant, found, group="model", agent=agent.slug)
    narrowed = {} if is_bound else {"tenant": tenant.slug}
    narrowed |= {"agent": agent.slug}
    part = caller_parts.spend_part(address)
    return {
        **range_context,
        "agent": agent,
        "state": standing.state,
        "why": _why(agent, standing.state, governing, is_bound=is_bound),
        "stops": caller_parts.stop_lines(request, Q(tenant=tenant, agent=None) | Q(agent=agent)),
        "cards": [
            _rate(by, now),
            caller_parts.spent_card(by, tenant, agent.slug, now),
            caller_parts.running_card(by),
            caller_parts.refused_card(by, narrowed, now),
        ],
        "rates": [line for use in customers.rate_use(agent, now=now) for line in _rate_lines(use, is_bound=is_bound)],
        "spend": part,
        "spent": display.dollars(part.total.cost_nanos),
        "calls_link": f"{reverse('admin:calls')}?{urlencode(found.query() | narrowed)}",
        "lines": _calls(agent, found),
        "budgets": [_budget(one, is_bound=is_bound, now=now) for one in governing],
        "add_budget": _add_budget(request, agent),
        "keys": caller_parts.key_lines(_keys(agent), Reader(tenant=tenant), now=now),
        "issue_link": _issue(request, agent),
        "history": histories.of_agent(agent, Audience(is_tenants=True) if is_bound else STAFF),
        "since": display.moment(agent.created_at, "day"),
    }


def _why(agent: Agent, state: str, governing: list[GoverningBudget], *, is_bound: bool) -> str:
    """One sentence of what its calls meet, where that is nothing of the page's banner."""
    if agent.tenant.status == "suspended":
        return f"Billing suspended {agent.tenant.slug}: every call is refused until its subscription is good."
    if state == "paused":
        whom = agent.slug if agent.status == Agent.Status.PAUSED else agent.tenant.slug
        return f"{whom} is paused: every call is refused with 403 until it is resumed."
    full = [one for one in governing if one.status.state == state and _is_shown(one, is_bound=is_bound)]
    if state == "active" or not full:
        return ""
    name = full[0].budget.scope
    return {
        "stopped": f"The budget {name} is used up: calls are refused with 402 until it is reset, raised or renewed.",
        "degraded": f"The budget {name} is near its cap: calls go to cheaper models, or without some tools.",
        "warned": f"The budget {name} is near its cap; calls go through.",
    }[state]


def _is_shown(one: GoverningBudget, *, is_bound: bool) -> bool:
    """Of a budget that all share a tenant's staff sees no figures."""
    return not (is_bound and one.budget.scope_type == PLATFORM)


def _rate(by: Reader, now: datetime) -> Card:
    nanos, count = spend.recent(reader=by, minutes=MINUTES, now=now)
    return Card(
        "Rate now", f"{display.rate(nanos // MINUTES)}/min", f"{count:,} calls in the last {MINUTES} minutes", "speed"
    )


def _rate_lines(use: RateUse, *, is_bound: bool) -> list[RateLine]:
    limit = use.limit
    is_shared = is_bound and limit.scope_type == PLATFORM
    if is_shared:
        return [RateLine("a limit of the platform", "", "a minute", "shared by all", "0", "")]
    link = "" if is_bound and limit.tenant_id is None else reverse("admin:governance_ratelimit_change", args=[limit.pk])
    found = []
    for what, has, ceiling in use.parts:
        share = has * 100 / ceiling
        amounts = [display.dollars(each) if what == "dollars" else f"{each:,}" for each in (has, ceiling)]
        tone = "stopped" if share >= 100 else "warned" if share >= 80 else "active"
        found.append(
            RateLine(limit.scope, link, f"{what} a minute", " of ".join(amounts), f"{min(100.0, share):.2f}", tone)
        )
    return found


def _budget(one: GoverningBudget, *, is_bound: bool, now: datetime) -> OutlookLine:
    if not _is_shown(one, is_bound=is_bound):
        return OutlookLine("a limit of the platform", "", one.budget.get_window_display(), "active")
    line = caller_parts.budget_line(
        one.budget,
        one.status,
        one.status.state,
        now=now,
        with_outlook=True,
        subject=one.subject if one.budget.scope_key == "*" else "",
    )
    if is_bound and one.budget.tenant_id is None:
        return OutlookLine(line.name, "", line.kind, line.state, line.bar, line.figures, line.outlook)
    return line


def _calls(agent: Agent, found: Chosen) -> list[CallLine]:
    """The newest of the range, as the list of calls shows them."""
    filters = Filters(tenant=agent.tenant, named={"agent": agent.slug})
    try:
        page = calls.page(reader=Reader(tenant=agent.tenant), period=found.period, filters=filters)
    except FieldError:
        # A name from before names were checked; no call has it.
        return []
    return [calls_page.line(row) for row in page.rows[:MOST_CALLS]]


def _keys(agent: Agent) -> list[ApiKey]:
    rows = ApiKey.objects.filter(agent=agent, revoked_at=None).select_related("tenant", "agent")
    return list(rows.order_by("-id")[: caller_parts.MOST_KEYS])


def _issue(request: HttpRequest, agent: Agent) -> str:
    if not may(request, "governance.add_apikey"):
        return ""
    asked = {"role": "agent", "tenant": agent.tenant_id, "agent": agent.pk}
    return f"{reverse('admin:governance_apikey_add')}?{urlencode(asked)}"


def _add_budget(request: HttpRequest, agent: Agent) -> str:
    if not may(request, "governance.add_budget"):
        return ""
    asked = {"tenant": agent.tenant_id, "scope_type": "agent", "scope_key": agent.slug, "window": "day"}
    return f"{reverse('admin:governance_budget_add')}?{urlencode(asked)}"
