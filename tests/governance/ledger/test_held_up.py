"""A lock that somebody else has on a tenant's rows holds up that tenant, and nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.utils import timezone

from governance import ledger
from governance.actions import reservations, reviews, spend_reports
from governance.audit import Actor
from governance.ledger import book, held_up, locks, writer
from governance.ledger import sql_dialect as words
from governance.ledger.held_up import HeldUpTenants
from governance.ledger.operations import Expire, Extend
from governance.ledger.results import HeldUp, LedgerUnavailable
from governance.ledger.writer import GroupCommit
from governance.models import Alert, BudgetWindow, RateLimit, Reservation, SpendRollup
from governance.rules.calls import Usage
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

    def run(self, statement: LiteralString, *params: Any) -> None:
        self._connection.execute(statement, params or None)

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


@pytest.mark.postgres_only
async def test_nor_is_the_database_away_that_says_again_and_again_that_a_lock_is_in_the_way(
    commit: GroupCommit, platform: Any, mine: Any, rival: Rival, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where many processes want the platform's window in turn, and each has it until a slow disk has its log."""
    await held(commit, mine)
    settings.LEDGER_DEADLINE_S = 1
    monkeypatch.setattr(locks, "usually", lambda: locks.Patience((0.3,) * 99, time.monotonic() + 99))
    rival.lock(platform)
    asking = asyncio.create_task(commit.submit(make.reserving("0.01", by=mine), timeout_s=99))
    began = time.monotonic()
    while time.monotonic() - began < 3:
        assert commit.why_away() is None
        await asyncio.sleep(0.02)
    assert not asking.done()
    rival.let_go()
    assert (await asyncio.wait_for(asking, 10)).allowed


@pytest.mark.postgres_only
async def test_what_is_kept_for_a_locked_hold_is_looked_at_and_not_tried_whatever_its_tenant_did_meanwhile(
    commit: GroupCommit, mine: Any, theirs: Any, rival: Rival, monkeypatch: pytest.MonkeyPatch
) -> None:
    [hold] = await held(commit, mine)
    rival.run(ROWS["reservation"])
    tries, looks, run, look = [], Counter[str](), book._run, locks.look

    def noting(operations: Any, *rest: Any) -> Any:
        tries.extend(op for op in operations if getattr(op, "reservation_id", None) == hold)
        return run(operations, *rest)

    def counting(*args: Any) -> Any:
        looks.update(["acme"])
        return look(*args)

    monkeypatch.setattr(book, "_run", noting)
    monkeypatch.setattr(locks, "look", counting)
    landing = asyncio.create_task(commit.submit(make.settling(hold)))
    began = time.monotonic()
    while looks["acme"] <= len(locks.waits_s()) and time.monotonic() - began < 30:
        assert (await commit.submit(make.reserving("0.01", by=theirs))).allowed
        # Its calls need another row than this.
        commit._held_up.learn([], tried=["acme"])
        await asyncio.sleep(0.01)
    assert not landing.done()
    assert len(tries) <= len(locks.waits_s()) < looks["acme"]
    rival.let_go()
    await asyncio.wait_for(landing, 5)


