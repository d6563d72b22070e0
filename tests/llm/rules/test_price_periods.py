"""What a model cost from when until when, and how that is said."""

from datetime import UTC, datetime, timedelta

import pytest

from llm.rules import price_periods
from llm.rules.price_periods import PriceLine, PricePeriod

MARCH, JUNE, LATER = (datetime(2026, month, 1, tzinfo=UTC) for month in (3, 6, 12))


def test_rows_of_units_make_periods_in_which_nothing_changed() -> None:
    lines = [
        PriceLine("output", 600_000, MARCH, "docs"),
        PriceLine("input", 200_000, LATER, "mail"),
        PriceLine("input", 100_000, None),
        PriceLine("input", 150_000, MARCH, "docs"),
    ]
    assert price_periods.periods(lines) == [
        PricePeriod(None, MARCH, {"input": 100_000}),
        PricePeriod(MARCH, LATER, {"input": 150_000, "output": 600_000}, ("docs",)),
        PricePeriod(LATER, None, {"input": 200_000, "output": 600_000}, ("mail",)),
    ]
    assert price_periods.periods([]) == []


def test_a_row_that_says_the_same_again_begins_nothing() -> None:
    lines = [PriceLine("input", 5, MARCH), PriceLine("input", 5, JUNE)]
    assert price_periods.periods(lines) == [PricePeriod(MARCH, None, {"input": 5})]


@pytest.mark.parametrize(
    ("begins_at", "ends_at", "covers"),
    [(None, None, True), (None, JUNE, False), (JUNE, None, True), (MARCH, LATER, True), (LATER, None, False)],
)
def test_a_period_has_its_beginning_and_not_its_end(
    begins_at: datetime | None, ends_at: datetime | None, covers: bool
) -> None:
    assert PricePeriod(begins_at, ends_at, {}).covers(JUNE) is covers
    assert not PricePeriod(MARCH, JUNE, {}).covers(JUNE)
    assert PricePeriod(MARCH, JUNE, {}).covers(JUNE - timedelta(seconds=1))


CHAT = {"input": 150_000, "cached_input": 15_000, "output": 600_000}
PAGES = {"page": 4_000_000_000, "annotated_page": 5_000_000_000}


@pytest.mark.parametrize(
    ("picos", "words"),
    [
        (CHAT, "$0.15 in, $0.015 cached and $0.60 out a million tokens"),
        ({"input": 0}, "$0.00 in a million tokens"),
        (PAGES, "$4.00 per 1,000 pages and $5.00 per 1,000 annotated pages"),
        # A minute for 0.002 dollars is 33,333,333.3 picodollars a second, rounded up.
        ({"input": 100_000, "audio_second": 33_333_334}, "$0.10 in a million tokens and $0.002 a minute of audio"),
        ({"odd_unit": 2_000_000_000_000}, "$2.00 a odd unit"),
        ({}, ""),
    ],
)
def test_prices_are_said_as_price_lists_have_them(picos: dict[str, int], words: str) -> None:
    assert price_periods.words(picos) == words


def test_a_price_of_one_unit_says_of_how_many_it_is() -> None:
    assert price_periods.of_unit("cached_input", 15_000) == "$0.015 a million"


def test_what_became_dearer_is_said_in_percent() -> None:
    before = {"input": 150_000, "output": 600_000, "page": 0, "cached_input": 1}
    after = {"input": 200_000, "output": 540_000, "page": 5, "audio_second": 1, "cached_input": 1}
    words = "in +33.3%, out -10%, page is no longer free, audio second is new"
    assert price_periods.change_words(before, after) == words
    assert price_periods.change_words(before, before) == ""
