"""How prices of models look in the console: dollars a million tokens, or a page, or a minute."""

from __future__ import annotations

from django.utils.html import format_html
from django.utils.safestring import SafeString

from governance.rules import price_sentence
from llm.rules import price_periods
from llm.rules.pricing import Rates


def token_cells(rates: Rates | None, *, writes: bool = True) -> tuple[str, str, str]:
    """In, cached, out, a million tokens; dashes where there is no such price. `writes`: its answers are tokens."""
    if rates is None or not rates.by_token:
        return ("–", "–", "–")
    out = million(rates.output_picos) if writes or rates.output_picos else "–"
    return (million(rates.input_picos), million(rates.cached_picos), out)


def million(picos: int) -> str:
    return price_sentence.a_million(picos) if picos else "free"


def unit_words(rates: Rates | None) -> list[str]:
    """What is not counted in tokens: "$4.00 per 1,000 pages"; nothing where all is."""
    return [price_periods.of_unit(unit, picos) for unit, picos in sorted(rates.units.items())] if rates else []


def cell(unit: str, picos: int | None) -> SafeString | str:
    """A price of one unit as a table has it, the exact rate in its tooltip."""
    if picos is None:
        return "–"
    shown = million(picos) if unit in price_periods.TOKENS else price_periods.of_unit(unit, picos)
    return format_html('<span class="sg-amount" title="{} picodollars a unit">{}</span>', f"{picos:,}", shown)


def tokens(number: int | None) -> str:
    """How much a model reads: "256k", "1M"; a dash where nobody says."""
    if number is None:
        return "–"
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.4g}{letter}"
    return str(number)
