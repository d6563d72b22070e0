"""A lock that somebody else has on a tenant's rows holds up that tenant, and nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.utils import timezone

from governance import ledger
from governance.actions import reservations, reviews, spend_reports
from governance.audit import Actor
from governance.ledger import held_up, locks, writer
from governance.ledger import sql_dialect as words
from governance.ledger.held_up import HeldUpTenants
from governance.ledger.results import HeldUp, LedgerUnavailable
from governance.ledger.writer import GroupCommit
from governance.models import Alert, BudgetWindow, Reservation
from governance.rules.reports import ReportTrust
from tests import factories as make
from tests.factories import nanos
from tests.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_holds")]


class Rival:
    """Somebody's psql, which locks a budget's windows until it is told to let go."""

    def __init__(self) -> None:
        given = connection.get_connection_params()
        names = ("dbname", "user", "password", "host", "port")
        self._connection = psycopg.connect(**{name: given[name] for name in names if name in given})

    def lock(self, budget: Any) -> None:
        self._connection.execute("SELECT 1 FROM governance_budgetwindow WHERE budget_id = %s FOR UPDATE", [budget.pk])

    def let_go(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def rival(db: None) -> Iterator[Rival]:
    made = Rival()
    yield made
    made.close()


@pytest.fixture
def commit() -> Iterator[GroupCommit]:
    made = GroupCommit()
    made.start()
    yield made
    made.close()


@pytest.fixture
def platform(db: None) -> Any:
    """The budget in which all calls count."""
    return make.budget("100", scope_type="platform")


@pytest.fixture
def acme(platform: Any) -> Any:
    return make.budget("10")


@pytest.fixture
def other(platform: Any) -> Any:
    return make.budget("10", tenant=make.tenant("other"))


@pytest.fixture
def mine(acme: Any) -> Any:
    return make.caller()


@pytest.fixture
def theirs(other: Any) -> Any:
    return make.caller(other.tenant)


@pytest.fixture(autouse=True)
def _deadline(settings: Any) -> None:
    """What it is by default; tests give slow machines longer."""
    settings.LEDGER_DEADLINE_S = 2


@pytest.fixture(autouse=True)
async def _connections_closed() -> Any:
    yield
    await sync_to_async(connections.close_all)()


async def held(commit: GroupCommit, by: Any, count: int = 1) -> list[Any]:
    ops = [make.reserving("0.10", by=by) for _ in range(count)]
    for op in ops:
        assert (await commit.submit(op)).allowed
    return [op.reservation_id for op in ops]


@pytest.mark.postgres_only
@pytest.mark.parametrize("names_caller", [False, True])
async def test_one_tenants_locked_window_is_no_outage_for_the_others(
    commit: GroupCommit, acme: Any, mine: Any, theirs: Any, rival: Rival, names_caller: bool
) -> None:
    [first, second, third], [fourth] = await held(commit, mine, 3), await held(commit, theirs)
    rival.lock(acme)
    naming = {"caller": mine} if names_caller else {}
    landing = [asyncio.create_task(commit.submit(make.settling(first, "0.04", **naming)))]
    began = time.monotonic()
    settled = await asyncio.wait_for(commit.submit(make.settling(fourth, "0.04")), 10)
    assert settled.charged_nanos == nanos("0.04")
    # Nothing rides along with what waits: neither what was kept, nor what comes in addition.
    landing += [asyncio.create_task(commit.submit(op)) for op in (make.settling(second, "0.05"), make.releasing(third))]
    waits, refused = [], 0
    while time.monotonic() - began < 3:
        asked = time.monotonic()
        assert (await commit.submit(make.reserving("0.01", by=theirs))).allowed
        waits.append(time.monotonic() - asked)
        with pytest.raises(HeldUp, match="a lock in the database holds up acme"):
            await commit.submit(make.reserving("0.01", by=mine))
        refused += 1
        assert commit.why_closed() is None
        assert writer.why_away() is None
        await asyncio.sleep(0.01)
    assert refused > 20
    assert sorted(waits)[len(waits) // 2] < locks.wait_s()
    assert not any(task.done() for task in landing)
    rival.let_go()
    await asyncio.wait_for(asyncio.gather(*landing), 10)
    await until(lambda: commit._held_up.is_due("acme"))
    assert (await commit.submit(make.reserving("0.01", by=mine))).allowed
    await until(lambda: not commit.unsettled and not commit._held_up.names())
    window = await BudgetWindow.objects.aget(budget=acme)
    assert (window.settled_nanos, window.reserved_nanos) == (nanos("0.09"), nanos("0.01"))
    # It was nobody's fault that an operator could mend in the ledger.
    assert not await Alert.objects.filter(kind=writer.STUCK).aexists()


@pytest.mark.postgres_only
async def test_a_lock_in_everybodys_way_is_said_to_each_and_waited_for_no_longer(
    commit: GroupCommit, platform: Any, rival: Rival
) -> None:
    tenants = [await sync_to_async(make.tenant)(f"tenant-{n}") for n in range(12)]
    callers = [make.caller(tenant) for tenant in tenants]
    for by in callers:
        await held(commit, by)
    rival.lock(platform)
    began = time.monotonic()
    done = await asyncio.gather(
        *(commit.submit(make.reserving("0.01", by=by), timeout_s=30) for by in callers), return_exceptions=True
    )
    assert {str(each) for each in done} == {f"a lock in the database holds up tenant-{n}" for n in range(12)}
    assert time.monotonic() - began < 5
    assert writer.why_away() is None
    rival.let_go()
    await until(lambda: all(commit._held_up.is_due(by.tenant) for by in callers))
    assert (await commit.submit(make.reserving("0.01", by=callers[0]))).allowed


def trust(by: Any) -> ReportTrust:
    return ReportTrust(by.tenant_id, 0)


# What an agent or an operator asks for one tenant beside the writer; `id` is of a hold.
ACTS: dict[str, Any] = {
    "reserve": lambda by, _: reservations.carry_out(
        make.reserving("0.01", by=by), tenant=by.tenant, operator=None, now=timezone.now()
    ),
    "reserve_by_operator": lambda by, _: reservations.carry_out(
        make.reserving("0.01", by=by), tenant=by.tenant, operator=Actor("olga"), now=timezone.now()
    ),
    "report": lambda by, _: reviews.report(report=make.reporting(by=by, trust=trust(by)), now=timezone.now()),
    "report_by_operator": lambda by, _: spend_reports.record(
        report=make.reporting(by=by), by=Actor("olga"), now=timezone.now()
    ),
    "settle": lambda by, id: reviews.settle(
        operation=make.settling(id, "0.01", trust=trust(by)), tenant=by.tenant, now=timezone.now()
    ),
}


@pytest.mark.postgres_only
@pytest.mark.parametrize("act", ACTS)
async def test_nor_is_it_where_the_tenants_own_agents_ask_beside_the_writer(
    commit: GroupCommit,
    acme: Any,
    mine: Any,
    theirs: Any,
    rival: Rival,
    act: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [first] = await held(commit, mine)
    rival.lock(acme)
    ended, tried, refused = threading.Event(), Counter[str](), Counter[str]()
    briefly = locks.briefly_waited_for

    @contextmanager
    def counted(seconds: float) -> Iterator[None]:
        tried[act] += 1
        with briefly(seconds):
            yield

    monkeypatch.setattr(locks, "briefly_waited_for", counted)

    def ask() -> None:
        while not ended.is_set():
            with pytest.raises(HeldUp, match="holds up acme"):
                ACTS[act](mine, first)
            refused[act] += 1
            time.sleep(0.02)
        connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    waits, began = [], time.monotonic()
    while time.monotonic() - began < 3:
        asked = time.monotonic()
        assert (await commit.submit(make.reserving("0.01", by=theirs))).allowed
        waits.append(time.monotonic() - asked)
        await asyncio.sleep(0.02)
    ended.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    # Who is known to be held up is told so, and neither queues nor locks: each thread twice at first, and then one at
    # a time, ever more seldom.
    assert tried[act] < 20 < refused[act] - tried[act]
    assert sorted(waits)[len(waits) // 2] < locks.wait_s()
    rival.let_go()
    held_up.known.learn({}, tried="acme")
    assert (await commit.submit(make.reserving("0.01", by=mine))).allowed


class Crowd:
    """Many who want a budget's windows in turn: nobody has them for long, and there is always one."""

    def __init__(self, budget: Any, *, each_s: float) -> None:
        self._rivals, self._budget, self._each_s = [Rival() for _ in range(4)], budget, each_s
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._take_turns, args=(rival,)) for rival in self._rivals]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()
        time.sleep(self._each_s / 2)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread, rival in zip(self._threads, self._rivals, strict=True):
            thread.join()
            rival.close()

    def _take_turns(self, rival: Rival) -> None:
        while not self._over.is_set():
            rival.lock(self._budget)
            time.sleep(self._each_s)
            rival.let_go()


