"""What a process remembers of callers holds no longer than the database says: every change is noted, by whomever."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.utils import timezone

from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.ledger import book, caller_rules, sql, sql_callers
from governance.ledger.batch import Batch
from governance.ledger.caller_rules import Remembered
from governance.ledger.operations import Extend
from governance.ledger.results import ExtendRefused
from governance.ledger.sql_dialect import answer
from governance.models import (
    Agent,
    ApiKey,
    Budget,
    BudgetWindow,
    EmergencyStop,
    Overrun,
    RateBucket,
    RateLimit,
    RuleChange,
    Tenant,
)
from governance.rules.calls import Caller
from governance.rules.decision import Decision, Quote, Reason
from governance.rules.reports import ReportTrust
from tests import factories as make
from tests.concurrency.processes import FORK, in_processes
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_holds")]

ADA = Actor("ada")


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> Remembered:
    """A process that has just begun."""
    made = Remembered()
    monkeypatch.setattr(book, "SHARED", made)
    return made


@pytest.fixture
def by() -> Caller:
    """An agent with a key and a budget, of whom this process remembers all."""
    make.budget("1.00", soft_cap=None, clamp=False)
    _, key = make.key()
    found = make.caller(agent="invoices", key_id=key.pk, key_prefix=key.scope_key)
    assert reserve(found).allowed
    return found


def reserve(by: Caller, cost: str = "0.01") -> Decision:
    op = make.reserving(cost, by=by)
    priced = replace(op.call, overrun_quote=lambda seen: lambda model: Quote(model, seen[0].tokens))
    return ledger.reserve(replace(op, call=priced), now=timezone.now())


def version() -> str:
    return answer(sql_callers.version()).number


def elsewhere(work: Callable[[], Any]) -> Any:
    """`work` on a connection of its own."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert found
    return found[0]


def stop(**fields: Any) -> None:
    EmergencyStop.objects.create(reason="x", actor="ada", started_at=NOON, **fields)


def lift() -> None:
    EmergencyStop.objects.update(lifted_at=NOON, lifted_by="ada")


def add_budget(**fields: Any) -> None:
    make.budget("0.005", window="month", soft_cap=None, clamp=False, **fields)


def limit(**fields: Any) -> None:
    """A rate limit that is full."""
    made = RateLimit.objects.create(nanos_per_minute=1, **fields)
    RateBucket.objects.create(
        rate_limit=made, subject=made.scope_key, measured_at=timezone.now(), level_nanos=nanos("1")
    )


def overrun() -> None:
    Overrun.objects.create(place="own/m", tokens=nanos("50.00"), permitted=1, reservation_id="0" * 32, seen_at=NOON)


