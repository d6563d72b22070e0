"""The writer thread: batches, its failures, and its end."""

import asyncio
import threading

import pytest
import uuid_utils.compat as uuids
from asgiref.sync import sync_to_async
from django.db import OperationalError, connections

from governance import ledger
from governance.ledger import book, writer
from governance.ledger.batch import Batch
from governance.ledger.operations import Extend, Record, Release
from governance.ledger.writer import BATCH, GroupCommit
from governance.models import Alert, BudgetWindow, Reservation, SpendEntry
from tests import factories as make
from tests.factories import NOON, nanos
from tests.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_holds")]


class Fault:
    """Makes the ledger's database fail while it is on."""

    def __init__(self):
        self.on = False
        self.batches = []

    def install(self, monkeypatch):
        prepare = Batch.prepare

        def failing(batch):
            self.batches.append(len(batch.operations))
            if self.on:
                raise OperationalError("the database is away")
            prepare(batch)

        monkeypatch.setattr(Batch, "prepare", failing)


@pytest.fixture
def fault(monkeypatch):
    made = Fault()
    made.install(monkeypatch)
    return made


@pytest.fixture
def commit():
    made = GroupCommit(clock=lambda: NOON)
    made.start()
    yield made
    made.close()


@pytest.fixture
def by(db):
    make.budget("1.00", soft_cap=None)
    return make.caller()


@pytest.fixture(autouse=True)
async def _connections_closed():
    """The thread of Django's asynchronous queries keeps a connection of its own."""
    yield
    await sync_to_async(connections.close_all)()


async def test_an_answer_comes_after_the_commit(commit, by):
    op = make.reserving("0.10", by=by)
    assert (await commit.submit(op)).allowed
    result = await commit.submit(make.settling(op.reservation_id, "0.04"))
    assert result.charged_nanos == nanos("0.04")
    window = await BudgetWindow.objects.aget()
    assert (window.settled_nanos, window.reserved_nanos) == (nanos("0.04"), 0)


async def test_what_queues_up_is_one_batch(commit, by, fault):
    await asyncio.gather(*(commit.submit(make.reserving("0.001", by=by)) for _ in range(100)))
    assert sum(fault.batches) == 100
    assert len(fault.batches) < 20
    assert max(fault.batches) <= BATCH


async def test_a_failure_reaches_the_one_who_asked_and_nobody_else(commit, by):
    good = make.reserving("0.10", by=by)
    unknown, decision = await asyncio.gather(
        commit.submit(make.settling(uuids.uuid7())), commit.submit(good), return_exceptions=True
    )
    assert isinstance(unknown, ledger.ReservationUnknown)
    assert decision.allowed


async def test_a_call_whose_hold_is_not_there_is_charged_without_it_once(commit, by):
    lost = make.settling(uuids.uuid7(), "0.04", caller=by, request_id="req-1")
    first = await commit.submit(lost)
    again = await commit.submit(lost)
    assert (first.cost_nanos, first.duplicate, again.duplicate) == (nanos("0.04"), False, True)
    row = await SpendEntry.objects.aget()
    assert (row.cost_nanos, row.reason, row.certainty) == (nanos("0.04"), "hold_lost", "confirmed")
    assert (row.request_id, row.metadata) == (str(lost.reservation_id), {"request_id": "req-1"})
    assert (await BudgetWindow.objects.aget()).settled_nanos == nanos("0.04")
    assert (await Alert.objects.aget()).kind == "holds_lost"


async def test_so_it_is_where_it_cannot_be_charged_at_once(commit, by, monkeypatch):
    """It is told of as any settlement that the database refuses for itself, and lands."""
    monkeypatch.setitem(book._RULES, Record, refusing := Refusing(book._RULES[Record]))
    lost = make.settling(uuids.uuid7(), "0.04", caller=by)
    landing = asyncio.create_task(commit.submit(lost))
    for _ in range(500):
        if stuck := await Alert.objects.filter(kind="settlement_stuck").afirst():
            break
        await asyncio.sleep(0.02)
    assert (stuck.subject, commit.unsettled) == (f"reservation {lost.reservation_id}", 1)
    refusing.on = False
    assert (await asyncio.wait_for(landing, 10)).cost_nanos == nanos("0.04")


class Refusing:
    """A rule of the ledger that refuses while it is on."""

    def __init__(self, rule):
        self.rule, self.on = rule, True

    def __call__(self, batch, operation):
        if self.on:
            raise ledger.LedgerError("not now")
        return self.rule(batch, operation)


