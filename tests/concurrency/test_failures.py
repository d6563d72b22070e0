"""Processes that die, transactions that deadlock, a database that goes away."""

import asyncio
import os
import signal
import threading
import time
from datetime import timedelta

import psycopg
import pytest
from django.db import OperationalError, connection, connections, transaction

from governance import audit, ledger
from governance.actions import allowances, budgets, spend_reports
from governance.audit import Actor
from governance.ledger import batch
from governance.ledger.writer import GroupCommit
from governance.models import AuditEntry, BudgetWindow, Reservation, SpendEntry
from tests import factories as make
from tests.concurrency.processes import FORK, let_go_of_connections
from tests.factories import NOON, nanos
from tests.waiting import until

LATER = NOON + timedelta(hours=1)
ADA = Actor("ada")


def die_in_a_process(work):
    """Run `work` in a process that is killed with -9 as soon as it says so by calling its argument."""
    let_go_of_connections()
    ours, theirs = FORK.Pipe(duplex=False)

    def run():
        work(lambda: (theirs.send("now"), time.sleep(60)))

    child = FORK.Process(target=run, daemon=True)
    child.start()
    assert ours.poll(20)
    os.kill(child.pid, signal.SIGKILL)
    child.join(5)
    assert child.exitcode == -signal.SIGKILL


def test_a_process_killed_between_reserve_and_settle_leaves_nothing_stuck():
    make.budget("1.00")
    op = make.reserving("0.10")

    def work(die):
        ledger.reserve(op, now=NOON)
        die()

    die_in_a_process(work)
    assert BudgetWindow.objects.get().reserved_nanos == nanos("0.10")
    assert ledger.expire_due(now=LATER) == 1
    window = BudgetWindow.objects.get()
    assert (window.reserved_nanos, window.settled_nanos) == (0, nanos("0.10"))
    assert SpendEntry.objects.get().reason == "expired"


def test_a_process_killed_inside_the_transaction_leaves_no_trace(monkeypatch):
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)

    def work(die):
        from governance.ledger.batch import Batch

        write = Batch.write
        Batch.write = lambda batch: (write(batch), die())
        ledger.settle(make.settling(op.reservation_id, "0.05"), now=NOON)

    die_in_a_process(work)
    assert Reservation.objects.get().status == "pending"
    assert not SpendEntry.objects.exists()
    # Nothing is locked either: the next one settles at once.
    assert ledger.settle(make.settling(op.reservation_id, "0.05"), now=NOON).charged_nanos == nanos("0.05")


def fail_once(monkeypatch, error, *, after=(batch.Batch, "write")):
    """The next transaction fails after its writes; how often transactions were tried."""
    write, tries = getattr(*after), []

    def failing(*args, **kwargs):
        write(*args, **kwargs)
        tries.append(args)
        if len(tries) == 1:
            raise error

    monkeypatch.setattr(*after, failing)
    return tries


def deadlock(error=psycopg.errors.DeadlockDetected):
    wrapped = OperationalError("could not go on")
    wrapped.__cause__ = error("could not go on")
    return wrapped


@pytest.mark.parametrize("error", [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure])
def test_a_deadlock_or_serialisation_failure_is_tried_again_and_counts_once(monkeypatch, error):
    make.budget("1.00")
    tries = fail_once(monkeypatch, deadlock(error))
    assert ledger.reserve(make.reserving("0.10"), now=NOON).allowed
    assert len(tries) == 2
    assert BudgetWindow.objects.get().reserved_nanos == nanos("0.10")


ACTS = {
    "a change": lambda budget: budgets.change(budget=budget, changes={"limit_nanos": nanos("2.00")}, by=ADA, now=LATER),
    "a deletion": lambda budget: budgets.delete(budget=budget, by=ADA, now=LATER),
    "a reset": lambda budget: budgets.reset(budget=budget, reason="again", by=ADA, now=LATER),
    "a top-up": lambda budget: allowances.top_up(budget=budget, amount_nanos=1, reason="more", by=ADA, now=NOON),
    "a raise": lambda budget: allowances.raise_limit(
        budget=budget, amount_nanos=1, starts_at=NOON, ends_at=LATER, reason="more", by=ADA, now=NOON
    ),
    "a report": lambda budget: spend_reports.record(report=make.reporting("0.10"), by=ADA, now=NOON),
}


