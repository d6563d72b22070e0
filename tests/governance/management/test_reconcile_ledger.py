"""`manage.py reconcile_ledger`, as a script runs it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.db import connection

from governance import ledger, tasks
from governance.models import Alert, AuditEntry, BudgetWindow, LedgerCheck, LedgerJudgement
from governance.rules.calls import Usage
from tests import factories as make
from tests.fakes.cost_reports_api import CostReports
from tests.servers import served

pytestmark = pytest.mark.django_db


def run(*args: str) -> tuple[str, int]:
    told = io.StringIO()
    try:
        call_command("reconcile_ledger", *args, stdout=told)
    except SystemExit as end:
        return told.getvalue(), int(str(end.code))
    return told.getvalue(), 0


@pytest.fixture
def drifted() -> None:
    make.budget("1.00")
    ledger.record(make.reporting("0.25"), now=make.NOON)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE governance_budgetwindow SET settled_nanos = 1")


def test_a_ledger_that_holds_is_said_so_and_noted() -> None:
    assert run() == ("The ledger holds: all seven invariants, no drift.\n", 0)
    assert run("--json") == ("[]\n", 0)
    assert [check.drifts for check in LedgerCheck.objects.all()] == [0, 0]


@pytest.mark.parametrize("args", [[], ["--dry-run"], ["--repair", "--dry-run"]])
def test_drift_is_printed_and_left_as_it_is(drifted: None, args: list[str]) -> None:
    text, status = run(*args)
    assert "settled is $0.000000001, expected $0.25, off by $-0.249999999" in text
    assert status == 1
    assert BudgetWindow.objects.get().settled_nanos == 1


def test_repair_happens_on_request_and_says_what_it_set(drifted: None) -> None:
    text, status = run("--repair")
    assert text.startswith("Repaired: invariant 1: window")
    assert text.endswith("The ledger holds: all seven invariants, no drift.\n")
    assert status == 0
    assert BudgetWindow.objects.get().settled_nanos == make.nanos("0.25")
    assert AuditEntry.objects.get().actor.startswith("command line")
    assert (LedgerCheck.objects.get().drifts, LedgerCheck.objects.get().repaired) == (0, 1)


def test_json_names_the_figure(drifted: None) -> None:
    text, _ = run("--json")
    [drift] = json.loads(text)
    assert (drift["invariant"], drift["figure"], drift["actual"]) == (1, "settled_nanos", 1)


def test_beat_s_run_is_noted_too(drifted: None) -> None:
    assert tasks.reconcile_ledger() == 1
    assert LedgerCheck.objects.get().drifts == 1


DAY = date(2026, 3, 9)


def charge(dollars: str, *, provider: str = "openai") -> None:
    usage = Usage(provider, "gpt", 100, 0, 20)
    at = datetime(2026, 3, 9, 12, tzinfo=UTC)
    ledger.record(replace(make.reporting(dollars), usage=usage, occurred_at=at), now=at)


@pytest.fixture
def openai(settings: Any) -> Iterator[CostReports]:
    """The day after: OpenAI reports what a test says."""
    fake = CostReports()
    with served(fake) as url, time_machine.travel(datetime(2026, 3, 10, 13, tzinfo=UTC)):
        settings.OPENAI_API_BASE, settings.OPENAI_ADMIN_KEY = f"{url}/v1", fake.key
        yield fake


def test_a_provider_that_agrees_is_named_beside_the_ledger(openai: CostReports) -> None:
    openai.days[DAY] = "0.25"
    charge("0.25")
    text, status = run()
    lines = text.splitlines()
    assert status == 0
    assert lines[0] == "Judged from 2026-03-09 up to 2026-03-11, days of UTC:"
    assert lines[1].split() == ["account", "day", "ledger", "reported", "difference", "ruling"]
    assert lines[2].split() == ["openai", "2026-03-09", "0.25", "0.25", "0.00", "agrees"]
    assert lines[4].split() == ["openai", "reported", "spend_report", "1", "0.25"]
    assert lines[5] == "$0.25 of $0.25 rest on the ledger's own word."
    assert lines[6] == "The ledger holds: all seven invariants, no drift."


def test_a_provider_that_disagrees_has_an_exit_status_of_its_own(openai: CostReports) -> None:
    openai.days[DAY] = "0.75"
    charge("0.25")
    text, status = run("--json", "--judgement")
    told = json.loads(text)
    assert status == 4
    assert told["drifts"] == []
    assert told["judgement"]["providers"] == [
        {
            "account": "openai",
            "day": "2026-03-09",
            "ledger": "0.25",
            "reported": "0.75",
            "difference": "-0.50",
            "ruling": "disagrees",
            "reason": "",
        }
    ]
    assert told["judgement"]["unproven"][0]["amount"] == told["judgement"]["own_word"] == "0.25"
    # What scripts have read so far is what it was.
    assert run("--json") == ("[]\n", 4)
    assert Alert.objects.get().kind == "provider_disagrees"


def test_drift_is_the_graver_of_two(openai: CostReports) -> None:
    openai.days[DAY] = "0.75"
    make.budget("1.00", scope_type="platform", window="lifetime")
    charge("0.25")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE governance_budgetwindow SET settled_nanos = 1")
    text, status = run()
    assert status == 1
    assert "disagrees" in text
    assert "invariant 1" in text


def test_a_provider_that_does_not_report_leaves_it_untold(openai: CostReports) -> None:
    openai.said.extend([(500, b"<html>sorry</html>")] * 2)
    charge("0.25")
    text, status = run()
    assert status == 3
    assert "openai: its report could not be reached. It answered with status 500." in text
    assert "unjudged: its report could not be reached" in text
    assert "sorry" not in text
    # Nothing was charged, and still it did not report.
    assert run("--from", "2026-03-08", "--to", "2026-03-09")[1] == 3


def test_a_period_can_be_named(openai: CostReports) -> None:
    openai.days[DAY] = "0.75"
    assert run("--from", "2026-03-08", "--to", "2026-03-09T00:00Z")[1] == 0
    assert run("--from", "2026-03-09", "--to", "2026-03-10")[1] == 4
    assert not LedgerJudgement.objects.exists()


@pytest.mark.parametrize(
    "args",
    [
        ["--from", "2026-03-09T12:00Z"],
        ["--from", "2026-03-09T00:00+01:00"],
        ["--from", "0001-01-01T00:00+01:00"],
        ["--from", "today"],
        ["--from", "2026-02-31"],
        ["--from", "2026-03-09", "--to", "2026-03-09"],
        ["--from", "2025-03-09"],
    ],
)
def test_a_period_that_is_none_is_refused_before_anything_is_done(openai: CostReports, args: list[str]) -> None:
    with pytest.raises(CommandError, match=r"--from|--to"):
        run(*args)
    assert not LedgerCheck.objects.exists()
    assert openai.seen == []


def test_a_name_from_outside_writes_nothing_to_a_terminal_but_text() -> None:
    with time_machine.travel(datetime(2026, 3, 10, 13, tzinfo=UTC)):
        charge("0.25", provider="\x1b[2Jopen\nai")
        text, status = run()
    assert status == 0
    assert "?[2Jopen?ai  2026-03-09" in text
    assert "\x1b" not in text


def test_beat_judges_and_keeps_what_it_found(openai: CostReports) -> None:
    openai.days[DAY] = "0.75"
    assert tasks.judge_ledger() == 1
    assert LedgerJudgement.objects.get().disagreeing == 1
    assert str(LedgerJudgement.objects.get()) == "1 days disagree at 2026-03-10 13:00"
