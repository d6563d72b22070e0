"""What of a window's part was paid for, and who owes of it what was not. Pure."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

from billing.rules import shares
from billing.rules.grants import Cycle, Grant, Period
from billing.rules.refunds import Refund, RefundKind
from billing.rules.shares import WindowShare
from tests.billing.events import DAY, START

MONTH = Period(START, START + 30 * DAY)
PART = WindowShare("sub_1", MONTH, 100, "1 month")
REFUNDED = {"in_1": Refund(RefundKind.REFUNDED, 100, paid=100, charged=100)}


def line(since: int, *, is_credit: bool = False) -> Grant:
    return Grant(
        cycle=Cycle("month"),
        span=Period(START + since * DAY, MONTH.ends_at),
        nanos=Fraction(100),
        wholes=(MONTH,),
        is_credit=is_credit,
        is_change=is_credit,
        in_part=is_credit,
        invoice_id="in_2" if is_credit else "in_1",
        line_id=f"il_{since}",
        price=cast(Any, None),
        quantity=1,
        worth=cast(Any, None),
    )


def test_what_a_credit_took_back_of_a_part_is_not_owed_by_who_has_no_credit() -> None:
    lines = [line(0), line(12, is_credit=True)]
    part = shares.paid_for(PART, lines, {})
    assert (part.paid_nanos, part.given_nanos) == (40, 0)
    left = shares.left_behind(part, lines, {})
    assert (left.paid_nanos, left.given_nanos) == (40, 100)
    assert shares.left_behind(replace(part, given_nanos=120), lines, {}).given_nanos == 120
    # What went back is nobody's credit.
    assert shares.left_behind(PART, [line(0)], REFUNDED).given_nanos == 0


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
