from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.models import AuditEntry, Budget
from tests import factories
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("ledger_holds")

BODY: dict[str, Any] = {
    "scope_type": "agent",
    "scope_key": "invoices",
    "tenant": "acme",
    "limit": "12.50",
    "window": "day",
    "soft_cap": 0.8,
    "hard_cap": "1.0",
    "alert_thresholds": [0.5, "0.9"],
    "downgrade_rules": [{"from": "mistral-large-latest", "to": "mistral-small-latest"}],
    "disabled_tools": ["web_search"],
}


@pytest.fixture(autouse=True)
def acme(db: None) -> Any:
    return factories.tenant()


def spend(cost: str, **caller: Any) -> None:
    owner = caller.pop("owner", None)
    ledger.record(factories.reporting(cost, by=factories.caller(owner, **caller)), now=timezone.now())


def test_a_budget_comes_back_as_it_was_made_with_its_window(operator: Api) -> None:
    made = operator.post("/api/budgets", BODY)
    assert made.status_code == 201
    found = operator.get(f"/api/budgets/{made.json()['id']}").json()
    assert found == made.json()
    assert found["limit"] == "12.50"
    assert (found["soft_cap"], found["hard_cap"], found["alert_thresholds"]) == (0.8, 1.0, [0.5, 0.9])
    assert found["downgrade_rules"] == [{"from": ["mistral-large-latest"], "to": "mistral-small-latest"}]
    assert (found["spent"], found["remaining"], found["utilization"], found["state"]) == (
        "0.00",
        "12.50",
        0.0,
        "active",
    )
    assert found["resets_at"].endswith("T00:00:00Z")
    assert AuditEntry.objects.get().action == "budget.create"


def test_lists_say_when_a_budget_runs_out_by_what_was_kept(operator: Api) -> None:
    id = operator.post("/api/budgets", BODY).json()["id"]
    [row] = operator.get("/api/budgets").json()["results"]
    assert (row["runs_out_at"], row["forecast_at"]) == (None, None)
    kept = factories.kept_forecast(Budget.objects.get(pk=id), now=timezone.now(), runs_out_in=timedelta(hours=3))
    [row] = operator.get("/api/budgets").json()["results"]
    assert datetime.fromisoformat(row["runs_out_at"]) == kept.runs_out_at
    assert datetime.fromisoformat(row["forecast_at"]) == kept.made_at


def test_a_rule_s_own_share_comes_back_and_may_be_taken_away(operator: Api) -> None:
    rules = [{"from": ["a"], "to": "b", "at": "0.950"}, {"from": ["*"], "to": "c", "at": 1}]
    made = operator.post("/api/budgets", BODY | {"downgrade_rules": rules}).json()
    assert made["downgrade_rules"] == [{"from": ["a"], "to": "b", "at": 0.95}, {"from": ["*"], "to": "c", "at": 1.0}]
    path = f"/api/budgets/{made['id']}"
    assert operator.patch(path, {"downgrade_rules": made["downgrade_rules"]}).json() == made
    row = AuditEntry.objects.get(action="budget.create")
    assert row.new["downgrade_rules"][0] == {"from": ["a"], "to": "b", "at": "0.95"}
    again = operator.patch(path, {"downgrade_rules": [{"from": ["a"], "to": "b"}]}).json()
    assert again["downgrade_rules"] == [{"from": ["a"], "to": "b"}]


def test_figures_follow_the_ledger(operator: Api, agent: Api) -> None:
    id = operator.post("/api/budgets", BODY).json()["id"]
    spend("10", agent="invoices")
    ledger.reserve(factories.reserving("1", by=factories.caller(agent="invoices")), now=timezone.now())
    found = agent.get(f"/api/budgets/{id}").json()
    assert (found["spent"], found["reserved"], found["remaining"]) == ("10.00", "1.00", "1.50")
    assert (found["utilization"], found["state"]) == (0.8, "degraded")
    assert [event["kind"] for event in agent.get(f"/api/budgets/{id}/events").json()["results"]] == [
        "state-change",
        "threshold-breach",
    ]
    [window] = agent.get(f"/api/budgets/{id}/windows").json()["results"]
    assert (window["spent"], window["closed_at"]) == ("10.00", None)


def test_a_tenants_keys_are_not_told_who_operates(operator: Api, agent: Api, tenant: Api, viewer: Api) -> None:
    id = operator.post("/api/budgets", BODY).json()["id"]
    spend("1", agent="invoices")
    budgets.reset(budget=Budget.objects.get(pk=id), reason="again", by=Actor("olga"), now=timezone.now())
    for api, told in ((operator, "olga"), (viewer, "olga"), (agent, "an operator"), (tenant, "an operator")):
        assert [event["actor"] for event in api.get(f"/api/budgets/{id}/events").json()["results"]] == [told]


