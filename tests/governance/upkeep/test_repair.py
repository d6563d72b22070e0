"""Each figure is broken by hand, in SQL, because nothing of the product can break it; found, printed, and repaired."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.db import IntegrityError, connection, transaction

from governance import ledger
from governance.audit import Actor
from governance.ledger.operations import Adjust
from governance.models import AuditEntry, BudgetEvent, BudgetWindow, LedgerCheck, Reservation, SpendEntry, SpendRollup
from governance.upkeep import reconcile
from tests import factories as make

pytestmark = pytest.mark.django_db

ADA = Actor("ada")
LATER = make.NOON + timedelta(minutes=5)


def sql(statement: str, *params: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)


@pytest.fixture
def window() -> BudgetWindow:
    """$0.30 settled (one call of $0.25 and one of $0.05), $0.10 held, of $1."""
    make.budget("1.00")
    by = make.caller(agent="invoices")
    for cost in ("0.25", "0.05"):
        held = make.reserving(cost, by=by)
        ledger.reserve(held, now=make.NOON)
        ledger.settle(make.settling(held.reservation_id, cost), now=make.NOON)
    ledger.reserve(make.reserving("0.10", by=by), now=make.NOON)
    assert reconcile.check() == []
    return BudgetWindow.objects.get()


def found() -> list[str]:
    return [str(drift) for drift in reconcile.check()]


def repaired_to_nothing() -> list[reconcile.Drift]:
    repaired = reconcile.repair(by=ADA, now=LATER)
    assert reconcile.check() == []
    return repaired


def test_a_window_that_settled_other_than_its_entries_is_found_and_set_right(window: BudgetWindow) -> None:
    sql("UPDATE governance_budgetwindow SET settled_nanos = settled_nanos + 1")
    assert found() == [
        f"invariant 1: window {window.id} of budget {window.budget_id} (acme): settled is $0.300000001,"
        " expected $0.30, off by $0.000000001"
    ]
    repaired_to_nothing()
    window.refresh_from_db()
    assert window.settled_nanos == make.nanos("0.30")


def test_the_state_follows_what_is_repaired(window: BudgetWindow) -> None:
    sql("UPDATE governance_budgetwindow SET settled_nanos = 0")
    sql("DELETE FROM governance_budgetevent")
    Reservation.objects.filter(status="pending").update(amount_nanos=0)
    SpendEntry.objects.filter(cost_nanos=make.nanos("0.05")).delete()
    sql(
        'INSERT INTO governance_spendentry (id, tenant_id, agent, "user", session, task, provider, model_requested,'
        " model_served, windows, kind, request_id, input_tokens, cached_tokens, output_tokens, unit, units, price_rule,"
        " cost_nanos, overage_nanos, certainty, reason, occurred_at, recorded_at, metadata)"
        ' SELECT %s, tenant_id, agent, "user", session, task, provider, model_requested, model_served, windows, kind,'
        " 'other', 0, 0, 0, unit, units, price_rule, %s, 0, certainty, reason, occurred_at, recorded_at, metadata"
        " FROM governance_spendentry",
        uuids.uuid7().hex,
        make.nanos("0.70"),
    )
    reconcile.repair(by=ADA, now=LATER)
    window.refresh_from_db()
    assert (window.settled_nanos, window.state) == (make.nanos("0.95"), "warned")
    event = BudgetEvent.objects.get(kind="state-change")
    assert (event.new_state, event.actor, event.reason) == ("warned", "ada", "the ledger was repaired")


def test_a_window_that_holds_other_than_its_reservations_is_found_and_set_right(window: BudgetWindow) -> None:
    sql("UPDATE governance_budgetwindow SET reserved_nanos = 7")
    assert found() == [
        f"invariant 2: window {window.id} of budget {window.budget_id} (acme): reserved is $0.000000007,"
        " expected $0.10, off by $-0.099999993"
    ]
    repaired_to_nothing()
    window.refresh_from_db()
    assert window.reserved_nanos == make.nanos("0.10")


def test_the_database_itself_refuses_a_figure_below_zero(window: BudgetWindow) -> None:
    for column in ("settled_nanos", "reserved_nanos"):
        with pytest.raises(IntegrityError), transaction.atomic():
            sql(f"UPDATE governance_budgetwindow SET {column} = -1")


def test_more_admitted_than_the_cap_is_found_and_never_papered_over(window: BudgetWindow) -> None:
    for table in ("budget", "budgetwindow"):
        sql(f"UPDATE governance_{table} SET limit_nanos = %s", make.nanos("0.40") - 1)
    assert found() == [
        f"invariant 4: window {window.id} of budget {window.budget_id} (acme): committed is $0.40,"
        " expected at most $0.399999999, off by $0.000000001"
    ]
    assert reconcile.repair(by=ADA, now=LATER) == []
    assert len(reconcile.check()) == 1


def test_a_limit_that_was_lowered_is_no_drift(window: BudgetWindow) -> None:
    sql("UPDATE governance_budget SET limit_nanos = 1")
    sql("UPDATE governance_budgetwindow SET limit_nanos = 1, limit_lowered = true, state = 'stopped'")
    assert found() == []


def test_an_allowance_that_nobody_granted_does_not_excuse_what_was_admitted(window: BudgetWindow) -> None:
    sql("UPDATE governance_budget SET limit_nanos = %s", make.nanos("0.30"))
    sql("UPDATE governance_budgetwindow SET limit_nanos = %s, extra_nanos = %s", make.nanos("0.50"), make.nanos("0.20"))
    assert [(drift.figure, drift.expected) for drift in reconcile.check()] == [
        ("committed_nanos", make.nanos("0.30")),
        ("extra_nanos", 0),
    ]
    sql(
        "INSERT INTO governance_allowance (budget_id, window_id, amount_nanos, starts_at, reason, actor, created_at)"
        " SELECT budget_id, id, %s, opened_at, 'a big day', 'ada', opened_at FROM governance_budgetwindow",
        make.nanos("0.20"),
    )
    assert found() == []


def test_money_that_was_given_back_by_a_correction_may_be_spent_again() -> None:
    make.budget("1.00")
    for _ in range(3):
        held = make.reserving("0.90")
        assert ledger.reserve(held, now=make.NOON).allowed
        entry = ledger.settle(make.settling(held.reservation_id, "0.90"), now=make.NOON).entry_id
        ledger.adjust(Adjust(uuids.uuid7(), entry, -make.nanos("0.90"), "voided", kind="reversal"), now=LATER)
    assert ledger.reserve(make.reserving("0.90"), now=LATER).allowed
    assert found() == []


def test_a_settled_reservation_without_its_charge_is_found() -> None:
    make.budget("1.00")
    held = make.reserving("0.10")
    ledger.reserve(held, now=make.NOON)
    sql("UPDATE governance_reservation SET status = 'settled', resolved_at = reserved_at")
    assert [(d.invariant, d.figure, d.expected, d.actual) for d in reconcile.check() if d.invariant == 5] == [
        (5, "charges", 1, 0)
    ]


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        ("cost_nanos", "cost is $0.300000001, expected $0.30, off by $0.000000001"),
        ("calls", "calls is 3, expected 2, off by 1"),
        ("input_tokens", "input tokens is 201, expected 200, off by 1"),
        ("cached_tokens", "cached tokens is 1, expected 0, off by 1"),
        ("output_tokens", "output tokens is 41, expected 40, off by 1"),
    ],
)
def test_each_figure_of_a_rollup_is_proved_and_set_right(window: BudgetWindow, figure: str, shown: str) -> None:
    sql(f"UPDATE governance_spendrollup SET {figure} = {figure} + 1")
    assert found() == [f"invariant 6: rollup of acme invoices mistral large at 2026-03-10 12h: {shown}"]
    repaired_to_nothing()


def test_spend_in_the_wrong_hour_is_drift_in_both(window: BudgetWindow) -> None:
    right = SpendRollup.objects.get()
    SpendRollup.objects.update(hour=right.hour - timedelta(hours=1))
    assert len(reconcile.check()) == 8
    repaired_to_nothing()
    mended = SpendRollup.objects.get()
    assert (mended.hour, mended.cost_nanos, mended.calls) == (right.hour, right.cost_nanos, right.calls)


def test_every_repaired_figure_leaves_its_audit_row(window: BudgetWindow) -> None:
    sql("UPDATE governance_budgetwindow SET settled_nanos = 5, reserved_nanos = 6")
    sql("UPDATE governance_spendrollup SET cost_nanos = 7")
    assert len(repaired_to_nothing()) == 3
    rows = AuditEntry.objects.filter(action="ledger.repair").order_by("id")
    assert [(row.actor, row.old, row.new) for row in rows] == [
        ("ada", {"settled_nanos": 5}, {"settled_nanos": make.nanos("0.30")}),
        ("ada", {"reserved_nanos": 6}, {"reserved_nanos": make.nanos("0.10")}),
        ("ada", {"cost_nanos": 7}, {"cost_nanos": make.nanos("0.30")}),
    ]


def test_repairing_a_ledger_that_holds_changes_nothing(window: BudgetWindow) -> None:
    assert reconcile.repair(by=ADA, now=LATER) == []
    assert not AuditEntry.objects.filter(action="ledger.repair").exists()


def test_a_run_leaves_a_row_of_what_it_found(window: BudgetWindow) -> None:
    told: list[str] = []
    reconcile.run(now=make.NOON, report=told.append)
    sql("UPDATE governance_budgetwindow SET settled_nanos = 5")
    reconcile.run(now=LATER)
    last, first = LedgerCheck.objects.all()
    assert (first.checked_at, first.drifts, first.details) == (make.NOON, 0, [])
    assert last.drifts == 1
    assert "settled is $0.000000005" in last.details[0]
    assert told[0] == "invariant 1 of 7: no drift"


@pytest.mark.django_db(transaction=True)
def test_a_check_holds_nobody_up() -> None:
    """Between two statements of a check, a call is settled; the check still sees one moment."""
    make.budget("1.00")
    told: list[str] = []

    def spend() -> None:
        ledger.record(make.reporting("0.10", by=by), now=make.NOON)
        connection.close()

    def spend_meanwhile(line: str) -> None:
        told.append(line)
        thread = threading.Thread(target=spend)
        thread.start()
        thread.join(timeout=20)
        assert not thread.is_alive(), "the check blocks calls"

    by = make.caller()
    assert reconcile.check(report=spend_meanwhile) == []
    assert SpendEntry.objects.count() == len(told) == 7


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_a_repair_loses_nothing_of_calls_that_settle_meanwhile() -> None:
    make.budget("100.00")
    by = make.caller()
    stop = threading.Event()

    def spend() -> None:
        while not stop.is_set():
            ledger.record(make.reporting("0.01", by=by), now=make.NOON)
        connection.close()

    ledger.record(make.reporting("0.01", by=by), now=make.NOON)
    threads = [threading.Thread(target=spend) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        sql("UPDATE governance_budgetwindow SET settled_nanos = settled_nanos + 5")
        sql("UPDATE governance_spendrollup SET cost_nanos = cost_nanos + 5")
        assert len(reconcile.repair(by=ADA, now=LATER)) == 2
    stop.set()
    for thread in threads:
        thread.join()
    assert reconcile.check() == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_two_repairs_at_once_mend_once(monkeypatch: Any) -> None:
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=make.NOON)
    sql("DELETE FROM governance_spendrollup")
    mend = reconcile.upkeep.mend_rollups
    threads: list[threading.Thread] = []

    def repair_too() -> None:
        reconcile.repair(by=Actor("bob"), now=LATER)
        connection.close()

    def mend_while_another_repairs(drifted: Any) -> None:
        monkeypatch.setattr(reconcile.upkeep, "mend_rollups", mend)
        threads.append(threading.Thread(target=repair_too))
        threads[0].start()
        threads[0].join(timeout=0.5)
        mend(drifted)

    monkeypatch.setattr(reconcile.upkeep, "mend_rollups", mend_while_another_repairs)
    assert len(reconcile.repair(by=ADA, now=LATER)) == 4
    threads[0].join()
    assert reconcile.check() == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_what_is_spent_between_counting_and_mending_a_rollup_is_kept(monkeypatch: Any) -> None:
    by = make.caller()
    ledger.record(make.reporting("0.10", by=by), now=make.NOON)
    sql("UPDATE governance_spendrollup SET cost_nanos = cost_nanos + 5")
    mend = reconcile.upkeep.mend_rollups

    def spend() -> None:
        ledger.record(make.reporting("0.20", by=by), now=make.NOON)
        connection.close()

    def mend_after_spending(drifted: Any) -> None:
        thread = threading.Thread(target=spend)
        thread.start()
        thread.join()
        mend(drifted)

    monkeypatch.setattr(reconcile.upkeep, "mend_rollups", mend_after_spending)
    reconcile.repair(by=ADA, now=LATER)
    assert reconcile.check() == []
    assert SpendRollup.objects.get().cost_nanos == make.nanos("0.30")
