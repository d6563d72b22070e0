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


def gone(whole: int, key: str = "a", **fields: Any) -> Part:
    """A part whose payment was refunded whole."""
    return part(whole, 0, key, forgiven_nanos=whole, frozen=True, **fields)


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
    assert left([spell(0, 30, gone(50))], spell(1, 0, part(50, key="b"))) == 50


def test_a_part_whose_payment_went_back_keeps_what_was_used_of_it_and_allows_no_more() -> None:
    assert left([], spell(0, 30, gone(50), part(40, key="b"))) == 70
    assert left([], spell(0, 30, gone(50))) == 30
    # What ends first is used first, also where that is known to be undone.
    assert left([], spell(0, 30, gone(50), part(40, key="b", days=20))) == 40


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


def seen(now: Spell, *topups: Purchase, past: list[Spell] | None = None) -> Spell:
    """A window once it was looked at."""
    carried = balance.carried(past or [], topups, alive=[one.key for one in now.parts])
    found = balance.limit(carried, now, topups)
    return replace(now, draws=found.draws, undone=found.undone)


def test_what_is_used_after_a_part_froze_is_drawn_on_others() -> None:
    topup = [Purchase("t", START, 20)]
    alone = seen(spell(0, 10, gone(50)), *topup)
    assert [left([], replace(alone, used_nanos=used), topup) for used in (5, 10, 25, 30)] == [25, 30, 30, 30]
    beside = seen(spell(0, 10, gone(50), part(40, key="b")))
    assert [left([], replace(beside, used_nanos=used)) for used in (10, 30, 50)] == [50, 50, 50]
    # The next window's too; also where what was paid for it counts by then.
    for past in (gone(50), part(50)):
        after = replace(alone, used_nanos=25, parts=(past,))
        assert left([after], spell(1, 0, part(50, key="b")), topup) == 50 + 5


def test_each_part_that_freezes_keeps_what_was_used_and_no_other_has() -> None:
    a, b, live = gone(50), part(30, key="b"), part(40, key="c")
    now = seen(spell(0, 10, a, b, live))
    now = seen(replace(now, used_nanos=25))
    assert {key: draw.nanos for key, draw in now.draws.items() if key} == {"a": 10, "b": 15, "c": 0}
    now = seen(replace(now, parts=(a, gone(30, "b"), live), used_nanos=27))
    assert {key: draw.nanos for key, draw in now.draws.items() if key} == {"a": 10, "b": 17, "c": 0}
    # What is used may become less, as by an operator who voids what was reported.
    now = seen(replace(now, used_nanos=7))
    assert left([], replace(now, used_nanos=30)) == 7 + 40


def test_what_was_drawn_on_a_frozen_part_is_drawn_on_no_other() -> None:
    ends_first = part(40, key="b", days=20)
    past = [seen(Spell(START, (ends_first, gone(50)), 45))]
    assert left(past, Spell(START + 10 * DAY, (gone(50), ends_first), 0)) == 0
    first = [seen(Spell(START, (ends_first, part(50)), 45))]
    assert left(first, Spell(START + 10 * DAY, (ends_first, part(50)), 0)) == 45
    assert left(first, Spell(START + 10 * DAY, (ends_first, gone(50)), 25)) == 25


