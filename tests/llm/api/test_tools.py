"""Tools of an agent's own: priced by operators, held, settled and reported by the call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from governance import ledger, ports
from governance.actions import refusal_log
from governance.models import Alert, AuditEntry, BudgetWindow, RefusedCall, Reservation, SpendEntry
from governance.rules import price_sentence
from governance.rules.calls import Usage
from governance.upkeep import reconcile
from llm.catalogue import model_alerts, snapshot
from llm.models import Model, ModelAlias, Price
from tests import factories
from tests.factories import nanos
from tests.governance.api.conftest import Api, persona

SEARCH = "web-search"


@pytest.fixture(autouse=True)
def fresh_snapshot(db: None) -> Iterator[None]:
    snapshot.forget()
    yield
    snapshot.forget()
    assert reconcile.check() == []


@pytest.fixture
def operator(db: None) -> Api:
    return persona("operator")


@pytest.fixture
def agent(db: None) -> Api:
    return persona("agent")


def price(operator: Api, dollars: str = "0.005", **fields: Any) -> dict[str, Any]:
    made = operator.post("/api/tools", {"name": SEARCH, "usd_per_call": dollars, **fields})
    assert made.status_code == 201, made.content
    # What a transaction's end does, which no test has.
    snapshot.forget()
    return dict(made.json())


def reserve(agent: Api, calls: int = 3, **fields: Any) -> Any:
    return agent.post("/api/reservations", {"tool": SEARCH, "calls": calls, **fields})


def code(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def window() -> tuple[int, int]:
    row = BudgetWindow.objects.get()
    return row.settled_nanos, row.reserved_nanos


def test_a_tool_is_priced_held_settled_by_what_ran_and_shown(operator: Api, agent: Api) -> None:
    assert price(operator) == {"name": SEARCH, "status": "ga", "usd_per_call": "0.005"}
    assert [row["name"] for row in agent.get("/api/tools").json()["results"]] == [SEARCH]
    factories.budget("1")

    held = reserve(agent, user="u1").json()
    assert {name: held[name] for name in ("amount", "model", "tool", "model_requested", "action")} == {
        "amount": "0.015",
        "model": SEARCH,
        "tool": SEARCH,
        "model_requested": SEARCH,
        "action": "allow",
    }
    assert window() == (0, nanos("0.015"))
    assert agent.get(f"/api/reservations/{held['id']}").json()["tool"] == SEARCH
    settled = agent.post(f"/api/reservations/{held['id']}/settle", {"calls": 2}).json()
    assert (settled["cost"], settled["overage"]) == ("0.01", "0.00")
    assert window() == (nanos("0.01"), 0)

    line = agent.get("/api/spend", provider="tool", model=SEARCH).json()["results"][0]
    shown = {name: line[name] for name in ("provider", "model_served", "unit", "units", "cost", "user", "reason")}
    assert shown == {
        "provider": "tool",
        "model_served": SEARCH,
        "unit": "call",
        "units": 2,
        "cost": "0.01",
        "user": "u1",
        "reason": "agent_settled",
    }
    entry = SpendEntry.objects.get()
    rates = ports.rates_of(entry.price_rule, at=entry.occurred_at)
    assert rates is not None
    used = Usage("tool", SEARCH, unit="call", units=2)
    said = price_sentence.sentence(used, rates, cost_nanos=entry.cost_nanos)
    assert said == "2 calls × $0.005 = $0.01"


def test_spend_is_told_by_tool(operator: Api, agent: Api) -> None:
    price(operator)
    for number, body in enumerate(({"tool": SEARCH}, {"tool": SEARCH, "calls": 4}, {"model": "m", "cost": "0.5"})):
        assert agent.post("/api/spend", {"request_id": f"r{number}", **body}).status_code == 201
    by_tool = agent.get("/api/spend/summary", group_by="tool").json()
    assert [(row["tool"], row["cost"], row["calls"]) for row in by_tool["results"]] == [
        ("", "0.50", 1),
        (SEARCH, "0.025", 2),
    ]
    assert agent.get("/api/spend/summary", group_by="tool", provider="tool").json()["total"] == "0.025"


def test_a_tool_in_use_is_no_model_that_is_missing(operator: Api, agent: Api) -> None:
    price(operator)
    assert agent.post("/api/spend", {"request_id": "r", "tool": SEARCH}).status_code == 201
    assert {name for _, name in model_alerts.in_use(now=timezone.now())} & {SEARCH} == set()
    model_alerts.look(now=timezone.now())
    assert not Alert.objects.filter(subject__contains=SEARCH).exists()


def test_what_has_no_price_is_refused_by_name_and_never_free(operator: Api, agent: Api) -> None:
    refused = reserve(agent)
    assert code(refused) == (400, "tool_not_priced", "tool")
    assert f"'{SEARCH}'" in refused.json()["error"]["message"]
    assert code(agent.post("/api/spend", {"request_id": "r", "tool": SEARCH})) == (400, "tool_not_priced", "tool")
    dry = agent.post("/api/decisions", {"tool": SEARCH}).json()
    assert (dry["allowed"], dry["reason"], dry["tool"]) == (False, "tool_not_priced", SEARCH)
    # A price that is still to come does not count yet, and that of a retired one no more.
    price(operator, effective_from="2100-01-01")
    assert code(reserve(agent))[1] == "tool_not_priced"
    price(operator)
    assert reserve(agent).status_code == 201
    Model.objects.filter(name=SEARCH).update(status=Model.Status.RETIRED)
    snapshot.forget()
    assert code(reserve(agent))[1] == "tool_not_priced"
    assert not SpendEntry.objects.exists()


def test_a_refused_tool_is_in_the_log_of_refusals_with_its_name(agent: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_log, "log", refusal_log.RefusalLog())
    reserve(agent)
    refusal_log.log.flush()
    row = RefusedCall.objects.get()
    assert (row.model, row.tools, row.reason) == (SEARCH, [SEARCH], "tool_not_priced")


def test_a_tool_that_a_budget_takes_away_is_refused_from_its_soft_cap_on(operator: Api, agent: Api) -> None:
    price(operator)
    factories.budget("1", disabled_tools=[SEARCH], downgrade_rules=[{"from": "*", "to": "mistral-small-latest"}])
    ledger.record(factories.reporting("0.5"), now=timezone.now())
    held = reserve(agent)
    assert held.status_code == 201
    assert agent.post(f"/api/reservations/{held.json()['id']}/release").status_code == 200
    ledger.record(factories.reporting("0.35"), now=timezone.now())
    refused = reserve(agent)
    assert code(refused) == (400, "tool_disabled", "tool")
    assert refused.json()["error"]["message"].startswith("tool names a tool that is taken away near the budget's limit")
    assert refused.json()["error"]["decision"]["disabled_tools"] == []
    assert Reservation.objects.filter(status="pending").count() == 0


def test_a_tool_is_no_model_that_another_could_do_the_job_of(operator: Api, agent: Api) -> None:
    price(operator)
    factories.budget("1", downgrade_rules=[{"from": "*", "to": "mistral-small-latest"}])
    ledger.record(factories.reporting("0.9"), now=timezone.now())
    held = reserve(agent, allow_downgrade=False).json()
    assert (held["model"], held["action"]) == (SEARCH, "warn")
    over = reserve(agent, calls=30)
    assert code(over)[:2] == (402, "budget_exhausted")
    assert over.json()["error"]["decision"]["tool"] == SEARCH


def test_a_price_counts_from_its_moment_on_and_a_hold_is_settled_at_that_of_when_it_was_made(
    operator: Api, agent: Api
) -> None:
    price(operator)
    held = reserve(agent, calls=1).json()
    # Dearer since; nothing is charged that was not held.
    price(operator, "0.008")
    settled = agent.post(f"/api/reservations/{held['id']}/settle", {"calls": 1}).json()
    assert (settled["cost"], settled["overage"]) == ("0.005", "0.00")
    assert reserve(agent, calls=1).json()["amount"] == "0.008"
    again = operator.post("/api/tools", {"name": SEARCH, "usd_per_call": "1", "effective_from": "2100-01-01"})
    assert again.status_code == 201
    twice = operator.post("/api/tools", {"name": SEARCH, "usd_per_call": "2", "effective_from": "2100-01-01"})
    assert code(twice)[:2] == (409, "conflict")
    listed = agent.get("/api/prices", model=f"tool/{SEARCH}").json()["results"]
    assert [(row["unit"], row["usd_per_million"]) for row in listed] == [
        ("call", "1000000"),
        ("call", "8000"),
        ("call", "5000"),
    ]
    assert set(AuditEntry.objects.values_list("action", flat=True)) >= {"model.add", "price.add"}


def test_more_that_ran_than_was_held_is_charged_and_flagged(operator: Api, agent: Api) -> None:
    price(operator)
    factories.budget("1")
    held = reserve(agent, calls=1).json()
    settled = agent.post(f"/api/reservations/{held['id']}/settle", {"calls": 3}).json()
    assert (settled["cost"], settled["overage"]) == ("0.015", "0.01")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool": SEARCH, "model": "large"}, "model"),
        ({"tool": SEARCH, "estimated_cost": "0.1"}, "estimated_cost"),
        ({"tool": SEARCH, "input_tokens": 5}, "input_tokens"),
        ({"tool": SEARCH, "tools": ["other"]}, "tools"),
        ({"tool": SEARCH, "provider": "mistral"}, "provider"),
        ({"tool": SEARCH, "calls": 0}, "calls"),
        ({"model": "large", "estimated_cost": "0.1", "calls": 2}, "calls"),
        ({"model": "large", "estimated_cost": "0.1", "provider": "tool"}, "provider"),
        ({"estimated_cost": "0.1"}, "model"),
        ({"tool": "x" * 101}, "tool"),
    ],
)
def test_a_call_is_of_a_tool_or_of_a_model(agent: Api, body: dict[str, Any], param: str) -> None:
    refused = agent.post("/api/reservations", body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool": SEARCH, "model": "m"}, "model"),
        ({"tool": SEARCH, "output_tokens": 5}, "output_tokens"),
        ({"model": "m", "cost": "1", "calls": 2}, "calls"),
        ({"model": "m", "cost": "1", "provider": "tool"}, "provider"),
    ],
)
def test_so_is_a_report(agent: Api, body: dict[str, Any], param: str) -> None:
    refused = agent.post("/api/spend", {"request_id": "r", **body})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_a_hold_is_settled_in_the_unit_that_it_was_made_in(operator: Api, agent: Api) -> None:
    price(operator)
    tool = reserve(agent).json()
    model = agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.1"}).json()
    for held, body, param in (
        (tool, {"input_tokens": 5}, "input_tokens"),
        (tool, {"calls": 1, "model": "large"}, "model"),
        (tool, {}, "cost"),
        (tool, {"calls": 0}, "calls"),
        (model, {"calls": 1}, "calls"),
    ):
        refused = agent.post(f"/api/reservations/{held['id']}/settle", body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    # What a call truly cost may be said in place of how many there were.
    settled = agent.post(f"/api/reservations/{tool['id']}/settle", {"cost": "0.002"}).json()
    assert settled["cost"] == "0.002"


def test_a_tool_puts_no_name_of_a_model_in_doubt_and_is_none(operator: Api, agent: Api) -> None:
    row = Model.objects.create(provider="openai", name="gpt-9", kinds=["chat"])
    ModelAlias.objects.create(model=row, name="nine")
    for unit in ("input", "output"):
        Price.objects.create(model=row, unit=unit, picos_per_unit=1)
    for name in ("gpt-9", "nine", "mistral-small-latest"):
        assert operator.post("/api/tools", {"name": name, "usd_per_call": "1"}).status_code == 201
        found = snapshot.resolve(name)
        assert found is not None
        assert found.provider != "tool"
    price(operator)
    assert snapshot.resolve(SEARCH) is None
    assert snapshot.resolve(f"tool/{SEARCH}") is None
    assert SEARCH not in snapshot.names()
    unpriced = agent.post("/api/decisions", {"model": SEARCH, "input_tokens": 1, "max_tokens": 1}).json()
    assert unpriced["reason"] == "model_not_priced"


def test_who_prices_tools(agent: Api) -> None:
    body = {"name": SEARCH, "usd_per_call": "0.005"}
    assert agent.post("/api/tools", body).status_code == 403
    assert persona("viewer").post("/api/tools", body).status_code == 403
    assert persona("viewer").get("/api/tools").status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"usd_per_call": "-1"}, "usd_per_call"),
        ({"usd_per_call": "1000000.01"}, "usd_per_call"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
    ],
)
def test_what_is_no_price_of_a_tool(operator: Api, body: dict[str, Any], param: str) -> None:
    refused = operator.post("/api/tools", {"name": SEARCH, "usd_per_call": "1", **body})
    assert refused.status_code in (400, 422)
    assert refused.json()["error"]["param"] == param


def test_a_retired_tool_is_not_priced_anew_by_the_way(operator: Api) -> None:
    price(operator)
    Model.objects.filter(name=SEARCH).update(status=Model.Status.RETIRED)
    refused = operator.post("/api/tools", {"name": SEARCH, "usd_per_call": "1"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "name")
    assert "is retired" in refused.json()["error"]["message"]
