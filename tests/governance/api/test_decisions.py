from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from governance import ledger
from governance.actions import tenancy
from governance.audit import Actor
from governance.models import BudgetWindow, Reservation
from tests import factories
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("priced")

ASK: dict[str, Any] = {"model": "large", "estimated_cost": "0.10"}


def spend(cost: str, **caller: Any) -> None:
    ledger.record(factories.reporting(cost, by=factories.caller(**caller)), now=timezone.now())


def decide(api: Api, **change: Any) -> dict[str, Any]:
    response = api.post("/api/decisions", ASK | change)
    assert response.status_code == 200, response.content
    return dict(response.json())


def test_each_action_of_the_decision_table(agent: Api) -> None:
    factories.budget(
        "1",
        downgrade_rules=[{"from": ["large"], "to": "small"}],
        disabled_tools=["web_search"],
    )
    assert decide(agent)["action"] == "allow"
    spend("0.75")
    degraded = decide(agent)
    assert (degraded["action"], degraded["suggested_model"], degraded["allowed"]) == (
        "degrade",
        "small",
        True,
    )
    assert decide(agent, model="tiny", tools=["web_search", "sum"])["disabled_tools"] == ["web_search"]
    assert decide(agent, model="tiny", tools=["web_search"])["action"] == "disable-tools"
    assert decide(agent, model="tiny")["action"] == "warn"
    stopped = decide(agent, estimated_cost="0.26", model="tiny")
    assert (stopped["action"], stopped["allowed"], stopped["reason"]) == (
        "hard-stop",
        False,
        "budget_exhausted",
    )
    assert (stopped["limit"], stopped["remaining"], stopped["scope"]) == ("1.00", "0.25", "tenant:acme")
    assert "used up" in stopped["warning"]


def test_a_dry_run_writes_nothing(agent: Api) -> None:
    factories.budget("1")
    decide(agent)
    assert not BudgetWindow.objects.exists()
    assert not Reservation.objects.exists()


def test_a_downgrade_says_by_which_rule_and_from_which_share_on(agent: Api) -> None:
    budget = factories.budget(
        "1",
        downgrade_rules=[
            {"from": ["*"], "to": "tiny", "at": "0.95"},
            {"from": ["large", "huge"], "to": "small"},
            {"from": ["medium"], "to": "small", "at": "0.5"},
        ],
    )
    spend("0.70")
    assert decide(agent)["downgrades"] == [
        {
            "budget": budget.pk,
            "scope": "tenant:acme",
            "window": "day",
            "from": ["huge", "large"],
            "to": "small",
            "at": 0.8,
        }
    ]
    early = decide(agent, model="medium", estimated_cost="0.05")
    assert (early["action"], early["reason"], early["suggested_model"]) == ("degrade", "downgrade_rule", "small")
    assert early["warning"].startswith("The budget asks for a cheaper model. tenant:acme has spent $0.70 of $1.00")
    assert early["downgrades"][0]["at"] == 0.5
    [late] = decide(agent, estimated_cost="0.25")["downgrades"]
    assert (late["from"], late["to"], late["at"]) == (["*"], "tiny", 0.95)
    assert decide(agent, estimated_cost="0.01")["downgrades"] == []


def test_a_warning_says_when_the_budget_runs_out_and_resets_and_a_plain_yes_does_not(agent: Api) -> None:
    now = timezone.now()
    budget = factories.budget("1", window="month")
    factories.kept_forecast(budget, now=now, runs_out_in=timedelta(minutes=5))
    plain = decide(agent)
    assert (plain["action"], plain["runs_out_at"]) == ("allow", None)
    spend("0.85")
    near = decide(agent, estimated_cost="0.01")
    assert near["action"] == "warn"
    assert near["warning"].startswith(
        f"The budget is near its limit. tenant:acme has spent $0.85 of $1.00 this month; it runs out about"
        f" {near['runs_out_at'][:16]}"
    )
    assert near["warning"].endswith(f"at the usual pace and resets at {near['resets_at']}.")
    large = agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.50"})
    assert large.status_code == 402
    assert f"runs out about {near['runs_out_at'][:16]}" in large.json()["error"]["message"]
    assert large.json()["error"]["decision"]["runs_out_at"] == near["runs_out_at"]


