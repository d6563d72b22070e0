"""The calls that fill a database for measurements are such as the ledger itself would have left."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db.models import Sum

from benchmarks.history import asking, filling
from governance.models import BudgetWindow, SpendEntry, SpendRollup
from governance.upkeep import reconcile

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 3, 9, 12, 30, tzinfo=UTC)
CALLS = 2_000


@pytest.fixture
def places() -> filling.Places:
    places = filling.make_customers(NOW, customers=4, agents_of_each=3)
    filling.fill(places, CALLS, NOW, report=lambda text: None)
    return places


def test_the_ledger_of_two_years_has_not_drifted(places: filling.Places) -> None:
    assert SpendEntry.objects.count() == CALLS
    assert reconcile.check() == []
    spent = SpendEntry.objects.aggregate(nanos=Sum("cost_nanos"))["nanos"]
    assert BudgetWindow.objects.filter(budget=places.budgets[0]).aggregate(nanos=Sum("settled_nanos"))["nanos"] == spent
    assert SpendRollup.objects.aggregate(nanos=Sum("cost_nanos"))["nanos"] == spent
    # All customers, agents and models have some.
    assert SpendEntry.objects.values("tenant", "agent").distinct().count() == 12
    assert SpendEntry.objects.values("model_served").distinct().count() == len(filling.MODELS)
    assert BudgetWindow.objects.filter(closed_at__isnull=True).count() == places.windows_a_month


def test_the_same_calls_come_out_each_time(places: filling.Places) -> None:
    first, *_, last = SpendEntry.objects.order_by("pk")
    assert first.occurred_at == datetime(2024, 4, 1, tzinfo=UTC)
    assert (first.tenant.slug, first.agent, first.cost_nanos) == ("customer-000", "agent-0", 120_000)
    assert last.request_id == f"call-{CALLS - 1}"
    assert last.occurred_at < NOW


def test_each_page_that_is_measured_is_there(places: filling.Places) -> None:
    found = asking.ask_for_pages(places, 2, NOW, report=lambda text: None)
    # The console leads from a search for one call straight to it.
    assert {path: page["status"] for path, page in found.items() if "status" in page} == {
        f"/admin/calls/?q=call-{CALLS - 1}": 302
    }
    assert all(page["queries"] for page in found.values())
