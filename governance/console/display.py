"""How amounts, bars and states look in the console."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString

from governance.models import BudgetWindow
from governance.queries.budget_status import BudgetStatus
from governance.rules import money

NANOS_PER_CENT = money.NANOS_PER_DOLLAR // 100
# Unfold's label colours.
STATE_COLOURS = {"active": "success", "warned": "warning", "degraded": "warning", "stopped": "danger"}
STATUS_COLOURS = {"active": "success", "paused": "warning", "suspended": "danger"}
KIND_COLOURS = {
    "state-change": "info",
    "threshold-breach": "warning",
    "hard-stop": "danger",
    "budget-reset": "success",
}

ALLOWANCE_COLOURS = {"planned": "info", "running": "success", "ended": "default"}


@dataclass(frozen=True, slots=True)
class Card:
    """One figure, with a line that puts it in proportion. `tone`: warning, danger, or none."""

    title: str
    value: str
    note: str
    icon: str
    tone: str = ""
    link: str = ""


# Properties of the style sheet that tell series apart; amber and red are states'. The last is for all the rest.
SERIES_COLOURS = ("--sg-1", "--sg-2", "--sg-3", "--sg-4", "--sg-5", "--sg-6", "--sg-7", "--sg-rest")


@dataclass(frozen=True, slots=True)
class Series:
    """A line or the bars of a chart: dollars as text, None where nothing is drawn; where it has `calls`, their number.

    `links`: what a click on each bar opens.
    """

    name: str
    values: list[str | None]
    colour: str = SERIES_COLOURS[0]
    calls: list[int] | None = None
    links: list[str] | None = None
    dashed: bool = False
    filled: bool = False
    stepped: bool = False


def chart(kind: str, labels: list[str], series: list[Series]) -> dict[str, Any]:
    """The figures that console.js draws in a canvas. `kind`: "bars", which are stacked, or "lines"."""
    drawn = [{key: value for key, value in asdict(each).items() if key != "links"} for each in series]
    return {"kind": kind, "labels": labels, "series": drawn, "links": [each.links for each in series]}


def plain_dollars(nanos: int) -> str:
    """For charts, which draw and do not count."""
    return str(money.dollars_from_nanos(nanos))


def moment(at: datetime | None, style: str = "minute") -> SafeString | str:
    """A moment, which console.js writes in the reader's own zone; its tooltip says it in UTC.

    `style`: "minute", "second", "day" with the weekday, or "year" with the year.
    """
    if at is None:
        return "–"
    utc = at.astimezone(UTC)
    year = f" {utc.year}," if style == "year" else ""
    shown = f"{utc:%b} {utc.day},{year} {utc:%H:%M} UTC"
    return format_html(
        '<time data-moment="{}" datetime="{}" title="{} UTC">{}</time>',
        style,
        at.isoformat(),
        f"{utc:%Y-%m-%d %H:%M:%S}",
        shown,
    )


def dollars(nanos: int | None) -> str:
    """Short: two decimals, four where less than a dollar is no whole number of cents; thousands separated.

    Less than a hundredth of a cent is shown in full: one call may well cost that, and it is not nothing.
    """
    if nanos is None:
        return "–"
    amount = money.dollars_from_nanos(nanos)
    if 0 < abs(nanos) * 100 < NANOS_PER_CENT:
        return f"{'-' if nanos < 0 else ''}${money.format_dollars(abs(nanos))}"
    decimals = 2 if abs(amount) >= 1 or nanos % NANOS_PER_CENT == 0 else 4
    sign = "-" if amount < 0 else ""
    return f"{sign}${abs(amount):,.{decimals}f}"


def plain_micro(nanos: int) -> str:
    """With six decimals, for amounts of calls, which stand below each other."""
    return f"{'-' if nanos < 0 else ''}${abs(money.dollars_from_nanos(nanos)):,.6f}"


def micro(nanos: int | None) -> SafeString | str:
    """The same, with the exact amount in its tooltip."""
    if nanos is None:
        return "–"
    return format_html('<span class="sg-amount" title="${}">{}</span>', money.format_dollars(nanos), plain_micro(nanos))


def link(address: str, words: str) -> SafeString:
    return format_html('<a class="sg-link" href="{}">{}</a>', address, words)


def duration(lasted: timedelta | None) -> str:
    """How long something took: "840 ms", "2.4 s", "3 min", "5 h", "31 d"."""
    if lasted is None:
        return "–"
    seconds = lasted.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} d"


def rate(nanos: int | None) -> str:
    """What one of many costs: six decimals where that is less than a cent."""
    if nanos is None or not 0 < abs(nanos) < NANOS_PER_CENT:
        return dollars(nanos)
    return plain_micro(nanos)


def exact(nanos: int | None) -> SafeString | str:
    """The short amount, with the exact one in its tooltip."""
    if nanos is None:
        return "–"
    return format_html('<span class="sg-amount" title="${}">{}</span>', money.format_dollars(nanos), dollars(nanos))


def percent(share_e4: int | None) -> str:
    """Of ten-thousandths, with one decimal: "12.5%". A dash for none."""
    if share_e4 is None:
        return "–"
    return "0%" if share_e4 == 0 else f"{Decimal(share_e4) / 100:,.1f}%".replace("100.0%", "100%")


def count(number: int | None) -> str:
    """With thousands separated; a dash for none."""
    return "–" if number is None else f"{number:,}"


def bar(status: BudgetStatus, *, soft_cap: Decimal | None, hard_cap: Decimal = Decimal(1)) -> SafeString:
    """Spent and reserved money as two tones of one bar, with a tick at the soft cap."""
    spent = _percent(status.settled_nanos, status.limit_nanos)
    reserved = min(_percent(status.reserved_nanos, status.limit_nanos), 100 - spent)
    context = {
        "spent": f"{spent:.2f}",
        "reserved": f"{reserved:.2f}",
        "soft": f"{soft_cap * 100:.2f}" if soft_cap is not None else None,
        "percent": f"{status.settled_nanos * 100 / status.limit_nanos:.0f}",
        "state": status.state,
        "words": f"{dollars(status.settled_nanos)} spent and {dollars(status.reserved_nanos)} reserved "
        f"of {dollars(status.limit_nanos)}",
    }
    return SafeString(render_to_string("console/bar.html", context))


def _percent(part: int, whole: int) -> float:
    return min(100.0, max(0.0, part * 100 / whole))


def subject_name(window: BudgetWindow) -> str:
    """Whose window it is: "acme", "acme agent:invoices"; of a budget for each, the one it is about."""
    budget = window.budget
    if budget.scope_key != "*" or not window.subject:
        return budget.scope
    if budget.scope_type == "tenant":
        return f"{window.subject} (default)"
    owner, _, name = window.subject.rpartition("/")
    owner = owner or (budget.tenant.slug if budget.tenant else "")
    return f"{owner} {budget.scope_type}:{name}".strip()
