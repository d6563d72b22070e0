"""The console's page of margins: who pays what, beside what their models cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse

from billing.queries import margin
from billing.queries.margin import Margin
from governance.console import display
from governance.console.base import may
from governance.console.display import Card
from governance.console.pages import ConsolePage
from governance.queries.spend import TimeRange
from governance.rules import money

SHOWN = 100
PERIODS = {"month": "This month", "last": "Last month", "30": "30 days", "all": "All time"}


@dataclass(frozen=True, slots=True)
class TenantMargin:
    """A tenant. `paid` and `cost_percent` are bars: shares of the largest amount on the page."""

    tenant: str
    plan: str
    state: str
    revenue: str
    other: str
    cost: str
    margin: str
    ratio: str
    tone: str
    paid_percent: float
    cost_percent: float


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """An unknown period is this month."""
    wanted = request.GET.get("period", "")
    chosen = wanted if wanted in PERIODS else "month"
    period = _period(chosen, now)
    rows = list(margin.every(period=period))
    known = [row for row in rows if row.margin_nanos is not None]
    worst = sorted(known, key=lambda row: (row.margin_nanos or 0, row.tenant))
    largest, largest_of_worst = (
        max((max(row.revenue_nanos, row.cost_nanos) for row in some), default=0)
        for some in (rows, worst[: margin.WORST])
    )
    ends = {name: at.isoformat() for name, at in (("from", period.starts_at), ("to", period.ends_at)) if at is not None}
    lines = [_line(row, largest) for row in [*worst, *(row for row in rows if row.margin_nanos is None)]]
    return {
        "periods": [(name, title, name == chosen) for name, title in PERIODS.items()],
        "cards": _cards(rows, known),
        "worst": [_line(row, largest_of_worst) for row in worst[: margin.WORST]],
        "lines": lines[:SHOWN],
        "more": max(0, len(lines) - SHOWN),
        "csv": f"{reverse('billing-margin')}?{urlencode({'format': 'csv', **ends})}",
        "now": now,
    }


def _period(name: str, now: datetime) -> TimeRange:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    month = today.replace(day=1)
    return {
        "month": TimeRange(month, now),
        "last": TimeRange((month - timedelta(days=1)).replace(day=1), month),
        "30": TimeRange(today - timedelta(days=30), now),
        "all": TimeRange(None, now),
    }[name]


def _cards(rows: Sequence[Margin], known: Sequence[Margin]) -> list[Card]:
    paid, cost = sum(row.revenue_nanos for row in rows), sum(row.cost_nanos for row in rows)
    result = sum(row.margin_nanos or 0 for row in known)
    losing = sum((row.margin_nanos or 0) < 0 for row in known)
    others = sorted({currency.upper() for row in rows for currency in row.other})
    note = f"and {', '.join(others)}, not converted" if others else "net of tax and refunds"
    whole = sum(row.revenue_nanos for row in known)
    share = f"{result * 100 // whole}% of the revenue" if whole > 0 else "no revenue in dollars"
    share += ", of those who pay in dollars alone" if others else ""
    return [
        Card("Revenue", display.dollars(paid), note, "payments"),
        Card("Model cost", display.dollars(cost), "spent", "neurology"),
        Card("Margin", display.dollars(result), share, "monitoring", "danger" if result < 0 else ""),
        Card(
            "Losing tenants",
            str(losing),
            f"of {len(known)} with a known margin",
            "trending_down",
            "danger" if losing else "",
        ),
    ]


def _line(row: Margin, largest: int) -> TenantMargin:
    return TenantMargin(
        tenant=row.tenant,
        plan=row.plan or "no plan",
        state=row.state,
        revenue=display.dollars(row.revenue_nanos),
        other=", ".join(f"{money.format_dollars(nanos)} {currency.upper()}" for currency, nanos in row.other.items()),
        cost=display.dollars(row.cost_nanos),
        margin="not known" if row.margin_nanos is None else display.dollars(row.margin_nanos),
        ratio="" if row.margin_e4 is None else f"{row.margin_e4 // 100}%",
        tone="bad" if (row.margin_nanos or 0) < 0 else "ok",
        paid_percent=_percent(row.revenue_nanos, largest),
        cost_percent=_percent(row.cost_nanos, largest),
    )


def _percent(part: int, whole: int) -> float:
    return min(100.0, max(0.0, part * 100 / whole)) if whole > 0 else 0.0


PAGE = ConsolePage(
    title="Margin",
    path="margin/",
    name="margin",
    template="console/margin.html",
    context=context,
    permission=lambda request: may(request, "billing.view_billingaccount"),
)
