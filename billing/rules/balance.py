"""What a tenant may still spend of what was paid for, over all its windows. Pure.

A part is a subscription's period of one cycle. Spending draws on what was paid for the parts, the one that ends first
before the others, then on what they allow beyond that, then on top-ups. When a part is over, what was drawn beyond
what was paid or given is owed: it is taken off the next limits until what was paid for and left unused has paid it. So
is what was drawn on a top-up whose payment was lost in a dispute. A dispute that may still be won allows no more use,
and of a part that is over, or a top-up, it makes nothing owed.

Whatever allows less than before, for whatever reason, keeps what was used of it until that was heard of, and no more:
what is used afterwards is drawn on what stands. What is used is what was settled; a call under way is drawn, once it
has ended, as it would have been when it began. See docs/adr/0039. Amounts are integer nanodollars.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from billing.rules.undone import NONE, Fall, Undone

# What is used beyond all that there is, as a report of spend can be, is drawn on nothing, also when more is bought.
NOTHING = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A subscription's period within a window: what it allows in all, and what was paid for it.

    `given_nanos` of it need no payment: what is used of them is not owed, and what is not repays nothing. `frozen`: it
    allows no more than what is used of it already. Beside what was paid `forgiven_nanos` were paid back, so that what
    was used of them by then is not owed, `disputed_nanos` are in a dispute that may still be won, and `lost_nanos` were
    lost in one. `is_over`: its subscription is, so that what is owed of it is owed at once.
    """

    key: str
    ends_at: datetime
    whole_nanos: int
    paid_nanos: int
    given_nanos: int = 0
    forgiven_nanos: int = 0
    disputed_nanos: int = 0
    lost_nanos: int = 0
    frozen: bool = False
    is_over: bool = False

    @property
    def covered_nanos(self) -> int:
        return max(self.paid_nanos, self.given_nanos)

    @property
    def gone_nanos(self) -> int:
        return self.forgiven_nanos + self.disputed_nanos + self.lost_nanos

    @property
    def allowed_nanos(self) -> int:
        return 0 if self.frozen else self.whole_nanos

    @property
    def before_nanos(self) -> int:
        """What it allowed before anything of it went."""
        return max(self.whole_nanos, self.covered_nanos + self.gone_nanos)

    @property
    def as_won(self) -> Part:
        """As it is where what is in dispute is won: nothing is owed for it before it is lost."""
        return replace(self, paid_nanos=self.paid_nanos + self.disputed_nanos, disputed_nanos=0)


@dataclass(frozen=True, slots=True)
class Draw:
    """What of a window's use is drawn on a part or a top-up, and the most that could be from then on: what of it
    stands, or was used before. `is_stopped`: of a part that was frozen then."""

    nanos: int
    most_nanos: int
    is_stopped: bool = False


NO_DRAW = Draw(0, 0)


@dataclass(frozen=True, slots=True)
class Ended:
    """Calls that were under way when something came to allow less, and have ended since: what they cost, the most that
    could be drawn on each part and top-up before, and how many falls of each part were known before they began."""

    nanos: int
    most_nanos: Mapping[str, int]
    falls: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spell:
    """One window: its parts, what was used in it, how that was drawn on parts and top-ups, by their keys, when the
    window was looked at last; of its parts what had gone by then; which calls have ended since, and how much less an
    operator lets parts allow, or more where it is less than nothing."""

    starts_at: datetime
    parts: tuple[Part, ...]
    used_nanos: int
    draws: Mapping[str, Draw] = field(default_factory=dict)
    undone: Mapping[str, Undone] = field(default_factory=dict)
    ended: Sequence[Ended] = ()
    lowered: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Purchase:
    """An amount bought in addition; it counts from the window that begins at `starts_at`. `expires` with it.

    `refunded_nanos` of it went back or are in dispute, `lost_nanos` of these were lost in one. `used_before_nanos` were
    used in no window of a subscription. `credited_nanos` were paid with credit, and are held back for what is owed, and
    for `owed_nanos`: what another customer owes that bought it.
    """

    key: str
    starts_at: datetime
    amount_nanos: int
    refunded_nanos: int = 0
    expires: bool = False
    lost_nanos: int = 0
    used_before_nanos: int = 0
    credited_nanos: int = 0
    owed_nanos: int = 0

    def counts_in(self, spell_starts_at: datetime) -> bool:
        return self.starts_at == spell_starts_at or (not self.expires and self.starts_at < spell_starts_at)

    def left_of(self, drawn_nanos: int) -> int:
        return self.amount_nanos - self.refunded_nanos - drawn_nanos

    def owed_of(self, drawn_nanos: int) -> int:
        """What of so much drawn is owed: an operator who pays a top-up back gives away what was used of it; a dispute
        that is lost takes it."""
        return max(0, drawn_nanos - (self.amount_nanos - self.lost_nanos))


