"""What an agent's calls would have cost otherwise, by products that can be done by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from governance.rules.calls import Usage
from llm.rules import advice
from llm.rules.advice import OneCall, Term
from llm.rules.pricing import Entry, Rates

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
DOLLAR = 1_000_000_000
# Dollars a million tokens: 2 in, 0.20 from the cache, 6 out; and a tenth of it.
LARGE = Entry(
    "large",
    frozenset({"large"}),
    capabilities=frozenset({"tools"}),
    context_tokens=100,
    rates=Rates(2_000_000, 200_000, 6_000_000),
)
SMALL = replace(LARGE, id="small", rates=Rates(200_000, 20_000, 600_000))
USAGE = Usage("mistral", "large", input_tokens=3_000_000, cached_tokens=1_000_000, output_tokens=500_000)
# 4 + 0.2 + 3 dollars.
SPENT = 7_200_000_000


def other(*entries: Entry, used: Entry = LARGE) -> advice.OtherModel | None:
    return advice.other_model(used, USAGE, calls=9, spent_nanos=SPENT, entries=advice.others(used, entries))


def test_the_cheapest_that_can_do_the_same_is_named_with_its_arithmetic() -> None:
    found = other(LARGE, SMALL, replace(SMALL, id="medium", rates=Rates(1_000_000, 100_000, 3_000_000)))
    assert found is not None
    assert (found.other, found.nanos, found.saved_nanos) == (SMALL, SPENT // 10, SPENT * 9 // 10)
    assert found.terms == (
        Term(2_000_000, "input", 200_000),
        Term(1_000_000, "cached input", 20_000),
        Term(500_000, "output", 600_000),
    )
    assert sum(term.nanos for term in found.terms) == found.nanos


def test_another_model_is_reckoned_at_the_price_of_a_call_of_the_usual_length() -> None:
    # 333,333 tokens a call: all together are no long call, but each is.
    longer = ((300_000, Rates(400_000, 40_000, 1_200_000)), (1_000_000, Rates(10**9, 10**9, 10**9)))
    assert SMALL.rates is not None
    found = other(LARGE, replace(SMALL, rates=replace(SMALL.rates, longer=longer)))
    assert found is not None
    assert found.nanos == SPENT * 2 // 10
    assert sum(term.nanos for term in found.terms) == found.nanos


@pytest.mark.parametrize(
    "less",
    [
        {"capabilities": frozenset()},
        {"kinds": frozenset({"embedding"})},
        {"context_tokens": 99},
        {"context_tokens": None},
        {"status": "retired"},
        {"rates": None},
        {"rates": Rates(by_token=False, units={"page": 1})},
        {"rates": Rates(1_990_000, 190_000, 5_900_000)},
    ],
)
def test_what_can_do_less_or_costs_hardly_less_is_not_named(less: dict[str, object]) -> None:
    assert other(replace(SMALL, **less)) is None  # type: ignore[arg-type]


def test_where_nobody_knows_how_much_it_reads_any_length_will_do() -> None:
    assert other(replace(SMALL, context_tokens=1), used=replace(LARGE, context_tokens=None)) is not None


def test_of_two_that_cost_the_same_the_first_by_name_is_taken() -> None:
    twin = replace(SMALL, id="a-small")
    assert [found and found.other.id for found in (other(SMALL, twin), other(twin, SMALL))] == ["a-small"] * 2


def test_terms_of_nothing_are_left_out() -> None:
    assert advice.terms(Usage("", "", 10, 20, 0), Rates(1, 1, 1)) == (Term(10, "cached input", 1),)


def call(minutes: int, *, session: str = "s", tokens: int = 100_000, cached: int = 0, output: int = 1_000) -> OneCall:
    return OneCall(NOON + timedelta(minutes=minutes), session, tokens, cached, output)


def test_a_call_repeats_no_more_than_the_call_before_it_had() -> None:
    calls = [
        call(4, tokens=300_000, cached=50_000),
        call(0),
        # Another session's, one without a session, and one so late that nothing is kept any more.
        call(1, session="t"),
        call(2, session=""),
        call(65),
        call(66, tokens=90_000, cached=90_000),
    ]
    found = advice.cache_use(LARGE, calls, spent_nanos=DOLLAR)
    assert found is not None
    # Of 300,000 at most 101,000 were there before, and 50,000 were cached.
    assert (found.tokens, found.calls, found.saved_nanos) == (51_000, 1, 51_000 * 1_800)


def test_no_cache_helps_where_it_costs_as_much_or_saves_little() -> None:
    calls = [call(0), call(1)]
    assert advice.cache_use(replace(LARGE, rates=Rates(5, 5, 5)), calls, spent_nanos=1) is None
    assert advice.cache_use(replace(LARGE, rates=None), calls, spent_nanos=1) is None
    assert advice.cache_use(LARGE, calls, spent_nanos=5 * DOLLAR) is None
    assert advice.cache_use(LARGE, [call(0, tokens=1_000), call(1, tokens=1_000)], spent_nanos=1) is None


def test_a_cap_leaves_95_of_a_hundred_as_they_were() -> None:
    calls = [call(number, output=100) for number in range(57)] + [
        call(60 + number, output=9_000) for number in (0, 1, 2)
    ]
    found = advice.shorter_answers(LARGE, calls, spent_nanos=DOLLAR // 10)
    assert found is not None
    assert (found.cap, found.calls, found.tokens) == (100, 3, 3 * 8_900)
    assert found.saved_nanos == 3 * 8_900 * 6_000


def test_no_cap_is_advised_of_few_calls_or_without_a_price() -> None:
    few = [call(number, output=10 * (number > 46) + 9_000 * (number > 47)) for number in range(49)]
    assert advice.shorter_answers(LARGE, few, spent_nanos=1) is None
    assert advice.shorter_answers(replace(LARGE, rates=None), few * 2, spent_nanos=1) is None
    assert advice.shorter_answers(LARGE, [call(0)] * 50, spent_nanos=1) is None
