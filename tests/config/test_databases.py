"""The test run's own databases: what a suite relies on."""

import subprocess
import sys

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from governance.models import Tenant

COUNT = "import django; django.setup(); from governance.models import Tenant; print(Tenant.objects.count())"


def test_another_process_sees_what_a_test_committed(live_database: str, process_environment: dict[str, str]) -> None:
    Tenant.objects.create(slug="acme", name="Acme")

    seen = subprocess.run(
        [sys.executable, "-c", COUNT], check=False, env=process_environment, capture_output=True, text=True
    )

    assert seen.stdout.strip() == "1", seen.stderr


def test_a_committed_row_does_not_outlive_its_test(live_database: str) -> None:
    assert not Tenant.objects.exists()


def test_the_shipped_prices_are_there_in_a_test_that_commits(live_database: str) -> None:
    assert apps.get_model("llm", "Price").objects.count() > 20


@pytest.mark.sqlite_only
@pytest.mark.django_db
def test_sqlite_is_a_file_in_wal_mode() -> None:
    with connection.cursor() as cursor:
        assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert cursor.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.postgres_only
@pytest.mark.django_db
def test_postgres_is_real() -> None:
    assert connection.vendor == "postgresql"


def test_redis_answers(redis_url: str) -> None:
    import redis

    assert redis.Redis.from_url(redis_url).ping()


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_migrations_are_not_ended_while_they_work_something_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    def look(**_: object) -> None:
        with connection.cursor() as cursor:
            found.extend(cursor.execute("SHOW idle_in_transaction_session_timeout").fetchone())

    look()
    with monkeypatch.context() as patch:
        patch.setattr(MigrationExecutor, "migrate", lambda self, *args, **options: look() or options["state"])
        call_command("migrate", verbosity=0)
    look()
    assert found == ["30s", "0", "30s"]
