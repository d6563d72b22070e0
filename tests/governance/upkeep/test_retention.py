"""What a purge deletes, what it leaves, and that the ledger's proof survives it."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from django.db import connection
from django.db.models import F

from governance import ledger
from governance.audit import Actor
from governance.ledger.operations import Adjust, Release
from governance.models import AuditEntry, BudgetWindow, PurgedSpend, Reservation, SpendEntry, SpendRollup
from governance.queries import spend
from governance.rules.errors import FieldError
from governance.upkeep import reconcile, retention
from tests import factories as make

pytestmark = pytest.mark.django_db

ADA = Actor("ada")
DAY = timedelta(days=1)
NOW = make.NOON + 100 * DAY


def call(cost: str = "0.10", *, at: datetime = make.NOON, **fields: Any) -> UUID:
    """Reserve and settle; the entry's id."""
    held = make.reserving(cost, **fields)
    assert ledger.reserve(held, now=at).allowed
    return ledger.settle(make.settling(held.reservation_id, cost), now=at).entry_id


def adjust(entry: UUID, cost: str, *, at: datetime) -> UUID:
    id: UUID = uuids.uuid7()
    ledger.adjust(Adjust(id, entry, make.nanos(cost), "a credit"), now=at)
    return id


def purge(before: datetime = make.NOON + DAY, **options: Any) -> retention.Purged:
    done = retention.purge(before=before, now=NOW, by=ADA, **options)
    assert reconcile.check() == []
    return done


def test_old_calls_go_with_their_reservations_and_the_sums_stay() -> None:
    make.budget("9.00", window="lifetime")
    for hour in range(3):
        call("0.10", at=make.NOON + timedelta(hours=hour))
    young = call("0.20", at=make.NOON + 50 * DAY)
    before = spend.summary(group_by=["model"])
    done = purge()
    assert (done.entries, done.reservations, done.cost_nanos) == (3, 3, make.nanos("0.30"))
    assert [entry.id for entry in SpendEntry.objects.all()] == [young]
    assert Reservation.objects.count() == 1
    assert spend.summary(group_by=["model"]) == before
    window = BudgetWindow.objects.get()
    assert (window.settled_nanos, window.purged_nanos) == (make.nanos("0.50"), make.nanos("0.30"))


def test_the_dry_run_says_what_a_purge_then_does() -> None:
    make.budget("9.00", window="lifetime")
    entries = [call(at=make.NOON + timedelta(minutes=20 * n)) for n in range(7)]
    adjust(entries[0], "-0.01", at=make.NOON + 60 * DAY)
    release_one(at=make.NOON)
    looked = retention.look(before=make.NOON + DAY, now=NOW, batch=2)
    assert SpendEntry.objects.count() == 8
    assert looked == purge(batch=2)
    assert (looked.entries, looked.reservations, looked.kept) == (6, 7, 2)


def release_one(*, at: datetime) -> None:
    held = make.reserving("0.10")
    ledger.reserve(held, now=at)
    ledger.release(Release(held.reservation_id), now=at)


def test_an_entry_stays_until_its_last_correction_is_old() -> None:
    make.budget("9.00", window="lifetime")
    entry = call("0.10")
    first = adjust(entry, "-0.04", at=make.NOON + 10 * DAY)
    adjust(first, "0.01", at=make.NOON + 20 * DAY)
    assert purge(make.NOON + 5 * DAY).kept == 3
    assert purge(make.NOON + 15 * DAY).entries == 0
    assert SpendEntry.objects.count() == 3
    assert purge(make.NOON + 21 * DAY).entries == 3
    assert not SpendEntry.objects.exists()
    assert BudgetWindow.objects.get().purged_nanos == make.nanos("0.07")


def test_a_late_settle_goes_with_the_reservation_that_expired() -> None:
    make.budget("9.00", window="lifetime")
    held = make.reserving("0.50")
    ledger.reserve(held, now=make.NOON)
    ledger.expire_due(now=make.NOON + timedelta(hours=1))
    ledger.settle(make.settling(held.reservation_id, "0.10"), now=make.NOON + timedelta(hours=2))
    done = purge()
    assert (done.entries, done.reservations, done.cost_nanos) == (2, 1, make.nanos("0.10"))


def test_a_report_of_an_old_call_that_came_late_stays_until_it_is_old_itself() -> None:
    ledger.record(make.reporting(occurred_at=make.NOON), now=make.NOON + 10 * DAY)
    assert purge(make.NOON + 5 * DAY).entries == 0
    assert purge(make.NOON + 11 * DAY).entries == 1


