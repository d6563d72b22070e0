"""What some calls come to, and what is reckoned from it."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from governance.rules.spend_sums import NOTHING, SpendSums, change_e4, rounded, share_e4, whole_hour

SOME = SpendSums(1_000, 3, 200, 50, 100, 250, 2)


def test_sums_are_added_and_taken_away_figure_by_figure() -> None:
    twice = SOME + SOME
    assert twice == SpendSums(2_000, 6, 400, 100, 200, 500, 4)
    assert twice - SOME == SOME
    assert SOME - SOME == NOTHING
    assert sum([SOME, SOME], NOTHING) == twice


def test_what_a_call_and_a_thousand_tokens_cost_is_rounded_half_up() -> None:
    assert SOME.tokens == 300
    # 333.33 a call, and 3,333.33 for a thousand tokens.
    assert (SOME.call_nanos, SOME.thousand_tokens_nanos) == (333, 3_333)
    assert SpendSums(5, 2).call_nanos == 3
    assert SpendSums(-5, 2).call_nanos == -2
    assert (NOTHING.call_nanos, NOTHING.thousand_tokens_nanos) == (None, None)


def test_shares_are_of_their_own_whole() -> None:
    assert (SOME.cached_e4, SOME.estimated_e4) == (2_500, 2_500)
    assert (NOTHING.cached_e4, NOTHING.estimated_e4) == (None, None)


@pytest.mark.parametrize(
    ("part", "whole", "share"),
    [(1, 3, 3_333), (2, 3, 6_667), (0, 3, 0), (4, 3, 10_000), (-1, 3, 0), (1, 0, None), (1, -3, None)],
)
def test_a_share_is_between_nothing_and_all(part: int, whole: int, share: int | None) -> None:
    assert share_e4(part, whole) == share


@pytest.mark.parametrize(
    ("now", "before", "change"),
    [(150, 100, 5_000), (50, 100, -5_000), (100, 100, 0), (0, 100, -10_000), (7, 0, None), (7, -1, None)],
)
def test_a_change_is_against_what_was_before(now: int, before: int, change: int | None) -> None:
    assert change_e4(now, before) == change


def test_nothing_is_shared_among_none() -> None:
    assert rounded(5, 0) is None


def test_the_hour_of_a_moment_is_the_next_that_begins() -> None:
    assert whole_hour(datetime(2026, 3, 10, 12, tzinfo=UTC)) == datetime(2026, 3, 10, 12, tzinfo=UTC)
    # India's midnight is at half past.
    midnight = datetime(2026, 3, 10, tzinfo=ZoneInfo("Asia/Kolkata"))
    assert whole_hour(midnight) == datetime(2026, 3, 9, 19, tzinfo=UTC)
    assert whole_hour(midnight).utcoffset() == UTC.utcoffset(None)
