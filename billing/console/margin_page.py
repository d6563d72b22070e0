"""The console's page of margins: who pays what, beside what their models cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from billing.console.tones import STATE_TONES
from billing.models import BillingAccount
from billing.queries import margin
from billing.queries.margin import Margin
from billing.queries.revenue import NANO_DECIMALS
from billing.rules.valuation import DECIMALS, amount_words
from billing.stripe_api import client
from governance.console import display, ranges
from governance.console.base import may
from governance.console.display import Card
from governance.console.pages import ConsolePage
from governance.queries.spend import TimeRange

SHOWN = 100
PERIODS = {"month": "This month", "last": "Last month", "30": "30 days", "all": "All time"}
# What the rows are filtered by. One whose margin is not known pays in other money than dollars.
LOSING, EARNING, UNKNOWN, UNCONNECTED = "losing", "earning", "unknown", "unconnected"
SHOWS = {
    "": "All",
    LOSING: "Losing",
    EARNING: "Earning",
    UNKNOWN: "In other money",
    UNCONNECTED: "Not connected",
}


@dataclass(frozen=True, slots=True)
class MarginPeriod:
    """`query`: what the address says to mean it; `error`: what is wrong with the days that it names."""

    period: TimeRange
    query: dict[str, str]
    words: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class TenantMargin:
    """A tenant. `paid` and `cost_percent` are bars: shares of the largest amount on the page. Links may be empty."""

    tenant: str
    link: str
    plan: str
    state: str
    state_tone: str
    revenue: SafeString | str
    revenue_link: str
    other: str
    cost: SafeString | str
    cost_link: str
    margin: str
    ratio: str
    tone: str
    paid_percent: float
    cost_percent: float


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """An unknown period is this month, unknown rows are all."""
    chosen = _period(request, now)
    rows = margin.every(period=chosen.period)
    # Without a key and without any customer, nothing is known of what comes in.
    is_connected = client.is_configured() or BillingAccount.objects.exists()
    show = request.GET.get("show", "")
    show = show if show in SHOWS else ""
    groups = _groups(rows)
    shown = [row for name in (LOSING, EARNING, UNKNOWN, UNCONNECTED) if show in ("", name) for row in groups[name]]
    largest = max((max(row.revenue_nanos, row.cost_nanos) for row in shown), default=0)
    period = chosen.period
    ends = {name: at.isoformat() for name, at in (("from", period.starts_at), ("to", period.ends_at)) if at is not None}
    return {
        "periods": [
            (_address({"period": name}, show), title, chosen.query == {"period": name})
            for name, title in PERIODS.items()
        ],
        "chosen": chosen,
        "show": show,
        "shows": [
            (_address(chosen.query, name), words, name == show, len(groups[name]) if name else len(rows))
            for name, words in SHOWS.items()
            if not name or groups[name]
        ],
        "is_connected": is_connected,
        "cards": _cards(rows, groups, chosen, is_connected=is_connected, now=now),
        "lines": [_line(row, largest, chosen, now) for row in shown[:SHOWN]],
        "more": max(0, len(shown) - SHOWN),
        "csv": f"{reverse('billing-margin')}?{urlencode({'format': 'csv', **ends})}",
    }


def _address(query: dict[str, str], show: str) -> str:
    return f"?{urlencode(query | ({'show': show} if show else {}))}"


def _period(request: HttpRequest, now: datetime) -> MarginPeriod:
    wanted = request.GET.get("period", "")
    error = ""
    if request.GET.get("from"):
        found = ranges.chosen(request.GET, now=now, zone=ZoneInfo("UTC"))
        if not found.error:
            days = {"from": found.first.isoformat(), "to": found.last.isoformat()}
            return MarginPeriod(found.period, days, found.words)
        error = found.error
    name = wanted if wanted in PERIODS else "month"
    return MarginPeriod(_named(name, now), {"period": name}, PERIODS[name], error)


def _named(name: str, now: datetime) -> TimeRange:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    month = today.replace(day=1)
    return {
        "month": TimeRange(month, now),
        "last": TimeRange((month - timedelta(days=1)).replace(day=1), month),
        "30": TimeRange(today - timedelta(days=30), now),
        "all": TimeRange(None, now),
    }[name]


def _groups(rows: Sequence[Margin]) -> dict[str, list[Margin]]:
    """The rows by what they are, those first that cost most beyond what they pay."""
    found: dict[str, list[Margin]] = {LOSING: [], EARNING: [], UNKNOWN: [], UNCONNECTED: []}
    for row in sorted(rows, key=lambda row: (row.margin_nanos or 0, row.tenant)):
        found[_group(row)].append(row)
    return found


def _group(row: Margin) -> str:
    if row.account_id is None:
        # What it pays, and whom, is nobody's knowledge here.
        return UNCONNECTED
    if row.margin_nanos is None:
        return UNKNOWN
    return LOSING if row.margin_nanos < 0 else EARNING


def _cards(
    rows: Sequence[Margin], groups: dict[str, list[Margin]], chosen: MarginPeriod, *, is_connected: bool, now: datetime
) -> list[Card]:
    cost = sum(row.cost_nanos for row in rows)
    spend = Card("Model cost", display.dollars(cost), "spent by all customers", "neurology", link=_spend(chosen, now))
    if not is_connected:
        connect = reverse("admin:stripe-health")
        unknown = "no revenue is known: connect Stripe"
        return [
            Card("Revenue", "Not known", unknown, "payments", "off", connect),
            spend,
            Card("Margin", "Not known", unknown, "account_balance", "off", connect),
        ]
    losing, earning, without = groups[LOSING], groups[EARNING], groups[UNCONNECTED]
    known = [*losing, *earning]
    paid, whole = (sum(row.revenue_nanos for row in some) for some in (rows, known))
    result = sum(row.margin_nanos or 0 for row in known)
    others = sorted({currency.upper() for row in rows for currency in row.other})
    note = f"and {', '.join(others)}, not converted" if others else "net of tax and refunds"
    share = f"{result * 100 // whole}% of the revenue" if whole > 0 else "no revenue in dollars"
    share += ", of those who pay in dollars alone" if others else ""
    return [
        Card("Revenue", display.dollars(paid), note, "payments"),
        spend,
        Card("Margin", display.dollars(result), share, "account_balance", "danger" if result < 0 else ""),
        Card(
            "Losing",
            f"{len(losing):,}",
            f"of {len(known):,} with a known margin",
            "trending_down",
            "danger" if losing else "",
            _address(chosen.query, LOSING),
        ),
        Card(
            "Not connected",
            f"{len(without):,}",
            f"cost {display.dollars(sum(row.cost_nanos for row in without))}, no Stripe customer",
            "link_off",
            "off",
            _address(chosen.query, UNCONNECTED),
        ),
    ]


def _line(row: Margin, largest: int, chosen: MarginPeriod, now: datetime) -> TenantMargin:
    group = _group(row)
    account = reverse("admin:billing_billingaccount_change", args=[row.account_id]) if row.account_id else ""
    is_known = row.account_id is not None and row.margin_nanos is not None
    return TenantMargin(
        tenant=row.tenant,
        link=reverse("admin:governance_tenant_change", args=[row.tenant_id]),
        plan=row.plan,
        state=row.state if row.account_id else "not connected",
        state_tone=STATE_TONES[row.state] if row.account_id else "off",
        revenue=display.exact(row.revenue_nanos) if row.account_id else "–",
        revenue_link=account,
        other=", ".join(_other(currency, nanos) for currency, nanos in row.other.items()),
        cost=display.exact(row.cost_nanos),
        cost_link=_spend(chosen, now, tenant=row.tenant),
        margin=display.dollars(row.margin_nanos) if is_known else "not known",
        ratio="" if row.margin_e4 is None else f"{row.margin_e4 // 100}%",
        tone={LOSING: "bad", EARNING: "ok"}.get(group, "off"),
        paid_percent=_percent(row.revenue_nanos, largest),
        cost_percent=_percent(row.cost_nanos, largest),
    )


def _other(currency: str, nanos: int) -> str:
    """Nano-units of another currency, with as many decimals as it has."""
    return amount_words(Decimal(nanos).scaleb(DECIMALS.get(currency, 2) - NANO_DECIMALS), currency)


def _spend(chosen: MarginPeriod, now: datetime, **of_whom: str) -> str:
    """The page of spend with the same hours; none where they are more than it shows."""
    starts_at, ends_at = chosen.period.starts_at, chosen.period.ends_at or now
    if starts_at is None or ends_at - starts_at >= timedelta(days=ranges.MOST_DAYS):
        return ""
    # An hour that has begun counts whole on both pages.
    until = ends_at.astimezone(UTC)
    if until != until.replace(minute=0, second=0, microsecond=0):
        until += timedelta(hours=1)
    return f"{reverse('admin:spend')}?{urlencode(ranges.hours(starts_at, until) | of_whom)}"


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
