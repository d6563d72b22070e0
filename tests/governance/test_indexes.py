"""Indexes of large tables, which come with an upgrade while calls are written."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from governance import ledger
from governance.models import SpendEntry
from tests import factories as make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres_only]
MIGRATION = ("governance", "0022_calls_of_a_range_of_time")
NAMES = {"refusal_by_tenant_and_time", "entry_by_tenant_and_time", "entry_estimated_by_time"}


def migrate(*, back: bool = False) -> None:
    """Make the indexes alone, or drop them: all that came after stays, as this version's code needs it."""
    loader = MigrationLoader(connection)
    state = loader.project_state([MIGRATION], at_end=False)
    migration = loader.graph.nodes[MIGRATION]
    with connection.schema_editor(atomic=False) as editor:
        (migration.unapply if back else migration.apply)(state, editor)


def usable() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indisvalid")
        return {name for (name,) in cursor.fetchall()} & NAMES


@pytest.fixture
def before() -> Iterator[None]:
    migrate(back=True)
    yield
    with connection.cursor() as cursor:
        for name in NAMES:
            cursor.execute(f"DROP INDEX IF EXISTS {name}")
    migrate()


def upgrade(failed: list[BaseException]) -> None:
    try:
        migrate()
    except BaseException as error:
        failed.append(error)
    finally:
        connection.close()


def is_made() -> bool:
    """Whether an index is being made, and waits for transactions of before."""
    with connection.cursor() as cursor:
        # A transaction sees what was so when it first looked.
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute("SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%%'")
        return bool(cursor.fetchone()[0])


@pytest.mark.usefixtures("before")
def test_calls_are_settled_while_an_index_is_made() -> None:
    failed: list[BaseException] = []
    by = make.caller()
    upgrading = threading.Thread(target=upgrade, args=(failed,))
    settled = threading.Thread(target=settle, args=(by,))
    with transaction.atomic():
        # A transaction that writes: the index waits for it, and nobody for the index.
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE governance_spendentry IN ROW EXCLUSIVE MODE")
        upgrading.start()
        ends = time.monotonic() + 30
        while not is_made() and time.monotonic() < ends:
            time.sleep(0.02)
        assert is_made(), failed
        settled.start()
        settled.join(10)
        assert not settled.is_alive()
    upgrading.join(30)
    assert failed == []
    assert usable() == NAMES
    assert SpendEntry.objects.count() == 1


def settle(by: Any) -> None:
    try:
        ledger.record(make.reporting("0.01", by=by), now=timezone.now())
    finally:
        connection.close()


@pytest.mark.usefixtures("before")
def test_an_index_that_an_interrupted_upgrade_left_is_made_anew() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE INDEX entry_by_tenant_and_time ON governance_spendentry (tenant_id)")
        cursor.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'entry_by_tenant_and_time'::regclass")
    assert usable() == set()
    migrate()
    assert usable() == NAMES
    migrate(back=True)
    assert usable() == set()