@pytest.mark.postgres_only
@pytest.mark.parametrize("act", ["reserve", "report"])
def test_who_asks_beside_the_writer_waits_for_a_turn_that_comes(acme: Any, mine: Any, act: str, settings: Any) -> None:
    settings.LEDGER_DEADLINE_S = 6
    with Crowd(acme, each_s=0.25):
        for _ in range(2):
            ACTS[act](mine, None)
    assert not held_up.known.names()


@pytest.mark.postgres_only
async def test_so_does_the_writer(commit: GroupCommit, acme: Any, mine: Any, settings: Any) -> None:
    settings.LEDGER_DEADLINE_S = 3
    with Crowd(acme, each_s=0.22):
        for _ in range(2):
            assert (await commit.submit(make.reserving("0.01", by=mine), timeout_s=20)).allowed
    assert not held_up.known.names()


@pytest.mark.postgres_only
def test_a_lock_is_kept_by_whoever_has_it_for_long_and_waits_for_nobody(acme: Any, rival: Rival, settings: Any) -> None:
    settings.LEDGER_DEADLINE_S = 10
    waits = Rival()
    rival.lock(acme)
    waiting = threading.Thread(target=waits.lock, args=(acme,))
    waiting.start()
    assert not locks.is_kept()
    time.sleep(2 * locks.again_s())
    assert locks.is_kept()
    rival.let_go()
    waiting.join()
    waits.let_go()
    assert not locks.is_kept()
    waits.close()


