"""What prices come to, in a currency's smallest unit. Pure, and Stripe's arithmetic rather than ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any

Price = Mapping[str, Any]
# https://docs.stripe.com/currencies: amounts without a smaller unit, and those whose last digits are always noughts.
ZERO_DECIMAL = frozenset(
    "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split()  # noqa: SIM905
)
STEPS = {"bhd": 10, "jod": 10, "kwd": 10, "omr": 10, "tnd": 10, "isk": 100, "ugx": 100}


def of_price(price: Price, quantity: int) -> int:
    """What a quantity costs for one whole interval."""
    return rounded(_exact(price, quantity), price["currency"])


def part(amount: int, numerator: int, denominator: int, currency: str) -> int:
    """The share of an amount that a part of its period is."""
    return rounded(Decimal(amount) * numerator / denominator, currency) if denominator else 0


def rounded(amount: Decimal, currency: str) -> int:
    """Half away from nothing, to the smallest amount that the currency can be charged in."""
    step = STEPS.get(currency, 1)
    return int((amount / step).quantize(Decimal(1), ROUND_HALF_UP)) * step


def in_words(amount: int, currency: str) -> str:
    """As a person reads it: 1 234.50 USD."""
    digits = 0 if currency in ZERO_DECIMAL else 3 if STEPS.get(currency) == 10 else 2
    return f"{Decimal(amount).scaleb(-digits):,.{digits}f} {currency.upper()}"


def _exact(price: Price, quantity: int) -> Decimal:
    if price["billing_scheme"] == "tiered":
        return _tiered(price["tiers"], price["tiers_mode"], quantity)
    packages = price.get("transform_quantity")
    units = Decimal(quantity)
    if packages:
        how = ROUND_CEILING if packages["round"] == "up" else ROUND_DOWN
        units = (units / packages["divide_by"]).quantize(Decimal(1), how)
    return units * Decimal(price["unit_amount_decimal"])


def _tiered(tiers: Sequence[Mapping[str, Any]], mode: str, quantity: int) -> Decimal:
    """Volume: all units at the price of the tier that the whole quantity is in. Graduated: each unit at its own."""
    total, below = Decimal(0), 0
    for tier in tiers:
        up_to = tier["up_to"]
        is_last = up_to is None or quantity <= up_to
        if mode == "volume" and is_last:
            return _of_tier(tier, quantity)
        if mode == "graduated":
            units = (quantity if is_last else up_to) - below
            # The fixed part of the first tier is charged for no unit at all, too.
            total += _of_tier(tier, units) if units or not below else Decimal(0)
        if is_last:
            break
        below = up_to
    return total


def _of_tier(tier: Mapping[str, Any], units: int) -> Decimal:
    return units * Decimal(tier["unit_amount_decimal"] or 0) + Decimal(tier["flat_amount_decimal"] or 0)
