"""`manage.py set_budget`, `check_budget` and `reset_budget`, as a script runs them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from governance import ledger
from governance.actions import budgets, stops
from governance.audit import Actor
from governance.models import AuditEntry, Budget, BudgetWindow
from tests import factories as make

pytestmark = pytest.mark.django_db

DAY = ("--tenant", "acme", "--window", "day")


def run(command: str, *args: str) -> tuple[str, int]:
    told = io.StringIO()
    try:
        call_command(command, *args, stdout=told)
    except SystemExit as end:
        return told.getvalue(), int(str(end.code))
    return told.getvalue(), 0


def set_budget(*args: str) -> dict[str, Any]:
    make.tenant()
    text, _ = run("set_budget", *DAY, *args, "--json")
    found: dict[str, Any] = json.loads(text)
    return found


# set_budget


def test_set_budget_makes_one_with_its_policy() -> None:
    told = set_budget(
        "--limit",
        "12.50",
        "--soft-cap",
        "0.6",
        "--hard-cap",
        "0.9",
        "--warn-at",
        "0.5",
        "--alert-at",
        "0.5,0.9",
        "--downgrade",
        "large, medium->small",
        "--downgrade",
        "*->tiny at 0.95",
        "--disable-tool",
        "search",
        "--no-clamp",
        "--clamp-min-tokens",
        "64",
        "--carry-over",
        "25%",
    )
    budget = Budget.objects.get()
    assert told == {
        "action": "created",
        "old": {},
        "dry_run": False,
        "budget": {
            "id": budget.pk,
            "tenant": "acme",
            "scope_type": "tenant",
            "scope_key": "acme",
            "window": "day",
            "limit": "12.50",
            "soft_cap": "0.6",
            "hard_cap": "0.9",
            "warn_at": "0.5",
            "alert_thresholds": ["0.5", "0.9"],
            "downgrade_rules": [
                {"from": ["large", "medium"], "to": "small"},
                {"from": ["*"], "to": "tiny", "at": "0.95"},
            ],
            "disabled_tools": ["search"],
            "clamp": False,
            "clamp_min_tokens": 64,
            "carry_over": "25%",
            "enabled": True,
        },
    }
    assert AuditEntry.objects.get().actor.startswith("command line")


def test_set_budget_changes_only_what_is_given() -> None:
    set_budget("--limit", "10", "--soft-cap", "0.4", "--hard-cap", "0.5", "--disable-tool", "search")
    text, _ = run("set_budget", *DAY, "--hard-cap", "0.7", "--reason", "more room")
    assert text == "changed: acme per day ($10.00)\n  hard_cap: 0.5 → 0.7\n"
    changed = Budget.objects.get()
    assert (changed.disabled_tools, str(changed.soft_cap)) == (["search"], "0.4000")
    assert AuditEntry.objects.get(action="budget.change").reason == "more room"


def test_set_budget_can_take_away() -> None:
    set_budget("--limit", "10", "--disable-tool", "search", "--downgrade", "a->b")
    told = set_budget("--soft-cap", "none", "--disable-tool", "none", "--downgrade", "none", "--alert-at", "none")
    found = told["budget"]
    assert (found["soft_cap"], found["disabled_tools"], found["downgrade_rules"]) == (None, [], [])
    assert found["alert_thresholds"] == []


def test_set_budget_to_what_it_is_already_changes_nothing() -> None:
    set_budget("--limit", "10")
    assert set_budget("--limit", "10.00")["action"] == "unchanged"
    assert AuditEntry.objects.count() == 1


def test_a_changed_limit_takes_hold_of_the_open_window() -> None:
    make.budget("1.00")
    ledger.record(make.reporting("0.50"), now=timezone.now())
    set_budget("--limit", "0.50")
    assert BudgetWindow.objects.get().state == "stopped"


def test_set_budget_makes_a_deleted_one_anew() -> None:
    kept = make.budget("1.00", disabled_tools=["search"])
    ledger.record(make.reporting("0.50"), now=timezone.now())
    assert not budgets.delete(budget=kept, by=Actor("ada"), now=timezone.now())
    with pytest.raises(CommandError, match="--limit: a new budget needs one"):
        run("set_budget", *DAY)
    told = set_budget("--limit", "2")
    assert (told["action"], told["budget"]["id"]) == ("created", kept.pk)
    assert (told["budget"]["enabled"], told["budget"]["disabled_tools"]) == (True, [])


def test_set_budget_s_dry_run_checks_and_keeps_nothing() -> None:
    told = set_budget("--limit", "10", "--dry-run")
    assert (told["action"], told["dry_run"]) == ("created", True)
    assert "Would be created: acme per day ($10.00)" in run("set_budget", *DAY, "--limit", "10", "--dry-run")[0]
    assert not Budget.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_tools_name_is_taken_as_it_is() -> None:
    assert set_budget("--limit", "1", "--disable-tool", "a,b")["budget"]["disabled_tools"] == ["a,b"]


def test_set_budget_knows_every_scope() -> None:
    make.tenant()
    run("set_budget", "--scope", "platform", "--window", "month", "--limit", "1000")
    run("set_budget", "--scope", "tenant", "--key", "*", "--window", "day", "--limit", "5")
    run("set_budget", "--tenant", "acme", "--scope", "agent", "--key", "invoices", "--window", "hour", "--limit", "1")
    assert {str(budget) for budget in Budget.objects.all()} == {
        "platform per month",
        "each tenant per day",
        "acme agent:invoices per hour",
    }


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--soft-cap", "0.5"], "--limit: a new budget needs one"),
        (["--limit", "ten"], "--limit: 'ten' is not an amount"),
        (["--limit", "0"], "--limit: must be more than 0"),
        (["--limit", "1", "--soft-cap", "much"], "--soft-cap: must be a number"),
        (["--limit", "1", "--soft-cap", "nan"], "--soft-cap: must be"),
        (["--limit", "1", "--hard-cap", "none"], "--hard-cap: must be a number"),
        (["--limit", "1", "--soft-cap", "0.9", "--hard-cap", "0.8"], "--soft-cap: must be below hard_cap"),
        (["--limit", "1", "--downgrade", "a,b"], '--downgrade: must be such as "a,b->c"'),
        (["--limit", "1", "--alert-at", "2"], "--alert-at: must be above 0"),
        (["--limit", "1", "--soft-cap", ""], "--soft-cap: must not be empty; none is said by that word"),
        (["--limit", "1", "--downgrade", ""], "--downgrade: must not be empty"),
        (["--limit", "1", "--disable-tool", "search", "--disable-tool", ""], "--disable-tool: must not be empty"),
        (["--limit", "1", "--scope", "agent"], "--key: name the agent"),
        (["--limit", "1", "--tenant", "nobody"], "--tenant: There is no tenant"),
    ],
)
def test_set_budget_names_the_option_that_is_wrong(args: list[str], says: str) -> None:
    make.tenant()
    with pytest.raises(CommandError) as refused:
        run("set_budget", *DAY, *args)
    assert str(refused.value).startswith(says)
    assert not Budget.objects.exists()


# check_budget


def spent(cost: str, limit: str = "1.00", **policy: Any) -> None:
    make.budget(limit, **policy)
    ledger.record(make.reporting(cost), now=timezone.now())


@pytest.mark.parametrize(
    ("cost", "policy", "state", "status"),
    [
        ("0.10", {}, "active", 0),
        ("0.80", {}, "warned", 1),
        ("0.80", {"disabled_tools": ["search"]}, "degraded", 1),
        ("1.00", {}, "stopped", 2),
    ],
)
def test_check_budget_s_exit_status_is_the_worst_state(
    cost: str, policy: dict[str, Any], state: str, status: int
) -> None:
    spent(cost, **policy)
    make.budget("5.00", window="month")
    text, code = run("check_budget", "--tenant", "acme", "--json")
    found = json.loads(text)
    assert code == status
    assert sorted(row["state"] for row in found["budgets"]) == sorted([state, "active"])
    assert found["status"] == ("ok", "pressed", "stopped")[status]
    assert f"tenant:acme  day     {state}" in run("check_budget", "--tenant", "acme")[0]


def test_check_budget_shows_each_budget_s_figures() -> None:
    spent("0.25")
    ledger.reserve(make.reserving("0.10"), now=timezone.now())
    [row] = json.loads(run("check_budget", "--tenant", "acme", "--json")[0])["budgets"]
    assert (row["spent"], row["reserved"], row["limit"], row["remaining"]) == ("0.25", "0.10", "1.00", "0.65")


@pytest.mark.parametrize(
    ("cost", "action", "status"), [("0.05", "allow", 0), ("0.40", "warn", 1), ("0.60", "hard-stop", 2)]
)
def test_check_budget_decides_about_a_cost(cost: str, action: str, status: int) -> None:
    spent("0.50")
    text, code = run("check_budget", "--tenant", "acme", "--cost", cost, "--json")
    assert (json.loads(text)["action"], code) == (action, status)
    assert f"Decision: {action}" in run("check_budget", "--tenant", "acme", "--cost", cost)[0]
    assert BudgetWindow.objects.get().reserved_nanos == 0


def test_check_budget_names_the_model_and_the_tools_of_a_degraded_call() -> None:
    spent("0.85", downgrade_rules=[{"from": ["large"], "to": "small"}], disabled_tools=["search"])
    asked = ("--tenant", "acme", "--cost", "0.01", "--model", "large", "--tool", "search")
    found = json.loads(run("check_budget", *asked, "--json")[0])
    assert (found["action"], found["suggested_model"], found["disabled_tools"]) == ("degrade", "small", ["search"])
    assert found["downgrades"] == [{"scope": "tenant:acme", "rule": "large -> small at 0.8"}]
    text = run("check_budget", *asked)[0]
    assert "Decision: degrade to small" in text
    assert "by the rule large -> small at 0.8 of tenant:acme per day" in text


def test_check_budget_says_2_for_a_caller_that_may_not_call() -> None:
    spent("0.10")
    stops.stop(tenant=make.tenant(), reason="runaway", by=Actor("ada"), now=timezone.now())
    text, code = run("check_budget", "--tenant", "acme")
    assert code == 2
    assert "An operator has stopped these calls." in text


def test_check_budget_looks_at_the_scopes_it_is_given() -> None:
    make.budget("1.00", scope_type="agent", scope_key="invoices")
    _, key = make.key()
    make.budget("1.00", scope_type="key", scope_key=key.prefix)
    found = json.loads(run("check_budget", "--tenant", "acme", "--agent", "invoices", "--key", key.prefix, "--json")[0])
    assert [row["scope"] for row in found["budgets"]] == [f"key:{key.prefix}", "agent:invoices"]
    assert run("check_budget", "--tenant", "acme") == ("No budget governs this caller.\n", 0)


@pytest.mark.parametrize(
    "args",
    [
        ["--tenant", "nobody"],
        ["--tenant", "acme", "--cost", "x"],
        ["--tenant", "acme", "--cost", "-1"],
        ["--tenant", "acme", "--key", "sg_nothing"],
    ],
)
def test_check_budget_says_3_when_it_cannot_be_told(args: list[str]) -> None:
    make.tenant()
    with pytest.raises(CommandError) as refused:
        run("check_budget", *args)
    assert refused.value.returncode == 3


# reset_budget


def test_reset_budget_opens_a_new_window_with_a_reason() -> None:
    spent("1.00")
    asked = ("--tenant", "acme", "--window", "day", "--reason", "a fresh start")
    assert "Would reset acme per day ($1.00)." in run("reset_budget", *asked, "--dry-run")[0]
    assert BudgetWindow.objects.count() == 1
    told = json.loads(run("reset_budget", *asked, "--json")[0])
    assert told == {"budgets": ["acme per day"], "closed": 1, "opened": 1, "dry_run": False}
    assert run("check_budget", "--tenant", "acme")[1] == 0


def test_reset_budget_of_none_is_an_error() -> None:
    with pytest.raises(CommandError, match="There is no budget"):
        run("reset_budget", "--tenant", "acme", "--reason", "x")


def test_reset_budget_finds_that_of_a_rotated_key_by_its_own_prefix() -> None:
    _, first = make.key()
    _, fresh = make.key()
    fresh.rotated_from = first.prefix
    fresh.save()
    make.budget("1.00", scope_type="key", scope_key=first.prefix)
    asked = ("--tenant", "acme", "--scope", "key", "--key", fresh.prefix, "--reason", "x", "--dry-run")
    assert f"Would reset acme key:{first.prefix}" in run("reset_budget", *asked)[0]
