"""Windows that others open or close at the same moment, and windows past their end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from governance import ledger
from governance.actions import allowances
from governance.audit import Actor
from governance.ledger import sql, sql_writes
from governance.ledger.operations import ChangeLimit, OpenPeriod, Reset
from governance.ledger.results import PeriodResult
from governance.ledger.rows import NewWindow, WindowRow
from governance.ledger.sql_dialect import Select
from governance.models import Budget, BudgetEvent, BudgetWindow
from governance.queries import budget_status
from governance.rules.scopes import MatchedBudget
from governance.rules.windows import WindowKind
from tests import factories
from tests.factories import nanos

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def granting(budget: Budget, source_id: str, starts_at: datetime, limit: str = "50") -> OpenPeriod:
    return OpenPeriod(
        budget_id=budget.pk,
        starts_at=starts_at,
        ends_at=starts_at + 30 * DAY,
        limit_nanos=nanos(limit),
        source_kind="stripe",
        source_id=source_id,
        reason="paid",
        actor="stripe",
    )


@pytest.mark.parametrize("rival", ["older grant", "newer grant", "call"])
def test_a_grant_is_not_lost_to_a_window_opened_at_the_same_moment(rival: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rival opens its window after we saw that none was open and before our insert."""
    budget = factories.budget("7", window="billing_cycle", tenant=factories.tenant())
    rivals = {
        "older grant": lambda: ledger.apply_within([granting(budget, "older", START - 5 * DAY)], now=START),
        "newer grant": lambda: ledger.apply_within([granting(budget, "newer", START + DAY / 2)], now=START),
        "call": lambda: ledger.apply_within([factories.reporting("1")], now=START),
    }
    insert, met = sql_writes.open_windows, []

    def interrupted(*args: Any) -> None:
        if not met:
            met.append(rival)
            rivals[rival]()
        insert(*args)

    monkeypatch.setattr(sql_writes, "open_windows", interrupted)
    with transaction.atomic():
        [result] = ledger.apply_within([granting(budget, "ours", START)], now=START)
    window = BudgetWindow.objects.get(closed_at=None)
    assert met
    assert (result.opened, window.source_id) == ((False, "newer") if rival == "newer grant" else (True, "ours"))
    assert result.window_id == window.pk


def test_a_grant_that_never_gets_its_window_gives_up_and_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever we open, a call's window is there instead."""
    budget = factories.budget("7", window="billing_cycle", tenant=factories.tenant())
    insert = sql_writes.open_windows

    def outrun(new: list[NewWindow], now: datetime) -> None:
        insert([replace(window, source_kind="", source_id="") for window in new], now)

    monkeypatch.setattr(sql_writes, "open_windows", outrun)
    with pytest.raises(ledger.LedgerUnavailable, match="while one was being opened"):
        ledger.open_period(granting(budget, "ours", START), now=START)
    assert not BudgetWindow.objects.exists()


def test_a_period_of_no_budget_is_refused() -> None:
    budget = factories.budget("7", window="billing_cycle", tenant=factories.tenant())
    grant = replace(granting(budget, "ours", START), budget_id=budget.pk + 1)
    with pytest.raises(ledger.LedgerError, match=f"there is no budget {grant.budget_id}"):
        ledger.open_period(grant, now=START)