async def test_while_the_database_is_away_a_reservation_fails_at_once(commit, by, fault):
    fault.on = True
    with pytest.raises(ledger.LedgerUnavailable):
        await asyncio.wait_for(commit.submit(make.reserving("0.10", by=by)), 5)
    # Nothing was sent to commit, so nothing is remembered: a long outage must not fill the memory.
    assert commit.unsettled == 0
    fault.on = False
    await until(lambda: commit.why_closed() is None)
    assert (await commit.submit(make.reserving("0.10", by=by))).allowed
    assert await Reservation.objects.acount() == 1


async def test_what_waited_for_the_database_lands_in_batches(commit, by, fault):
    """All of it in one transaction might take longer than one may last, and never land."""
    held = [make.reserving("0.001", by=by) for _ in range(2 * BATCH + 10)]
    for some in (held[:BATCH], held[BATCH:]):
        await asyncio.gather(*(commit.submit(one) for one in some))
    fault.on = True
    for one in held:
        commit.put(make.settling(one.reservation_id, "0.001"))
    await until(lambda: commit.unsettled > BATCH)
    fault.batches.clear()
    fault.on = False
    await until(lambda: not commit.unsettled)
    assert max(fault.batches) <= BATCH
    assert await SpendEntry.objects.acount() == len(held)


@pytest.mark.parametrize("error", [OperationalError("away"), ValueError("a mistake of ours")], ids=["away", "mistake"])
async def test_each_call_of_a_batch_that_fails_has_an_error_of_its_own(commit, by, monkeypatch, error):
    """Who is done with an error empties its frames; those of the others' calls still run."""

    def failing(operations, *, now, **_):
        raise ledger.LedgerUnavailable("away", unsure=True) if isinstance(error, OperationalError) else error

    monkeypatch.setattr(ledger, "apply", failing)
    calls = [commit.submit(make.reserving("0.001", by=by)) for _ in range(20)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    monkeypatch.undo()
    assert {str(one) for one in errors} == {str(error)}
    assert len({id(one) for one in errors}) == 20
    assert all(one.__context__ is None for one in errors)


async def test_a_settlement_is_kept_until_it_lands(commit, by, fault):
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    fault.on = True
    settling = asyncio.create_task(commit.submit(make.settling(op.reservation_id, "0.04")))
    await until(lambda: fault.batches.count(1) > 3)
    assert not settling.done()
    await until(lambda: commit.unsettled == 1)
    fault.on = False
    assert (await asyncio.wait_for(settling, 10)).charged_nanos == nanos("0.04")
    await until(lambda: commit.unsettled == 0)


async def test_a_reservation_whose_commit_was_lost_is_given_back(commit, by, monkeypatch):
    """The transaction landed, but the connection broke before the answer."""
    durably, lost = book._durably, []

    def durably_but_unheard(work):
        result = durably(work)
        if not lost:
            lost.append(result)
            raise ledger.LedgerUnavailable("the connection broke", unsure=True)
        return result

    monkeypatch.setattr(book, "_durably", durably_but_unheard)
    with pytest.raises(ledger.LedgerUnavailable):
        await commit.submit(make.reserving("0.10", by=by))
    await until(lambda: not commit.unsettled)
    for _ in range(200):
        reservation = await Reservation.objects.aget()
        if reservation.status == "released":
            break
        await asyncio.sleep(0.01)
    assert reservation.status == "released"
    assert (await BudgetWindow.objects.aget()).reserved_nanos == 0


async def test_so_is_one_whose_commit_comes_after_that_was_tried(commit, by, monkeypatch):
    """The server carries a COMMIT out whose connection is gone."""
    apply, held = ledger.apply, []

    def later(operations, *, now, **_):
        if not held:
            held.extend(operations)
            raise ledger.LedgerUnavailable("the connection broke", unsure=True)
        return apply(operations, now=now)

    monkeypatch.setattr(ledger, "apply", later)
    with pytest.raises(ledger.LedgerUnavailable):
        await commit.submit(make.reserving("0.10", by=by))
    await until(lambda: commit._stuck and commit._stuck[0].looks)
    await sync_to_async(apply)(held, now=NOON)
    await until(lambda: not commit.unsettled)
    assert (await Reservation.objects.aget()).status == "released"


async def test_one_that_never_comes_is_looked_for_no_longer_than_it_may(commit, by, monkeypatch):
    apply, broken = ledger.apply, []

    def never(operations, *, now, **_):
        if not broken:
            broken.append(operations)
            raise ledger.LedgerUnavailable("the connection broke", unsure=True)
        return apply(operations, now=now)

    monkeypatch.setattr(ledger, "apply", never)
    monkeypatch.setattr(writer, "LATE_COMMIT_S", 0.3)
    with pytest.raises(ledger.LedgerUnavailable):
        await commit.submit(make.reserving("0.10", by=by))
    await until(lambda: commit.unsettled)
    await until(lambda: not commit.unsettled)
    assert not await Reservation.objects.aexists()
    assert not await Alert.objects.aexists()


async def test_closing_waits_for_what_is_queued(by):
    commit = GroupCommit(clock=lambda: NOON)
    commit.start()
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    commit.put(make.settling(op.reservation_id, "0.04"))
    await asyncio.to_thread(commit.close)
    assert (await SpendEntry.objects.aget()).cost_nanos == nanos("0.04")
    assert not any(thread.name == "group-commit" for thread in threading.enumerate())


async def test_closing_gives_up_after_its_time_and_the_hold_stays_to_expire(by, fault, caplog):
    commit = GroupCommit(clock=lambda: NOON)
    commit.start()
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    fault.on = True
    commit.put(make.settling(op.reservation_id, "0.04"))
    await until(lambda: commit.unsettled)
    await asyncio.to_thread(commit.close, timeout_s=0.2)
    assert "had not landed at shutdown" in caplog.text
    assert (await Reservation.objects.aget()).status == "pending"
    fault.on = False
    await until(lambda: not any(thread.name == "group-commit" for thread in threading.enumerate()))


async def test_only_surprises_are_logged_for_operations_nobody_waits_for(commit, by, caplog):
    commit.put(Release(uuids.uuid7()))
    commit.put(Extend(uuids.uuid7()))
    await commit.submit(make.reserving("0.10", by=by))
    assert "failed" not in caplog.text
    commit.put(make.settling(uuids.uuid7()))
    await commit.submit(make.reserving("0.10", by=by))
    assert "Settle failed" in caplog.text


async def test_a_hold_whose_caller_left_before_it_was_made_holds_nothing(commit, by):
    left = make.reserving("0.10", by=by)
    task = asyncio.create_task(commit.submit(left))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await commit.submit(make.reserving("0.10", by=by))).allowed
    # Either the ledger had begun with it, or it was given up in the queue.
    made = await Reservation.objects.filter(pk=left.reservation_id).afirst()
    assert made is None or made.status == "released"
    assert (await BudgetWindow.objects.aget()).reserved_nanos == nanos("0.10")


