"""What a model cost from when until when: its price rows put together to periods, and said in words. Pure.

Rates are integer picodollars a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from governance.rules import money, price_sentence

# How price lists say what a unit costs: of how many, and what these are called.
LISTED_BY: Mapping[str, tuple[int, str]] = {
    **dict.fromkeys(("input", "cached_input", "output"), (1_000_000, "a million")),
    "page": (1_000, "per 1,000 pages"),
    "annotated_page": (1_000, "per 1,000 annotated pages"),
    "audio_second": (60, "a minute of audio"),
    "call": (1, "a call"),
}
TOKENS: Mapping[str, str] = {"input": "in", "cached_input": "cached", "output": "out"}
_EVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PriceLine:
    """A price of one unit, from a moment on; None: since before our records."""

    unit: str
    picos: int
    begins_at: datetime | None
    source: str = ""


@dataclass(frozen=True, slots=True)
class PricePeriod:
    """[begins_at, ends_at) at which all of a model's prices stayed the same; None: no beginning, or no end."""

    begins_at: datetime | None
    ends_at: datetime | None
    picos: Mapping[str, int]
    sources: tuple[str, ...] = ()

    def covers(self, at: datetime) -> bool:
        return (self.begins_at or _EVER) <= at and (self.ends_at is None or at < self.ends_at)


def periods(lines: Iterable[PriceLine]) -> list[PricePeriod]:
    """The periods that the lines of one place make, the first first: of each unit the line counts that began last."""
    found: list[PricePeriod] = []
    picos: dict[str, int] = {}
    by_moment: dict[datetime | None, list[PriceLine]] = {}
    for line in lines:
        by_moment.setdefault(line.begins_at, []).append(line)
    for moment in sorted(by_moment, key=lambda at: at or _EVER):
        begun = by_moment[moment]
        picos = picos | {line.unit: line.picos for line in begun}
        if found and found[-1].picos == picos:
            continue
        if found:
            last = found[-1]
            found[-1] = PricePeriod(last.begins_at, moment, last.picos, last.sources)
        sources = tuple(dict.fromkeys(line.source for line in begun if line.source))
        found.append(PricePeriod(moment, None, picos, sources))
    return found


def words(picos: Mapping[str, int]) -> str:
    """Prices as a sentence says them: "$0.15 in, $0.015 cached and $0.60 out a million tokens"."""
    parts = [f"{price_sentence.a_million(picos[unit])} {name}" for unit, name in TOKENS.items() if unit in picos]
    if parts:
        parts[-1] += " a million tokens"
    parts += [of_unit(unit, rate) for unit, rate in picos.items() if unit not in TOKENS]
    return joined(parts)


def of_unit(unit: str, picos: int) -> str:
    """The price of one unit: "$0.15 a million", "$4.00 per 1,000 pages"."""
    units, called = LISTED_BY.get(unit, (1, f"a {unit.replace('_', ' ')}"))
    # A rate is a whole number of picodollars: of many units its rounding shows, which no price list has.
    whole_nanos = money.round_from_picos(picos * units) * 1_000
    return f"{price_sentence.listed(whole_nanos)} {called}"


def change_words(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """What became dearer and cheaper: "in +33.3%, out -10%"; empty where nothing did."""
    parts = [
        f"{TOKENS.get(unit, unit.replace('_', ' '))} {_change(before.get(unit), picos)}"
        for unit, picos in after.items()
        if before.get(unit) != picos
    ]
    return ", ".join(parts)


def _change(was: int | None, now: int) -> str:
    if was is None:
        return "is new"
    if not was:
        return "is no longer free"
    return f"{(Decimal(now - was) * 100 / was).quantize(Decimal('0.1')).normalize():+f}%"


def joined(parts: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([*([", ".join(parts[:-1])] if len(parts) > 1 else []), *parts[-1:]])
