"""Every path and method of both planes with the keys of two tenants: nothing of the other, no amount of the platform.

What is walked is generated: from the paths that the resolver and the gateway know, with the objects of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from governance import ledger
from governance.actions import allowances, rate_limits, reservations, stops
from governance.audit import Actor
from governance.models import PendingReport, Reservation, Tenant
from llm.gateway.routes import ROUTES as CALLS
from tests import factories as make
from tests.governance.api.test_roles import ACTS, ROUTES, methods
from tests.product import Product

# What stands nowhere else: a limit, what others have spent and hold of it, and a ceiling of tokens a minute.
LIMIT, SPENT, HELD, TOKENS = "914321.98765", "501234.56789", "88777.654321", 791919191
# What more the others have spent, for each case: nothing, all but what they hold, and all.
MORE = {"roomy": "0", "in flight": "324309.765439", "used up": "413087.41976"}
# However the platform's figures could be said, in dollars or nanodollars; calls of the walk change their last digits.
# A share of a budget is no part of a longer number: a moment's seconds may have the same digits.
AMOUNTS = re.compile(
    r"914321(\.|\d{9})|50123[4-6](\.|\d{9})|8877[78](\.|\d{9})"
    r"|3243\d\d(\.|\d{9})|8255\d\d(\.|\d{9})|4130\d\d(\.|\d{9})|59001\d(\.|\d{9})|791919\d{3}|(?<!\d)0\.(548|902)\d"
)
LIMITS = {"acme": "55.4321", "globex": "98.7654"}
SECRET_AGENTS = {"acme": "quagga", "globex": "zebra"}
CHAT = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20}
DEAR = {"model": "mistral-large-latest", "estimated_cost": "20"}
# Beside an empty body and an operator's act: what each of these is truly asked, of which the last may not go.
BODIES: dict[str, list[dict[str, Any]]] = {
    "post decisions": [
        {"model": "mistral-large-latest", "estimated_cost": "0.01"},
        {"model": "mistral-large-latest", "input_tokens": 10, "max_tokens": 9_000_000_000},
        DEAR,
    ],
    "post reservations": [{"model": "mistral-large-latest", "estimated_cost": "0.01"}, DEAR],
    "post spend": [{"request_id": "r-9", "cost": "5000"}],
    "post llm/route": [{"prompt": "Hi", "model": "mistral-large-latest", "max_tokens": 20}, {"prompt": "Hi"}],
    "post reservations/<uuid:id>/extend": [{"more": "5000"}],
    "post reservations/<uuid:id>/settle": [{"cost": "5000"}],
}
QUERIES = (
    "",
    "?tenant={other}",
    "?scope=platform",
    "?scope=tenant:{other}",
    "?group_by=tenant,agent",
    "?page_size=500",
)


@pytest.fixture
def case() -> str:
    return "roomy"


@pytest.fixture
def planted(product: Product, case: str) -> dict[str, list[Any]]:
    """Objects of both tenants and of the platform, by the path that they are at."""
    now, by = timezone.now(), Actor("test")
    rules = [{"from": ["mistral-medium-latest"], "to": "mistral-small-latest"}]
    platform = make.budget(LIMIT, scope_type="platform", downgrade_rules=rules)
    limit = rate_limits.create(scope_type="platform", tokens_per_minute=TOKENS, by=by, now=now)
    others = make.caller(make.tenant("initech"))
    for cost in (SPENT, MORE[case]):
        ledger.record(make.reporting(cost, by=others), now=now)
    if case != "used up":
        ledger.reserve(make.reserving(HELD, by=others), now=now)
    found: dict[str, list[Any]] = {"budgets": [platform.pk], "rate-limits": [limit.pk], "plans": [1], "prices": [1]}
    for slug, agent in SECRET_AGENTS.items():
        for kind, objects in of_tenant(make.tenant(slug), agent, now).items():
            found.setdefault(kind, []).extend(objects)
    return found | {"models": ["mistral-small-latest"]}


def of_tenant(tenant: Tenant, agent: str, now: datetime) -> dict[str, list[Any]]:
    by = Actor("test")
    own = make.budget(LIMITS[tenant.slug], tenant=tenant)
    agents = make.budget("50", scope_type="agent", scope_key="*", tenant=tenant)
    caller = make.caller(tenant, agent=agent, user=f"{agent}-user")
    done = ledger.record(make.reporting("0.01", by=caller), now=now)
    raised = allowances.raise_limit(
        budget=own,
        amount_nanos=9,
        starts_at=now + timedelta(hours=1),
        ends_at=now + timedelta(hours=2),
        reason="why",
        by=by,
        now=now,
    )
    held = Reservation.objects.create(
        id=reservations.new_id(now=now),
        tenant=tenant,
        agent=agent,
        amount_nanos=0,
        reserved_at=now,
        expires_at=now + timedelta(hours=1),
    )
    report = PendingReport.objects.create(
        tenant=tenant,
        agent=agent,
        cost_nanos=1,
        bound_scope="platform",
        bound_window="day",
        bound_nanos=make.nanos(LIMIT),
        occurred_at=now,
        reported_at=now,
    )
    stop = stops.stop(tenant=make.tenant(f"{agent}-elsewhere"), reason="test", by=by, now=now)
    return {
        "budgets": [own.pk, agents.pk],
        "allowances": [raised.pk],
        "raises": [make.raise_request(make.budget("2000", tenant=tenant, window="week"), by=caller, now=now).pk],
        "reservations": [held.pk],
        "spend": [done.entry_id],
        "spend/reviews": [report.pk],
        "stops": [stop.pk],
        "tenants": [tenant.slug],
        "agents": [make.agent(agent, of=tenant).pk],
        "page-links": [make.page_link(tenant, now=now)[1].pk],
        "keys": [make.key(role="tenant", of=tenant)[1].pk],
    }


def places(route: str, planted: dict[str, list[Any]]) -> list[str]:
    """A route with each of the planted objects; one that has a name of its own is tried with a made up one."""
    if "<" not in route:
        return [route]
    objects = planted.get(route.split("/<")[0], ["made-up"])
    return [re.sub(r"<[^>]+>", str(one), route) for one in objects]


def requests(planted: dict[str, list[Any]], other: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, path, httpx's arguments) of all that can be asked; `other` is the other tenant's name."""
    for route, view in ROUTES.items():
        if route.endswith("/") or route.startswith(("docs", "redoc", "schema", "webhooks")):
            continue
        for method in sorted(methods(route, view)):
            for path in places(route, planted):
                yield from asked(method, route, f"/api/{path}", other)
    for path in CALLS:
        yield "post", path, {"json": {}}
        yield "post", path, {"json": CHAT}
    for budget in ({}, {"x-agent": SECRET_AGENTS[other]}, {"x-user": "u"}):
        yield "get", "/v1/budget", {"headers": budget}
        yield "post", "/v1/chat/completions", {"json": CHAT, "headers": budget}
        yield "post", "/v1/chat/completions", {"json": CHAT | {"stream": True}, "headers": budget}
        yield "post", "/v1/chat/completions", {"json": CHAT | {"max_tokens": 900_000_000}, "headers": budget}
    yield "get", "/v1/models", {}
    yield "get", "/metrics", {}


