"""The database's clock decides: no process closes a window before its time, or lets more through, by its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.test import Client
from django.utils import timezone

from governance import ledger
from governance.actions import allowances, tenancy
from governance.audit import Actor
from governance.ledger import clock
from governance.ledger.operations import Extend, Reset
from governance.models import Allowance, ApiKey, Budget, BudgetEvent, BudgetWindow, RateBucket, RateLimit, Reservation
from governance.rules.decision import Reason
from governance.upkeep import reconcile
from tests import factories as make
from tests.factories import NOON

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_holds")]

DAY_AND_AN_HOUR = timedelta(hours=25)
SECOND = timedelta(seconds=1)
ADA = Actor("ada")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock._Known, "ahead", clock.NONE)
    monkeypatch.setattr(clock._Known, "said_at", float("-inf"))


class Machines:
    """Clocks that differ: each thread has its own."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._true = timezone.now

    def set(self, off: timedelta) -> None:
        self._of_thread.off = off

    def now(self) -> datetime:
        return self._true() + getattr(self._of_thread, "off", clock.NONE)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    made = Machines()
    monkeypatch.setattr(timezone, "now", made.now)
    yield made
    made.set(clock.NONE)


MS = timedelta(milliseconds=1)
PASSED = clock.passed


@pytest.mark.parametrize(
    ("told", "took", "known", "ahead"),
    [
        # Between two looks that were close to each other: there is no difference.
        (5 * MS, 10 * MS, clock.NONE, clock.NONE),
        (5 * MS, 10 * MS, SECOND, clock.NONE),
        # Surely so much, and no more than that shows.
        (3600 * SECOND, 10 * MS, clock.NONE, 3600 * SECOND - 10 * MS),
        (-3600 * SECOND, 10 * MS, clock.NONE, -3600 * SECOND),
        # What is known is kept where it may be true, and corrected where it cannot.
        (SECOND + 5 * MS, 10 * MS, SECOND, SECOND),
        (SECOND, 10 * MS, 5 * SECOND, SECOND),
        (SECOND, 2 * SECOND, SECOND, SECOND),
        (SECOND, 2 * SECOND, 5 * SECOND, SECOND),
        (SECOND, 2 * SECOND, clock.NONE, clock.NONE),
        # At the one look or the other, there is none that shows.
        (10 * MS, 10 * MS, SECOND, clock.NONE),
        (clock.NONE, 10 * MS, -SECOND, clock.NONE),
        # A tenth of a second is quick, and more is not.
        (50 * MS, 100 * MS, SECOND, clock.NONE),
        (50 * MS, 101 * MS, SECOND, 50 * MS),
    ],
)
def test_the_difference_between_two_clocks(
    told: timedelta, took: timedelta, known: timedelta, ahead: timedelta
) -> None:
    assert clock.measured(NOON, NOON + told, NOON + took, known=known) == ahead


def micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_what_a_database_answers_tells_its_clock_along_the_way() -> None:
    ahead = micros(timezone.now() + 3600 * SECOND)
    assert clock.asked(lambda: ["row"], lambda rows: ahead if rows == ["row"] else None) == ["row"]
    assert abs(clock.ahead() - 3600 * SECOND) < 60 * SECOND
    assert clock.differs()
    # An answer without a clock says nothing of it.
    clock.asked(lambda: 5, lambda _: None)
    assert clock.differs()
    clock._Known.ahead = clock.NONE
    clock.asked(lambda: 5, lambda _: micros(timezone.now()))
    assert abs(clock.ahead()) < SECOND


@pytest.mark.parametrize(
    ("ahead", "differs"), [(SECOND, False), (-SECOND, False), (SECOND + MS, True), (-SECOND - MS, True)]
)
def test_a_second_is_no_difference(ahead: timedelta, differs: bool) -> None:
    clock._Known.ahead = ahead
    assert clock.differs() is differs


def test_a_clock_that_is_right_changes_nothing() -> None:
    make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    assert Reservation.objects.get().reserved_at == NOON
    assert (clock.ahead(), clock.differs()) == (clock.NONE, False)