def test_when_a_budget_of_the_platform_runs_out_is_nobodys_business(agent: Api, operator: Api) -> None:
    budget = factories.budget("1", scope_type="platform")
    factories.kept_forecast(budget, now=timezone.now(), runs_out_in=timedelta(seconds=1))
    factories.kept_forecast(
        factories.budget("100", window="month"), now=timezone.now(), runs_out_in=timedelta(minutes=5)
    )
    spend("0.85")
    near = decide(agent, estimated_cost="0.01")
    assert (near["action"], near["runs_out_at"]) == ("warn", None)
    assert "runs out" not in near["warning"]


def test_it_says_in_flight_while_other_calls_hold_the_rest(agent: Api) -> None:
    factories.budget("1", soft_cap=None)
    ledger.reserve(factories.reserving("0.95"), now=timezone.now())
    found = decide(agent)
    assert (found["action"], found["reason"], found["allowed"]) == ("in-flight", "budget_in_flight", False)
    assert found["budgets"][0]["reserved"] == "0.95"


def test_token_counts_are_priced_and_clamped(agent: Api) -> None:
    factories.budget("1", soft_cap=None)
    sized = {"input_tokens": 100_000, "max_tokens": 1_000_000}
    found = agent.post("/api/decisions", {"model": "large", **sized}).json()
    assert (found["clamped"], found["max_tokens"], found["estimated_cost"]) == (True, 450_000, "1.00")
    unpriced = agent.post("/api/decisions", {"model": "mystery", **sized}).json()
    assert (unpriced["allowed"], unpriced["reason"]) == (False, "model_not_priced")
    default = agent.post("/api/decisions", {"model": "large", "input_tokens": 1}).json()
    assert default["max_tokens"] == 4096


@pytest.mark.parametrize(
    "identity",
    [
        {"user": "u1"},
        {"scopes": {"user": "u1"}},
        {"scopes": ["user:u1"]},
        {"scopes": ["user:u1", "user: u1"]},
        {"scopes": [{"scope_type": "user", "scope_key": "u1"}]},
    ],
)
def test_scopes_or_identity_name_who_it_is_for(tenant: Api, identity: dict[str, Any]) -> None:
    factories.budget("0.05", scope_type="user", scope_key="u1")
    assert decide(tenant)["allowed"]
    assert decide(tenant, **identity)["scope"] == "user:u1"


def test_a_paused_agent_is_stopped_before_any_budget_is_looked_at(agent: Api) -> None:
    tenancy.pause_agent(agent=factories.agent(), reason="x", by=Actor("test"), now=timezone.now())
    found = decide(agent)
    assert (found["allowed"], found["reason"]) == (False, "agent_paused")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"estimated_cost": "x"}, "estimated_cost"),
        ({"estimated_cost": None}, "estimated_cost"),
        ({"input_tokens": 5}, "estimated_cost"),
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools.0"),
        ({"scopes": ["planet:earth"]}, "scopes"),
        ({"scopes": 5}, "scopes"),
        ({"scopes": {"user": 5}}, "scopes"),
        ({"scopes": {"user": "a"}, "user": "b"}, "scopes"),
        ({"scopes": ["user:a", "user:b"]}, "scopes"),
        ({"scopes": [{"scope_type": "task", "scope_key": "a"}, "task:b"]}, "scopes"),
        ({"scopes": {"agent": "churn"}}, "agent"),
        ({"tenant": "globex"}, "tenant"),
        ({"max_token": 5}, "max_token"),
        ({"allow_downgrade": "perhaps"}, "allow_downgrade"),
    ],
)
def test_a_bad_question_is_a_400_that_names_the_field(agent: Api, change: dict[str, Any], param: str) -> None:
    response = agent.post("/api/decisions", ASK | change)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.content


def test_it_needs_a_cost_or_token_counts(agent: Api) -> None:
    response = agent.post("/api/decisions", {"model": "large"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "estimated_cost")


def test_a_viewer_asks_for_a_named_tenant(viewer: Api) -> None:
    factories.tenant()
    assert viewer.post("/api/decisions", ASK).json()["error"]["param"] == "tenant"
    assert decide(viewer, tenant="acme")["allowed"]