class TestClosedWhileItsLockIsWaitedFor:
    """PostgreSQL then gives a row that is closed by now; the one that was opened in its place is not among them."""

    @pytest.fixture
    def budget(self) -> Budget:
        budget = factories.budget("1.00", window="day")
        ledger.record(factories.reporting("0.40"), now=START)
        return budget

    @pytest.fixture
    def looks(self) -> list[list[WindowRow]]:
        """What each look found."""
        return []

    def overtake(self, monkeypatch: pytest.MonkeyPatch, looks: list[list[WindowRow]], *, times: int) -> None:
        look = sql.windows

        def overtaken(**wanted: Any) -> Select[list[WindowRow]]:
            asked = look(**wanted)
            return replace(asked, meaning=lambda rows: changed(asked.meaning(rows)))

        def changed(rows: list[WindowRow]) -> list[WindowRow]:
            looks.append(rows)
            if len(looks) > times:
                return rows
            sql_writes.close_windows([row.id for row in rows], START)
            successors = [
                NewWindow(MatchedBudget(row.budget, row.subject, row.tenant_id), row.starts_at, row.ends_at)
                for row in rows
            ]
            sql_writes.open_windows(successors, START)
            return [replace(row, closed_at=START) for row in rows]

        monkeypatch.setattr(sql, "windows", overtaken)

    def test_its_successor_is_locked_too(
        self, budget: Budget, looks: list[list[WindowRow]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.overtake(monkeypatch, looks, times=1)
        with transaction.atomic():
            ledger.lock_windows(budget.pk)
        current = BudgetWindow.objects.get(closed_at=None)
        assert [[row.id for row in rows] for rows in looks][1:] == [[current.pk]]
        assert BudgetWindow.objects.count() == 2

    def test_who_never_locks_an_open_one_gives_up(
        self, budget: Budget, looks: list[list[WindowRow]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.overtake(monkeypatch, looks, times=99)
        with transaction.atomic(), pytest.raises(ledger.LedgerUnavailable):
            ledger.lock_windows(budget.pk)
        assert 1 < len(looks) < 99

    def test_a_reset_closes_its_successor(
        self, budget: Budget, looks: list[list[WindowRow]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.overtake(monkeypatch, looks, times=1)
        result = ledger.reset(Reset(budget.pk, "again", "ada"), now=START)
        assert (result.closed, result.opened) == (1, 1)
        assert BudgetWindow.objects.filter(closed_at=None).count() == 1
        assert BudgetWindow.objects.filter(closed_at=START).count() == 2


def test_a_reset_closes_a_day_that_is_over_and_the_next_call_opens_todays() -> None:
    budget = factories.budget("1.00", window="day")
    ledger.record(factories.reporting("0.40"), now=START)
    result = ledger.reset(Reset(budget.pk, "again", "ada"), now=START + DAY)
    assert (result.closed, result.opened) == (1, 0)
    assert not BudgetWindow.objects.filter(closed_at=None).exists()
    ledger.record(factories.reporting("0.10"), now=START + DAY)
    current = BudgetWindow.objects.get(closed_at=None)
    assert (current.starts_at, current.settled_nanos) == (START + DAY, nanos("0.10"))


def test_two_resets_at_once_close_a_day_that_is_over_once() -> None:
    budget = factories.budget("1.00", window="day")
    ledger.record(factories.reporting("0.40"), now=START)
    results = ledger.apply([Reset(budget.pk, "once", "ada"), Reset(budget.pk, "twice", "bob")], now=START + DAY)
    assert [(result.closed, result.opened) for result in results] == [(1, 0), (0, 0)]
    assert [event.reason for event in BudgetEvent.objects.filter(kind="budget-reset")] == ["once"]


def test_a_reset_keeps_what_opened_a_paid_period() -> None:
    budget = factories.budget("7", window="billing_cycle", tenant=factories.tenant())
    opened = ledger.open_period(granting(budget, "si_1", START), now=START)
    ledger.reset(Reset(budget.pk, "again", "ada"), now=START + DAY)
    successor = BudgetWindow.objects.get(closed_at=None)
    assert (successor.source_kind, successor.source_id, successor.limit_nanos) == ("stripe", "si_1", nanos("50"))
    # The same grant is granted once: it names the window that it opened.
    assert ledger.open_period(granting(budget, "si_1", START), now=START + DAY) == PeriodResult(
        opened.window_id, opened=False
    )
    # An older one opens nothing over a newer, which it names.
    assert ledger.open_period(granting(budget, "si_0", START - 5 * DAY), now=START + DAY) == PeriodResult(
        successor.pk, opened=False
    )


def test_a_reset_of_days_opens_one_that_nothing_but_time_has_opened() -> None:
    budget = factories.budget("7", window="day")
    ledger.record(factories.reporting("1"), now=START)
    ledger.reset(Reset(budget.pk, "again", "ada"), now=START + DAY / 2)
    successor = BudgetWindow.objects.get(closed_at=None)
    assert (successor.source_kind, successor.source_id) == ("", "")
    assert (successor.starts_at, successor.ends_at) == (START + DAY / 2, START + DAY)


@pytest.mark.parametrize(
    ("limit", "lowered"), [("8", False), ("7", False), ("6.999999999", True), ("1.50", True), ("1.40", True)]
)
def test_a_lowered_limit_is_marked_as_such(limit: str, lowered: bool) -> None:
    """So that whoever looks for broken caps knows why more may be spent than the limit says."""
    budget = factories.budget("7", window="day", soft_cap=None)
    ledger.record(factories.reporting("1.50"), now=START)
    assert ledger.change_limit(ChangeLimit(budget.pk, nanos(limit), "plan", "ada"), now=START) == 1
    window = BudgetWindow.objects.get()
    assert (window.limit_nanos, window.limit_lowered) == (nanos(limit), lowered)
    ledger.change_limit(ChangeLimit(budget.pk, nanos("9"), "plan", "ada"), now=START)
    window.refresh_from_db()
    assert (window.limit_nanos, window.limit_lowered) == (nanos("9"), lowered)


@pytest.mark.parametrize(("hard_cap", "lowered"), [("0.22", False), ("0.20", False), ("0.19", True)])
def test_so_is_a_limit_whose_cap_was_lowered_below_what_is_committed(hard_cap: str, lowered: bool) -> None:
    budget = factories.budget("10", window="day", soft_cap=None)
    ledger.record(factories.reporting("1.50"), now=START)
    ledger.reserve(factories.reserving("0.50"), now=START)
    Budget.objects.filter(pk=budget.pk).update(hard_cap=hard_cap)
    ledger.change_limit(ChangeLimit(budget.pk, nanos("10"), "plan", "ada"), now=START)
    assert BudgetWindow.objects.get().limit_lowered is lowered


def test_two_budgets_keep_their_allowances_apart() -> None:
    """Each budget's limit is raised by its own, each window's by what was given to it."""
    own, platform = factories.budget("1"), factories.budget("10", scope_type="platform")
    ledger.record(factories.reporting("0.10"), now=START)
    ada: dict[str, Any] = {"reason": "launch", "by": Actor("ada"), "now": START}
    allowances.raise_limit(budget=own, amount_nanos=nanos("2"), starts_at=START, ends_at=START + DAY, **ada)
    allowances.top_up(budget=platform, amount_nanos=nanos("30"), **ada)
    limits = dict(BudgetWindow.objects.filter(closed_at=None).values_list("budget_id", "limit_nanos"))
    assert limits == {own.pk: nanos("3"), platform.pk: nanos("40")}


class TestPastItsEnd:
    """Whether a window outlives its `ends_at` is said once, by its kind; whoever asks for open windows agrees."""

    @pytest.fixture(params=WindowKind, ids=str)
    def window(self, request: pytest.FixtureRequest) -> BudgetWindow:
        factories.budget("1.00", window=request.param.value)
        ledger.record(factories.reporting("0.40"), now=START)
        BudgetWindow.objects.update(ends_at=START + DAY)
        return BudgetWindow.objects.select_related("budget").get()

    def test_the_dashboards_show_it(self, window: BudgetWindow) -> None:
        lasts = WindowKind(window.budget.window).ends_by_act
        found = budget_status.live(BudgetWindow.objects.all(), now=START + DAY)
        assert found.exists() == lasts
        assert bool(budget_status.fullest(now=START + DAY, limit=1)) == lasts
        current = budget_status.current([window.budget], now=START + DAY)[window.budget_id]
        assert (current.settled_nanos > 0) == lasts

    def test_the_roll_leaves_it_open(self, window: BudgetWindow) -> None:
        lasts = WindowKind(window.budget.window).ends_by_act
        assert sql.ended_windows(START + DAY, 10) == ([] if lasts else [window.pk])
        ledger.roll_windows(now=START + DAY)
        window.refresh_from_db()
        assert (window.closed_at is None) == lasts

    def test_calls_are_charged_to_it(self, window: BudgetWindow) -> None:
        lasts = WindowKind(window.budget.window).ends_by_act
        dry = factories.reserving("0.70")
        assert ledger.dry_run(dry.caller, dry.call, now=START + DAY).allowed != lasts
        ledger.record(factories.reporting("0.10"), now=START + DAY)
        window.refresh_from_db()
        assert (window.settled_nanos == nanos("0.50")) == lasts

    def test_the_roll_opens_it_only_where_time_does(self, window: BudgetWindow) -> None:
        """What ends by an act is opened by one."""
        BudgetWindow.objects.update(closed_at=START + DAY)
        lasts = WindowKind(window.budget.window).ends_by_act
        assert sql.budgets_without_window() == ([] if lasts else [window.budget_id])
