"""A customer's page, as it is read: its state, what it pays and spends, its budgets, agents, keys, and its history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from governance import ports
from governance.actions import page_links
from governance.console import budget_list, caller_parts, changes, customer_list, display, histories
from governance.console.base import may, reader
from governance.console.customer_list import NO_PLAN
from governance.console.display import Card
from governance.console.ranges import Chosen
from governance.models import Agent, ApiKey, Budget, Tenant
from governance.ports import CustomerBill
from governance.queries import budget_status, customers, spend
from governance.queries.customers import STATES
from governance.queries.spend import Reader
from governance.rules.visibility import STAFF, Audience

MOST_BUDGETS, MOST_AGENTS, MOST_LINKS = 6, 10, 4
# More agents than this are not looked at one by one; the list of agents has them all.
MOST_LOOKED_AT = 1_000
GROUPS = ("agent", "model")
FIELDS = {
    "name": "Name",
    "time_zone": "Time zone",
    "show_amounts": "Shows amounts in refusals",
    "default_max_tokens": "Tokens of a call that names none",
}


@dataclass(frozen=True, slots=True)
class AgentLine:
    agent: Agent
    state: str
    spent: SafeString | str
    calls: int
    calls_link: str


def context(request: HttpRequest, tenant: Tenant, now: datetime) -> dict[str, Any]:
    by, is_bound = Reader(tenant=tenant), reader(request).tenant is not None
    audience = Audience(is_tenants=True, show_amounts=True) if is_bound else STAFF
    [standing] = customers.of_tenants(Tenant.objects.filter(pk=tenant.pk), since=customer_list.month_of(now), now=now)
    found, range_context = caller_parts.range_context(request, tenant, now)
    group = request.GET.get("by", "")
    group = group if group in GROUPS else GROUPS[0]
    range_context["kept"] = {"by": group}
    address = caller_parts.address(request, tenant, found, group=group)
    part = caller_parts.spend_part(address)
    bill = _bill(request, tenant, now)
    return {
        **range_context,
        "tenant": tenant,
        "state": standing.state,
        "stops": caller_parts.stop_lines(request, Q(tenant=tenant)),
        "cards": _cards(request, tenant, by, bill, now),
        "bill": bill,
        "spend": part,
        "spent": display.dollars(part.total.cost_nanos),
        "group": group,
        "groups": [(f"?{urlencode(found.query() | {'by': name})}", name, name == group) for name in GROUPS],
        "calls_link": _calls(found, tenant),
        "budgets": caller_parts.budget_lines(_budgets(tenant, now), now=now),
        "budgets_link": f"{reverse('admin:governance_budget_changelist')}?{urlencode({'q': tenant.slug})}",
        "add_budget": _add_budget(request, tenant),
        "agents": _agents(tenant, by, found, now),
        "agents_count": standing.agents,
        "agents_link": f"{reverse('admin:governance_agent_changelist')}?{urlencode({'q': tenant.slug})}",
        "keys": caller_parts.key_lines(_keys(tenant), by, now=now),
        "keys_link": f"{reverse('admin:governance_apikey_changelist')}?{urlencode({'q': tenant.slug})}",
        "issue_link": _issue(request, tenant),
        **_page_links(request, tenant, now),
        "history": histories.of_tenant(tenant, audience, with_stripe=_sees_billing(request)),
        "facts": [(word, changes.value(name, getattr(tenant, name))) for name, word in FIELDS.items()],
        "since": display.moment(tenant.created_at, "day"),
    }


def _sees_billing(request: HttpRequest) -> bool:
    return may(request, "billing.view_billingaccount")


def _bill(request: HttpRequest, tenant: Tenant, now: datetime) -> CustomerBill | None:
    if not _sees_billing(request):
        return None
    return ports.bill_of(tenant=tenant.pk, since=customer_list.month_of(now), now=now)


def _cards(request: HttpRequest, tenant: Tenant, by: Reader, bill: CustomerBill | None, now: datetime) -> list[Card]:
    narrowed = {} if reader(request).tenant else {"tenant": tenant.slug}
    plan = ports.plans_of([tenant.pk]).get(tenant.pk, NO_PLAN)
    until: SafeString | str = plan.state if plan != NO_PLAN else "no subscription is known"
    if bill and bill.paid_until:
        until = format_html("{} until {}", plan.state, display.moment(bill.paid_until, "day"))
    cards = [
        caller_parts.spent_card(by, tenant, "", now),
        caller_parts.running_card(by),
        caller_parts.refused_card(by, narrowed, now),
        Card("Plan", plan.plan or "none", until, "sell", _tone(plan.state), bill.link if bill else ""),
    ]
    return [*cards, _margin(bill)] if _sees_billing(request) else cards


def _tone(state: str) -> str:
    if state in ("suspended", "frozen", "closed"):
        return "danger"
    return "warning" if state in ("lapsed", "provisional") else ""


def _margin(bill: CustomerBill | None) -> Card:
    if bill is None:
        return Card("Margin", "–", "nobody is known to pay", "monitoring")
    if bill.margin_nanos is None:
        return Card("Margin", "not known", "paid in other currencies, too", "monitoring")
    share = "" if bill.margin_e4 is None else f"{bill.margin_e4 // 100}% "
    note = f"{share}of {display.dollars(bill.paid_nanos)} paid, this month"
    link = reverse("admin:margin")
    return Card("Margin", display.dollars(bill.margin_nanos), note, "monitoring", _losing(bill), link)


def _losing(bill: CustomerBill) -> str:
    """What costs more than was paid is a loss; where nothing was paid yet it is only a cost."""
    return "danger" if (bill.margin_nanos or 0) < 0 < bill.paid_nanos else ""


def _calls(found: Chosen, tenant: Tenant) -> str:
    return f"{reverse('admin:calls')}?{urlencode(found.query() | {'tenant': tenant.slug})}"


def _budgets(tenant: Tenant, now: datetime) -> list[budget_list.BudgetRow]:
    worst = budget_status.standings(Budget.objects.filter(tenant=tenant), now=now)[:MOST_BUDGETS]
    return list(budget_list.rows_of(worst, now=now))


def _agents(tenant: Tenant, by: Reader, found: Chosen, now: datetime) -> list[AgentLine]:
    """The worst first, then those that spent most in the range."""
    agents = list(Agent.objects.filter(tenant=tenant).select_related("tenant").order_by("-id")[:MOST_LOOKED_AT])
    standings = customers.of_agents(agents, since=customer_list.month_of(now), now=now)
    rows = spend.summary(group_by=["agent"], reader=by, period=found.period)
    sums = {row["agent"]: (row["cost_nanos"], row["calls"]) for row in rows}
    agents.sort(key=lambda one: (STATES.index(standings[one.pk].state), -sums.get(one.slug, (0, 0))[0], one.slug))
    return [
        AgentLine(
            agent,
            standings[agent.pk].state,
            display.exact(sums.get(agent.slug, (0, 0))[0]),
            sums.get(agent.slug, (0, 0))[1],
            f"{_calls(found, tenant)}&{urlencode({'agent': agent.slug})}",
        )
        for agent in agents[:MOST_AGENTS]
    ]


def _keys(tenant: Tenant) -> list[ApiKey]:
    """Those that still work first, the newest first."""
    rows = ApiKey.objects.filter(tenant=tenant).select_related("tenant", "agent")
    working = list(rows.filter(revoked_at=None).order_by("-id")[: caller_parts.MOST_KEYS])
    return working or list(rows.order_by("-id")[:2])


def _issue(request: HttpRequest, tenant: Tenant) -> str:
    if not may(request, "governance.add_apikey"):
        return ""
    return f"{reverse('admin:governance_apikey_add')}?{urlencode({'role': 'agent', 'tenant': tenant.pk})}"


def _page_links(request: HttpRequest, tenant: Tenant, now: datetime) -> dict[str, Any]:
    """Links to the customer's own page, for whoever may see who made them: its own staff may not."""
    if reader(request).tenant is not None or not may(request, "governance.view_pagelink"):
        return {}
    is_maker = may(request, "governance.add_pagelink")
    return {
        "page_links": list(page_links.working(tenant, now=now)[:MOST_LINKS]),
        "page_links_link": f"{reverse('admin:governance_pagelink_changelist')}?{urlencode({'q': tenant.slug})}",
        "page_link_add": reverse("admin:governance_tenant_page_link_one", args=[tenant.pk]) if is_maker else "",
    }


def _add_budget(request: HttpRequest, tenant: Tenant) -> str:
    if not may(request, "governance.add_budget"):
        return ""
    return f"{reverse('admin:governance_budget_add')}?{urlencode({'tenant': tenant.pk})}"
