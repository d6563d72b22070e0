"""`manage.py apply`: the difference, agreement, one transaction, and what is refused before anything is done."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from governance import ledger, ports
from governance.actions import budgets
from governance.audit import Actor
from governance.management import policy_files
from governance.models import AnomalyRule, AuditEntry, Budget, BudgetWindow, RateLimit, Tenant
from governance.rules.errors import Conflict
from tests import factories as make

pytestmark = pytest.mark.django_db

BY = Actor("ada")
ALL = """
tenants:
  - {slug: acme, time_zone: Europe/Paris, status: paused}
agents:
  - {tenant: acme, slug: Invoices, status: paused}
budgets:
  - tenant: acme
    scope_type: tenant
    window: day
    limit: "75"
    downgrade_rules:
      - {from: [large, medium], to: small}
      - {from: "*", to: tiny, at: 0.95}
    disabled_tools: [search]
  - {tenant: acme, scope_type: agent, scope_key: invoices, window: hour, limit: 5, soft_cap: null, enabled: false}
rate_limits:
  - {tenant: acme, scope_type: tenant, dollars_per_minute: 1.50, requests_per_minute: 5}
anomaly_rules:
  - {tenant: acme, agent: "*", act: pause}
"""
DIFFERENCE = """\
~ tenant acme
    time_zone: UTC → Europe/Paris
    status: active → paused
~ agent acme/invoices
    status: active → paused
~ budget acme per day
    limit: $50.00 → $75.00
    downgrade_rules: none → large, medium -> small; * -> tiny at 0.95
    disabled_tools: none → search
+ budget acme agent:invoices per hour
    limit: $5.00
    soft_cap: none
    enabled: false
+ rate limit acme
    dollars_per_minute: $1.50
    requests_per_minute: 5
+ anomaly rule acme: each agent
    act: pause
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "policy.yaml"


def apply(*args: str) -> str:
    told = io.StringIO()
    call_command("apply", *args, stdout=told)
    return told.getvalue()


def applied(file: Path, text: str) -> str:
    file.write_text(text)
    return apply(file.name, "--yes")


def refused(file: Path, text: str) -> list[str]:
    """What is wrong; nothing was written."""
    before = AuditEntry.objects.count(), Budget.objects.count()
    with pytest.raises(CommandError) as caught:
        applied(file, text)
    assert (AuditEntry.objects.count(), Budget.objects.count()) == before
    assert caught.value.returncode == 1
    first, *problems = str(caught.value).splitlines()
    assert first == "Nothing was applied:"
    return [problem.strip() for problem in problems]


def budget_of(**fields: Any) -> str:
    """A file of one budget, as JSON, which is YAML too."""
    return json.dumps({"budgets": [{"tenant": "acme", "scope_type": "tenant", "window": "day"} | fields]})


# What is done


def test_tools_are_priced_from_now_or_from_a_moment_on(file: Path) -> None:
    prices = """
tools:
  - {name: web-search, usd_per_call: "0.005"}
  - {name: web-search, usd_per_call: "0.008", effective_from: 2100-01-01, source: contract}
"""
    assert applied(file, prices) == (
        "+ tool web-search\n    usd_per_call: $0.005\n"
        "+ tool web-search\n    usd_per_call: $0.008\n"
        "Applied: 2 created.\n"
    )
    assert applied(file, prices).endswith("Nothing differs.\n")
    assert ports.tool_price("web-search") == make.nanos("0.005")
    assert ports.tool_price("web-search", at=datetime(2100, 1, 2, tzinfo=UTC)) == make.nanos("0.008")
    dearer = prices.replace("0.005", "0.006")
    assert "~ tool web-search\n    usd_per_call: $0.005 → $0.006\n" in applied(file, dearer)
    assert ports.tool_price("web-search") == make.nanos("0.006")
    row = AuditEntry.objects.filter(action="price.add").latest("id")
    assert (row.target, row.reason) == ("web-search", "apply policy.yaml")


