"""The console's page of what was spent: by whom, on what and when, beside the period before, down to the calls."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from governance.api import tables
from governance.console import display, ranges, spend_address, spend_chart, spend_figures, spend_table
from governance.console.base import has_role, may
from governance.console.display import Card
from governance.console.pages import ConsolePage
from governance.console.spend_address import WORDS, Address
from governance.console.spend_figures import Figures
from governance.console.spend_table import HEADS
from governance.models import SpendRollup
from governance.queries import breakdown
from governance.queries.breakdown import Lines, MoreThanRead
from governance.rules import csv_tables
from governance.rules.spend_sums import HOUR, share_e4


def context(request: HttpRequest, now: datetime) -> dict[str, Any] | HttpResponse:
    """The page; its lines as CSV; or the way to the address without the words of its form. Of too many lines the page
    says so.
    """
    address = spend_address.read(request, now)
    if request.GET.get("field") and not address.errors:
        return redirect(address.link())
    shown = {**_address(request, address), "errors": list(address.errors), "heads": HEADS}
    try:
        if request.GET.get("format") == tables.CSV:
            return _csv(address, spend_figures.every(address, now))
        figures = spend_figures.first(address, now)
        chart = spend_chart.draw(address, Lines({each.key: each.sums for each in figures.groups}, figures.count))
    except MoreThanRead as error:
        return shown | {"errors": [*shown["errors"], str(error)], "too_much": True}
    named = {*(name for group in figures.groups for line in (group, *group.within) for name in line.key)}
    return shown | {
        "cards": _cards(address, figures),
        "chart": chart,
        "chart_word": WORDS.get(spend_chart.group_of(address), ""),
        "refused_models": figures.knows_refusals and "model" in {*address.parts, *address.filters},
        "refusals_since": _refusals_since(address, figures, now),
        "any_spend": any(group.sums.cost_nanos for group in figures.groups),
        "lines": spend_table.lines(address, figures),
        "total": spend_table.total(address, figures),
        "csv_has_all": figures.count <= breakdown.MOST_GROUPS,
        "left_out": figures.count - len(figures.groups),
        "compared": _words_of_before(address, figures) if figures.total_before is not None else "",
        "suggested": sorted(name for name in named if isinstance(name, str) and name)[:50],
        "is_new": not figures.groups and not SpendRollup.objects.filter(address.by.scope).exists(),
        "may_add_key": may(request, "governance.add_apikey"),
    }


def _csv(address: Address, figures: Figures) -> HttpResponse:
    rows = spend_table.csv_rows(address, figures)
    answer = HttpResponse(
        "".join(csv_tables.lines_of(rows, spend_table.csv_columns(address))), content_type="text/csv; charset=utf-8"
    )
    days = f"{address.range.first.isoformat()}-{address.range.last.isoformat()}"
    answer["Content-Disposition"] = f'attachment; filename="spend-{days}.csv"'
    return answer


def _address(request: HttpRequest, address: Address) -> dict[str, Any]:
    """What the page's forms and links say."""
    kept = {name: text for name, text in address.query().items() if name not in ("range", "from", "to")}
    return {
        "address": address,
        "range": address.range,
        "ranges": ranges.choices(address.range, kept),
        "kept": kept,
        "times": address.range.query(),
        "groups": [(name, WORDS[name]) for name in address.groups],
        "fields": [(name, WORDS[name]) for name in address.fields],
        "chips": [(WORDS[name], text, address.link(**{name: None})) for name, text in address.filters.items()],
        "group_word": WORDS[address.group],
        "within_word": WORDS.get(address.within, ""),
        "csv": address.link(format="csv"),
        "plain": f"{address.root}spend/",
        "longer": address.link(range="30d", **{"from": None, "to": None}) if address.range.name != "30d" else "",
        "reads_entries": breakdown.needs_entries(address.question(), address.parts),
        "most_entries": f"{breakdown.MOST_ENTRIES:,}",
        "splits_hours": _splits_hours(address),
    }


def _splits_hours(address: Address) -> bool:
    """Whether midnight is within an hour of UTC, by which sums are kept: then that hour is of the day it begins in."""
    offset = address.range.starts_at.utcoffset() or timedelta()
    return bool(offset % HOUR)


def _words_of_before(address: Address, figures: Figures) -> str:
    begin, end = (at.astimezone(address.zone) for at in figures.span_before)
    return f"{begin:%b} {begin.day}, {begin:%H:%M} to {end:%b} {end.day}, {end:%H:%M}"


def _refusals_since(address: Address, figures: Figures, now: datetime) -> str:
    """From when on refused calls are kept, where the range begins before that."""
    since = now - timedelta(days=settings.REFUSALS_DAYS)
    return f"{since:%b} {since.day}" if figures.knows_refusals and address.range.starts_at < since else ""


def _cards(address: Address, figures: Figures) -> list[Card]:
    total, before = figures.total, figures.total_before
    change = spend_table.change(total.cost_nanos, before)
    note = f"{change} · {display.dollars(before)} in the period before" if before else "nothing in the period before"
    cached = f"{display.percent(total.cached_e4)} of the input cached"
    asked, all_calls = total.calls + total.refused, address.calls({})
    return [
        Card("Spent", display.dollars(total.cost_nanos), note, "payments"),
        Card("Calls", f"{total.calls:,}", f"{total.tokens:,} tokens, {cached}", "bolt", link=all_calls),
        Card(
            "A call",
            display.rate(total.call_nanos),
            f"{display.rate(total.thousand_tokens_nanos)} for 1,000 tokens",
            "receipt_long",
        ),
        Card(
            "Estimated",
            display.dollars(total.estimated_nanos),
            f"{display.percent(total.estimated_e4)} of what was spent",
            "rule",
            link=f"{all_calls}&status=estimated",
        ),
        Card(
            "Refused",
            f"{total.refused:,}",
            f"{display.percent(share_e4(total.refused, asked))} of the calls that came",
            "block",
            link=f"{all_calls}&status=refused",
        )
        if figures.knows_refusals
        else Card("Refused", "–", "before any provider was asked", "block"),
    ]


PAGE = ConsolePage(
    title="Spend",
    path="spend/",
    name="spend",
    template="console/spend.html",
    context=context,
    permission=has_role,
)
