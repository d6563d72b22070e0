"""Windows of new names that are opened for a call which fits only once another of its batch has made room."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

from governance import ledger
from governance.ledger import sql_writes
from governance.ledger.operations import ChangeLimit, Reset, ReviewAllowances, Settle
from governance.ledger.results import ResetResult
from governance.models import BudgetEvent, BudgetWindow
from governance.rules.calls import Usage
from governance.upkeep import reconcile
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db(transaction=True)
USED = Usage(model="m")


def elsewhere(act: Callable[[], Any]) -> None:
    """Do something on a connection of its own, and wait for it."""

    def run() -> None:
        try:
            act()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_it_is_no_window_that_time_has_ended() -> None:
    make.budget("0.10", scope_type="agent", scope_key="*", soft_cap=None, window="month")
    days = make.budget("0.10", scope_type="user", scope_key="*", soft_cap=None)
    spent = make.reserving("0.10", by=make.caller(user="u"))
    assert ledger.reserve(spent, now=NOON).allowed
    ledger.settle(Settle(spent.reservation_id, nanos("0.10"), USED), now=NOON)

    today = NOON + timedelta(days=1)
    held = make.reserving("0.10", by=make.caller(agent="a1"))
    assert ledger.reserve(held, now=today).allowed
    first = make.reserving("0.10", by=make.caller(agent="a1", user="u"))
    ledger.apply([Settle(held.reservation_id, 0, USED), first], now=today)
    second = ledger.reserve(make.reserving("0.10", by=make.caller(agent="a2", user="u")), now=today)

    assert not second.allowed
    for window in BudgetWindow.objects.filter(budget=days):
        assert window.settled_nanos + window.reserved_nanos <= window.limit_nanos
    assert reconcile.check() == []


@pytest.mark.postgres_only
def test_one_that_another_process_fills_at_that_moment_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    make.budget("0.10", scope_type="agent", scope_key="*", soft_cap=None)
    make.budget("0.10", scope_type="user", scope_key="*", soft_cap=None)
    held = make.reserving("0.10", by=make.caller(agent="a1", user="old"))
    assert ledger.reserve(held, now=NOON).allowed
    theirs = make.reserving("0.10", by=make.caller(agent="a2", user="new"))
    open_windows, is_first = sql_writes.open_windows, [True]

    def too_late(*args: Any) -> None:
        if is_first and is_first.pop():
            elsewhere(lambda: ledger.reserve(theirs, now=NOON))
        open_windows(*args)

    monkeypatch.setattr(sql_writes, "open_windows", too_late)
    ours = make.reserving("0.09", by=make.caller(agent="a1", user="new"))
    _, decision = ledger.apply([Settle(held.reservation_id, nanos("0.01"), USED), ours], now=NOON)

    assert not decision.allowed
    assert BudgetWindow.objects.get(subject="new").reserved_nanos == nanos("0.10")
    assert reconcile.check() == []


@pytest.mark.parametrize(
    ("act", "done"),
    [
        (lambda budget: Reset(budget, "why", "ada"), ResetResult(closed=0, opened=0)),
        (lambda budget: ChangeLimit(budget, nanos("5"), "why", "ada"), 0),
        (lambda budget: ReviewAllowances(budget), 0),
    ],
    ids=["reset", "limit", "allowances"],
)
def test_an_operators_act_beside_a_refused_call_finds_no_window_for_its_name(act: Any, done: Any) -> None:
    budget = make.budget("1", scope_type="agent", scope_key="*")
    refused, result = ledger.apply([make.reserving("2", by=make.caller(agent="new")), act(budget.pk)], now=NOON)
    assert not refused.allowed
    assert result == done
    assert not BudgetWindow.objects.exists()
    assert not BudgetEvent.objects.exists()
