"""The commands operators and cron use: what they print, do, and refuse."""

import json
from datetime import timedelta
from io import StringIO

import pytest
import time_machine
from django.core.management import CommandError, call_command

from governance import ledger
from governance.models import AuditEntry, BudgetWindow, SpendEntry
from tests import factories as make
from tests.factories import NOON

pytestmark = pytest.mark.django_db


def run(name, *args, **options):
    out = StringIO()
    call_command(name, *args, stdout=out, **options)
    return out.getvalue().strip()


def test_expire_reservations_says_how_many():
    make.budget("1.00")
    ledger.apply([make.reserving("0.10"), make.reserving("0.10")], now=NOON)
    with time_machine.travel(NOON + timedelta(hours=1), tick=False):
        assert run("expire_reservations", "--dry-run") == "2 reservations are due."
        assert not SpendEntry.objects.exists()
        assert run("expire_reservations") == "2 reservations expired."
        assert json.loads(run("expire_reservations", "--json")) == {"expired": 0, "due": 0}


def test_reconcile_ledger_says_that_it_holds():
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON)
    assert run("reconcile_ledger") == "The ledger holds: all seven invariants, no drift."
    assert json.loads(run("reconcile_ledger", "--json")) == []


def test_reconcile_ledger_names_each_drift_and_exits_with_1(capsys):
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON)
    BudgetWindow.objects.update(settled_nanos=1)
    out = StringIO()
    with pytest.raises(SystemExit) as raised:
        call_command("reconcile_ledger", stdout=out)
    assert raised.value.code == 1
    assert "$0.000000001, expected $0.10" in out.getvalue()


def test_reset_budget_opens_a_new_window_and_keeps_the_reason():
    make.budget("1.00")
    with time_machine.travel(NOON, tick=False):
        ledger.record(make.reporting("0.10"), now=NOON)
        asked = ("reset_budget", "--tenant", "acme", "--reason", "a demo")
        assert run(*asked, "--dry-run").endswith("1 windows closed, 1 opened.")
        assert BudgetWindow.objects.count() == 1
        answer = json.loads(run(*asked, "--json"))
    assert answer == {"budgets": ["acme per day"], "closed": 1, "opened": 1, "dry_run": False}
    assert BudgetWindow.objects.get(closed_at=None).settled_nanos == 0
    entry = AuditEntry.objects.get()
    assert (entry.reason, entry.actor.startswith("command line")) == ("a demo", True)


@pytest.mark.parametrize(
    "args",
    [
        ("--tenant", "nobody", "--reason", "x"),
        ("--tenant", "acme", "--scope", "user", "--key", "ann", "--reason", "x"),
        ("--tenant", "acme", "--window", "month", "--reason", "x"),
        ("--tenant", "acme", "--reason", " "),
        ("--tenant", "acme"),
    ],
)
def test_reset_budget_refuses_what_is_not_there_or_not_explained(args):
    make.budget("1.00")
    with pytest.raises(CommandError):
        run("reset_budget", *args)
    assert not AuditEntry.objects.exists()
