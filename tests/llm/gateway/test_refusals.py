"""Every refused call is a row that says why, and what would have let it through."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from governance import ledger
from governance.actions import rate_limits, refusal_log, stops
from governance.audit import Actor
from governance.ledger.operations import ChangeLimit
from governance.models import Agent, ApiKey, Budget, RefusedCall, Tenant
from governance.rules.refusals import rfc3339
from llm.gateway.application import gateway
from llm.rules import breakers
from tests import factories as make
from tests.product import Product, eventually

SEARCH = [{"type": "function", "function": {"name": "search", "parameters": {}}}]


def paused_agent() -> None:
    make.agent()
    Agent.objects.update(status="paused")


def stopped() -> None:
    stops.stop(tenant=make.tenant(), reason="test", by=Actor("test"), now=timezone.now())


def limited() -> None:
    rate_limits.create(scope_type="platform", requests_per_minute=1, by=Actor("test"), now=timezone.now())
    # An empty bucket lets one call through.
    ledger.reserve(make.reserving("0.01", by=make.caller(make.tenant("globex"))), now=timezone.now())


# (what is so, what is asked, the reason and status).
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], str, int]] = {
    "budget": (lambda: make.budget("0.000001"), {}, "budget_exhausted", 402),
    "platform's budget": (lambda: make.budget("0.000001", scope_type="platform"), {}, "budget_exhausted", 402),
    "agent paused": (paused_agent, {}, "agent_paused", 403),
    "tenant suspended": (lambda: Tenant.objects.update(status="suspended"), {}, "tenant_suspended", 402),
    "stopped": (stopped, {}, "emergency_stop", 403),
    "too fast": (limited, {}, "rate_limit_exceeded", 429),
    "tool": (
        lambda: make.budget("1", soft_cap="0.0001", disabled_tools=["search"]),
        {"tools": SEARCH, "tool_choice": {"type": "function", "function": {"name": "search"}}},
        "tool_disabled",
        400,
    ),
    "no price": (lambda: None, {"model": "nobody-knows"}, "model_not_priced", 400),
    "no bound": (
        lambda: None,
        {"messages": [{"role": "user", "content": [{"type": "document_url", "document_url": "https://x.org/a"}]}]},
        "unbounded_input",
        400,
    ),
    "malformed": (lambda: None, {"messages": 7}, "invalid_type", 400),
}


def the_row() -> RefusedCall:
    assert eventually(RefusedCall.objects.exists)
    return RefusedCall.objects.select_related("tenant", "key").get()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key_header", [{}, {"idempotency-key": "a"}])
def test_a_refused_call_is_one_row_found_by_its_request_id(
    product: Product, case: str, key_header: dict[str, str]
) -> None:
    key = product.key()
    so, asked, reason, status = CASES[case]
    so()
    body = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
    response = product.post("/v1/chat/completions", key, headers={"x-user": "zoe"} | key_header, **(body | asked))
    assert response.status_code == status, response.text
    row = the_row()
    assert (row.reason, row.status, row.request_id) == (reason, status, response.headers["x-request-id"])
    assert (row.tenant.slug, row.agent, row.key and row.key.prefix) == ("acme", "invoices", key[:10])
    shown = product.get(f"/api/refusals/{row.request_id}", key).json()
    assert (shown["reason"], shown["message"]) == (reason, row.sentence)
    assert shown["would_pass"] or case == "malformed"
    if case not in ("malformed", "no bound"):
        assert (row.user, row.model) == ("zoe", asked.get("model", "mistral-large-latest"))
    assert row.tools == (["search"] if case == "tool" else [])


def test_the_figures_of_the_moment_and_what_would_have_passed(product: Product) -> None:
    make.budget("0.001")
    key = product.key()
    ledger.record(make.reporting("0.0009", by=make.caller()), now=timezone.now())
    id = product.chat(key, max_tokens=100).headers["x-request-id"]
    the_row()
    shown = product.get(f"/api/refusals/{id}", key).json()
    [budget] = shown["budgets"]
    assert (budget["scope"], budget["limit"], budget["spent"], budget["remaining"]) == (
        "tenant:acme",
        "0.001",
        "0.0009",
        "0.0001",
    )
    ways = re.fullmatch(r"max_tokens below (\d+), or \$(0\.\d+) more, or at (\S+Z)", shown["would_pass"])
    assert ways, shown["would_pass"]
    assert shown["budgets"][0]["resets_at"] == ways[3]
    # The first way is true, to the token.
    assert product.chat(key, max_tokens=int(ways[1])).status_code == 402
    assert product.chat(key, max_tokens=int(ways[1]) - 1).status_code == 200


def test_so_much_more_would_have_let_it_through(product: Product) -> None:
    budget = make.budget("0.0001", hard_cap="0.9", soft_cap=None)
    key = product.key()
    product.chat(key)
    the_row()
    [shown] = product.get("/api/refusals", key).json()["results"]
    missing = make.nanos(shown["budgets"][0]["missing"])
    for limit_nanos, status in ((budget.limit_nanos + missing - 2, 402), (budget.limit_nanos + missing, 200)):
        Budget.objects.update(limit_nanos=limit_nanos)
        ledger.change_limit(ChangeLimit(budget.pk, limit_nanos, "test", "test"), now=timezone.now())
        assert product.chat(key).status_code == status


def test_a_tenant_is_told_no_figure_of_the_platforms_and_an_operator_all(product: Product) -> None:
    make.budget("0.000123", scope_type="platform")
    key, operator = product.key(), product.key(role="operator")
    product.chat(key)
    path = f"/api/refusals/{the_row().request_id}"
    text = product.get(path, key).text
    assert "0.000123" not in text
    shown = product.get(path, key).json()
    assert shown["would_pass"].startswith("at ")
    assert (shown["scope"], shown["budgets"][0]["limit"], shown["budgets"][0]["budget"]) == ("platform", None, None)
    assert product.get(path, operator).json()["budgets"][0]["limit"] == "0.000123"
    assert "more" in product.get(path, operator).json()["would_pass"]


def test_only_its_own_are_shown_to_a_key(product: Product) -> None:
    product.chat(product.key(), model="nobody-knows")
    id = the_row().request_id
    seen = {
        role: product.get(f"/api/refusals/{id}", product.key(role=role)).status_code
        for role in ("agent", "tenant", "viewer", "operator")
    }
    assert seen == dict.fromkeys(seen, 200)
    for stranger in (product.key(of=make.tenant("globex")), product.key(agent="another")):
        assert product.get(f"/api/refusals/{id}", stranger).status_code == 404
        assert product.get("/api/refusals", stranger).json()["results"] == []


ENCODED = {"content-type": "application/json; charset=utf-16"}
PACKED = {"content-type": "application/json", "content-encoding": "br"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/ocr", "/api/reservations", "/api/llm/route"])
@pytest.mark.parametrize("headers", [ENCODED, PACKED], ids=["charset", "packing"])
def test_a_call_whose_body_is_not_read_is_a_row_too(product: Product, path: str, headers: dict[str, str]) -> None:
    key = product.key()
    response = httpx.post(product.url + path, content=b"{}", headers=headers | {"authorization": f"Bearer {key}"})
    assert response.status_code == 415
    row = the_row()
    assert (row.reason, row.status) == ("unsupported_media_type", 415)
    assert (row.request_id, row.agent) == (response.headers["x-request-id"], "invoices")
    assert row.sentence in response.text
    assert product.get(f"/api/refusals/{row.request_id}", key).json()["key"] == key[:10]


# The last is none.
OF_A_PROXY = {"x-agent": "BOT", "x-user": "u  7", "x-session": "s7", "x-task": "n" * 300}


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/chat/completions", {"messages": [], "model": "m", "zzz": 1}, {}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, {}),
        ("/v1/chat/completions", {}, {"content-type": "application/json; charset=utf-7"}),
        ("/v1/batch/jobs", {}, {}),
        ("/api/llm/route", {"prompt": "Hi", "zzz": 1}, {}),
    ],
    ids=["unknown field", "no model", "charset", "batch", "route"],
)
def test_a_malformed_call_is_a_row_of_whom_its_headers_name(
    product: Product, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    key = product.key(role="tenant")
    assert product.post(path, key, headers=OF_A_PROXY | headers, **body).status_code in (400, 403, 415)
    row = the_row()
    assert (row.agent, row.user, row.session, row.task) == ("bot", "u 7", "s7", "")


@pytest.mark.parametrize("said", [{"metadata": {"agent": "BOT"}, "user": "u 7"}, {}])
def test_a_name_that_is_none_leaves_the_others_in_the_row(product: Product, said: dict[str, Any]) -> None:
    named = {} if said else {"x-agent": "bot", "x-user": "u 7"}
    response = product.chat(product.key(role="tenant"), headers=named | {"x-session": "*"}, **said)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_name")
    row = the_row()
    assert (row.agent, row.user, row.session, row.model) == ("bot", "u 7", "", "mistral-large-latest")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_batch_job_is_a_row(product: Product, method: str) -> None:
    key = product.key()
    headers = {"authorization": f"Bearer {key}"}
    response = httpx.request(method, f"{product.url}/v1/batch/jobs", headers=headers)
    assert response.status_code == 403
    row = the_row()
    assert (row.reason, row.request_id) == ("batch_not_allowed", response.headers["x-request-id"])


@pytest.mark.parametrize("ending", ["revoked_at", "expires_at"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/budget"),
        ("POST", "/v1/batch/jobs"),
        ("POST", "/api/reservations"),
        ("GET", "/api/spend"),
    ],
)
def test_whoever_uses_an_ended_key_is_seen_by_its_tenant_in_a_few_rows(
    product: Product, settings: Any, ending: str, method: str, path: str
) -> None:
    settings.REFUSALS_A_MINUTE = 3
    text, others = product.key(), product.key(role="tenant")
    ApiKey.objects.filter(prefix=text[:10]).update(**{ending: timezone.now()})
    headers = {"authorization": f"Bearer {text}"}
    answers = [httpx.request(method, product.url + path, headers=headers) for _ in range(8)]
    assert {answer.status_code for answer in answers} == {401}

    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = product.get("/api/refusals?reason=key_invalid", others).json()["results"]
        return found

    # Of at most two minutes.
    assert eventually(lambda: sum(1 + row["more"] for row in rows()) == 8)
    assert len(rows()) <= 6
    assert {(row["agent"], row["key"], row["status"]) for row in rows()} == {("invoices", text[:10], 401)}
    assert {row["would_pass"] for row in rows()} == {"with a key that is neither revoked nor expired"}
    assert {row["request_id"] for row in rows()} < {answer.headers["x-request-id"] for answer in answers}


PLACE = "mistral/mistral-large-2512"


def cools_down(tenant: int, now: float) -> None:
    gateway.breakers.cool_down(PLACE, tenant, now + 20)


def has_failed(tenant: int, now: float) -> None:
    for _ in range(breakers.FAILURES):
        gateway.breakers.failed(PLACE, tenant, now)


def is_being_tried(tenant: int, now: float) -> None:
    has_failed(tenant, now - breakers.OPEN_S)
    for _ in range(breakers.PROBES):
        gateway.breakers.admits(PLACE, tenant, now)


@pytest.mark.parametrize(
    ("so", "reason", "status", "wait_s"),
    [
        (cools_down, "upstream_rate_limit", 429, 20),
        (has_failed, "breaker_open", 503, breakers.OPEN_S),
        (is_being_tried, "breaker_open", 503, breakers.PROBE_S),
    ],
)
def test_a_call_whose_model_is_left_alone_is_a_row_that_says_until_when(
    product: Product, so: Callable[[int, float], None], reason: str, status: int, wait_s: float
) -> None:
    make.budget("1.00")
    key, now = product.key(), time.time()
    so(make.tenant().pk, now)
    body = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
    response = product.post("/v1/chat/completions", key, headers={"x-allow-downgrade": "false"}, **body)
    assert (response.status_code, response.json()["code"]) == (status, reason)
    assert not product.sandbox.requests
    row = the_row()
    assert (row.reason, row.status, row.request_id) == (reason, status, response.headers["x-request-id"])
    assert (row.sentence, row.model, row.wanted_nanos) == (response.json()["message"], "mistral-large-latest", None)
    until = datetime.fromtimestamp(math.ceil(now + wait_s), UTC)
    assert row.free_at == until
    assert product.get(f"/api/refusals/{row.request_id}", key).json()["would_pass"] == f"at {rfc3339(until)}"
    # Another model answers, and that is no refusal.
    assert product.chat(key).status_code == 200
    refusal_log.log.flush()
    assert RefusedCall.objects.count() == 1


def test_an_answered_call_and_the_models_own_refusal_are_no_rows(product: Product) -> None:
    make.budget("1.00")
    key = product.key()
    assert product.chat(key).status_code == 200
    product.sandbox.next("status=429", times=9)
    assert product.chat(key).status_code == 429
    assert product.get("/v1/nothing", key).status_code == 404
    for path in ("/v1/chat/completions", "/v1/batch/jobs", "/api/reservations"):
        assert product.post(path, "sg_unknown").status_code == 401
        assert httpx.post(product.url + path, content=b"{}", headers=PACKED).status_code in (401, 415)
    refusal_log.log.flush()
    assert not RefusedCall.objects.exists()


def test_a_routed_prompt_is_one_row_under_the_id_that_it_was_answered_with(product: Product) -> None:
    make.budget("0.000001")
    key = product.key()
    for body in ({"prompt": "Hi"}, {"prompt": 7, "messages": []}):
        RefusedCall.objects.all().delete()
        response = product.post("/api/llm/route", key, **body)
        assert response.status_code in (400, 402)
        row = the_row()
        assert row.request_id == response.headers["x-request-id"] == response.json()["error"]["request_id"]
        refusal_log.log.flush()
        assert RefusedCall.objects.count() == 1