def test_a_price_of_a_tool_that_cannot_be_is_refused_with_its_place(file: Path) -> None:
    assert refused(file, "tools: [{name: a}]") == ["policy.yaml:1: tools[0].usd_per_call: is needed."]
    beyond = refused(file, "tools:\n  - {name: a, usd_per_call: 1000001}")
    assert beyond == ["policy.yaml:2: tools[0].usd_per_call: must be at most 1,000,000 dollars."]
    twice = 'tools: [{name: a, usd_per_call: "1", effective_from: 2100-01-01}]'
    applied(file, twice)
    file.write_text(twice.replace('"1"', '"2"'))
    with pytest.raises(CommandError, match="There is a price from that very moment on"):
        apply(file.name, "--yes")


def test_the_difference_is_shown_and_applied_and_then_nothing_differs(file: Path) -> None:
    make.agent()
    make.budget("50")
    assert applied(file, ALL) == f"{DIFFERENCE}Applied: 3 created, 3 changed.\n"
    tenant = Tenant.objects.get()
    assert (tenant.status, tenant.time_zone, tenant.agents.get().status) == ("paused", "Europe/Paris", "paused")
    assert Budget.objects.get(window="day").downgrade_rules[1] == {"from": ["*"], "to": "tiny", "at": "0.95"}
    assert not Budget.objects.get(window="hour").enabled
    assert (RateLimit.objects.get().requests_per_minute, AnomalyRule.objects.get().act) == (5, "pause")
    done = list(AuditEntry.objects.order_by("id").values_list("action", flat=True))
    assert done == [
        *("tenant.change", "tenant.pause", "agent.pause", "budget.change"),
        *("budget.create", "rate_limit.create", "anomaly_rule.create"),
    ]
    changed = AuditEntry.objects.get(action="budget.change")
    assert (changed.reason, changed.actor.split(" (")[0]) == ("apply policy.yaml", "command line")
    assert set(AuditEntry.objects.filter(action__endswith=".create").values_list("reason", flat=True)) == {
        changed.reason
    }

    again = apply(file.name)
    assert "Nothing differs." in again
    assert {line[0] for line in again.splitlines()[:-1]} == {"="}
    assert AuditEntry.objects.count() == len(done)


def test_a_pause_is_lifted_and_a_degrading_rule_pauses(file: Path) -> None:
    make.agent()
    act = "agents: [{{tenant: acme, slug: invoices, status: {}}}]\ntenants: [{{slug: acme, status: {}}}]\n"
    rule = "anomaly_rules: [{{agent: '*', {}}}]\nrate_limits: [{{scope_type: platform, requests_per_minute: {}}}]"
    applied(file, act.format("paused", "paused") + rule.format("act: degrade, degrade_to: small", 5))
    applied(file, act.format("active", "active") + rule.format("act: pause", 6))
    tenant = Tenant.objects.get()
    assert (tenant.status, tenant.agents.get().status) == ("active", "active")
    assert (AnomalyRule.objects.get().act, AnomalyRule.objects.get().degrade_to) == ("pause", "")
    assert RateLimit.objects.get().requests_per_minute == 6


def test_what_an_entry_leaves_out_stays(file: Path) -> None:
    make.budget("50", disabled_tools=["search"], soft_cap="0.5")
    make.budget("9", window="month")
    applied(file, budget_of(limit="75"))
    changed = Budget.objects.get(window="day")
    assert (changed.limit_nanos, changed.disabled_tools, str(changed.soft_cap)) == (
        make.nanos("75"),
        ["search"],
        "0.5000",
    )
    assert Budget.objects.get(window="month").limit_nanos == make.nanos("9")


def test_a_changed_limit_takes_hold_of_the_open_window(file: Path) -> None:
    make.budget("1.00")
    ledger.record(make.reporting("0.50"), now=timezone.now())
    applied(file, budget_of(limit="0.50"))
    assert BudgetWindow.objects.get().state == "stopped"


def test_a_budget_that_was_deleted_and_kept_for_its_history_is_made_anew(file: Path) -> None:
    kept = make.budget("1.00", disabled_tools=["search"])
    ledger.record(make.reporting("0.50"), now=timezone.now())
    assert not budgets.delete(budget=kept, by=BY, now=timezone.now())
    assert applied(file, budget_of(limit="2")).startswith("+ budget acme per day\n")
    anew = Budget.objects.get()
    assert (anew.pk, anew.enabled, anew.disabled_tools) == (kept.pk, True, [])
    assert "Nothing differs." in apply(file.name)


