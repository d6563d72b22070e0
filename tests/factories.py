"""Makes what tests need, with sensible defaults. Amounts are dollars as text, as people think of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids
from django.contrib.auth.models import Group, User

from governance import ledger
from governance.actions import page_links, raises
from governance.audit import Actor
from governance.ledger.operations import Record, Release, Reserve, Settle
from governance.models import (
    Agent,
    ApiKey,
    Budget,
    BudgetForecast,
    BudgetWindow,
    LedgerJudgement,
    PageLink,
    RaiseRequest,
    Tenant,
    TenantStaff,
)
from governance.models.tenancy import new_key
from governance.queries import budget_status
from governance.rules import judgement as judgements
from governance.rules import money
from governance.rules.calls import Caller, Usage
from governance.rules.decision import Call, Quote, Quoter
from governance.rules.judgement import DayRuling, Judgement, OwnWord, Ruling, Silence

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def nanos(dollars: str) -> int:
    return money.nanos_from_dollars(dollars)


def tenant(slug: str = "acme", **fields: Any) -> Tenant:
    return Tenant.objects.get_or_create(slug=slug, defaults={"name": slug.title(), **fields})[0]


def agent(slug: str = "invoices", *, of: Tenant | None = None) -> Agent:
    return Agent.objects.get_or_create(tenant=of or tenant(), slug=slug)[0]


def person(name: str, *roles: str, of: Tenant | None = None, **fields: Any) -> User:
    """A console user with the named roles; `of` is the tenant of tenant staff."""
    user = User.objects.create_user(name, **{"is_staff": True, **fields})
    user.groups.set(Group.objects.filter(name__in=roles))
    assert user.groups.count() == len(roles)
    if of is not None:
        TenantStaff.objects.create(user=user, tenant=of)
    return user


def key(*, role: str = "agent", of: Tenant | None = None, agent_slug: str = "invoices") -> tuple[str, ApiKey]:
    """A saved key and its text."""
    owner = (of or tenant()) if role in ("agent", "tenant") else None
    bound = agent(agent_slug, of=owner) if role == "agent" else None
    text, made = new_key(role=role, tenant=owner, agent=bound)
    made.save()
    return text, made


def budget(limit: str = "1.00", *, window: str = "day", scope_type: str = "tenant", **fields: Any) -> Budget:
    owner = fields.pop("tenant", None)
    if owner is None and scope_type != "platform":
        owner = tenant()
    default_key = owner.slug if scope_type == "tenant" and owner else ""
    return Budget.objects.create(
        tenant=owner,
        scope_type=scope_type,
        scope_key=fields.pop("scope_key", default_key),
        window=window,
        limit_nanos=nanos(limit),
        **fields,
    )


def raise_request(of: Budget | None = None, *, by: Caller | None = None, now: datetime) -> RaiseRequest:
    """Two dollars more, asked for where a call has spent a cent."""
    of = of or budget(window="month")
    ledger.record(reporting("0.01", by=by), now=now)
    window = BudgetWindow.objects.select_related("budget__tenant", "tenant").get(budget=of)
    return raises.ask(window=window, amount_nanos=nanos("2"), asker="Ada", reason="a big batch", now=now)


def page_link(of: Tenant | None = None, *, now: datetime, **fields: Any) -> tuple[str, PageLink]:
    """A link to a customer's read-only page, and its row."""
    return page_links.make(tenant=of or tenant(), by=Actor("olga"), now=now, **fields)


def kept_forecast(budget: Budget, *, now: datetime, runs_out_in: timedelta) -> BudgetForecast:
    """As it is kept of a budget's current window, of which a dollar is spent by then."""
    status = budget_status.current([budget], now=now)[budget.pk]
    return BudgetForecast.objects.create(
        budget=budget,
        made_at=max(now, status.starts_at),
        ends_at=status.ends_at,
        cap_nanos=status.cap_nanos,
        runs_out_at=now + runs_out_in,
        **dict.fromkeys(("expected_nanos", "low_nanos", "high_nanos"), nanos("1")),
    )


def caller(owner: Tenant | None = None, **fields: Any) -> Caller:
    owner = owner or tenant()
    return Caller(tenant_id=owner.id, tenant=owner.slug, **fields)


def priced(prices: Mapping[str, str], *, incapable: frozenset[str] = frozenset()) -> Quoter:
    """Quotes a call at fixed dollars a model; other models have no price."""

    def quote(model: str) -> Quote | None:
        if model not in prices:
            return None
        return Quote(model, nanos(prices[model]), capable=model not in incapable)

    return quote


def call(cost: str = "0.10", *, model: str = "large", prices: Mapping[str, str] | None = None, **fields: Any) -> Call:
    return Call(model=model, quote=priced({model: cost, **(prices or {})}), **fields)


def reserving(cost: str = "0.10", *, by: Caller | None = None, id: UUID | None = None, **fields: Any) -> Reserve:
    return Reserve(reservation_id=id or uuids.uuid7(), caller=by or caller(), call=call(cost, **fields))


def releasing(id: UUID) -> Release:
    return Release(id)


def settling(id: UUID, cost: str = "0.10", **fields: Any) -> Settle:
    return Settle(reservation_id=id, cost_nanos=nanos(cost), usage=Usage("mistral", "large", 100, 0, 20), **fields)


def reporting(cost: str = "0.10", *, by: Caller | None = None, request_id: str = "", **fields: Any) -> Record:
    return Record(
        entry_id=uuids.uuid7(),
        caller=by or caller(),
        request_id=request_id or str(uuids.uuid7()),
        cost_nanos=nanos(cost),
        usage=Usage("mistral", "large", 100, 0, 20),
        **fields,
    )


# One day that differs, one that nobody can judge, a provider that is silent, and an estimate.
FOUND = Judgement(
    since=date(2026, 3, 9),
    until=date(2026, 3, 11),
    rulings=[
        DayRuling("openai", date(2026, 3, 9), nanos("0.50"), Ruling.DISAGREES, nanos("1.00")),
        DayRuling("<b>groq", date(2026, 3, 9), nanos("1.00"), Ruling.UNJUDGED, silence=Silence.NO_REPORT),
    ],
    own_words=[OwnWord("openai", "estimated", "usage_missing", 3, nanos("0.25"))],
    asked=["openai", "anthropic"],
    silent={"anthropic": "it refused to report"},
    ledger_nanos=nanos("1.50"),
)


def judgement() -> LedgerJudgement:
    """`FOUND`, as it is kept."""
    return LedgerJudgement.objects.create(judged_at=NOON, disagreeing=1, silent=1, details=judgements.to_api(FOUND))