def asked(method: str, route: str, path: str, other: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    if method == "get":
        yield method, path, {"headers": {"accept": "text/csv"}}
        for query in QUERIES if "<" not in route else ("",):
            yield method, path + query.format(other=other), {}
        return
    act = [ACTS[f"{method} {route}"][0]] if f"{method} {route}" in ACTS else []
    for body in ({}, *act, *BODIES.get(f"{method} {route}", [])):
        for more in ({}, {"tenant": other}, {"agent": SECRET_AGENTS[other]}):
            yield method, path, {"json": body | more}


def walked(product: Product, key: str, planted: dict[str, list[Any]], other: str) -> Iterator[tuple[str, str]]:
    """(what was asked, all that was answered) of everything that can be asked with a key."""
    with httpx.Client(base_url=product.url, timeout=30) as client:
        # All is read before anything is done: what this key says then of the other's agents is its own from then on.
        for method, path, given in sorted(requests(planted, other), key=lambda each: each[0] != "get"):
            headers = {"authorization": f"Bearer {key}"} | given.pop("headers", {})
            response = client.request(method, path, headers=headers, **given)
            assert response.status_code not in (500, 502), (method, path, given, response.text)
            text = "\n".join([response.text, *(f"{name}: {value}" for name, value in response.headers.items())])
            yield f"{method} {path} {headers} {given}", text


@pytest.mark.parametrize(
    ("slug", "other", "case"),
    [
        ("acme", "globex", "roomy"),
        ("globex", "acme", "roomy"),
        ("acme", "globex", "in flight"),
        ("acme", "globex", "used up"),
    ],
)
@pytest.mark.parametrize("role", ["agent", "tenant"])
def test_no_key_is_told_of_another_tenant_or_what_all_spend(
    product: Product, planted: dict[str, list[Any]], settings: Any, slug: str, other: str, case: str, role: str
) -> None:
    settings.METRICS_TOKEN = "a-token-for-metrics"
    key = product.key(role=role, of=make.tenant(slug), agent=SECRET_AGENTS[slug])
    answers = list(walked(product, key, planted, other))
    for question, text in answers:
        assert AMOUNTS.search(text) is None, (question, text)
        # What the question itself named may be said again: a link to the next page, who is not known.
        told = [name for name in (other, SECRET_AGENTS[other], LIMITS[other]) if name in text and name not in question]
        assert told == [], (question, text)
    assert len(answers) > 200
    # It was there to be told: the platform's budget decided of calls.
    if case != "roomy":
        assert any("a limit of the platform" in text for _, text in answers)


def test_a_tenant_that_shows_no_amounts_shows_its_keys_none_anywhere(
    product: Product, planted: dict[str, list[Any]]
) -> None:
    Tenant.objects.filter(slug="acme").update(show_amounts=False)
    for role in ("agent", "tenant"):
        for question, text in walked(product, product.key(role=role, agent="quagga"), planted, "globex"):
            assert LIMITS["acme"] not in text, question


def test_operators_and_viewers_see_all_of_it(product: Product, planted: dict[str, list[Any]]) -> None:
    for role in ("operator", "viewer"):
        key = product.key(role=role)
        answer = product.post("/api/decisions", key, tenant="acme", **DEAR).text
        assert AMOUNTS.search(answer)
        assert LIMIT in answer
        assert str(TOKENS) in product.get("/api/rate-limits", key).text
