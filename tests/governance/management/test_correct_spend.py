"""`manage.py correct_spend`, as a script runs it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.core.management import CommandError, call_command

from governance import ledger
from governance.models import AuditEntry, BudgetWindow, SpendEntry
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.usefixtures("ledger_holds")


@pytest.fixture
def entry(db: None) -> SpendEntry:
    factories.budget("10")
    return SpendEntry.objects.get(pk=ledger.record(factories.reporting("1"), now=NOON).entry_id)


def run(*args: Any) -> str:
    out = io.StringIO()
    call_command("correct_spend", *map(str, args), stdout=out)
    return out.getvalue()


def settled() -> int:
    return BudgetWindow.objects.get().settled_nanos


def test_a_line_is_set_to_another_amount(entry: SpendEntry) -> None:
    assert run(entry.pk, "--cost", "0.25", "--reason", "bill") == f"Posted $-0.75: {entry.pk} costs $0.25.\n"
    assert settled() == nanos("0.25")
    row = AuditEntry.objects.get()
    assert (row.action, row.reason, row.actor.startswith("command line")) == ("entry.correct", "bill", True)


def test_a_line_is_voided(entry: SpendEntry) -> None:
    done = json.loads(run(entry.pk, "--void", "--reason", "bill", "--json"))
    assert (done["delta"], done["cost"], done["dry_run"], settled()) == ("-1.00", "0.00", False, 0)


def test_a_dry_run_posts_nothing(entry: SpendEntry) -> None:
    assert run(entry.pk, "--cost", "3", "--reason", "x", "--dry-run").startswith("Would post $2.00: ")
    assert (settled(), SpendEntry.objects.count(), AuditEntry.objects.exists()) == (nanos("1"), 1, False)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--cost", "1", "--reason", "x"), "just that already"),
        (("--cost", "much", "--reason", "x"), "--cost: 'much' is not an amount"),
        (("--cost", "-1", "--reason", "x"), "--cost: must not be below 0"),
        (("--cost", "2", "--reason", " "), "--reason: say why"),
    ],
)
def test_what_cannot_be_said_is_refused(entry: SpendEntry, args: tuple[str, ...], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run(entry.pk, *args)


def test_a_line_that_is_not_there_is_named(db: None) -> None:
    id = uuids.uuid7()
    with pytest.raises(CommandError, match=f"no line {id}"):
        run(id, "--void", "--reason", "x")
