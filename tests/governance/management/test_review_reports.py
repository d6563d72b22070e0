"""`manage.py review_reports`, as a script runs it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.core.management import CommandError, call_command

from governance.actions import reviews
from governance.management.commands.review_reports import Command
from governance.models import AuditEntry, BudgetWindow, PendingReport
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.usefixtures("ledger_holds")


def run(*args: Any) -> str:
    out = io.StringIO()
    call_command("review_reports", *map(str, args), stdout=out)
    return out.getvalue()


def keep(slug: str = "acme", **fields: Any) -> PendingReport:
    caller = factories.caller(factories.tenant(slug), **fields)
    trust = reviews.trust_in(tenant_id=caller.tenant_id, agent_is_fixed=False)
    row = reviews.report(report=factories.reporting("50", by=caller, trust=trust), now=NOON)
    assert isinstance(row, PendingReport)
    return row


def test_what_waits_is_listed(db: None) -> None:
    assert run() == "No report waits.\n"
    mine, other = keep(agent="invoices"), keep("globex")
    lines = run().splitlines()
    assert lines == [
        f"{other.pk} waiting: globex, $50.00 of $50.00 for large, reported 2026-03-10 12:00 UTC",
        f"{mine.pk} waiting: acme / invoices, $50.00 of $50.00 for large, reported 2026-03-10 12:00 UTC",
    ]
    [found] = json.loads(run("--tenant", "acme", "--json"))
    assert (found["id"], found["waiting"], found["status"]) == (str(mine.pk), "50.00", "waiting")


def test_some_are_accepted_and_others_rejected(db: None) -> None:
    factories.budget("1")
    first, second = keep(), keep()
    [done] = json.loads(run("--accept", first.pk, "--reason", "bill", "--json"))
    assert (done["status"], done["entry"] is not None) == ("accepted", True)
    assert f"{second.pk} rejected" in run("--reject", second.pk, "--reason", "slip")
    assert BudgetWindow.objects.get().settled_nanos == nanos("50")
    assert set(AuditEntry.objects.values_list("action", "reason")) == {
        ("report.accept", "bill"),
        ("report.reject", "slip"),
    }


def test_a_dry_run_decides_nothing(db: None) -> None:
    row = keep()
    assert "would be decided" in run("--accept", row.pk, "--reason", "bill", "--dry-run")
    assert reviews.waiting_sums()[0] == 1


def test_those_that_cannot_be_decided_are_named_and_the_others_are_done(db: None) -> None:
    row, unknown = keep(), uuids.uuid7()
    out, err, command = io.StringIO(), io.StringIO(), Command()
    # As from a command line, where a failure is one object.
    command._called_from_command_line = True  # type: ignore[attr-defined]
    asked = ["--accept", unknown, row.pk, row.pk, "--reason", "bill", "--json"]
    with pytest.raises(SystemExit, match="1"):
        call_command(command, *map(str, asked), stdout=out, stderr=err)
    assert [each["id"] for each in json.loads(out.getvalue())] == [str(row.pk)]
    assert err.getvalue().splitlines() == [
        f"{unknown}: there is no such report.",
        f"{row.pk}: it is accepted already.",
    ]
    assert reviews.waiting_sums()[0] == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [(("--accept", uuids.uuid7()), "--reason: say why"), (("--tenant", "nobody"), "--tenant: There is no tenant")],
)
def test_what_is_asked_wrongly_is_said(db: None, args: tuple[Any, ...], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run(*args)
