"""What is left of a window when the next one opens is added to that, up to a cap: on the real database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import uuid_utils.compat as uuids

from governance import ledger
from governance.actions import allowances, budgets
from governance.audit import Actor
from governance.ledger.operations import Adjust
from governance.models import Budget, BudgetWindow, SpendEntry
from governance.rules.decision import Reason
from governance.rules.errors import FieldError
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]

ADA = Actor("ada")
DAY = timedelta(days=1)
TOMORROW = NOON + DAY


def budget(limit: str = "1.00", carry_over: str | None = "25%", **fields: Any) -> Budget:
    return make.budget(limit, soft_cap=None, clamp=False, carry_over=carry_over, **fields)


def spend(cost: str, now: Any = NOON, **caller: Any) -> Any:
    op = make.reserving(cost, by=make.caller(**caller))
    assert ledger.reserve(op, now=now).allowed
    ledger.settle(make.settling(op.reservation_id, cost), now=now)
    return op


def window() -> BudgetWindow:
    return BudgetWindow.objects.get(closed_at=None)


def fits(cost: str, now: Any = TOMORROW, **caller: Any) -> bool:
    return ledger.dry_run(make.caller(**caller), make.call(cost), now=now).allowed


def test_the_next_window_has_it_on_top_of_its_limit_and_shows_it_apart() -> None:
    budget()
    spend("0.90")
    assert (fits("1.10"), fits("1.1001")) == (True, False)
    spend("1.10", TOMORROW)
    assert (window().limit_nanos, window().carried_nanos, window().extra_nanos) == (nanos("1.10"), nanos("0.10"), 0)
    refused = ledger.reserve(make.reserving("0.01"), now=TOMORROW)
    assert refused.reason == Reason.BUDGET_EXHAUSTED
    assert refused.because is not None
    assert refused.because.carried_nanos == nanos("0.10")


def test_never_more_than_its_cap_however_many_windows_pass() -> None:
    budget()
    for day in range(4):
        spend("0.01", NOON + day * DAY)
    assert (window().limit_nanos, window().carried_nanos) == (nanos("1.25"), nanos("0.25"))


def test_a_window_that_nobody_called_in_had_all_of_it_left() -> None:
    budget(carry_over="0.40")
    spend("1.00")
    spend("0.01", NOON + 3 * DAY)
    assert window().carried_nanos == nanos("0.40")


def test_the_first_window_of_anybody_takes_over_nothing() -> None:
    budget()
    spend("0.01")
    assert window().carried_nanos == 0


def test_what_is_held_is_not_left_and_what_settles_later_changes_nothing() -> None:
    budget(carry_over="100%")
    held = make.reserving("0.80")
    ledger.reserve(held, now=NOON)
    spend("0.01", TOMORROW)
    assert window().carried_nanos == nanos("0.20")
    ledger.settle(make.settling(held.reservation_id, "0.10"), now=TOMORROW)
    assert (window().limit_nanos, window().carried_nanos) == (nanos("1.20"), nanos("0.20"))


def test_a_correction_of_the_closed_window_changes_nothing_either() -> None:
    budget(carry_over="100%")
    op = spend("0.80")
    spend("0.01", TOMORROW)
    [entry] = SpendEntry.objects.filter(reservation_id=op.reservation_id)
    ledger.adjust(Adjust(uuids.uuid7(), entry.id, -nanos("0.80"), "never made", "reversal"), now=TOMORROW)
    assert window().carried_nanos == nanos("0.20")


class TestActs:
    def test_a_reset_begins_anew_with_nothing_taken_over(self) -> None:
        row = budget()
        spend("0.50")
        spend("0.01", TOMORROW)
        budgets.reset(budget=row, reason="again", by=ADA, now=TOMORROW)
        assert (window().limit_nanos, window().carried_nanos) == (nanos("1.00"), 0)
        spend("0.95", TOMORROW)
        spend("0.01", TOMORROW + DAY)
        # Of the window that the reset opened.
        assert window().carried_nanos == nanos("0.05")

    def test_another_limit_keeps_what_was_taken_over(self) -> None:
        row = budget()
        spend("0.50")
        spend("0.01", TOMORROW)
        budgets.change(budget=row, changes={"limit_nanos": nanos("2.00")}, by=ADA, now=TOMORROW)
        assert (window().limit_nanos, window().carried_nanos) == (nanos("2.25"), nanos("0.25"))

    def test_switched_off_the_next_window_takes_over_nothing(self) -> None:
        row = budget()
        spend("0.50")
        spend("0.01", TOMORROW)
        budgets.change(budget=row, changes={"carry_over": None}, by=ADA, now=TOMORROW)
        assert window().carried_nanos == nanos("0.25")
        spend("0.01", TOMORROW + DAY)
        assert (window().limit_nanos, window().carried_nanos) == (nanos("1.00"), 0)

    def test_an_allowance_stands_beside_it_and_is_not_taken_over(self) -> None:
        row = budget(carry_over="100%")
        spend("0.50")
        spend("0.01", TOMORROW)
        allowances.top_up(budget=row, amount_nanos=nanos("3.00"), reason="more", by=ADA, now=TOMORROW)
        assert (window().limit_nanos, window().extra_nanos) == (nanos("4.50"), nanos("3.00"))
        spend("1.00", TOMORROW)
        spend("0.01", TOMORROW + DAY)
        assert window().carried_nanos == nanos("0.49")


def test_each_user_has_their_own_and_a_large_call_may_open_the_window() -> None:
    budget(scope_type="user", scope_key="*")
    spend("0.90", user="ann")
    spend("0.20", user="bob")
    assert (fits("1.10", user="ann"), fits("1.11", user="ann")) == (True, False)
    spend("1.25", TOMORROW, user="bob")
    assert BudgetWindow.objects.get(closed_at=None, subject="bob").carried_nanos == nanos("0.25")


def test_the_roll_opens_the_next_window_with_it() -> None:
    budget()
    spend("0.90")
    ledger.roll_windows(now=TOMORROW)
    ledger.roll_windows(now=TOMORROW)
    assert (window().limit_nanos, window().carried_nanos) == (nanos("1.10"), nanos("0.10"))


@pytest.mark.parametrize("kind", ["billing_cycle", "lifetime"])
def test_only_where_windows_follow_one_another(kind: str) -> None:
    with pytest.raises(FieldError, match="nothing is carried over"):
        budgets.create(
            tenant=make.tenant(),
            scope_type="tenant",
            window=kind,
            limit_nanos=1,
            carry_over="25%",
            by=ADA,
            now=NOON,
        )