BAD_BODIES: list[tuple[dict[str, Any], str]] = [
    ({"limit": 0}, "limit"),
    ({"limit": "-1"}, "limit"),
    ({"limit": "lots"}, "limit"),
    ({"limit": "NaN"}, "limit"),
    ({"limit": "0.0000000001"}, "limit"),
    ({"limit": True}, "limit"),
    ({"limit": None}, "limit"),
    ({"limit": ["1"]}, "limit"),
    ({"window": "year"}, "window"),
    ({"window": None}, "window"),
    ({"scope_type": "planet"}, "scope_type"),
    ({"scope_key": ""}, "scope_key"),
    ({"scope_key": 7}, "scope_key"),
    ({"scope_key": "x" * 201}, "scope_key"),
    ({"scope_key": "a\x00b"}, "scope_key"),
    ({"tenant": "nobody"}, "tenant"),
    ({"tenant": 7}, "tenant"),
    ({"soft_cap": 1.0}, "soft_cap"),
    ({"soft_cap": 0}, "soft_cap"),
    ({"soft_cap": "most"}, "soft_cap"),
    ({"soft_cap": 0.123456}, "soft_cap"),
    ({"hard_cap": 1.5}, "hard_cap"),
    ({"hard_cap": None}, "hard_cap"),
    ({"warn_at": 0.9}, "warn_at"),
    ({"alert_thresholds": [0.5, 2]}, "alert_thresholds"),
    ({"alert_thresholds": "0.5"}, "alert_thresholds"),
    ({"downgrade_rules": {"from": "a", "to": "b"}}, "downgrade_rules"),
    ({"downgrade_rules": [{"from": [], "to": "b"}]}, "downgrade_rules.0.from"),
    ({"downgrade_rules": [{"from": ["a"], "too": "b"}]}, "downgrade_rules.0.too"),
    ({"downgrade_rules": [{"from": ["a"]}]}, "downgrade_rules.0.to"),
    ({"downgrade_rules": [{"from": ["a"], "to": "b", "at": "often"}]}, "downgrade_rules.0.at"),
    ({"downgrade_rules": [{"from": ["a"], "to": "b", "at": 0}]}, "downgrade_rules"),
    ({"downgrade_rules": [{"from": ["a"], "to": "b", "at": "1.1"}]}, "downgrade_rules"),
    ({"disabled_tools": [1]}, "disabled_tools.0"),
    ({"clamp_min_tokens": -1}, "clamp_min_tokens"),
    ({"enabled": "perhaps"}, "enabled"),
    ({"sotf_cap": 0.5}, "sotf_cap"),
]


@pytest.mark.parametrize(("change", "param"), BAD_BODIES, ids=[str(change) for change, _ in BAD_BODIES])
def test_bad_input_is_a_400_that_names_the_field(operator: Api, change: dict[str, Any], param: str) -> None:
    response = operator.post("/api/budgets", BODY | change)
    assert response.status_code == 400, response.content
    error = response.json()["error"]
    assert error["param"] == param
    assert param.split(".")[-1] in error["message"]
    assert not Budget.objects.exists()


@pytest.mark.parametrize("raw", [b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"limit": NaN}', b"[" * 100_000, b"null", b""])
def test_a_body_that_is_no_json_object_is_a_400(operator: Api, raw: bytes) -> None:
    response = operator.client.post("/api/budgets", raw, content_type="application/json")
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_a_form_is_a_415(operator: Api) -> None:
    assert operator.client.post("/api/budgets", {"limit": "1"}).status_code == 415


def test_a_second_budget_for_the_same_scope_and_window_is_a_409(operator: Api) -> None:
    assert operator.post("/api/budgets", BODY).status_code == 201
    response = operator.post("/api/budgets", BODY | {"limit": "99"})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "conflict")
    assert operator.post("/api/budgets", BODY | {"window": "month"}).status_code == 201


def test_patch_changes_what_it_names_and_put_puts_the_rest_back(operator: Api) -> None:
    id = operator.post("/api/budgets", BODY).json()["id"]
    changed = operator.patch(f"/api/budgets/{id}", {"limit": 20, "soft_cap": None}).json()
    assert (changed["limit"], changed["soft_cap"], changed["disabled_tools"]) == (
        "20.00",
        None,
        ["web_search"],
    )
    minimal = {name: BODY[name] for name in ("scope_type", "scope_key", "tenant", "limit", "window")}
    replaced = operator.put(f"/api/budgets/{id}", minimal).json()
    assert (replaced["limit"], replaced["soft_cap"], replaced["disabled_tools"]) == ("12.50", 0.8, [])
    assert AuditEntry.objects.filter(action="budget.change").count() == 2


