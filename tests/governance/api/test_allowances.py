"""/api/budgets/{id}/allowances through HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from governance import ledger
from governance.models import Allowance, AuditEntry, Budget, BudgetWindow
from tests import factories
from tests.governance.api.conftest import Api


def spend(dollars: str, agent: str = "invoices") -> None:
    ledger.record(factories.reporting(dollars, by=factories.caller(agent=agent)), now=timezone.now())


@pytest.fixture
def budget(db: None) -> Budget:
    """A dollar a day for acme's invoices, spent."""
    made = factories.budget("1", scope_type="agent", scope_key="invoices")
    spend("1")
    return made


def in_days(days: float) -> str:
    return (timezone.now() + timedelta(days=days)).isoformat().replace("+00:00", "Z")


def test_a_raise_frees_a_stopped_budget_at_once_until_it_is_ended(operator: Api, viewer: Api, budget: Budget) -> None:
    page = f"/api/budgets/{budget.pk}"
    assert viewer.get(page).json()["state"] == "stopped"
    made = operator.post(f"{page}/allowances", {"amount": "3", "ends_at": in_days(1), "reason": "month end"})
    assert made.status_code == 201
    found = made.json()
    assert (found["kind"], found["state"], found["amount"], found["reason"]) == (
        "raise",
        "running",
        "3.00",
        "month end",
    )
    now_at = viewer.get(page).json()
    assert [now_at[name] for name in ("limit", "extra", "remaining", "state")] == ["1.00", "3.00", "3.00", "active"]
    [window] = viewer.get(f"{page}/windows").json()["results"]
    assert (window["limit"], window["extra"]) == ("4.00", "3.00")
    assert viewer.get(f"{page}/allowances").json()["results"] == [found]

    ended = operator.post(f"/api/allowances/{found['id']}/end")
    assert (ended.status_code, ended.json()["extra"], ended.json()["state"]) == (200, "0.00", "stopped")
    [over] = viewer.get(f"{page}/allowances").json()["results"]
    assert over["state"] == "ended"
    again = operator.post(f"/api/allowances/{found['id']}/end")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


def test_a_raise_to_come_changes_nothing_yet_and_can_be_taken_back(operator: Api, budget: Budget) -> None:
    body = {"amount": "3", "starts_at": in_days(1), "ends_at": in_days(2), "reason": "the fair"}
    made = operator.post(f"/api/budgets/{budget.pk}/allowances", body).json()
    assert made["state"] == "planned"
    assert operator.get(f"/api/budgets/{budget.pk}").json()["extra"] == "0.00"
    assert operator.post(f"/api/allowances/{made['id']}/end").status_code == 200
    assert not Allowance.objects.exists()


def test_a_top_up_is_for_the_window_it_was_made_in(operator: Api, budget: Budget) -> None:
    made = operator.post(f"/api/budgets/{budget.pk}/allowances", {"amount": "2", "reason": "one more"}).json()
    assert (made["kind"], made["ends_at"], made["state"]) == ("top-up", None, "running")
    assert operator.get(f"/api/budgets/{budget.pk}").json()["remaining"] == "2.00"
    operator.post(f"/api/budgets/{budget.pk}/reset", {"reason": "anew"})
    assert operator.get(f"/api/budgets/{budget.pk}").json()["extra"] == "0.00"
    assert operator.post(f"/api/allowances/{made['id']}/end").status_code == 409


def test_of_a_budget_for_each_one_the_subject_is_named(operator: Api) -> None:
    budget = factories.budget("1", scope_type="agent", scope_key="*")
    spend("0.5", "one")
    spend("0.9", "two")
    path = f"/api/budgets/{budget.pk}/allowances"
    body = {"amount": "2", "reason": "more"}
    assert operator.post(path, body).json()["error"]["param"] == "subject"
    made = operator.post(path, {**body, "subject": "one"})
    assert (made.status_code, made.json()["subject"]) == (201, "one")
    extra = dict(BudgetWindow.objects.values_list("subject", "extra_nanos"))
    assert extra == {"one": factories.nanos("2"), "two": 0}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"amount": "0"}, "amount"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "much"}, "amount"),
        ({"reason": ""}, "reason"),
        ({"reason": "x" * 301}, "reason"),
        ({"ends_at": "2020-01-01"}, "ends_at"),
        ({"ends_at": "tomorrow"}, "ends_at"),
        ({"starts_at": "2020-01-01"}, "starts_at"),
        ({"starts_at": "2101-01-01", "ends_at": "2100-01-01"}, "ends_at"),
        ({"ends_at": "2100-01-01", "subject": "invoices"}, "subject"),
        ({"subject": "other"}, "budget"),
        ({"until": "2100-01-01"}, "until"),
    ],
)
def test_what_cannot_be_names_the_field(operator: Api, budget: Budget, change: dict[str, Any], param: str) -> None:
    body = {"amount": "1", "reason": "why", **change}
    response = operator.post(f"/api/budgets/{budget.pk}/allowances", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not Allowance.objects.exists()


def test_a_budget_no_call_has_opened_is_not_topped_up(operator: Api) -> None:
    budget = factories.budget("1")
    response = operator.post(f"/api/budgets/{budget.pk}/allowances", {"amount": "1", "reason": "why"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "budget")


def test_a_window_that_time_has_ended_is_not_topped_up(operator: Api, budget: Budget) -> None:
    now = timezone.now()
    BudgetWindow.objects.update(starts_at=now - timedelta(days=2), ends_at=now - timedelta(days=1))
    response = operator.post(f"/api/budgets/{budget.pk}/allowances", {"amount": "1", "reason": "why"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "budget")


def test_a_budget_with_allowances_has_history_and_is_disabled_instead_of_deleted(operator: Api) -> None:
    budget = factories.budget("1")
    body = {"amount": "1", "reason": "why", "ends_at": in_days(1)}
    assert operator.post(f"/api/budgets/{budget.pk}/allowances", body).status_code == 201
    gone = operator.delete(f"/api/budgets/{budget.pk}")
    assert (gone.status_code, gone.json()["enabled"]) == (200, False)
    assert AuditEntry.objects.latest("id").action == "budget.disable"


def test_a_raise_counts_in_the_window_that_a_reset_opens_too(operator: Api, budget: Budget) -> None:
    page = f"/api/budgets/{budget.pk}"
    operator.post(f"{page}/allowances", {"amount": "3", "ends_at": in_days(1), "reason": "month end"})
    operator.post(f"{page}/reset", {"reason": "anew"})
    now_at = operator.get(page).json()
    assert [now_at[name] for name in ("extra", "spent", "remaining")] == ["3.00", "0.00", "4.00"]
    [event, *_] = operator.get(f"{page}/events").json()["results"]
    assert (event["kind"], event["reason"]) == ("budget-reset", "anew")


def test_every_change_of_state_that_an_allowance_makes_is_one_event(operator: Api, budget: Budget) -> None:
    page = f"/api/budgets/{budget.pk}"
    made = operator.post(f"{page}/allowances", {"amount": "3", "ends_at": in_days(1), "reason": "x"}).json()
    operator.post(f"/api/allowances/{made['id']}/end")
    events = operator.get(f"{page}/events").json()["results"]
    changes = [(row["old_state"], row["new_state"]) for row in events if row["kind"] == "state-change"]
    assert changes == [("active", "stopped"), ("stopped", "active"), ("active", "stopped")]
    # Told once a window, however often it is reached.
    assert sum(row["kind"] == "hard-stop" for row in events) == 1
    assert sorted(row["threshold"] for row in events if row["threshold"]) == ["0.5", "0.75", "0.9", "1"]