def test_several_files_are_one(file: Path, tmp_path: Path) -> None:
    make.tenant()
    file.write_text(budget_of(limit="1"))
    (tmp_path / "other.yaml").write_text(budget_of(limit="2", window="month"))
    apply("policy.yaml", "other.yaml", "--yes", "--reason", "the spring's")
    assert Budget.objects.count() == 2
    with pytest.raises(CommandError, match=r"policy.yaml:1: budgets\[0\]: budget acme per day has an entry already"):
        apply("policy.yaml", "policy.yaml", "--yes")


def test_a_dry_run_shows_and_keeps_nothing(file: Path) -> None:
    make.agent()
    make.budget("50")
    file.write_text(ALL)
    assert apply(file.name, "--dry-run") == f"{DIFFERENCE}Would be applied: 3 created, 3 changed.\n"
    assert not AuditEntry.objects.exists()


def test_json_says_what_was_done(file: Path) -> None:
    make.budget("50")
    file.write_text(budget_of(limit="75", disabled_tools=["search"]))
    for applies in (False, True):
        found = json.loads(apply(file.name, "--json", "--yes" if applies else "--dry-run"))
        assert found == {
            "changes": [
                {
                    "table": "budgets",
                    "name": "budget acme per day",
                    "action": "changed",
                    "fields": {
                        "limit": {"old": "50.00", "new": "75.00"},
                        "disabled_tools": {"old": [], "new": ["search"]},
                    },
                }
            ],
            "created": 0,
            "changed": 1,
            "unchanged": 0,
            "applied": applies,
            "dry_run": not applies,
        }


# Agreement


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "agreed"), [("y\n", True), ("YES\n", True), ("\n", False), ("", False), ("n\n", False)]
)
def test_at_a_terminal_it_asks(file: Path, monkeypatch: pytest.MonkeyPatch, answer: str, agreed: bool) -> None:
    make.tenant()
    file.write_text(budget_of(limit="75"))
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    if agreed:
        assert "Apply this? [y/N] Applied: 1 created.\n" in apply(file.name)
    else:
        with pytest.raises(CommandError, match=r"^Nothing was applied$"):
            apply(file.name)
    assert Budget.objects.exists() == agreed


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_without_a_terminal_it_needs_yes(file: Path, monkeypatch: pytest.MonkeyPatch, option: list[str]) -> None:
    make.tenant()
    file.write_text(budget_of(limit="75"))
    monkeypatch.setattr(sys, "stdin", Terminal("y\n") if option else io.StringIO("y\n"))
    with pytest.raises(CommandError, match="Nothing was applied: say --yes"):
        apply(file.name, *option)
    assert not Budget.objects.exists()


def test_what_changed_after_it_was_shown_is_not_applied(file: Path) -> None:
    budget = make.budget("50")
    file.write_text(budget_of(limit="75"))
    entries = policy_files.read([str(file)])
    shown = policy_files.plan(entries)
    budgets.change(budget=budget, changes={"limit_nanos": make.nanos("60")}, by=BY, now=timezone.now())
    with pytest.raises(Conflict, match="has changed since the difference was shown"):
        policy_files.apply(entries, shown=shown, by=BY, now=timezone.now(), reason="")
    assert Budget.objects.get().limit_nanos == make.nanos("60")


def test_where_an_act_fails_nothing_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.tenant()
    make.agent()
    file.write_text(ALL)

    def fail(**_: Any) -> None:
        raise Conflict("", "somebody was first")

    monkeypatch.setattr("governance.actions.anomaly_rules.create", fail)
    with pytest.raises(CommandError, match="somebody was first"):
        apply(file.name, "--yes")
    assert not Budget.objects.exists()
    assert not AuditEntry.objects.exists()


