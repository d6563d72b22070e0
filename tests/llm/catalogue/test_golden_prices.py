"""What one call costs at each shipped model, to the picodollar.

The figures were worked out by hand from the published prices, not by the code under test: a thousand input tokens
(of `cached` ones 400) and a hundred output tokens; three pages; a minute of audio.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from governance.rules.calls import Usage
from llm.catalogue import seed
from llm.catalogue import snapshot as catalog
from llm.models import Model
from llm.rules import pricing

pytestmark = pytest.mark.django_db
AT = datetime(2026, 11, 24, tzinfo=UTC)
PLAIN = Usage(input_tokens=1_000, output_tokens=100)
CACHED = Usage(input_tokens=1_000, cached_tokens=400, output_tokens=100)

# model: plain, cached, plain in the EU (a tenth more), plain in a batch (half), cached in a batch in the EU.
BY_TOKEN = {
    "mistral-medium-3-5": (2_250_000_000, 1_710_000_000, 2_475_000_000, 1_125_000_000, 940_500_000),
    "mistral-large-2512": (650_000_000, 470_000_000, 715_000_000, 325_000_000, 258_500_000),
    "mistral-large-4": (910_000_000, 658_000_000, 1_001_000_000, 455_000_000, 361_900_000),
    "mistral-small-2603": (210_000_000, 156_000_000, 231_000_000, 105_000_000, 85_800_000),
    "ministral-14b-2512": (220_000_000, 148_000_000, 242_000_000, 110_000_000, 81_400_000),
    "ministral-8b-2512": (165_000_000, 111_000_000, 181_500_000, 82_500_000, 61_050_000),
    "ministral-3b-2512": (110_000_000, 74_000_000, 121_000_000, 55_000_000, 40_700_000),
    "codestral-2508": (390_000_000, 282_000_000, 429_000_000, 195_000_000, 155_100_000),
    "voxtral-small-2507": (140_000_000, 104_000_000, 154_000_000, 70_000_000, 57_200_000),
    # Without a rate for cached input it costs as much as other input.
    "mistral-embed": (100_000_000, 100_000_000, 110_000_000, 50_000_000, 55_000_000),
    "codestral-embed": (150_000_000, 150_000_000, 165_000_000, 75_000_000, 82_500_000),
    "mistral-moderation-2603": (0, 0, 0, 0, 0),
}
# (model, unit, units): plain, in the EU, in a batch, in a batch in the EU. Rates are rounded up to a picodollar.
BY_UNIT = {
    ("mistral-ocr-4-1", "page", 3): (12_000_000_000, 13_200_000_000, 6_000_000_000, 6_600_000_000),
    ("mistral-ocr-4-1", "annotated_page", 3): (15_000_000_000, 16_500_000_000, 7_500_000_000, 8_250_000_000),
    ("voxtral-mini-2602", "audio_second", 60): (3_000_000_000, 3_300_000_000, 1_500_000_000, 1_650_000_000),
    ("voxtral-mini-2507", "audio_second", 60): (2_000_000_040, 2_200_000_080, 1_000_000_020, 1_100_000_040),
    ("voxtral-small-2507", "audio_second", 60): (4_000_000_020, 4_400_000_040, 2_000_000_040, 2_200_000_020),
}


def picos(name: str, usage: Usage, *, zone: str = "global", batch: bool = False) -> int | None:
    rates = catalog.rates_at(model=Model.objects.get(name=name), at=AT, zone=zone, batch=batch)
    assert rates is not None
    return pricing.cost_picos(usage, rates)


@pytest.mark.parametrize("name", BY_TOKEN)
def test_tokens_cost_what_the_price_list_says(name: str) -> None:
    assert (
        picos(name, PLAIN),
        picos(name, CACHED),
        picos(name, PLAIN, zone="eu"),
        picos(name, PLAIN, batch=True),
        picos(name, CACHED, zone="eu", batch=True),
    ) == BY_TOKEN[name]
    assert picos(name, PLAIN, zone="us") == picos(name, PLAIN, zone="eu")


@pytest.mark.parametrize(("name", "unit", "units"), BY_UNIT)
def test_pages_and_seconds_cost_what_the_price_list_says(name: str, unit: str, units: int) -> None:
    usage = Usage(unit=unit, units=units)
    assert (
        picos(name, usage),
        picos(name, usage, zone="eu"),
        picos(name, usage, batch=True),
        picos(name, usage, zone="eu", batch=True),
    ) == BY_UNIT[name, unit, units]


def test_every_shipped_rate_has_its_golden_figure() -> None:
    shipped = {(row.model, unit) for row in seed.rows() for unit in row.picos}
    by_token = {name for name, unit in shipped if unit == "input"}
    by_unit = {(name, unit) for name, unit in shipped if unit not in ("input", "cached_input", "output")}
    assert by_token == set(BY_TOKEN)
    assert by_unit == {(name, unit) for name, unit, _ in BY_UNIT}


def test_the_snapshot_charges_the_same_at_each_place_it_is_called() -> None:
    snapshot = catalog.read(now=AT)
    for name, (plain, _, eu, batch, _) in BY_TOKEN.items():
        if name == "mistral-large-4":
            continue
        asked = {"input_tokens": 1_000, "output_tokens": 100}
        for provider, whole_batch, expected in (
            ("mistral", False, plain),
            ("mistral-eu", False, eu),
            ("mistral-us", False, eu),
            ("mistral", True, batch),
        ):
            priced = snapshot.cost_of(Usage(provider, name, **asked), batch=whole_batch)
            assert priced is not None
            assert priced[0] == (expected + 500) // 1_000, (name, provider, whole_batch)
