"""The figures of the page of what was spent: its first groups and lines, or all of them, beside the period before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from governance.console import ranges
from governance.console.spend_address import Address, Span
from governance.queries import breakdown
from governance.queries.breakdown import DAY, GROUPS, TIMES, Key, Lines, MoreThanRead
from governance.rules.spend_sums import NOTHING, SpendSums

# Of a page; the CSV has them all.
MOST_GROUPS, MOST_WITHIN = 50, 6
# Of more groups than these all that there were before are read, instead of these by their names.
MOST_NAMED = 1_000


@dataclass(frozen=True, slots=True)
class FigureLine:
    """Its figures, and its cost of the period before: None where there is nothing to compare with."""

    key: Key
    sums: SpendSums
    before: int | None


@dataclass(frozen=True, slots=True)
class Group(FigureLine):
    """With the first lines within it, in the order they are shown in, and how many there are."""

    within: Sequence[FigureLine] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """`count`: how many groups there are, `total` what all of them come to."""

    groups: Sequence[Group]
    count: int
    total: SpendSums
    total_before: int | None
    span_before: Span
    link_before: str
    knows_refusals: bool


def first(address: Address, now: datetime) -> Figures:
    """What a page shows. Raises MoreThanRead."""
    question, parts, size = address.question(), address.parts, len(GROUPS[address.group])
    groups = breakdown.first(question, parts[:size], most=MOST_GROUPS)
    within = breakdown.within(question, parts, size, of=groups.found, most=MOST_WITHIN) if address.within else {}
    return _beside(address, now, groups, within)


def every(address: Address, now: datetime) -> Figures:
    """All lines, for a table of them. Raises MoreThanRead."""
    size, within = len(GROUPS[address.group]), defaultdict[Key, dict[Key, SpendSums]](dict)
    for key, sums in breakdown.every(address.question(), address.parts).items():
        within[key[:size]][key] = sums
    summed = {key: sum(lines.values(), NOTHING) for key, lines in within.items()}
    groups = Lines(
        {key: summed[key] for key in _ordered(address.group, summed)}, len(summed), sum(summed.values(), NOTHING)
    )
    ordered = {
        key: Lines({each: lines[each] for each in _ordered(address.within, lines)}, len(lines))
        for key, lines in within.items()
    }
    return _beside(address, now, groups, ordered)


def _ordered(group: str, summed: Mapping[Key, SpendSums]) -> list[Key]:
    if group in TIMES:
        return sorted(summed, reverse=True)
    return sorted(summed, key=lambda key: (-summed[key].cost_nanos, -summed[key].refused, key))


def _beside(address: Address, now: datetime, groups: Lines, within: Mapping[Key, Lines]) -> Figures:
    span = address.before(now)
    total = _total_before(address, span)
    size, inner = len(GROUPS[address.group]), [key for lines in within.values() for key in lines.found]
    of_groups = _before(address, span, address.parts[:size], groups.found, total)
    of_lines = _before(address, span, address.parts, inner, total)
    return Figures(
        groups=[
            Group(
                key,
                sums,
                of_groups.get(key),
                [FigureLine(each, own, of_lines.get(each)) for each, own in within[key].found.items()]
                if key in within
                else [],
                within[key].count if key in within else 0,
            )
            for key, sums in groups.found.items()
        ],
        count=groups.count,
        total=groups.total,
        total_before=total,
        span_before=span,
        link_before=address.link(**ranges.hours(*span)),
        knows_refusals=breakdown.knows_refusals(address.question(), address.parts),
    )


def _total_before(address: Address, span: Span) -> int | None:
    """None where nothing was charged then, or too much to read it."""
    try:
        return breakdown.total_until(address.question(span), address.parts)
    except MoreThanRead:
        return None


def _before(
    address: Address, span: Span, parts: Sequence[str], keys: Iterable[Key], total: int | None
) -> dict[Key, int]:
    """For each group its cost of the period before, where there are groups to compare it with."""
    if total is None:
        return {}
    earlier = {key: was for key in keys if (was := _earlier(address, parts, key)) is not None}
    only = set(earlier.values()) if len(earlier) <= MOST_NAMED else None
    try:
        found = breakdown.costs_until(address.question(span), parts, only=only)
    except MoreThanRead:
        return {}
    return {key: found.get(was, 0) for key, was in earlier.items()}


def _earlier(address: Address, parts: Sequence[str], key: Key) -> Key | None:
    """The group that is compared with: the same, and of times those as far on in the period before.

    None where none is: a range of hours that is no multiple of 24 has parts of days at other hours, and the 25th hour
    of a day has none in the day before.
    """
    begin, before = address.range.starts_at.astimezone(UTC), address.range.begin_before.astimezone(UTC)
    days = (address.range.starts_at.date() - address.range.begin_before.date()).days
    if "day" in parts and address.range.by_hour and (begin - before) % DAY:
        return None
    if "hour" in parts and key[parts.index("hour")] - (begin - before) >= begin:
        return None
    return tuple(
        value
        if part not in TIMES
        else value - (begin - before)
        if isinstance(value, datetime)
        else value - timedelta(days=days)
        for part, value in zip(parts, key, strict=True)
    )
