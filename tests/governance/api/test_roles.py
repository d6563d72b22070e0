"""Who may do what: every path under /api/, every method, every persona; and every act leaves its audit row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator

from billing.models import Plan
from governance import alerts
from governance.actions import alert_channels, allowances, rate_limits, report_subscriptions, reservations, stops
from governance.audit import Actor
from governance.models import (
    AlertChannel,
    AlertDelivery,
    Anomaly,
    AuditEntry,
    Overrun,
    PendingReport,
    RefusedCall,
    Reservation,
    SpendEntry,
)
from llm.models import Price
from tests import factories
from tests.billing.signing import SECRET as WEBHOOK_SECRET
from tests.governance.api.conftest import Api

PERSONAS = ("operator", "viewer", "tenant", "agent", "stranger", "nobody")
METHODS = ("get", "post", "put", "patch", "delete")
# Views that are plain functions cannot be asked for their methods.
FUNCTIONS = {"webhooks/stripe": ("post",)}

Answers = tuple[int, ...]
OPEN: Answers = (200,) * 6
ALL_READ: Answers = (200, 200, 200, 200, 200, 401)
OWN_READ: Answers = (200, 200, 200, 200, 404, 401)
STAFF_READ: Answers = (200, 200, 403, 403, 403, 401)


def operators(answer: int = 400) -> Answers:
    """Let in: operators. An empty body is looked at, and mostly refused with 400."""
    return (answer, 403, 403, 403, 403, 401)


# What an empty request answers, for the PERSONAS in order. A 400 says that the role was let in.
TABLE: dict[str, Answers] = {
    "get health": OPEN,
    "get health/live": OPEN,
    "get health/ready": OPEN,
    "get schema": OPEN,
    "get docs": OPEN,
    "get redoc": OPEN,
    "get alerts": STAFF_READ,
    "post alerts/<int:id>/acknowledge": operators(200),
    "get alerts/channels": STAFF_READ,
    "post alerts/channels": operators(),
    "get alerts/channels/<int:id>": STAFF_READ,
    "patch alerts/channels/<int:id>": operators(200),
    "delete alerts/channels/<int:id>": operators(204),
    "post alerts/channels/<int:id>/test": operators(200),
    "post alerts/channels/<int:id>/rotate": operators(200),
    "get alerts/deliveries": STAFF_READ,
    "get alerts/deliveries/<uuid:id>": STAFF_READ,
    "post alerts/deliveries/<uuid:id>/replay": operators(200),
    "get budgets": ALL_READ,
    "post budgets": operators(),
    "get budgets/<int:id>": OWN_READ,
    "put budgets/<int:id>": operators(),
    "patch budgets/<int:id>": operators(200),
    "delete budgets/<int:id>": operators(204),
    "post budgets/<int:id>/reset": operators(),
    # Not a goal's.
    "post budgets/<int:id>/close": operators(),
    "get budgets/<int:id>/windows": OWN_READ,
    "get budgets/<int:id>/events": OWN_READ,
    "get budgets/<int:id>/allowances": STAFF_READ,
    "post budgets/<int:id>/allowances": operators(),
    "post allowances/<int:id>/end": operators(200),
    "post decisions": (400, 400, 400, 400, 400, 401),
    "get raises": STAFF_READ,
    "post raises/<int:id>/approve": operators(200),
    "post raises/<int:id>/decline": operators(),
    "get reconciliation": STAFF_READ,
    "get refusals": ALL_READ,
    "get refusals/<str:request_id>": OWN_READ,
    "get reports/subscriptions": STAFF_READ,
    "post reports/subscriptions": operators(),
    "get reports/subscriptions/<int:id>": STAFF_READ,
    "post reports/subscriptions/<int:id>/end": operators(200),
    "get reports/preview": (400, 400, 400, 403, 403, 401),
    "post reservations": (400, 403, 400, 400, 400, 401),
    "get reservations/<uuid:id>": OWN_READ,
    "post reservations/<uuid:id>/settle": (400, 403, 400, 400, 404, 401),
    "post reservations/<uuid:id>/extend": (400, 403, 400, 400, 404, 401),
    # The agent's release is the first, so the others find nothing to return.
    "post reservations/<uuid:id>/release": (409, 403, 409, 200, 404, 401),
    "get spend": ALL_READ,
    "post spend": (400, 403, 400, 400, 400, 401),
    "get spend/rate": ALL_READ,
    "get spend/forecast": ALL_READ,
    "get spend/anomalies": ALL_READ,
    "post spend/anomalies/<int:id>/dismiss": operators(200),
    "post spend/anomalies/<int:id>/undo": operators(200),
    "get spend/summary": ALL_READ,
    "get spend/reviews": ALL_READ,
    "get spend/reviews/<uuid:id>": OWN_READ,
    "post spend/reviews/<uuid:id>/accept": operators(),
    "post spend/reviews/<uuid:id>/reject": operators(),
    "post spend/<uuid:id>/confirm": operators(),
    "post spend/<uuid:id>/void": operators(),
    "post spend/<uuid:id>/correct": operators(),
    "get stops": STAFF_READ,
    "post stops": operators(),
    "get stops/<int:id>": STAFF_READ,
    "post stops/<int:id>/lift": operators(200),
    "get rate-limits": STAFF_READ,
    "post rate-limits": operators(),
    "get rate-limits/<int:id>": STAFF_READ,
    "patch rate-limits/<int:id>": operators(200),
    "delete rate-limits/<int:id>": operators(204),
    "get tenants": STAFF_READ,
    "post tenants": operators(),
    "get tenants/<slug:slug>": STAFF_READ,
    "patch tenants/<slug:slug>": operators(200),
    "post tenants/<slug:slug>/pause": operators(200),
    "post tenants/<slug:slug>/resume": operators(200),
    "get tenants/<slug:slug>/page-links": STAFF_READ,
    "post tenants/<slug:slug>/page-links": operators(201),
    "post tenants/<slug:slug>/page-links/end": operators(200),
    "post page-links/<int:id>/end": operators(200),
    "get agents": STAFF_READ,
    "post agents": operators(),
    "get agents/<int:id>": STAFF_READ,
    "post agents/<int:id>/pause": operators(200),
    "post agents/<int:id>/resume": operators(200),
    "get keys": STAFF_READ,
    "post keys": operators(),
    "get keys/<int:id>": STAFF_READ,
    "post keys/<int:id>/revoke": operators(200),
    "post keys/<int:id>/rotate": operators(201),
    "post llm/route": (403, 403, 400, 400, 400, 401),
    "get models": ALL_READ,
    "get models/<path:id>": ALL_READ,
    "post models/<path:id>/clear-overruns": operators(200),
    "get tools": ALL_READ,
    "post tools": operators(),
    "get prices": ALL_READ,
    "post prices": operators(),
    "get prices/<int:id>": ALL_READ,
    "post prices/<int:id>/correct": operators(),
    "post webhooks/stripe": (400,) * 6,
    "get billing/accounts": STAFF_READ,
    "get billing/margin": STAFF_READ,
    "post billing/references": operators(),
    "get plans": STAFF_READ,
    "post plans": operators(),
    "get plans/<int:id>": STAFF_READ,
    "patch plans/<int:id>": operators(200),
}


def routes(patterns: list[URLPattern | URLResolver], before: str = "") -> Iterator[tuple[str, Any]]:
    """(route, view) of every path below /api/, as the resolver knows them."""
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, route)
        elif route.startswith("api/"):
            yield route.removeprefix("api/"), pattern.callback


def methods(route: str, view: Any) -> set[str]:
    kind = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if kind is None:
        return set(FUNCTIONS[route.rstrip("/")])
    return {method for method in METHODS if hasattr(kind, method)}


ROUTES = dict(routes(get_resolver().url_patterns))


@pytest.fixture
def objects(db: None) -> dict[str, Any]:
    return of_invoices()


def of_invoices() -> dict[str, Any]:
    """The path parameter of each kind of object: the ones of acme's agent invoices."""
    by, now = Actor("test"), timezone.now()
    budget = factories.budget(scope_type="agent", scope_key="invoices")
    begins = {"starts_at": now, "ends_at": now + timedelta(days=1)}
    raised = allowances.raise_limit(budget=factories.budget(), amount_nanos=9, **begins, reason="test", by=by, now=now)
    return {
        "alerts": alerts.report(kind="test", subject="roles", message="A test.", now=now).pk,
        "alerts/channels": channel(now).pk,
        "alerts/deliveries": delivered(now),
        "budgets": budget.pk,
        "allowances": raised.pk,
        "raises": factories.raise_request(now=now).pk,
        "reservations": held(now),
        "spend": estimated(now),
        "spend/reviews": waiting(now),
        "spend/anomalies": held_by_itself(now),
        "refusals": refused(now),
        "reports/subscriptions": subscribed(now),
        "stops": stops.stop(tenant=factories.tenant("initech"), reason="test", by=by, now=now).pk,
        "rate-limits": rate_limits.create(scope_type="platform", requests_per_minute=9, by=by, now=now).pk,
        "tenants": "acme",
        "page-links": factories.page_link(now=now)[1].pk,
        "agents": factories.agent().pk,
        "keys": factories.key(role="tenant")[1].pk,
        "models": overran(now),
        "prices": Price.objects.earliest("id").pk,
        "plans": Plan.objects.create(name="Test", limit_nanos=1).pk,
    }


