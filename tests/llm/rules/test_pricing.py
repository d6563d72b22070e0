"""Golden prices, to the picodollar, and what usage costs at them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules import money
from governance.rules.calls import Usage
from governance.rules.decision import Quote
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


def test_what_has_no_rate_costs_nothing_and_names_nothing() -> None:
    assert (Rates().input_picos, Rates().cached_picos, Rates().output_picos) == (0, 0, 0)
    assert (Rates().units, Rates().by_token, Rates().rule) == ({}, True, "")


def test_a_model_is_mistrals_chat_model_unless_its_row_says_otherwise() -> None:
    entry = Entry(id="m", names=frozenset({"m"}))
    assert (entry.provider, entry.owned_by, entry.provider_kind, entry.status) == ("mistral", "mistralai", "", "ga")
    assert (entry.kinds, entry.capabilities, entry.aliases) == ({"chat"}, frozenset(), ())
    assert (entry.upstream, entry.context_tokens, entry.rates, entry.batch_rates) == ("", None, None, None)
    assert [replace(entry, provider=name).is_mistrals for name in ("mistral-eu", "mistral-us", "openai", "")] == [
        *(True, True),
        *(False, False),
    ]


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 4_200),
        ({"image_tokens": 100}, 100),
        ({"provider": "mistral-eu"}, 4_200),
        ({"provider": "openai", "provider_kind": "openai"}, 73_800),
        ({"provider": "claude", "provider_kind": "anthropic"}, 8_464),
        ({"provider": "groq", "provider_kind": "other"}, None),
        ({"provider": "groq"}, None),
        ({"provider": "groq", "image_tokens": 100}, 100),
        ({"provider": "openai", "provider_kind": "openai", "image_tokens": 100}, 100),
    ],
)
def test_what_a_picture_costs_at_most_is_what_the_catalogue_or_the_provider_says(
    fields: dict[str, object], tokens: int | None
) -> None:
    assert Entry(id="m", names=frozenset({"m"}), **fields).most_image_tokens == tokens  # type: ignore[arg-type]


def test_rates_are_those_of_the_price_and_everything_else_is_a_unit() -> None:
    picos = {"input": 7, "cached_input": 3, "output": 11, "page": 5}
    whole = Rates(7, 3, 11, {"page": 5}, by_token=True, rule="mistral/m@2026-03-16")
    assert pricing.rates_from(picos, kinds=["chat"], rule="mistral/m@2026-03-16") == whole
    pages = Rates(0, 0, 0, {"page": 5}, by_token=False, rule="r")
    assert pricing.rates_from({"page": 5}, kinds=["ocr"], rule="r") == pages
    assert pricing.rates_from({"input": 7}, kinds=["embedding"], rule="r") == Rates(7, 7, 0, {}, True, "r")
    for kind in ("chat", "fim"):
        assert pricing.rates_from({"input": 7}, kinds=["embedding", kind], rule="r") is None
    assert pricing.rates_from({"output": 7}, kinds=["chat"], rule="r") is None


def test_a_zone_and_a_batch_scale_every_rate_and_round_up() -> None:
    picos = {"input": 1, "cached_input": 101, "output": 1001, "page": 11}
    for zone in ("eu", "us"):
        assert pricing.rates_from(picos, kinds=["chat"], rule="r", zone=zone) == Rates(
            2, 112, 1102, {"page": 13}, True, "r"
        )
    assert pricing.rates_from(picos, kinds=["chat"], rule="r", batch=True) == Rates(1, 51, 501, {"page": 6}, True, "r")
    same = Rates(1, 101, 1001, {"page": 11})
    assert pricing.scaled(same, hundredths=100) is same
    assert pricing.scaled_picos(100, hundredths=110) == 110


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens", "units"])
def test_less_than_nothing_is_nothing(field: str) -> None:
    unit = "page" if field == "units" else "token"
    rates = Rates(7, 3, 11, {"page": 5})
    assert pricing.cost_picos(Usage(unit=unit, **{field: -1}), rates) == 0  # type: ignore[arg-type]
    assert pricing.cost_picos(Usage(unit=unit, **{field: 1}), rates) in (7, 11, 5)  # type: ignore[arg-type]


LONG = Rates(300_000, 30_000, 900_000, rule="long")
LONGEST = Rates(600_000, 60_000, 1_800_000, rule="longest")
BY_LENGTH = replace(SMALL, rule="short", longer=((200_000, LONG), (500_000, LONGEST)))


@pytest.mark.parametrize(
    ("input_tokens", "rates"),
    [(0, BY_LENGTH), (200_000, BY_LENGTH), (200_001, LONG), (500_000, LONG), (500_001, LONGEST), (9_000_000, LONGEST)],
)
def test_a_longer_call_pays_for_all_of_its_tokens_by_the_price_of_its_length(input_tokens: int, rates: Rates) -> None:
    assert BY_LENGTH.of(input_tokens) is rates
    usage = Usage(input_tokens=input_tokens, cached_tokens=input_tokens // 2, output_tokens=7)
    cached = input_tokens // 2
    picos = (input_tokens - cached) * rates.input_picos + cached * rates.cached_picos + 7 * rates.output_picos
    assert pricing.cost_picos(usage, BY_LENGTH) == picos


@given(bound=st.integers(0, 1_000_000), short=st.integers(0, 1_000_000), out=st.integers(0, 5_000))
def test_a_hold_covers_each_length_that_its_bound_may_reach(bound: int, short: int, out: int) -> None:
    entry = Entry(id="m", names=frozenset({"m"}), rates=BY_LENGTH)
    quote = pricing.quote_tokens(entry, model="m", input_tokens=bound, max_tokens=5_000)
    charged = pricing.cost_nanos(Usage(input_tokens=max(0, bound - short), output_tokens=out), BY_LENGTH)
    assert quote is not None
    assert charged is not None
    assert charged <= quote.cost_nanos


def test_a_quote_is_of_the_worst_case_and_names_what_it_holds_for() -> None:
    entry = Entry(id="m", names=frozenset({"m", "alias"}), rates=Rates(700, 900, 1_100))
    found = pricing.quote_tokens(entry, model="alias", input_tokens=3, max_tokens=5, n=2)
    # Cached tokens that cost more than others are held for as what they cost: 3 x 900 and 2 x 5 x 1,100.
    assert found == Quote(
        "alias",
        14,
        names=frozenset({"m", "alias"}),
        capable=True,
        fixed_picos=2_700,
        picos_per_output_token=2_200,
        max_tokens=5,
        input_tokens=3,
        answers=2,
    )
    silent = pricing.quote_tokens(entry, model="m", input_tokens=3, max_tokens=None, capable=False)
    assert silent == replace(
        found, model="m", cost_nanos=3, capable=False, picos_per_output_token=1_100, max_tokens=None, answers=1
    )
    pages = Entry(id="m", names=frozenset({"m"}), rates=Rates(units={"page": 1_500}, by_token=False))
    assert pricing.quote_tokens(pages, model="m", input_tokens=3, max_tokens=5) is None
    assert pricing.quote_tokens(replace(entry, rates=None), model="m", input_tokens=3, max_tokens=5) is None
    assert pricing.quote_units(pages, model="m", unit="page", units=3) == Quote(
        "m", 5, names=frozenset({"m"}), capable=False, fixed_picos=4_500
    )
    quote = pricing.quote_units(pages, model="m", unit="page", units=3, capable=True)
    assert quote is not None
    assert quote.capable