def test_what_was_used_of_what_went_back_stays_used_beside_what_is_paid_again() -> None:
    topup = [Purchase("t", START, 20)]
    whole, less = part(100), part(50, forgiven_nanos=50)
    for used, kept in ((30, 0), (60, 10), (90, 40), (100, 50)):
        now = seen(replace(seen(spell(0, used, whole), *topup), parts=(less,)), *topup)
        assert left([], now, topup) == 50 + kept + 20
        again = replace(now, parts=(replace(whole, forgiven_nanos=50),))
        assert left([], again, topup) == 100 + kept + 20
        # Nothing of it is owed, nor drawn on the top-up; what is used afterwards is.
        assert left([now], spell(1, 0, part(50, key="b")), topup) == 70
        later = seen(replace(now, used_nanos=max(50, used) + 5), *topup)
        assert left([later], spell(1, 0, part(50, key="b")), topup) == 65
        # And where nothing went back after all it is as it was.
        assert left([], replace(now, parts=(whole,)), topup) == 120
    # What was lost in a dispute is owed when it is over.
    disputed = seen(replace(seen(spell(0, 90, whole)), parts=(part(50, lost_nanos=50),)))
    assert left([disputed], spell(1, 0, part(50, key="b"))) == 10
    # Use that is voided was none.
    voided = replace(seen(replace(seen(spell(0, 90, whole)), parts=(less,))), used_nanos=20)
    assert left([], voided) == 50


def test_whatever_allows_less_keeps_what_was_used_of_it_and_top_ups_are_not_used_for_it() -> None:
    topup = [Purchase("t", START, 20)]
    high = seen(spell(0, 150, part(200)), *topup)
    low = seen(replace(high, parts=(part(50, paid=200),)), *topup)
    assert left([], low, topup) == 150 + 20
    assert left([low], spell(1, 0, part(50, key="b")), topup) == 70
    # An operator's own limit that is taken away, too.
    given = seen(replace(spell(0, 0, part(100, paid=50, given_nanos=100))), *topup)
    assert left([], replace(given, parts=(part(50),), used_nanos=65), topup) == 65 + 20


def test_calls_under_way_are_drawn_once_they_have_ended_as_when_they_began() -> None:
    topup = [Purchase("t", START, 20)]
    before = seen(spell(0, 10, part(50)), *topup)
    carried = balance.carried([], topup, alive=["a"])
    limit = balance.limit(carried, replace(before, parts=(gone(50),)), topup)
    assert (limit.nanos, limit.most_nanos) == (30, {"a": 50, "t": 20})
    now = replace(before, parts=(gone(50),), draws=limit.draws, undone=limit.undone)
    assert left([], replace(now, used_nanos=40), topup) == 10 + 20
    # 30 of them were under way then: they are the plan's, and forgiven with it; the others are of what stands.
    ended = (balance.Ended(25, limit.most_nanos), balance.Ended(5, limit.most_nanos))
    done = seen(replace(now, used_nanos=45, ended=ended), *topup)
    assert done.draws == {"a": Draw(40, 40, True), "t": Draw(5, 20), "": Draw(0, 0)}
    assert left([], replace(done, ended=()), topup) == 40 + 20
    assert left([replace(done, ended=())], spell(1, 0, part(50, key="b")), topup) == 50 + 15
    # What goes beyond everything that there was is nobody's.
    most = balance.Ended(90, limit.most_nanos)
    assert seen(replace(now, used_nanos=100, ended=(most,)), *topup).draws["a"] == Draw(50, 50, True)


def test_a_call_that_ends_after_its_window_is_over_is_forgiven_with_what_went_back() -> None:
    topup = [Purchase("t", START, 20)]
    limit = balance.limit(balance.Balance(), replace(seen(spell(0, 10, part(50)), *topup), parts=(gone(50),)), topup)
    now = Spell(START, (gone(50),), 10, limit.draws, limit.undone)
    for cost in (0, 25, 40):
        over = replace(now, used_nanos=10 + cost, ended=(balance.Ended(cost, limit.most_nanos),))
        assert left([over], spell(1, 0, part(50, key="b")), topup) == 50 + 20
        # Also where its period goes on.
        later = Spell(START + 10 * DAY, (gone(50), part(50, key="b")), 0)
        assert left([over], later, topup) == 50 + 20
    # Of what was lost in a dispute it is owed.
    disputed = replace(over, parts=(part(50, 0, lost_nanos=50, frozen=True),))
    assert left([disputed], spell(1, 0, part(50, key="b")), topup) == 0 + 20


