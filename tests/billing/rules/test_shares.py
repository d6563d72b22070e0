"""Parts of a window, and which of them are the same. Pure."""

from __future__ import annotations

from dataclasses import replace

from billing.rules import shares
from billing.rules.grants import Period
from billing.rules.shares import WindowShare
from tests.billing.events import DAY, START

MONTH = Period(START, START + 30 * DAY)
PART = WindowShare("sub_1", MONTH, 100, "1 month")


def test_the_same_time_is_paid_for_once() -> None:
    later = replace(PART, period=Period(START + DAY, MONTH.ends_at))
    other, year = replace(PART, subscription_id="sub_2"), replace(PART, cycle="1 year")
    after = replace(PART, period=Period(MONTH.ends_at, MONTH.ends_at + 30 * DAY))
    assert shares.once([PART, later, PART, other, year, after]) == [PART, other, year, after]


def test_a_part_that_is_over_keeps_its_name_and_what_was_given_of_it_still() -> None:
    known = replace(PART, period=Period(START, START + DAY), paid_nanos=3, given_nanos=50)
    over = shares.stopped(replace(PART, given_nanos=60), known)
    assert (over.key, over.paid_nanos, over.given_nanos) == (PART.key, 3, 50)
    assert over.frozen
    assert over.is_over