@dataclass(slots=True)
class Balance:
    """What earlier windows leave behind: what is drawn on parts and top-ups that go on, what had gone of the parts, and
    what is owed."""

    drawn: dict[str, int] = field(default_factory=dict)
    undone: dict[str, Undone] = field(default_factory=dict)
    debt_nanos: int = 0


@dataclass(frozen=True, slots=True)
class Limit:
    """A window's limit: the plan's part of it, what top-ups add, and what was held back for debts.

    `left_nanos` of it are not used, `beyond_nanos` are what was used beyond everything. `draws`, `undone`: as of a
    `Spell`. `most_nanos`, `falls`: where something allows less by now, the most that could be drawn on each before, and
    how many falls of each were known.
    """

    plan_nanos: int
    topups_nanos: int
    owed_nanos: int
    left_nanos: int
    beyond_nanos: int = 0
    draws: Mapping[str, Draw] = field(default_factory=dict)
    undone: Mapping[str, Undone] = field(default_factory=dict)
    most_nanos: Mapping[str, int] = field(default_factory=dict)
    falls: Mapping[str, int] = field(default_factory=dict)

    @property
    def nanos(self) -> int:
        return self.plan_nanos + self.topups_nanos


@dataclass(frozen=True, slots=True)
class _Source:
    """A part or top-up within a window: how much of it could be drawn, and was, when that was looked at last, and what
    stands of it by now. What covers it is drawn on before what others allow beyond that."""

    key: str
    known: Draw
    stands_nanos: int
    covered_nanos: int = 0


# How use is drawn on each, and what of it is of calls that have ended since, for those that ended together.
_Known = tuple[dict[str, Draw], list[dict[str, int]]]
# How much each of several can have in all, in the order in which they take it; one may come again.
Takers = Iterable[tuple[str, int]]


def carried(past: Sequence[Spell], topups: Sequence[Purchase], *, alive: Collection[str]) -> Balance:
    """Draw all past windows in order. `alive` are the keys of the parts that count in the current one."""
    balance = Balance({one.key: one.used_before_nanos for one in topups})
    # What goes with a window unused is no use.
    balance.debt_nanos = sum(one.owed_of(one.used_before_nanos) for one in topups if not one.expires)
    # A part may be away for some windows, as a subscription that is paid late is, and is the same one afterwards.
    last = {part.key: number for number, spell in enumerate(past) for part in spell.parts}
    for number, spell in enumerate(past):
        _draw(balance, spell, topups)
        over = [part for part in spell.parts if last[part.key] == number and part.key not in alive]
        left = sum(_close(balance, part) for part in over)
        # What was bought with credit, and goes with the window, was held back for what is owed.
        going = [one for one in topups if one.expires and one.counts_in(spell.starts_at)]
        left += sum(max(0, min(one.credited_nanos, one.left_of(balance.drawn[one.key]))) for one in going)
        _repay(balance, left, [part for part in _in_order(spell.parts) if part not in over])
    return balance


