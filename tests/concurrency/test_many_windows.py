"""Acts on a budget of very many windows, beside calls, beside each other, and cut short."""

import os
import random
import time
from collections import Counter
from datetime import timedelta

import pytest
from django.db import transaction

from governance import ledger
from governance.actions import allowances, budgets
from governance.audit import Actor
from governance.ledger import acts, book, sql_writes
from governance.ledger.operations import Follow
from governance.models import BudgetAct, BudgetEvent, BudgetWindow
from tests import factories as make
from tests.concurrency.processes import FORK, in_processes, in_threads, let_go_of_connections
from tests.concurrency.test_window_races import meanwhile, started
from tests.factories import NOON, nanos

pytestmark = pytest.mark.postgres_only

LATER = NOON + timedelta(minutes=1)
ADA = Actor("ada")
USERS = ("ann", "ben", "cat", "dan", "eve")
HAMMERED_S = 3
KILLED = 9


@pytest.fixture(autouse=True)
def many(monkeypatch):
    """Five windows are very many, and nobody but the test has them follow."""
    monkeypatch.setattr(acts, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(acts, "SLICE", 2)
    monkeypatch.setattr(transaction, "on_commit", lambda *_, **__: None)


def each(limit="1.00"):
    """A budget for each user, of which each has spent half a dollar."""
    budget = make.budget(limit, scope_type="user", scope_key="*", soft_cap=None)
    for user in USERS:
        ledger.record(make.reporting("0.50", by=make.caller(user=user)), now=NOON)
    return budget


def calling(user, cost="0.30"):
    return make.reserving(cost, by=make.caller(user=user))


def lower(budget):
    return budgets.change(budget=budget, changes={"limit_nanos": nanos("0.60")}, by=ADA, now=LATER)


def reset(budget):
    return budgets.reset(budget=budget, reason="again", by=ADA, now=LATER)


def raising(budget):
    return allowances.raise_limit(
        budget=budget,
        amount_nanos=nanos("5"),
        starts_at=NOON,
        ends_at=NOON + timedelta(days=2),
        reason="launch",
        by=ADA,
        now=LATER,
    )


@pytest.mark.parametrize("act", [lower, reset, raising])
def test_an_act_waits_for_no_call(act):
    budget = each()
    with transaction.atomic():
        book._run([calling(user) for user in USERS], LATER, book.Manner())
        failures, thread = started(lambda: act(budget))
        thread.join(10)
        assert not thread.is_alive()
    assert not failures, failures
    assert ledger.follow(budget.pk, now=LATER)


def test_a_slice_holds_up_the_calls_of_its_own_windows_alone():
    budget = each()
    lower(budget)
    answers = {}
    with transaction.atomic():
        ledger.apply_within([Follow(budget.pk)], now=LATER)
        calls = [
            started(lambda user=user: answers.update({user: ledger.reserve(calling(user), now=LATER).allowed}))
            for user in ("ann", "eve")
        ]
        calls[1][1].join(10)
        assert answers == {"eve": False}
    calls[0][1].join(10)
    assert answers == {"ann": False, "eve": False}
    assert [failures for failures, _ in calls] == [[], []]
    assert ledger.follow(budget.pk, now=LATER)


@pytest.mark.parametrize(
    ("act", "cost", "limits"), [(lower, "0.50", ["0.60"]), (lower, "0.90", []), (raising, "0.90", ["6.00"])]
)
def test_a_window_that_opens_as_an_act_is_made_has_followed_it(act, cost, limits):
    """The call's insert waits for the act, which it cannot see when it begins. One that is refused opens none."""
    budget = each()
    answers = []
    meanwhile(lambda: act(budget), lambda: answers.append(ledger.reserve(calling("new", cost=cost), now=LATER).allowed))
    assert answers == [bool(limits)]
    found = BudgetWindow.objects.filter(subject="new").values_list("limit_nanos", flat=True)
    assert [*found] == [nanos(limit) for limit in limits]
    assert ledger.follow(budget.pk, now=LATER)


def test_a_call_that_began_before_a_lowered_limit_leaves_its_window_to_follow(monkeypatch):
    budget = each()
    meanwhile(
        # Holds the window when the call, which has seen the budget as it was, waits for it.
        lambda: book._run([calling("ann", cost="0.10")], LATER, book.Manner()),
        lambda: ledger.reserve(calling("ann"), now=LATER),
    )
    lower(budget)
    assert ledger.follow(budget.pk, now=LATER)
    window = BudgetWindow.objects.get(subject="ann")
    assert (window.limit_nanos, window.limit_lowered) == (nanos("0.60"), True)


def test_a_call_and_a_slice_that_meet_at_a_reset_open_one_successor():
    budget = each()
    reset(budget)
    meanwhile(
        lambda: book._run([calling("ann")], LATER, book.Manner()),
        lambda: ledger.follow(budget.pk, now=LATER),
    )
    assert Counter(BudgetWindow.objects.filter(closed_at=None).values_list("subject", flat=True)) == Counter(USERS)
    assert BudgetEvent.objects.filter(kind="budget-reset").count() == 5
    assert BudgetWindow.objects.count() == 10


def test_a_limit_lowered_as_a_call_opens_a_successor_reaches_it(monkeypatch):
    budget = each()
    reset(budget)
    insert, lowering = sql_writes.open_windows, []

    def open_as_it_is_lowered(*args):
        if not lowering:
            lowering.append(started(lambda: lower(budget)))
            lowering[0][1].join(10)
        insert(*args)

    monkeypatch.setattr(sql_writes, "open_windows", open_as_it_is_lowered)
    assert not ledger.reserve(calling("ann", cost="0.90"), now=LATER).allowed
    assert lowering[0][0] == []
    assert BudgetWindow.objects.get(subject="ann", closed_at=None).limit_nanos == nanos("0.60")
    assert ledger.follow(budget.pk, now=LATER)


def test_several_who_follow_at_once_do_it_once():
    budget = each()
    lower(budget)
    reset(budget)
    in_threads(3, lambda _: ledger.follow(budget.pk, now=LATER))
    assert BudgetEvent.objects.filter(kind="budget-reset").count() == 5
    assert BudgetWindow.objects.count() == 10
    assert not BudgetAct.objects.filter(is_done=False).exists()


def test_what_is_killed_in_its_second_slice_is_gone_on_with(monkeypatch):
    budget = each()
    reset(budget)
    insert, slices = sql_writes.insert_events, []

    def die_in_the_second(*args):
        slices.append(args)
        if len(slices) == 2:
            os._exit(KILLED)
        insert(*args)

    let_go_of_connections()
    with monkeypatch.context() as mortal:
        mortal.setattr(sql_writes, "insert_events", die_in_the_second)
        process = FORK.Process(target=lambda: ledger.follow(budget.pk, now=LATER))
        process.start()
        process.join(20)
    assert process.exitcode == KILLED
    assert BudgetEvent.objects.filter(kind="budget-reset").count() == 2
    assert ledger.follow_acts(now=LATER, for_s=60) == 1
    assert BudgetEvent.objects.filter(kind="budget-reset").count() == 5
    assert Counter(BudgetWindow.objects.filter(closed_at=None).values_list("subject", flat=True)) == Counter(USERS)


def test_acts_in_a_tight_loop_beside_calls_lose_no_money_and_let_everybody_through():
    budget = make.budget("1000", scope_type="user", scope_key="*", soft_cap=None)
    for user in USERS:
        ledger.record(make.reporting("0.01", by=make.caller(user=user)), now=NOON)

    def work(index):
        until, done, dice = time.monotonic() + HAMMERED_S, Counter(), random.Random(index)
        while time.monotonic() < until:
            if index == 0:
                reset(budget)
                limit_nanos = nanos(str(dice.randint(500, 1000)))
                budgets.change(budget=budget, changes={"limit_nanos": limit_nanos}, by=ADA, now=LATER)
                done["acts"] += 1
            elif index == 1:
                ledger.follow_acts(now=NOON, for_s=1)
            else:
                op = calling(dice.choice(USERS), cost="0.01")
                assert ledger.reserve(op, now=NOON).allowed
                ledger.settle(make.settling(op.reservation_id, "0.01"), now=NOON)
                done["calls"] += 1
        return done

    done = sum(in_processes(5, work), Counter())
    assert ledger.follow(budget.pk, now=LATER)
    assert done["acts"]
    assert done["calls"]
    assert sum(BudgetWindow.objects.values_list("settled_nanos", flat=True)) == (done["calls"] + 5) * nanos("0.01")
    budget.refresh_from_db()
    last = BudgetWindow.objects.filter(closed_at=None).values_list("subject", "limit_nanos")
    assert sorted(last) == [(user, budget.limit_nanos) for user in USERS]
    closed = BudgetWindow.objects.exclude(closed_at=None).count()
    assert BudgetEvent.objects.filter(kind="budget-reset").count() == closed <= done["acts"] * len(USERS)