def held(now: datetime) -> UUID:
    """A reservation of acme's agent invoices for a call of its own, which no budget governs."""
    row = Reservation.objects.create(
        id=reservations.new_id(now=now),
        tenant=factories.tenant(),
        agent="invoices",
        amount_nanos=factories.nanos("0.01"),
        reserved_at=now,
        expires_at=now + timedelta(hours=1),
    )
    return row.pk


def channel(now: datetime) -> AlertChannel:
    """A webhook that nobody listens at."""
    row = AlertChannel.objects.filter(name="hook").first()
    fields = {"kind": "webhook", "name": "hook", "target": "https://127.0.0.1:9/"}
    return row or alert_channels.create(**fields, by=Actor("test"), now=now).channel


def delivered(now: datetime) -> UUID:
    notice = alerts.tell(kind="test", incident="roles", message="A test.", now=now)
    row = AlertDelivery.objects.create(notice=notice, channel=channel(now), state="dead", created_at=now)
    return row.pk


def estimated(now: datetime) -> UUID:
    row = SpendEntry.objects.create(
        tenant=factories.tenant(), cost_nanos=1, certainty="estimated", occurred_at=now, recorded_at=now
    )
    return row.pk


def held_by_itself(now: datetime) -> int:
    """An anomaly of acme's agent invoices, which was paused for it."""
    row = Anomaly.objects.create(
        subject_type="agent",
        subject="acme/invoices",
        tenant=factories.tenant(),
        agent="invoices",
        metric="cost",
        hour=now,
        observed=9,
        expected=1,
        bound=3,
        started_at=now,
        last_at=now,
        act="pause",
        acted_at=now,
    )
    return row.pk


