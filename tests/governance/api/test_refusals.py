"""GET /api/refusals, and what the two-phase protocol puts there."""

from __future__ import annotations

import csv
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from governance.actions import refusal_log
from governance.actions.refusal_log import RefusalLog
from governance.models import RefusedCall
from governance.queries import replays, savings
from governance.queries.spend import EVERYTHING, TimeRange
from governance.rules import policy
from tests import factories
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("priced", "log")
NAMED = {"agent": "bot", "user": "u 1", "session": "\u00e9", "task": "t", "model": "large"}
ASK: dict[str, Any] = {"model": "large", "estimated_cost": "0.10", "user": "zoe", "tools": ["search"]}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> RefusalLog:
    own = RefusalLog()
    monkeypatch.setattr(refusal_log, "log", own)
    return own


def listed(api: Api, **query: Any) -> list[str]:
    return [row["request_id"] for row in api.get("/api/refusals", **query).json()["results"]]


def test_a_refused_reservation_is_found_by_its_request_id(agent: Api, log: RefusalLog) -> None:
    factories.budget("0.05")
    response = agent.post("/api/reservations", ASK)
    log.flush()
    shown = agent.get(f"/api/refusals/{response['x-request-id']}").json()
    assert {name: shown[name] for name in ("reason", "status", "agent", "user", "model", "tools", "cost")} == {
        "reason": "budget_exhausted",
        "status": 402,
        "agent": "invoices",
        "user": "zoe",
        "model": "large",
        "tools": ["search"],
        "cost": "0.10",
    }
    assert (shown["would_pass"], shown["budgets"][0]["missing"]) == ("$0.05 more", "0.05")
    assert shown["key"] == agent.key.prefix  # type: ignore[union-attr]


def test_bounds_and_malformed_bodies_are_refusals_too(agent: Api, operator: Api, viewer: Api, log: RefusalLog) -> None:
    for api, body in (
        (agent, ASK | {"model": "mystery", "input_tokens": 1}),
        (agent, {"model": 7}),
        (operator, {"model": "large", "tenant": "acme"}),
        # Nobody's calls: no such tenant, and a role that makes none.
        (operator, ASK | {"tenant": "nobody"}),
        (viewer, ASK),
    ):
        assert api.post("/api/reservations", body).status_code in (400, 403)
    log.flush()
    assert list(RefusedCall.objects.order_by("pk").values_list("reason", "agent", "model")) == [
        ("surplus_field", "invoices", "mystery"),
        ("invalid", "invoices", ""),
        ("missing_field", "", "large"),
    ]


@pytest.mark.parametrize(
    ("body", "code", "would_pass"),
    [
        ({"estimated_cost": "1"}, "missing_field", "with model"),
        ({"model": "large"}, "missing_field", "with estimated_cost"),
        (ASK | {"zzz": 1}, "unknown_field", "without zzz"),
        (ASK | {"input_tokens": 4}, "surplus_field", "without estimated_cost"),
        (ASK | {"ttl_s": 0}, "invalid", "with another ttl_s"),
        (ASK | {"tools": [5]}, "invalid", "with another tools.0"),
        (ASK | {"estimated_cost": "99999999999999"}, "out_of_bounds", "with another estimated_cost"),
    ],
)
def test_a_malformed_call_is_told_what_it_would_pass_with(
    agent: Api, log: RefusalLog, body: dict[str, Any], code: str, would_pass: str
) -> None:
    response = agent.post("/api/reservations", body)
    assert response.status_code in (400, 422)
    assert response.json()["error"]["code"] == code
    log.flush()
    shown = agent.get(f"/api/refusals/{response['x-request-id']}").json()
    assert (shown["reason"], shown["would_pass"]) == (code, would_pass)


def test_more_of_a_hold_is_asked_for_by_saying_so(agent: Api, log: RefusalLog) -> None:
    held = agent.post("/api/reservations", ASK).json()["id"]
    response = agent.post(f"/api/reservations/{held}/extend", {})
    log.flush()
    shown = agent.get(f"/api/refusals/{response['x-request-id']}").json()
    assert (shown["reason"], shown["would_pass"]) == ("missing_field", "with more")


def test_a_hold_that_may_not_grow_is_one_and_what_is_resolved_or_replayed_none(agent: Api, log: RefusalLog) -> None:
    factories.budget("0.15")
    held = agent.post("/api/reservations", ASK).json()["id"]
    assert agent.post(f"/api/reservations/{held}/extend", {"more": "1"}).status_code == 402
    log.flush()
    row = RefusedCall.objects.get()
    assert (row.reason, row.agent, row.user) == ("budget_exhausted", "invoices", "zoe")
    again = {"content_type": "application/json", "headers": {"idempotency-key": "k"}}
    for _ in range(2):
        assert agent.client.post("/api/reservations", ASK, **again).status_code in (402, 429)
    assert agent.post(f"/api/reservations/{held}/release").status_code == 200
    assert agent.post(f"/api/reservations/{held}/extend", {"ttl_s": 5}).status_code == 409
    log.flush()
    assert RefusedCall.objects.count() in (2, 3)