@pytest.mark.postgres_only
async def test_a_lock_that_no_look_knows_of_holds_up_others_for_little_of_the_time(
    commit: GroupCommit, acme: Any, mine: Any, theirs: Any, rival: Rival, runs: list[set[str]]
) -> None:
    """On the row of a rate limit, which only whoever makes its bucket wants."""
    third = await sync_to_async(make.tenant)("third")
    limit = {"scope_type": "tenant", "scope_key": "third", "requests_per_minute": 1000}
    await RateLimit.objects.acreate(tenant=third, **limit)
    rival.run("SELECT 1 FROM governance_ratelimit FOR UPDATE")
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            with pytest.raises(HeldUp, match="holds up third"):
                await commit.submit(make.reserving("0.01", by=make.caller(third)))
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(ask())
    await until(lambda: "third" in commit._held_up.names())
    runs.clear()
    began, waits = time.monotonic(), []
    while time.monotonic() - began < 2:
        for by in (mine, theirs):
            asked = time.monotonic()
            assert (await commit.submit(make.reserving("0.01", by=by))).allowed
            waits.append(time.monotonic() - asked)
        await asyncio.sleep(0.01)
    over.set()
    await asking
    assert 0 < sum("third" in run for run in runs) < 6
    assert sorted(waits)[len(waits) // 2] < locks.again_s()


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
    held_up.known.learn([], tried=["acme"])
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
def test_a_lock_is_kept_by_whoever_has_it_for_long_and_waits_for_nobody(
    acme: Any, mine: Any, rival: Rival, settings: Any
) -> None:
    settings.LEDGER_DEADLINE_S = 10
    op = make.reserving(by=mine)
    ledger.reserve(make.reserving(by=mine), now=timezone.now())

    def is_kept() -> bool:
        return book.is_kept_from(op, now=timezone.now())

    waits = Rival()
    rival.lock(acme)
    waiting = threading.Thread(target=waits.lock, args=(acme,))
    waiting.start()
    assert not is_kept()
    time.sleep(locks.wait_s())
    assert is_kept()
    rival.let_go()
    waiting.join()
    assert not is_kept()
    # Nor is it free because its transaction does one thing after another.
    settings.LEDGER_DEADLINE_S = 0.4
    began = time.monotonic()
    while time.monotonic() - began < 5 * locks.wait_s():
        waits.run("SELECT 1")
        time.sleep(0.01)
    assert is_kept()
    waits.let_go()
    assert not is_kept()
    waits.close()


@pytest.mark.postgres_only
def test_one_who_waits_for_a_lock_keeps_none(acme: Any, other: Any, mine: Any, rival: Rival, settings: Any) -> None:
    settings.LEDGER_DEADLINE_S = 0.4
    ledger.reserve(make.reserving(by=mine), now=timezone.now())
    ledger.reserve(make.reserving(by=make.caller(other.tenant)), now=timezone.now())
    rival.lock(other)
    waits = Rival()
    waits.lock(acme)
    waiting = threading.Thread(target=waits.lock, args=(other,))
    waiting.start()
    time.sleep(2 * locks.wait_s())
    now = timezone.now()
    assert locks.look([make.reserving(by=mine)], now) == (["acme"], {"acme": False})
    assert locks.look([make.reserving(by=make.caller(other.tenant))], now) == (["other"], {"other": True})
    rival.let_go()
    waiting.join()
    waits.close()


OWN_WINDOWS = "SELECT 1 FROM governance_budgetwindow WHERE tenant_id IS NOT NULL"
# As Django's `atomic` within another does it, and a block of PL/pgSQL that handles exceptions.
IN_SAVEPOINT: tuple[LiteralString, ...] = ("SAVEPOINT second", f"{OWN_WINDOWS} FOR UPDATE", "RELEASE second")
# How one transaction may have locked a window.
LOCKED: dict[str, tuple[LiteralString, ...]] = {
    "in an open savepoint": IN_SAVEPOINT[:2],
    "in a released one": IN_SAVEPOINT,
    "in one within another": ("SAVEPOINT first", *IN_SAVEPOINT, "RELEASE first"),
    "shared, and then in a savepoint": (f"{OWN_WINDOWS} FOR SHARE", *IN_SAVEPOINT),
    "shared by savepoints": ("SAVEPOINT first", f"{OWN_WINDOWS} FOR KEY SHARE", "RELEASE first", *IN_SAVEPOINT),
    "referred to, and then changed": (
        f"{OWN_WINDOWS} FOR KEY SHARE",
        "SAVEPOINT second",
        "UPDATE governance_budgetwindow SET revision = revision WHERE tenant_id IS NOT NULL",
        "RELEASE second",
    ),
}


@pytest.mark.postgres_only
class TestWhoKeepsWhatASavepointLocked:
    """It is under a number of its own, which leads to nobody: it may be of any that were there by then."""

    @pytest.fixture(autouse=True)
    def _silence(self, settings: Any, mine: Any) -> None:
        settings.LEDGER_DEADLINE_S = 4
        ledger.reserve(make.reserving(by=mine), now=timezone.now())

    @staticmethod
    def taken(by: Any) -> dict[str, bool]:
        return locks.look([make.reserving(by=by)], timezone.now())[1]

    @pytest.mark.parametrize("how", LOCKED)
    def test_it_is_kept_however_it_was_locked(self, mine: Any, rival: Rival, how: str) -> None:
        for statement in LOCKED[how]:
            rival.run(statement)
        assert self.taken(mine) == {"acme": False}
        time.sleep(locks.wait_s())
        assert self.taken(mine) == {"acme": True}
        rival.let_go()
        assert self.taken(mine) == {}

    def test_it_may_be_of_one_who_is_at_work(self, mine: Any, rival: Rival) -> None:
        working = Rival()
        working.run("SELECT 1 FROM governance_budgetwindow WHERE tenant_id IS NULL FOR UPDATE")
        for statement in IN_SAVEPOINT:
            rival.run(statement)
        time.sleep(locks.wait_s())
        working.run("SELECT 1")
        assert self.taken(mine) == {"acme": False}
        working.let_go()
        assert self.taken(mine) == {"acme": True}
        # Nor of one who came later.
        working.run("SELECT 1 FROM governance_budgetwindow WHERE tenant_id IS NULL FOR UPDATE")
        assert self.taken(mine) == {"acme": True}
        working.close()

    def test_it_is_of_nobody_who_works_elsewhere(self, mine: Any, rival: Rival) -> None:
        working = Rival()
        working.run("SELECT 1 FROM governance_tenant FOR UPDATE")
        for statement in IN_SAVEPOINT:
            rival.run(statement)
        time.sleep(locks.wait_s())
        # To read is to lock nothing.
        working.run("SELECT 1 FROM governance_budgetwindow")
        assert locks.look([make.releasing(Reservation.objects.get().pk)], timezone.now())[1] == {"acme": True}
        working.close()

    def test_who_waits_for_a_lock_keeps_none(self, acme: Any, other: Any, mine: Any, theirs: Any, rival: Rival) -> None:
        ledger.reserve(make.reserving(by=theirs), now=timezone.now())
        waits = Rival()
        rival.lock(other)
        waits.run("SAVEPOINT second")
        waits.lock(acme)
        waits.run("RELEASE second")
        waiting = threading.Thread(target=waits.lock, args=(other,))
        waiting.start()
        time.sleep(2 * locks.wait_s())
        assert self.taken(mine) == {"acme": False}
        assert self.taken(theirs) == {"other": True}
        rival.let_go()
        waiting.join()
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
        assert refused.value.tenant == "acme"
        assert known.due_s("acme") - time.monotonic() <= held_up.LONGEST_PAUSE_S
        await until(lambda: known.is_due("acme"))
        with pytest.raises(HeldUp):
            await asyncio.to_thread(ACTS["reserve_by_operator"], mine, None)
        await asyncio.to_thread(connections.close_all)
        assert known.due_s("acme") - time.monotonic() <= held_up.LONGEST_PAUSE_S
    rival.let_go()
    await until(lambda: known.is_due("acme"))
    assert (await commit.submit(make.reserving("0.01", by=mine))).allowed


# What calls and reports of a tenant may find locked: rows of its own, and how somebody locks them.
ROWS = {
    "reservation": "SELECT 1 FROM governance_reservation FOR UPDATE",
    "window": "SELECT 1 FROM governance_budgetwindow WHERE tenant_id IS NOT NULL FOR UPDATE",
    "budget whose window is to be opened": "SELECT 1 FROM governance_budget WHERE scope_type = 'user' FOR UPDATE",
    "bucket": "SELECT 1 FROM governance_ratemeter m JOIN governance_ratelimit b ON b.id = m.rate_limit_id"
    " WHERE b.scope_type = 'tenant' FOR UPDATE OF m",
    "hour's sum": "SELECT 1 FROM governance_spendrollup FOR UPDATE",
    "tenant": "SELECT 1 FROM governance_tenant FOR UPDATE",
    "key": "SELECT 1 FROM governance_apikey FOR UPDATE",
}
SHARED_BY_ALL = (
    "SELECT 1 FROM governance_budgetwindow WHERE tenant_id IS NULL FOR UPDATE",
    "SELECT 1 FROM governance_budget WHERE scope_type = 'platform' FOR UPDATE",
    "SELECT 1 FROM governance_ratemeter m JOIN governance_ratelimit b ON b.id = m.rate_limit_id"
    " WHERE b.scope_type = 'platform' FOR UPDATE OF m",
)


class TestLooking:
    """Whose rows are taken is found while nothing is waited for, or locked that others want."""

    @pytest.fixture
    def operations(self, acme: Any) -> list[Any]:
        make.budget("10", scope_type="user", scope_key="*")
        for scope, key in (("tenant", "acme"), ("platform", "")):
            owner = acme.tenant if key else None
            RateLimit.objects.create(tenant=owner, scope_type=scope, scope_key=key, requests_per_minute=1000)
        by = make.caller(key_id=make.key(of=acme.tenant)[1].pk, agent="invoices", user="old")
        first, second = make.reserving(by=by), make.reserving(by=by)
        for op in (first, second):
            assert ledger.reserve(op, now=timezone.now()).allowed
        ledger.settle(make.settling(first.reservation_id), now=timezone.now())
        return [make.settling(second.reservation_id), make.reserving(by=replace(by, user="new"))]

    @pytest.mark.postgres_only
    @pytest.mark.parametrize("row", ROWS)
    def test_each_of_the_tenants_rows_is_looked_at(self, operations: list[Any], rival: Rival, row: str) -> None:
        assert locks.look(operations, timezone.now()) == (["acme", "acme"], {})
        rival.run(ROWS[row])
        _, taken = locks.look(operations, timezone.now())
        assert taken == {"acme": False}
        # As it was for those that name no caller, but where only calls need the row.
        _, taken = locks.look(operations[:1], timezone.now())
        assert taken == ({} if "budget" in row else {"acme": False})

    @pytest.mark.postgres_only
    def test_what_all_share_is_not(self, operations: list[Any], rival: Rival) -> None:
        for statement in SHARED_BY_ALL:
            rival.run(statement)
        assert locks.look(operations, timezone.now()) == (["acme", "acme"], {})

    @pytest.mark.postgres_only
    def test_a_report_of_another_hour_counts_in_that_hours_sum(self, acme: Any, mine: Any, rival: Rival) -> None:
        hour = timezone.now() - timedelta(hours=5)
        ledger.record(make.reporting(by=mine, occurred_at=hour), now=timezone.now())
        rival.run(ROWS["hour's sum"])
        assert locks.look([make.reporting(by=mine)], timezone.now()) == (["acme"], {})
        assert locks.look([make.reporting(by=mine, occurred_at=hour)], timezone.now()) == (["acme"], {"acme": False})

    @pytest.mark.postgres_only
    def test_of_the_hours_sums_those_are_looked_at_in_which_is_charged(
        self, acme: Any, mine: Any, rival: Rival
    ) -> None:
        now = timezone.now()
        hour = now.replace(minute=0, second=0, microsecond=0)
        SpendRollup.objects.bulk_create(
            SpendRollup(tenant=acme.tenant, hour=at, agent=agent, provider=provider, model=model)
            for at in (hour, hour - timedelta(hours=1), hour - timedelta(hours=2))
            for agent, provider, model in [("", "p", "m"), ("", "p", "other"), ("", "q", "m"), ("else", "p", "m")]
        )
        op = replace(make.reserving(by=mine, model="m"), provider="p")
        ledger.reserve(op, now=now)
        Reservation.objects.update(reserved_at=hour - timedelta(minutes=1))
        settling, used = make.settling(op.reservation_id), Usage(provider="q", model="m")
        bare = replace(settling, usage=Usage())
        wanted: list[tuple[Any, set[tuple[int, str, str]]]] = [
            (op, {(0, "p", "m")}),
            (replace(make.reporting(by=mine), usage=used), {(0, "q", "m")}),
            (Expire(op.reservation_id), {(1, "p", "m")}),
            (make.releasing(op.reservation_id), {(1, "p", "m")}),
            (bare, {(1, "p", "m")}),
            # Late, or under one name too many, it counts where the hold did.
            (replace(bare, usage=used, occurred_at=hour), {(1, "p", "m"), (1, "q", "m"), (0, "q", "m")}),
            (Extend(op.reservation_id), set()),
        ]
        for operation, sums in wanted:
            found = set()
            for rollup in SpendRollup.objects.all():
                rival.run("SELECT 1 FROM governance_spendrollup WHERE id = %s FOR UPDATE", rollup.pk)
                if locks.look([operation], now)[1]:
                    found.add(((hour - rollup.hour) // timedelta(hours=1), rollup.provider, rollup.model))
                    assert rollup.agent == ""
                rival.let_go()
            assert found == sums, operation

    def test_on_sqlite_a_lock_is_nobodys_own(self, acme: Any, mine: Any) -> None:
        assert locks.look([make.reserving(by=mine)], timezone.now()) == (["acme"], {})


MANY = 40


@pytest.fixture
def many(platform: Any) -> list[Any]:
    """Budgets of tenants of whom one transaction locks all."""
    return [make.budget("10", tenant=make.tenant(f"locked-{n}")) for n in range(MANY)]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The tenants of each batch that had the platform's window, or wanted it."""
    seen: list[set[str]] = []
    run = book._run

    def noting(operations: Any, *rest: Any) -> Any:
        seen.append({op.caller.tenant for op in operations})
        return run(operations, *rest)

    monkeypatch.setattr(book, "_run", noting)
    return seen


@pytest.mark.postgres_only
async def test_many_tenants_that_are_locked_at_once_hold_up_nobody_else(
    commit: GroupCommit, many: list[Any], theirs: Any, rival: Rival, runs: list[set[str]]
) -> None:
    locked = [make.caller(budget.tenant) for budget in many]
    for by in [*locked, theirs]:
        assert (await commit.submit(make.reserving("0.01", by=by))).allowed
    for budget in many:
        rival.lock(budget)
    over, refused = asyncio.Event(), Counter[str]()

    async def ask(by: Any) -> None:
        while not over.is_set():
            with pytest.raises(HeldUp, match=f"holds up {by.tenant}$"):
                await commit.submit(make.reserving("0.01", by=by))
            refused[by.tenant] += 1
            await asyncio.sleep(0.05)

    asking = [asyncio.create_task(ask(by)) for by in locked]
    await until(lambda: len(refused) == MANY)
    runs.clear()
    waits, began = [], time.monotonic()
    while refused.total() <= 4 * MANY and time.monotonic() - began < 30:
        asked = time.monotonic()
        assert (await commit.submit(make.reserving("0.01", by=theirs))).allowed
        waits.append(time.monotonic() - asked)
        await asyncio.sleep(0.01)
    over.set()
    await asyncio.gather(*asking)
    # Once they are known, they are looked at again and again, and tried by nobody.
    assert set.union(*runs) == {"other"}
    assert refused.total() > 4 * MANY
    assert sorted(waits)[len(waits) // 2] < locks.again_s()
    rival.let_go()
    for by in locked:
        await until(partial(commit._held_up.is_due, by.tenant))
        assert (await commit.submit(make.reserving("0.01", by=by))).allowed


@pytest.mark.postgres_only
def test_nor_do_they_beside_the_writer(many: list[Any], theirs: Any, rival: Rival, runs: list[set[str]]) -> None:
    locked = [make.caller(budget.tenant) for budget in many]
    for by in [*locked, theirs]:
        ledger.reserve(make.reserving("0.01", by=by), now=timezone.now())
    for budget in many:
        rival.lock(budget)
    time.sleep(locks.wait_s())
    held_up.known.learn([by.tenant for by in locked])
    time.sleep(held_up.PAUSE_S)
    runs.clear()
    for by in locked:
        with pytest.raises(HeldUp):
            ACTS["reserve"](by, None)
        assert ACTS["reserve"](theirs, None).allowed
    assert set.union(*runs) == {"other"}


@pytest.mark.postgres_only
def test_of_a_batch_that_meets_a_lock_all_others_go_on_together(
    many: list[Any], other: Any, rival: Rival, runs: list[set[str]]
) -> None:
    tenants = [make.tenant(f"free-{n}") for n in range(3)]
    for tenant in tenants:
        make.budget("10", tenant=tenant)
    operations = [
        make.reserving("0.01", by=make.caller(tenant)) for tenant in [*(budget.tenant for budget in many), *tenants]
    ]
    ledger.apply(operations, now=timezone.now())
    for budget in many:
        rival.lock(budget)
    time.sleep(locks.wait_s())
    runs.clear()
    again = [make.reserving("0.01", by=op.caller) for op in operations]
    results = ledger.apply(again, now=timezone.now())
    assert [str(each) for each in results[:MANY]] == [
        f"a lock in the database holds up locked-{n}" for n in range(MANY)
    ]
    assert all(result.allowed for result in results[MANY:])
    assert runs[1:] == [{"free-0", "free-1", "free-2"}]


def test_what_is_no_lock_is_said_as_it_is() -> None:
    def away() -> None:
        raise ledger.LedgerUnavailable("away")

    with pytest.raises(ledger.LedgerUnavailable, match="away"):
        ledger.try_for("acme", away, needing=make.reserving(by=make.caller()), now=timezone.now())
    assert not held_up.known.names()


def test_who_is_known_to_be_held_up_is_looked_at_by_one_and_tried_once(
    mine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, kept, op = [], [False, True, True, False, False], make.reserving(by=mine)
    monkeypatch.setattr(book, "is_kept_from", lambda *_, **__: kept.pop(0))

    def meeting() -> None:
        tried.append(1)
        raise HeldUp("acme")

    def ask(act: Any = meeting) -> Any:
        return ledger.try_for("acme", act, needing=op, now=timezone.now())

    def pause_s() -> float:
        return held_up.known.due_s("acme") - time.monotonic()

    with pytest.raises(HeldUp):
        ask()
    # Another try showed that it is kept.
    assert len(tried) == 2
    with pytest.raises(HeldUp):
        ask()
    assert (len(tried), len(kept)) == (2, 3)
    time.sleep(max(0.0, pause_s()))
    with pytest.raises(HeldUp):
        ask()
    assert (len(tried), len(kept)) == (2, 2)
    time.sleep(max(0.0, pause_s()))
    with pytest.raises(HeldUp):
        ask()
    assert (len(tried), len(kept)) == (3, 0)
    time.sleep(max(0.0, pause_s()))
    kept.append(False)
    assert ask(lambda: "done") == "done"
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

    assert ledger.try_for("acme", reserve, needing=make.reserving(by=mine), now=timezone.now()).allowed
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
    commit._held_up.learn(["other"])

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


class TestAround:
    """Which of a batch that met a lock are tried again, and in what order."""

    OPS = ("a1", "b1", "a2", "c1")

    @staticmethod
    def around(taken: Any, waits_s: Any, *, until_s: float = 60.0, takes_s: float = 0.0) -> Any:
        """What was tried, each with how long it may wait for a lock; and the results."""
        tried: list[Any] = []

        def apply(ops: Any, *, patience: Any) -> list[Any]:
            tried.append((" ".join(ops), patience.waits_s))
            time.sleep(takes_s)
            return [f"{op} done" for op in ops]

        patience = locks.Patience(waits_s, time.monotonic() + until_s)
        ops: Any = TestAround.OPS
        results = locks.around(ops, [op[0] for op in TestAround.OPS], taken, patience, apply)
        return tried, ["HeldUp" if isinstance(each, HeldUp) else each for each in results]

    def test_whose_rows_are_free_goes_first_and_whose_are_kept_not_at_all(self) -> None:
        tried, results = self.around({"a": True, "b": False}, (1.0, 2.0))
        assert tried == [("c1", (1.0, 2.0)), ("b1", (2.0,))]
        assert results == ["HeldUp", "b1 done", "HeldUp", "c1 done"]

    def test_where_nobodys_rows_are_taken_all_wait_once_more_and_longer(self) -> None:
        assert self.around({}, (1.0, 2.0))[0] == [("a1 b1 a2 c1", (2.0,))]

    def test_nor_is_anybody_tried_where_all_are_kept(self) -> None:
        assert self.around(dict.fromkeys("abc", True), (1.0, 2.0)) == ([], ["HeldUp"] * 4)
        tried, _ = self.around({"a": True, "b": False, "c": True}, (1.0, 2.0))
        assert tried == [("b1", (2.0,))]

    def test_each_is_tried_alone_at_last(self) -> None:
        tried, results = self.around({}, (1.0,))
        assert tried == [("a1 a2", (1.0,)), ("b1", (1.0,)), ("c1", (1.0,))]
        assert results == ["a1 done", "b1 done", "a2 done", "c1 done"]
        tried, results = self.around({"b": False}, (1.0,))
        assert tried == [("a1 a2 c1", (1.0,))]
        assert results == ["a1 done", "HeldUp", "a2 done", "c1 done"]

    def test_not_all_are_tried_where_each_takes_its_time(self) -> None:
        tried, results = self.around({}, (0.01,), until_s=0.03, takes_s=0.03)
        assert len(tried) == 1
        assert results == ["a1 done", "HeldUp", "a2 done", "HeldUp"]

    def test_one_tenant_alone_is_held_up(self) -> None:
        patience = locks.Patience((1.0,), time.monotonic() + 60)
        [result] = locks.around([make.reserving(by=object())], [""], {}, patience, lambda *_, **__: [])  # type: ignore[arg-type]
        assert str(result) == "a lock in the database holds up this"


class TestWhoIsKnown:
    def test_one_is_looked_at_again_soon_until_it_goes_through(self) -> None:
        known = HeldUpTenants()
        known.learn(["acme"])
        assert not known.is_due("acme")
        assert known.is_due("other")
        for _ in range(8):
            known.learn(["acme"], tried=["acme"])
            assert known.due_s("acme") - time.monotonic() <= held_up.PAUSE_S
        for _ in range(2):
            known.learn([], tried=["acme"])
        assert not known.names()

    def test_whose_try_held_up_others_for_long_is_tried_more_seldom(self) -> None:
        known, pauses = HeldUpTenants(), []
        for took_s in (0.01, 0.1, 10.0):
            known.learn(["acme"], tried=["acme"], took_s=took_s)
            pauses.append(round(known.due_s("acme") - time.monotonic(), 1))
        assert pauses == [0.1, 0.5, 1.0]
        # What others in a batch took is nothing to those who were not expected to wait.
        known.learn(["other"], took_s=10.0)
        assert known.due_s("other") - time.monotonic() <= held_up.PAUSE_S

    def test_one_that_many_meet_at_once_is_held_up_once_and_tried_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = HeldUpTenants()
        assert known.may_try("acme")
        known.learn(["acme"])
        due_s = known.due_s("acme")
        known.learn(["acme"])
        assert known.due_s("acme") == due_s
        assert not known.may_try("acme")
        monkeypatch.setattr(held_up, "PAUSE_S", 0.0)
        known.learn(["acme"], tried=["acme"])
        assert [known.may_try("acme"), known.may_try("acme")] == [True, False]
        # Whoever tried never said what came of it.
        monkeypatch.setattr(held_up, "TRY_S", 0.0)
        known.learn(["acme"], tried=["acme"])
        assert [known.may_try("acme"), known.may_try("acme")] == [True, True]

    def test_one_of_whom_nobody_asks_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = HeldUpTenants()
        known.learn(["acme"])
        assert known.names() == {"acme"}
        monkeypatch.setattr(held_up, "FORGOTTEN_S", -1.0)
        assert known.names() == set()


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

    known.learn(["acme"])
    while not known.is_due("acme"):
        time.sleep(0.01)
    with pytest.raises(type(error)):
        ledger.try_for("acme", act, needing=make.reserving(by=make.caller()), now=timezone.now())
    assert known.names() == names
    known.learn([], tried=["acme"])


@pytest.mark.postgres_only
async def test_a_table_that_somebody_has_as_a_whole_holds_up_those_who_need_it(
    commit: GroupCommit, mine: Any, rival: Rival
) -> None:
    third = await sync_to_async(make.tenant)("third")
    await RateLimit.objects.acreate(tenant=third, scope_type="tenant", scope_key="third", requests_per_minute=100_000)
    needing = make.caller(third)
    await held(commit, mine)
    await held(commit, needing)
    rival.run("LOCK TABLE governance_ratemeter IN ACCESS EXCLUSIVE MODE")
    took_s, answered = list[float](), list[Any]()
    while not any(getattr(each, "allowed", False) for each in answered) and len(took_s) < 10:
        began_s = time.monotonic()
        # In one batch, until it is known whom it holds up.
        waits = [commit.submit(make.reserving("0.10", by=by)) for by in (needing, mine)]
        theirs, ours = await asyncio.gather(*waits, return_exceptions=True)
        assert isinstance(theirs, HeldUp)
        answered.append(ours)
        took_s.append(time.monotonic() - began_s)
        await asyncio.sleep(held_up.PAUSE_S)
    assert getattr(answered[-1], "allowed", answered) is True
    # A look that waited as acts do would take 10 s.
    assert max(took_s) < 8
    rival.let_go()


@pytest.mark.postgres_only
def test_a_look_that_takes_too_long_sees_nothing(monkeypatch: pytest.MonkeyPatch, mine: Any) -> None:
    monkeypatch.setattr(locks, "LOOK_STATEMENT_S", 0.05)
    monkeypatch.setattr(locks, "look", lambda *_: words.run("SELECT pg_sleep(5)", []))
    operations, now = [make.reserving(by=mine)], timezone.now()
    assert locks.looked(operations, now, book._durably) == (["acme"], None)
    assert not book.is_kept_from(operations[0], now=now)
    monkeypatch.setattr(locks, "look", lambda *_: words.run("SELECT 1 FROM nothing", []))
    with pytest.raises(LedgerUnavailable):
        locks.looked(operations, now, book._durably)