# What is refused


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, ".limit: a new budget needs one"),
        ({"limit": "ten"}, ".limit: 'ten' is not an amount"),
        ({"limit": 0}, ".limit: must be more than 0 dollars"),
        ({"limit": "1e12"}, ".limit: must be at most"),
        ({"limit": True}, ".limit: must be an amount of dollars"),
        ({"limit": [1]}, ".limit: must be an amount of dollars"),
        ({"limit": 1, "limmit": 2}, ".limmit: is not known here. There are: tenant, scope_type"),
        ({"limit": 1, "source": "stripe"}, ".source: is not known here"),
        (
            {"limit": 1, "window": "fortnight"},
            ".window: must be one of hour, day, week, month, billing_cycle, lifetime, not",
        ),
        ({"limit": 1, "scope_type": "model"}, ".scope_type: must be one of platform, tenant, agent"),
        ({"limit": 1, "scope_type": "agent"}, ".scope_key: name the agent"),
        ({"limit": 1, "scope_type": "agent", "scope_key": 7}, ".scope_key: must be text: put it in quotes"),
        ({"limit": 1, "soft_cap": 0.9, "hard_cap": 0.8}, ".soft_cap: must be below hard_cap (0.8)"),
        ({"limit": 1, "alert_thresholds": "0.5"}, ".alert_thresholds: Expected a list"),
        ({"limit": 1, "alert_thresholds": [0.5, "much"]}, ".alert_thresholds[1]: must be a number"),
        (
            {"limit": 1, "downgrade_rules": [{"from": "a", "to": "b"}, {"form": "a"}]},
            ".downgrade_rules[1].form: is not",
        ),
        ({"limit": 1, "downgrade_rules": [{"from": "a"}]}, ".downgrade_rules: must be a list of rules"),
        ({"limit": 1, "enabled": "perhaps"}, ".enabled: Must be a valid boolean."),
        ({"limit": 1, "tenant": "nobody"}, ".tenant: There is no tenant 'nobody'."),
    ],
)
def test_a_wrong_value_is_named_with_its_place(file: Path, fields: dict[str, Any], says: str) -> None:
    make.tenant()
    [problem] = refused(file, budget_of(**fields))
    assert problem.startswith(f"policy.yaml:1: budgets[0]{says}")


def test_all_that_is_wrong_is_told_and_nothing_is_applied(file: Path) -> None:
    make.agent()
    problems = refused(
        file,
        """
budgets:
  - {tenant: acme, scope_type: tenant, window: day, limit: 1}
  - {tenant: acme, limit: -1}
  - {tenant: acme, scope_type: tenant, window: dy,
     limit: -1}
  - {tenant: acme, scope_type: agent, scope_key: B, window: day, limit: 1}
  - {tenant: acme, scope_type: agent, scope_key: b, window: day, limit: 2}
rate_limits: [{scope_type: platform}, {scope_type: platform, tenant: acme, tokens_per_minute: 1}]
anomaly_rules: [{act: explode}, {act: degrade, degrade_to: small}]
agents: [{tenant: acme, slug: bo, status: paused}, {tenant: acme, slug: invoices}]
tenants: [{slug: acme, status: suspended}, {slug: acme, time_zone: Mars}, {slug: nobody}]
""",
    )
    assert problems == [
        "policy.yaml:4: budgets[1].scope_type: is needed.",
        "policy.yaml:4: budgets[1].window: is needed.",
        "policy.yaml:5: budgets[2].window: must be one of hour, day, week, month, billing_cycle, lifetime, not 'dy'",
        "policy.yaml:6: budgets[2].limit: must be more than 0 dollars.",
        "policy.yaml:8: budgets[4]: budget acme agent:b per day has an entry already, policy.yaml:7: budgets[3]",
        "policy.yaml:9: rate_limits[0].dollars_per_minute: give at least one ceiling: dollars, requests or"
        " tokens a minute",
        "policy.yaml:9: rate_limits[1].scope_key: the platform has no tenant and no key: it is everything",
        "policy.yaml:10: anomaly_rules[0].act: must be one of notify, degrade, pause, not 'explode'",
        "policy.yaml:10: anomaly_rules[1].act: degrades agents alone: a budget that it makes for a customer would"
        " displace another",
        "policy.yaml:11: agents[0].slug: acme has no agent 'bo'.",
        "policy.yaml:11: agents[1].status: is needed.",
        "policy.yaml:12: tenants[0].status: must be one of active, paused, not 'suspended'",
        "policy.yaml:12: tenants[1].time_zone: 'Mars' is not an IANA time zone such as Europe/Paris.",
        "policy.yaml:12: tenants[2].slug: There is no tenant 'nobody'.",
    ]