def refused(now: datetime) -> str:
    row = RefusedCall.objects.create(
        request_id="r-1", tenant=factories.tenant(), agent="invoices", reason="paused", status=403, refused_at=now
    )
    return row.request_id


def waiting(now: datetime) -> UUID:
    row = PendingReport.objects.create(
        tenant=factories.tenant(), agent="invoices", cost_nanos=1, bound_nanos=0, occurred_at=now, reported_at=now
    )
    return row.pk


def subscribed(now: datetime) -> int:
    row = report_subscriptions.subscribe(
        tenant=factories.tenant(), address="reader@example.com", cadence="weekly", by=Actor("test"), now=now
    )
    return row.pk


def overran(now: datetime) -> str:
    Overrun.objects.create(
        place="mistral/mistral-small-2603", tokens=2, permitted=1, reservation_id=held(now), seen_at=now
    )
    return "mistral-small-latest"


def filled(route: str, objects: dict[str, Any]) -> str:
    return "/api/" + re.sub(r"<[^>]+>", str(objects.get(route.split("/<")[0])), route)


def test_every_path_and_method_has_its_line_in_the_table_and_no_other_has() -> None:
    found = {
        f"{method} {route}" for route, view in ROUTES.items() if route[-1] != "/" for method in methods(route, view)
    }
    assert found == set(TABLE)


