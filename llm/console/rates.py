"""How prices of models look in the console: dollars a million tokens, or a page, or a minute."""

from __future__ import annotations

from django.utils.html import format_html
from django.utils.safestring import SafeString

from governance.rules import price_sentence
from llm.rules import price_periods
from llm.rules.pricing import Rates


def token_cells(rates: Rates | None) -> tuple[str, str, str]:
    """In, cached, out, a million tokens; dashes where there is no such price."""
    if rates is None or not rates.by_token:
        return ("–", "–", "–")
    picos = (rates.input_picos, rates.cached_picos, rates.output_picos)
    found = [price_sentence.a_million(each) for each in picos]
    return (found[0], found[1], found[2])


def unit_words(rates: Rates | None) -> str:
    """What is not counted in tokens: "$4.00 per 1,000 pages"; empty where all is."""
    return " · ".join(price_periods.of_unit(unit, picos) for unit, picos in rates.units.items()) if rates else ""


def cell(unit: str, picos: int | None) -> SafeString | str:
    """A price of one unit as a table has it, the exact rate in its tooltip."""
    if picos is None:
        return "–"
    shown = price_sentence.a_million(picos) if unit in price_periods.TOKENS else price_periods.of_unit(unit, picos)
    return format_html('<span class="sg-amount" title="{} picodollars a unit">{}</span>', f"{picos:,}", shown)


def tokens(number: int | None) -> str:
    """How much a model reads: "256k", "1M"; a dash where nobody says."""
    if number is None:
        return "–"
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.4g}{letter}"
    return str(number)
