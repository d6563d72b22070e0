"""How customers and their agents stand: what stops them, what their budgets say, what they have spent."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db.models import Count, Q, QuerySet

from governance.models import (
    Agent,
    Budget,
    BudgetWindow,
    EmergencyStop,
    RateBucket,
    RateLimit,
    ScopeType,
    SpendRollup,
    Tenant,
)
from governance.queries import budget_status
from governance.queries.budget_status import BudgetStatus
from governance.queries.sums import LongSum
from governance.rules import buckets, scopes
from governance.rules.buckets import Amount, Ceilings
from governance.rules.calls import Caller

# The worst first. An emergency stop is the console's word for what an operator stopped; a budget that is used up stops
# calls as well.
STATES = ("stopped", "suspended", "paused", "degraded", "warned", "active")
# Agents of one name of two customers are two agents.
AgentKey = tuple[int, str]


@dataclass(frozen=True, slots=True)
class CallerStanding:
    """`state` is one of STATES. `share`: of its fullest own budget, spent or reserved, for show and order alone.

    Of a customer `agents` are as many as it has, and `troubles` how many of them are in a state of their own that is
    not active, the worst state first.
    """

    pk: int
    state: str
    share: float | None = None
    spent_nanos: int = 0
    agents: int = 0
    troubles: tuple[tuple[str, int], ...] = ()

    @property
    def rank(self) -> tuple[object, ...]:
        """To sort by, the worst first: itself, then its agents, then who spends most."""
        # What has no more troubles comes after what has.
        of_agents = (*((STATES.index(state), -count) for state, count in self.troubles), (len(STATES), 0))
        return STATES.index(self.state), of_agents, -self.spent_nanos, self.pk


@dataclass(frozen=True, slots=True)
class GoverningBudget:
    """A budget that governs an agent's calls, with the window that these are charged to."""

    budget: Budget
    subject: str
    status: BudgetStatus


