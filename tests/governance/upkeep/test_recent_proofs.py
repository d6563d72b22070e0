"""Each hour what is recent is proved, and each day all there is: the proof of a large ledger takes minutes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection

from governance import ledger
from governance.models import BudgetWindow, LedgerCheck, SpendEntry
from governance.upkeep import reconcile
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
LATER = NOON + reconcile.RECENT + 2 * DAY


def checked() -> list[tuple[bool, int]]:
    """(whether it was of all there is, drifts) of each check, from the first on."""
    return [(check.since is None, check.drifts) for check in LedgerCheck.objects.order_by("id")]


def test_what_is_older_is_left_to_the_proof_of_all() -> None:
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON)
    BudgetWindow.objects.update(settled_nanos=nanos("0.20"))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE governance_spendrollup SET calls = 7")
    assert [drift.invariant for drift in reconcile.check(since=NOON)] == [1, 6]
    assert reconcile.check(since=NOON + HOUR) == []
    assert [drift.invariant for drift in reconcile.check()] == [1, 6]


def test_an_entry_of_a_machine_whose_clock_is_behind_is_one_of_its_window() -> None:
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON)
    entry = SpendEntry.objects.get()
    SpendEntry.objects.all().delete()
    entry.recorded_at = NOON - HOUR
    entry.save(force_insert=True)
    assert reconcile.check(since=NOON) == []


def test_all_there_is_comes_first_and_then_once_a_day() -> None:
    for hour in range(26):
        assert reconcile.run_due(now=NOON + hour * HOUR) == []
    assert [hour for hour, (is_whole, _) in enumerate(checked()) if is_whole] == [0, 25]
    assert len(checked()) == 27


def test_until_what_is_older_is_mended_each_check_is_of_all() -> None:
    make.budget("1.00")
    ledger.record(make.reporting("0.10"), now=NOON)
    reconcile.run_due(now=LATER)
    BudgetWindow.objects.update(settled_nanos=1)
    for at in (LATER + HOUR, LATER + DAY, LATER + DAY + HOUR):
        reconcile.run_due(now=at)
    assert checked() == [(True, 0), (False, 0), (False, 0), (True, 1), (True, 1)]
    BudgetWindow.objects.update(settled_nanos=nanos("0.10"))
    for at in (LATER + DAY + 2 * HOUR, LATER + DAY + 3 * HOUR):
        assert reconcile.run_due(now=at) == []
    assert checked()[-2:] == [(True, 0), (False, 0)]


@pytest.mark.postgres_only
def test_rows_are_looked_up_by_when_they_were_written() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%USING brin%'")
        assert {name for (name,) in cursor.fetchall()} == {"entry_by_writing", "reservation_by_writing"}
