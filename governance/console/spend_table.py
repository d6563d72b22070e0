"""The table of what was spent: a line for each group, those within it below, and the same lines as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import Any

from django.utils.safestring import SafeString

from governance.console import display
from governance.console.spend_address import Address
from governance.console.spend_figures import FigureLine, Figures, Group
from governance.queries.breakdown import GROUPS
from governance.rules import money
from governance.rules.spend_sums import WHOLE_E4, SpendSums, change_e4, share_e4

# From ten times on, a change reads better as how many times it is.
MANY_TIMES_E4 = 9 * WHOLE_E4
HEADS = (
    ("Cost", "What was spent"),
    ("Share", "Of all that was spent"),
    ("Change", "Of the cost, against the period before"),
    ("Calls", "Calls that were charged"),
    ("A call", "What a call cost on average"),
    ("1,000 tokens", "What a thousand tokens cost on average, input and output together"),
    ("Cached", "Share of the input tokens that came from a provider's cache"),
    ("Estimated", "Share of the cost that was charged at an estimate"),
    ("Refused", "Calls that were refused: they cost nothing"),
)
NO_STOP = ' tabindex="-1"'
BAR = '<span class="sg-track sg-thin" aria-hidden="true"><span class="sg-spent" style="width: {}%"></span></span>'
MEASURES = (
    *("cost", "share", "cost_before", "change", "calls", "cost_a_call", "cost_a_thousand_tokens"),
    *("input_tokens", "cached_tokens", "output_tokens", "cached_share", "estimated_cost", "estimated_share", "refused"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure and what it leads to. `title` says it exactly; `again`: where another cell leads too, so no tab stop."""

    place: int
    label: str
    text: str
    link: str = ""
    title: str = ""
    percent: str = ""
    again: bool = False

    @property
    def html(self) -> SafeString:
        """Made here: a page has two thousand of them, each of which takes ten times as long in a template."""
        kind = f"sg-cell-{self.place}" + (" sg-mute" if self.text in ("0", "0%", "–") else "")
        title = f' title="{escape(self.title)}"' if self.title else ""
        bar = BAR.format(self.percent) if self.percent else ""
        shown = escape(self.text)
        if self.link:
            shown = f'<a href="{escape(self.link)}"{NO_STOP if self.again else ""}>{shown}</a>'
        return SafeString(f'<td role="cell" class="{kind}" data-label="{self.label}"{title}>{bar}{shown}</td>')


@dataclass(frozen=True, slots=True)
class SpendLine:
    """`names` are the parts of the group's name. `more`: how many lines are left out below it."""

    names: Sequence[str]
    link: str
    cells: Sequence[Cell]
    within: Sequence[SpendLine] = ()
    more: int = 0


def lines(address: Address, figures: Figures) -> list[SpendLine]:
    return [_line(address, figures, group) for group in figures.groups]


def total(address: Address, figures: Figures) -> SpendLine:
    return SpendLine(["Total"], "", _cells(address, figures, {}, FigureLine((), figures.total, figures.total_before)))


def csv_columns(address: Address) -> list[str]:
    return [*address.parts, *MEASURES]


def csv_rows(address: Address, figures: Figures) -> Iterator[dict[str, Any]]:
    """All lines in the table's order, then the total. Amounts are dollars; shares and changes are of one."""
    for group in figures.groups:
        for line in group.within:
            named = {part: _text(value, address) for part, value in zip(address.parts, line.key, strict=True)}
            yield named | _measures(figures, line.sums, line.before)
    nameless = dict.fromkeys(address.parts, "") | {address.parts[0]: "total"}
    yield nameless | _measures(figures, figures.total, figures.total_before)


def label(part: str, value: Any, address: Address) -> str:
    """A part of a group's name as people read it."""
    if part == "day":
        return f"{value:%a, %b} {value.day}"
    if part == "hour":
        local = value.astimezone(address.zone)
        return f"{local:%b} {local.day}, {local:%H:%M %Z}"
    return value or "not named"


def _line(address: Address, figures: Figures, group: Group) -> SpendLine:
    named = dict(zip(address.parts, group.key, strict=False))
    return SpendLine(
        names=[label(part, value, address) for part, value in named.items()],
        link=address.slice_of(named),
        cells=_cells(address, figures, named, group),
        within=[_line_within(address, figures, line) for line in group.within],
        more=max(0, group.count - len(group.within)),
    )