@pytest.mark.postgres_only
async def test_whose_rows_are_free_is_tried_again_soon_while_others_have_what_all_share(
    commit: GroupCommit, platform: Any, mine: Any, rival: Rival
) -> None:
    await held(commit, mine)
    rival.lock(platform)
    known = held_up.known
    for _ in range(3):
        await until(lambda: known.is_due("acme"))
        with pytest.raises(HeldUp) as refused:
            await commit.submit(make.reserving("0.01", by=mine))
        assert not refused.value.is_own
        assert known.due_s("acme") - time.monotonic() <= held_up.PAUSE_S
        await until(lambda: known.is_due("acme"))
        with pytest.raises(HeldUp):
            await asyncio.to_thread(ACTS["reserve_by_operator"], mine, None)
        await asyncio.to_thread(connections.close_all)
        assert known.due_s("acme") - time.monotonic() <= held_up.PAUSE_S
    rival.let_go()
    await until(lambda: known.is_due("acme"))
    assert (await commit.submit(make.reserving("0.01", by=mine))).allowed


@pytest.mark.postgres_only
def test_whose_row_a_lock_is_on_is_known_of_whoever_waits_first(acme: Any, platform: Any) -> None:
    ledger.reserve(make.reserving(), now=timezone.now())

    def told(context: str | None) -> bool:
        said: Any = type("Said", (Exception,), {"sqlstate": "55P03", "diag": SimpleNamespace(context=context)})()
        error = ledger.LedgerUnavailable("")
        error.__cause__ = said
        assert locks.is_in_the_way(error)
        return locks.is_of_tenant(error)

    def row(budget: Any) -> str:
        [(place,)] = words.select("SELECT ctid::text FROM governance_budgetwindow WHERE budget_id = %s", [budget.pk])
        return f'while locking tuple {place} in relation "governance_budgetwindow"'

    assert told(row(acme))
    assert not told(row(platform))
    # It has changed since.
    assert not told('while locking tuple (999,1) in relation "governance_budgetwindow"')
    assert not told('while locking tuple (0,1) in relation "governance_budget"')
    assert not told(None)


def test_what_is_no_lock_is_said_as_it_is() -> None:
    def away() -> None:
        raise ledger.LedgerUnavailable("away")

    with pytest.raises(ledger.LedgerUnavailable, match="away"):
        ledger.try_for("acme", away)
    assert not locks.is_of_tenant(ledger.LedgerUnavailable("away"))
    assert not held_up.known.names()