def test_of_a_hold_that_may_not_grow_what_it_held_is_not_counted_again(agent: Api, log: RefusalLog) -> None:
    """Of $1 there were $0.90 held and charged; three times $0.20 more were asked for. All of that is $1.50."""
    budget = factories.budget("1")
    held = agent.post("/api/reservations", ASK | {"estimated_cost": "0.90"}).json()["id"]
    for _ in range(3):
        assert agent.post(f"/api/reservations/{held}/extend", {"more": "0.20"}).status_code == 402
    assert agent.post(f"/api/reservations/{held}/settle", {"cost": "0.90"}).status_code == 200
    log.flush()
    now = timezone.now()
    period = TimeRange(now - timedelta(hours=1), now + timedelta(hours=1))
    saved = savings.of_period(reader=EVERYTHING, period=period, now=now)
    assert (saved.prevented_nanos, saved.prevented) == (factories.nanos("0.60"), 3)
    typed = policy.of(policy.columns_of(budget))
    shown = replays.preview(budget, typed=typed, limit_nanos=factories.nanos("10"), now=now)
    assert (shown.now.spent_nanos, shown.then.spent_nanos) == (factories.nanos("0.90"), factories.nanos("1.50"))


@pytest.mark.parametrize(
    "said",
    [
        {"agent": "BOT", "user": "  u   1 ", "session": "e\u0301", "task": " t", "model": " large"},
        {"scopes": {"agent": "BOT", "user": "u 1", "session": "e\u0301", "task": "t"}, "model": "large "},
        {"scopes": ["agent:bot", "user:u  1", "session:\u00e9"], "task": "t", "model": "large"},
    ],
    ids=["spellings", "scopes", "a list of scopes"],
)
@pytest.mark.parametrize("wrong", [{}, {"zzz": 1}], ids=["budget", "malformed"])
@pytest.mark.parametrize("who", ["operator", "tenant"])
def test_a_refusal_has_the_names_that_were_decided_on(
    everyone: dict[str, Api], log: RefusalLog, said: dict[str, Any], wrong: dict[str, Any], who: str
) -> None:
    factories.budget("0.05")
    whose = {"tenant": " acme "} if who == "operator" or "scopes" not in said else {}
    response = everyone[who].post("/api/reservations", {"estimated_cost": "0.10", **said, **whose, **wrong})
    assert response.status_code == (400 if wrong else 402)
    log.flush()
    row = RefusedCall.objects.get()
    assert {name: getattr(row, name) for name in NAMED} == NAMED
    assert row.tenant.slug == "acme"
    bots = Api(*factories.key(agent_slug="bot"))
    assert bots.get(f"/api/refusals/{response['x-request-id']}").status_code == 200
    assert listed(everyone["tenant"], agent="bot") == [row.request_id]


def test_an_operators_refusal_is_the_tenants_that_its_scopes_name(operator: Api, log: RefusalLog) -> None:
    factories.tenant()
    factories.budget("0.05")
    body = {"model": "large", "estimated_cost": "0.10", "scopes": ["tenant:acme", "agent:bot"]}
    assert operator.post("/api/reservations", body).status_code == 402
    log.flush()
    row = RefusedCall.objects.get()
    assert (row.tenant.slug, row.agent) == ("acme", "bot")


@pytest.mark.parametrize(
    ("said", "agent"),
    [
        ({"agent": "x" * 300}, ""),
        ({"agent": ["a"]}, ""),
        ({"agent": "*"}, ""),
        ({"scopes": {"agent": "a", "zzz": "b"}}, ""),
        # Of another tenant is none that this key can call for; its own agent is.
        ({"tenant": "globex", "agent": "bot"}, "bot"),
    ],
    ids=["too long", "a list", "each", "an unknown scope", "another tenant"],
)
def test_what_is_no_name_is_in_no_row_and_the_rest_is(
    tenant: Api, log: RefusalLog, said: dict[str, Any], agent: str
) -> None:
    assert tenant.post("/api/reservations", ASK | said).status_code == 400
    log.flush()
    row = RefusedCall.objects.get()
    assert (row.tenant.slug, row.agent, row.user, row.model) == ("acme", agent, "zoe", "large")


def test_a_hold_that_is_not_there_is_told_as_it_is(agent: Api, viewer: Api, log: RefusalLog) -> None:
    path = f"/api/reservations/{uuid4()}/extend"
    long = {"content_type": "application/json", "headers": {"idempotency-key": "k" * 300}}
    assert viewer.post(path, {"more": "1"}).status_code == 403
    assert agent.post(path, {"more": "1"}).status_code == 404
    assert agent.client.post(path, {"more": "1"}, **long).status_code == 400
    log.flush()
    # A viewer makes no calls.
    assert [(row.status, row.agent) for row in RefusedCall.objects.all()] == [(400, "invoices")]


