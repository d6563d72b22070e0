"""Calendar steps from an anchor, as billing cycles have them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.sandbox import times


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def text(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()[:10]


def test_a_day_that_a_month_lacks_is_its_last_and_comes_back() -> None:
    anchor = at("2027-01-31")
    assert [text(times.boundary(anchor, "month", 1, n)) for n in range(4)] == [
        *("2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30")
    ]
    assert text(times.boundary(at("2028-02-29"), "year", 1, 1)) == "2029-02-28"


@pytest.mark.parametrize(("interval", "count"), [("day", 1), ("week", 2), ("month", 1), ("month", 3), ("year", 1)])
@given(anchor=st.integers(10**9, 2 * 10**9), after=st.integers(10**9, 2 * 10**9))
def test_the_next_boundary_is_the_first_later_one(interval: str, count: int, anchor: int, after: int) -> None:
    found = times.next_boundary(anchor, interval, count, after)
    assert found > after
    assert found - times.whole_period(anchor, interval, count, found) <= after


def test_a_span_is_whole_intervals_and_a_rest() -> None:
    whole, rest, of = times.intervals("month", 1, at("2026-01-10"), at("2026-03-25"))
    assert (whole, rest, of) == (2, 15 * times.DAY_S, 31 * times.DAY_S)
