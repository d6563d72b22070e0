"""A process that is stopped (SIGSTOP, a frozen machine) while it holds the ledger's locks: its sockets stay open."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from django.utils import timezone

from governance import ledger
from governance.actions import reviews
from governance.ledger import book, locks
from governance.ledger import sql_dialect as words
from governance.ledger.sql_dialect import Deadlines
from governance.models import Budget
from governance.rules.reports import ReportTrust
from tests import factories as make
from tests.concurrency.processes import FORK, let_go_of_connections

pytestmark = [pytest.mark.postgres_only, pytest.mark.usefixtures("brief")]
BRIEF = Deadlines(lock="1s", statement="2s", idle="2s", transaction="2s")
# Rather more than BRIEF's, for a machine that does something else besides.
SOON_S = 15.0


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Deadlines that a test can wait for, of the ledger's transactions and of new connections."""
    token = words._deadlines.set(BRIEF)
    options = connections["default"].settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "options", options["options"].replace("=30s", "=2s"))
    let_go_of_connections()
    yield
    words._deadlines.reset(token)
    let_go_of_connections()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def after(owner: Any, name: str) -> None:
    """Stop this process as soon as it has done what is called so."""
    real = getattr(owner, name)

    def stopping(*args: Any, **kwargs: Any) -> Any:
        done = real(*args, **kwargs)
        stop()
        return done

    setattr(owner, name, stopping)


def in_mid_report() -> None:
    after(reviews.ledger, "apply_within")
    report_of(make.caller())


def in_mid_pipeline() -> None:
    after(book, "_run")
    ledger.reserve(make.reserving("0.01"), now=timezone.now())


def before_the_commit() -> None:
    leave, run = transaction.Atomic.__exit__, words.run

    def stopping(atomic: Any, kind: Any, *rest: Any) -> Any:
        if atomic.durable:
            stop()
        return leave(atomic, kind, *rest)

    reserving = make.reserving("0.01")
    # Of Django's own transaction; and of what goes in a pipeline, where COMMIT is its last statement.
    transaction.Atomic.__exit__ = stopping  # type: ignore[method-assign]
    words.run = lambda statement, params: (stop() if statement == "COMMIT" else None, run(statement, params))[1]
    ledger.reserve(reserving, now=timezone.now())


def with_windows_locked_for_an_act() -> None:
    budget = Budget.objects.get(scope_type="platform")
    with transaction.atomic():
        ledger.lock_windows(budget.pk)
        stop()


def before_the_ledger_is_asked() -> None:
    """The platform's window is still to be opened, by whoever calls next."""
    with transaction.atomic():
        Budget.objects.select_for_update().get(scope_type="platform")
        stop()


def report_of(caller: Any) -> Any:
    trust = ReportTrust(caller.tenant_id, 0)
    return reviews.report(report=make.reporting("0.01", by=caller, trust=trust), now=timezone.now())


def answered_within_s(act: Callable[[], Any]) -> float:
    """How long until it is done; what could not be had within its deadline is asked for again."""
    began = time.monotonic()
    while time.monotonic() - began < SOON_S:
        asked = time.monotonic()
        try:
            act()
            break
        except (ledger.LedgerUnavailable, OperationalError):
            # Nobody hangs, either.
            assert time.monotonic() - asked < SOON_S / 2
    return time.monotonic() - began


def answered_while_stopped_within_s(work: Callable[[], None], act: Callable[[], Any]) -> float:
    """How long until `act` is done beside a process that was stopped in its `work`."""
    let_go_of_connections()
    child = FORK.Process(target=work, daemon=True)
    child.start()
    try:
        assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])  # type: ignore[arg-type]
        return answered_within_s(act)
    finally:
        child.kill()
        child.join(5)
        let_go_of_connections()


@pytest.mark.parametrize(
    "work",
    [
        in_mid_report,
        in_mid_pipeline,
        before_the_commit,
        with_windows_locked_for_an_act,
        before_the_ledger_is_asked,
    ],
    ids=lambda work: work.__name__,
)
@pytest.mark.parametrize("others", ["reserve", "report"])
@pytest.mark.parametrize("server", ["of today", "before 17"])
def test_a_stopped_process_holds_up_no_other_tenant_for_long(
    work: Callable[[], None], others: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server == "before 17":
        monkeypatch.setattr(words, "_ENDS_TRANSACTIONS", 10**9)
    make.budget("10")
    make.budget("100", scope_type="platform")
    other = make.tenant("other")
    make.budget("10", tenant=other)
    by = make.caller(other)
    if work is not before_the_ledger_is_asked:
        ledger.reserve(make.reserving("0.01", by=by), now=timezone.now())
    act = {
        "reserve": lambda: ledger.reserve(make.reserving("0.01", by=by), now=timezone.now()),
        "report": lambda: report_of(by),
    }[others]
    assert answered_while_stopped_within_s(work, act) < SOON_S


def test_nor_does_one_behind_a_pooler_that_takes_no_options_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PgBouncer: before PostgreSQL 17 nothing but the ledger's own deadline then ends who idles."""
    monkeypatch.setattr(words, "_ENDS_TRANSACTIONS", 10**9)
    options = connections["default"].settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "options", options["options"].replace("=2s", "=0"))
    make.budget("100", scope_type="platform")
    ledger.reserve(make.reserving("0.01"), now=timezone.now())

    def act() -> None:
        ledger.reserve(make.reserving("0.01"), now=timezone.now())

    assert answered_while_stopped_within_s(with_windows_locked_for_an_act, act) < SOON_S


def test_each_way_into_the_ledgers_locks_has_its_deadlines() -> None:
    def shown() -> list[str]:
        return [words.select(f"SHOW {name}", [])[0][0] for name in words._of_deadlines()]

    budget = make.budget("10")
    caller = make.caller()
    # What is charged waits for no lock as long as an act does.
    soon = f"{round(1000 * locks.wait_s())}ms"
    ways: list[tuple[Callable[[], object], str]] = [
        (lambda: ledger.apply_within([make.reporting("0.01", by=caller)], now=timezone.now()), soon),
        (lambda: ledger.lock_windows(budget.pk), BRIEF.lock),
        (lambda: ledger.take_report_turn(budget.tenant_id), BRIEF.lock),  # type: ignore[arg-type]
    ]
    for way, lock in ways:
        with transaction.atomic():
            way()
            assert shown() == list((words._of_deadlines() | {"lock_timeout": lock}).values())
    with transaction.atomic(), ledger.patiently():
        ledger.lock_windows(budget.pk)
        assert words.select("SHOW lock_timeout", []) == [("1h",)]
