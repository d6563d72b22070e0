"""The demo's cast and its thirty days of believable history, through the same ledger as real calls."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import transaction

from governance import ledger, ports
from governance.actions import anomaly_rules, budgets, tenancy
from governance.audit import Actor
from governance.ledger.operations import OpenPeriod, Operation, Record
from governance.models import Agent, Budget, SpendEntry, Tenant
from governance.rules import money
from governance.rules.calls import Caller, Usage
from governance.rules.errors import Conflict
from governance.rules.windows import WindowKind

DAYS = 30
# One batch of history covers this much time, and is written as of its end.
SLOT = timedelta(hours=3)
BY = Actor("demo data")
# The same history each time; only its dates move.
SEED = 20260301
LARGE, SMALL, MEDIUM = "mistral-large-latest", "mistral-small-latest", "mistral-medium-latest"
TINY = "ministral-8b-latest"
# Agents ask by alias; the ledger keeps what the answer says was served.
SERVED = {
    LARGE: "mistral-large-2512",
    SMALL: "mistral-small-2603",
    MEDIUM: "mistral-medium-3-5",
    TINY: "ministral-8b-2512",
}
TO_SMALL = [{"from": [LARGE, MEDIUM], "to": SMALL}]
# The first that counts is followed, so the higher share comes first.
TO_TINY_AT_LAST = [{"from": ["*"], "to": TINY, "at": "0.95"}, *TO_SMALL]


@dataclass(frozen=True, slots=True)
class Habit:
    """How an agent works: calls on a working day, tokens of a usual call, and its models with their weights."""

    calls: int
    input_tokens: int
    output_tokens: int
    models: tuple[tuple[str, int], ...]
    # Of a working day's calls, the part that comes on Saturdays and Sundays.
    weekend: float = 0.15


HABITS = {
    "invoices": Habit(34, 14_000, 1_400, ((LARGE, 8), (SMALL, 2))),
    "churn": Habit(12, 26_000, 2_600, ((MEDIUM, 7), (LARGE, 3)), weekend=0.0),
    "support": Habit(58, 3_200, 650, ((SMALL, 8), (MEDIUM, 1), (TINY, 3)), weekend=0.6),
}


@dataclass(frozen=True, slots=True)
class Company:
    slug: str
    name: str
    time_zone: str
    # Its size: a factor on every agent's calls.
    size: float
    # Of one with a billing cycle: how long ago it last paid.
    renewed_days_ago: int | None = None


COMPANIES = (
    Company("acme", "Acme Logistics", "Europe/Paris", 1.0, renewed_days_ago=12),
    Company("globex", "Globex Retail", "America/New_York", 0.7, renewed_days_ago=14),
    Company("initech", "Initech Software", "Asia/Singapore", 0.4),
)
# tenant, scope, key, window, dollars a window, policy
BUDGETS: tuple[tuple[str, str, str, str, str, dict[str, Any]], ...] = (
    ("acme", "tenant", "acme", WindowKind.BILLING_CYCLE.value, "50", {"downgrade_rules": TO_SMALL}),
    ("acme", "agent", "invoices", "day", "0.40", {"downgrade_rules": TO_SMALL}),
    (
        "acme",
        "agent",
        "churn",
        "lifetime",
        "20",
        {"downgrade_rules": TO_TINY_AT_LAST, "disabled_tools": ["web_search"]},
    ),
    ("acme", "user", "*", "day", "0.50", {"soft_cap": None}),
    (
        "globex",
        "tenant",
        "globex",
        WindowKind.BILLING_CYCLE.value,
        "15",
        {"warn_at": Decimal("0.6"), "downgrade_rules": TO_SMALL},
    ),
    ("globex", "agent", "churn", "week", "4", {"downgrade_rules": TO_SMALL, "disabled_tools": ["web_search"]}),
    ("globex", "agent", "support", "day", "0.15", {}),
    ("initech", "tenant", "initech", "month", "12", {"downgrade_rules": TO_SMALL}),
    ("initech", "agent", "support", "lifetime", "1.60", {}),
    ("initech", "agent", "*", "day", "1", {"disabled_tools": ["code_interpreter", "web_search"]}),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A budget that shows a state: the history ends with it spent up to `share`, by calls of `agent`."""

    tenant: str
    scope: str
    key: str
    agent: str
    share: float