def test_what_was_read_can_be_sent_back(operator: Api) -> None:
    found = operator.post("/api/budgets", BODY).json()
    again = operator.put(f"/api/budgets/{found['id']}", found)
    assert again.status_code == 200
    assert {**again.json(), "updated_at": ""} == {**found, "updated_at": ""}


@pytest.mark.parametrize("change", [{"window": "month"}, {"scope_key": "other"}, {"scope_type": "user"}])
def test_what_a_budget_is_for_cannot_be_changed(operator: Api, change: dict[str, Any]) -> None:
    id = operator.post("/api/budgets", BODY).json()["id"]
    response = operator.patch(f"/api/budgets/{id}", change)
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(change)))


def test_raising_the_limit_frees_the_agent_at_once(operator: Api) -> None:
    id = operator.post("/api/budgets", BODY | {"limit": "1"}).json()["id"]
    spend("1", agent="invoices")
    assert operator.get(f"/api/budgets/{id}").json()["state"] == "stopped"
    assert operator.patch(f"/api/budgets/{id}", {"limit": "10"}).json()["state"] == "active"


def test_of_a_budget_for_each_one_a_reset_names_whose_or_is_everybodys(operator: Api) -> None:
    budget = factories.budget("1", scope_type="user", scope_key="*")
    for user in ("alice", "bob"):
        ledger.record(factories.reporting("0.90", by=factories.caller(user=user)), now=timezone.now())
    path = f"/api/budgets/{budget.pk}/reset"
    assert operator.post(path, {"reason": "stuck", "subject": "carol"}).status_code == 400
    done = operator.post(path, {"reason": "stuck", "subject": "alice"}).json()
    assert (done["closed"], done["opened"]) == (1, 1)
    assert dict(budget.windows.filter(closed_at=None).values_list("subject", "settled_nanos")) == {
        "alice": 0,
        "bob": 900_000_000,
    }
    assert AuditEntry.objects.get(action="budget.reset").new == {"subject": "alice"}
    assert operator.post(path, {"reason": "stuck"}).json()["closed"] == 2


