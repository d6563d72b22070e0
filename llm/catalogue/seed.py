"""The catalogue that the product ships, `data/mistral_prices.csv`, and files like it: dollars a million units.

Each line names its source. Units are those of the provider's price list: tokens, pages, minutes of audio. An
installation gets the rows by migrations, which carry copies of their own: a new line here needs one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from governance.rules import money

SEED = Path(__file__).parents[1] / "data" / "mistral_prices.csv"
PROVIDER = "mistral"
PICOS_PER_UNIT_OF_DOLLARS_PER_MILLION = 1_000_000
# What a column of the database holds.
MOST_PICOS = 2**63
# Units of price lists that calls are not counted in, and how many of ours they hold.
PARTS = {"audio_minute": ("audio_second", 60)}


@dataclass(frozen=True, slots=True)
class SeedRow:
    """One line of the seed, in the catalogue's terms; `picos` maps a unit kind to picodollars a unit."""

    model: str
    provider: str
    aliases: tuple[str, ...]
    kinds: tuple[str, ...]
    capabilities: tuple[str, ...]
    context_tokens: int | None
    status: str
    picos: dict[str, int]
    effective_from: datetime | None
    source: str
    # Its rates are of calls with more input tokens than so many.
    above_input_tokens: int = 0


class Malformed(ValueError):
    """A line that cannot be read; the message names the file and the line."""


def rows(path: Path = SEED) -> Iterator[SeedRow]:
    """The lines of the seed, or of a file like it; all columns but model, unit and a rate may be missing there.

    Raises Malformed.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, restval="")
        for line in reader:
            try:
                yield _row(line)
            except (KeyError, ValueError) as error:
                what = f"the column {error} is missing" if isinstance(error, KeyError) else str(error)
                raise Malformed(f"{path.name}, line {reader.line_num}: {what}") from error


def _row(line: dict[str, str]) -> SeedRow:
    def words(column: str, separator: str | None) -> tuple[str, ...]:
        return tuple(line.get(column, "").split(separator)) if line.get(column) else ()

    if not line["model"]:
        raise ValueError("the model has no name")
    return SeedRow(
        model=line["model"],
        provider=line.get("provider") or PROVIDER,
        aliases=words("aliases", "|"),
        kinds=words("kind", "|") or ("chat",),
        capabilities=words("capabilities", None),
        context_tokens=int(line["context_tokens"]) if line.get("context_tokens") else None,
        status=line.get("status") or "ga",
        picos=_picos(line),
        effective_from=_midnight(line.get("effective_from", "")),
        source=line.get("source", ""),
        above_input_tokens=_length(line),
    )


def _picos(line: dict[str, str]) -> dict[str, int]:
    if line["unit"] != "token":
        unit, parts = PARTS.get(line["unit"], (line["unit"], 1))
        return {unit: picos_per_unit(line["usd_per_million_input"], parts=parts)}
    columns = {unit: f"usd_per_million_{unit}" for unit in ("input", "cached_input", "output")}
    return {unit: picos_per_unit(line[column]) for unit, column in columns.items() if line.get(column)}


def picos_per_unit(dollars_per_million: str, *, parts: int = 1) -> int:
    """Picodollars a unit; where a unit of the price list holds `parts` of ours, a fraction is rounded up.

    Raises ValueError for what is finer than a picodollar to begin with.
    """
    try:
        Decimal(dollars_per_million)
    except ArithmeticError as error:
        raise ValueError(f"{dollars_per_million!r} is no price") from error
    try:
        picos = money.decimal(dollars_per_million) * PICOS_PER_UNIT_OF_DOLLARS_PER_MILLION
    except money.AmountError as error:
        raise ValueError(f"{dollars_per_million} is no price") from error
    if not 0 <= picos < MOST_PICOS:
        raise ValueError(f"{dollars_per_million} is no price")
    if picos != picos.to_integral_value():
        raise ValueError(f"{dollars_per_million} dollars a million is finer than a picodollar a unit")
    return -(-int(picos) // parts)


def _length(line: dict[str, str]) -> int:
    above = int(line.get("above_input_tokens") or 0)
    if above < 0 or (above and line["unit"] != "token"):
        raise ValueError("above_input_tokens is a number of tokens, and only tokens have a price of longer calls")
    return above


def _midnight(date: str) -> datetime | None:
    return datetime.fromisoformat(date).replace(tzinfo=UTC) if date else None
