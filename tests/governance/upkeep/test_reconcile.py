"""Every invariant is really checked: break each by hand, behind the ledger's back, and see it named."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from decimal import Decimal

import pytest
import uuid_utils.compat as uuids
from django.db import connection
from django.test.utils import CaptureQueriesContext

from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.ledger.operations import Adjust, ChangeLimit, Reset
from governance.models import Budget, BudgetWindow, Reservation, SpendEntry
from governance.upkeep import reconcile
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db


@pytest.fixture
def spent():
    """A window with a settled call of $0.30 and a pending one of $0.20."""
    budget = make.budget("1.00")
    settled, pending = make.reserving("0.30"), make.reserving("0.20")
    ledger.apply([settled, pending], now=NOON)
    ledger.settle(make.settling(settled.reservation_id, "0.30"), now=NOON)
    assert reconcile.check() == []
    return budget


def run(statement, *params):
    with connection.cursor() as cursor:
        cursor.execute(statement, params)


def found():
    return [(drift.invariant, drift.expected, drift.actual) for drift in reconcile.check()]


def test_1_settled_is_the_sum_of_the_entries(spent):
    BudgetWindow.objects.update(settled_nanos=nanos("0.31"))
    assert found() == [(1, nanos("0.30"), nanos("0.31"))]


def test_1_entries_that_vanished_are_noticed(spent):
    SpendEntry.objects.all().delete()
    assert (1, 0, nanos("0.30")) in found()


def test_2_reserved_is_the_sum_of_the_pending_reservations(spent):
    BudgetWindow.objects.update(reserved_nanos=0)
    assert found() == [(2, nanos("0.20"), 0)]


def test_3_the_database_itself_refuses_negative_counters(spent):
    from django.db import IntegrityError, transaction

    for name in ("settled_nanos", "reserved_nanos"):
        with pytest.raises(IntegrityError), transaction.atomic():
            BudgetWindow.objects.update(**{name: -1})


def test_4_money_given_back_and_spent_again_is_no_drift(spent):
    charge = SpendEntry.objects.get()
    ledger.adjust(Adjust(uuids.uuid7(), charge.pk, -nanos("0.30"), "refund"), now=NOON)
    ledger.reserve(make.reserving("0.80"), now=NOON)
    assert found() == []


def test_4_a_cap_lowered_below_what_was_spent_is_no_drift(spent):
    lower = {"soft_cap": Decimal("0.1"), "hard_cap": Decimal("0.4")}
    budgets.change(budget=spent, changes=lower, by=Actor("ops"), now=NOON)
    assert found() == []


def test_4_a_cap_lowered_after_a_window_closed_is_no_drift(spent):
    ledger.reset(Reset(spent.pk, "again", "ops"), now=NOON + timedelta(hours=1))
    lower = {"soft_cap": Decimal("0.1"), "hard_cap": Decimal("0.4")}
    budgets.change(budget=spent, changes=lower, by=Actor("ops"), now=NOON + timedelta(hours=2))
    assert found() == []


def test_4_more_than_the_cap_is_noticed(spent):
    for rows in (Budget.objects, BudgetWindow.objects):
        rows.update(limit_nanos=nanos("0.49"))
    assert found() == [(4, nanos("0.49"), nanos("0.50"))]


def test_4_a_lowered_limit_an_overage_and_a_report_are_no_drift(spent):
    ledger.record(make.reporting("5.00"), now=NOON)
    assert found() == []
    [pending] = Reservation.objects.filter(status="pending")
    ledger.settle(make.settling(pending.id, "7.00"), now=NOON)
    assert found() == []
    ledger.change_limit(ChangeLimit(spent.id, nanos("0.01"), "less", "ada"), now=NOON)
    Budget.objects.update(limit_nanos=nanos("0.01"))
    assert found() == []


def test_5_a_settled_reservation_without_its_charge_is_noticed(spent):
    [pending] = Reservation.objects.filter(status="pending")
    Reservation.objects.filter(id=pending.id).update(status="settled", resolved_at=NOON)
    BudgetWindow.objects.update(reserved_nanos=0)
    [drift] = reconcile.check()
    assert (drift.invariant, drift.expected, drift.actual) == (5, 1, 0)
    assert (
        str(drift)
        == f"invariant 5: reservation {pending_name(pending.id)} (settled): charges is 0, expected 1, off by -1"
    )


def pending_name(id):
    return id if connection.vendor == "postgresql" else id.hex


def test_5_a_second_charge_is_refused_by_the_database(spent):
    from django.db import IntegrityError, transaction

    entry = SpendEntry.objects.get()
    entry.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        SpendEntry.objects.create(
            tenant=entry.tenant, reservation=entry.reservation, cost_nanos=1, occurred_at=NOON, recorded_at=NOON
        )


def test_6_rollups_are_the_sums_of_the_entries(spent):
    run("UPDATE governance_spendrollup SET cost_nanos = cost_nanos + 7")
    assert found() == [(6, nanos("0.30"), nanos("0.30") + 7)]
    run("DELETE FROM governance_spendrollup")
    # Its calls, tokens in and out, and cost.
    assert found() == [(6, 1, 0), (6, 100, 0), (6, 20, 0), (6, nanos("0.30"), 0)]


@pytest.mark.parametrize("since", [None, NOON - timedelta(days=40)])
def test_it_is_proved_where_statements_are_logged(spent, since):
    """As in a process with DEBUG, where Django puts the parameters into the text of each."""
    with CaptureQueriesContext(connection) as logged:
        assert reconcile.run(now=NOON, since=since) == []
    assert len(logged) >= reconcile.INVARIANTS


def test_closed_windows_are_checked_as_well(spent):
    ledger.reset(Reset(spent.id, "a test", "ada"), now=NOON)
    BudgetWindow.objects.filter(closed_at__isnull=False).update(settled_nanos=0)
    assert found() == [(1, nanos("0.30"), 0)]


def test_a_drift_reads_as_a_sentence(spent):
    BudgetWindow.objects.update(settled_nanos=nanos("0.31"))
    [drift] = reconcile.check()
    window = BudgetWindow.objects.get()
    name = f"window {window.id} of budget {spent.id} (acme)"
    assert str(drift) == f"invariant 1: {name}: settled is $0.31, expected $0.30, off by $0.01"


@pytest.mark.sqlite_only
@pytest.mark.django_db(transaction=True)
def test_the_check_neither_waits_for_a_writer_nor_keeps_one_waiting(spent):
    # Asks for no write lock: the writer would have to give its own up first.
    with closing(sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE governance_budgetwindow SET settled_nanos = 0")
        connection.cursor().execute("PRAGMA busy_timeout = 100")
        assert found() == []
        writer.execute("ROLLBACK")
    connection.close()
