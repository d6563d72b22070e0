"""The console's page of routes: the pool with its breakers, the strategies and the chains of the routing file."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from governance.console.pages import ConsolePage
from governance.models import Alert
from llm.console import rates
from llm.models import Model
from llm.queries import routes
from llm.queries.routes import RouteStep
from llm.rules.routing import Kind
from llm.state import routing

# How each kind of strategy puts its models in order.
ORDERS = {
    Kind.COST: "the cheapest for the call first",
    Kind.QUALITY: "as listed; without a list the highest tier first",
    Kind.LATENCY: "the quickest of late first",
    Kind.CAPABILITY: "the lowest tier that can do the job first",
    Kind.JUDGMENT: "simple calls to workhorses, complex ones to judges",
}


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    found = routes.read(now=now)
    links = {(row.provider, row.name): row.pk for row in Model.objects.only("pk", "provider", "name")}
    path = routing.path()
    problem = Alert.objects.filter(kind=routing.ALERT, subject=str(path), cleared_at=None).first()
    return {
        "pool": [_row(step, links) for step in found.pool],
        "impaired": sum(bool(step.problem) for step in found.pool),
        "strategies": [
            (
                strategy.name,
                ORDERS[strategy.kind],
                sorted(strategy.tags),
                strategy.threshold if strategy.kind is Kind.JUDGMENT else None,
                [_row(step, links) for step in steps],
                not strategy.models and not strategy.tags,
            )
            for strategy, steps in found.strategies
        ],
        "chains": [(name, [_row(step, links) for step in steps]) for name, steps in found.chains],
        "file": path.name,
        "is_shipped": path == routing.SHIPPED,
        "problem": problem.message if problem else "",
    }


def _row(step: RouteStep, links: dict[tuple[str, str], int]) -> dict[str, Any]:
    option = step.option
    entry = option.entry
    pk = links.get((entry.provider, entry.upstream)) or links.get(("mistral", entry.upstream)) if entry else None
    latency_ms = step.latency_ms
    return {
        "name": step.name,
        "means": entry.id if entry and entry.id != step.name else "",
        "link": reverse("admin:llm_model_change", args=[pk]) if pk else "",
        "tier": option.model.tier,
        "tags": ", ".join(sorted(option.model.tags)),
        "prices": rates.token_cells(entry.rates if entry else None),
        "latency": f"{latency_ms:,.0f} ms" if latency_ms is not None else f"{option.model.latency_hint_ms:,} ms",
        "is_hint": latency_ms is None,
        "state": step.problem or (step.breaker.label if step.breaker else "not called"),
        "tone": "stopped" if step.problem else "active" if step.breaker else "off",
    }


PAGE = ConsolePage(
    title="Pool and chains", path="models/routing/", name="routing", template="console/routing.html", context=context
)
