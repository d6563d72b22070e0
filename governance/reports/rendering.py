"""A report as people read it: HTML for mail programs, the same as plain text, and its figures as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.template.loader import render_to_string
from django.urls import reverse

from governance.queries.report_figures import FiguresOf, NearCap, ReportFigures, ReportTable
from governance.reports import charts
from governance.reports.charts import ChartBar
from governance.rules import alerting, csv_tables, money
from governance.rules.report_periods import Cadence
from governance.rules.spend_sums import change_e4
from governance.upkeep.budget_notices import capital, dollars, name_of

CHART = "chart"
LONGEST_NAME = 48
COLUMNS = ("group", "name", "of", "cost", "calls", "input_tokens", "output_tokens", "refused", "cost_before")
HEADS = {"customer": "Customers", "agent": "Agents", "model": "Models"}
NO_NAME = "not named"


@dataclass(frozen=True, slots=True)
class RenderedReport:
    """`html` names the chart as it was asked for; `chart` is that picture, empty where nothing was spent."""

    subject: str
    text: str
    html: str
    csv: str
    file_name: str
    chart: bytes


def render(
    figures: ReportFigures, *, image: Callable[[bytes], str], unsubscribe: str = "", is_test: bool = False
) -> RenderedReport:
    """`image`: how the picture is named in the HTML. Without an `unsubscribe` link nobody is told of one."""
    bars = _bars(figures)
    chart = charts.png(bars) if any(bar.nanos for bar in bars) else b""
    context = {
        **_words(figures),
        "image": image(chart) if chart else "",
        "unsubscribe": unsubscribe,
        "is_test": is_test,
        "console": settings.APP_URL,
        "width": charts.WIDTH,
        "height": charts.HEIGHT,
    }
    period = figures.period
    return RenderedReport(
        subject=alerting.one_line(("Test: " if is_test else "") + context["title"], 200),
        text=render_to_string("reports/report.txt", context).strip() + "\n",
        html=render_to_string("reports/report.html", context),
        csv="".join(csv_tables.lines_of(_rows(figures), COLUMNS)),
        file_name=f"spend-{_whose(figures)}-{period.first.isoformat()}-{period.last.isoformat()}.csv",
        chart=chart,
    )


def _whose(figures: ReportFigures) -> str:
    return figures.tenant.slug if figures.tenant else "all"


def _words(figures: ReportFigures) -> dict[str, Any]:
    """What both templates say."""
    total, before, period = figures.total, figures.before, figures.period
    name = shown(figures.tenant.name) if figures.tenant else "All customers"
    return {
        "title": f"{name}: {dollars(total.cost_nanos)} in {period.title}",
        "name": name,
        "period": period.title,
        "cadence": period.cadence.value,
        "zone": str(period.zone),
        "spent": dollars(total.cost_nanos),
        "change": change(total.cost_nanos, before.cost_nanos),
        "before": dollars(before.cost_nanos),
        "before_title": "the month before" if period.cadence is Cadence.MONTHLY else "the week before",
        "calls": f"{total.calls:,}",
        "calls_before": f"{before.calls:,}",
        "refused": f"{total.refused:,}",
        "refused_before": f"{before.refused:,}",
        "is_empty": not (total.cost_nanos or total.calls or total.refused),
        "summary": _summary(figures),
        "days": [
            (f"{day:%a} {day.day} {day:%b}", dollars(sums.cost_nanos))
            for day, sums in figures.days.items()
            if sums.cost_nanos
        ],
        "tables": [_table(kind, table, figures) for kind, table in figures.tables.items() if table.lines],
        "budgets": [_budget(one, figures) for one in figures.budgets],
        "made_at": _moment(figures.made_at, figures),
        "savings": list(_savings(figures)),
        "link": _link(figures),
    }


def shown(name: str) -> str:
    """A name that anybody chose, on one line and not too long for a table."""
    return alerting.one_line(name, LONGEST_NAME) or NO_NAME


def change(now_nanos: int, before_nanos: int) -> str:
    """ "+12.5 %", "no change", "new", beside the period before."""
    found = change_e4(now_nanos, before_nanos)
    if found is None:
        return "new" if now_nanos else "–"
    return f"{found / 100:+,.1f} %" if found else "no change"


def _summary(figures: ReportFigures) -> str:
    """The chart in words, for whoever does not see it."""
    if not any(sums.cost_nanos for sums in figures.days.values()):
        return ""
    day, sums = max(figures.days.items(), key=lambda item: item[1].cost_nanos)
    return f"Most was spent on {day:%A} {day.day} {day:%B}: {dollars(sums.cost_nanos)}."


def _bars(figures: ReportFigures) -> Sequence[ChartBar]:
    is_month = figures.period.cadence is Cadence.MONTHLY
    return [
        ChartBar(str(day.day) if is_month else f"{day:%a} {day.day}", dollars(sums.cost_nanos), sums.cost_nanos)
        for day, sums in figures.days.items()
    ]


def _table(kind: str, table: ReportTable, figures: ReportFigures) -> dict[str, Any]:
    most = max(1, *(line.sums.cost_nanos for line in table.lines))
    return {
        "head": HEADS[kind],
        "lines": [
            {
                "name": shown(line.key[-1]),
                "of": shown(line.key[0]) if len(line.key) > 1 and figures.tenant is None else "",
                "cost": dollars(line.sums.cost_nanos),
                "calls": f"{line.sums.calls:,}",
                "refused": f"{line.sums.refused:,}" if line.sums.refused else "",
                "change": change(line.sums.cost_nanos, line.before_nanos),
                "width": min(100, max(0, round(100 * line.sums.cost_nanos / most))),
            }
            for line in table.lines
        ],
        "more": f"{table.left_out:,} more: {dollars(table.rest.cost_nanos)}" if table.left_out > 0 else "",
    }


def _budget(near: NearCap, figures: ReportFigures) -> dict[str, str]:
    status = near.status
    if near.is_used_up:
        when = "It is used up."
    elif near.runs_out_at is not None:
        when = f"At this rate it runs out on {_moment(near.runs_out_at, figures)}."
    else:
        when = "It lasts until it resets." if near.lasts and status.ends_at else ""
    return {
        "name": shown_long(capital(name_of(near.window))),
        "spent": f"{dollars(status.settled_nanos)} of {dollars(status.cap_nanos)}",
        "share": f"{status.settled_nanos * 100 // status.cap_nanos} %",
        "when": when,
    }


def shown_long(text: str) -> str:
    return alerting.one_line(text, 2 * LONGEST_NAME)


def _savings(figures: ReportFigures) -> Iterator[str]:
    found = figures.savings
    if found.downgrades.calls:
        calls = f"{found.downgrades.calls:,} calls that budgets moved to a cheaper model"
        yield f"{dollars(found.downgrades.nanos)} by {calls}."
    if found.cached_nanos > 0:
        yield f"{dollars(found.cached_nanos)} by input that came from providers' caches."
    if found.prevented:
        most = dollars(found.prevented_nanos)
        yield f"{found.prevented:,} calls were refused by caps; they would have cost {most} at most."
    if found.clamped:
        yield f"{found.clamped:,} answers were kept shorter, so that they fit their budgets."
    if found.since is not None:
        yield f"Calls that were moved or kept shorter are counted from {_moment(found.since, figures)} on alone."


def _moment(at: datetime, figures: ReportFigures) -> str:
    local = at.astimezone(figures.period.zone)
    return f"{local:%A} {local.day} {local:%B}, {local:%H:%M}"


def _link(figures: ReportFigures) -> str:
    """The console's page of the same days."""
    asked = {"range": "custom", "from": figures.period.first.isoformat(), "to": figures.period.last.isoformat()}
    if figures.tenant is not None:
        asked["tenant"] = figures.tenant.slug
    return f"{settings.APP_URL}{reverse('admin:spend')}?{urlencode(asked)}"


def _rows(figures: ReportFigures) -> Iterator[dict[str, Any]]:
    """One line for each figure of the report; names whole, amounts exact."""
    for day, sums in figures.days.items():
        yield _row("day", day.isoformat(), "", FiguresOf((), sums, 0)) | {"cost_before": ""}
    for kind, table in figures.tables.items():
        for line in table.lines:
            yield _row(kind, line.key[-1], line.key[0] if len(line.key) > 1 else "", line)
        if table.left_out > 0:
            yield _row(kind, f"{table.left_out} more", "", FiguresOf((), table.rest, 0)) | {"cost_before": ""}
    yield _row("total", "", "", FiguresOf((), figures.total, figures.before.cost_nanos))


def _row(kind: str, name: str, of: str, line: FiguresOf) -> dict[str, Any]:
    sums = line.sums
    return {
        "group": kind,
        "name": name,
        "of": of,
        "cost": money.format_dollars(sums.cost_nanos),
        "calls": sums.calls,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "refused": sums.refused,
        "cost_before": money.format_dollars(line.before_nanos),
    }
