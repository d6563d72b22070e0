"""Beat's jobs do what the ledger does, with the clock's time."""

from datetime import timedelta

import pytest
import time_machine

from governance import ledger, tasks
from governance.actions import budgets, report_subscriptions
from governance.audit import Actor
from governance.ledger import acts
from governance.models import BudgetWindow, ReportMail, SpendEntry
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db


def test_calls_that_died_are_charged_once_their_time_is_over():
    make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    with time_machine.travel(NOON + timedelta(minutes=14), tick=False):
        assert tasks.expire_reservations() == 0
    with time_machine.travel(NOON + timedelta(minutes=15), tick=False):
        assert tasks.expire_reservations() == 1
        assert tasks.expire_reservations() == 0
    assert SpendEntry.objects.get().cost_nanos == nanos("0.10")


def test_more_dead_calls_than_one_go_are_all_charged():
    make.budget("100.00")
    ledger.apply([make.reserving("0.01") for _ in range(7)], now=NOON)
    assert ledger.expire_due(now=NOON + timedelta(hours=1), limit=3) == 7
    assert BudgetWindow.objects.get().reserved_nanos == 0


def test_windows_roll_over_for_the_dashboards():
    make.budget("1.00")
    make.budget("1.00", scope_type="user", scope_key="*")
    make.budget("1.00", window="billing_cycle")
    with time_machine.travel(NOON, tick=False):
        assert tasks.roll_windows() == 1
        assert tasks.roll_windows() == 0
    with time_machine.travel(NOON + timedelta(days=1), tick=False):
        assert tasks.roll_windows() == 2
    assert BudgetWindow.objects.filter(closed_at=None).count() == 1


def test_windows_follow_what_was_done_to_their_budget(monkeypatch):
    monkeypatch.setattr(acts, "MOST_AT_ONCE", 1)
    budget = make.budget("1.00", scope_type="user", scope_key="*")
    for user in ("ann", "bob"):
        ledger.reserve(make.reserving("0.10", by=make.caller(user=user)), now=NOON)
    budgets.change(budget=budget, changes={"limit_nanos": nanos("2")}, by=Actor("ada"), now=NOON)
    assert {window.limit_nanos for window in BudgetWindow.objects.all()} == {nanos("1")}
    assert tasks.follow_acts() == 1
    assert {window.limit_nanos for window in BudgetWindow.objects.all()} == {nanos("2")}
    assert tasks.follow_acts() == 0


def test_drift_is_counted_and_logged(caplog):
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON)
    with time_machine.travel(NOON, tick=False):
        assert tasks.reconcile_ledger() == 0
        BudgetWindow.objects.update(settled_nanos=1)
        assert tasks.reconcile_ledger() == 1
    assert "the ledger has drifted: invariant 1" in caplog.text


def test_reports_that_are_due_are_put_into_their_outbox_and_tried():
    report_subscriptions.subscribe(
        tenant=None, address="owner@example.com", cadence="weekly", by=Actor("ada"), now=NOON - timedelta(days=7)
    )
    with time_machine.travel(NOON, tick=False):
        assert tasks.send_reports() == 0
    assert ReportMail.objects.get().error == "EMAIL_URL is not set, so no e-mail can be sent."
