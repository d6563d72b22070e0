"""`manage.py emergency_stop`"""

from __future__ import annotations

import io
import json

import pytest
from django.core.management import CommandError, call_command

from governance.models import AuditEntry, EmergencyStop
from tests import factories

pytestmark = pytest.mark.django_db


def run(*args: str) -> str:
    told = io.StringIO()
    call_command("emergency_stop", "--reason", "a loop", *args, stdout=told)
    return told.getvalue()


@pytest.mark.parametrize(
    ("args", "whom"),
    [
        ([], "everything"),
        (["--tenant", "acme"], "tenant acme"),
        (["--tenant", "acme", "--agent", "invoices"], "agent acme/invoices"),
    ],
)
def test_it_stops_and_lifts(args: list[str], whom: str) -> None:
    factories.agent()
    assert run(*args) == f"Stopped: {whom}.\n"
    with pytest.raises(CommandError, match="stopped already"):
        run(*args)
    assert run(*args, "--lift") == f"Lifted: {whom}.\n"
    with pytest.raises(CommandError, match=f"There is no stop of {whom} to lift"):
        run(*args, "--lift")
    rows = AuditEntry.objects.order_by("id")
    assert [(row.action, row.reason) for row in rows] == [("stop.start", "a loop"), ("stop.lift", "a loop")]
    assert all(row.actor.startswith("command line (") for row in rows)


def test_lifting_the_stop_of_a_tenant_leaves_those_of_its_agents_and_of_everything() -> None:
    factories.agent()
    for args in ([], ["--tenant", "acme"], ["--tenant", "acme", "--agent", "invoices"]):
        run(*args)
    run("--tenant", "acme", "--lift")
    assert EmergencyStop.objects.get(tenant__slug="acme", agent=None).lifted_at is not None
    assert EmergencyStop.objects.filter(lifted_at=None).count() == 2


def test_it_prints_json() -> None:
    factories.tenant()
    told = json.loads(run("--tenant", "acme", "--json"))
    assert told == {
        "id": EmergencyStop.objects.get().pk,
        "stops": "tenant acme",
        "tenant": "acme",
        "agent": None,
        "active": True,
        "reason": "a loop",
        "dry_run": False,
    }
    assert json.loads(run("--tenant", "acme", "--lift", "--json"))["active"] is False


def test_a_dry_run_changes_nothing() -> None:
    assert run("--dry-run") == "Would stop: everything.\n"
    assert not EmergencyStop.objects.exists()
    run()
    assert run("--lift", "--dry-run") == "Would lift: everything.\n"
    assert EmergencyStop.objects.get().lifted_at is None


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--agent", "invoices"], "--tenant: name the agent's tenant"),
        (["--tenant", "nobody"], "--tenant: There is no tenant"),
        (["--tenant", "acme", "--agent", "nobody"], "--agent: acme has no agent"),
        (["--reason", " "], "--reason: say why"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option_s_name(args: list[str], says: str) -> None:
    factories.agent()
    with pytest.raises(CommandError, match=says):
        run(*args)
    assert not EmergencyStop.objects.exists()