def test_an_hour_that_was_purged_can_be_spent_in_and_purged_again() -> None:
    make.budget("9.00", window="lifetime")
    call("0.10")
    purge()
    ledger.record(make.reporting("0.30", occurred_at=make.NOON), now=make.NOON + 10 * DAY)
    assert reconcile.check() == []
    purge(make.NOON + 11 * DAY)
    assert sum(row.cost_nanos for row in PurgedSpend.objects.all()) == make.nanos("0.40")


def test_calls_in_flight_and_young_releases_stay() -> None:
    make.budget("9.00", window="lifetime")
    ledger.reserve(make.reserving("0.10"), now=make.NOON)
    release_one(at=make.NOON + 50 * DAY)
    release_one(at=make.NOON)
    assert purge().reservations == 1
    assert sorted(row.status for row in Reservation.objects.all()) == ["pending", "released"]


def test_the_hour_of_the_moment_itself_is_not_touched() -> None:
    call(at=make.NOON + timedelta(minutes=1))
    assert purge(make.NOON + timedelta(minutes=59)).entries == 0
    assert purge(make.NOON + timedelta(minutes=60)).entries == 1


def test_what_cost_more_than_it_held_is_no_drift_once_it_is_purged() -> None:
    make.budget("1.00", window="lifetime")
    held = make.reserving("0.10")
    ledger.reserve(held, now=make.NOON)
    ledger.settle(make.settling(held.reservation_id, "1.50"), now=make.NOON)
    ledger.record(make.reporting("2.00"), now=make.NOON)
    purge()
    assert BudgetWindow.objects.get().purged_unheld_nanos == make.nanos("3.40")


@pytest.mark.parametrize("figure", ["cost_nanos", "calls", "output_tokens"])
def test_an_hour_that_its_rollup_does_not_prove_stops_the_purge_before_anything_goes(figure: str) -> None:
    call(at=make.NOON - DAY)
    call()
    SpendRollup.objects.filter(hour=make.NOON).update(**{figure: F(figure) + 1})
    with pytest.raises(retention.Unproven) as refused:
        retention.purge(before=make.NOON + DAY, now=NOW, by=ADA, batch=1)
    assert [(drift.figure, drift.actual - drift.expected) for drift in refused.value.drifts] == [(figure, 1)]
    assert SpendEntry.objects.count() == 2
    # The hour before it is whole.
    assert retention.purge(before=make.NOON - timedelta(hours=1), now=NOW, by=ADA).entries == 1


def test_an_hour_that_drifts_while_the_purge_runs_stops_it_there() -> None:
    for hour in range(3):
        call(at=make.NOON + timedelta(hours=hour))

    def corrupt(line: str) -> None:
        SpendRollup.objects.filter(hour__gt=make.NOON).update(calls=9)

    with pytest.raises(retention.Unproven):
        retention.purge(before=make.NOON + DAY, now=NOW, by=ADA, batch=1, report=corrupt)
    assert SpendEntry.objects.count() == 2


def test_drift_in_purged_hours_is_still_found() -> None:
    make.budget("9.00", window="lifetime")
    call()
    purge()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE governance_spendrollup SET cost_nanos = cost_nanos - 1")
        cursor.execute("UPDATE governance_budgetwindow SET settled_nanos = settled_nanos + 1")
    assert [(drift.invariant, drift.actual - drift.expected) for drift in reconcile.check()] == [(1, 1), (6, -1)]
    reconcile.repair(by=ADA, now=NOW)
    assert reconcile.check() == []


def test_a_purge_that_ended_half_way_is_taken_up_again() -> None:
    make.budget("9.00", window="lifetime")
    for minute in range(5):
        call(at=make.NOON + timedelta(minutes=minute))

    class Ended(Exception):
        pass

    def end(line: str) -> None:
        raise Ended

    with pytest.raises(Ended):
        retention.purge(before=make.NOON + DAY, now=NOW, by=ADA, batch=2, report=end)
    assert reconcile.check() == []
    assert SpendEntry.objects.count() == 3
    assert purge(batch=2).entries == 3


def test_each_batch_leaves_an_audit_row() -> None:
    for _ in range(3):
        call()
    purge(batch=2)
    rows = AuditEntry.objects.filter(action="spend.purge").order_by("id")
    assert [(row.actor, row.old) for row in rows] == [
        ("ada", {"entries": 2, "reservations": 2, "cost_nanos": make.nanos("0.20")}),
        ("ada", {"entries": 1, "reservations": 1, "cost_nanos": make.nanos("0.10")}),
    ]