HALF = "may not have NUL or half a surrogate pair in it."
THERE_ARE = "agents, anomaly_rules, budgets, rate_limits, tenants, tools"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", f"policy.yaml:1: must have lists of entries by name; there are: {THERE_ARE}"),
        ("[1]", f"policy.yaml:1: must have lists of entries by name; there are: {THERE_ARE}"),
        ("\nbudget: []", f"policy.yaml:2: budget: is not known here. There are: {THERE_ARE}"),
        ("budgets: {tenant: acme}", "policy.yaml:1: budgets: must be a list of entries, each behind a dash"),
        ("budgets:", "policy.yaml:1: budgets: must be a list of entries, each behind a dash"),
        ("budgets:\n- 7", "policy.yaml:2: budgets[0]: must be an entry of names and values"),
        ("a: &a [1]\nb: *a", "policy.yaml:2: *a stands for another value: write it out"),
        ("budgets: []\nbudgets: []", "policy.yaml:2: 'budgets' is there twice: say it once"),
        (r'budgets: [{scope_key: "a\0b"}]', f"policy.yaml: `budgets.0.scope_key` {HALF}"),
        (
            r'budgets: [{"a\ud800b": 1}]',
            "policy.yaml: `budgets.0` may have no field with NUL or half a surrogate pair in its name.",
        ),
        ("[" * 100_000, "policy.yaml:1: is nested deeper than 20 levels"),
        ("x" * 1_000_001, "policy.yaml:1: has more than 1,000,000 characters"),
        ("x" * 4_000_001, "policy.yaml:1: has more than 1,000,000 characters"),
        ("budgets:\n" + "- {}\n" * 1_001, "There are 1,001 entries; at most 1,000 are applied at once."),
    ],
)
def test_a_hostile_file_is_refused(file: Path, text: str, problem: str) -> None:
    assert refused(file, text) == [problem]


def test_what_is_not_text_or_not_there_is_refused(file: Path) -> None:
    file.write_bytes(b"budgets: []\n\xff")
    with pytest.raises(CommandError, match=r"policy\.yaml:2: is not UTF-8"):
        apply(file.name)
    with pytest.raises(CommandError, match=r"^nowhere\.yaml: No such file or directory$"):
        apply("nowhere.yaml")
    with pytest.raises(CommandError, match=r"^\.: Is a directory$"):
        apply(".")
    file.write_text("budgets: []")
    with pytest.raises(CommandError, match="--reason: must be 300 characters at most"):
        apply(file.name, "--reason", "x" * 301)
    assert apply(file.name) == "Nothing differs.\n"


def test_of_very_many_problems_the_first_are_told(file: Path) -> None:
    problems = refused(file, "budgets:\n" + "- {}\n" * 15)
    assert len(problems) == 21
    assert problems[-1] == "and 10 more"


# What is decided elsewhere


def test_what_stripe_decides_is_refused(file: Path) -> None:
    make.budget("50", window="billing_cycle", source="stripe")
    decides = "acme per billing cycle is Stripe's; the tenant's subscription and its plan decide that."
    assert refused(file, budget_of(window="billing_cycle", limit="75")) == [f"policy.yaml:1: budgets[0]: {decides}"]
    # What is so already is no change.
    assert "Nothing differs." in applied(file, budget_of(window="billing_cycle", limit="50"))


def test_who_pays_through_stripe_has_its_budget_for_billing_cycles_from_there(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.tenant()
    monkeypatch.setattr(ports, "wired", replace(ports.wired, plans=lambda tenants: dict.fromkeys(tenants, "a plan")))
    [problem] = refused(file, budget_of(window="billing_cycle", limit="75"))
    assert problem.endswith("is Stripe's; the tenant's subscription and its plan decide that.")
    assert "Applied: 1 created." in applied(file, budget_of(limit="75"))


def test_a_tenant_that_billing_has_suspended_stays_so(file: Path) -> None:
    make.tenant(status="suspended")
    for status, words in (("active", "; its subscription lifts that."), ("paused", " already.")):
        [problem] = refused(file, f"tenants: [{{slug: acme, status: {status}}}]")
        assert problem == f"policy.yaml:1: tenants[0].status: acme is suspended by billing{words}"


def test_the_platforms_default_is_the_settings(file: Path) -> None:
    make.tenant()
    Budget.objects.create(scope_type="tenant", scope_key="*", window="day", limit_nanos=1, source="default")
    [problem] = refused(file, "budgets: [{scope_type: tenant, scope_key: '*', window: day, limit: 5}]")
    assert problem.endswith("is the platform's default; the setting DEFAULT_DAILY_BUDGET decides that.")