# On billing cycles and lifetimes alone: a day, a week or a month may end a minute after the demo begins, and its state
# with it. Acme's billing cycle shows `active`. The limits leave room above what the days come to on any calendar, and
# for each other: an agent's calls are its tenant's too.
SHOWN = (
    Shown("acme", "agent", "churn", agent="churn", share=0.86),
    Shown("initech", "agent", "support", agent="support", share=1.0),
    Shown("globex", "tenant", "globex", agent="invoices", share=0.7),
)
# One showcase is filled by so many calls, of so many days: all of today would look like an accident.
FILLING_CALLS = 24
FILLING_DAYS = 10


def cast(*, now: datetime) -> dict[str, list[Agent]]:
    """The tenants, their agents and budgets; those that are there already are left as they are."""
    found = {}
    for company in COMPANIES:
        tenant = Tenant.objects.filter(slug=company.slug).first() or tenancy.create_tenant(
            slug=company.slug, name=company.name, time_zone=company.time_zone, by=BY, now=now
        )
        found[company.slug] = [_agent(tenant, slug, now) for slug in HABITS]
    budgets.sync_default(now=now)
    for slug, scope, key, window, dollars, policy in BUDGETS:
        _budget(found[slug][0].tenant, scope, key, window, dollars, policy, now)
    _pause_runaways(found["acme"][0].tenant, now)
    return found


def needs_history() -> bool:
    return not SpendEntry.objects.filter(tenant__slug__in=[company.slug for company in COMPANIES]).exists()


def write_history(agents: dict[str, list[Agent]], *, now: datetime, tell: Callable[[int], None]) -> None:
    """Record the days up to `now`, all or nothing; `tell` hears the number of each day that is written."""
    dice = random.Random(SEED)  # noqa: S311 - a demo, not a secret
    start = (now - timedelta(days=DAYS)).replace(minute=0, second=0, microsecond=0)
    due = _billing_periods(start, now)
    with transaction.atomic(), ledger.patiently():
        told, until = 0, start
        while until + SLOT <= now:
            until += SLOT
            while due and due[0].starts_at <= until:
                period = due.pop(0)
                ledger.apply_within([period], now=period.starts_at)
            calls = [call for company in COMPANIES for call in _slot(company, until, dice)]
            ledger.apply_within(calls, now=until)
            if (until - start).days > told:
                told = (until - start).days
                tell(told)
        # One after the other in what is left of the time: the ledger's clock runs forwards.
        share = (now - until) / len(SHOWN)
        for number, shown in enumerate(SHOWN):
            since = until + share * number
            filling = _fill(shown, dice, until=since)
            for count, call in enumerate(filling, start=1):
                # Each noted at its own time, so that the events it causes are spread over the last hours.
                ledger.apply_within([call], now=since + share * count / len(filling))


def customer_of(slug: str) -> str:
    """The id of a company's customer at the simulated Stripe."""
    return f"cus_demo_{slug}"


def _billing_periods(start: datetime, now: datetime) -> list[OpenPeriod]:
    """Two paid periods of each company that has a billing cycle, by their beginning: one that ended, one that runs."""
    periods = []
    for company in COMPANIES:
        if company.renewed_days_ago is None:
            continue
        budget = Budget.objects.get(tenant__slug=company.slug, window=WindowKind.BILLING_CYCLE)
        # Whole seconds, as Stripe's periods have: where it is simulated, it knows this one as the same.
        renewed = (now - timedelta(days=company.renewed_days_ago)).replace(microsecond=0)
        spans = [(start, renewed), (renewed, renewed + timedelta(days=DAYS))]
        periods += [
            OpenPeriod(
                budget.pk,
                starts_at=begins,
                ends_at=ends,
                limit_nanos=budget.limit_nanos,
                source_kind="stripe",
                source_id=customer_of(company.slug),
                reason="demo data",
                actor=BY.name,
            )
            for begins, ends in spans
        ]
    return sorted(periods, key=lambda period: period.starts_at)


def _slot(company: Company, until: datetime, dice: random.Random) -> list[Operation]:
    """The calls of one company in the slot that ends at `until`: many in its office hours, few at night."""
    local = until.astimezone(ZoneInfo(company.time_zone))
    tenant = Tenant.objects.get(slug=company.slug)
    made: list[Operation] = []
    for agent, habit in HABITS.items():
        rhythm = _rhythm(local.hour) * (habit.weekend if local.weekday() >= 5 else 1.0)
        expected = habit.calls * company.size * rhythm
        count = int(expected + dice.random())
        made += [_call(tenant, agent, habit, until, dice) for _ in range(count)]
    return made