def limit(
    balance: Balance,
    now: Spell,
    topups: Sequence[Purchase],
    *,
    owes_nothing: bool = False,
    at_most_nanos: int | None = None,
) -> Limit:
    """The current window's limit. `owes_nothing`: no debts are held back from what its parts give, which is given; from
    top-ups that credit paid for they are. `at_most_nanos`: all that parts allow, with what is used of those that are
    over."""
    parts, counting = _in_order(now.parts), _counting(topups, now.starts_at)
    known, costs = _known(balance, now, parts, counting)
    used = _until_now(balance, now, parts, known)
    undone, falls = dict[str, Undone](), dict[str, int]()
    sources, debt = list[_Source](), balance.debt_nanos
    for part in parts:
        whole, drawn = part.allowed_nanos, balance.drawn.get(part.key, 0)
        before = now.undone.get(part.key) or balance.undone.get(part.key, NONE)
        before = before.heard(drawn + used[part.key], _of(part, now, costs))
        given = before.gone_nanos(is_given=True) + _taken_away(part, before, now.lowered.get(part.key, 0))
        undone[part.key], falls[part.key] = _undone(before, part, given, whole, drawn + used[part.key])
        debt += _owed(part, drawn + used[part.key], undone[part.key])
        sources.append(_source(part, known, drawn, whole, undone[part.key]))
    if at_most_nanos is not None:
        allowed = sum(max(one.stands_nanos, used[one.key]) for one in sources)
        sources = _less(sources, used, max(0, allowed - at_most_nanos))
    held = 0 if owes_nothing else max(0, min(debt, sum(one.stands_nanos for one in sources)))
    rest, others = debt - sum(one.stands_nanos for one in sources), list[_Source]()
    sources = _less(sources, used, held)
    rest += sum(one.stands_nanos for one in sources)
    for one in counting:
        stands = one.left_of(balance.drawn.get(one.key, 0))
        taken = max(0, min(rest + one.owed_nanos, one.credited_nanos, stands - known[one.key].nanos))
        others.append(_Source(one.key, known[one.key], stands - taken))
        taken = max(0, taken - one.owed_nanos)
        rest, held = rest - taken, min(debt, held + taken)
    draws = _drawn(now.used_nanos, sources, others, known[NOTHING].nanos, used)
    frozen, all = {part.key for part in parts if part.frozen}, (*sources, *others)
    found = {one.key: Draw(draws[one.key], max(draws[one.key], one.stands_nanos), one.key in frozen) for one in all}
    plan, added = (sum(found[one.key].most_nanos for one in all) for all in (sources, others))
    left_nanos = sum(draw.most_nanos - draw.nanos for draw in found.values())
    # What is used beyond everything is in the way of nothing that is left.
    beyond = draws[NOTHING] if left_nanos else 0
    fell = any(draw.most_nanos < known[key].most_nanos for key, draw in found.items())
    return Limit(
        plan_nanos=plan + beyond,
        topups_nanos=added,
        owed_nanos=held,
        left_nanos=left_nanos,
        beyond_nanos=beyond,
        draws=_worth_keeping(found, _rooms(balance, counting)) | {NOTHING: Draw(draws[NOTHING], draws[NOTHING])},
        undone={key: one for key, one in undone.items() if one.falls or key in balance.undone},
        most_nanos={key: known[key].most_nanos for key in found} if fell else {},
        falls={key: number for key, number in falls.items() if number} if fell else {},
    )


