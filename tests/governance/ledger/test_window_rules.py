"""Grants that meet where no window is open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from governance import ledger
from governance.ledger import sql
from governance.ledger.operations import OpenPeriod
from governance.models import Budget, BudgetWindow
from tests import factories

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def granting(budget: Budget, source_id: str, starts_at: datetime, limit: str = "50") -> OpenPeriod:
    return OpenPeriod(
        budget_id=budget.pk, starts_at=starts_at, ends_at=starts_at + 30 * DAY, limit_nanos=factories.nanos(limit),
        source_kind="stripe", source_id=source_id, reason="paid", actor="stripe",
    )  # fmt: skip


@pytest.mark.parametrize("rival", ["older grant", "newer grant", "call"])
def test_a_grant_is_not_lost_to_a_window_opened_at_the_same_moment(rival: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rival opens its window after we saw that none was open and before our insert."""
    budget = factories.budget("7", window="billing_cycle", tenant=factories.tenant())
    rivals = {
        "older grant": lambda: ledger.apply_within([granting(budget, "older", START - 5 * DAY)], now=START),
        "newer grant": lambda: ledger.apply_within([granting(budget, "newer", START + DAY / 2)], now=START),
        "call": lambda: ledger.apply_within([factories.reporting("1")], now=START),
    }
    insert, met = sql.open_windows, []

    def interrupted(*args: Any) -> None:
        if not met:
            met.append(rival)
            rivals[rival]()
        insert(*args)

    monkeypatch.setattr(sql, "open_windows", interrupted)
    with transaction.atomic():
        [result] = ledger.apply_within([granting(budget, "ours", START)], now=START)
    window = BudgetWindow.objects.get(closed_at=None)
    assert met
    assert (result.opened, window.source_id) == ((False, "newer") if rival == "newer grant" else (True, "ours"))
    assert result.window_id == window.pk
