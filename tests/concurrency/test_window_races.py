"""Two transactions that meet at one budget's windows: whoever comes second sees what the first one did."""

import threading
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction

from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.ledger.operations import ChangeLimit, OpenPeriod, Reset
from governance.models import BudgetWindow
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = pytest.mark.postgres_only

LATER = NOON + timedelta(minutes=1)


def wait_until_someone_waits():
    deadline = time.monotonic() + 10
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            if cursor.fetchone()[0]:
                return
            time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


def started(work):
    """`work` in a thread of its own, and the list that its failure goes into."""
    failures = []

    def run():
        try:
            work()
        except Exception as error:
            failures.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return failures, thread


def meanwhile(first, second):
    """Run `second` in another thread while the transaction of `first` is open."""
    with transaction.atomic():
        first()
        failures, thread = started(second)
        wait_until_someone_waits()
    thread.join(20)
    assert not failures, failures


@contextmanager
def opening(ended, *, at):
    """A call's transaction that has locked a window whose time is over, and opens the next one when this ends."""
    with transaction.atomic():
        BudgetWindow.objects.select_for_update().get(pk=ended.pk)
        yield
        ledger.apply_within([make.reserving("0.10")], now=at)


def test_a_limit_changed_during_a_reset_reaches_the_new_window():
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    meanwhile(
        lambda: ledger.apply_within([Reset(budget.pk, "again", "ops")], now=LATER),
        lambda: ledger.change_limit(ChangeLimit(budget.pk, nanos("0.20"), "less", "ops"), now=LATER),
    )
    assert BudgetWindow.objects.get(closed_at=None).limit_nanos == nanos("0.20")


def test_a_paid_period_that_begins_during_a_reset_opens_its_window():
    budget = make.budget("1.00", window="billing_cycle")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    paid = OpenPeriod(
        budget.pk, NOON, NOON + timedelta(days=30), nanos("5.00"), "stripe", "cus_1", reason="renewed", actor="stripe"
    )
    meanwhile(
        lambda: ledger.apply_within([Reset(budget.pk, "again", "ops")], now=LATER),
        lambda: ledger.open_period(paid, now=LATER),
    )
    window = BudgetWindow.objects.get(closed_at=None)
    assert (window.limit_nanos, window.source_id) == (nanos("5.00"), "cus_1")


def test_a_threshold_crossed_while_the_budget_is_changed_is_no_deadlock():
    budget = make.budget("1.00")
    op = make.reserving("0.60")
    ledger.reserve(op, now=NOON)
    meanwhile(
        lambda: ledger.apply_within([make.settling(op.reservation_id, "0.60")], now=LATER),
        lambda: budgets.change(budget=budget, changes={"limit_nanos": nanos("2.00")}, by=Actor("ops"), now=LATER),
    )
    assert BudgetWindow.objects.get().limit_nanos == nanos("2.00")


def test_a_window_that_opens_while_the_budget_is_changed_is_no_deadlock():
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    tomorrow = NOON + timedelta(days=1)
    changes = {"limit_nanos": nanos("2.00")}
    with opening(BudgetWindow.objects.get(), at=tomorrow):
        failures, thread = started(
            lambda: budgets.change(budget=budget, changes=changes, by=Actor("ops"), now=tomorrow)
        )
        wait_until_someone_waits()
    thread.join(20)
    assert not failures, failures
    assert BudgetWindow.objects.get(closed_at=None).limit_nanos == nanos("2.00")