@pytest.mark.parametrize(
    ("options", "field"), [({"before": NOW - timedelta(hours=23)}, "before"), ({"batch": 0}, "batch")]
)
def test_a_purge_that_could_lose_something_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as refused:
        retention.purge(**({"before": make.NOON, "now": NOW, "by": ADA} | options))
    assert refused.value.field == field


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_a_purge_beside_running_calls_and_corrections_loses_nothing() -> None:
    make.budget("900.00", window="lifetime")
    by = make.caller()
    old = [ledger.record(make.reporting("0.01", by=by), now=make.NOON).entry_id for _ in range(60)]
    refused: list[Exception] = []

    def spend_on() -> None:
        for entry in old:
            ledger.record(make.reporting("0.01", by=by), now=NOW)
            try:
                ledger.adjust(Adjust(uuids.uuid7(), entry, 1, "late"), now=NOW)
            except ledger.ReservationUnknown as error:
                refused.append(error)
        connection.close()

    thread = threading.Thread(target=spend_on)
    thread.start()
    done = retention.purge(before=make.NOON + DAY, now=NOW, by=ADA, batch=3)
    thread.join()
    assert reconcile.check() == []
    # Corrected first, and kept; or purged first, and not to be corrected any more.
    assert done.entries == len(refused)
    assert SpendEntry.objects.count() == 60 + 2 * (60 - len(refused))
    assert BudgetWindow.objects.get().purged_nanos == done.cost_nanos


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_a_correction_that_slips_in_makes_the_batch_look_again(monkeypatch: Any) -> None:
    make.budget("9.00", window="lifetime")
    entries = [ledger.record(make.reporting("0.10"), now=make.NOON).entry_id for _ in range(2)]
    delete = retention.sql_retention.delete_entries

    def correct() -> None:
        adjust(entries[0], "-0.01", at=NOW)
        connection.close()

    def delete_after_a_correction(ids: Any) -> int:
        monkeypatch.setattr(retention.sql_retention, "delete_entries", delete)
        thread = threading.Thread(target=correct)
        thread.start()
        thread.join()
        return delete(ids)

    monkeypatch.setattr(retention.sql_retention, "delete_entries", delete_after_a_correction)
    done = purge()
    assert (done.entries, done.kept) == (1, 2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_calls_do_not_wait_for_the_deleting(monkeypatch: Any) -> None:
    make.budget("9.00", window="lifetime")
    by = make.caller()
    ledger.record(make.reporting("0.10", by=by), now=make.NOON)
    check = retention.sql_retention.check_references
    spent: list[bool] = []

    def spend_on() -> None:
        spent.append(ledger.record(make.reporting("0.20", by=by), now=NOW).duplicate)
        connection.close()

    def check_while_a_call_is_made() -> None:
        thread = threading.Thread(target=spend_on)
        thread.start()
        thread.join(timeout=20)
        check()

    monkeypatch.setattr(retention.sql_retention, "check_references", check_while_a_call_is_made)
    assert purge().entries == 1
    assert spent == [False]


@pytest.mark.postgres_only
def test_no_statement_of_a_batch_reads_a_whole_table() -> None:
    """With little data PostgreSQL prefers to; without that preference it must be able to do otherwise."""
    statements = [
        "SELECT id FROM governance_spendentry WHERE occurred_at >= now() ORDER BY occurred_at, id LIMIT 5",
        "SELECT 1 FROM governance_spendentry WHERE reservation_id = gen_random_uuid()",
        "SELECT 1 FROM governance_spendentry WHERE corrects_id = gen_random_uuid()",
        "SELECT id FROM governance_reservation WHERE status = 'released' AND resolved_at < now() ORDER BY resolved_at",
        "SELECT count(*) FROM governance_reservation WHERE status = 'expired'",
        "SELECT count(*) FROM governance_spendentry WHERE overage_nanos > 0",
        "SELECT count(*) FROM governance_reservation WHERE status = 'pending'",
        "SELECT count(*) FROM governance_purgedspend WHERE hour >= now()",
    ]
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        for statement in statements:
            cursor.execute(f"EXPLAIN {statement}")
            plan = "\n".join(row[0] for row in cursor.fetchall())
            assert "Seq Scan" not in plan, plan
