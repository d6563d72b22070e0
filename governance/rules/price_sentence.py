"""What a call cost, as the sum that it is: "369 in × $0.15/M + 44 out × $0.60/M = $0.00008175". Pure.

Rates are integer picodollars a unit, costs integer nanodollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from governance.rules import money
from governance.rules.calls import Usage

# Dollars a million tokens, as price lists have it, of picodollars a token; and dollars a page or a second.
_A_MILLION, _ONE = -6, -12


@dataclass(frozen=True, slots=True)
class UnitRates:
    """Picodollars a token, or a unit of what is not counted in tokens: {"page": 4_000_000_000}."""

    input_picos: int = 0
    cached_picos: int = 0
    output_picos: int = 0
    units: Mapping[str, int] = field(default_factory=dict)


def sentence(usage: Usage, rates: UnitRates, *, cost_nanos: int) -> str:
    """The sum that makes `cost_nanos`; empty where these rates do not make it, for it was charged by something else."""
    parts = _parts(usage, rates)
    picos = sum(number * rate for number, _, rate, _ in parts)
    if not parts or money.round_from_picos(picos) != cost_nanos:
        return ""
    told = (f"{number:,} {name} × {_rate(rate, scale)}" for number, name, rate, scale in parts)
    return f"{' + '.join(told)} = ${money.format_dollars(cost_nanos)}"


def _parts(usage: Usage, rates: UnitRates) -> list[tuple[int, str, int, int]]:
    """(how many, of what, picodollars each, power of ten that makes them the dollars of a price list)."""
    if usage.unit != "token":
        rate = rates.units.get(usage.unit)
        name = usage.unit.replace("_", " ") + ("" if usage.units == 1 else "s")
        return [] if rate is None else [(usage.units, name, rate, _ONE)]
    cached = min(usage.cached_tokens, usage.input_tokens)
    counted = (
        (usage.input_tokens - cached, "in", rates.input_picos, _A_MILLION),
        (cached, "cached", rates.cached_picos, _A_MILLION),
        (usage.output_tokens, "out", rates.output_picos, _A_MILLION),
    )
    return [part for part in counted if part[0]]


def listed(picos: int, *, units: int = 1) -> str:
    """Dollars of so many units at a rate, as price lists have them: "$0.15", "$0.015", "$7.50"."""
    dollars = (Decimal(picos) * units).scaleb(_ONE).normalize()
    # A whole number of cents, or all the decimals that there are.
    exponent = dollars.as_tuple().exponent
    return f"${dollars:,.2f}" if isinstance(exponent, int) and exponent >= -2 else f"${dollars:,f}"


def a_million(picos: int) -> str:
    """The same of a million: "$0.15"."""
    return listed(picos, units=1_000_000)


def _rate(picos: int, scale: int) -> str:
    return f"{a_million(picos)}/M" if scale == _A_MILLION else listed(picos)
