"""What nobody reports by itself is looked for, and what hides it does not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from governance import ledger
from governance.models import Budget, BudgetWindow
from governance.upkeep import conditions
from tests import factories as make
from tests.factories import NOON

pytestmark = pytest.mark.django_db
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def spend(cost: str, *, of: str = "acme", agent: str = "invoices", user: str = "", hours_ago: int = 0) -> None:
    at = NOON - HOUR * hours_ago
    by = make.caller(make.tenant(of), agent=agent, user=user)
    ledger.record(make.reporting(cost, by=by, occurred_at=at), now=at)


def test_windows_of_which_nothing_is_told_hide_none_that_goes_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "MOST_WINDOWS", 1)
    make.budget("100", window="month")
    # Fuller: one that is used up, an hourly one, and a user's.
    make.budget("1", tenant=make.tenant("beta"))
    make.budget("40", window="hour")
    make.budget("40", window="month", scope_type="user", scope_key="*")
    spend("1", of="beta")
    spend("30", user="ada")
    assert BudgetWindow.objects.get(state="stopped").tenant.slug == "beta"
    assert set(conditions.velocity(NOON + MINUTE)) == {"monthly budget of acme"}


def test_windows_that_are_used_up_or_never_reset_hide_none_that_will_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "MOST_FORECASTS", 1)
    make.budget("10", window="month")
    make.budget("1", tenant=make.tenant("beta"), window="month")
    make.budget("5", window="lifetime")
    spend("1", of="beta")
    for hours_ago in range(48, 0, -1):
        spend("0.10", hours_ago=hours_ago)
    assert set(conditions.running_out(NOON)) == {"monthly budget of acme"}


@pytest.mark.parametrize("is_the_platforms", [False, True])
def test_an_agents_name_may_have_a_slash(is_the_platforms: bool) -> None:
    make.budget("100", window="month", scope_type="agent", scope_key="*")
    if is_the_platforms:
        Budget.objects.update(tenant=None)
    spend("30", agent="team/support")
    [found] = conditions.velocity(NOON + MINUTE).values()
    assert "by team/support of acme" in found.message