def test_who_is_known_to_be_held_up_is_tried_by_one_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "is_kept", lambda: True)
    tried = []

    def meeting() -> None:
        tried.append(1)
        raise HeldUp("acme", is_own=True)

    with pytest.raises(HeldUp):
        ledger.try_for("acme", meeting)
    assert len(tried) == 2
    with pytest.raises(HeldUp):
        ledger.try_for("acme", meeting)
    assert len(tried) == 2
    time.sleep(max(0.0, held_up.known.due_s("acme") - time.monotonic()))
    with pytest.raises(HeldUp):
        ledger.try_for("acme", meeting)
    assert len(tried) == 3
    assert held_up.known.due_s("acme") - time.monotonic() > held_up.PAUSE_S
    time.sleep(max(0.0, held_up.known.due_s("acme") - time.monotonic()))
    assert ledger.try_for("acme", lambda: "done") == "done"
    assert not held_up.known.names()


@pytest.mark.postgres_only
def test_a_lock_that_is_gone_at_the_second_try_is_none(acme: Any, mine: Any, rival: Rival) -> None:
    ledger.reserve(make.reserving(by=mine), now=timezone.now())
    rival.lock(acme)
    tried = []

    def reserve() -> Any:
        tried.append(1)
        if len(tried) == 2:
            rival.let_go()
        return ledger.reserve(make.reserving(by=mine), now=timezone.now())

    assert ledger.try_for("acme", reserve).allowed
    assert not held_up.known.names()


@pytest.mark.postgres_only
async def test_so_is_one_that_the_next_process_meets_while_the_first_waits_for_it(
    commit: GroupCommit, acme: Any, mine: Any, theirs: Any, rival: Rival
) -> None:
    """It holds the platform's window meanwhile, and soon gives it back."""
    [first], [second] = await held(commit, mine), await held(commit, theirs)
    rival.lock(acme)
    direct = asyncio.create_task(
        sync_to_async(ledger.apply, thread_sensitive=False)([make.settling(first)], now=timezone.now())
    )
    await asyncio.sleep(0.05)
    await asyncio.wait_for(commit.submit(make.settling(second)), 5)
    [refused] = await direct
    assert isinstance(refused, HeldUp)
    rival.let_go()


