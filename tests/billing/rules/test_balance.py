"""The pure rules of what is left: what is drawn first, what is owed, what waits."""

from __future__ import annotations

from typing import Any

from billing.rules import balance
from billing.rules.balance import Part, Purchase, Spell
from tests.billing.events import DAY, START


def part(whole: int, paid: int | None = None, key: str = "a", days: int = 30, **fields: Any) -> Part:
    paid = whole if paid is None else paid
    return Part(key, START + days * DAY, whole, paid, min(whole, paid), **fields)


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


def test_an_advance_waits_while_the_plan_is_kept_and_is_owed_when_it_is_left() -> None:
    past = [spell(0, 200, part(200, paid=55))]
    assert left(past, spell(1, 0, part(200, key="b"))) == 200
    assert left(past, spell(1, 0, part(50, key="b"))) == 0


def test_what_is_left_unused_repays_an_advance() -> None:
    past = [spell(0, 200, part(200, paid=55)), spell(1, 60, part(200, key="b"))]
    assert left(past, spell(2, 0, part(50, key="c"))) == 45
    past.append(spell(2, 0, part(50, key="c")))
    assert left(past, spell(3, 0, part(50, key="d"))) == 50


def test_a_period_that_was_never_paid_is_owed() -> None:
    assert left([spell(0, 5, part(5, paid=0))], spell(1, 0, part(50, key="b"))) == 45


def test_what_an_operator_paid_back_is_not_owed() -> None:
    gone = part(50, paid=0, frozen=True, forgiven=True)
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
