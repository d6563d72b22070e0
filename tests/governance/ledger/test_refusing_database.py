"""A database that answers, and refuses: read-only, full, without rights, too slow, or one line of it alone.

What holds money is a 503 then; what settles or releases it is kept until it lands.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
)

from governance import ledger
from governance.ledger import book, writer
from governance.ledger.batch import Batch
from governance.ledger.operations import Extend
from governance.ledger.writer import GroupCommit
from governance.models import Alert, BudgetWindow, Reservation, RuleChange, SpendEntry
from tests import factories as make
from tests.factories import NOON, nanos
from tests.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_holds")]


@pytest.fixture
def commit() -> Iterator[GroupCommit]:
    made = GroupCommit(clock=lambda: NOON)
    made.start()
    yield made
    made.close()


@pytest.fixture
def by(db: None) -> Any:
    make.budget("1.00", soft_cap=None)
    return make.caller()


@pytest.fixture(autouse=True)
async def _connections_closed() -> Any:
    yield
    await sync_to_async(connections.close_all)()


ERRORS = [
    OperationalError("disk full"),
    OperationalError("canceling statement due to statement timeout"),
    InternalError("cannot execute INSERT in a read-only transaction"),
    ProgrammingError("permission denied for table governance_spendentry"),
    DataError("bigint out of range"),
    IntegrityError("a constraint that nobody has heard of"),
    ZeroDivisionError("a bug"),
]


class Refusing:
    """While it is on, every transaction of the ledger fails as it writes; or those of some operations alone."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.only: Any = None
        self.tried: list[list[Any]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write = Batch.write

        def refusing(batch: Batch) -> None:
            self.tried.append(list(batch.operations))
            if self.error is not None and (self.only is None or any(op in self.only for op in batch.operations)):
                raise self.error
            write(batch)

        monkeypatch.setattr(Batch, "write", refusing)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    made = Refusing()
    made.install(monkeypatch)
    return made


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("releases", [False, True])
async def test_whatever_the_database_says_what_resolves_a_hold_is_kept_until_it_lands(
    commit: GroupCommit, by: Any, refusing: Refusing, error: Exception, releases: bool
) -> None:
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    refusing.error = error
    resolve = make.releasing(op.reservation_id) if releases else make.settling(op.reservation_id, "0.04")
    resolving = asyncio.create_task(commit.submit(resolve))
    await until(lambda: len(refusing.tried) > 4)
    assert not resolving.done()
    assert commit.unsettled == 1
    refusing.error = None
    await asyncio.wait_for(resolving, 10)
    window = await BudgetWindow.objects.aget()
    assert (window.settled_nanos, window.reserved_nanos) == (0 if releases else nanos("0.04"), 0)
    await until(lambda: not commit.unsettled)


@pytest.mark.parametrize("error", ERRORS[:-1], ids=repr)
async def test_whatever_the_database_says_a_reservation_is_told_that_the_ledger_is_away(
    commit: GroupCommit, by: Any, refusing: Refusing, error: Exception
) -> None:
    refusing.error = error
    with pytest.raises(ledger.LedgerUnavailable):
        await asyncio.wait_for(commit.submit(make.reserving("0.10", by=by)), 5)
    assert not await Reservation.objects.aexists()


@pytest.mark.parametrize("error", ERRORS[:4], ids=repr)
def test_so_is_whoever_asks_the_ledger_itself(by: Any, refusing: Refusing, error: Exception) -> None:
    refusing.error = error
    with pytest.raises(ledger.LedgerUnavailable):
        ledger.reserve(make.reserving("0.10", by=by), now=NOON)
    assert len(refusing.tried) == 1


@pytest.mark.parametrize("goes_away", [False, True])
@pytest.mark.parametrize("error", ERRORS[4:], ids=repr)
async def test_one_that_fails_for_itself_holds_up_nobody_and_operators_are_told(
    commit: GroupCommit,
    by: Any,
    refusing: Refusing,
    error: Exception,
    goes_away: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "LONGEST_PAUSE_S", 0.2)
    ops = [make.reserving("0.10", by=by) for _ in range(3)]
    for op in ops:
        await commit.submit(op)
    settles = [make.settling(op.reservation_id, "0.04") for op in ops]
    refusing.error, refusing.only = error, [settles[1]]
    landing = [asyncio.create_task(commit.submit(settle)) for settle in settles]
    done = [await asyncio.wait_for(landing[n], 5) for n in (0, 2)]
    assert [result.charged_nanos for result in done] == [nanos("0.04")] * 2
    assert (await asyncio.wait_for(commit.submit(make.reserving("0.10", by=by)), 5)).allowed

    async def told() -> Alert | None:
        return await Alert.objects.filter(kind="settlement_stuck", cleared_at=None).afirst()

    for _ in range(500):
        if alert := await told():
            break
        await asyncio.sleep(0.01)
    assert alert is not None
    assert (alert.subject, alert.severity) == (f"reservation {ops[1].reservation_id}", "critical")
    assert "cost_nanos=40000000" in alert.message
    # Alone: what others do is not tried twice because of it.
    assert sum(len(tried) > 1 for tried in refusing.tried if settles[1] in tried) <= 1
    if goes_away:
        refusing.error = ERRORS[0]
        await until(lambda: not commit._stuck)
    refusing.error = None
    assert (await asyncio.wait_for(landing[1], 5)).charged_nanos == nanos("0.04")
    for _ in range(500):
        if await told() is None:
            break
        await asyncio.sleep(0.01)
    assert await told() is None


async def test_an_alert_that_cannot_be_opened_keeps_nothing_from_landing(
    commit: GroupCommit, by: Any, refusing: Refusing, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(**fields: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(writer.alerts, "report", fail)
    monkeypatch.setattr(writer.alerts, "clear", fail)
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    settle = make.settling(op.reservation_id, "0.04")
    refusing.error = DataError("bigint out of range")
    landing = asyncio.create_task(commit.submit(settle))
    await until(lambda: "an alert could not be opened" in caplog.text)
    refusing.error = None
    assert (await asyncio.wait_for(landing, 5)).charged_nanos == nanos("0.04")
    await until(lambda: "an alert could not be cleared" in caplog.text)


async def test_what_has_not_landed_at_shutdown_is_in_the_log_whole(by: Any, refusing: Refusing, caplog: Any) -> None:
    commit = GroupCommit(clock=lambda: NOON)
    commit.start()
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    refusing.error = DataError("bigint out of range")
    commit.put(make.settling(op.reservation_id, "0.04"))
    await until(lambda: commit.unsettled)
    await asyncio.to_thread(commit.close, timeout_s=0.3)
    assert "had not landed at shutdown" in caplog.text
    assert f"not landed: Settle(reservation_id={op.reservation_id!r}, cost_nanos=40000000" in caplog.text
    refusing.error = None
    await until(lambda: not commit.unsettled)


async def test_only_the_ledgers_own_word_ends_a_settlement(commit: GroupCommit, by: Any, refusing: Refusing) -> None:
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    await commit.submit(make.settling(op.reservation_id, "0.04"))
    with pytest.raises(ledger.AlreadyResolved):
        await commit.submit(make.settling(op.reservation_id, "0.04"))
    assert commit.unsettled == 0


class TestADeadline:
    async def test_a_reservation_waits_for_a_while_and_one_that_lands_later_is_released(
        self, commit: GroupCommit, by: Any, monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        settings.LEDGER_DEADLINE_S = 0.2
        gate, write = asyncio.Event(), Batch.write
        loop = asyncio.get_running_loop()

        def slow(batch: Batch) -> None:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)
            write(batch)

        monkeypatch.setattr(Batch, "write", slow)
        op = make.reserving("0.10", by=by)
        with pytest.raises(ledger.LedgerUnavailable, match="no answer within") as raised:
            await commit.submit(op)
        assert raised.value.unsure
        with pytest.raises(ledger.LedgerUnavailable):
            await commit.submit(Extend(op.reservation_id), timeout_s=0.05)
        gate.set()

        async def released() -> bool:
            return await Reservation.objects.filter(pk=op.reservation_id, status="released").aexists()

        for _ in range(500):
            if await released():
                break
            await asyncio.sleep(0.01)
        assert await released()
        assert (await BudgetWindow.objects.aget()).reserved_nanos == 0

    async def test_a_settlement_waits_as_long_as_it_takes(
        self, commit: GroupCommit, by: Any, refusing: Refusing, settings: Any
    ) -> None:
        op = make.reserving("0.10", by=by)
        await commit.submit(op)
        settings.LEDGER_DEADLINE_S = 0.05
        refusing.error = OperationalError("away")
        landing = asyncio.create_task(commit.submit(make.settling(op.reservation_id, "0.04")))
        await asyncio.sleep(0.3)
        assert not landing.done()
        refusing.error = None
        assert (await asyncio.wait_for(landing, 5)).charged_nanos == nanos("0.04")


class TestOnceItIsKnown:
    async def test_nobody_waits_and_it_is_noticed_soon_that_the_database_is_back(
        self, commit: GroupCommit, by: Any, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        back, writes = asyncio.Event(), book.sql_callers.try_to_write

        def try_to_write() -> None:
            if not back.is_set():
                raise OperationalError("away")
            writes()

        monkeypatch.setattr(book.sql_callers, "try_to_write", try_to_write)
        assert writer.why_away() is None
        refusing.error = OperationalError("away")
        with pytest.raises(ledger.LedgerUnavailable):
            await commit.submit(make.reserving("0.10", by=by))
        await until(commit.why_closed)
        assert writer.why_away() == "away"
        tried = len(refusing.tried)
        for _ in range(100):
            with pytest.raises(ledger.LedgerUnavailable, match="away"):
                await commit.submit(make.reserving("0.10", by=by))
        assert len(refusing.tried) == tried
        refusing.error = None
        back.set()
        await until(lambda: commit.why_closed() is None)
        assert (await commit.submit(make.reserving("0.10", by=by))).allowed
        assert writer.why_away() is None

    async def test_where_a_settlement_is_kept_its_landing_says_so(
        self, commit: GroupCommit, by: Any, refusing: Refusing
    ) -> None:
        op = make.reserving("0.10", by=by)
        await commit.submit(op)
        refusing.error = OperationalError("away")
        landing = asyncio.create_task(commit.submit(make.settling(op.reservation_id, "0.04")))
        await until(commit.why_closed)
        refusing.error = None
        await asyncio.wait_for(landing, 5)
        assert commit.why_closed() is None

    async def test_a_database_that_does_not_answer_one_is_not_asked_by_the_next(
        self, commit: GroupCommit, by: Any, monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        settings.LEDGER_DEADLINE_S = 0.2
        thawed, write = threading.Event(), Batch.write
        monkeypatch.setattr(Batch, "write", lambda batch: (thawed.wait(10), write(batch)))
        first, queued = make.reserving("0.10", by=by), make.reserving("0.10", by=by)
        asking = asyncio.create_task(commit.submit(first))
        await asyncio.sleep(0.05)
        for waiting in (asking, asyncio.create_task(commit.submit(queued))):
            with pytest.raises(ledger.LedgerUnavailable, match=r"no answer within 0\.2 s"):
                await waiting
        with pytest.raises(ledger.LedgerUnavailable, match=r"no answer for more than 0\.2 s"):
            await commit.submit(make.reserving("0.10", by=by))
        thawed.set()
        await until(lambda: commit.why_closed() is None and not commit.depth)
        assert (await commit.submit(make.reserving("0.10", by=by))).allowed
        # The one was carried out, and given back; the other was given up before.
        kept = [row.pk async for row in Reservation.objects.filter(status="released")]
        assert kept == [first.reservation_id]
        assert not await Reservation.objects.filter(pk=queued.reservation_id).aexists()

    async def test_no_more_wait_than_are_worth_it(
        self, commit: GroupCommit, by: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer, "MOST_WAITING", 3)
        thawed, write = threading.Event(), Batch.write
        monkeypatch.setattr(Batch, "write", lambda batch: (thawed.wait(10), write(batch)))
        held = make.reserving("0.10", by=by)
        waiting = [
            asyncio.create_task(commit.submit(operation))
            for operation in (held, make.reserving("0.10", by=by), make.reserving("0.10", by=by))
        ]
        await asyncio.sleep(0.05)
        with pytest.raises(ledger.LedgerUnavailable, match="3 reservations wait already"):
            await commit.submit(make.reserving("0.10", by=by))
        # A queue that is full is no outage: another process would have no shorter one.
        assert writer.why_away() is None
        # What resolves a hold is taken always.
        settling = asyncio.create_task(commit.submit(make.settling(held.reservation_id, "0.04")))
        thawed.set()
        assert all(decision.allowed for decision in await asyncio.gather(*waiting))
        await settling
        assert (await commit.submit(make.reserving("0.10", by=by))).allowed

    async def test_one_that_others_keep_from_its_windows_is_no_outage(
        self, commit: GroupCommit, by: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lost(batch: Batch) -> None:
            raise book.LostWindows("windows kept changing")

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(Batch, "write", lost)
            with pytest.raises(ledger.LedgerUnavailable):
                await commit.submit(make.reserving("0.10", by=by))
        assert commit.why_closed() is None

    async def test_a_process_ends_at_once_though_the_database_is_away(
        self, by: Any, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away() -> None:
            raise OperationalError("away")

        monkeypatch.setattr(book.sql_callers, "try_to_write", away)
        commit = GroupCommit(clock=lambda: NOON)
        commit.start()
        refusing.error = OperationalError("away")
        with pytest.raises(ledger.LedgerUnavailable):
            await commit.submit(make.reserving("0.10", by=by))
        await until(commit.why_closed)
        began = time.monotonic()
        await asyncio.to_thread(commit.close)
        assert time.monotonic() - began < 5


def test_to_try_whether_it_writes_changes_no_version_and_leaves_no_row(db: None) -> None:
    before = list(RuleChange.objects.values_list("n", flat=True))
    ledger.try_to_write()
    assert list(RuleChange.objects.values_list("n", flat=True)) == before


# The real thing --------------------------------------------------------------------------------------------------


@pytest.fixture
def refusals(db: None) -> Iterator[Any]:
    """Says with which error PostgreSQL itself refuses new holds and lines from now on; with "" it takes them."""

    def sql(*statements: str) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    tables = ("governance_reservation", "governance_spendentry")
    sql(
        "CREATE TABLE test_refusal AS SELECT ''::text AS state",
        "CREATE FUNCTION test_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE said text; BEGIN"
        " SELECT state INTO said FROM test_refusal;"
        " IF said <> '' THEN RAISE EXCEPTION 'refused' USING ERRCODE = said; END IF; RETURN NEW; END $$",
        *(
            f"CREATE TRIGGER test_refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION test_refuse()"
            for table in tables
        ),
    )
    yield lambda state: sql(f"UPDATE test_refusal SET state = '{state}'")
    sql("DROP FUNCTION test_refuse() CASCADE", "DROP TABLE test_refusal")


# read-only, disk full, out of memory, too many connections, no rights, timeout, lock timeout, shutdown, out of range,
# a constraint, a trigger of somebody's, an error of the server's own, a corrupt page.
STATES = [
    "25006",
    "53100",
    "53200",
    "53300",
    "42501",
    "57014",
    "55P03",
    "57P01",
    "22003",
    "23514",
    "P0001",
    "XX000",
    "XX001",
    "42P01",
]


@pytest.mark.postgres_only
@pytest.mark.parametrize("sqlstate", STATES)
async def test_no_error_of_postgresqls_loses_a_settlement(
    refusals: Any, commit: GroupCommit, by: Any, sqlstate: str
) -> None:
    refuse = sync_to_async(refusals)
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    await refuse(sqlstate)
    landing = asyncio.create_task(commit.submit(make.settling(op.reservation_id, "0.04")))
    await until(lambda: commit.unsettled == 1)
    with pytest.raises(ledger.LedgerUnavailable):
        await asyncio.wait_for(commit.submit(make.reserving("0.10", by=by)), 10)
    await asyncio.sleep(0.3)
    assert not landing.done()
    await refuse("")
    assert (await asyncio.wait_for(landing, 10)).charged_nanos == nanos("0.04")
    assert (await SpendEntry.objects.aget()).certainty == "confirmed"


@pytest.mark.postgres_only
@pytest.mark.parametrize("sqlstate", ["25006", "53100", "42501", "XX000"])
def test_what_the_server_says_it_refuses_was_surely_not_done(refusals: Any, by: Any, sqlstate: str) -> None:
    """Also where COMMIT had been sent with it."""
    refusals(sqlstate)
    with pytest.raises(ledger.LedgerUnavailable, match="refused") as raised:
        ledger.reserve(make.reserving("0.10", by=by), now=NOON)
    assert not raised.value.unsure
    refusals("")
    assert ledger.reserve(make.reserving("0.10", by=by), now=NOON).allowed


@pytest.mark.postgres_only
def test_a_commit_whose_answer_is_lost_may_have_been_done(by: Any) -> None:
    """The server ends the session while it commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION test_die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER test_die AFTER INSERT ON governance_reservation"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION test_die()"
        )
    try:
        with pytest.raises(ledger.LedgerUnavailable) as raised:
            ledger.reserve(make.reserving("0.10", by=by), now=NOON)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION test_die() CASCADE")
    assert raised.value.unsure
    assert ledger.reserve(make.reserving("0.10", by=by), now=NOON).allowed


def outside(**other: Any) -> psycopg.Connection[Any]:
    """A connection to the test's server without Django."""
    given = connection.get_connection_params()
    names = ("dbname", "user", "password", "host", "port")
    return psycopg.connect(**{name: given[name] for name in names if name in given} | other, autocommit=True)


@pytest.mark.postgres_only
async def test_a_connection_to_what_is_no_primary_any_more_is_let_go(by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failover the old server answers, read-only, for ever: the next try asks anew who is the primary."""
    op = make.reserving("0.10", by=by)
    await sync_to_async(ledger.reserve)(op, now=NOON)
    run, name, pids = book._run, connection.settings_dict["NAME"], set()

    def noting(*args: Any, **fields: Any) -> Any:
        connection.ensure_connection()
        pids.add(connection.connection.info.backend_pid)
        return run(*args, **fields)

    monkeypatch.setattr(book, "_run", noting)
    # Connections have it from when they were made.
    with outside(dbname="postgres") as other:
        other.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    commit = GroupCommit(clock=lambda: NOON)
    try:
        await sync_to_async(connections.close_all)()
        connection.close_pool()
        commit.start()
        landing = asyncio.create_task(commit.submit(make.settling(op.reservation_id, "0.04")))
        await until(lambda: len(pids) > 2)
        with pytest.raises(ledger.LedgerUnavailable):
            await asyncio.wait_for(commit.submit(make.reserving("0.10", by=by)), 10)
        assert not landing.done()
    finally:
        with outside(dbname="postgres") as other:
            other.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    assert (await asyncio.wait_for(landing, 15)).charged_nanos == nanos("0.04")
    await asyncio.to_thread(commit.close)
    await sync_to_async(connections.close_all)()
    connection.close_pool()


@pytest.mark.postgres_only
def test_no_lock_is_waited_for_for_ever(by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.reserve(make.reserving("0.10", by=by), now=NOON)
    rival = outside()
    rival.autocommit = False
    try:
        rival.execute("SELECT 1 FROM governance_budgetwindow FOR UPDATE")
        by_index = book.by_index

        def in_a_hurry() -> None:
            by_index()
            book.sql.words.run("SELECT set_config('lock_timeout', '200ms', true)", [])

        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        monkeypatch.setattr(book, "by_index", in_a_hurry)
        with pytest.raises(ledger.HeldUp, match="holds up acme"):
            ledger.reserve(make.reserving("0.10", by=by), now=NOON)
    finally:
        rival.close()
    assert ledger.reserve(make.reserving("0.10", by=by), now=NOON).allowed
