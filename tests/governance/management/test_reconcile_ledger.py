"""`manage.py reconcile_ledger`, as a script runs it."""

from __future__ import annotations

import io
import json

import pytest
from django.core.management import call_command
from django.db import connection

from governance import ledger, tasks
from governance.models import AuditEntry, BudgetWindow, LedgerCheck
from tests import factories as make

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
    assert run() == ("The ledger holds: all six invariants, no drift.\n", 0)
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
    assert text.endswith("The ledger holds: all six invariants, no drift.\n")
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
