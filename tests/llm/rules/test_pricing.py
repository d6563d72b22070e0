"""Golden prices, to the picodollar, and what usage costs at them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules import money
from governance.rules.calls import Usage
from llm.catalogue import seed
from llm.rules import pricing
from llm.rules.pricing import Entry, Rates

SMALL = Rates(input_picos=150_000, cached_picos=15_000, output_picos=600_000)

# Picodollars a unit, written out by hand from the published dollars per million.
GOLDEN = {
    "mistral-medium-3-5": {"input": 1_500_000, "cached_input": 150_000, "output": 7_500_000},
    "mistral-large-2512": {"input": 500_000, "cached_input": 50_000, "output": 1_500_000},
    "mistral-large-4": {"input": 700_000, "cached_input": 70_000, "output": 2_100_000},
    "mistral-small-2603": {"input": 150_000, "cached_input": 15_000, "output": 600_000},
    "ministral-14b-2512": {"input": 200_000, "cached_input": 20_000, "output": 200_000},
    "ministral-8b-2512": {"input": 150_000, "cached_input": 15_000, "output": 150_000},
    "ministral-3b-2512": {"input": 100_000, "cached_input": 10_000, "output": 100_000},
    "codestral-2508": {"input": 300_000, "cached_input": 30_000, "output": 900_000},
    # A minute of audio is 60 seconds; a fraction of a picodollar is rounded up.
    "voxtral-small-2507": {
        "input": 100_000,
        "cached_input": 10_000,
        "output": 400_000,
        "audio_second": 66_666_667,
    },
    "voxtral-mini-2602": {"audio_second": 50_000_000},
    "voxtral-mini-2507": {"audio_second": 33_333_334},
    "mistral-embed": {"input": 100_000, "output": 0},
    "codestral-embed": {"input": 150_000, "output": 0},
    "mistral-ocr-4-1": {"page": 4_000_000_000, "annotated_page": 5_000_000_000},
    "mistral-moderation-2603": {"input": 0, "output": 0},
}


def test_every_shipped_price_is_the_golden_one() -> None:
    shipped: dict[str, dict[str, int]] = {}
    for row in seed.rows():
        shipped.setdefault(row.model, {}).update(row.picos)

    assert shipped == GOLDEN


def test_no_name_means_two_models() -> None:
    owners: dict[str, set[str]] = {}
    for row in seed.rows():
        for name in (row.model, *row.aliases):
            owners.setdefault(name, set()).add(row.model)

    assert [name for name, models in owners.items() if len(models) > 1] == []


def test_cached_tokens_cost_a_tenth() -> None:
    usage = Usage(input_tokens=1_000, cached_tokens=800, output_tokens=10)

    assert pricing.cost_picos(usage, SMALL) == 200 * 150_000 + 800 * 15_000 + 10 * 600_000


def test_cached_tokens_are_clamped_to_the_input() -> None:
    assert pricing.cost_picos(Usage(input_tokens=10, cached_tokens=99), SMALL) == 10 * 15_000
    assert pricing.cost_picos(Usage(input_tokens=10, cached_tokens=-5), SMALL) == 10 * 150_000


def test_settlement_rounds_half_up_once() -> None:
    odd = Rates(input_picos=500)

    assert pricing.cost_nanos(Usage(input_tokens=1), odd) == 1
    assert pricing.cost_nanos(Usage(input_tokens=3), odd) == 2
    assert pricing.cost_nanos(Usage(input_tokens=1), Rates(input_picos=499)) == 0


def test_ten_embedding_tokens_are_not_free() -> None:
    assert pricing.cost_nanos(Usage(input_tokens=10), Rates(input_picos=100_000)) == 1_000


def test_pages_cost_by_the_page_and_have_no_price_by_token() -> None:
    rates = Rates(units={"page": 4_000_000_000}, by_token=False)

    assert pricing.cost_nanos(Usage(unit="page", units=3), rates) == 12_000_000
    assert pricing.cost_nanos(Usage(input_tokens=5), rates) is None
    assert pricing.cost_nanos(Usage(unit="audio_second", units=5), rates) is None


def test_units_are_quoted_at_the_price_of_that_very_unit_or_not_at_all() -> None:
    reader = Entry(id="m", names=frozenset({"m"}), rates=Rates(units={"page": 4_000_000_000}, by_token=False))

    quote = pricing.quote_units(reader, model="m", unit="page", units=3)
    assert quote is not None
    assert quote.cost_nanos == 12_000_000
    assert pricing.quote_units(reader, model="m", unit="annotated_page", units=3) is None
    assert pricing.quote_units(replace(reader, rates=None), model="m", unit="page", units=3) is None


def test_chat_model_without_an_output_price_has_no_price() -> None:
    assert pricing.rates_from({"input": 1}, kinds=["chat"], rule="") is None
    assert pricing.rates_from({}, kinds=["chat"], rule="") is None
    assert pricing.rates_from({"input": 1}, kinds=["embedding"], rule="") is not None


def test_cached_input_without_a_price_costs_as_much_as_input() -> None:
    rates = pricing.rates_from({"input": 7, "output": 1}, kinds=["chat"], rule="")

    assert rates is not None
    assert rates.cached_picos == 7


@pytest.mark.parametrize(
    ("zone", "batch", "expected"), [("eu", False, 165_000), ("us", True, 82_500), ("global", True, 75_000)]
)
def test_zones_cost_a_tenth_more_and_batches_half(zone: str, batch: bool, expected: int) -> None:
    rates = pricing.rates_from({"input": 150_000, "output": 0}, kinds=["chat"], rule="", zone=zone, batch=batch)

    assert rates is not None
    assert rates.input_picos == expected


def test_scaled_fractions_round_up() -> None:
    assert pricing.scaled(Rates(input_picos=1), hundredths=110).input_picos == 2


counts = st.integers(0, 10**7)


@given(input_tokens=counts, cached=counts, output=counts, spare=st.integers(0, 1000), n=st.integers(1, 4))
def test_no_usage_within_the_bound_costs_more_than_its_quote(
    input_tokens: int, cached: int, output: int, spare: int, n: int
) -> None:
    entry = Entry(id="m", names=frozenset({"m"}), rates=SMALL)
    quote = pricing.quote_tokens(entry, model="m", input_tokens=input_tokens + spare, max_tokens=-(-output // n), n=n)
    usage = Usage(input_tokens=input_tokens, cached_tokens=cached, output_tokens=output)
    charged = pricing.cost_nanos(usage, SMALL)

    assert quote is not None
    assert charged is not None
    assert 0 <= charged <= quote.cost_nanos


@given(room=st.integers(0, 10**9), input_tokens=st.integers(0, 10**5), max_tokens=st.integers(1, 10**5))
def test_clamped_quote_fits_the_room_and_one_token_more_would_not(
    room: int, input_tokens: int, max_tokens: int
) -> None:
    entry = Entry(id="m", names=frozenset({"m"}), rates=SMALL)
    quote = pricing.quote_tokens(entry, model="m", input_tokens=input_tokens, max_tokens=max_tokens)
    assert quote is not None
    clamped = quote.clamped(room)

    if clamped is None:
        assert money.ceil_from_picos(quote.fixed_picos + quote.picos_per_output_token) > room
        return
    assert clamped.cost_nanos <= room
    assert clamped.max_tokens is not None
    if clamped.max_tokens < max_tokens:
        one_more = quote.fixed_picos + (clamped.max_tokens + 1) * quote.picos_per_output_token
        assert money.ceil_from_picos(one_more) > room