def test_every_path_works_with_a_trailing_slash_too() -> None:
    for route, view in ROUTES.items():
        other = ROUTES[route.removesuffix("/") if route.endswith("/") else f"{route}/"]
        assert getattr(other, "cls", other) == getattr(view, "cls", view), route


@pytest.mark.parametrize("line", TABLE)
def test_each_role_may_do_what_it_is_for_and_nothing_more(
    everyone: dict[str, Api], objects: dict[str, Any], settings: Any, line: str
) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = [WEBHOOK_SECRET]
    method, _, route = line.partition(" ")
    expected = dict(zip(PERSONAS, TABLE[line], strict=True))
    # The operator goes last: what it does may take the object away.
    for name in reversed(PERSONAS):
        extra = {} if method == "get" else {"data": {}, "content_type": "application/json"}
        response = getattr(everyone[name].client, method)(filled(route, objects), **extra)
        assert (name, response.status_code) == (name, expected[name])
        if response.status_code >= 400:
            error = response.json()["error"]
            assert set(error) == {"code", "message", "param", "request_id"}
            assert error["request_id"] == response["x-request-id"]


def test_a_method_that_a_path_has_not_is_a_405_and_changes_nothing(
    operator: Api, agent: Api, objects: dict[str, Any]
) -> None:
    for route, view in ROUTES.items():
        for method in set(METHODS) - methods(route, view):
            for client in (operator.client, agent.client):
                response = getattr(client, method)(filled(route, objects))
                assert (route, method, response.status_code) == (route, method, 405)


