"""Rate limits' buckets at their edges; whatever flows in, see tests/properties/test_buckets.py."""

from __future__ import annotations

from datetime import timedelta

import pytest

from governance.rules.buckets import E6, Amount, BucketView, Ceilings, after, amount_of
from tests.factories import NOON

SECOND = timedelta(seconds=1)
ALL = Ceilings(nanos=60, requests=60, tokens=60)


def wait_s(ceilings: Ceilings, level: Amount, more: Amount) -> int:
    return BucketView("tenant:acme", ceilings, level, NOON).wait_s(more)


def test_a_call_is_one_request_and_nothing_flows_in_unsaid() -> None:
    assert Amount() == Amount(0, 0, 0)
    assert (Amount().nanos, Amount().requests_e6, Amount().tokens_e6) == (0, 0, 0)
    assert amount_of(cost_nanos=5, tokens=7) == Amount(5, 1_000_000, 7_000_000)
    assert amount_of(cost_nanos=5, tokens=7, requests=3) == Amount(5, 3_000_000, 7_000_000)


def test_amounts_add_up_and_nothing_falls_below_zero() -> None:
    assert Amount(1, 2, 3).plus(Amount(10, 20, 30)) == Amount(11, 22, 33)
    assert Amount(5, 5, 5).plus(Amount(4, 5, 6).negated()) == Amount(1, 0, 0)
    assert Amount(1, 2, 3).negated() == Amount(-1, -2, -3)


def test_only_ceilings_that_are_set_are_asked() -> None:
    level, more = Amount(1, 2, 3), Amount(4, 5, 6)
    assert Ceilings().pairs(level, more) == []
    assert Ceilings(nanos=9, requests=8, tokens=7).pairs(level, more) == [
        (9, 1, 4),
        (8_000_000, 2, 5),
        (7_000_000, 3, 6),
    ]
    assert Ceilings(requests=0).pairs(level, more) == [(0, 2, 5)]


@pytest.mark.parametrize(
    ("passed", "left"),
    [(-SECOND, 30), (timedelta(0), 30), (SECOND, 29), (29 * SECOND, 1), (30 * SECOND, 0), (31 * SECOND, 0)],
)
def test_what_flows_off_is_a_sixtieth_of_the_ceiling_a_second(passed: timedelta, left: int) -> None:
    level = Amount(30, 30 * E6, 30 * E6)
    found = after(level, ALL, passed)
    assert found == Amount(left, left * E6, left * E6)
    assert {type(part) for part in (found.nanos, found.requests_e6, found.tokens_e6)} == {int}


def test_what_flows_off_is_counted_to_the_microsecond_and_rounded_against_the_caller() -> None:
    tenth = timedelta(milliseconds=100)
    assert after(Amount(30, 30 * E6, 30 * E6), ALL, tenth) == Amount(30, 29_900_000, 29_900_000)
    assert after(Amount(30, E6, E6), Ceilings(60, 7, 7), timedelta(microseconds=1)).requests_e6 == E6


def test_where_there_is_no_ceiling_nothing_is_kept() -> None:
    assert after(Amount(30, 30, 30), Ceilings(), SECOND) == Amount()
    assert after(Amount(30, 30, 30), Ceilings(nanos=60), timedelta(0)) == Amount(30, 0, 0)


def test_a_level_is_never_above_two_ceilings() -> None:
    huge, least = Amount(10**15, 10**15, 10**15), Amount(1, 1, 1)
    full = Amount(120, 120 * E6, 120 * E6)
    assert ALL.most_of(huge) == full
    assert ALL.most_of(least) == least
    assert Ceilings().most_of(huge) == Amount()
    assert after(huge, ALL, timedelta(0)) == full
    assert after(huge, ALL, 60 * SECOND) == Amount(60, 60 * E6, 60 * E6)


def test_what_is_booked_takes_the_place_of_what_was_booked_before() -> None:
    level = Amount(50, 50 * E6, 50 * E6)
    ten, four = Amount(10, 10 * E6, 10 * E6), Amount(4, 4 * E6, 4 * E6)
    assert ALL.filled(level) == level
    assert ALL.filled(level, more=ten) == Amount(60, 60 * E6, 60 * E6)
    assert ALL.filled(level, less=ten) == Amount(40, 40 * E6, 40 * E6)
    assert ALL.filled(level, more=four, less=ten) == Amount(44, 44 * E6, 44 * E6)
    # A call that was too large for the bucket gives back no more than the bucket held of it.
    huge = Amount(10**9, 10**15, 10**15)
    assert ALL.filled(Amount(120, 120 * E6, 120 * E6), less=huge) == Amount()
    assert ALL.filled(level, more=huge) == Amount(120, 120 * E6, 120 * E6)


def test_a_minutes_worth_may_go_and_one_more_waits() -> None:
    assert wait_s(ALL, Amount(), Amount(60, 60 * E6, 60 * E6)) == 0
    assert wait_s(ALL, Amount(59, 0, 0), Amount(1, 0, 0)) == 0
    assert wait_s(ALL, Amount(60, 0, 0), Amount(1, 0, 0)) == 1
    assert wait_s(ALL, Amount(0, 60 * E6, 0), Amount(0, E6, 0)) == 1
    assert wait_s(ALL, Amount(0, 60 * E6, 0), Amount(0, E6 + 1, 0)) == 2
    assert wait_s(ALL, Amount(0, 0, 60 * E6), Amount(0, 0, 2 * E6)) == 2


def test_the_longest_wait_of_all_ceilings_counts_and_none_is_longer_than_the_minute() -> None:
    level, more = Amount(60, 60 * E6, 60 * E6), Amount(3, 7 * E6, 5 * E6)
    assert repr(wait_s(ALL, level, more)) == "7"
    assert wait_s(ALL, level, Amount(60, 0, 0)) == 59


def test_what_is_larger_than_a_minutes_worth_may_go_when_the_bucket_is_empty() -> None:
    assert wait_s(ALL, Amount(), Amount(10**6, 0, 0)) == 0
    assert wait_s(ALL, Amount(10, 0, 0), Amount(10**6, 0, 0)) == 10
    assert wait_s(ALL, Amount(1, 0, 0), Amount(10**6, 0, 0)) == 1


def test_the_wait_of_a_limit_that_all_share_does_not_tell_how_full_it_is() -> None:
    def told(level: int, more: int) -> int:
        return BucketView("platform", ALL, Amount(nanos=level), NOON, is_shared=True).wait_s(Amount(nanos=more))

    assert {told(level, more) for level in range(1, 121) for more in (1, 7, 60) if level + more > 60} == {59}
    assert (told(59, 1), told(0, 1_000)) == (0, 0)
