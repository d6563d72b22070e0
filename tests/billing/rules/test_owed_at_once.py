"""What was used beyond what a part is still worth is owed at once, and of what is left paid for first. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from billing.rules import balance
from billing.rules.balance import Limit, Part, Purchase, Spell
from tests.billing.events import DAY, START


def part(key: str, whole: int, paid: int | None = None, days: int = 30, **fields: Any) -> Part:
    return Part(key, START + days * DAY, whole, whole if paid is None else paid, **fields)


def looked(now: Spell, *topups: Purchase, past: tuple[Spell, ...] = (), **fields: Any) -> tuple[Spell, Limit]:
    """A window as it is once it was looked at, and its limit."""
    carried = balance.carried(past, topups, alive=[one.key for one in now.parts])
    found = balance.limit(carried, now, topups, **fields)
    return replace(now, draws=found.draws, undone=found.undone), found


def left(now: Spell, *topups: Purchase, past: tuple[Spell, ...] = (), **fields: Any) -> int:
    return looked(now, *topups, past=past, **fields)[1].left_nanos


def used_up(*parts: Part, nanos: int = 100) -> Spell:
    return looked(Spell(START, parts, nanos))[0]


def over(key: str, paid: int, **fields: Any) -> Part:
    return part(key, 0, paid, frozen=True, is_over=True, **fields)


def test_a_credit_that_pays_for_another_part_brings_what_was_not_used() -> None:
    for used, expected in ((0, 150), (60, 90), (100, 50), (150, 0)):
        now = used_up(part("a", 100), part("b", 50), nanos=used)
        swapped, limit = looked(replace(now, parts=(part("a", 10), part("b", 140))))
        assert limit.left_nanos == expected
        assert left(replace(swapped, used_nanos=used + expected)) == 0
        # Also looked at again, and where it is taken back.
        assert left(swapped) == left(replace(swapped, parts=now.parts)) == expected


def test_what_a_policy_lowers_before_it_is_credited_is_not_owed() -> None:
    now = used_up(part("a", 100), part("b", 50))
    assert left(replace(now, parts=(part("a", 10, paid=100), part("b", 50)))) == 50
    # In a later window, too.
    assert left(Spell(START + DAY, (part("a", 10, paid=100), part("b", 50)), 0), past=(now,)) == 50
    assert left(Spell(START + DAY, (part("a", 10), part("b", 140)), 0), past=(now,)) == 50


def test_a_part_that_counts_no_more_keeps_what_was_used_of_it() -> None:
    now = used_up(part("a", 100), part("b", 50))
    assert left(replace(now, parts=(over("a", 100), part("b", 50)))) == 50
    # What was not paid for is owed, as after credit that has ended.
    assert left(replace(now, parts=(over("a", 70), part("b", 50)))) == 20
    assert left(replace(now, parts=(over("a", 70, given_nanos=90), part("b", 50)))) == 40
    assert left(replace(now, parts=(over("a", 70), part("b", 50))), owes_nothing=True) == 50


@pytest.mark.parametrize("lowered_ends_first", [True, False])
def test_in_whichever_order_parts_end_what_is_left_of_one_repays_what_is_owed_of_the_other(
    lowered_ends_first: bool,
) -> None:
    keys = ("a", "b") if lowered_ends_first else ("b", "a")
    now = used_up(*(part(key, {"a": 100, "b": 50}[key]) for key in keys))
    swapped, _ = looked(replace(now, parts=tuple(part(key, {"a": 10, "b": 140}[key]) for key in keys)))
    # 90 of the 140 were held back, and have paid for them.
    after = Spell(START + 30 * DAY, (part("c", 50, days=60),), 0)
    assert left(after, past=(swapped,)) == 50


def test_what_was_held_back_for_a_part_that_goes_on_has_paid_it() -> None:
    long, short = part("a", 100, days=365), part("b", 50)
    now = used_up(long, nanos=100)
    swapped, limit = looked(Spell(START + DAY, (replace(long, whole_nanos=10, paid_nanos=10), short), 0), past=(now,))
    assert limit.left_nanos == 0
    then = replace(long, whole_nanos=10, paid_nanos=10)
    after = Spell(START + 31 * DAY, (then, part("c", 60, days=61)), 0)
    assert left(after, past=(replace(now, parts=(then,)), swapped)) == 60 - 40


def test_a_top_up_is_held_back_as_far_as_credit_paid_for_it() -> None:
    now = used_up(part("a", 100))
    low = replace(now, parts=(part("a", 10),))
    bought = Purchase("t", START, 90)
    assert left(low, bought) == 90
    assert [left(low, replace(bought, credited_nanos=nanos)) for nanos in (30, 90)] == [60, 0]
    # No more of it than is left, nor than is owed.
    assert left(low, replace(bought, credited_nanos=90, refunded_nanos=80)) == 0
    assert left(low, Purchase("t", START, 120, credited_nanos=120)) == 30
    # Nor does what is given besides, as a trial, let it go.
    limit = looked(low, replace(bought, credited_nanos=90), owes_nothing=True)[1]
    assert (limit.left_nanos, limit.owed_nanos) == (0, 90)
    given = replace(now, parts=(over("a", 10), part("trial", 50, paid=0, given_nanos=50)))
    assert left(given, replace(bought, credited_nanos=90), owes_nothing=True) == 50
    # What is left of parts is held back first.
    beside = replace(now, parts=(part("a", 10), part("b", 50)))
    assert left(beside, replace(bought, credited_nanos=90)) == 50
    # What of it was used before it was owed stays so.
    early, _ = looked(replace(now, used_nanos=150), bought)
    assert left(replace(early, parts=(part("a", 10),)), replace(bought, credited_nanos=90)) == 0


def test_a_top_up_is_held_back_for_what_another_owes_whose_credit_paid_for_it() -> None:
    now = Spell(START, (part("a", 100),), 0)
    bought = Purchase("t", START, 90, credited_nanos=60, owed_nanos=50)
    # Nothing of the plan is, which another pays for, and it is not told as owed.
    limit = looked(now, bought)[1]
    assert (limit.plan_nanos, limit.topups_nanos, limit.owed_nanos) == (100, 40, 0)
    assert left(now, replace(bought, owed_nanos=70)) == 130
    # Beside what the tenant owes itself.
    low = replace(used_up(part("a", 100)), parts=(part("a", 95),))
    limit = looked(low, bought)[1]
    assert (limit.left_nanos, limit.owed_nanos) == (35, 5)


def test_an_operators_own_limit_is_all_there_is_with_what_is_used_of_what_is_over() -> None:
    now = used_up(part("a", 100), part("b", 5), nanos=105)
    own = replace(now, parts=(over("a", 100), part("b", 110, paid=5, given_nanos=110)))
    swapped, limit = looked(own, owes_nothing=True, at_most_nanos=110)
    assert (limit.nanos, limit.left_nanos) == (110, 5)
    # Used in turn, and where less is allowed than was used.
    assert left(replace(swapped, used_nanos=110), owes_nothing=True, at_most_nanos=110) == 0
    assert left(own, owes_nothing=True, at_most_nanos=50) == 0
    # Credit for what is over was used, and buys nothing besides.
    credited = replace(own, parts=(over("a", 10), part("b", 110, paid=5, given_nanos=110)))
    bought = Purchase("t", START, 90, credited_nanos=90)
    assert left(credited, bought, owes_nothing=True, at_most_nanos=110) == 5


@pytest.mark.parametrize("expires", [True, False])
def test_what_credit_paid_for_is_paid_once(expires: bool) -> None:
    topup = Purchase("t", START, 90, credited_nanos=90, expires=expires)
    low, limit = looked(replace(used_up(part("a", 100)), parts=(part("a", 10),)), topup)
    assert (limit.left_nanos, limit.owed_nanos) == (0, 90)
    assert left(Spell(START + 30 * DAY, (part("b", 50, days=60),), 0), topup, past=(low,)) == 50


def test_what_is_held_back_is_used_in_place_of_no_top_up_afterwards() -> None:
    topup, long = Purchase("t", START, 10), part("a", 100, days=365)
    now, _ = looked(Spell(START, (long, part("b", 50)), 100), topup)
    low = replace(long, whole_nanos=10, paid_nanos=10)
    swapped, limit = looked(replace(now, parts=(low, part("b", 140)), used_nanos=100), topup)
    assert limit.left_nanos == 50 + 10
    spent, limit = looked(replace(swapped, used_nanos=160), topup)
    assert limit.left_nanos == 0
    after = Spell(START + 30 * DAY, (low,), 0)
    assert left(after, topup, past=(spent,)) == 0
    assert left(replace(after, parts=(low, part("c", 50, days=60))), topup, past=(spent,)) == 50
