"""Runaways are seen, told of, stopped by themselves where a rule says so, and let go by people."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet

from governance import alerts, ledger
from governance.actions import anomalies, anomaly_rules, budgets, tenancy
from governance.audit import Actor
from governance.models import Agent, Alert, Anomaly, AnomalyRule, AuditEntry, Budget, FailedCalls, Tenant
from governance.queries import anomalies as found
from governance.rules.anomalies import HOUR
from governance.rules.errors import Conflict, FieldError, NotOpen
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.usefixtures("ledger_holds")

BY = Actor("olivia")
# Some minutes into the hour that goes on.
NOW = NOON + timedelta(minutes=7)
DAYS = 5


def spend(cost: str, at: datetime, *, agent: str = "support", owner: Tenant | None = None) -> None:
    by = factories.caller(owner, agent=agent)
    ledger.record(factories.reporting(cost, by=by, occurred_at=at), now=at)


@pytest.fixture
def usual() -> Agent:
    """An agent that for days has spent ten cents in each hour."""
    agent = factories.agent("support")
    for hours_ago in range(1, DAYS * 24 + 1):
        spend("0.10", NOON - HOUR * hours_ago)
    return agent


def look(at: datetime = NOW) -> int:
    return anomalies.look(now=at, known={})


def rule(act: str, **fields: Any) -> AnomalyRule:
    fields = {"tenant": factories.tenant(), "agent": "support"} | fields
    return anomaly_rules.create(act=act, by=BY, now=NOON, **fields)


def of_cost() -> Anomaly:
    return Anomaly.objects.get(subject_type="agent", metric="cost")


def test_what_is_usual_opens_nothing(usual: Agent) -> None:
    spend("0.20", NOON)
    assert look() == 0


def test_a_runaway_is_told_once_of_its_agent_with_the_hours_before_it(usual: Agent) -> None:
    spend("3", NOON)
    assert look() == 1
    assert look(NOW + timedelta(seconds=15)) == 1
    one = of_cost()
    assert str(one) == "cost of agent acme/support"
    assert (one.observed, one.expected) == (nanos("3"), nanos("0.10"))
    assert nanos("0.25") <= one.bound < nanos("3")
    assert len(one.evidence) == anomalies.SHOWN_HOURS
    assert one.evidence[-1] == [NOON.isoformat(), one.observed, one.expected, one.bound]
    assert one.evidence[-2][1:3] == [nanos("0.10"), nanos("0.10")]
    assert found.of_alert(str(one)) == one
    assert found.of_alert("mood of acme") is None
    alert = Alert.objects.get(subject=str(one))
    assert (alert.kind, alert.severity, alert.count) == ("anomaly", "critical", 1)
    assert alert.message.startswith("The agent acme/support spent $3.00 in the hour from 12:00 UTC, where $0.10")


def test_what_no_agent_is_to_blame_for_is_told_of_the_customer_and_of_the_model(usual: Agent) -> None:
    for number in range(40):
        spend("0.20", NOON, agent=f"new-{number}")
    assert look() == 2
    named = Anomaly.objects.order_by("subject_type").values_list("subject_type", "subject", "metric")
    assert list(named) == [("model", "mistral/large", "cost"), ("tenant", "acme", "cost")]
    assert "The model mistral/large spent $8.00" in Alert.objects.get(subject__contains="model").message


def test_the_dearest_agents_are_looked_at_and_held_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anomalies, "MOST_NEW", 1)
    for hours_ago in range(1, DAYS * 24 + 1):
        for agent in ("support", "dear"):
            spend("0.01", NOON - HOUR * hours_ago, agent=agent)
    spend("3", NOON)
    spend("9", NOON, agent="dear")
    known: anomalies.Known = {}
    assert anomalies.look(now=NOW, known=known) == 1
    assert of_cost().subject == "acme/dear"
    anomalies.look(now=NOW, known=known)
    anomalies.look(now=NOW, known=known)
    # The customer's own is most of all what its agents have too much of.
    assert [one.subject for one in Anomaly.objects.order_by("pk")] == ["acme/dear", "acme/support"]


def test_of_several_runaways_the_dearest_is_held_first(usual: Agent) -> None:
    for hours_ago in range(1, DAYS * 24 + 1):
        spend("0.01", NOON - HOUR * hours_ago, agent="dear")
    spend("3", NOON)
    spend("9", NOON, agent="dear")
    look()
    assert [one.subject for one in Anomaly.objects.order_by("pk")] == ["acme/dear", "acme/support"]


@pytest.mark.django_db(transaction=True)
def test_no_transaction_is_open_while_the_hours_before_are_reckoned(
    usual: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    reckoned = anomalies._evidence
    within = []

    def watched(*args: Any) -> Any:
        within.append(connection.in_atomic_block)
        return reckoned(*args)

    monkeypatch.setattr(anomalies, "_evidence", watched)
    spend("3", NOON)
    assert look() == 1
    assert within == [False]


def test_it_is_over_after_an_hour_in_which_nobody_saw_it(usual: Agent) -> None:
    spend("3", NOON)
    look()
    assert look(NOON + timedelta(hours=1, minutes=1)) == 1
    assert look(NOON + timedelta(hours=2, minutes=5)) == 0
    assert not alerts.open_ones().exists()
    assert of_cost().ended_by == ""


def test_without_a_rule_nobody_is_stopped(usual: Agent) -> None:
    spend("3", NOON)
    look()
    usual.refresh_from_db()
    assert usual.status == Agent.Status.ACTIVE


def test_a_rule_pauses_the_agent_and_a_person_lets_it_go(usual: Agent) -> None:
    rule("pause")
    spend("3", NOON)
    look()
    usual.refresh_from_db()
    one = of_cost()
    assert usual.status == Agent.Status.PAUSED
    assert (one.act, one.acted_at, one.acted_spent_nanos) == ("pause", NOW, nanos("3"))
    assert "paused by itself, when its hour had spent $3.00" in Alert.objects.get(subject=str(one)).message
    entry = AuditEntry.objects.get(action="agent.pause")
    assert (entry.actor, entry.target) == ("anomalies", "agent acme/support")
    # As long as it holds, it is not over, however quiet it is.
    assert look(NOW + timedelta(days=1)) == 1

    anomalies.undo(anomaly=one, reason="meant", by=BY, now=NOW + timedelta(days=1))
    usual.refresh_from_db()
    assert usual.status == Agent.Status.ACTIVE
    with pytest.raises(NotOpen):
        anomalies.undo(anomaly=one, by=BY, now=NOW)
    assert look(NOW + timedelta(days=1, minutes=1)) == 0


def test_it_does_not_act_again_for_what_a_person_undid(usual: Agent) -> None:
    rule("pause")
    spend("3", NOON)
    look()
    anomalies.undo(anomaly=of_cost(), by=BY, now=NOW)
    spend("3", NOON)
    look(NOW + timedelta(seconds=15))
    usual.refresh_from_db()
    assert usual.status == Agent.Status.ACTIVE


def test_whom_a_person_paused_is_not_let_go_by_undoing_an_anomaly(usual: Agent) -> None:
    rule("pause")
    spend("3", NOON)
    tenancy.pause_agent(agent=usual, reason="holiday", by=BY, now=NOW)
    look()
    assert (of_cost().acted_at, of_cost().act_note) == (None, "not done: acme/support was paused already")


def test_an_agent_that_somebody_resumed_on_its_own_page_is_let_go(usual: Agent) -> None:
    rule("pause")
    spend("3", NOON)
    look()
    usual.refresh_from_db()
    tenancy.resume_agent(agent=usual, reason="meant", by=BY, now=NOW)
    assert of_cost().undone_by == "olivia"
    assert look(NOW + timedelta(hours=2)) == 0


def test_a_pause_that_a_person_makes_later_is_not_let_go_by_undoing_an_anomaly(usual: Agent) -> None:
    rule("pause")
    spend("3", NOON)
    look()
    usual.refresh_from_db()
    tenancy.resume_agent(agent=usual, reason="meant", by=BY, now=NOW)
    tenancy.pause_agent(agent=usual, reason="holiday", by=BY, now=NOW)
    with pytest.raises(NotOpen):
        anomalies.undo(anomaly=of_cost(), by=BY, now=NOW)
    # Nor does it hold the anomaly open.
    assert look(NOW + timedelta(hours=2)) == 0
    usual.refresh_from_db()
    assert usual.status == Agent.Status.PAUSED


def test_undoing_a_degrading_whose_budget_is_gone_lets_go_of_no_pause(usual: Agent) -> None:
    rule("degrade", degrade_to="mistral-small-latest")
    spend("3", NOON)
    look()
    budgets.delete(budget=Budget.objects.get(scope_type="agent"), by=BY, now=NOW)
    tenancy.pause_agent(agent=usual, reason="holiday", by=BY, now=NOW)
    anomalies.undo(anomaly=of_cost(), by=BY, now=NOW)
    usual.refresh_from_db()
    assert usual.status == Agent.Status.PAUSED


def test_a_degrading_whose_budget_somebody_deletes_is_over(usual: Agent) -> None:
    rule("degrade", degrade_to="mistral-small-latest")
    spend("3", NOON)
    look()
    assert look(NOW + timedelta(hours=2)) == 1
    budgets.delete(budget=Budget.objects.get(scope_type="agent"), by=BY, now=NOW)
    assert look(NOW + timedelta(hours=2)) == 0
    assert of_cost().undone_by == "by hand"


def test_a_customer_has_one_act_an_hour(usual: Agent) -> None:
    second = factories.agent("churn")
    for hours_ago in range(1, DAYS * 24 + 1):
        spend("0.10", NOON - HOUR * hours_ago, agent="churn")
    rule("pause", agent="*")
    spend("3", NOON)
    look()
    spend("3", NOON, agent="churn")
    look(NOW + timedelta(minutes=1))
    second.refresh_from_db()
    assert second.status == Agent.Status.ACTIVE
    late = Anomaly.objects.get(agent="churn", metric="cost")
    assert late.act_note == "not done: acme/support was paused less than an hour ago"
    # Where it goes on, the next hour may act.
    spend("3", NOON + HOUR, agent="churn")
    look(NOW + timedelta(minutes=61))
    second.refresh_from_db()
    assert second.status == Agent.Status.PAUSED


def test_degrading_makes_a_budget_that_moves_every_call_and_undoing_takes_it_away(usual: Agent) -> None:
    rule("degrade", degrade_to="mistral-small-latest")
    spend("3", NOON)
    look()
    guard = Budget.objects.get(scope_type="agent", scope_key="support")
    assert of_cost().guard == guard
    call = factories.call("0.01", prices={"mistral-small-latest": "0.001"})
    decision = ledger.dry_run(factories.caller(agent="support"), call, now=NOW)
    assert (decision.action.value, decision.quote and decision.quote.model) == ("degrade", "mistral-small-latest")
    anomalies.undo(anomaly=of_cost(), by=BY, now=NOW)
    decision = ledger.dry_run(factories.caller(agent="support"), call, now=NOW)
    assert decision.action.value == "allow"


def test_no_budget_is_made_that_would_stand_in_the_place_of_one_for_each_agent(usual: Agent) -> None:
    each = factories.budget("1", scope_type="agent", scope_key="*")
    rule("degrade", degrade_to="mistral-small-latest")
    spend("3", NOON)
    look()
    assert list(Budget.objects.filter(scope_type="agent")) == [each]
    assert of_cost().act_note == "not done: a budget for each agent would give way to the one that degrades it"


def test_what_somebody_calls_usual_is_not_told_again_unless_it_doubles(usual: Agent) -> None:
    spend("3", NOON)
    look()
    one = of_cost()
    anomalies.dismiss(anomaly=one, reason="month's end", by=BY, now=NOW)
    assert not alerts.open_ones().exists()
    with pytest.raises(NotOpen):
        anomalies.dismiss(anomaly=one, by=BY, now=NOW)
    spend("2.90", NOON)
    assert look(NOW + timedelta(minutes=1)) == 0
    spend("0.20", NOON)
    assert look(NOW + timedelta(minutes=2)) == 1


def test_a_customer_as_a_whole_can_be_paused(usual: Agent) -> None:
    rule("pause", agent="")
    spend("3", NOON)
    look()
    owner = Tenant.objects.get(slug="acme")
    assert owner.status == Tenant.Status.PAUSED
    anomalies.undo(anomaly=Anomaly.objects.get(subject_type="tenant"), by=BY, now=NOW)
    owner.refresh_from_db()
    assert owner.status == Tenant.Status.ACTIVE


def test_the_most_exact_rule_counts(usual: Agent) -> None:
    rule("pause", tenant=None, agent="*")
    rule("notify")
    spend("3", NOON)
    look()
    usual.refresh_from_db()
    assert usual.status == Agent.Status.ACTIVE
    assert anomalies.rule_for(Anomaly(subject_type="model")) is None


def test_calls_that_fail_are_told_of_and_pause_nobody(usual: Agent) -> None:
    rule("pause")
    FailedCalls.objects.create(tenant=usual.tenant, agent="support", hour=NOON, failures=12)
    assert look() == 1
    one = Anomaly.objects.get(subject_type="agent")
    assert (one.metric, one.observed, one.acted_at) == ("failures", 12, None)
    assert "had 12 calls fail" in Alert.objects.get(subject=str(one)).message


def test_an_act_that_did_not_come_about_is_made_by_the_next_look(usual: Agent) -> None:
    spend("3", NOON)
    look()
    rule("pause")
    look(NOW + timedelta(seconds=15))
    assert of_cost().act == "pause"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"act": "shout"}, "act"),
        ({"act": "pause", "tenant": None}, "agent"),
        ({"act": "pause", "degrade_to": "m"}, "degrade_to"),
        ({"act": "degrade"}, "degrade_to"),
        ({"act": "degrade", "agent": "", "degrade_to": "m"}, "act"),
    ],
)
def test_a_rule_that_none_can_be_is_refused_at_its_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(FieldError) as caught:
        rule(**fields)
    assert caught.value.field == named


def test_there_is_one_rule_for_each() -> None:
    made = rule("pause")
    with pytest.raises(Conflict):
        rule("notify")
    anomaly_rules.change(rule=made, changes={"act": "notify"}, by=BY, now=NOON)
    anomaly_rules.delete(rule=made, by=BY, now=NOON)
    assert [entry.action for entry in AuditEntry.objects.order_by("id")] == [
        "anomaly_rule.create",
        "anomaly_rule.change",
        "anomaly_rule.delete",
    ]


@pytest.mark.parametrize("rows", [found.found, found.open_ones, found.holding])
def test_a_reader_sees_its_own(rows: Callable[..., QuerySet[Anomaly]]) -> None:
    acme, globex = factories.tenant(), factories.tenant("globex")
    for owner, agent in ((acme, ""), (acme, "support"), (acme, "churn"), (globex, "support")):
        Anomaly.objects.create(
            subject_type="agent" if agent else "tenant",
            subject=f"{owner.slug}/{agent}",
            tenant=owner,
            agent=agent,
            metric="cost",
            observed=3,
            expected=1,
            bound=2,
            act="pause",
            **dict.fromkeys(("hour", "started_at", "last_at", "acted_at"), NOW),
        )

    def seen(**reader: Any) -> list[str]:
        return [one.subject for one in rows(reader=found.Reader(**reader))]

    assert seen(tenant=acme, agent="support") == ["acme/support"]
    assert seen(tenant=acme) == ["acme/churn", "acme/support", "acme/"]
    assert seen(tenant=globex) == ["globex/support"]
    assert len(seen()) == 4


def test_what_is_let_go_or_was_only_told_holds_nobody() -> None:
    row = {"subject_type": "model", "observed": 3, "expected": 1, "bound": 2}
    row |= dict.fromkeys(("hour", "started_at", "last_at"), NOW)
    Anomaly.objects.create(**row, metric="cost", act="pause", acted_at=NOW, undone_at=NOW, undone_by="olivia")
    Anomaly.objects.create(**row, metric="calls")
    assert found.found().count() == 2
    assert not found.holding().exists()