@pytest.mark.parametrize("who", ["viewer key", "viewer", "billing", "tenant staff", "nobody"])
def test_who_may_make_no_calls_for_a_tenant_puts_nothing_into_its_list(
    viewer: Api, agent: Api, log: RefusalLog, who: str
) -> None:
    factories.tenant("rival")
    client = viewer.client
    if who != "viewer key":
        roles = [] if who == "nobody" else [who]
        person = factories.person("eve", *roles, of=factories.tenant() if who == "tenant staff" else None)
        client = Client()
        client.force_login(person)
    for tenant in ("rival", "acme"):
        for path in ("/api/reservations", "/api/llm/route", f"/api/reservations/{uuid4()}/extend"):
            body = ASK | {"tenant": tenant, "user": "injected"}
            assert client.post(path, body, content_type="application/json").status_code == 403
    log.flush()
    assert not RefusedCall.objects.exists()


def test_what_cannot_be_noted_is_refused_all_the_same(
    agent: Api, log: RefusalLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(log, "note", fail)
    assert agent.post("/api/reservations", {"model": 7}).status_code == 400
    assert "could not be noted" in caplog.text


def test_a_dry_run_is_no_refused_call(agent: Api, log: RefusalLog) -> None:
    factories.budget("0.05")
    agent.post("/api/decisions", ASK)
    log.flush()
    assert not RefusedCall.objects.exists()


def test_filters_pages_and_csv(operator: Api, tenant: Api, stranger: Api) -> None:
    now = timezone.now()
    rows = [("r-1", "acme", "invoices", "paused"), ("r-2", "acme", "mail", "stopped"), ("r-3", "globex", "", "paused")]
    for age, (id, slug, agent, reason) in enumerate(rows):
        RefusedCall.objects.create(
            request_id=id,
            tenant=factories.tenant(slug),
            agent=agent,
            user=f"of {id}",
            reason=reason,
            model=f"m-{id}",
            status=403,
            refused_at=now - timedelta(hours=age),
        )
    assert listed(operator) == ["r-3", "r-2", "r-1"]
    assert listed(tenant) == ["r-2", "r-1"]
    assert listed(tenant, tenant="globex") == listed(stranger, agent="mail") == []
    for query, found in (
        ({"tenant": "globex"}, ["r-3"]),
        ({"agent": "mail"}, ["r-2"]),
        # Found as it is kept, however it is spelled.
        ({"agent": " Mail"}, ["r-2"]),
        ({"user": "of r-3"}, ["r-3"]),
        ({"session": "s"}, []),
        ({"status": 403}, ["r-3", "r-2", "r-1"]),
        ({"status": 402}, []),
        ({"reason": "paused"}, ["r-3", "r-1"]),
        ({"model": "m-r-2"}, ["r-2"]),
        ({"request_id": "r-1"}, ["r-1"]),
        ({"from": (now - timedelta(minutes=90)).isoformat()}, ["r-2", "r-1"]),
        ({"to": (now - timedelta(minutes=30)).isoformat()}, ["r-3", "r-2"]),
    ):
        assert listed(operator, **query) == found, query
    page = operator.get("/api/refusals", page_size=2).json()
    assert [row["request_id"] for row in operator.get(page["next"]).json()["results"]] == ["r-1"]
    table = operator.client.get("/api/refusals", headers={"accept": "text/csv"}).getvalue().decode()
    assert [row["request_id"] for row in csv.DictReader(StringIO(table))] == ["r-3", "r-2", "r-1"]
    assert operator.get("/api/refusals/nothing").status_code == 404


def test_what_an_operator_was_answered_is_not_replayed_to_the_tenant(operator: Api, tenant: Api) -> None:
    factories.budget("9.000123", scope_type="platform")
    sent = {"content_type": "application/json", "headers": {"idempotency-key": "k"}}
    first = operator.client.post("/api/reservations", ASK | {"tenant": "acme"}, **sent)
    assert (first.status_code, "9.000123" in first.content.decode()) == (201, True)
    again = tenant.client.post("/api/reservations", ASK | {"tenant": "acme"}, **sent)
    assert again.status_code == 422
    assert "9.000123" not in again.content.decode()


def test_what_all_use_of_the_platforms_minute_is_told_to_nobody(
    agent: Api, stranger: Api, operator: Api, log: RefusalLog
) -> None:
    made = operator.post("/api/rate-limits", {"scope_type": "platform", "dollars_per_minute": "6.00"})
    assert made.status_code == 201
    ask, waits, warnings, ends = {"model": "large", "estimated_cost": "6.00"}, [], [], []
    for used in ("0.50", "1.00", "2.00"):
        assert stranger.post("/api/reservations", ask | {"estimated_cost": used}).status_code == 201
        asked_at = timezone.now()
        refused = agent.post("/api/reservations", ask)
        log.flush()
        row = RefusedCall.objects.get(request_id=refused["x-request-id"])
        assert row.free_at is not None
        ends.append(round((row.free_at - asked_at).total_seconds()))
        waits.append(refused["retry-after"])
        warnings.append(agent.post("/api/decisions", ask).json()["warning"])
    assert waits == ["59"] * 3
    assert ends == [59] * 3
    assert set(warnings) == {"Too fast for a limit a minute of the platform; try again in 59 s."}
