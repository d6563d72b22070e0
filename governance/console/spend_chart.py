"""The chart of what was spent over time: the dearest groups stacked, and the rest; a click leads to that slice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from governance.console import display, spend_table
from governance.console.display import SERIES_COLOURS, Series
from governance.console.spend_address import Address
from governance.queries import breakdown
from governance.queries.breakdown import GROUPS, TIMES, Key, Lines
from governance.rules.spend_sums import HOUR, NOTHING, SpendSums, whole_hour

TOP, REST = len(SERIES_COLOURS) - 1, "All others"
# Of more days than these each bar is a week.
MOST_BARS = 100
DAY, WEEK = timedelta(days=1), timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Chart:
    """`figures` are console.js's; `table` is the same to read: each bar's label and its amounts, under `names`."""

    figures: dict[str, Any]
    names: Sequence[str]
    table: Sequence[tuple[str, Sequence[str]]]
    unit: str


@dataclass(frozen=True, slots=True)
class _Bars:
    """`begins`: the hour, the day or the Monday that each bar begins with."""

    unit: str
    begins: Sequence[date]

    @property
    def part(self) -> str:
        """By what sums are read for them."""
        return "hour" if self.unit == "hour" else "day"

    def of(self, value: Any) -> Any:
        return value - timedelta(days=value.weekday()) if self.unit == "week" else value


def group_of(address: Address) -> str:
    """What the chart tells apart: the first group that is no time; empty where there is none."""
    return next((name for name in (address.group, address.within) if name and name not in TIMES), "")


def draw(address: Address, groups: Lines) -> Chart:
    """`groups` are the table's, the dearest first. Raises MoreThanRead."""
    bars, parts, question = _bars(address), GROUPS.get(group_of(address), ()), address.question()
    if parts and group_of(address) != address.group:
        groups = breakdown.first(question, parts, most=TOP)
    top = [key for key, sums in groups.found.items() if sums.cost_nanos][:TOP] if parts else []
    sums = _summed(breakdown.costs(question, (*parts, bars.part), of=parts, only=top), bars)
    columns = [(name_of(address, parts, key), dict(zip(parts, key, strict=True)), sums[key]) for key in top]
    rest: defaultdict[Any, SpendSums] = defaultdict(lambda: NOTHING)
    if not parts or groups.count > len(top):
        rest = _summed(breakdown.costs(question, (bars.part,)), bars)[()]
        for _, _, own in columns:
            for begin, part in own.items():
                rest[begin] -= part
    if any(left.cost_nanos for left in rest.values()) or not columns:
        columns.append((REST if columns else "Spent", {}, rest))
    series = [
        _series(address, bars, named, own, name, SERIES_COLOURS[-1] if name == REST else colour)
        for (name, named, own), colour in zip(columns, SERIES_COLOURS, strict=False)
    ]
    labels = [_label(address, bars, begin) for begin in bars.begins]
    amounts = [[display.dollars(own[begin].cost_nanos) for _, _, own in columns] for begin in bars.begins]
    return Chart(
        display.chart("bars", labels, series),
        [each.name for each in series],
        list(zip(labels, amounts, strict=True)),
        bars.unit,
    )


def _bars(address: Address) -> _Bars:
    shown = address.range
    if shown.is_of_hours:
        begin, end = whole_hour(shown.starts_at), whole_hour(shown.ends_at)
        return _Bars("hour", [begin + HOUR * count for count in range((end - begin) // HOUR)])
    days = [shown.first + DAY * count for count in range((shown.last - shown.first).days + 1)]
    if len(days) <= MOST_BARS:
        return _Bars("day", days)
    return _Bars("week", sorted({day - timedelta(days=day.weekday()) for day in days}))


def _summed(found: Mapping[Key, SpendSums], bars: _Bars) -> defaultdict[Key, defaultdict[Any, SpendSums]]:
    """For each group the sums of each bar."""
    summed: defaultdict[Key, defaultdict[Any, SpendSums]] = defaultdict(lambda: defaultdict(lambda: NOTHING))
    for key, sums in found.items():
        summed[key[:-1]][bars.of(key[-1])] += sums
    return summed


def _series(
    address: Address, bars: _Bars, named: Mapping[str, Any], own: Mapping[Any, SpendSums], name: str, colour: str
) -> Series:
    return Series(
        name,
        [display.plain_dollars(own[begin].cost_nanos) for begin in bars.begins],
        colour,
        calls=[own[begin].calls for begin in bars.begins],
        links=[_link(address, bars, named, begin) for begin in bars.begins],
    )


def _link(address: Address, bars: _Bars, named: Mapping[str, Any], begin: date) -> str:
    if bars.unit != "week":
        return address.slice_of({**named, bars.part: begin})
    first, last = max(begin, address.range.first), min(begin + WEEK - DAY, address.range.last)
    return address.slice_of(named, days=(first, last))


def name_of(address: Address, parts: Sequence[str], key: Key) -> str:
    """What a group is called in the chart."""
    return " / ".join(spend_table.label(part, value, address) for part, value in zip(parts, key, strict=True))


def _label(address: Address, bars: _Bars, begin: date) -> str:
    if isinstance(begin, datetime):
        local = begin.astimezone(address.zone)
        return f"{local:%H:%M}" if local.hour else f"{local:%b} {local.day}"
    return f"{begin:%b} {begin.day}"