@pytest.mark.parametrize("act", ACTS)
def test_an_act_given_up_for_a_deadlock_runs_again_and_counts_once(monkeypatch, act):
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    tries = fail_once(monkeypatch, deadlock(), after=(audit, "record"))
    ACTS[act](budget)
    assert len(tries) == 2
    assert AuditEntry.objects.filter(actor=ADA.name).count() == 1


def test_an_act_within_a_transaction_is_left_to_its_owner(monkeypatch):
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    tries = fail_once(monkeypatch, deadlock())
    with pytest.raises(OperationalError), transaction.atomic():
        ACTS["a reset"](budget)
    assert len(tries) == 1


def test_another_failure_of_the_database_is_not_tried_again_and_leaves_no_trace(monkeypatch):
    make.budget("1.00")
    tries = fail_once(monkeypatch, OperationalError("disk full"))
    with pytest.raises(ledger.LedgerUnavailable, match="disk full"):
        ledger.reserve(make.reserving("0.10"), now=NOON)
    assert len(tries) == 1
    assert not Reservation.objects.exists()


@pytest.mark.postgres_only
def test_a_real_deadlock_is_survived():
    make.budget("1.00", scope_type="agent", scope_key="*")
    make.budget("1.00")
    by = make.caller(agent="invoices")
    ledger.reserve(make.reserving("0.10", by=by), now=NOON)
    first, second = BudgetWindow.objects.order_by("id").values_list("id", flat=True)
    lock = "SELECT 1 FROM governance_budgetwindow WHERE id = %s FOR UPDATE"
    decisions = []

    def reserve():
        try:
            decisions.append(ledger.reserve(make.reserving("0.10", by=by), now=NOON))
        finally:
            connections.close_all()

    rival = psycopg.connect(**connection_parameters())
    try:
        # The rival waits long before it looks for a deadlock, so it is the ledger's transaction that is given up.
        rival.execute("SET deadlock_timeout = '20s'")
        rival.execute(lock, [second])
        thread = threading.Thread(target=reserve)
        thread.start()
        wait_until_someone_waits()
        rival.execute(lock, [first])
        rival.commit()
    finally:
        rival.close()
    thread.join(20)
    assert [decision.allowed for decision in decisions] == [True]
    assert {window.reserved_nanos for window in BudgetWindow.objects.all()} == {nanos("0.20")}


def connection_parameters():
    """How psycopg reaches the test's database without Django."""
    names = ("dbname", "user", "password", "host", "port")
    return {name: value for name, value in connection.get_connection_params().items() if name in names}


def wait_until_someone_waits():
    deadline = time.monotonic() + 10
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            if cursor.fetchone()[0]:
                return
            time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


@pytest.fixture
def database_switch(monkeypatch):
    """Cuts everyone off from the test's database, and lets them in again."""
    # The product waits longer for a connection.
    let_go_of_connections()
    pool = connection.settings_dict["OPTIONS"]["pool"] | {"timeout": 1}
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "pool", pool)
    name = connection.settings_dict["NAME"]
    outside = psycopg.connect(**connection_parameters() | {"dbname": "postgres"}, autocommit=True)

    def away():
        outside.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    def back():
        outside.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    yield away, back
    back()
    outside.close()
    let_go_of_connections()


@pytest.mark.postgres_only
def test_while_the_database_is_away_nothing_is_admitted_and_settlements_wait_until_they_land(database_switch):
    away, back = database_switch
    make.budget("1.00")
    by = make.caller()
    op = make.reserving("0.10", by=by)
    settle = make.settling(op.reservation_id, "0.04")

    commit = GroupCommit(clock=lambda: NOON)
    commit.start()

    async def story():
        assert (await commit.submit(op)).allowed
        await asyncio.to_thread(away)
        settling = asyncio.create_task(commit.submit(settle))
        with pytest.raises(ledger.LedgerUnavailable):
            await asyncio.wait_for(commit.submit(make.reserving("0.10", by=by)), 15)
        assert not settling.done()
        await until(lambda: commit.unsettled == 1)
        await asyncio.to_thread(back)
        return await asyncio.wait_for(settling, 30)

    try:
        result = asyncio.run(story())
    finally:
        back()
        commit.close()
    assert result.charged_nanos == nanos("0.04")
    let_go_of_connections()
    window = BudgetWindow.objects.get()
    assert (window.settled_nanos, window.reserved_nanos) == (nanos("0.04"), 0)
    assert Reservation.objects.count() == 1
