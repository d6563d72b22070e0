"""The pure rules of what is left: what is drawn first, what is owed, what waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from billing.rules import balance
from billing.rules.balance import Draw, Part, Purchase, Spell
from tests.billing.events import DAY, START


def part(whole: int, paid: int | None = None, key: str = "a", days: int = 30, **fields: Any) -> Part:
    paid = whole if paid is None else paid
    return Part(key, START + days * DAY, whole, paid, **fields)


def spell(number: int, used: int, *parts: Part) -> Spell:
    return Spell(START + number * 30 * DAY, parts, used)


def left(past: list[Spell], now: Spell, topups: list[Purchase] | None = None, **fields: Any) -> int:
    carried = balance.carried(past, topups or [], alive=[one.key for one in now.parts])
    return balance.limit(carried, now, topups or [], **fields).nanos


def test_a_period_begins_whole() -> None:
    assert left([spell(0, 20, part(50))], spell(1, 0, part(50, key="b"))) == 50


def test_what_was_used_beyond_the_limit_at_the_end_is_taken_off_the_next_ones_until_it_is_paid() -> None:
    past = [spell(0, 130, part(50))]
    assert left(past, spell(1, 0, part(50, key="b"))) == 0
    past.append(spell(1, 0, part(50, key="b")))
    assert left(past, spell(2, 0, part(50, key="c"))) == 20


def test_what_a_plan_allowed_beyond_what_was_paid_is_owed_whatever_plan_follows() -> None:
    past = [spell(0, 200, part(200, paid=55))]
    assert left(past, spell(1, 0, part(200, key="b"))) == 55
    assert left(past, spell(1, 0, part(50, key="b"))) == 0


def test_a_part_that_is_away_for_a_window_comes_back_with_what_is_left_of_it() -> None:
    past = [spell(0, 60, part(50), part(30, key="b")), spell(1, 5, part(30, key="c"))]
    assert left(past, spell(2, 0, part(50), part(30, key="d"))) == 30
    past.append(spell(2, 5, part(30, key="d"), part(50)))
    # When it is over it is so once: 5 of it, and of the others what was not used, repay nothing that was not owed.
    assert left(past, spell(3, 0, part(30, key="e"))) == 30


def test_what_is_left_unused_repays_what_is_owed() -> None:
    past = [spell(0, 200, part(200, paid=55)), spell(1, 60, part(200, key="b"))]
    assert left(past, spell(2, 0, part(50, key="c"))) == 45
    past.append(spell(2, 0, part(50, key="c")))
    assert left(past, spell(3, 0, part(50, key="d"))) == 50


def test_what_was_given_and_left_unused_repays_nothing() -> None:
    past = [spell(0, 40, part(50, paid=0)), spell(1, 10, part(50, paid=0, given_nanos=50, key="b"))]
    assert left(past, spell(2, 0, part(50, key="c"))) == 10
    # What was paid for beside it does, as far as it is left.
    past.append(spell(2, 30, part(50, paid=45, given_nanos=50, key="c")))
    assert left(past, spell(3, 0, part(50, key="d"))) == 25
    # Nor is what was used of it owed.
    assert left([spell(0, 60, part(80, paid=50, given_nanos=60))], spell(1, 0, part(50, key="b"))) == 50
    assert left([spell(0, 70, part(80, paid=50, given_nanos=60))], spell(1, 0, part(50, key="b"))) == 40


def test_what_was_paid_back_in_part_is_forgiven_in_part() -> None:
    back = part(80, paid=50, forgiven_nanos=20)
    assert left([spell(0, 65, back)], spell(1, 0, part(50, key="b"))) == 50
    assert left([spell(0, 80, back)], spell(1, 0, part(50, key="b"))) == 40


def test_a_period_that_was_never_paid_is_owed() -> None:
    assert left([spell(0, 5, part(5, paid=0))], spell(1, 0, part(50, key="b"))) == 45


def test_what_an_operator_paid_back_is_not_owed() -> None:
    gone = part(50, paid=0, frozen=True, forgiven_nanos=50)
    assert left([spell(0, 30, gone)], spell(1, 0, part(50, key="b"))) == 50


def test_a_frozen_part_is_drawn_on_first_and_allows_no_more() -> None:
    assert left([], spell(0, 30, part(50, paid=0, frozen=True), part(40, key="b"))) == 70
    assert left([], spell(0, 30, part(50, paid=0, frozen=True))) == 30


def test_parts_of_several_windows_are_drawn_on_once_the_first_to_end_first() -> None:
    first, second = part(50), part(50, key="b", days=40)
    assert left([spell(0, 30, first)], Spell(START + 10 * DAY, (first, second), 0)) == 70
    past = [spell(0, 30, first), Spell(START + 10 * DAY, (first, second), 20)]
    assert left(past, Spell(START + 30 * DAY, (second, part(50, key="c", days=60)), 0)) == 100


def test_top_ups_are_drawn_on_last_and_debts_leave_them_alone() -> None:
    topup = Purchase("t", START, 20)
    assert left([spell(0, 55, part(50))], spell(1, 0, part(50, key="b")), [topup]) == 65
    owing = [spell(0, 130, part(50))]
    assert left(owing, spell(1, 0, part(50, key="b")), [Purchase("t", START + 30 * DAY, 20)]) == 20


def test_what_was_used_in_a_window_that_nothing_was_bought_for_is_owed() -> None:
    assert left([spell(0, 5)], spell(1, 0, part(50, key="b"))) == 45
    assert left([spell(0, 25)], spell(1, 0, part(50, key="b")), [Purchase("t", START, 20)]) == 45


def test_a_part_stays_open_as_long_as_the_next_window_has_it() -> None:
    first, second = part(50), part(50, key="b", days=40)
    past = [
        spell(0, 30, first),
        Spell(START + 10 * DAY, (first, second), 30),
        Spell(START + 30 * DAY, (second,), 5),
    ]
    # Of the first 30 and 20 are drawn, of the second 10, and then 5 more.
    assert left(past[:2], Spell(START + 30 * DAY, (second, part(50, key="c", days=60)), 0)) == 90
    assert left(past, Spell(START + 35 * DAY, (second, part(50, key="c", days=60)), 0)) == 85


def test_what_is_paid_for_all_parts_is_drawn_on_before_what_they_allow_beyond_it() -> None:
    upgraded, other = part(200, paid=55), part(40, key="b", days=40)
    kept = Spell(START + 30 * DAY, (other, part(200, key="c", days=60)), 0)
    assert left([Spell(START, (upgraded, other), 70)], kept) == 25 + 200
    full, partly_paid = part(50), part(40, key="b", days=40, paid=20)
    # 50 and 20 of what is paid for, then 5 of what the second allows beyond it.
    assert left([Spell(START, (full, partly_paid), 75)], Spell(START + 30 * DAY, (partly_paid,), 0)) == 15
    # Those 5 are owed.
    assert left([Spell(START, (full, partly_paid), 75)], spell(2, 0, part(100, key="c"))) == 95


def test_what_one_part_does_not_hold_is_drawn_on_the_next() -> None:
    first, second = part(50), part(40, key="b", days=40)
    assert left([Spell(START, (first, second), 60)], Spell(START + 30 * DAY, (second,), 0)) == 30


def test_what_is_used_after_a_part_froze_is_drawn_on_others() -> None:
    gone, topup = part(50, paid=0, frozen=True, stopped_at_nanos=10), [Purchase("t", START, 20)]
    assert [left([], spell(0, used, gone), topup) for used in (5, 10, 25, 30)] == [25, 30, 30, 30]
    assert [left([], spell(0, used, gone, part(40, key="b"))) for used in (10, 30, 50)] == [50, 50, 50]
    # The next window's too; also where what was paid for it counts by then.
    for past in (replace(gone, forgiven_nanos=50), part(50, frozen=True, stopped_at_nanos=10)):
        assert left([spell(0, 25, past)], spell(1, 0, part(50, key="b")), topup) == 50 + 5
    two = balance.Balance(drawn={"a": 45})
    assert balance.limit(two, spell(1, 8, gone), topup).nanos == 5 + 20


def test_each_part_that_freezes_keeps_what_was_used_and_no_other_has() -> None:
    a, b, live = part(50, frozen=True), part(30, frozen=True, key="b", days=20), part(40, key="c")
    none = balance.Balance()
    assert balance.stopped(none, spell(0, 10, a, live), {}) == {"a": 10}
    assert balance.stopped(none, spell(0, 25, a, b, live), {"a": 10}) == {"a": 10, "b": 15}
    assert balance.stopped(none, spell(0, 90, a, b, live), {}) == {"a": 50, "b": 30}
    # What is used may become less, as by a call that costs less than was held for it.
    assert balance.stopped(none, spell(0, 7, a), {"a": 10}) == {"a": 7}
    assert balance.stopped(none, spell(0, 7, live), {"a": 10}) == {}
    assert balance.stopped(balance.Balance(drawn={"a": 48, "b": 31}), spell(0, 7, a, b), {}) == {"a": 2, "b": 0}


def test_what_was_drawn_on_a_frozen_part_is_drawn_on_no_other() -> None:
    frozen, ends_first = part(50, paid=0, frozen=True), part(40, key="b", days=20)
    past = [Spell(START, (ends_first, frozen), 30)]
    assert left(past, Spell(START + 10 * DAY, (frozen, ends_first), 0)) == 40
    # 20 of the frozen part are left to draw on, and what is used beyond them is the other's.
    assert left(past, Spell(START + 10 * DAY, (frozen, ends_first), 25)) == 40 + 20
    used_up = [Spell(START, (ends_first, frozen), 50)]
    assert left(used_up, Spell(START + 10 * DAY, (frozen, ends_first), 10)) == 40


def test_frozen_parts_allow_together_what_is_used_and_each_no_more_than_it_had() -> None:
    assert left([], spell(0, 50, part(50, paid=0, frozen=True))) == 50
    two = (part(50, paid=0, frozen=True), part(40, paid=0, frozen=True, key="b"))
    assert left([], spell(0, 60, *two)) == 60


def test_of_one_that_ended_no_more_than_was_paid_goes_on_and_the_rest_is_owed_at_once() -> None:
    ended, other = part(30, frozen=True), part(50, key="b")

    def after(drawn: int, used: int) -> int:
        past = [spell(0, drawn, part(50, paid=30))]
        carried = balance.carried(past, [], alive=[other.key], ended=[ended])
        return balance.limit(carried, spell(1, used, other, ended), []).nanos

    assert [after(10, used) for used in (0, 15, 60)] == [50, 65, 70]
    assert [after(45, used) for used in (0, 60)] == [35, 35]


def test_debts_of_several_windows_add_up() -> None:
    assert left([spell(0, 5), spell(1, 7)], spell(2, 0, part(50, key="b"))) == 38
    past = [spell(0, 220, part(200, paid=55)), spell(1, 200, part(200, paid=155, key="b"))]
    # 165 beyond what was paid for the first, and 45 beyond the second.
    assert left(past, spell(2, 0, part(300, key="c"))) == 300 - 165 - 45


def test_a_refunded_top_up_adds_what_is_used_of_it() -> None:
    gone = Purchase("t", START, 20, refunded_nanos=20)
    assert left([], spell(0, 40, part(50)), [gone]) == 50
    assert left([], spell(0, 65, part(50)), [gone]) == 65
    assert left([], spell(0, 90, part(50)), [gone]) == 70
    both = [gone, Purchase("u", START, 20, refunded_nanos=20)]
    assert left([], spell(0, 75, part(50)), both) == 75


def test_what_was_drawn_on_a_top_up_before_counts_in_no_later_window() -> None:
    topup = Purchase("t", START, 20, refunded_nanos=20)
    partly, wholly = [spell(0, 65, part(50))], [spell(0, 70, part(50))]
    assert left(partly, spell(1, 60, part(50, key="b")), [topup]) == 55
    assert left(wholly, spell(1, 60, part(50, key="b")), [topup]) == 50


def test_the_top_up_that_was_bought_first_is_drawn_on_first() -> None:
    bought_later = Purchase("a", START + 30 * DAY, 20)
    bought_first = Purchase("b", START, 20, refunded_nanos=20)
    # 10 are used of the first one, which is given back as far as it is not; the other is whole.
    assert left([], spell(1, 60, part(50, key="p")), [bought_later, bought_first]) == 50 + 10 + 20


def looked(now: Spell, topups: list[Purchase], past: list[Spell] | None = None) -> tuple[Spell, int]:
    """A window as it is once it was looked at, and its limit."""
    carried = balance.carried(past or [], topups, alive=[one.key for one in now.parts])
    found = balance.limit(carried, now, topups)
    return replace(now, draws=found.draws), found.nanos


def two(gone: int, other: int = 0) -> list[Purchase]:
    return [Purchase("t", START, 20, refunded_nanos=gone), Purchase("u", START, 20, refunded_nanos=other)]


def test_what_is_used_after_a_top_up_was_undone_is_drawn_on_what_stands() -> None:
    for used in (0, 5):
        now, whole = looked(spell(0, 50 + used, part(50)), two(0))
        assert whole == 90
        now, less = looked(now, two(20))
        assert less == 70 + used
        for more in (used + 7, used + 20):
            now, same = looked(replace(now, used_nanos=50 + more), two(20))
            assert same == 70 + used
        # Nor is it there in the next window, whoever looks then.
        assert left([now], spell(1, 0, part(50, key="b")), two(20)) == 50


def test_what_was_used_before_a_top_up_was_undone_is_no_others() -> None:
    now, _ = looked(spell(0, 65, part(50)), two(0))
    # 5 more are used of the first, and 5 of the other, before it is heard of.
    now, limit = looked(replace(now, used_nanos=75), two(20))
    assert limit == 75 + 15
    assert now.draws == {"t": Draw(20, 20), "u": Draw(5, 20)}


def test_of_a_top_up_that_is_undone_in_part_the_rest_is_used_once() -> None:
    now, limit = looked(spell(0, 55, part(50)), two(10))
    assert limit == 50 + 5 + 5 + 20
    now, _ = looked(replace(now, used_nanos=65), two(10))
    assert now.draws == {"t": Draw(10, 10), "u": Draw(5, 20)}
    now, limit = looked(now, two(20))
    assert (limit, left([now], spell(1, 0, part(50, key="b")), two(20))) == (80, 65)


def test_a_top_up_that_stands_again_is_as_it_was_when_it_was_undone() -> None:
    now, _ = looked(spell(0, 55, part(50)), two(20))
    now, _ = looked(replace(now, used_nanos=60), two(20))
    assert now.draws == {"t": Draw(5, 5), "u": Draw(5, 20)}
    now, whole = looked(now, two(0))
    assert (whole, now.draws) == (90, {"t": Draw(5, 20), "u": Draw(5, 20)})
    # And each undone again has what was drawn on it, not what it could have been.
    assert looked(now, two(20))[1] == 60 + 15
    assert looked(now, two(0, 20))[1] == 60 + 15
    # In the next window it stands as well, less the same.
    assert left([now], spell(1, 0, part(50, key="b")), two(0)) == 50 + 15 + 15
    undone, _ = looked(now, two(20))
    assert left([undone], spell(1, 0, part(50, key="b")), two(0)) == 50 + 15 + 15


def test_what_is_used_of_no_top_up_any_more_is_given_back_to_none_that_was_undone() -> None:
    now, _ = looked(spell(0, 60, part(50)), two(0))
    now, limit = looked(now, two(20))
    assert limit == 80
    # The plan gives more, as when its invoice is paid, or a call costs less than was held for it.
    now, limit = looked(replace(now, parts=(part(60),)), two(20))
    assert limit == 80
    assert looked(replace(now, used_nanos=65), two(20))[1] == 80


def test_what_an_earlier_window_drew_leaves_so_much_less_of_what_stands() -> None:
    before, _ = looked(spell(0, 55, part(50)), two(0))
    now, limit = looked(spell(1, 50, part(50, key="b")), two(10), [before])
    assert limit == 50 + 5 + 20
    # It was the plan's after all, as is known now: what was refunded of the top-up is gone from all of it.
    now, limit = looked(now, two(10), [replace(before, parts=(part(55),))])
    assert limit == 50 + 10 + 20


def test_what_was_used_of_a_disputed_top_up_is_owed_as_far_as_it_is_disputed() -> None:
    def after(used: int, **fields: Any) -> int:
        return left([spell(0, used, part(50))], spell(1, 0, part(50, key="b")), [Purchase("t", START, 20, **fields)])

    assert after(70, refunded_nanos=20) == 50
    assert [after(used, refunded_nanos=20, disputed_nanos=20) for used in (50, 55, 70)] == [50, 45, 30]
    # What stands of it, and what was refunded beside the dispute, is not owed.
    assert after(70, refunded_nanos=15, disputed_nanos=5) == 45
    assert after(60, refunded_nanos=15, disputed_nanos=5) == 50
    # It is owed once, over however many windows it was used, and until what is left unused has paid it.
    lost = [Purchase("t", START, 20, refunded_nanos=20, disputed_nanos=20)]
    past = [spell(0, 60, part(50)), spell(1, 60, part(50, key="b"))]
    assert left(past, spell(2, 0, part(50, key="c")), lost) == 30
    past.append(spell(2, 35, part(50, key="c")))
    assert left(past, spell(3, 0, part(50, key="d")), lost) == 45
    assert left([*past, spell(3, 0, part(50, key="d"))], spell(4, 0, part(50, key="e")), lost) == 50


def test_what_was_used_of_a_top_up_before_the_subscription_is_used_of_it() -> None:
    topup = Purchase("t", START, 20, used_before_nanos=5)
    assert left([], spell(0, 0, part(50)), [topup]) == 65
    assert left([spell(0, 60, part(50))], spell(1, 0, part(50, key="b")), [topup]) == 55
    assert left([], spell(0, 0, part(50)), [replace(topup, refunded_nanos=10)]) == 55
    assert left([], spell(0, 0, part(50)), [replace(topup, refunded_nanos=20)]) == 50
    # Disputed, it is owed; of what goes with its window nobody knows what was used.
    disputed = replace(topup, refunded_nanos=20, disputed_nanos=20)
    assert left([], spell(0, 0, part(50)), [disputed]) == 45
    assert left([], spell(0, 0, part(50)), [replace(disputed, expires=True)]) == 50


def test_a_top_up_for_one_window_counts_in_it_alone() -> None:
    once, kept = Purchase("t", START, 20, expires=True), Purchase("t", START, 20)
    assert [once.counts_in(START), once.counts_in(START + DAY), once.counts_in(START - DAY)] == [True, False, False]
    assert [kept.counts_in(START), kept.counts_in(START + DAY), kept.counts_in(START - DAY)] == [True, True, False]


def test_what_goes_with_its_window_is_used_before_what_the_window_holds_back_for_debts() -> None:
    def after(owed: int, used: int, *, floor: int = 0, expires: bool = True) -> int:
        topup = Purchase("t", START + 30 * DAY, 20, expires=expires)
        held = Spell(START + 30 * DAY, (part(50, key="b"),), used, floor_nanos=floor)
        return left([spell(0, owed, part(50, paid=0)), held], spell(2, 0, part(50, key="c")), [topup])

    # The plan has paid what is owed; the top-up was used, or is over.
    assert [after(50, used) for used in (0, 15, 20)] == [50, 50, 50]
    assert [after(30, used) for used in (15, 35, 40, 45)] == [50, 50, 50, 45]
    # One that stays is used after all of the plan, and comes to the same.
    assert [after(50, used, expires=False) for used in (0, 15, 20)] == [70, 55, 50]
    # What was used before it was bought is the plan's.
    assert [after(50, used, floor=30) for used in (30, 50)] == [20, 20]


def test_a_floor_is_what_was_used_before_a_top_up_was_bought() -> None:
    now = Spell(START, (part(50, frozen=True, stopped_at_nanos=10),), 30, floor_nanos=30)
    assert balance.limit(balance.carried([], [], alive=["a"]), now, [Purchase("t", START, 20)]).nanos == 50
