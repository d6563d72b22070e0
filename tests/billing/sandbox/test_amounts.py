"""Stripe's arithmetic, by the examples of its documentation (https://docs.stripe.com/products-prices/pricing-models)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from billing.sandbox import amounts


def price(**fields: Any) -> dict[str, Any]:
    return {"billing_scheme": "per_unit", "currency": "usd", "transform_quantity": None, **fields}


TIERS = [
    {"up_to": 5, "unit_amount_decimal": "700", "flat_amount_decimal": None},
    {"up_to": 10, "unit_amount_decimal": "650", "flat_amount_decimal": None},
    {"up_to": None, "unit_amount_decimal": "600", "flat_amount_decimal": None},
]


@pytest.mark.parametrize(
    ("mode", "quantity", "total"),
    [
        *(("volume", 1, 700), ("volume", 5, 3500), ("volume", 6, 3900), ("volume", 20, 12_000)),
        *(("graduated", 1, 700), ("graduated", 5, 3500), ("graduated", 6, 4150), ("graduated", 20, 12_750)),
        ("graduated", 0, 0),
    ],
)
def test_tiers(mode: str, quantity: int, total: int) -> None:
    tiered = price(billing_scheme="tiered", tiers_mode=mode, tiers=TIERS)
    assert amounts.of_price(tiered, quantity) == total


def test_a_flat_part_is_charged_once_for_each_tier_that_is_reached() -> None:
    tiers = [
        {"up_to": 5, "unit_amount_decimal": "100", "flat_amount_decimal": "1000"},
        {"up_to": None, "unit_amount_decimal": "50", "flat_amount_decimal": "2000"},
    ]
    graduated = price(billing_scheme="tiered", tiers_mode="graduated", tiers=tiers)
    volume = price(billing_scheme="tiered", tiers_mode="volume", tiers=tiers)
    assert [amounts.of_price(graduated, n) for n in (0, 5, 6)] == [1000, 1500, 3550]
    assert [amounts.of_price(volume, n) for n in (5, 6)] == [1500, 2300]


@pytest.mark.parametrize(("how", "total"), [("up", 4_000), ("down", 3_000)])
def test_packages(how: str, total: int) -> None:
    package = price(unit_amount_decimal="1000", transform_quantity={"divide_by": 5, "round": how})
    assert amounts.of_price(package, 16) == total


def test_fractions_of_a_cent_are_rounded_once() -> None:
    assert amounts.of_price(price(unit_amount_decimal="0.05"), 1_010) == 51


@pytest.mark.parametrize(
    ("currency", "amount", "rounded"),
    [("usd", "12.5", 13), ("jpy", "12.5", 13), ("kwd", "1234.5", 1230), ("kwd", "1235", 1240), ("ugx", "1250", 1300)],
)
def test_currencies_are_charged_in_steps_of_their_own(currency: str, amount: str, rounded: int) -> None:
    assert amounts.rounded(Decimal(amount), currency) == rounded


@pytest.mark.parametrize(("currency", "words"), [("usd", "12.34 USD"), ("jpy", "1,234 JPY"), ("kwd", "1.234 KWD")])
def test_amounts_are_read_with_their_digits(currency: str, words: str) -> None:
    assert amounts.in_words(1234, currency) == words