def test_what_an_operator_takes_away_stays_used_and_is_not_owed() -> None:
    given, plain = part(100, paid=50, given_nanos=100), part(50)
    for used, kept in ((30, 0), (70, 20), (100, 50)):
        high = seen(spell(0, used, given))
        carried = balance.carried([], [], alive=["a"])
        limit = balance.limit(carried, replace(high, parts=(plain,), lowered={"a": 50}), [])
        assert limit.nanos == 50 + kept
        low = replace(high, parts=(plain,), draws=limit.draws, undone=limit.undone)
        assert left([low], spell(1, 0, part(50, key="b"))) == 50
        assert left([], replace(low, parts=(part(80),))) == 80 + kept
        again = balance.limit(carried, replace(low, parts=(given,), lowered={"a": -50}), [])
        assert (again.nanos, again.undone) == (100, {})


def test_frozen_parts_allow_together_what_is_used_and_each_no_more_than_it_had() -> None:
    assert left([], spell(0, 50, gone(50))) == 50
    two = (gone(50), gone(40, "b"))
    assert left([], spell(0, 60, *two)) == 60


def test_of_one_that_ended_no_more_than_was_paid_goes_on_and_the_rest_is_owed_at_once() -> None:
    ended, other = part(0, paid=30, frozen=True, is_over=True), part(50, key="b")

    def after(drawn: int, used: int) -> int:
        past = [spell(0, drawn, part(50, paid=30))]
        carried = balance.carried(past, [], alive=[ended.key, other.key])
        return balance.limit(carried, spell(1, used, other, ended), []).nanos

    assert [after(10, used) for used in (0, 15, 60)] == [50, 65, 70]
    # Nothing is held back of what is used already.
    assert [after(45, used) for used in (0, 30, 60)] == [35, 35, 50]


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


def drawn(now: Spell) -> dict[str, Draw]:
    """How a window's use is drawn on top-ups."""
    return {key: draw for key, draw in now.draws.items() if key in ("t", "u")}


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
    assert drawn(now) == {"t": Draw(20, 20), "u": Draw(5, 20)}


def test_of_a_top_up_that_is_undone_in_part_the_rest_is_used_once() -> None:
    now, limit = looked(spell(0, 55, part(50)), two(10))
    assert limit == 50 + 5 + 5 + 20
    now, _ = looked(replace(now, used_nanos=65), two(10))
    assert drawn(now) == {"t": Draw(10, 10), "u": Draw(5, 20)}
    now, limit = looked(now, two(20))
    assert (limit, left([now], spell(1, 0, part(50, key="b")), two(20))) == (80, 65)


def test_a_top_up_that_stands_again_is_as_it_was_when_it_was_undone() -> None:
    now, _ = looked(spell(0, 55, part(50)), two(20))
    now, _ = looked(replace(now, used_nanos=60), two(20))
    assert drawn(now) == {"t": Draw(5, 5), "u": Draw(5, 20)}
    now, whole = looked(now, two(0))
    assert (whole, drawn(now)) == (90, {"t": Draw(5, 20), "u": Draw(5, 20)})
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


def test_what_is_in_a_dispute_that_may_be_won_is_not_owed_and_repays_what_it_did() -> None:
    now, topup = spell(1, 0, part(50, key="b")), [Purchase("t", START, 20)]
    for fields, owed in (({"disputed_nanos": 50}, 0), ({"lost_nanos": 50}, 30), ({"forgiven_nanos": 50}, 0)):
        assert left([spell(0, 30, part(50, 0, **fields))], now) == 50 - owed
        stopped = seen(
            replace(seen(spell(0, 30, part(50)), *topup), parts=(part(50, 0, frozen=True, **fields),)), *topup
        )
        assert stopped.draws["a"] == Draw(30, 30, True)
        assert left([replace(stopped, used_nanos=35)], now, topup) == 50 - owed + 15
        # Its subscription is over beside another one.
        over = part(0, 0, frozen=True, is_over=True, **fields)
        assert left([], seen(replace(stopped, parts=(over, part(50, key="b"))))) == 30 + 50 - owed
    # 20 were used on credit and not paid; what the next one left has repaid them, unless it is lost.
    for gone, owed in (({"disputed_nanos": 50}, 0), ({"lost_nanos": 50}, 20)):
        past = [spell(0, 20, part(20, 0, key="c")), spell(1, 0, part(50, 0, key="d", **gone))]
        assert left(past, spell(2, 0, part(50, key="e"))) == 50 - owed