async def test_where_nobody_says_whose_they_are_they_are_refused(
    commit: GroupCommit, mine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit._held_up.learn({"other": True}, tried=None)

    def away(_: Any) -> Any:
        raise ledger.LedgerUnavailable("away")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(ledger, "tenants_of", away)
        with pytest.raises(ledger.LedgerUnavailable, match="away"):
            await commit.submit(make.reserving("0.01", by=mine))
    assert (await commit.submit(make.reserving("0.01", by=mine))).allowed


@pytest.mark.postgres_only
def test_expiry_passes_over_what_a_lock_holds_up(acme: Any, other: Any, rival: Rival) -> None:
    for by in (make.caller(), make.caller(other.tenant)):
        ledger.reserve(make.reserving(by=by), now=timezone.now())
    Reservation.objects.update(expires_at=timezone.now())
    rival.lock(acme)
    assert ledger.expire_due(now=timezone.now()) == 1
    assert not Alert.objects.exists()
    rival.let_go()
    assert ledger.expire_due(now=timezone.now()) == 1


@pytest.mark.postgres_only
def test_whose_turn_to_report_it_is_may_be_waited_for_longer(acme: Any, settings: Any) -> None:
    """A tenant's reports queue for it, and hold nothing meanwhile."""
    settings.LEDGER_DEADLINE_S = 0.4
    shown, select = [], words.select

    def noting() -> None:
        shown.append(select("SELECT current_setting('lock_timeout')", [])[0][0])

    op = make.reserving()
    ledger.reserve(op, now=timezone.now())
    with pytest.MonkeyPatch.context() as patch:
        run = words.run

        def running(statement: str, params: Any) -> None:
            if "pg_advisory" in statement:
                noting()
            run(statement, params)

        patch.setattr(words, "run", running)
        trust = ReportTrust(acme.tenant_id, 0)
        ledger.settle(make.settling(op.reservation_id, trust=trust), now=timezone.now())
    assert shown == ["2s"]
    with words.waiting(0.1), words.committed():
        words.keep_deadlines()
        noting()
    with ledger.patiently(), words.waiting(0.1), words.committed():
        words.keep_deadlines()
        noting()
    assert shown[1:] == ["100ms", "1h"]


def test_operations_are_told_apart_by_whose_they_are(acme: Any, other: Any) -> None:
    op, by = make.reserving(), make.caller(other.tenant)
    ledger.reserve(op, now=timezone.now())
    unknown = make.reserving().reservation_id
    operations: list[Any] = [make.releasing(op.reservation_id), make.reserving(by=by), make.releasing(unknown)]
    assert ledger.tenants_of(operations) == ["acme", "other", ""]
    assert ledger.tenants_of([make.reporting(by=by)]) == ["other"]


def test_not_all_are_tried_where_each_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def apply(mine: Any) -> list[Any]:
        tried.append(mine)
        time.sleep(0.03)
        return [None for _ in mine]

    monkeypatch.setattr(locks, "wait_s", lambda: 0.01)
    ops = [make.reserving(by=object()) for _ in range(4)]  # type: ignore[arg-type]
    results = locks.around(ops, ["a", "b", "a", "c"], apply)
    assert tried == [[ops[0], ops[2]]]
    assert [str(each) for each in results] == [
        "None",
        "a lock in the database holds up b",
        "None",
        "a lock in the database holds up c",
    ]
    assert str(HeldUp("")) == "a lock in the database holds up this"


class TestWhoIsKnown:
    def test_tries_are_further_and_further_apart_and_one_that_goes_through_ends_it(self) -> None:
        known = HeldUpTenants()
        known.learn({"acme": True}, tried=None)
        assert not known.is_due("acme")
        assert known.is_due("other")
        pauses = []
        for _ in range(8):
            known.learn({"acme": True}, tried="acme")
            pauses.append(round(known.due_s("acme") - time.monotonic(), 1))
        assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0]
        for _ in range(2):
            known.learn({}, tried="acme")
        assert not known.names()

    def test_one_that_may_wait_for_what_all_share_is_tried_again_soon(self) -> None:
        known = HeldUpTenants()
        for _ in range(8):
            known.learn({"acme": False}, tried="acme")
            assert known.due_s("acme") - time.monotonic() <= held_up.PAUSE_S

    def test_one_that_many_meet_at_once_is_held_up_once_and_tried_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = HeldUpTenants()
        assert known.may_try("acme")
        for _ in range(4):
            known.learn({"acme": True}, tried=None)
        assert known.due_s("acme") - time.monotonic() <= held_up.PAUSE_S
        assert not known.may_try("acme")
        monkeypatch.setattr(held_up, "PAUSE_S", 0.0)
        known.learn({"acme": True}, tried="acme")
        assert [known.may_try("acme"), known.may_try("acme")] == [True, False]
        # Whoever tried never said what came of it.
        monkeypatch.setattr(held_up, "TRY_S", 0.0)
        known.learn({"acme": True}, tried="acme")
        assert [known.may_try("acme"), known.may_try("acme")] == [True, True]

    def test_one_of_whom_nobody_asks_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = HeldUpTenants()
        known.learn({"acme": True}, tried=None)
        assert known.names() == {"acme"}
        monkeypatch.setattr(held_up, "FORGOTTEN_S", -1.0)
        assert known.names() == set()

    def test_what_is_theirs_is_told_from_what_is_others(self) -> None:
        known = HeldUpTenants()
        known.learn({"acme": True, "third": False}, tried=None)
        assert known.apart([1, 2, 3], ["acme", "other", "acme"]) == ([2], {"acme": [1, 3]})


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (ledger.AlreadyResolved(uuid4(), "settled"), set()),
        (ZeroDivisionError(), set()),
        (LedgerUnavailable("away"), {"acme"}),
    ],
)
def test_who_is_refused_for_another_reason_met_no_lock(error: Exception, names: set[str]) -> None:
    known = held_up.known

    def act() -> None:
        raise error

    known.learn({"acme": True}, tried=None)
    while not known.is_due("acme"):
        time.sleep(0.01)
    with pytest.raises(type(error)):
        ledger.try_for("acme", act)
    assert known.names() == names
    known.learn({}, tried="acme")
