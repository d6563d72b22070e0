"""Every refused call is a row that says why, and what would have let it through."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from governance import ledger
from governance.actions import rate_limits, refusal_log, stops
from governance.audit import Actor
from governance.ledger.operations import ChangeLimit
from governance.models import Agent, Budget, RefusedCall, Tenant
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


def test_an_answered_call_and_the_models_own_refusal_are_no_rows(product: Product) -> None:
    make.budget("1.00")
    key = product.key()
    assert product.chat(key).status_code == 200
    product.sandbox.next("status=429", times=9)
    assert product.chat(key).status_code == 429
    assert product.get("/v1/nothing", key).status_code == 404
    assert product.post("/v1/chat/completions", "sg_unknown").status_code == 401
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