def test_what_was_used_of_a_disputed_top_up_is_owed_as_far_as_it_was_lost() -> None:
    def after(used: int, **fields: Any) -> int:
        return left([spell(0, used, part(50))], spell(1, 0, part(50, key="b")), [Purchase("t", START, 20, **fields)])

    assert after(70, refunded_nanos=20) == 50
    assert [after(used, refunded_nanos=20, lost_nanos=20) for used in (50, 55, 70)] == [50, 45, 30]
    # What stands of it, what was refunded beside the dispute, and what may be won of it, is not owed.
    assert after(70, refunded_nanos=15, lost_nanos=5) == 45
    assert after(60, refunded_nanos=15, lost_nanos=5) == 50
    # It is owed once, over however many windows it was used, and until what is left unused has paid it.
    lost = [Purchase("t", START, 20, refunded_nanos=20, lost_nanos=20)]
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
    # Lost in a dispute, it is owed; of what goes with its window nobody knows what was used.
    disputed = replace(topup, refunded_nanos=20, lost_nanos=20)
    assert left([], spell(0, 0, part(50)), [disputed]) == 45
    assert left([], spell(0, 0, part(50)), [replace(disputed, expires=True)]) == 50


def test_a_top_up_for_one_window_counts_in_it_alone() -> None:
    once, kept = Purchase("t", START, 20, expires=True), Purchase("t", START, 20)
    assert [once.counts_in(START), once.counts_in(START + DAY), once.counts_in(START - DAY)] == [True, False, False]
    assert [kept.counts_in(START), kept.counts_in(START + DAY), kept.counts_in(START - DAY)] == [True, True, False]


def test_what_goes_with_its_window_is_used_before_what_the_window_holds_back_for_debts() -> None:
    def after(owed: int, used: int, *, expires: bool = True) -> int:
        topup = Purchase("t", START + 30 * DAY, 20, expires=expires)
        past = [spell(0, owed, part(50, paid=0))]
        held = seen(Spell(START + 30 * DAY, (part(50, key="b"),), 0), topup, past=past)
        return left([*past, replace(held, used_nanos=used)], spell(2, 0, part(50, key="c")), [topup])

    # The plan has paid what is owed; the top-up was used, or is over.
    assert [after(50, used) for used in (0, 15, 20)] == [50, 50, 50]
    assert [after(30, used) for used in (15, 35, 40)] == [50, 50, 50]
    # What goes beyond both, as a report can, is nobody's.
    assert after(30, 45) == 50
    # Of one that stays so much less is left.
    assert [after(50, used, expires=False) for used in (0, 15, 20)] == [70, 55, 50]


def test_what_was_used_beyond_everything_is_no_top_ups_that_is_bought_afterwards() -> None:
    topup = Purchase("t", START, 20)
    mistaken = seen(spell(0, 500, part(50)))
    assert left([], mistaken) == 50
    now = seen(mistaken, topup)
    assert (left([], now, [topup]), now.draws[""]) == (520, Draw(450, 450))
    assert left([], replace(now, used_nanos=510), [topup]) == 520
    # Voided it is gone, and nothing of it is owed.
    assert left([], replace(now, used_nanos=0), [topup]) == 70
    assert left([replace(now, used_nanos=70)], spell(1, 0, part(50, key="b")), [topup]) == 70
    # The plan's own, where it gives more, is used before.
    assert left([], replace(now, parts=(part(200),)), [topup]) == 500 + 20
    assert left([], replace(now, parts=(part(600),)), [topup]) == 620