def _rhythm(hour: int) -> float:
    """The part of a day's calls in the three hours that end at `hour`, local time."""
    if 10 <= hour <= 19:
        return 0.28
    return 0.06 if 6 <= hour <= 22 else 0.02


def _call(tenant: Tenant, agent: str, habit: Habit, until: datetime, dice: random.Random) -> Record:
    model = dice.choices([name for name, _ in habit.models], [weight for _, weight in habit.models])[0]
    tokens_in = int(habit.input_tokens * dice.lognormvariate(0, 0.45))
    usage = Usage(
        provider="mistral",
        model=SERVED[model],
        input_tokens=tokens_in,
        cached_tokens=tokens_in * dice.choice((0, 0, 3, 6)) // 10,
        output_tokens=int(habit.output_tokens * dice.lognormvariate(0, 0.5)),
    )
    cost_nanos, rule = ports.true_cost(usage, at=until) or (0, "")
    caller = Caller(
        tenant.pk,
        tenant.slug,
        agent=agent,
        user=f"{dice.choice(('ana', 'ben', 'chloe', 'dev', 'emil'))}@{tenant.slug}.example",
        session=f"s-{dice.randrange(10_000):04d}",
    )
    occurred_at = until - SLOT * dice.random()
    return Record(
        entry_id=_id_at(occurred_at, dice),
        caller=caller,
        request_id=f"demo-{dice.getrandbits(64):016x}",
        cost_nanos=cost_nanos,
        usage=usage,
        model_requested=model,
        price_rule=rule,
        occurred_at=occurred_at,
    )


def _id_at(at: datetime, dice: random.Random) -> UUID:
    """A version 7 id of that moment, so that ids sort by time here as they do elsewhere (RFC 9562, 5.7)."""
    milliseconds = int(at.timestamp()) * 1000
    return UUID(int=milliseconds << 80 | 0x7 << 76 | dice.getrandbits(12) << 64 | 0b10 << 62 | dice.getrandbits(62))


def _fill(shown: Shown, dice: random.Random, *, until: datetime) -> list[Record]:
    """The calls of the last days, reported late, that bring a budget to a share of its limit."""
    budget = Budget.objects.select_related("tenant").get(
        tenant__slug=shown.tenant,
        scope_type=shown.scope,
        scope_key=shown.key,
        window__in=(WindowKind.BILLING_CYCLE, WindowKind.LIFETIME),
    )
    window = budget.windows.filter(closed_at=None).first()
    spent = window.settled_nanos if window else 0
    missing = int(budget.limit_nanos * shown.share) - spent
    if missing <= 0 or budget.tenant is None:
        return []
    costs = [missing // FILLING_CALLS] * (FILLING_CALLS - 1)
    costs.append(missing - sum(costs))
    step = timedelta(days=FILLING_DAYS) / FILLING_CALLS
    times = [until - step * number for number in reversed(range(FILLING_CALLS))]
    return [
        Record(
            entry_id=_id_at(at, dice),
            caller=Caller(budget.tenant.pk, shown.tenant, agent=shown.agent, session="s-report"),
            request_id=f"demo-fill-{shown.tenant}-{shown.scope}-{shown.key}-{number}",
            cost_nanos=cost,
            usage=Usage("mistral", SERVED[MEDIUM], input_tokens=cost // 3_000, output_tokens=cost // 15_000),
            model_requested=MEDIUM,
            price_rule="demo",
            occurred_at=at,
        )
        for number, (cost, at) in enumerate(zip(costs, times, strict=True))
    ]


def _agent(tenant: Tenant, slug: str, now: datetime) -> Agent:
    found = Agent.objects.select_related("tenant").filter(tenant=tenant, slug=slug).first()
    return found or tenancy.create_agent(tenant=tenant, slug=slug, by=BY, now=now)


def _pause_runaways(tenant: Tenant, now: datetime) -> None:
    """One agent without a budget of its own, which is paused by itself if it runs away."""
    with suppress(Conflict):
        anomaly_rules.create(tenant=tenant, agent="support", act="pause", by=BY, now=now)


def _budget(
    tenant: Tenant, scope: str, key: str, window: str, dollars: str, policy: dict[str, Any], now: datetime
) -> None:
    try:
        budgets.create(
            tenant=tenant,
            scope_type=scope,
            scope_key=key,
            window=window,
            limit_nanos=money.nanos_from_dollars(dollars),
            by=BY,
            now=now,
            **policy,
        )
    except Conflict:
        # It is there from an earlier run, perhaps changed by hand.
        return