def _in_order(parts: Iterable[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: (part.ends_at, part.key))


def _counting(topups: Sequence[Purchase], starts_at: datetime) -> list[Purchase]:
    return sorted((one for one in topups if one.counts_in(starts_at)), key=lambda one: (one.starts_at, one.key))


def _known(balance: Balance, spell: Spell, parts: Sequence[Part], topups: Sequence[Purchase]) -> _Known:
    """How a window's use was drawn when that was looked at last, with what the calls cost that have ended since; and
    what that is of each, for those that ended together."""
    before = {part.key: max(0, part.before_nanos - balance.drawn.get(part.key, 0)) for part in parts}
    known = {key: spell.draws.get(key, Draw(0, nanos)) for key, nanos in before.items()}
    # What is known of the past by now may leave less of a top-up.
    rooms = _rooms(balance, topups)
    known |= {key: _within(spell.draws.get(key, Draw(0, room)), room) for key, room in rooms.items()}
    costs = list[dict[str, int]]()
    for ended in spell.ended:
        takers = ((key, max(draw.nanos, ended.most_nanos.get(key, 0))) for key, draw in known.items())
        filled = _fill(ended.nanos, takers, {key: draw.nanos for key, draw in known.items()})
        costs.append({key: filled[key] - draw.nanos for key, draw in known.items()})
        known = {
            key: replace(draw, nanos=filled[key], most_nanos=max(draw.most_nanos, filled[key]))
            for key, draw in known.items()
        }
    return known | {NOTHING: spell.draws.get(NOTHING, NO_DRAW)}, costs


def _of(part: Part, spell: Spell, costs: Sequence[Mapping[str, int]]) -> list[tuple[int, int]]:
    """What calls cost of a part that have ended, each with how many of its falls they came after."""
    found = zip(spell.ended, costs, strict=True)
    return [(ended.falls.get(part.key, 0), cost[part.key]) for ended, cost in found]


def _taken_away(part: Part, before: Undone, lowered_nanos: int) -> int:
    """What of less that a part allows an operator took away, or gave again: what its payment does not account for."""
    went = part.gone_nanos - before.gone_nanos(is_given=False)
    return max(0, lowered_nanos - max(0, went)) + min(0, lowered_nanos - min(0, went))


def _undone(before: Undone, part: Part, given_nanos: int, stands_nanos: int, used_nanos: int) -> tuple[Undone, int]:
    """What of a part has gone, where so much of what an operator gave has in all; and how many falls were known."""
    all = ((part.gone_nanos, False), (max(0, given_nanos), True))
    for gone, is_given in all:
        before = before.within(gone, is_given=is_given)
    new = (Fall(gone - before.gone_nanos(is_given=kind), stands_nanos, used_nanos, kind) for gone, kind in all)
    return before.beside(*new), len(before.falls)


def _rooms(balance: Balance, topups: Sequence[Purchase]) -> dict[str, int]:
    """What earlier windows have left of top-ups, had nothing of them gone."""
    return {one.key: max(0, one.amount_nanos - balance.drawn.get(one.key, 0)) for one in topups}


def _worth_keeping(draws: Mapping[str, Draw], rooms: Mapping[str, int]) -> dict[str, Draw]:
    """Draws but on top-ups that stand and are not used."""
    return {key: one for key, one in draws.items() if one.nanos or one.most_nanos != rooms.get(key)}


def _within(draw: Draw, room_nanos: int) -> Draw:
    return Draw(min(draw.nanos, room_nanos), min(draw.most_nanos, room_nanos))


def _until_now(balance: Balance, spell: Spell, parts: Sequence[Part], known: Mapping[str, Draw]) -> dict[str, int]:
    """How what is used is drawn on parts where none allows less, or more, than when that was looked at last."""
    draws = [(part, known[part.key]) for part in parts]
    # What allows no more than it had comes before the others.
    takers = [(part.key, draw.nanos) for part, draw in draws if draw.nanos >= draw.most_nanos]
    covered = ((part, part.covered_nanos + part.gone_nanos - balance.drawn.get(part.key, 0)) for part in parts)
    takers += [(part.key, min(nanos, known[part.key].most_nanos)) for part, nanos in covered]
    return _fill(spell.used_nanos, [*takers, *((part.key, draw.most_nanos) for part, draw in draws)], {})


def _source(part: Part, known: Mapping[str, Draw], drawn: int, whole: int, undone: Undone) -> _Source:
    """A part of which so much is drawn in earlier windows, and that allows a whole in all."""
    stands, covered = (max(0, nanos + undone.used_nanos - drawn) for nanos in (whole, part.covered_nanos))
    return _Source(part.key, known[part.key], stands, min(stands, covered))


def _less(sources: Sequence[_Source], used: Mapping[str, int], held_nanos: int) -> list[_Source]:
    """Parts as they are where so much of what is not used of them is held back, of the last first."""
    found = list[_Source]()
    for one in reversed(sources):
        taken = min(held_nanos, max(0, one.stands_nanos - used[one.key]))
        held_nanos -= taken
        found.insert(0, replace(one, stands_nanos=one.stands_nanos - taken))
    return found


def _drawn(
    nanos: int, parts: Sequence[_Source], topups: Sequence[_Source], beyond_nanos: int, used: Mapping[str, int]
) -> dict[str, int]:
    """How what is used is drawn: on parts that allow no more as far as it was drawn on them until now, on the others,
    then on top-ups as when that was looked at last, before what each could give since."""
    takers = [(one.key, used[one.key]) for one in parts if one.stands_nanos <= used[one.key]]
    live = [one for one in parts if one.stands_nanos > used[one.key]]
    takers += [(one.key, min(one.covered_nanos, one.stands_nanos)) for one in live]
    takers += [(one.key, one.stands_nanos) for one in live]
    takers += [(one.key, one.known.nanos) for one in topups]
    takers += [(NOTHING, beyond_nanos), *((one.key, one.known.most_nanos) for one in topups), (NOTHING, nanos)]
    return _fill(nanos, takers, {})


def _fill(nanos: int, takers: Takers, drawn: Mapping[str, int]) -> dict[str, int]:
    """What each has of so many nanodollars, beside what is drawn already."""
    found = dict(drawn)
    for key, most in takers:
        taken = min(nanos, max(0, most - found.setdefault(key, 0)))
        found[key] += taken
        nanos -= taken
    return found


def _draw(balance: Balance, spell: Spell, topups: Sequence[Purchase]) -> None:
    """Draw a window that is over: as when it was looked at last, but on what was paid for its parts since."""
    parts, counting = _in_order(spell.parts), _counting(topups, spell.starts_at)
    known, costs = _known(balance, spell, parts, counting)
    used = _until_now(balance, spell, parts, known)
    sources, debt = list[_Source](), balance.debt_nanos
    for part in parts:
        # What was paid for it since counts, unless it could not be used then.
        is_stopped = known[part.key].is_stopped
        whole = 0 if is_stopped else part.covered_nanos
        drawn = balance.drawn.get(part.key, 0)
        if (undone := spell.undone.get(part.key)) is not None:
            balance.undone[part.key] = undone.heard(drawn + used[part.key], _of(part, spell, costs))
        # What has come back since stood then.
        gone = balance.undone.get(part.key, NONE).within(part.gone_nanos, is_given=False)
        debt += _owed(replace(part, is_over=is_stopped), drawn + used[part.key], gone)
        sources.append(_source(part, known, drawn, whole, gone))
    # What was held back for debts has paid them.
    sources = _less(sources, used, debt)
    others = [_Source(one.key, known[one.key], 0) for one in counting]
    draws = _drawn(_within_limit(spell, known), sources, others, known[NOTHING].nanos, used)
    for topup in counting:
        before = balance.drawn.get(topup.key, 0)
        balance.drawn[topup.key] = before + draws[topup.key]
        balance.debt_nanos += topup.owed_of(before + draws[topup.key]) - topup.owed_of(before)
    for part in parts:
        balance.drawn[part.key] = balance.drawn.get(part.key, 0) + draws[part.key]
    # What was used beyond everything when it was looked at was no limit's doing.
    if (left := draws[NOTHING] - known[NOTHING].nanos) > 0 and parts:
        balance.drawn[([part for part in parts if not part.frozen] or parts)[-1].key] += left
    elif left > 0:
        balance.debt_nanos += left


def _within_limit(spell: Spell, known: Mapping[str, Draw]) -> int:
    """What was used of what a window allowed when it was looked at last, with what is noted as beyond that. What was
    used beyond it since, as a report of spend can be, was no limit's doing."""
    if not spell.draws:
        return spell.used_nanos
    most = (max(draw.most_nanos, spell.draws.get(key, NO_DRAW).most_nanos) for key, draw in known.items())
    return min(spell.used_nanos, sum(most))


def _close(balance: Balance, part: Part) -> int:
    """A part is over: what is owed of it is owed. What was paid for it and is left."""
    part, drawn = replace(part, is_over=True), balance.drawn.pop(part.key, 0)
    undone = balance.undone.pop(part.key, NONE)
    stands = part.as_won
    undone, _ = _undone(undone.heard(drawn), stands, undone.gone_nanos(is_given=True), stands.covered_nanos, drawn)
    balance.debt_nanos += _owed(part, drawn, undone)
    return max(0, stands.paid_nanos - drawn)


def _repay(balance: Balance, left_nanos: int, parts: Iterable[Part]) -> None:
    """What is left of what is over repays what is owed, then what is owed of parts that go on."""
    repaid = min(balance.debt_nanos, left_nanos)
    balance.debt_nanos -= repaid
    left_nanos -= repaid
    for part in parts:
        drawn = balance.drawn[part.key]
        repaid = min(left_nanos, _owed(part, drawn, balance.undone.get(part.key, NONE)))
        balance.drawn[part.key], left_nanos = drawn - repaid, left_nanos - repaid


def _owed(part: Part, used_nanos: int, undone: Undone) -> int:
    """What was used of a part beyond what it is worth, and what went of it. It is worth what covers it, and until it is
    over what it allows beyond that; then what was lost of it is owed, too."""
    if part.is_over:
        part = part.as_won
        return max(0, used_nanos - part.covered_nanos - undone.forgiven_of(part.forgiven_nanos))
    return max(0, used_nanos - max(part.whole_nanos, part.covered_nanos) - undone.used_nanos)
