"""What models were used for: calls and cost from the hourly sums, and the budgets that move calls to or from them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_

from django.db.models import Q

from governance.models import Budget
from governance.queries import spend
from governance.queries.spend import TimeRange
from llm.models import Model
from llm.rules.pricing import DEFAULT_PROVIDER, ZONE_PROVIDERS

USED_DAYS = 30


@dataclass(frozen=True, slots=True)
class Used:
    """Calls that were charged under one name of a model at one provider, and what they cost."""

    provider: str
    name: str
    calls: int
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Move:
    """A rule of a budget that names a model. `leads_here`: calls are moved to it; else from it, to `to`."""

    budget: Budget
    sources: tuple[str, ...]
    to: str
    # In percent of the limit; None: from the budget's soft cap on.
    at_percent: float | None
    leads_here: bool


def names_of(model: Model) -> frozenset[str]:
    """Every name that means the model: its id and aliases, bare and with its provider."""
    bare = {model.name, *(alias.name for alias in model.aliases.all())}
    return frozenset(bare | {f"{provider}/{name}" for provider in providers_of(model) for name in bare})


def providers_of(model: Model) -> tuple[str, ...]:
    """The providers that serve a row: of Mistral's models its zones too."""
    return (model.provider, *(ZONE_PROVIDERS if model.provider == DEFAULT_PROVIDER else ()))


def used(rows: Iterable[Model], *, now: datetime) -> dict[int, list[Used]]:
    """By the models' ids what was charged in the last USED_DAYS days of UTC, today's included, the dearest first.

    One query; the same days as the console's pages show for as many.
    """
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    period = TimeRange(today - timedelta(days=USED_DAYS - 1))
    by_name: dict[tuple[str, str], Used] = {}
    for row in spend.summary(group_by=["provider", "model"], period=period):
        found = Used(row["provider"], row["model"], row["calls"], row["cost_nanos"])
        by_name[found.provider, found.name] = found
    return {row.pk: _of(row, by_name) for row in rows}


def _of(row: Model, by_name: dict[tuple[str, str], Used]) -> list[Used]:
    bare = [row.name, *sorted(alias.name for alias in row.aliases.all())]
    found = [by_name.get((provider, name)) for provider in providers_of(row) for name in bare]
    return sorted((one for one in found if one), key=lambda one: -one.cost_nanos)


def moves(model: Model) -> list[Move]:
    """The rules of enabled budgets that name the model, those that lead to it first."""
    names = names_of(model)
    # Lists in JSON cannot be searched alike on all databases; what is not ASCII, one of them keeps escaped.
    mentions = {json.dumps(name, ensure_ascii=escaped) for name in names for escaped in (True, False)}
    mentioned = reduce(or_, (Q(downgrade_rules__icontains=text) for text in sorted(mentions)))
    found = [
        Move(budget, tuple(rule["from"]), rule["to"], _percent(rule.get("at")), leads_here=rule["to"] in names)
        for budget in Budget.objects.filter(mentioned, enabled=True).select_related("tenant").order_by("pk")
        for rule in budget.downgrade_rules
        if rule["to"] in names or not names.isdisjoint(rule["from"])
    ]
    return sorted(found, key=lambda move: not move.leads_here)


def _percent(at: object) -> float | None:
    return None if at is None else float(str(at)) * 100


def targets(rows: Iterable[Model]) -> dict[int, int]:
    """By the models' ids how many enabled budgets move calls to them."""
    budgets: dict[str, set[int]] = defaultdict(set)
    rules = Budget.objects.filter(enabled=True).exclude(downgrade_rules=[]).values_list("pk", "downgrade_rules")
    for pk, each in rules:
        for rule in each:
            budgets[rule["to"]].add(pk)
    return {row.pk: len(set().union(*(budgets[name] for name in names_of(row) & budgets.keys()))) for row in rows}
