"""What a tenant may still spend of what was paid for, over all its windows. Pure.

A part is a subscription's period of one cycle. Spending draws on what was paid for the parts, the one that ends first
before the others, then on what they allow beyond that, then on top-ups. When a part is over, what was drawn beyond
what was paid or given is owed: it is taken off the next limits until what was paid for and left unused has paid it. So
is what was drawn on a top-up whose payment is in dispute. See docs/adr/0039.
Amounts are integer nanodollars.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Part:
    """A subscription's period within a window: what it allows in all, and what was paid for it.

    `given_nanos` of it need no payment: what is used of them is not owed, and what is not repays nothing. `frozen`: its
    payment went back or is in dispute, so it allows no more than what was used by then: `stopped_at_nanos` within this
    window, None where the window was over before. `forgiven_nanos`: so much of what was used beyond what was paid is
    not owed.
    """

    key: str
    ends_at: datetime
    whole_nanos: int
    paid_nanos: int
    given_nanos: int = 0
    forgiven_nanos: int = 0
    frozen: bool = False
    stopped_at_nanos: int | None = None

    @property
    def covered_nanos(self) -> int:
        return max(self.paid_nanos, self.given_nanos)


@dataclass(frozen=True, slots=True)
class Draw:
    """What of a window's use is drawn on a top-up, and the most that could be from then on: what of it was not undone,
    or was used before."""

    nanos: int
    most_nanos: int


@dataclass(frozen=True, slots=True)
class Spell:
    """One window: its parts, what was used in it, and how that was drawn on top-ups, by their keys, when the window was
    looked at last. `floor_nanos`: what was used already when a top-up was bought, beyond what others had for it, which
    does not count against the top-up."""

    starts_at: datetime
    parts: tuple[Part, ...]
    used_nanos: int
    draws: Mapping[str, Draw] = field(default_factory=dict)
    floor_nanos: int = 0


@dataclass(frozen=True, slots=True)
class Purchase:
    """An amount bought in addition; it counts from the window that begins at `starts_at`. `expires` with it.

    `refunded_nanos` of it went back or are in dispute, `disputed_nanos` of these in dispute. `used_before_nanos` were
    used in no window of a subscription.
    """

    key: str
    starts_at: datetime
    amount_nanos: int
    refunded_nanos: int = 0
    expires: bool = False
    disputed_nanos: int = 0
    used_before_nanos: int = 0

    def counts_in(self, spell_starts_at: datetime) -> bool:
        return self.starts_at == spell_starts_at or (not self.expires and self.starts_at < spell_starts_at)

    def owed_of(self, drawn_nanos: int) -> int:
        """What of so much drawn is owed: an operator who pays a top-up back gives away what was used of it; a dispute
        takes it."""
        return max(0, drawn_nanos - (self.amount_nanos - self.disputed_nanos))


@dataclass(slots=True)
class Balance:
    """What earlier windows leave behind: what is drawn on parts and top-ups that go on, and what is owed."""

    drawn: dict[str, int] = field(default_factory=dict)
    debt_nanos: int = 0

    def left_of(self, part: Part) -> int:
        """What a part allows in the window that follows; below 0 where more than all of it is drawn."""
        left = part.whole_nanos - self.drawn.get(part.key, 0)
        return left if part.stopped_at_nanos is None else min(left, part.stopped_at_nanos)


@dataclass(frozen=True, slots=True)
class Limit:
    """A window's limit: the plan's part of it, what top-ups add, and what was held back for debts. `left_nanos`: what
    of it is not used. `draws`: how what is used is drawn on top-ups, by their keys."""

    plan_nanos: int
    topups_nanos: int
    owed_nanos: int
    left_nanos: int
    draws: Mapping[str, Draw] = field(default_factory=dict)

    @property
    def nanos(self) -> int:
        return self.plan_nanos + self.topups_nanos


def carried(
    past: Sequence[Spell], topups: Sequence[Purchase], *, alive: Collection[str], ended: Sequence[Part] = ()
) -> Balance:
    """Draw all past windows in order. `alive` are the keys of the parts that count in the current one, `ended` those
    of which no more than what was paid for does."""
    balance = Balance({one.key: one.used_before_nanos for one in topups})
    # What goes with a window unused is no use.
    balance.debt_nanos = sum(one.owed_of(one.used_before_nanos) for one in topups if not one.expires)
    alive = {*alive, *(part.key for part in ended)}
    # A part may be away for some windows, as a subscription that is paid late is, and is the same one afterwards.
    last = {part.key: number for number, spell in enumerate(past) for part in spell.parts}
    for number, spell in enumerate(past):
        _draw(balance, spell, topups)
        for part in spell.parts:
            if last[part.key] == number and part.key not in alive:
                _close(balance, part)
    # What was drawn beyond that is owed by now: its credit is over.
    balance.debt_nanos += sum(max(0, balance.drawn.get(part.key, 0) - part.whole_nanos) for part in ended)
    return balance


def stopped(balance: Balance, now: Spell, known: Mapping[str, int]) -> dict[str, int]:
    """How much of what is used of the current window each frozen part has, by key: what was `known` when it froze, and
    of one that has frozen since all that no other has. What is used later is drawn on others."""
    left, found = now.used_nanos, {}
    parts = (part for part in now.parts if part.frozen)
    for part in sorted(parts, key=lambda part: (part.key not in known, part.ends_at, part.key)):
        most = max(0, balance.left_of(part))
        found[part.key] = min(left, most, known.get(part.key, most))
        left -= found[part.key]
    return found


def limit(balance: Balance, now: Spell, topups: Sequence[Purchase]) -> Limit:
    """The current window's limit."""
    whole = sum(balance.left_of(part) for part in now.parts if not part.frozen)
    # What is used of parts that allow no more: they are drawn on before the others.
    frozen = min(now.used_nanos, sum(max(0, balance.left_of(part)) for part in now.parts if part.frozen))
    held = max(0, min(balance.debt_nanos, whole))
    plan = max(max(0, whole - held) + frozen, now.floor_nanos)
    draws = _draws(balance, now, topups, max(0, now.used_nanos - plan))
    added = sum(draw.most_nanos for draw in draws.values())
    return Limit(plan, added, held, max(0, plan + added - now.used_nanos), draws)


