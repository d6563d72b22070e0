"""Each file of docs/policies does what it says: it is applied, and the call that it is about is decided."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
import uuid_utils.compat as uuids
from django.core.management import call_command

from governance import ledger, ports
from governance.ledger.operations import Reserve
from governance.models import AnomalyRule, Tenant
from governance.rules.calls import tool_usage
from governance.rules.decision import Action, Call, Decision, Quote, Reason
from llm.catalogue import snapshot
from tests import factories as make
from tests.environment import ROOT
from tests.factories import NOON

pytestmark = pytest.mark.django_db

FILES = sorted((ROOT / "docs/policies").iterdir())
LARGE, SMALL, SMALLEST = "mistral-large-latest", "mistral-small-latest", "ministral-3b-latest"
USED = tool_usage("scrape", calls=45)
STAGES = {SMALL: "0.001", SMALLEST: "0.0001"}


@pytest.fixture(autouse=True)
def at_noon() -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


def applied(name: str) -> None:
    """Acme and its agents are there, the file is applied, and applied again it changes nothing."""
    for slug in ("invoices", "batch"):
        make.agent(slug)
    told = io.StringIO()
    for _ in range(2):
        call_command("apply", str(ROOT / "docs/policies" / name), "--yes", stdout=told)
    assert told.getvalue().endswith("Nothing differs.\n")


def decided(cost: str = "0.01", *, of: Tenant | None = None, at: datetime = NOON, **whom: Any) -> Decision:
    asked = {name: whom.pop(name) for name in ("model", "tools", "prices", "allow_downgrade") if name in whom}
    return ledger.dry_run(make.caller(of, **whom), make.call(cost, **asked), now=at)


def spent(cost: str, *, of: Tenant | None = None, **whom: Any) -> None:
    ledger.record(make.reporting(cost, by=make.caller(of, **whom)), now=NOON)


def called(times: int, cost: str = "0.0001", *, tokens: int = 0, **whom: Any) -> list[Decision]:
    """What was decided of calls, which go on where they were let through."""
    quote = Quote("large", make.nanos(cost), input_tokens=tokens)
    asked = Call(model="large", quote=lambda _: quote)
    return ledger.apply([Reserve(uuids.uuid7(), make.caller(**whom), asked) for _ in range(times)], now=NOON)


def test_each_customer_has_its_cap() -> None:
    applied("each-customer.yaml")
    other = make.tenant("other")
    spent("19.99", of=other)
    spent("19.99")
    assert decided("0.02", of=other).reason == Reason.BUDGET_EXHAUSTED
    assert decided("0.02").action == Action.ALLOW


def test_a_runaway_is_slowed_stopped_and_paused() -> None:
    applied("runaway-guard.yaml")
    called(2, "0.25", agent="invoices")
    assert decided("0.02", agent="invoices").reason == Reason.RATE_LIMITED
    spent("4.99", agent="invoices")
    later = NOON + timedelta(minutes=30)
    assert decided("0.02", agent="invoices", at=later).reason == Reason.BUDGET_EXHAUSTED
    assert decided("0.02", agent="batch", at=later).allowed
    assert AnomalyRule.objects.get().act == "pause"


def test_a_trial_ends_for_good() -> None:
    applied("trial.yaml")
    spent("4.99")
    assert make.tenant().default_max_tokens == 1024
    assert decided("0.02", at=NOON + timedelta(days=400)).reason == Reason.BUDGET_EXHAUSTED
    called(10)
    assert decided("0.0001").reason == Reason.RATE_LIMITED


def test_an_agency_and_its_customers_have_theirs() -> None:
    applied("agency.yaml")
    for user in ("contoso", "northwind"):
        spent("49.99", user=user)
    assert decided("0.02", user="contoso").reason == Reason.BUDGET_EXHAUSTED
    assert decided("0.02", user="northwind").allowed
    for number in range(8):
        spent("49.99", user=f"customer {number}")
    refused = decided("1.00", user="fabrikam")
    assert refused.because is not None
    assert (refused.reason, refused.because.scope) == (Reason.BUDGET_EXHAUSTED, "tenant:acme")


def test_a_frozen_customer_calls_nothing_until_it_is_let_go() -> None:
    applied("freeze.yaml")
    assert decided().reason == Reason.TENANT_PAUSED
    applied("unfreeze.yaml")
    assert decided().allowed


def test_a_quiet_agent_leaves_the_others_alone() -> None:
    applied("quiet-agent.yaml")
    assert decided(agent="invoices").reason == Reason.AGENT_PAUSED
    assert decided(agent="batch").allowed


@pytest.mark.parametrize(("used", "model"), [("30.00", LARGE), ("36.00", SMALL), ("48.00", SMALLEST)])
def test_near_the_cap_calls_go_to_cheaper_models(used: str, model: str) -> None:
    applied("cheaper-near-the-cap.yaml")
    spent(used)
    assert decided("0.05", model=LARGE, prices=STAGES).model == model


def test_expensive_models_are_not_called() -> None:
    applied("no-expensive-models.yaml")
    found = decided("0.05", model=LARGE, prices=STAGES)
    assert (found.action, found.model) == (Action.DEGRADE, SMALL)
    assert decided("0.05", model=LARGE, prices=STAGES, allow_downgrade=False).reason == Reason.DOWNGRADE_REFUSED


def test_each_user_has_a_dollar_a_day() -> None:
    applied("each-user.yaml")
    spent("0.99", user="ada")
    assert decided("0.02", user="ada").reason == Reason.BUDGET_EXHAUSTED
    assert decided("0.02", user="grace").allowed
    assert decided("0.02").allowed


def test_each_task_and_each_session_has_its_own() -> None:
    applied("each-task.yaml")
    spent("1.99", task="t1")
    spent("0.49", session="s1")
    for whom in ({"task": "t1"}, {"session": "s1"}):
        assert decided("0.02", **whom).reason == Reason.BUDGET_EXHAUSTED
    assert decided("0.02", task="t2", session="s2").allowed


def test_what_is_left_of_a_day_is_carried_over_up_to_half_of_it() -> None:
    applied("carry-over.yaml")
    tomorrow = NOON + timedelta(days=1)
    spent("3.00")
    assert (decided("7.00").allowed, decided("7.01").allowed) == (True, False)
    assert (decided("15.00", at=tomorrow).allowed, decided("15.01", at=tomorrow).allowed) == (True, False)
    spent("6.00")
    assert (decided("11.00", at=tomorrow).allowed, decided("11.01", at=tomorrow).allowed) == (True, False)


def test_tools_are_taken_away_near_the_cap() -> None:
    applied("fewer-tools.yaml")
    tools = ("web_search", "lookup")
    assert decided(agent="invoices", tools=tools).disabled_tools == ()
    spent("24.00", agent="invoices")
    found = decided(agent="invoices", tools=tools)
    assert (found.action, found.disabled_tools) == (Action.DISABLE_TOOLS, ("web_search",))


def test_tools_have_prices_and_come_under_the_cap() -> None:
    snapshot.forget()
    applied("tools.yaml")
    snapshot.forget()
    costs = [ports.true_cost(tool_usage(name, calls=10)) for name in ("web-search", "scrape", "other")]
    assert [found and found[0] for found in costs] == [make.nanos("0.05"), make.nanos("0.20"), None]
    ledger.record(replace(make.reporting("0.90", by=make.caller(agent="invoices")), usage=USED), now=NOON)
    assert decided("0.05", agent="invoices").allowed
    assert decided("0.20", agent="invoices").reason == Reason.BUDGET_EXHAUSTED
    snapshot.forget()


def test_calls_and_tokens_a_minute_are_held_to_their_limits() -> None:
    applied("rate-limits.yaml")
    called(1, tokens=20_000, agent="batch")
    [refused] = called(1, tokens=1_000, agent="batch")
    assert refused.reason == Reason.RATE_LIMITED
    assert decided().allowed
    called(119)
    assert decided().reason == Reason.RATE_LIMITED


def test_all_customers_together_have_one_cap() -> None:
    applied("whole-platform.yaml")
    for slug in ("one", "two"):
        spent("199.99", of=make.tenant(slug))
    refused = decided("0.05", of=make.tenant("three"))
    assert refused.because is not None
    assert (refused.reason, refused.because.scope) == (Reason.BUDGET_EXHAUSTED, "platform")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_document_shows_each_file_as_it_is_and_a_test_plays_it(path: Path) -> None:
    told = (ROOT / "docs/policies.md").read_text()
    shown = re.findall(r"^```yaml\n(.*?)^```", told, re.MULTILINE | re.DOTALL)
    assert path.read_text() in shown
    assert f"](policies/{path.name})" in told
    assert f'applied("{path.name}")' in Path(__file__).read_text()
    assert len(shown) == len(FILES)