# What takes leave from the caller, as statements over sets do it, and what gives it back: unnoticed by any of our code.
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any], Reason]] = {
    "a paused tenant": (
        lambda: Tenant.objects.update(status="paused"),
        lambda: Tenant.objects.update(status="active"),
        Reason.TENANT_PAUSED,
    ),
    "a suspended tenant": (
        lambda: Tenant.objects.update(status="suspended"),
        lambda: Tenant.objects.update(status="active"),
        Reason.TENANT_SUSPENDED,
    ),
    "a paused agent": (
        lambda: Agent.objects.update(status="paused"),
        lambda: Agent.objects.update(status="active"),
        Reason.AGENT_PAUSED,
    ),
    "a stop of everything": (stop, lift, Reason.EMERGENCY_STOP),
    "a stop of an agent": (
        lambda: stop(tenant=make.tenant(), agent=make.agent()),
        lambda: EmergencyStop.objects.all().delete(),
        Reason.EMERGENCY_STOP,
    ),
    "a stop of an agent that has another name then": (
        lambda: stop(tenant=make.tenant(), agent=make.agent()),
        lambda: Agent.objects.update(slug="renamed"),
        Reason.EMERGENCY_STOP,
    ),
    "a revoked key": (
        lambda: ApiKey.objects.update(revoked_at=timezone.now()),
        lambda: ApiKey.objects.update(revoked_at=None),
        Reason.KEY_INVALID,
    ),
    "a key that ends": (
        lambda: ApiKey.objects.update(expires_at=timezone.now()),
        lambda: ApiKey.objects.update(expires_at=timezone.now() + timedelta(days=1)),
        Reason.KEY_INVALID,
    ),
    "a new budget": (
        add_budget,
        lambda: Budget.objects.filter(window="month").update(enabled=False),
        Reason.BUDGET_EXHAUSTED,
    ),
    "a new budget for each agent": (
        lambda: add_budget(scope_type="agent", scope_key="*"),
        lambda: Budget.objects.filter(window="month").update(scope_key="others"),
        Reason.BUDGET_EXHAUSTED,
    ),
    "a new rate limit": (
        lambda: limit(scope_type="platform"),
        lambda: RateLimit.objects.update(nanos_per_minute=nanos("100")),
        Reason.RATE_LIMITED,
    ),
    "a rate limit that goes": (
        lambda: limit(tenant=make.tenant(), scope_type="tenant", scope_key="acme"),
        lambda: RateLimit.objects.all().delete(),
        Reason.RATE_LIMITED,
    ),
    "an overrun": (
        overrun,
        lambda: Overrun.objects.update(cleared_at=NOON, cleared_by="ada"),
        Reason.BUDGET_EXHAUSTED,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_others_change_holds_for_the_very_next_batch(by: Caller, change: str) -> None:
    take, give_back, reason = CHANGES[change]
    elsewhere(lambda: take() or True)
    assert reserve(by).reason == reason
    assert reserve(by).reason == reason
    elsewhere(lambda: give_back() or True)
    assert reserve(by).allowed


def test_another_limit_holds_for_the_very_next_batch(by: Caller) -> None:
    elsewhere(
        lambda: budgets.change(budget=Budget.objects.get(), changes={"limit_nanos": nanos("0.015")}, by=ADA, now=NOON)
    )
    assert not reserve(by).allowed


def test_a_pause_in_another_process_holds_for_the_very_next_batch_of_each(by: Caller) -> None:
    barrier = FORK.Barrier(2)

    def work(index: int) -> list[bool]:
        before = reserve(by).allowed
        barrier.wait(20)
        if index == 0:
            Tenant.objects.update(status="paused")
        barrier.wait(20)
        return [before, reserve(by).allowed, reserve(by).allowed]

    assert in_processes(2, work) == [[True, False, False]] * 2


def test_a_hold_grows_no_more_once_its_caller_is_paused(by: Caller) -> None:
    op = make.reserving("0.01", by=by)
    ledger.reserve(op, now=timezone.now())
    ledger.extend(Extend(op.reservation_id, more_nanos=5), now=timezone.now())
    elsewhere(lambda: Tenant.objects.update(status="paused"))
    with pytest.raises(ExtendRefused):
        ledger.extend(Extend(op.reservation_id, more_nanos=5), now=timezone.now())
    elsewhere(lambda: Tenant.objects.update(status="active"))
    # Also to live longer, where that is asked for.
    ledger.extend(Extend(op.reservation_id, asked=True), now=timezone.now())
    elsewhere(lambda: Tenant.objects.update(status="paused"))
    with pytest.raises(ExtendRefused):
        ledger.extend(Extend(op.reservation_id, asked=True), now=timezone.now())
    # What is only kept alive needs no leave.
    ledger.extend(Extend(op.reservation_id), now=timezone.now())


def changing(monkeypatch: pytest.MonkeyPatch, *, times: int, looks: Callable[..., bool] = lambda **_: True) -> None:
    """So many of a batch's next looks at windows find that others have changed the rules meanwhile."""
    left, look = [None] * times, Batch._locked

    def changed(batch: Batch, **which: Any) -> Any:
        if left and looks(**which):
            left.pop()
            RuleChange.objects.create(n=len(left) + 1)
        return look(batch, **which)

    monkeypatch.setattr(Batch, "_locked", changed)


@pytest.mark.parametrize("name", ["", "new"])
@pytest.mark.parametrize("within", [False, True])
def test_a_batch_that_finds_other_rules_once_it_has_its_windows_reads_them_again(
    by: Caller, monkeypatch: pytest.MonkeyPatch, within: bool, name: str
) -> None:
    make.budget("1.00", scope_type="user", scope_key="*", soft_cap=None)
    changing(monkeypatch, times=2)
    op = make.reserving("0.01", by=replace(by, user=name))
    with transaction.atomic() if within else contextlib.nullcontext():
        [decided] = (ledger.apply_within if within else ledger.apply)([op], now=timezone.now())
    assert decided.allowed


@pytest.mark.parametrize("within", [False, True])
def test_where_rules_change_at_every_look_the_ledger_is_away(
    by: Caller, monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    changing(monkeypatch, times=1000)
    op = make.reporting("0.01", by=by)
    with transaction.atomic() if within else contextlib.nullcontext(), pytest.raises(ledger.LedgerUnavailable):
        (ledger.apply_within if within else ledger.apply)([op], now=timezone.now())


def test_rules_that_change_as_a_window_is_opened_late_are_read_again(
    by: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window of a new name, for whose call another of its batch makes room."""
    make.budget("1.00", scope_type="user", scope_key="*", soft_cap=None)
    held = make.reserving("0.95", by=by)
    assert ledger.reserve(held, now=timezone.now()).allowed
    changing(monkeypatch, times=1, looks=lambda **which: set(which) == {"keys"})
    room = make.reserving("0.90", by=replace(by, user="new"))
    ended, decided = ledger.apply([make.releasing(held.reservation_id), room], now=timezone.now())
    assert (ended, decided.allowed) == (None, True)


def test_a_key_ends_by_time_alone(by: Caller) -> None:
    now = timezone.now()
    ApiKey.objects.update(expires_at=now + timedelta(hours=1))
    assert ledger.reserve(make.reserving("0.01", by=by), now=now).allowed
    before = version()
    later = ledger.reserve(make.reserving("0.01", by=by), now=now + timedelta(hours=1))
    assert (later.reason, version()) == (Reason.KEY_INVALID, before)


def test_a_key_is_revoked_at_once_whatever_the_clock_said_of_whoever_did_it(by: Caller) -> None:
    now = timezone.now()
    ApiKey.objects.update(revoked_at=now + timedelta(hours=1))
    assert ledger.reserve(make.reserving("0.01", by=by), now=now).reason == Reason.KEY_INVALID


def test_what_a_transaction_changes_itself_holds_within_it_and_for_nobody_else(
    by: Caller, remembered: Remembered
) -> None:
    known = remembered.rules
    op = make.reserving("0.01", by=by)
    with transaction.atomic():
        Tenant.objects.update(status="paused")
        [within] = ledger.apply_within([op], now=timezone.now())
        would = ledger.dry_run(by, op.call, now=timezone.now())
        transaction.set_rollback(True)
    assert (within.reason, would.reason) == (Reason.TENANT_PAUSED, Reason.TENANT_PAUSED)
    assert remembered.rules is known
    assert reserve(by).allowed


def test_a_version_that_is_rolled_back_never_comes_again(by: Caller) -> None:
    before = version()
    with transaction.atomic():
        Tenant.objects.update(status="paused")
        within = version()
        transaction.set_rollback(True)
    assert version() == before
    Tenant.objects.update(status="suspended")
    assert len({before, within, version()}) == 3


def noted(statement: str, *params: Any) -> int:
    """How many changes a statement would be noted as."""
    before = RuleChange.objects.count()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, params)
        found = RuleChange.objects.count() - before
        transaction.set_rollback(True)
    return found


REMEMBERED = [
    ("governance_budget", "tenant_id = NULL, scope_type = 'platform', scope_key = ''"),
    ("governance_budget", "scope_key = 'other'"),
    ("governance_budget", "\"window\" = 'month'"),
    ("governance_budget", "limit_nanos = 5"),
    ("governance_budget", "enabled = false"),
    ("governance_budget", "revision = revision + 1"),
    (
        "governance_budget",
        "scope_type = 'task', \"window\" = 'lifetime', closed_at = created_at",
    ),
    ("governance_budget", "carry_over = '2.50'"),
    ("governance_budget", "soft_cap = 0.5"),
    ("governance_budget", "hard_cap = 0.9"),
    ("governance_budget", "soft_cap = 0.5, warn_at = 0.25"),
    ("governance_budget", "alert_thresholds = '[\"0.1\"]'"),
    ("governance_budget", 'downgrade_rules = \'[{"from": ["a"], "to": "b"}]\''),
    ("governance_budget", "disabled_tools = '[\"a\"]'"),
    ("governance_budget", "clamp = NOT clamp"),
    ("governance_budget", "clamp_min_tokens = 7"),
    ("governance_ratelimit", "tenant_id = NULL, scope_type = 'platform', scope_key = ''"),
    ("governance_ratelimit", "scope_key = 'other'"),
    ("governance_ratelimit", "nanos_per_minute = 5"),
    ("governance_ratelimit", "requests_per_minute = 5"),
    ("governance_ratelimit", "tokens_per_minute = 5"),
    ("governance_ratelimit", "enabled = false"),
    ("governance_tenant", "status = 'paused'"),
    ("governance_tenant", "time_zone = 'Europe/Paris'"),
    ("governance_agent", "status = 'paused'"),
    ("governance_agent", "slug = 'other'"),
    ("governance_apikey", "revoked_at = created_at"),
    ("governance_apikey", "expires_at = created_at"),
    ("governance_emergencystop", "lifted_at = started_at, lifted_by = 'ada'"),
    ("governance_emergencystop", "tenant_id = NULL, agent_id = NULL"),
    ("governance_overrun", "cleared_at = seen_at, cleared_by = 'ada'"),
    ("governance_overrun", "tokens = tokens + 1"),
    ("governance_overrun", "place = 'own/other'"),
    ("governance_overrun", "side = 'input'"),
    ("governance_overrun", "asked = 'tools'"),
]
FORGOTTEN = [
    ("governance_budget", "updated_at = created_at, source = 'default'"),
    ("governance_ratelimit", "created_at = created_at"),
    ("governance_tenant", "name = 'Other', show_amounts = NOT show_amounts, default_max_tokens = 7"),
    ("governance_agent", "created_at = created_at"),
    ("governance_apikey", "name = 'other'"),
    ("governance_emergencystop", "reason = 'other', actor = 'bob'"),
    ("governance_overrun", "permitted = 0"),
]


@pytest.fixture
def one_of_each(by: Caller) -> None:
    limit(tenant=make.tenant(), scope_type="tenant", scope_key="acme")
    stop(tenant=make.tenant(), agent=make.agent())
    overrun()


@pytest.mark.usefixtures("one_of_each")
class TestWhatIsNoted:
    @pytest.mark.parametrize(("table", "change"), REMEMBERED)
    def test_a_change_of_what_is_remembered(self, table: str, change: str) -> None:
        assert noted(f"UPDATE {table} SET {change}") == 1

    @pytest.mark.parametrize(("table", "change"), FORGOTTEN)
    def test_no_change_of_anything_else(self, table: str, change: str) -> None:
        assert noted(f"UPDATE {table} SET {change}") == 0

    def test_every_column_that_is_remembered(self) -> None:
        """Whoever remembers one more column makes the triggers anew."""
        tried = {table: " ".join(change for of, change in REMEMBERED if of == table) for table, _ in REMEMBERED}
        for table, columns in (
            ("governance_budget", [*sql.BUDGET.names, *sql.POLICY.names]),
            ("governance_ratelimit", sql.RATE_LIMIT.names),
        ):
            for name in set(columns) - {"id"}:
                assert f"{name} =" in tried[table].replace('"', ""), (table, name)

    def test_what_is_registered_only_where_it_says_something(self) -> None:
        owner = make.tenant().pk
        agent = f"INSERT INTO governance_agent (tenant_id, slug, status, created_at) VALUES ({owner}, %s, %s, %s)"
        assert noted(agent, "one", "active", NOON) == 0
        assert noted(agent, "two", "paused", NOON) == 1
        before = RuleChange.objects.count()
        _, key = make.key(role="operator")
        other = make.agent("other")
        assert RuleChange.objects.count() == before
        key.delete()
        other.delete()
        assert RuleChange.objects.count() == before
        Tenant.objects.create(slug="new", name="New")
        assert RuleChange.objects.count() == before + 1

    def test_what_is_deleted_and_was_remembered(self) -> None:
        Agent.objects.create(tenant=make.tenant(), slug="paused", status="paused")
        assert noted("DELETE FROM governance_agent WHERE status = 'paused'") == 1
        RateBucket.objects.all().delete()
        assert noted("DELETE FROM governance_ratelimit") == 1
        Budget.objects.create(scope_type="platform", window="day", limit_nanos=1)
        assert noted("DELETE FROM governance_budget WHERE scope_type = 'platform'") == 1
        assert noted("DELETE FROM governance_emergencystop") == 1
        assert noted("DELETE FROM governance_overrun") == 1

    @pytest.mark.postgres_only
    def test_what_is_emptied(self) -> None:
        assert noted("TRUNCATE governance_overrun") == 1


class TestCompaction:
    def changed(self, times: int) -> None:
        for number in range(times):
            Tenant.objects.update(status=("paused", "active")[number % 2])

    def test_makes_one_row_of_many_with_the_same_sum(self, by: Caller) -> None:
        self.changed(40)
        before = version()
        ledger.roll_windows(now=NOON)
        assert (RuleChange.objects.count(), version()) == (1, before)
        assert reserve(by).allowed

    def test_leaves_a_few(self, by: Caller) -> None:
        before = RuleChange.objects.count()
        ledger.roll_windows(now=NOON)
        assert RuleChange.objects.count() == before

    @pytest.mark.postgres_only
    def test_hides_no_change_that_is_committed_meanwhile(self, by: Caller) -> None:
        self.changed(40)
        assert reserve(by).allowed
        with transaction.atomic():
            Tenant.objects.update(status="paused")
            # Neither waits for the other.
            elsewhere(lambda: ledger.roll_windows(now=NOON) or True)
            assert elsewhere(lambda: reserve(by).allowed)
        assert reserve(by).reason == Reason.TENANT_PAUSED
        assert RuleChange.objects.count() == 2

    @pytest.mark.postgres_only
    def test_at_once_with_another_loses_nothing(self, by: Caller) -> None:
        self.changed(40)
        before = version()
        with transaction.atomic():
            sql_callers.compact_versions()
            elsewhere(lambda: ledger.roll_windows(now=NOON) or True)
            assert elsewhere(version) == before
        assert version() == before

    def test_beside_changers_hides_none(self, by: Caller) -> None:
        """Each pause holds for the next call, whoever tidies up meanwhile."""
        over = threading.Event()

        def compact() -> bool:
            while not over.is_set():
                ledger.roll_windows(now=timezone.now())
            return True

        failures: list[Any] = []
        thread = threading.Thread(target=lambda: failures.append(elsewhere(compact)))
        thread.start()
        try:
            for _ in range(60):
                Tenant.objects.update(status="paused")
                assert not reserve(by, "0.0001").allowed
                Tenant.objects.update(status="active")
                assert reserve(by, "0.0001").allowed
        finally:
            over.set()
            thread.join(20)
        assert failures == [True]


@pytest.fixture
def batches(by: Caller, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each batch that was begun looked ahead."""
    begun: list[bool] = []
    prepare = Batch.prepare
    monkeypatch.setattr(Batch, "prepare", lambda batch: (begun.append(batch._ahead), prepare(batch)))
    return begun


class TestWhatIsRemembered:
    def test_is_no_more_than_so_many_callers(self, by: Caller, remembered: Remembered, monkeypatch: Any) -> None:
        monkeypatch.setattr(caller_rules, "MOST_CALLERS", 3)
        for number in range(5):
            assert reserve(replace(by, session=f"s{number}")).allowed
            assert len(remembered.rules.matched) <= 3
        assert replace(by, session="s4") in remembered.rules.matched

    def test_is_read_for_those_alone_who_are_new(
        self, by: Caller, remembered: Remembered, batches: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[set[Caller]] = []
        facts = caller_rules._facts
        monkeypatch.setattr(caller_rules, "_facts", lambda callers: asked.append(set(callers)) or facts(callers))
        other = replace(by, session="other")
        ledger.apply([make.reserving("0.01", by=by), make.reserving("0.01", by=other)], now=timezone.now())
        assert [callers for callers in asked if callers] == [{other}]
        # Under another version, the known ones anew too.
        asked.clear()
        batches.clear()
        Tenant.objects.update(time_zone="Europe/Paris")
        third = replace(by, session="third")
        ledger.apply([make.reserving("0.01", by=by), make.reserving("0.01", by=third)], now=timezone.now())
        assert [callers for callers in asked if callers] == [{third}, {by}]
        assert batches == [True]
        assert {matched.time_zone for matched in remembered.rules.matched[by]} == {"Europe/Paris"}


class TestLookingAhead:
    """What is locked at once is what would be locked step by step."""

    def test_a_window_is_opened_before_buckets_are_held(self, by: Caller, batches: list[bool]) -> None:
        RateLimit.objects.create(scope_type="platform", requests_per_minute=100)
        now = timezone.now()
        assert reserve(by).allowed
        batches.clear()
        tomorrow = now + timedelta(days=1)
        held = make.reserving("0.01", by=by)
        assert ledger.reserve(held, now=tomorrow).allowed
        assert batches == [True, False]
        ledger.settle(make.settling(held.reservation_id, "0.02"), now=tomorrow)
        assert batches == [True, False, True]
        opened = BudgetWindow.objects.get(closed_at=None)
        assert (opened.settled_nanos, opened.reserved_nanos) == (nanos("0.02"), 0)

    def test_where_no_bucket_is_held_it_is_opened_there_and_then(self, by: Caller, batches: list[bool]) -> None:
        batches.clear()
        assert ledger.reserve(make.reserving("0.01", by=by), now=timezone.now() + timedelta(days=1)).allowed
        assert batches == [True]

    def test_the_buckets_of_a_limit_that_is_off_by_now_are_given_back_to(self, by: Caller) -> None:
        limit = RateLimit.objects.create(scope_type="platform", tokens_per_minute=100_000)
        held = make.reserving("0.01", by=by)
        long = replace(held.call, quote=lambda model: Quote(model, 1, input_tokens=50_000))
        ledger.reserve(replace(held, call=long), now=NOON)
        assert RateBucket.objects.get().level_tokens_e6 == 50_000 * 10**6
        RateLimit.objects.filter(pk=limit.pk).update(enabled=False)
        assert ledger.reserve(make.reserving("0.01", by=by), now=NOON).allowed
        ledger.release(make.releasing(held.reservation_id), now=NOON)
        assert RateBucket.objects.get().level_tokens_e6 == 0

    @pytest.mark.parametrize("acting", ["report", "trusted"])
    def test_what_waits_for_a_turn_goes_step_by_step(self, by: Caller, batches: list[bool], acting: str) -> None:
        trust = ReportTrust(by.tenant_id, unbudgeted_nanos=nanos("1.00"))
        held = make.reserving("0.01", by=by)
        ledger.reserve(held, now=timezone.now())
        batches.clear()
        if acting == "report":
            ledger.record(make.reporting("0.01", by=by), now=timezone.now())
        else:
            ledger.settle(make.settling(held.reservation_id, "0.01", trust=trust), now=timezone.now())
        assert batches == [False]


class RoundTrips:
    """Statements that are sent, and how often there is nothing more to send before an answer has come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[str] = []
        self.waits = 0
        # How often the network was looked at before there was anything to wait for.
        self.looks = 0
        self._unanswered = self._executing = False
        wait = psycopg.Connection.wait
        execute, fetch, leave = psycopg.Cursor.execute, psycopg.Cursor.fetchall, psycopg.Pipeline.__exit__

        def executed(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
            self.statements.append(str(query))
            self._unanswered = self._executing = True
            result = execute(cursor, query, *args, **options)
            self._executing = False
            if not cursor.connection.pgconn.pipeline_status:
                self._wait()
            return result

        def fetched(cursor: Any) -> Any:
            self._wait()
            return fetch(cursor)

        def left(pipeline: Any, *error: Any) -> Any:
            self._wait()
            return leave(pipeline, *error)

        def looked(asked: Any) -> Any:
            found = None
            while True:
                try:
                    wanted = asked.send(found)
                except StopIteration as done:
                    return done.value
                self.looks += self._executing
                found = yield wanted

        monkeypatch.setattr(psycopg.Connection, "wait", lambda self, asked, *args: wait(self, looked(asked), *args))
        monkeypatch.setattr(psycopg.Cursor, "execute", executed)
        monkeypatch.setattr(psycopg.Cursor, "fetchall", fetched)
        monkeypatch.setattr(psycopg.Pipeline, "__exit__", left)
        for name in ("commit", "rollback"):
            monkeypatch.setattr(psycopg.Connection, name, self._counted(getattr(psycopg.Connection, name)))

    def of(self, work: Callable[[], Any]) -> tuple[int, int]:
        """(round trips, statements) of `work`."""
        self.statements, self.waits, self.looks = [], 0, 0
        work()
        return self.waits, len(self.statements)

    def _counted(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any) -> Any:
            self._unanswered = True
            self._wait()
            return ask(*args)

        return asked

    def _wait(self) -> None:
        self.waits += self._unanswered
        self._unanswered = False


@pytest.mark.postgres_only
class TestRoundTrips:
    @pytest.fixture
    def trips(self, by: Caller, monkeypatch: pytest.MonkeyPatch) -> RoundTrips:
        return RoundTrips(monkeypatch)

    def test_a_batch_of_calls_takes_two(self, by: Caller, trips: RoundTrips) -> None:
        held, other = make.reserving("0.01", by=by), make.reserving("0.01", by=by)
        # BEGIN, deadlines, version, windows; reservation, windows, COMMIT.
        assert trips.of(lambda: ledger.apply([held, other], now=timezone.now())) == (2, 7)
        mixed = [make.reserving("0.01", by=by), make.settling(held.reservation_id), Extend(other.reservation_id, 5)]
        # And reservations; reservations changed, entries, rollups. The budget's threshold is an event, where it is one.
        waits, statements = trips.of(lambda: ledger.apply(mixed, now=timezone.now()))
        assert (waits, statements) == (2, 11)
        # They leave together.
        assert trips.looks == 0
        assert trips.of(lambda: ledger.release(make.releasing(other.reservation_id), now=timezone.now())) == (2, 8)

    def test_rate_limits_cost_none_more(self, by: Caller, trips: RoundTrips) -> None:
        RateLimit.objects.create(scope_type="platform", requests_per_minute=100)
        held = make.reserving("0.01", by=by)
        ledger.reserve(held, now=timezone.now())
        assert trips.of(lambda: reserve(by)) == (2, 9)
        assert trips.of(lambda: ledger.settle(make.settling(held.reservation_id), now=timezone.now())) == (2, 12)

    def test_a_new_caller_costs_one_more(self, by: Caller, trips: RoundTrips) -> None:
        assert trips.of(lambda: reserve(replace(by, session="new")))[0] == 3

    def test_a_change_costs_one_batch_that_is_given_up(self, by: Caller, trips: RoundTrips) -> None:
        Tenant.objects.update(time_zone="Europe/Paris")
        assert trips.of(lambda: reserve(by))[0] <= 6
        assert trips.of(lambda: reserve(by))[0] == 2


@pytest.mark.sqlite_only
def test_on_sqlite_a_batch_takes_few_statements(by: Caller, django_assert_num_queries: Any) -> None:
    # BEGIN, version, windows, reservation, windows, COMMIT.
    with django_assert_num_queries(6):
        reserve(by)


@pytest.fixture
def upgraded(by: Caller) -> None:
    def migrate(*name: str) -> None:
        call_command("migrate", *(("governance", *name) if name else ()), verbosity=0, stdout=io.StringIO())

    migrate("0020")
    migrate()


@pytest.mark.usefixtures("upgraded")
def test_a_ledger_of_before_notes_changes_from_its_upgrade_on(by: Caller) -> None:
    assert not RuleChange.objects.exists()
    assert reserve(by).allowed
    Tenant.objects.update(status="paused")
    assert RuleChange.objects.count() == 1
    assert reserve(by).reason == Reason.TENANT_PAUSED