@dataclass(frozen=True, slots=True)
class RateUse:
    """A rate limit that an agent's calls go by, and how full it is now."""

    limit: RateLimit
    subject: str
    level: Amount

    @property
    def parts(self) -> list[tuple[str, int, int]]:
        """(what, level, ceiling) of each ceiling that is set: dollars in nanodollars, requests and tokens as such."""
        limit, level = self.limit, self.level
        found = (
            ("dollars", level.nanos, limit.nanos_per_minute),
            ("requests", -(-level.requests_e6 // buckets.E6), limit.requests_per_minute),
            ("tokens", -(-level.tokens_e6 // buckets.E6), limit.tokens_per_minute),
        )
        return [(what, has, ceiling) for what, has, ceiling in found if ceiling is not None]


class _Stops:
    """The emergency stops in force."""

    def __init__(self) -> None:
        rows = EmergencyStop.objects.filter(lifted_at=None).values_list("tenant_id", "agent__slug")
        self.targets = frozenset((tenant_id or 0, slug or "") for tenant_id, slug in rows)

    def covers(self, tenant_id: int, agent: str = "") -> bool:
        return scopes.is_stopped(self.targets, tenant_id=tenant_id, agent=agent)


def of_tenants(tenants: QuerySet[Tenant], *, since: datetime, now: datetime) -> list[CallerStanding]:
    """How all of these customers stand, the worst first, in a few queries however many they are.

    Spend is that of the hours from `since` on.
    """
    stopped, rows = _Stops(), list(tenants.order_by().values_list("pk", "status"))
    ids = tenants.order_by().values("pk")
    own, agents_ = _windows_of(BudgetWindow.objects.filter(tenant__in=ids), now=now)
    spent = _spent(SpendRollup.objects.filter(tenant__in=ids, hour__gte=since), "tenant_id")
    counted = Agent.objects.filter(tenant__in=ids).order_by().values_list("tenant_id").annotate(Count("pk"))
    agents = dict(counted)
    troubles: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for (tenant_id, _), state in _agents_states(ids, agents_, stopped).items():
        if state != BudgetWindow.State.ACTIVE:
            troubles[tenant_id][state] += 1
    found = []
    for pk, status in rows:
        state, share = own.get(pk, ("active", None))
        by_hand = "stopped" if stopped.covers(pk) else status
        sorted_troubles = tuple(sorted(troubles[pk].items(), key=lambda one: STATES.index(one[0])))
        found.append(
            CallerStanding(pk, worst(by_hand, state), share, spent.get(pk, 0), agents.get(pk, 0), sorted_troubles)
        )
    return sorted(found, key=lambda one: one.rank)


def _agents_states(ids: Any, windows: Mapping[AgentKey, Found], stopped: _Stops) -> dict[AgentKey, str]:
    """Of agents that something is the matter with, or whose budgets were used: what their own stops and budgets say."""
    paused = Agent.objects.filter(tenant__in=ids, status=Agent.Status.PAUSED).order_by()
    found = {key: state for key, (state, _) in windows.items()}
    by_hand = [(key, "stopped") for key in stopped.targets if key[1]]
    by_hand += [(key, "paused") for key in paused.values_list("tenant_id", "slug")]
    for key, state in by_hand:
        found[key] = worst(state, found.get(key, "active"))
    return found


def of_agents(agents: Sequence[Agent], *, since: datetime, now: datetime) -> dict[int, CallerStanding]:
    """How these agents stand, by their ids: what stops them, their customers and their budgets count alike."""
    stopped, tenants = _Stops(), {agent.tenant_id for agent in agents}
    own, of_agent = _windows_of(BudgetWindow.objects.filter(tenant__in=tenants), now=now)
    rollups = SpendRollup.objects.filter(tenant__in=tenants, agent__in={agent.slug for agent in agents})
    spent = _spent(rollups.filter(hour__gte=since), "tenant_id", "agent")
    found = {}
    for agent in agents:
        by_hand = worst(agent.status, agent.tenant.status)
        by_hand = "stopped" if stopped.covers(agent.tenant_id, agent.slug) else by_hand
        key = (agent.tenant_id, agent.slug)
        state, share = of_agent.get(key, ("active", None))
        found[agent.pk] = CallerStanding(
            agent.pk,
            worst(by_hand, state, own.get(agent.tenant_id, ("active", None))[0]),
            share,
            spent.get(key, 0),
        )
    return found


def worst(*states: str) -> str:
    return min(states, key=STATES.index)


def governing(agent: Agent, *, now: datetime) -> list[GoverningBudget]:
    """The budgets that must admit an agent's calls, whoever they are for: its own, its customer's, the platform's."""
    rows = Budget.objects.filter(Q(tenant=agent.tenant_id) | Q(tenant=None), enabled=True).select_related("tenant")
    kinds = (ScopeType.AGENT, ScopeType.TENANT, ScopeType.PLATFORM)
    matched = scopes.matching(_caller(agent), rows.filter(scope_type__in=kinds).order_by("id"))
    named = Q(pk__in=[])
    for budget, subject in matched:
        named |= Q(budget=budget, subject=subject)
    windows = budget_status.live(BudgetWindow.objects.filter(named), now=now).select_related("budget").order_by("id")
    opened = {row.budget_id: budget_status.of_window(row) for row in windows}
    return [
        GoverningBudget(
            budget, subject, opened.get(budget.pk) or replace(budget_status.unopened(budget, now=now), subject=subject)
        )
        for budget, subject in matched
    ]


def rate_use(agent: Agent, *, now: datetime) -> list[RateUse]:
    """The rate limits that an agent's calls go by, the most particular first, each as full as it is now."""
    rows = RateLimit.objects.filter(Q(tenant=agent.tenant_id) | Q(tenant=None), enabled=True).select_related("tenant")
    kinds = (ScopeType.AGENT, ScopeType.TENANT, ScopeType.PLATFORM)
    matched = scopes.matching(_caller(agent), rows.filter(scope_type__in=kinds).order_by("id"))
    kept = RateBucket.objects.filter(rate_limit__in=[limit.pk for limit, _ in matched])
    named = Q(subject__in={subject for _, subject in matched})
    levels = {(row.rate_limit_id, row.subject): row for row in kept.filter(named)}
    return [RateUse(limit, subject, _level(limit, levels.get((limit.pk, subject)), now)) for limit, subject in matched]


def _level(limit: RateLimit, row: RateBucket | None, now: datetime) -> Amount:
    if row is None:
        return buckets.NOTHING
    held = Amount(row.level_nanos, row.level_requests_e6, row.level_tokens_e6)
    ceilings = Ceilings(limit.nanos_per_minute, limit.requests_per_minute, limit.tokens_per_minute)
    return buckets.after(held, ceilings, now - row.measured_at)


def _caller(agent: Agent) -> Caller:
    return Caller(agent.tenant_id, agent.tenant.slug, agent=agent.slug)


Found = tuple[str, float | None]


def _windows_of(rows: QuerySet[BudgetWindow], *, now: datetime) -> tuple[Mapping[int, Found], Mapping[AgentKey, Found]]:
    """The worst state and the fullest share of customers' own windows, and of their agents'."""
    kinds = (ScopeType.TENANT, ScopeType.AGENT)
    live = budget_status.live(rows.filter(budget__enabled=True, budget__scope_type__in=kinds), now=now)
    own: dict[int, Found] = {}
    agents: dict[AgentKey, Found] = {}
    for tenant_id, of, wide, subject, state, settled, reserved, limit in live.order_by().values_list(
        "tenant_id",
        "budget__scope_type",
        "budget__tenant_id",
        "subject",
        "state",
        "settled_nanos",
        "reserved_nanos",
        "limit_nanos",
    ):
        share = (settled + reserved) / limit
        if of == ScopeType.TENANT:
            own[tenant_id] = _worse(own.get(tenant_id), state, share)
        else:
            key = (tenant_id, subject if wide is not None else subject.partition("/")[2])
            agents[key] = _worse(agents.get(key), state, share)
    return own, agents


def _worse(known: Found | None, state: str, share: float) -> Found:
    if known is None:
        return state, share
    return worst(known[0], state), max(known[1] or 0.0, share)


def _spent(rows: QuerySet[SpendRollup], *by: str) -> dict[Any, int]:
    found: Iterable[Any] = rows.order_by().values_list(*by).annotate(nanos=LongSum("cost_nanos"))
    return {row[0] if len(by) == 1 else row[:-1]: row[-1] or 0 for row in found}
