"""One governed call at a time, over real sockets: what each ending leaves in the ledger and tells the client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from governance.models import Agent, ApiKey, BudgetWindow, Reservation, SpendEntry
from tests import factories as make
from tests.factories import nanos
from tests.product import Product, eventually

LARGE_TO_SMALL = [{"from": ["mistral-large-latest"], "to": "mistral-small-latest"}]


def entry() -> SpendEntry:
    return SpendEntry.objects.get()


def nothing_is_held() -> bool:
    return not BudgetWindow.objects.exclude(reserved_nanos=0).exists()


@contextmanager
def streaming(product: Product, key: str, **fields: Any) -> Iterator[httpx.Response]:
    body = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200}
    with httpx.stream(
        "POST",
        f"{product.url}/v1/chat/completions",
        json=body | {"stream": True} | fields,
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    ) as response:
        yield response


def chunks_of(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_is_settled_at_its_true_cost_before_it_arrives(product: Product) -> None:
    make.budget("1.00")
    response = product.chat(product.key())
    usage = response.json()["usage"]
    # mistral-large: 500 nanodollars an input token, 1500 an output token.
    expected = usage["prompt_tokens"] * 500 + usage["completion_tokens"] * 1500
    window = BudgetWindow.objects.get()
    assert (window.settled_nanos, window.reserved_nanos) == (expected, 0)
    assert (entry().cost_nanos, entry().certainty, entry().agent) == (expected, "confirmed", "invoices")
    assert entry().price_rule.startswith("mistral/mistral-large-2512@")
    assert nanos(response.headers["x-request-cost-usd"]) == expected
    assert nanos(response.headers["x-budget-remaining-usd"]) == nanos("1.00") - expected
    assert response.headers["x-request-id"] == entry().request_id
    assert response.headers["x-budget-state"] == "active"
    # What went as it was asked for needs no word.
    assert entry().metadata == {}


def test_a_stream_carries_its_cost_in_the_usage_chunk(product: Product) -> None:
    make.budget("1.00")
    with streaming(product, product.key()) as response:
        text = response.read().decode()
    last = chunks_of(text)[-1]
    assert nanos(last["usage"]["cost_usd"]) == entry().cost_nanos > 0
    assert entry().certainty == "confirmed"
    assert nothing_is_held()


def test_near_the_soft_cap_the_cheaper_model_serves_and_the_caller_is_told(product: Product) -> None:
    make.budget("0.001", downgrade_rules=LARGE_TO_SMALL)
    ledger_at(product, "0.0009")
    response = product.chat(product.key(), max_tokens=10)
    assert response.headers["x-model-served"] == "mistral-small-latest"
    assert response.headers["x-model-requested"] == "mistral-large-latest"
    assert response.headers["x-downgrade-reason"] == "soft_cap of tenant:acme per day"
    assert product.sandbox.requests[-1].model == "mistral-small-latest"
    charged = entry_of(response)
    assert charged.model_served == "mistral-small-2603"
    assert charged.metadata["decision"] == {
        "action": "degrade",
        "asked": "mistral-large-latest",
        "model": "mistral-small-latest",
        "scope": "tenant:acme",
        "window": "day",
    }


def test_a_downgrade_is_one_step_and_not_off_the_cliff(product: Product) -> None:
    rules = [
        {"from": ["mistral-large-latest"], "to": "mistral-small-latest"},
        {"from": ["*"], "to": "ministral-3b-latest"},
    ]
    make.budget("0.001", downgrade_rules=rules)
    ledger_at(product, "0.0009")
    response = product.chat(product.key(), max_tokens=10)
    assert response.headers["x-model-served"] == "mistral-small-latest"


def test_a_rule_with_a_share_of_its_own_counts_from_there_on(product: Product) -> None:
    rules = [
        {"from": ["*"], "to": "ministral-3b-latest", "at": "0.95"},
        {"from": ["mistral-large-latest"], "to": "mistral-small-latest", "at": "0.5"},
    ]
    make.budget("0.01", downgrade_rules=rules)
    ledger_at(product, "0.006")
    response = product.chat(product.key(), max_tokens=10)
    assert response.headers["x-model-served"] == "mistral-small-latest"
    assert response.headers["x-downgrade-reason"] == "downgrade_rule of tenant:acme per day"
    ledger_at(product, "0.00355")
    response = product.chat(product.key(), max_tokens=10)
    assert response.headers["x-model-served"] == "ministral-3b-latest"
    assert response.headers["x-downgrade-reason"] == "soft_cap of tenant:acme per day"


def test_disabled_tools_are_taken_from_the_request_near_the_soft_cap(product: Product) -> None:
    make.budget("0.01", soft_cap="0.0100", disabled_tools=["search"])
    tools = [{"type": "function", "function": {"name": n, "parameters": {}}} for n in ("search", "lookup")]
    response = product.chat(product.key(), tools=tools)
    assert response.headers["x-tools-disabled"] == "search"
    [sent] = product.sandbox.requests[-1].body["tools"]
    assert sent["function"]["name"] == "lookup"
    forced = {"type": "function", "function": {"name": "search"}}
    refused = product.chat(product.key(), tools=tools, tool_choice=forced)
    assert (refused.status_code, refused.json()["code"]) == (400, "tool_disabled")


def test_at_the_hard_cap_nothing_is_sent(product: Product) -> None:
    make.budget("0.001")
    ledger_at(product, "0.001")
    response = product.chat(product.key())
    assert response.status_code == 402
    body = response.json()
    assert (body["type"], body["code"]) == ("insufficient_quota", "budget_exhausted")
    assert body["error"]["metadata"]["limit"] == "0.001"
    assert "/raises/" in body["error"]["metadata"]["raise_url"]
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    assert not product.sandbox.requests


def test_amounts_are_told_only_where_the_tenant_allows(product: Product) -> None:
    make.tenant(show_amounts=False)
    make.budget("0.001")
    ledger_at(product, "0.001")
    response = product.chat(product.key())
    assert "0.001" not in response.text
    assert "x-budget-limit-usd" not in response.headers
    assert response.json()["error"]["metadata"]["budget"] == "tenant:acme"


def test_what_is_held_by_calls_in_flight_is_a_short_wait(product: Product) -> None:
    make.budget("0.0002", soft_cap=None)
    key = product.key()
    product.sandbox.behave("pace=0.2|output=100")
    with streaming(product, key, max_tokens=100):
        response = product.chat(key)
    assert (response.status_code, response.json()["code"]) == (429, "budget_in_flight")
    assert 1 <= int(response.headers["retry-after"]) <= 5
    assert eventually(nothing_is_held)


def test_max_tokens_are_lowered_to_what_the_money_covers(product: Product) -> None:
    make.budget("0.001", soft_cap=None)
    response = product.chat(product.key(), max_tokens=10_000)
    clamped = int(response.headers["x-max-tokens-clamped"])
    assert 256 <= clamped < 667
    assert product.sandbox.requests[-1].body["max_tokens"] == clamped


def test_a_call_without_max_tokens_gets_the_tenants(product: Product) -> None:
    make.tenant(default_max_tokens=77)
    make.budget("1.00")
    product.post(
        "/v1/chat/completions",
        product.key(),
        model="mistral-large-latest",
        messages=[{"role": "user", "content": "Hi"}],
    )
    assert product.sandbox.requests[-1].body["max_tokens"] == 77


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        ("status=401", 503, "upstream_auth"),
        ("status=402", 503, "provider_spend_limit"),
        ("status=429", 429, "upstream_rate_limit"),
    ],
)
def test_a_refusal_upstream_holds_nothing_and_is_not_the_clients_fault(
    product: Product, behaviour: str, status: int, code: str
) -> None:
    make.budget("1.00")
    product.sandbox.next(behaviour, times=9)
    response = product.chat(product.key())
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert nothing_is_held()
    assert not SpendEntry.objects.exists()
    assert {row.status for row in Reservation.objects.all()} == {"released"}


def test_the_models_word_on_a_bad_request_is_passed_on(product: Product) -> None:
    make.budget("1.00")
    product.sandbox.next("status=422")
    response = product.chat(product.key())
    assert response.status_code == 422
    assert nothing_is_held()


def test_a_field_that_nobody_knows_is_sent_nowhere(product: Product) -> None:
    make.budget("1.00")
    response = product.chat(product.key(), frobnicate=1)
    assert (response.status_code, response.json()["code"], response.json()["param"]) == (
        400,
        "unknown_field",
        "frobnicate",
    )
    assert not product.sandbox.requests


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_failure_after_it_was_sent_may_have_cost_all_of_it(product: Product, status: int) -> None:
    make.budget("1.00")
    product.sandbox.next(f"status={status}", times=9)
    assert product.chat(product.key()).status_code == 502
    for held in Reservation.objects.all():
        row = held.entries.get()
        assert (row.certainty, row.reason, row.cost_nanos) == ("estimated", "upstream_failed", held.amount_nanos)
    assert nothing_is_held()


@pytest.mark.parametrize("behaviour", ["missing-usage", "zero-usage"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_usage_is_charged_at_its_estimate_never_zero(
    product: Product, behaviour: str, stream: bool
) -> None:
    make.budget("1.00")
    product.sandbox.next(behaviour)
    with streaming(product, product.key(), stream=stream) as response:
        response.read()
    reservation = Reservation.objects.get()
    assert entry().cost_nanos == reservation.amount_nanos > 0
    assert (entry().certainty, entry().reason) == ("estimated", "usage_missing")


def test_a_client_that_leaves_in_mid_stream_is_charged_for_what_was_streamed(product: Product) -> None:
    make.budget("1.00")
    product.sandbox.behave("pace=0.05|output=200")
    with streaming(product, product.key()) as response:
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
    assert eventually(lambda: SpendEntry.objects.exists(), within_s=2)
    assert (entry().certainty, entry().reason) == ("estimated", "client_closed")
    assert 0 < entry().cost_nanos < Reservation.objects.get().amount_nanos
    assert eventually(lambda: product.sandbox.requests[-1].closed_early_at is not None, within_s=1)
    assert nothing_is_held()


def test_a_stream_cut_upstream_ends_in_a_way_that_clients_take(product: Product) -> None:
    make.budget("1.00")
    product.sandbox.next("cut-stream")
    with streaming(product, product.key()) as response:
        chunks = chunks_of(response.read().decode())
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["governor"]["stopped"] == "upstream_cut"
    assert (entry().certainty, entry().reason) == ("estimated", "upstream_cut")
    assert nothing_is_held()


def test_an_upstream_that_is_not_there_holds_nothing(product: Product) -> None:
    make.budget("1.00")
    from llm.gateway.application import gateway

    gateway.providers["mistral"].connection.base = "http://127.0.0.1:1"
    response = product.chat(product.key())
    assert (response.status_code, response.json()["code"]) == (502, "upstream_unreachable")
    assert nothing_is_held()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"messages": []}', "model"),
        (b'{"model": "mistral-large-latest"}', "messages"),
        (b'{"model": "mistral-large-latest", "messages": [{"role": "user", "content": "\\ud800"}]}', None),
        (b'{"model": "gpt-9", "messages": [{"role": "user", "content": "hi"}]}', "model"),
        (b'{"model": "mistral-embed", "messages": [{"role": "user", "content": "hi"}]}', "model"),
        (
            b'{"model": "mistral-large-latest", "max_tokens": -1, "messages": [{"role": "user", "content": "hi"}]}',
            "max_tokens",
        ),
        (
            b'{"model": "mistral-large-latest", "messages": [{"role": "user", "content": "hi"}],'
            b' "tools": [{"type": "web_search"}]}',
            "tools.0.type",
        ),
    ],
)
def test_a_bad_body_is_a_400_that_names_the_field_and_leaves_nothing(
    product: Product, body: bytes, param: str | None
) -> None:
    make.budget("1.00")
    headers = {"authorization": f"Bearer {product.key()}"}
    response = httpx.post(f"{product.url}/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["param"] == param
    assert not product.sandbox.requests
    assert not Reservation.objects.exists()


def test_a_body_over_the_limit_is_refused_before_it_is_read(product: Product) -> None:
    connection = http.client.HTTPConnection(product.url.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("authorization", f"Bearer {product.key()}")
    connection.putheader("content-length", str(33 * 1024 * 1024))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer nope", "Basic abc", "Bearer sg_né"])
def test_without_a_good_key_it_is_a_401(product: Product, authorization: str) -> None:
    response = httpx.post(
        f"{product.url}/v1/chat/completions", content=b"{}", headers={"authorization": authorization.encode()}
    )
    assert (response.status_code, response.json()["code"]) == (401, "invalid_api_key")


def test_revoking_a_key_takes_hold_on_the_next_call(product: Product) -> None:
    make.budget("1.00")
    text, key = make.key()
    assert product.chat(text).status_code == 200
    type(key).objects.update(revoked_at=key.created_at)
    response = product.chat(text)
    assert (response.status_code, response.json()["code"]) == (401, "invalid_api_key")
    assert len(product.sandbox.requests) == 1


def test_an_operators_key_cannot_call_models(product: Product) -> None:
    response = product.chat(product.key(role="operator"))
    assert (response.status_code, response.json()["type"]) == (403, "permission_error")


def test_headers_change_neither_the_tenant_nor_the_agent_of_a_bound_key(product: Product) -> None:
    make.budget("1.00")
    other = make.tenant("globex")
    headers = {"x-agent": "churn", "x-tenant": other.slug, "x-user": "ann", "x-session": "s1", "x-task": "t1"}
    product.chat(product.key(), headers=headers)
    row = entry()
    assert (row.tenant.slug, row.agent) == ("acme", "invoices")
    assert (row.user, row.session, row.task) == ("ann", "s1", "t1")


@pytest.mark.parametrize("name", ["authorization", "idempotency-key", "x-agent", "x-user", "x-allow-downgrade"])
def test_a_header_that_is_said_twice_is_a_400_that_names_it(product: Product, name: str) -> None:
    make.budget("1.00")
    key = product.key()
    value = f"Bearer {key}" if name == "authorization" else "true"
    headers = [("authorization", f"Bearer {key}"), ("accept", "a/b"), ("accept", "c/d"), (name, value)]
    if name != "authorization":
        headers.append((name, "false"))
    body = {"model": "mistral-small-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    response = httpx.post(product.url + "/v1/chat/completions", json=body, headers=headers)
    assert (response.status_code, response.json()["param"]) == (400, name)
    assert response.json()["code"] == "sent_twice"
    assert "more than once" in response.json()["message"]
    asked = httpx.get(product.url + "/v1/budget", headers=headers)
    assert (asked.status_code, asked.json()["param"]) == (400, name)
    assert not product.sandbox.requests
    assert httpx.post(product.url + "/v1/chat/completions", json=body, headers=headers[:3]).status_code == 200


def test_a_tenants_key_names_its_agent_and_makes_it_known(product: Product) -> None:
    make.budget("1.00")
    key = product.key(role="tenant")
    assert product.chat(key, headers={"x-agent": "churn"}).status_code == 200
    assert product.chat(key, metadata={"agent": "support"}).status_code == 200
    assert set(Agent.objects.values_list("slug", flat=True)) == {"churn", "support"}
    assert set(SpendEntry.objects.values_list("agent", flat=True)) == {"churn", "support"}
    assert product.chat(key, headers={"x-agent": "x" * 101}).status_code == 400


def test_a_caller_may_refuse_the_cheaper_model(product: Product) -> None:
    make.budget("0.01", soft_cap="0.0100", downgrade_rules=LARGE_TO_SMALL)
    response = product.chat(product.key(), headers={"x-allow-downgrade": "false"})
    assert (response.status_code, response.json()["code"]) == (402, "budget_exhausted")
    bad = product.chat(product.key(), headers={"x-allow-downgrade": "perhaps"})
    assert (bad.status_code, bad.json()["param"]) == (400, "x-allow-downgrade")
    assert not product.sandbox.requests


def test_unknown_paths_and_methods_are_said_so(product: Product) -> None:
    assert product.get("/v1/nothing").status_code == 404
    response = product.get("/v1/chat/completions/")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_the_models_are_those_with_a_price(product: Product) -> None:
    key = product.key()
    models = {card["id"]: card for card in product.get("/v1/models", key).json()["data"]}
    assert "mistral-large-latest" in models["mistral-large-2512"]["aliases"]
    assert product.get("/v1/models/mistral-large-latest/", key).json()["id"] == "mistral-large-2512"
    assert product.get("/v1/models/gpt-9", key).status_code == 404
    assert product.get("/v1/models").status_code == 401


@pytest.mark.parametrize("path", ["/v1/models", "/v1/budget"])
def test_a_key_that_ended_while_it_was_known_reads_nothing(product: Product, path: str) -> None:
    key = product.key()
    assert product.get(path, key).status_code == 200
    ApiKey.objects.update(revoked_at=timezone.now() - timedelta(minutes=1))

    refused = product.get(path, key)

    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_api_key")


def test_the_budget_says_what_is_left(product: Product) -> None:
    make.budget("1.00")
    key = product.key()
    product.chat(key)
    shown = product.get("/v1/budget", key).json()
    spent = entry().cost_nanos
    assert nanos(shown["spent"]) == spent
    assert nanos(shown["remaining"]) == nanos("1.00") - spent
    assert shown["calls_left"] == (nanos("1.00") - spent) // spent
    assert (shown["state"], shown["scope"]) == ("active", "tenant:acme")


def ledger_at(product: Product, dollars: str) -> None:
    """Have the tenant's current window at a figure, by a call reported now."""
    from django.utils import timezone

    from governance import ledger

    ledger.record(make.reporting(dollars), now=timezone.now())


def entry_of(response: httpx.Response) -> SpendEntry:
    return SpendEntry.objects.get(request_id=response.headers["x-request-id"])
