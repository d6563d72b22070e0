"""Migrations are history: they carry their own data and go on working whatever becomes of the code."""

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.contrib.postgres.operations import AddIndexConcurrently
from django.core.management import CommandError, call_command
from django.db import connection, models
from django.db import migrations as m
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from config.management.commands import migrate
from governance.apps import MIGRATING
from tests.config import migration_rules
from tests.environment import ROOT

OURS = {"billing", "config", "governance", "llm"}
MIGRATIONS = sorted(path for app in OURS for path in (ROOT / app).glob("migrations/*.py"))


def imported(path: Path) -> set[str]:
    """The top packages that a file imports, wherever in it; "." for its own."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_migration_imports_nothing_of_ours(path: Path) -> None:
    assert imported(path) & {*OURS, "."} == set()


# What the rules find and is all right all the same, by migration, with why. An upgrade from 0.1.0 is made with all
# processes stopped (docs/operations.md, Upgrading), for which governance.0019 is the reason.
WITH_ALL_STOPPED = {
    "billing.0008": "rewrites the rules of some plans; new plans wait for the restart",
    "billing.0015": "takes columns over into new ones, and away",
    "governance.0010": "reads all rows once, and brings back what is beyond its bound",
    "governance.0011": "an index of the lines that no budget covers, which are few",
    "governance.0013": "adds an empty column to answers that are kept for a day, and an index to windows",
    "governance.0014": "renames agents, scopes and subjects whose names are one now",
    "governance.0018": "empties a column of sign-in tries",
    "governance.0021": "makes triggers",
    "governance.0023": "an index over a column that is empty",
    "governance.0024": "bounds of rate buckets, and one key for answers that are kept for a day",
    "governance.0033": "makes two small indexes, and nobody waits for them",
    "governance.0037": "makes triggers of budgets anew, in the moment in which it has the table",
    "governance.0038": "makes a trigger of budgets anew, in the moment in which it has the table",
}


def test_a_migration_holds_up_no_call_and_the_version_before_goes_on() -> None:
    found: dict[str, list[str]] = {}
    for migration, said in migration_rules.found():
        found.setdefault(migration, []).append(said)
    assert {name: said for name, said in found.items() if name not in WITH_ALL_STOPPED} == {}
    assert sorted(WITH_ALL_STOPPED) == sorted(found), "a migration is excused for nothing"


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (m.AddIndex("spendentry", models.Index(fields=["cost"], name="i")), "spendentry.i locks out writes"),
        (m.AddIndex("budget", models.Index(fields=["cost"], name="i")), ""),
        (AddIndexConcurrently("spendentry", models.Index(fields=["cost"], name="i")), ""),
        (
            m.AddConstraint("spendentry", models.CheckConstraint(condition=models.Q(cost=0), name="c")),
            "all rows are read",
        ),
        (m.AddConstraint("spendentry", models.UniqueConstraint(fields=["cost"], name="c")), "its index is built"),
        (m.AddField("spendentry", "more", models.IntegerField(default=0)), "has no default in the database"),
        (m.AddField("spendentry", "more", models.IntegerField(default=0, db_default=0)), ""),
        (m.AddField("spendentry", "more", models.IntegerField(null=True)), ""),
        (m.AddField("spendentry", "more", models.IntegerField(null=True, unique=True)), "index is built"),
        (m.AlterField("spendentry", "cost", models.CharField(max_length=9)), "read or written anew"),
        (m.AlterField("spendentry", "cost", models.BigIntegerField(default=0, help_text="Dollars.")), ""),
        (m.AlterField("spendentry", "free", models.IntegerField()), "may not be null any more"),
        (m.AlterField("spendentry", "cost", models.BigIntegerField(default=0, db_index=True)), "index is built"),
        (m.RemoveField("spendentry", "cost"), "takes a column away"),
        (m.RenameField("spendentry", "cost", "price"), "takes a column away"),
        (m.RenameModel("SpendEntry", "Line"), "takes a table away"),
        (m.DeleteModel("SpendEntry"), "takes a table away"),
        (m.RunSQL("SELECT 1"), "what no rule knows"),
        (m.RunPython(m.RunPython.noop), "what no rule knows"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_the_rules_see_what_locks_and_what_breaks_the_version_before(operation: Operation, said: str) -> None:
    before = ProjectState()
    fields = [
        ("id", models.BigAutoField(primary_key=True)),
        ("cost", models.BigIntegerField(default=0)),
        ("free", models.IntegerField(null=True)),
    ]
    for name in ("SpendEntry", "Budget"):
        m.CreateModel(name, [(name, field.clone()) for name, field in fields]).state_forwards("governance", before)
    after = before.clone()
    operation.state_forwards("governance", after)

    found = list(migration_rules.judge(operation, "governance", before, after))
    assert any(said in each for each in found) if said else found == []


def test_a_database_of_the_first_release_becomes_todays(tmp_path: Path) -> None:
    """`python -m benchmarks.upgrade` does so with a million calls."""
    environment = os.environ | {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'old.sqlite3'}",
        "VAR_DIR": str(tmp_path / "var"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.upgrade", "--here", "--calls", "300"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["calls"], told["drifts"], told["unwritten"]) == (300, [], [])


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_a_migration_waits_for_a_lock_for_seconds_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that somebody holds on to: those who come after the migration would wait behind it."""
    monkeypatch.setitem(MIGRATING, "lock_timeout", "50ms")
    monkeypatch.setattr(migrate, "PAUSE_S", 0.01)
    call_command("migrate", "governance", "0022", verbosity=0)
    holder = psycopg.connect(**direct())
    told = io.StringIO()
    try:
        holder.execute("LOCK TABLE governance_auditentry IN ACCESS SHARE MODE")
        with monkeypatch.context() as patch:
            patch.setattr(migrate, "TRIES", 2)
            with pytest.raises(CommandError, match="A table is still in use after 2 tries"):
                call_command("migrate", verbosity=0, stderr=told)
        assert told.getvalue().count("A table is in use") == 1
        monkeypatch.setattr(migrate.time, "sleep", lambda _: holder.rollback())
        call_command("migrate", verbosity=0, stderr=told)
    finally:
        holder.close()
    with connection.cursor() as cursor:
        assert cursor.execute("SHOW lock_timeout").fetchone() == ("0",)


def direct() -> dict[str, Any]:
    said = connection.get_connection_params()
    return {name: said[name] for name in ("dbname", "user", "host") if name in said}