def _line_within(address: Address, figures: Figures, line: FigureLine) -> SpendLine:
    size, named = len(GROUPS[address.group]), dict(zip(address.parts, line.key, strict=True))
    return SpendLine(
        names=[label(part, value, address) for part, value in list(named.items())[size:]],
        link=address.slice_of(named),
        cells=_cells(address, figures, named, line),
    )


def _cells(address: Address, figures: Figures, named: Mapping[str, Any], line: FigureLine) -> list[Cell]:
    calls, sums, before = address.calls(named), line.sums, line.before
    of_status = {status: f"{calls}&status={status}" if calls else "" for status in ("served", "estimated", "refused")}
    share = share_e4(sums.cost_nanos, figures.total.cost_nanos)
    found = [
        (display.dollars(sums.cost_nanos), calls, f"${money.format_dollars(sums.cost_nanos)}"),
        (display.percent(share), calls, ""),
        (change(sums.cost_nanos, before), figures.link_before, _against(before)),
        (f"{sums.calls:,}", of_status["served"], ""),
        (display.rate(sums.call_nanos), calls, ""),
        (display.rate(sums.thousand_tokens_nanos), calls, f"{sums.tokens:,} tokens"),
        (display.percent(sums.cached_e4), calls, f"{sums.cached_tokens:,} of {sums.input_tokens:,} input tokens"),
        (
            display.percent(sums.estimated_e4),
            of_status["estimated"] if sums.estimated_nanos else calls,
            f"${money.format_dollars(sums.estimated_nanos)}",
        ),
        (
            f"{sums.refused:,}" if figures.knows_refusals else "–",
            of_status["refused"] if figures.knows_refusals else "",
            "" if figures.knows_refusals else "A refused call reached no provider",
        ),
    ]
    shown = [
        Cell(place, head, *cell, again=cell[1] == calls)
        for place, ((head, _), cell) in enumerate(zip(HEADS, found, strict=True), start=1)
    ]
    bar = str((share or 0) / (WHOLE_E4 // 100))
    return [replace(shown[0], again=False), replace(shown[1], percent=bar), *shown[2:]]


def change(now: int, before: int | None) -> str:
    """Such as "+12.5%", or "×12"."""
    if before is None:
        return "–"
    found = change_e4(now, before)
    if found is None:
        return "new" if now > 0 else "–"
    if found >= MANY_TIMES_E4:
        return f"×{(found + WHOLE_E4) // WHOLE_E4:,}"
    return f"{'+' if found > 0 else ''}{display.percent(found)}"


def _against(before: int | None) -> str:
    return "" if before is None else f"{display.dollars(before)} in the period before"


def _text(value: Any, address: Address) -> str:
    if isinstance(value, datetime):
        return value.astimezone(address.zone).isoformat()
    return str(value)


def _measures(figures: Figures, sums: SpendSums, before: int | None) -> dict[str, Any]:
    return {
        "cost": _dollars(sums.cost_nanos),
        "share": _of_one(share_e4(sums.cost_nanos, figures.total.cost_nanos)),
        "cost_before": _dollars(before),
        "change": None if before is None else _of_one(change_e4(sums.cost_nanos, before)),
        "calls": sums.calls,
        "cost_a_call": _dollars(sums.call_nanos),
        "cost_a_thousand_tokens": _dollars(sums.thousand_tokens_nanos),
        "input_tokens": sums.input_tokens,
        "cached_tokens": sums.cached_tokens,
        "output_tokens": sums.output_tokens,
        "cached_share": _of_one(sums.cached_e4),
        "estimated_cost": _dollars(sums.estimated_nanos),
        "estimated_share": _of_one(sums.estimated_e4),
        "refused": sums.refused if figures.knows_refusals else None,
    }


def _dollars(nanos: int | None) -> str | None:
    return None if nanos is None else money.format_dollars(nanos)


def _of_one(e4: int | None) -> str | None:
    return None if e4 is None else f"{Decimal(e4) / WHOLE_E4:.4f}"