def test_what_is_carried_over_is_said_and_shown_apart(operator: Api) -> None:
    made = operator.post("/api/budgets", BODY | {"limit": "10", "carry_over": "50 %"}).json()
    assert (made["carry_over"], made["carried"]) == ("50%", "0.00")
    path, now = f"/api/budgets/{made['id']}", timezone.now()
    before = factories.reporting("7", by=factories.caller(agent="invoices"))
    with time_machine.travel(now - timedelta(days=1), tick=False):
        ledger.record(before, now=now - timedelta(days=1))
    spend("1", agent="invoices")
    found = operator.get(path).json()
    assert (found["limit"], found["carried"], found["spent"], found["remaining"]) == ("10.00", "3.00", "1.00", "12.00")
    [window, _] = operator.get(f"{path}/windows").json()["results"]
    assert (window["limit"], window["carried"], window["extra"]) == ("13.00", "3.00", "0.00")
    changed = operator.patch(path, {"carry_over": "2.5"}).json()
    assert (changed["carry_over"], changed["carried"]) == ("2.50", "3.00")
    assert operator.patch(path, {"carry_over": None}).json()["carry_over"] is None
    for wrong in ("101%", "much", 5):
        refused = operator.patch(path, {"carry_over": wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "carry_over")
    cycle = BODY | {"window": "billing_cycle", "carry_over": "50%"}
    assert operator.post("/api/budgets", cycle).json()["error"]["param"] == "carry_over"


def test_reset_needs_a_reason_and_keeps_the_old_window(operator: Api) -> None:
    id = operator.post("/api/budgets", BODY).json()["id"]
    spend("3", agent="invoices")
    for body in ({}, {"reason": ""}, {"reason": "  "}, {"reason": 1}):
        refused = operator.post(f"/api/budgets/{id}/reset", body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "reason")
    done = operator.post(f"/api/budgets/{id}/reset", {"reason": "a demo"}).json()
    assert (done["closed"], done["opened"], done["budget"]["spent"]) == (1, 1, "0.00")
    figures = [
        (w["spent"], w["closed_at"] is None) for w in operator.get(f"/api/budgets/{id}/windows").json()["results"]
    ]
    assert figures == [("0.00", True), ("3.00", False)]
    assert AuditEntry.objects.get(action="budget.reset").reason == "a demo"


def test_delete_removes_a_budget_without_history_and_disables_one_with(operator: Api) -> None:
    fresh = operator.post("/api/budgets", BODY).json()["id"]
    assert operator.delete(f"/api/budgets/{fresh}").status_code == 204
    assert operator.get(f"/api/budgets/{fresh}").status_code == 404
    used = operator.post("/api/budgets", BODY).json()["id"]
    spend("1", agent="invoices")
    kept = operator.delete(f"/api/budgets/{used}")
    assert (kept.status_code, kept.json()["enabled"]) == (200, False)


def test_a_budget_that_was_deleted_can_be_made_anew_and_forgets_nothing(operator: Api) -> None:
    made = operator.post("/api/budgets", {**BODY, "downgrade_rules": [], "disabled_tools": ["browse"]}).json()
    spend("1", agent="invoices")
    for _ in range(2):
        assert operator.delete(f"/api/budgets/{made['id']}").json()["enabled"] is False
        anew = operator.post("/api/budgets", {**BODY, "limit": "3.00"})
        assert anew.status_code == 201, anew.json()
        found = operator.get(f"/api/budgets/{anew.json()['id']}").json()
        assert (found["enabled"], found["limit"], found["spent"]) == (True, "3.00", "1.00")
        # Nothing is left of its old policy.
        assert found["disabled_tools"] == BODY["disabled_tools"]
    assert operator.post("/api/budgets", BODY).status_code == 409


def test_one_that_was_only_switched_off_is_there_still(operator: Api) -> None:
    made = operator.post("/api/budgets", BODY).json()
    spend("1", agent="invoices")
    assert operator.patch(f"/api/budgets/{made['id']}", {"enabled": False}).status_code == 200
    assert operator.post("/api/budgets", BODY).status_code == 409


def test_readers_see_their_own_budgets_and_their_own_figures_alone(
    operator: Api, tenant: Api, agent: Api, stranger: Api
) -> None:
    globex = factories.tenant("globex")
    shared = Budget.objects.create(scope_type="agent", scope_key="*", window="day", limit_nanos=factories.nanos("50"))
    factories.budget("5")
    factories.budget("6", tenant=globex)
    factories.budget("7", scope_type="agent", scope_key="invoices")
    factories.budget("8", scope_type="agent", scope_key="churn")
    spend("1", agent="invoices")
    spend("2", agent="churn")
    spend("3", agent="invoices", owner=globex)
    spend("4", agent="triage")

    def seen(api: Api) -> dict[str, str]:
        return {row["limit"]: row["spent"] for row in api.get("/api/budgets").json()["results"]}

    assert seen(operator) == {"5.00": "7.00", "6.00": "3.00", "7.00": "1.00", "8.00": "2.00", "50.00": "4.00"}
    assert seen(tenant) == {"5.00": "7.00", "7.00": "1.00", "8.00": "2.00", "50.00": "4.00"}
    assert seen(agent) == {"7.00": "1.00", "50.00": "0.00"}
    assert seen(stranger) == {"50.00": "3.00"}

    def subjects(api: Api) -> list[str]:
        return [row["subject"] for row in api.get(f"/api/budgets/{shared.pk}/windows").json()["results"]]

    assert (subjects(tenant), subjects(agent), subjects(stranger)) == (
        ["acme/triage"],
        [],
        ["globex/invoices"],
    )


def test_a_list_asks_the_same_number_of_queries_for_one_budget_and_for_forty(operator: Api) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert operator.get("/api/budgets").status_code == 200
        return len(captured)

    factories.budget(scope_type="agent", scope_key="a0")
    spend("0.01", agent="a0")
    one = queries()
    for index in range(1, 40):
        factories.budget(scope_type="agent", scope_key=f"a{index}", tenant=factories.tenant(f"t{index}"))
    assert queries() == one <= 4


def test_pages_follow_each_other_without_a_gap(operator: Api) -> None:
    for index in range(5):
        factories.budget(scope_type="user", scope_key=f"u{index}")
    path, seen = "/api/budgets?page_size=2", []
    while path:
        page = operator.client.get(path).json()
        seen += [row["scope_key"] for row in page["results"]]
        path = page["next"]
    assert seen == ["u4", "u3", "u2", "u1", "u0"]


def test_filters_choose_and_a_misspelt_one_is_refused(operator: Api) -> None:
    factories.budget()
    factories.budget(scope_type="user", scope_key="u1")
    assert [row["scope_key"] for row in operator.get("/api/budgets", scope_type="user").json()["results"]] == ["u1"]
    assert operator.get("/api/budgets", tenant="globex").json()["results"] == []
    refused = operator.get("/api/budgets", tennant="acme")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tennant")


def test_a_number_too_large_for_an_id_is_a_404(operator: Api) -> None:
    assert operator.get(f"/api/budgets/{10**30}").status_code == 404


def test_the_same_rows_come_as_csv(operator: Api) -> None:
    factories.budget("2.50", soft_cap=Decimal("0.5"))
    response = operator.client.get("/api/budgets", headers={"accept": "text/csv"})
    header, line = response.getvalue().decode().splitlines()
    row = dict(zip(header.split(","), line.split(","), strict=False))
    assert (row["tenant"], row["limit"], row["soft_cap"]) == ("acme", "2.50", "0.5")
