"""Never more than fits, however many ask at once."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from governance import ledger
from governance.ledger.operations import ChangeLimit, Reset
from governance.ledger.writer import GroupCommit
from governance.models import BudgetWindow, Reservation, SpendEntry
from governance.rules.decision import Action
from tests import factories as make
from tests.concurrency.processes import in_processes, in_threads
from tests.factories import NOON, nanos

CALLS = 200
FITS = 73


def admitted(answers):
    return Counter(action for answer in answers for action in answer)


def reserve_on_threads(calls):
    """That many reservations from eight threads, each in a transaction of its own; their actions."""
    by = make.caller(user="ann")
    shares = [range(index, calls, 8) for index in range(8)]
    answers = in_threads(
        8,
        lambda index: [ledger.reserve(make.reserving("0.01", by=by), now=NOON).action.value for _ in shares[index]],
    )
    return [action for answer in answers for action in answer]


def reserve_through_group_commit(calls):
    """That many reservations at once from one event loop."""
    by = make.caller(user="ann")

    async def run():
        commit = GroupCommit(clock=lambda: NOON)
        commit.start()
        decisions = await asyncio.gather(*(commit.submit(make.reserving("0.01", by=by)) for _ in range(calls)))
        commit.close()
        return [decision.action.value for decision in decisions]

    return asyncio.run(run())


@pytest.mark.parametrize("reserve", [reserve_on_threads, reserve_through_group_commit])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_exactly_as_many_calls_as_fit_are_admitted(processes, reserve):
    make.budget(f"{FITS / 100 + 0.005:.3f}", soft_cap=None)
    make.budget("100", scope_type="user", scope_key="*", soft_cap=None)
    answers = in_processes(processes, lambda index: reserve(CALLS // processes))
    assert admitted(answers) == {"allow": FITS, "in-flight": CALLS - FITS}
    for window in BudgetWindow.objects.all():
        assert window.reserved_nanos == FITS * nanos("0.01")
    assert Reservation.objects.count() == FITS


def test_the_first_calls_of_an_unknown_user_share_one_window():
    make.budget("0.10", scope_type="user", scope_key="*", soft_cap=None)
    by = make.caller(user="nobody-yet", agent="new")

    def work(index):
        return in_threads(25, lambda thread: ledger.reserve(make.reserving("0.01", by=by), now=NOON).action.value)

    answers = in_processes(2, work)
    assert admitted(answers) == {"allow": 10, "in-flight": 40}
    assert BudgetWindow.objects.get().subject == "nobody-yet"


def test_processes_that_meet_at_a_windows_end_open_one_new_window():
    make.budget("0.10", window="hour", soft_cap=None)
    for _ in range(10):
        ledger.record(make.reporting("0.01"), now=NOON)
    assert not ledger.reserve(make.reserving("0.01"), now=NOON + timedelta(minutes=59)).allowed
    later = NOON + timedelta(hours=1)

    def work(index):
        return in_threads(5, lambda thread: ledger.reserve(make.reserving("0.01"), now=later).action.value)

    assert admitted(in_processes(4, work)) == {"allow": 10, "in-flight": 10}
    old, new = BudgetWindow.objects.order_by("id")
    assert (old.closed_at, new.closed_at, new.starts_at) == (later, None, later)


def test_processes_whose_clocks_disagree_never_get_two_allowances():
    make.budget("0.10", soft_cap=None)
    clocks = [NOON, NOON + timedelta(days=1), NOON - timedelta(days=1), NOON + timedelta(hours=13)]

    def work(index):
        return [ledger.reserve(make.reserving("0.01"), now=clocks[index]).action.value for _ in range(10)]

    counts = admitted(in_processes(4, work))
    windows = list(BudgetWindow.objects.order_by("id"))
    assert sum(window.closed_at is None for window in windows) == 1
    assert all(window.reserved_nanos <= window.limit_nanos for window in windows)
    # One allowance for each window that time opened, none for a clock that went back.
    assert counts["allow"] == sum(window.reserved_nanos for window in windows) // nanos("0.01")
    starts = [window.starts_at for window in windows]
    assert starts == sorted(set(starts))


def test_a_clock_that_goes_back_stays_in_the_open_window():
    make.budget("0.10", soft_cap=None)
    ledger.record(make.reporting("0.10"), now=NOON)
    assert not ledger.reserve(make.reserving("0.01"), now=NOON - timedelta(days=2)).allowed
    assert ledger.reserve(make.reserving("0.01"), now=NOON + timedelta(days=1)).allowed
    assert BudgetWindow.objects.filter(closed_at=None).count() == 1


def test_counters_equal_the_ledger_after_processes_started_cold_together():
    make.budget("5.00", soft_cap=None)
    make.budget("1.00", scope_type="agent", scope_key="*", soft_cap=None)
    make.budget("9.00", scope_type="platform", soft_cap=None)

    def work(index):
        spent = 0
        for number in range(30):
            by = make.caller(agent=f"agent-{number % 3}")
            op = make.reserving("0.02", by=by)
            decision = ledger.reserve(op, now=NOON)
            if decision.allowed:
                cost = f"0.0{(index + number) % 3}"
                ledger.settle(make.settling(op.reservation_id, cost), now=NOON)
                spent += nanos(cost)
        return spent

    spent = sum(in_processes(4, work))
    assert spent > 0
    assert sum(SpendEntry.objects.values_list("cost_nanos", flat=True)) == spent
    platform = BudgetWindow.objects.get(budget__scope_type="platform")
    assert (platform.settled_nanos, platform.reserved_nanos) == (spent, 0)


def test_resets_and_limits_changed_while_calls_run_lose_nothing():
    budget = make.budget("0.50", soft_cap=None)
    ledger.roll_windows(now=NOON)

    def work(index):
        if index == 0:
            for number in range(10):
                ledger.reset(Reset(budget.id, f"reset {number}", "ada"), now=NOON)
                ledger.change_limit(ChangeLimit(budget.id, nanos(f"0.{5 + number % 3}"), "a change", "ada"), now=NOON)
            return 0
        settled = 0
        for _ in range(25):
            op = make.reserving("0.01")
            if ledger.reserve(op, now=NOON).allowed:
                ledger.settle(make.settling(op.reservation_id, "0.01"), now=NOON)
                settled += 1
        return settled

    settled = sum(in_processes(3, work))
    windows = list(BudgetWindow.objects.all())
    assert len(windows) == 11
    assert sum(window.settled_nanos for window in windows) == settled * nanos("0.01")
    assert sum(window.reserved_nanos for window in windows) == 0


def test_one_reservation_id_from_many_processes_is_one_hold():
    make.budget("1.00")
    op = make.reserving("0.10")

    def work(index):
        try:
            return [ledger.reserve(op, now=NOON).action.value]
        except ledger.AlreadyResolved as error:
            return [error.status]

    assert admitted(in_processes(4, work)) == {Action.ALLOW.value: 1, "pending": 3}
    assert BudgetWindow.objects.get().reserved_nanos == nanos("0.10")


def test_one_settlement_from_many_processes_is_one_charge():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)

    def work(index):
        try:
            return [ledger.settle(make.settling(op.reservation_id, "0.07"), now=NOON).charged_nanos]
        except ledger.AlreadyResolved as error:
            return [error.status]

    assert admitted(in_processes(4, work)) == {nanos("0.07"): 1, "settled": 3}
    assert BudgetWindow.objects.get().settled_nanos == nanos("0.07")


def test_one_report_from_many_processes_counts_once():
    make.budget("1.00")
    by = make.caller()

    def work(index):
        return [ledger.record(make.reporting("0.10", by=by, request_id="r1"), now=NOON).duplicate]

    assert admitted(in_processes(4, work)) == {False: 1, True: 3}
    assert BudgetWindow.objects.get().settled_nanos == nanos("0.10")
