"""What a customer is shown of itself on its own page: budgets, what was spent lately, and what was refused.

The number of queries is the same however much of it there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from django.db.models import Exists, OuterRef

from governance.models import ApiKey, Budget, BudgetForecast, RefusedCall, ScopeType, Tenant
from governance.models.budgets import EACH
from governance.queries import breakdown, budget_status, forecasts, refusals
from governance.queries.breakdown import Lines, Question
from governance.queries.budget_status import BudgetStatus
from governance.queries.spend import Reader, TimeRange
from governance.rules.spend_sums import NOTHING, SpendSums

DAYS = 30
MOST_BUDGETS, MOST_LINES, MOST_REFUSALS = 40, 10, 20


@dataclass(frozen=True, slots=True)
class OwnBudget:
    """A budget of the customer as it stands for one subject: `name` says for whom, in words.

    `runs_out_at`: as it was last forecast; None where it lasts, and where nobody knows.
    """

    budget: Budget
    name: str
    status: BudgetStatus
    runs_out_at: datetime | None


@dataclass(frozen=True, slots=True)
class CustomerFigures:
    """`days` are the last DAYS of the customer's own, today's included; `models` and `agents` the dearest of these."""

    tenant: Tenant
    budgets: Sequence[OwnBudget]
    more_budgets: bool
    days: Mapping[date, SpendSums]
    total: SpendSums
    models: Lines
    agents: Lines
    refusals: Sequence[RefusedCall]


def of_tenant(tenant: Tenant, *, now: datetime) -> CustomerFigures:
    by, today = Reader(tenant=tenant), now.astimezone(tenant.zone).date()
    days = [today - timedelta(days=DAYS - 1 - number) for number in range(DAYS)]
    begin, end = (datetime.combine(day, time(), tzinfo=tenant.zone) for day in (days[0], today + timedelta(days=1)))
    asked = Question(reader=by, period=TimeRange(begin, end), zone=tenant.zone)
    by_day = breakdown.first(asked, ("day",), most=DAYS + 1)
    budgets = _budgets(tenant, by, now)
    return CustomerFigures(
        tenant=tenant,
        budgets=budgets[:MOST_BUDGETS],
        more_budgets=len(budgets) > MOST_BUDGETS,
        days={day: by_day.found.get((day,), NOTHING) for day in days},
        total=by_day.total,
        models=breakdown.first(asked, ("model",), most=MOST_LINES),
        agents=breakdown.first(asked, ("tenant", "agent"), most=MOST_LINES),
        refusals=list(refusals.seen_by(by)[:MOST_REFUSALS]),
    )


def _budgets(tenant: Tenant, by: Reader, now: datetime) -> list[OwnBudget]:
    """The fullest first, then those of the customer's own that no call has opened."""
    fullest = budget_status.fullest(reader=by, now=now, limit=MOST_BUDGETS + 1)
    found = [(window.budget, status) for window, status in fullest]
    own = Budget.objects.filter(tenant=tenant, enabled=True).select_related("tenant").order_by("id")
    opened = budget_status.live(budget_status.readable_windows(by).filter(budget=OuterRef("pk")), now=now)
    rest = list(own.exclude(Exists(opened))[: MOST_BUDGETS + 1 - len(found)])
    given = budget_status.raises(rest, now=now)
    for budget in rest:
        status = budget_status.unopened(budget, now=now)
        found.append((budget, given[budget.pk].on(status) if budget.pk in given else status))
    named = _key_names(tenant, found)
    kept = forecasts.kept({budget.pk: status for budget, status in found}, now=now)
    return [_own(tenant, budget, status, named, kept.get(budget.pk), now) for budget, status in found]


def _own(
    tenant: Tenant,
    budget: Budget,
    status: BudgetStatus,
    keys: Mapping[str, str],
    kept: BudgetForecast | None,
    now: datetime,
) -> OwnBudget:
    subject = _subject(tenant, budget, status)
    if budget.scope_type == ScopeType.TENANT:
        name = "all calls"
    elif not subject:
        name = f"each {budget.scope_type}"
    elif budget.scope_type == ScopeType.KEY:
        # What begins a key is nobody's business here; its name was given to be read.
        name = f"the key {keys[subject]}" if keys.get(subject) else "a key"
    else:
        name = f"{budget.scope_type} {subject}"
    return OwnBudget(budget, name, status, forecasts.runs_out_at(kept, status, now=now))


def _subject(tenant: Tenant, budget: Budget, status: BudgetStatus) -> str:
    """Whose window it is, without the customer's name; empty where it stands for each one."""
    if budget.scope_key != EACH:
        return budget.scope_key
    return status.subject if budget.tenant_id else status.subject.removeprefix(f"{tenant.slug}/")


def _key_names(tenant: Tenant, found: Sequence[tuple[Budget, BudgetStatus]]) -> dict[str, str]:
    """Names of the keys that budgets are for, by what budgets know keys by."""
    prefixes = {_subject(tenant, budget, status) for budget, status in found if budget.scope_type == ScopeType.KEY}
    rows = ApiKey.objects.filter(tenant=tenant, prefix__in=prefixes)
    return dict(rows.values_list("prefix", "name"))
