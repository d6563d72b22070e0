from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models import Sum

from governance import ledger
from governance.ledger.operations import Adjust
from governance.models import Budget, SpendEntry
from governance.queries import budget_status, spend
from governance.queries.spend import Reader, TimeRange
from tests import factories
from tests.factories import NOON

pytestmark = pytest.mark.usefixtures("ledger_holds")


def entry(cost: str, *, at: datetime = NOON, **caller: Any) -> Any:
    owner = caller.pop("owner", None)
    operation = factories.reporting(cost, by=factories.caller(owner, **caller), occurred_at=at)
    return ledger.record(operation, now=max(at, NOON))


def test_a_summary_adds_up_to_the_entries_corrections_included() -> None:
    made = entry("1.00")
    entry("0.25")
    correction = factories.reporting().entry_id
    ledger.adjust(Adjust(correction, made.entry_id, -factories.nanos("0.40"), reason="repriced"), now=NOON)
    [row] = spend.summary(group_by=["tenant"])
    assert row["cost_nanos"] == factories.nanos("0.85")
    assert row["cost_nanos"] == SpendEntry.objects.aggregate(sum=Sum("cost_nanos"))["sum"]


def test_a_period_is_half_open_on_the_hour() -> None:
    entry("1", at=NOON - timedelta(hours=1))
    entry("2", at=NOON + timedelta(minutes=59))
    entry("4", at=NOON + timedelta(hours=1))
    nanos, calls = spend.total(period=TimeRange(NOON, NOON + timedelta(hours=1)))
    assert (nanos, calls) == (factories.nanos("2"), 1)


def test_a_reader_counts_its_own_alone() -> None:
    globex = factories.tenant("globex")
    entry("1", agent="a")
    entry("2", agent="b")
    entry("4", agent="a", owner=globex)
    acme = factories.tenant()

    def total(reader: Reader) -> int:
        return spend.total(reader=reader, period=TimeRange())[0] // 10**9

    assert [total(r) for r in (Reader(), Reader(acme), Reader(acme, "a"), Reader(globex, "b"))] == [7, 3, 1, 0]


def test_a_ranking_is_cut_in_the_database_the_dearest_first() -> None:
    for index in range(5):
        entry(f"{index + 1}", agent=f"a{index}")
    assert [row["agent"] for row in spend.summary(group_by=["agent"], limit=2)] == ["a4", "a3"]


@pytest.mark.parametrize("scope", ["", "agent", "agent:", "planet:earth", "platform:x"])
def test_a_scope_that_names_nothing_is_refused(scope: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        spend.in_scope(scope)


def test_a_window_that_time_has_ended_stands_at_zero_though_no_job_closed_it() -> None:
    budget = factories.budget("1")
    entry("0.90")
    assert budget_status.current([budget], now=NOON)[budget.pk].state == "warned"
    tomorrow = budget_status.current([budget], now=NOON + timedelta(days=1))[budget.pk]
    assert (tomorrow.settled_nanos, tomorrow.state) == (0, "active")
    assert (tomorrow.starts_at, tomorrow.ends_at) == (
        datetime(2026, 3, 11, tzinfo=UTC),
        datetime(2026, 3, 12, tzinfo=UTC),
    )
    counted = budget_status.counts(Budget.objects.all(), now=NOON)
    assert counted == {"stopped": 0, "degraded": 0, "warned": 1, "active": 0, "off": 0}
    assert budget_status.counts(Budget.objects.all(), now=NOON + timedelta(days=1))["active"] == 1


def test_a_billing_cycle_lasts_until_an_act_ends_it() -> None:
    budget = factories.budget("1", window="billing_cycle")
    entry("0.90")
    budget.windows.update(ends_at=NOON + timedelta(days=1))
    assert budget_status.current([budget], now=NOON + timedelta(days=40))[budget.pk].settled_nanos == factories.nanos(
        "0.90"
    )


def test_a_budget_for_each_one_shows_the_fullest() -> None:
    budget = Budget.objects.create(scope_type="user", scope_key="*", window="day", limit_nanos=factories.nanos("1"))
    entry("0.20", user="ana")
    entry("0.50", user="ben")
    found = budget_status.current([budget], now=NOON)[budget.pk]
    assert (found.subject, found.settled_nanos) == ("acme/ben", factories.nanos("0.50"))
    assert [window.subject for window, _ in budget_status.fullest(now=NOON, limit=5)] == ["acme/ben", "acme/ana"]