async def test_a_settlement_whose_caller_left_lands_all_the_same(commit, by):
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    task = asyncio.create_task(commit.submit(make.settling(op.reservation_id, "0.04")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await commit.submit(make.reserving("0.10", by=by))
    assert (await SpendEntry.objects.aget()).cost_nanos == nanos("0.04")


async def test_a_settlement_lands_though_its_callers_loop_is_closed(by, caplog):
    caplog.set_level("INFO")
    commit = GroupCommit(clock=lambda: NOON)
    op = make.reserving("0.10", by=by)
    await sync_to_async(ledger.reserve)(op, now=NOON)

    async def leave():
        task = asyncio.create_task(commit.submit(make.settling(op.reservation_id, "0.04")))
        await asyncio.sleep(0)
        assert not task.done()

    await asyncio.to_thread(asyncio.run, leave())
    commit.start()
    await asyncio.to_thread(commit.close)
    assert (await SpendEntry.objects.aget()).cost_nanos == nanos("0.04")
    assert "1 answers had no one left to hear them" in caplog.text


async def test_a_batch_that_fails_unforeseen_is_answered_and_the_thread_lives_on(by, caplog):
    moments = iter([ZeroDivisionError("no time"), NOON])

    def clock():
        moment = next(moments)
        if isinstance(moment, Exception):
            raise moment
        return moment

    commit = GroupCommit(clock=clock)
    commit.start()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(commit.submit(make.reserving("0.10", by=by)), 5)
    assert (await asyncio.wait_for(commit.submit(make.reserving("0.10", by=by)), 5)).allowed
    await asyncio.to_thread(commit.close)
    assert "a batch failed" in caplog.text
    assert await Reservation.objects.acount() == 1


async def test_what_comes_while_it_closes_lands_too(by, fault):
    commit = GroupCommit(clock=lambda: NOON)
    commit.start()
    op = make.reserving("0.10", by=by)
    await commit.submit(op)
    commit._closing.set()
    commit._queue.put(None)
    commit.put(make.settling(op.reservation_id, "0.04"))
    await asyncio.to_thread(commit.close)
    assert await SpendEntry.objects.acount() == 1


async def test_more_than_a_batch_at_once_is_answered_whole(commit, by):
    decisions = await asyncio.gather(*(commit.submit(make.reserving("0.001", by=by)) for _ in range(2 * BATCH)))
    assert all(decision.allowed for decision in decisions)