# An act that works, for each line that changes money, limits, keys or policies; and the audit row it leaves.
ACTS: dict[str, tuple[dict[str, Any], str]] = {
    "post alerts/<int:id>/acknowledge": ({}, "alert.acknowledge"),
    "post alerts/channels": (
        {"name": "mail", "kind": "email", "target": "owner@example.com"},
        "alert_channel.create",
    ),
    "patch alerts/channels/<int:id>": ({"enabled": False}, "alert_channel.change"),
    "delete alerts/channels/<int:id>": ({}, "alert_channel.delete"),
    "post alerts/channels/<int:id>/test": ({}, "alert_channel.test"),
    "post alerts/channels/<int:id>/rotate": ({}, "alert_channel.rotate"),
    "post alerts/deliveries/<uuid:id>/replay": ({}, "alert_delivery.replay"),
    "post budgets": ({"scope_type": "platform", "window": "day", "limit": "1"}, "budget.create"),
    "put budgets/<int:id>": (
        {"tenant": "acme", "scope_type": "agent", "scope_key": "invoices", "window": "day", "limit": "7"},
        "budget.change",
    ),
    "patch budgets/<int:id>": ({"limit": "7"}, "budget.change"),
    "delete budgets/<int:id>": ({}, "budget.delete"),
    "post budgets/<int:id>/reset": ({"reason": "why"}, "budget.reset"),
    "post budgets/<int:id>/allowances": (
        {"amount": "1", "reason": "why", "ends_at": "2100-01-01"},
        "budget.raise",
    ),
    "post allowances/<int:id>/end": ({}, "budget.allowance_end"),
    "post raises/<int:id>/approve": ({}, "raise.approve"),
    "post raises/<int:id>/decline": ({"reason": "why"}, "raise.decline"),
    "post reports/subscriptions": (
        {"scope_type": "platform", "address": "owner@example.com", "cadence": "weekly"},
        "report_subscription.begin",
    ),
    "post reports/subscriptions/<int:id>/end": ({}, "report_subscription.end"),
    "post reservations": ({"tenant": "acme", "model": "m", "estimated_cost": "0.01"}, "reservation.create"),
    "post reservations/<uuid:id>/settle": ({"cost": "0.01"}, "reservation.settle"),
    "post reservations/<uuid:id>/extend": ({"ttl_s": 60}, "reservation.extend"),
    "post reservations/<uuid:id>/release": ({}, "reservation.release"),
    "post spend/reviews/<uuid:id>/accept": ({"reason": "why"}, "report.accept"),
    "post spend/reviews/<uuid:id>/reject": ({"reason": "why"}, "report.reject"),
    "post spend/<uuid:id>/confirm": ({"reason": "why"}, "entry.confirm"),
    "post spend/<uuid:id>/void": ({"reason": "why"}, "entry.void"),
    "post spend/<uuid:id>/correct": ({"reason": "why", "cost": "0.01"}, "entry.correct"),
    "post spend": ({"tenant": "acme", "request_id": "r1", "cost": "0.01"}, "spend.report"),
    "post stops": ({"reason": "why"}, "stop.start"),
    "post spend/anomalies/<int:id>/dismiss": ({}, "anomaly.dismiss"),
    "post spend/anomalies/<int:id>/undo": ({}, "anomaly.undo"),
    "post stops/<int:id>/lift": ({}, "stop.lift"),
    "post rate-limits": ({"scope_type": "tenant", "tenant": "acme", "tokens_per_minute": 9}, "rate_limit.create"),
    "patch rate-limits/<int:id>": ({"tokens_per_minute": 9}, "rate_limit.change"),
    "delete rate-limits/<int:id>": ({}, "rate_limit.delete"),
    "post tenants": ({"slug": "new"}, "tenant.create"),
    "patch tenants/<slug:slug>": ({"name": "New"}, "tenant.change"),
    "post tenants/<slug:slug>/pause": ({}, "tenant.pause"),
    "post tenants/<slug:slug>/resume": ({}, "tenant.resume"),
    "post tenants/<slug:slug>/page-links": ({"days": 7}, "page_link.make"),
    "post tenants/<slug:slug>/page-links/end": ({}, "page_link.end_all"),
    "post page-links/<int:id>/end": ({}, "page_link.end"),
    "post agents": ({"tenant": "acme", "slug": "new"}, "agent.create"),
    "post agents/<int:id>/pause": ({}, "agent.pause"),
    "post agents/<int:id>/resume": ({}, "agent.resume"),
    "post keys": ({"role": "viewer"}, "key.issue"),
    "post keys/<int:id>/revoke": ({}, "key.revoke"),
    "post keys/<int:id>/rotate": ({}, "key.rotate"),
    "post models/<path:id>/clear-overruns": ({}, "overrun.clear"),
    "post tools": ({"name": "web-search", "usd_per_call": "0.005"}, "price.add"),
    "post prices": ({"model": "mistral-embed", "unit": "input", "usd_per_million": "0.2"}, "price.add"),
    "post prices/<int:id>/correct": ({"usd_per_million": "9", "reason": "why"}, "price.correct"),
    "post billing/references": ({"tenant": "acme"}, "billing.refer"),
    "post plans": ({"name": "New", "limit": "1"}, "plan.create"),
    "patch plans/<int:id>": ({"limit": "2"}, "plan.change"),
}
# Changes nothing; a call of a model, which the ledger records; and Stripe's own, which the inbox keeps.
# The last is an act on a goal's budget alone: see test_goals.
NO_ACT = {"post decisions", "post llm/route", "post webhooks/stripe", "post budgets/<int:id>/close"}


def test_every_line_that_writes_is_walked_as_an_act() -> None:
    assert {line for line in TABLE if not line.startswith("get ")} - NO_ACT == set(ACTS)


@pytest.mark.parametrize("line", ACTS)
def test_an_operator_s_act_leaves_an_audit_row_with_its_actor(
    operator: Api, objects: dict[str, Any], line: str
) -> None:
    body, action = ACTS[line]
    method, _, route = line.partition(" ")
    path = filled(route, objects)
    if route.endswith("/resume"):
        operator.post(path.replace("/resume", "/pause"))
    AuditEntry.objects.all().delete()
    response = operator.send(method, path, body)
    assert response.status_code in (200, 201, 204), response.content
    row = AuditEntry.objects.filter(action=action).get()
    assert operator.key is not None
    assert (row.actor, row.key) == (f"key {operator.key.prefix}", operator.key)
    assert row.target


