from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from config import database_urls
from tests.config.test_environment import ANY_PASSWORD, env, told


def test_default_is_sqlite_under_var_dir(tmp_path: Path) -> None:
    found = database_urls.database(env(), var_dir=tmp_path)

    assert found["NAME"] == str(tmp_path / "governor.sqlite3")
    assert found["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_sqlites_files_are_closed_to_others_from_the_first_moment(tmp_path: Path) -> None:
    open_one = tmp_path / "open.sqlite3"
    open_one.touch(mode=0o644)
    before = os.umask(0)
    try:
        for name in ("new.sqlite3", "open.sqlite3"):
            found = database_urls.database(env(DATABASE_URL=f"sqlite:///{tmp_path / name}"), var_dir=tmp_path)
            with sqlite3.connect(found["NAME"]) as connection:
                connection.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);")
                modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob(f"{name}*")}
            connection.close()
            assert modes == dict.fromkeys((name, f"{name}-wal", f"{name}-shm"), 0o600)
    finally:
        os.umask(before)


def test_postgres(tmp_path: Path) -> None:
    found = database_urls.database(env(DATABASE_URL="postgres://u:p%40@db:5433/money"), var_dir=tmp_path)

    assert (found["HOST"], found["PORT"], found["NAME"], found["PASSWORD"]) == ("db", 5433, "money", "p@")
    assert found["CONN_HEALTH_CHECKS"] is True
    # Within two seconds of its return the server is found, however long it was away.
    assert found["OPTIONS"]["pool"]["reconnect_timeout"] <= 2


def test_a_password_of_any_characters_stands_beside_the_url(tmp_path: Path) -> None:
    beside = {"DATABASE_PASSWORD": ANY_PASSWORD}
    found = [
        database_urls.database(env(DATABASE_URL=url, **beside), var_dir=tmp_path)["PASSWORD"]
        for url in ("postgres://u@db/money", "postgres://u:own@db/money")
    ]
    assert found == [ANY_PASSWORD, "own"]
    unset = env(DATABASE_URL="postgres://u@db/money", DATABASE_PASSWORD="change-me")
    assert database_urls.database(unset, var_dir=tmp_path)["PASSWORD"] == ""


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", "-c idle_in_transaction_session_timeout=30s -c random_page_cost=1.1"),
        (
            "?options=-c%20work_mem%3D64MB",
            "-c idle_in_transaction_session_timeout=30s -c random_page_cost=1.1 -c work_mem=64MB",
        ),
    ],
)
def test_parameters_of_the_url_come_after_ours(query: str, options: str, tmp_path: Path) -> None:
    found = database_urls.database(env(DATABASE_URL=f"postgres://u:p@db/money{query}"), var_dir=tmp_path)

    assert found["OPTIONS"]["options"] == options


@pytest.mark.parametrize(("raw", "threshold"), [("none", None), ("5", 5), ("", 2)])
def test_prepared_statements_can_be_turned_off(raw: str, threshold: int | None, tmp_path: Path) -> None:
    query = f"?prepare_threshold={raw}" if raw else ""
    found = database_urls.database(env(DATABASE_URL=f"postgres://u:p@db/money{query}"), var_dir=tmp_path)

    assert found["OPTIONS"]["prepare_threshold"] == threshold


@pytest.mark.parametrize("query", ["prepare_threshold=soon", "connect_timeout=3s", "tcp_user_timeout=true"])
def test_a_parameter_of_the_wrong_type_is_named(query: str, tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"DATABASE_URL: {query.split('=')[0]} must be a whole number"):
        database_urls.database(env(DATABASE_URL=f"postgres://u:p@db/money?{query}"), var_dir=tmp_path)


@pytest.mark.parametrize("raw", ["sqlite:///governor.sqlite3", "sqlite:///var/governor.sqlite3"])
def test_sqlites_file_is_the_same_in_every_folder(raw: str, tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL must name SQLite's file from the root on"):
        database_urls.database(env(DATABASE_URL=raw), var_dir=tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        "mysql://u:hunter2@db/money",
        "postgres://u:hunter2@db:port/money",
        "postgres://u:hunter2@db",
        "hunter2",
    ],
)
def test_malformed_names_the_variable_but_no_password(raw: str, tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        database_urls.database(env(DATABASE_URL=raw), var_dir=tmp_path)

    assert str(raised.value).startswith("DATABASE_URL must look like")
    assert "hunter2" not in told(raised.value)


PRIMARY = {"ENGINE": "django.db.backends.postgresql"}


def test_without_a_replica_there_is_one_database() -> None:
    assert database_urls.replica(env(), primary=PRIMARY) == {}


def test_a_replica_has_what_the_primary_has_and_its_password(tmp_path: Path) -> None:
    urls = {"DATABASE_URL": "postgres://u@db/money", "DATABASE_REPLICA_URL": "postgres://u@copy:5433/money"}
    both = env(**urls, DATABASE_PASSWORD="word")
    primary = database_urls.database(both, var_dir=tmp_path)
    [(alias, found)] = database_urls.replica(both, primary=primary).items()
    assert alias == "replica"
    assert (found["HOST"], found["PORT"], found["PASSWORD"]) == ("copy", 5433, "word")
    assert found["OPTIONS"] == primary["OPTIONS"]
    assert found["TEST"] == {"MIRROR": "default"}


@pytest.mark.parametrize(
    ("url", "primary"),
    [("sqlite:////copy", PRIMARY), ("postgres://u@copy/money", {"ENGINE": "django.db.backends.sqlite3"})],
)
def test_sqlite_has_no_replica(url: str, primary: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured, match="DATABASE_REPLICA_URL is for PostgreSQL"):
        database_urls.replica(env(DATABASE_REPLICA_URL=url), primary=primary)


def test_a_malformed_replica_names_its_variable_but_no_password() -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        database_urls.replica(env(DATABASE_REPLICA_URL="postgres://u:hunter2@copy"), primary=PRIMARY)
    assert str(raised.value).startswith("DATABASE_REPLICA_URL must look like")
    assert "hunter2" not in str(raised.value)