def _draws(balance: Balance, spell: Spell, topups: Sequence[Purchase], used_nanos: int) -> dict[str, Draw]:
    """How what is used beyond the plan is drawn on top-ups: as it was when that was looked at last, then in their order
    on the most that each could give since. So nothing that is used later is drawn on what was undone before."""
    counting = _counting(topups, spell.starts_at)
    rooms = {one.key: max(0, one.amount_nanos - balance.drawn.get(one.key, 0)) for one in counting}
    known = {key: spell.draws.get(key, Draw(0, room)) for key, room in rooms.items()}
    drawn, left = dict.fromkeys(rooms, 0), used_nanos
    takers = [(key, draw.nanos) for key, draw in known.items()]
    takers += [(key, draw.most_nanos) for key, draw in known.items()]
    for key, most in takers:
        taken = min(left, max(0, min(most, rooms[key]) - drawn[key]))
        drawn[key] += taken
        left -= taken
    # What is undone is taken back as far as it is unused.
    stands = {one.key: rooms[one.key] - one.refunded_nanos for one in counting}
    return {key: Draw(nanos, max(nanos, stands[key])) for key, nanos in drawn.items()}


def _draw(balance: Balance, spell: Spell, topups: Sequence[Purchase]) -> None:
    parts = sorted(spell.parts, key=lambda part: (part.ends_at, part.key))
    frozen, others = [part for part in parts if part.frozen], [part for part in parts if not part.frozen]
    takers = [(part.key, balance.drawn.get(part.key, 0) + balance.left_of(part)) for part in frozen]
    takers += [(part.key, part.covered_nanos) for part in others]
    takers += [(part.key, part.whole_nanos) for part in others]
    rooms: dict[str, int] = {}
    for key, most in takers:
        rooms[key] = max(rooms.get(key, 0), most - balance.drawn.get(key, 0))
    plan = sum(rooms.values())
    if any(one.expires for one in topups):
        # What goes with the window was used in place of what was held back for debts, which repays them.
        held = max(0, min(balance.debt_nanos, sum(rooms[part.key] for part in others)))
        plan = max(plan - held, min(plan, spell.floor_nanos))
    draws = _draws(balance, spell, topups, max(0, spell.used_nanos - plan))
    left = spell.used_nanos - sum(draw.nanos for draw in draws.values())
    for key, most in takers:
        taken = min(left, max(0, most - balance.drawn.get(key, 0)))
        balance.drawn[key] = balance.drawn.get(key, 0) + taken
        left -= taken
    for topup in topups:
        if draw := draws.get(topup.key):
            before = balance.drawn.get(topup.key, 0)
            balance.drawn[topup.key] = before + draw.nanos
            balance.debt_nanos += topup.owed_of(before + draw.nanos) - topup.owed_of(before)
    if left and parts:
        last = (others or parts)[-1].key
        balance.drawn[last] = balance.drawn.get(last, 0) + left
    elif left:
        balance.debt_nanos += left


def _close(balance: Balance, part: Part) -> None:
    """A part is over: what was drawn beyond what covers it is owed, what was paid and is left repays what is owed."""
    drawn = balance.drawn.pop(part.key, 0)
    owed, left = drawn - part.covered_nanos - part.forgiven_nanos, part.paid_nanos - drawn
    balance.debt_nanos = max(0, balance.debt_nanos + max(0, owed) - max(0, left))


def _counting(topups: Sequence[Purchase], starts_at: datetime) -> list[Purchase]:
    return sorted((one for one in topups if one.counts_in(starts_at)), key=lambda one: (one.starts_at, one.key))
