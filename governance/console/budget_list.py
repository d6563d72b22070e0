"""The list of budgets: the worst first, by state, with what they were given in addition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.http import HttpResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from governance.console import display
from governance.console.state_list import StateList
from governance.models import Budget, BudgetForecast
from governance.models.budgets import EACH
from governance.queries import budget_status, forecasts
from governance.queries.budget_status import OFF, STATES, BudgetStatus, Standing
from governance.rules import csv_tables, money

# A budget without an end comes last of those that are sorted by theirs.
_NEVER = datetime.max.replace(tzinfo=UTC)
SORTS: dict[str, Callable[[Standing], Any]] = {
    "worst": lambda one: (STATES.index(one.state), -one.share),
    "used": lambda one: -one.share,
    "limit": lambda one: -one.limit_nanos,
    "resets": lambda one: one.ends_at or _NEVER,
}
ROWS_A_READ = 500
COLUMNS = [
    "budget",
    "tenant",
    "scope_type",
    "scope_key",
    "window",
    "subject",
    "state",
    "limit",
    "of_it_carried_over",
    "of_it_in_addition",
    "in_addition_until",
    "spent",
    "reserved",
    "remaining",
    "used_percent",
    "resets_at",
    "runs_out_at",
    "forecast_at",
]


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A budget as the list shows it."""

    budget: Budget
    status: BudgetStatus
    state: str
    raised_until: datetime | None
    ahead: BudgetForecast | None

    @property
    def bar(self) -> SafeString:
        return display.bar(self.status, soft_cap=self.budget.soft_cap, hard_cap=self.budget.hard_cap)

    @property
    def limit(self) -> SafeString | str:
        """With what it was given in addition: "$50.00 + $25.00 until Fri"."""
        return limit(self.status, raised_until=self.raised_until)

    @property
    def spent(self) -> SafeString | str:
        return display.exact(self.status.settled_nanos)

    @property
    def remaining(self) -> SafeString | str:
        return display.exact(self.status.remaining_nanos)

    @property
    def resets(self) -> SafeString | str:
        return display.moment(self.status.ends_at, "day") if self.status.ends_at else "by an operator"

    @property
    def runs_out(self) -> SafeString | str:
        """As it was last forecast; empty where nothing is known, or where the state says more."""
        if self.ahead is None or self.state in ("stopped", OFF):
            return ""
        if self.ahead.runs_out_at is None:
            return "lasts"
        return format_html("runs out {}", display.moment(self.ahead.runs_out_at, "day"))

    @property
    def fullest(self) -> str:
        return self.status.subject if self.budget.scope_key == EACH else ""


class BudgetList(StateList):
    """Tabs, order and pages are made of how budgets stand."""

    states, always_shown, orders = STATES, ("stopped", "active"), SORTS

    def standings(self, now: datetime) -> list[Standing]:
        return budget_status.standings(self.queryset, now=now)

    def rows_of(self, standings: Sequence[Standing], now: datetime) -> list[BudgetRow]:
        return list(rows_of(standings, now=now))

    def row_of(self, shown: BudgetRow) -> Budget:
        return shown.budget


def rows_of(standings: Iterable[Standing], *, now: datetime) -> Iterator[BudgetRow]:
    """The budgets of these, in their order, each with its current window: four queries."""
    standings = list(standings)
    budgets = Budget.objects.select_related("tenant").in_bulk([one.budget_id for one in standings])
    statuses = budget_status.current(budgets.values(), now=now)
    raises = budget_status.raises(list(budgets.values()), now=now)
    ahead = forecasts.kept(statuses, now=now)
    for one in standings:
        # One that was deleted since is left out.
        if budget := budgets.get(one.budget_id):
            raised, status = raises.get(budget.pk), statuses[budget.pk]
            shown = raised.on(status) if raised else status
            yield BudgetRow(budget, shown, one.state, raised.until if raised else None, ahead.get(budget.pk))


def limit(status: BudgetStatus, *, raised_until: datetime | None) -> SafeString | str:
    """The limit with what it took over and was given in addition, and how long that lasts."""
    until = format_html("until {}", display.moment(raised_until, "day")) if raised_until else "in this window"
    more = [(status.carried_nanos, "carried over"), (status.extra_nanos, until)]
    added = [(display.exact(nanos), words) for nanos, words in more if nanos]
    base = display.exact(status.limit_nanos - status.carried_nanos - status.extra_nanos)
    return format_html("{}{}", base, format_html_join("", ' <span class="sg-extra">+ {} {}</span>', added))


def as_csv(found: BudgetList) -> HttpResponse:
    """All that the list shows on its pages, in its order."""
    response = HttpResponse("".join(csv_tables.lines_of(_lines(found.chosen), COLUMNS)), content_type="text/csv")
    response["Content-Disposition"] = 'attachment; filename="budgets.csv"'
    return response


def _lines(standings: Sequence[Standing]) -> Iterator[dict[str, Any]]:
    now = timezone.now()
    for first in range(0, len(standings), ROWS_A_READ):
        for row in rows_of(standings[first : first + ROWS_A_READ], now=now):
            yield _line(row)


def _line(row: BudgetRow) -> dict[str, Any]:
    budget, status, ahead = row.budget, row.status, row.ahead
    return {
        "budget": budget.scope,
        "tenant": budget.tenant.slug if budget.tenant else "",
        "scope_type": budget.scope_type,
        "scope_key": budget.scope_key,
        "window": budget.window,
        "subject": row.fullest,
        "state": row.state,
        "limit": money.format_dollars(status.limit_nanos),
        "of_it_carried_over": money.format_dollars(status.carried_nanos),
        "of_it_in_addition": money.format_dollars(status.extra_nanos),
        "in_addition_until": row.raised_until.isoformat() if row.raised_until and status.extra_nanos else "",
        "spent": money.format_dollars(status.settled_nanos),
        "reserved": money.format_dollars(status.reserved_nanos),
        "remaining": money.format_dollars(status.remaining_nanos),
        "used_percent": f"{status.utilization * 100:.2f}",
        "resets_at": status.ends_at.isoformat() if status.ends_at else "",
        "runs_out_at": ahead.runs_out_at.isoformat() if ahead and ahead.runs_out_at else "",
        "forecast_at": ahead.made_at.isoformat() if ahead else "",
    }