def test_a_missing_or_dead_key_is_a_401_that_asks_for_a_bearer_key(nobody: Api, operator: Api) -> None:
    expired, revoked = (factories.key(role="operator") for _ in range(2))
    now = timezone.now()
    type(expired[1]).objects.filter(pk=expired[1].pk).update(expires_at=now)
    type(revoked[1]).objects.filter(pk=revoked[1].pk).update(revoked_at=now)
    clients = [nobody, Api("sg_made_up"), Api(""), Api("ключ"), Api(expired[0]), Api(revoked[0])]
    for client in clients:
        response = client.get("/api/budgets")
        assert response.status_code == 401
        assert response["WWW-Authenticate"].startswith("Bearer")


def signed_in(**fields: Any) -> tuple[Client, User]:
    user = User.objects.create_user("pat", password="a-long-password", **fields)
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client, user


@pytest.mark.django_db
def test_a_staff_user_reads_by_session_and_changes_only_with_the_permission_and_the_token() -> None:
    client, user = signed_in(is_staff=True)
    assert client.get("/api/budgets").status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_budget"))
    assert client.get("/api/budgets").status_code == 200
    assert client.get("/admin/login/").status_code in (200, 302)
    body = {"slug": "new"}
    assert client.post("/api/tenants", body, content_type="application/json").status_code == 403

    user.user_permissions.add(Permission.objects.get(codename="add_tenant"))
    refused = client.post("/api/tenants", body, content_type="application/json")
    assert (refused.status_code, "CSRF" in refused.json()["error"]["message"]) == (403, True)

    # A page sets the token in a cookie; the console's scripts send it back in a header.
    client.cookies["csrftoken"] = "a" * 32
    accepted = client.post("/api/tenants", body, content_type="application/json", headers={"x-csrftoken": "a" * 32})
    assert accepted.status_code == 201
    assert AuditEntry.objects.get().user == user


@pytest.mark.django_db
def test_a_user_who_is_no_staff_is_nobody_to_the_api() -> None:
    client, _ = signed_in(is_staff=False)
    assert client.get("/api/budgets").status_code == 401


def test_unknown_paths_and_methods_answer_as_the_api_does(operator: Api) -> None:
    missing = operator.get("/api/nothing/here")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = operator.delete("/api/budgets")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def test_an_unknown_path_is_a_404_for_a_post_without_a_cookie_too(db: None) -> None:
    browserless = Client(enforce_csrf_checks=True)
    missing = browserless.post("/api/agents/none/pause", data={}, content_type="application/json")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


def test_a_format_that_a_path_has_not_is_a_406_that_names_it(operator: Api) -> None:
    refused = operator.get("/api/tenants", format="xml")
    assert refused.status_code == 406
    error = refused.json()["error"]
    assert (error["code"], error["message"]) == ("not_acceptable", "There is no format 'xml' here.")
    assert operator.get("/api/tenants", format="csv").headers["content-type"].startswith("text/csv")


def test_the_description_is_made_once_for_each_format(nobody: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second, and strangers may ask for it."""
    formats = ("application/json", "application/yaml", "application/vnd.oai.openapi+json")
    first = [nobody.client.get("/api/schema", headers={"accept": each}).content for each in formats]

    def again(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it is made again")

    monkeypatch.setattr(SchemaGenerator, "get_schema", again)
    assert [nobody.client.get("/api/schema?lang=de", headers={"accept": each}).content for each in formats] == first


def test_the_description_is_openapi_31_and_names_every_path_and_method(nobody: Api) -> None:
    described = nobody.client.get("/api/schema", headers={"accept": "application/json"}).json()
    assert described["openapi"].startswith("3.1")
    paths = {path: item for path, item in described["paths"].items() if not path.startswith("/v1/")}
    found = {f"{method} {path.removeprefix('/api/')}" for path, item in paths.items() for method in item}
    undescribed = ("schema", "docs", "redoc", "webhooks/stripe")
    lines = {line for line in TABLE if line.partition(" ")[2] not in undescribed}
    assert {re.sub(r"<\w+:(\w+)>", r"{\1}", line) for line in lines} == found


def test_the_documentation_needs_nobody_else_s_server(nobody: Api) -> None:
    assert nobody.get("/api/docs").status_code == 200
    assert b"https://" not in nobody.get("/api/docs/").content