def test_a_moment_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "passed", PASSED)
    monkeypatch.setattr(clock._Known, "ahead", 3600 * SECOND)
    moment = clock.RunningMoment(NOON)
    first = moment.now()
    time.sleep(0.01)
    assert NOON + 3600 * SECOND <= first < moment.now() - 5 * MS


@pytest.mark.parametrize("within", [False, True])
def test_a_period_that_ends_while_a_call_waits_is_not_opened_again(
    monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    """Whoever it waited for has closed it, with what was spent of it."""
    make.budget("1.00", window="hour", scope_type="user", scope_key="*", soft_cap=None)
    by, end = make.caller(user="ann"), NOON + timedelta(hours=1)
    ledger.record(make.reporting("1.00", by=by), now=NOON)
    ledger.roll_windows(now=end)
    monkeypatch.setattr(clock, "passed", lambda since_s: SECOND)
    op = make.reserving("0.10", by=by)
    with transaction.atomic() if within else contextlib.nullcontext():
        [decided] = (ledger.apply_within if within else ledger.apply)([op], now=end - SECOND / 2)
    assert decided.allowed
    assert sorted(BudgetWindow.objects.values_list("starts_at", flat=True)) == [NOON, end]


def test_a_level_never_goes_back_in_time() -> None:
    """Two clocks a second apart, in turns: what flowed off once does not flow off again."""
    RateLimit.objects.create(scope_type="platform", requests_per_minute=60)
    by, admitted = make.caller(), 0
    for step in range(200):
        # Ten seconds; every second call comes from a clock that is behind.
        now = NOON + step * 50 * MS - (step % 2) * SECOND
        admitted += ledger.reserve(make.reserving("0", by=by), now=now).allowed
    assert 60 <= admitted <= 70
    # By the clock that is ahead: that of the last call which was let through.
    assert RateBucket.objects.get().measured_at >= NOON + 9 * SECOND


@pytest.mark.parametrize("ahead", [timedelta(minutes=2), timedelta(hours=1), timedelta(days=400)])
def test_a_clock_that_was_wrong_closes_a_limit_for_two_minutes_at_most(ahead: timedelta) -> None:
    """It was ahead for a moment: a step of the database's, or a standby's that is the primary no more."""
    RateLimit.objects.create(scope_type="platform", requests_per_minute=60)

    def admitted(now: datetime) -> int:
        return sum(ledger.reserve(make.reserving("0", by=make.caller()), now=now).allowed for _ in range(70))

    assert admitted(NOON + ahead) == 60
    # What it let through counts as let through now, and flows off from here.
    assert admitted(NOON) == 0
    assert 0 < admitted(NOON + timedelta(minutes=2, seconds=1)) <= 60
    assert admitted(NOON + timedelta(minutes=3, seconds=1)) == 60


@pytest.mark.postgres_only
class TestAWrongClock:
    @pytest.mark.parametrize("off", [DAY_AND_AN_HOUR, -DAY_AND_AN_HOUR])
    def test_opens_and_closes_no_window(self, machines: Machines, off: timedelta) -> None:
        budget = make.budget("1.00")
        held = make.reserving("0.10")
        ledger.reserve(held, now=timezone.now())
        today = BudgetWindow.objects.get()
        machines.set(off)
        for act in (
            lambda: ledger.reserve(make.reserving("0.10"), now=timezone.now()),
            lambda: ledger.record(make.reporting("0.10"), now=timezone.now()),
            lambda: ledger.roll_windows(now=timezone.now()),
            lambda: ledger.expire_due(now=timezone.now()),
            lambda: ledger.extend(Extend(held.reservation_id, more_nanos=5), now=timezone.now()),
            lambda: ledger.settle(make.settling(held.reservation_id, "0.10"), now=timezone.now()),
        ):
            # As a process that has only just begun.
            clock._Known.ahead = clock.NONE
            act()
        assert BudgetWindow.objects.get().pk == today.pk
        assert BudgetWindow.objects.get().closed_at is None
        settled = Reservation.objects.get(pk=held.reservation_id)
        assert settled.status == "settled"
        assert abs(settled.resolved_at - machines._true()) < timedelta(minutes=1)
        clock._Known.ahead = clock.NONE
        ledger.reset(Reset(budget.pk, "again", "ada"), now=timezone.now())
        closed = BudgetWindow.objects.get(pk=today.pk).closed_at
        assert closed is not None
        assert abs(closed - machines._true()) < timedelta(minutes=1)
        for event in BudgetEvent.objects.all():
            assert abs(event.occurred_at - machines._true()) < timedelta(minutes=1)

    def test_tells_a_dry_run_the_same(self, machines: Machines) -> None:
        make.budget("1.00")
        ledger.record(make.reporting("1.00"), now=timezone.now())
        machines.set(DAY_AND_AN_HOUR)
        op = make.reserving("0.10")
        assert not ledger.dry_run(op.caller, op.call, now=timezone.now()).allowed

    def test_expires_nothing_before_its_time(self, machines: Machines) -> None:
        make.budget("1.00")
        ledger.reserve(make.reserving("0.10"), now=timezone.now())
        machines.set(DAY_AND_AN_HOUR)
        assert ledger.expire_due(now=timezone.now()) == 0
        assert Reservation.objects.get().status == "pending"

    def test_lets_no_more_through_a_rate_limit(self, machines: Machines) -> None:
        RateLimit.objects.create(scope_type="platform", requests_per_minute=600)
        by = make.caller()
        ledger.reserve(make.reserving("0", by=by), now=timezone.now())
        over, admitted = time.monotonic() + 4, [0, 0]

        def machine(number: int) -> None:
            machines.set(number * SECOND)
            try:
                while time.monotonic() < over:
                    admitted[number] += ledger.reserve(make.reserving("0", by=by), now=timezone.now()).allowed
            finally:
                connections.close_all()

        threads = [threading.Thread(target=machine, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        # A bucket, and ten a second; the second machine's second once at most.
        assert sum(admitted) <= 600 + 4 * 10 + 15, admitted

    def test_says_so(self, machines: Machines, caplog: Any) -> None:
        caplog.set_level(logging.WARNING, logger="governance.ledger.clock")
        machines.set(5 * SECOND)
        make.budget("1.00")
        for _ in range(3):
            ledger.reserve(make.reserving("0.10"), now=timezone.now())
        assert clock.differs()
        # Once in a while, not at every batch.
        [record] = [record for record in caplog.records if record.name == "governance.ledger.clock"]
        assert "this machine's clock is +5.0 s off the database's" in record.getMessage()
        answer = Client().get("/api/health").json()
        assert (answer["status"], answer["services"]["database"]) == ("degraded", "clock_differs")
        assert Client().get("/api/health/ready").status_code == 200

    def test_a_mended_clock_is_believed_again(self, machines: Machines) -> None:
        make.budget("1.00")
        machines.set(5 * SECOND)
        ledger.reserve(make.reserving("0.10"), now=timezone.now())
        machines.set(clock.NONE)
        ledger.reserve(make.reserving("0.10"), now=timezone.now())
        assert clock.ahead() == clock.NONE

    def test_a_key_that_is_revoked_is_no_good_to_a_process_that_is_behind(self, machines: Machines) -> None:
        make.budget("1.00")
        _, key = make.key()
        by = make.caller(key_id=key.pk)
        machines.set(-DAY_AND_AN_HOUR)
        # It knows how far behind it is as soon as it has asked once.
        ledger.reserve(make.reserving("0.10", by=by), now=timezone.now())
        type(key).objects.update(revoked_at=machines._true() - SECOND)
        assert not ledger.reserve(make.reserving("0.10", by=by), now=timezone.now()).allowed

    @pytest.mark.parametrize("off", [timedelta(minutes=10), -timedelta(minutes=10)], ids=["ahead", "behind"])
    def test_begins_and_ends_a_raise_when_it_is_said_to(self, machines: Machines, off: timedelta) -> None:
        """One that is planned, one that has just begun, and one that is over soon."""
        make.budget("1.00", soft_cap=None)
        by = make.caller()
        ledger.record(make.reporting("1.00", by=by), now=timezone.now())

        def raised(begins: timedelta, lasts: timedelta) -> Allowance:
            machines.set(off)
            starts_at = machines._true() + begins
            return allowances.raise_limit(
                budget=Budget.objects.get(),
                amount_nanos=10**9,
                starts_at=starts_at,
                ends_at=starts_at + lasts,
                reason="a big day",
                by=ADA,
                now=timezone.now(),
            )

        def is_admitted() -> bool:
            machines.set(clock.NONE)
            return ledger.reserve(make.reserving("0.10", by=by), now=timezone.now()).allowed

        planned = raised(5 * SECOND * 60, timedelta(hours=1))
        assert not is_admitted()
        machines.set(off)
        allowances.end(allowance=planned, by=ADA, now=timezone.now())
        raised(-SECOND, timedelta(minutes=5))
        assert is_admitted()
        extra = BudgetWindow.objects.get()
        assert (extra.extra_nanos, extra.extra_until) == (10**9, Allowance.objects.get().ends_at)
        assert reconcile.check() == []

    def test_ends_a_rotated_key_for_the_api_and_the_gateways_cache_too(self, machines: Machines) -> None:
        _, key = make.key()
        _, fresh = tenancy.rotate_key(key=key, grace=timedelta(0), by=ADA, now=timezone.now())
        assert not tenancy.works(ApiKey.objects.get(pk=key.pk))
        for off in (timedelta(minutes=10), -timedelta(minutes=10)):
            machines.set(off)
            assert not tenancy.works(ApiKey.objects.get(pk=key.pk))
            assert tenancy.works(fresh)

    def test_ends_what_an_operator_ends_at_once(self, machines: Machines) -> None:
        """An allowance, and a key that is rotated without grace, at a process that is ahead."""
        budget, true = make.budget("1.00", soft_cap=None), machines._true
        _, key = make.key()
        by = make.caller(key_id=key.pk, key_prefix=key.scope_key)
        ledger.record(make.reporting("1.00", by=by), now=true())
        raised = {"amount_nanos": 10**9, "starts_at": true(), "ends_at": true() + 3 * DAY_AND_AN_HOUR}
        allowance = allowances.raise_limit(budget=budget, **raised, reason="a big day", by=ADA, now=true())
        assert ledger.reserve(make.reserving("0.10", by=by), now=true()).allowed
        machines.set(DAY_AND_AN_HOUR)
        allowances.end(allowance=allowance, by=ADA, now=timezone.now())
        machines.set(clock.NONE)
        assert not ledger.reserve(make.reserving("0.10", by=by), now=true()).allowed
        machines.set(DAY_AND_AN_HOUR)
        del raised["starts_at"]
        allowances.raise_limit(budget=budget, **raised, reason="again", by=ADA, now=timezone.now())
        machines.set(clock.NONE)
        assert ledger.reserve(make.reserving("0.10", by=by), now=true()).allowed
        machines.set(DAY_AND_AN_HOUR)
        allowances.top_up(budget=budget, amount_nanos=5 * 10**9, reason="more", by=ADA, now=timezone.now())
        machines.set(clock.NONE)
        assert ledger.reserve(make.reserving("2.00", by=by), now=true()).allowed
        machines.set(DAY_AND_AN_HOUR)
        tenancy.rotate_key(key=key, grace=timedelta(0), by=ADA, now=timezone.now())
        machines.set(clock.NONE)
        assert ledger.reserve(make.reserving("0.10", by=by), now=true()).reason == Reason.KEY_INVALID
        assert reconcile.check() == []


@pytest.mark.sqlite_only
def test_on_sqlite_there_is_one_clock(machines: Machines) -> None:
    machines.set(DAY_AND_AN_HOUR)
    make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=timezone.now())
    assert clock.ask() == clock.NONE
    assert Reservation.objects.get().reserved_at > datetime.now(UTC) + timedelta(hours=24)


@pytest.mark.postgres_only
def test_the_clock_costs_no_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes along with what a batch reads anyway."""
    make.budget("1.00")
    by = make.caller()
    held = make.reserving("0.10", by=by)
    ledger.reserve(held, now=NOON)
    monkeypatch.setattr(clock, "ask", lambda: pytest.fail("the clock was asked for alone"))
    ledger.reserve(make.reserving("0.10", by=by), now=NOON)
    ledger.apply([Extend(held.reservation_id), Extend(held.reservation_id, more_nanos=5)], now=NOON)
    ledger.settle(make.settling(held.reservation_id, "0.04"), now=NOON)
