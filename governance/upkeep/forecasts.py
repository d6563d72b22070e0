"""Keeps when budgets run out, for lists and alerts, where reckoning each one while somebody waits would be dear."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F

from governance.models import Budget, BudgetForecast
from governance.models.budgets import EACH
from governance.queries import budget_status, forecasts
from governance.queries.forecasts import Outlook
from governance.rules import money

# Of a run: those first that were reckoned longest ago, or never.
MOST = 300


def keep(*, now: datetime, most: int = MOST) -> int:
    """Reckon the budgets of one subject each; how many were. Of one for each there are too many windows."""
    named = Budget.objects.filter(enabled=True).exclude(scope_key=EACH).select_related("tenant")
    oldest = F("kept_forecast__made_at").asc(nulls_first=True)
    budgets = list(named.order_by(oldest, "pk")[:most])
    statuses = budget_status.current(budgets, now=now)
    # Of one of which nothing is known, too, or such ones would be reckoned first each time.
    kept = [_row(budget, forecasts.of_budget(budget, statuses[budget.pk], now=now)) for budget in budgets]
    fields = [field.name for field in BudgetForecast._meta.fields if field.name != "budget"]
    BudgetForecast.objects.bulk_create(kept, update_conflicts=True, unique_fields=["budget"], update_fields=fields)
    BudgetForecast.objects.filter(budget__enabled=False).delete()
    return len(kept)


def _row(budget: Budget, outlook: Outlook) -> BudgetForecast:
    row = BudgetForecast(
        budget=budget, made_at=outlook.now, ends_at=outlook.status.ends_at, cap_nanos=outlook.cap_nanos
    )
    if (found := outlook.forecast) is not None:
        last = found.points[-1]
        row.runs_out_at, row.earliest, row.latest = found.runs_out_at, found.earliest, found.latest
        row.expected_nanos, row.low_nanos = _kept(last.expected_nanos), _kept(last.low_nanos)
        row.high_nanos = _kept(last.high_nanos)
    return row


def _kept(nanos: int) -> int:
    return min(money.MAX_SUM, max(0, nanos))
