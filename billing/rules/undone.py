"""What of a part has gone, and what of it was used by then. Pure. Amounts are integer nanodollars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Fall:
    """What of a part went at once, of its payment or, `is_given`, of what an operator had given: what stood of the part
    then, and what was used of it by then, with what calls that were under way cost once they have ended."""

    nanos: int
    stood_nanos: int
    used_nanos: int
    is_given: bool = False


@dataclass(frozen=True, slots=True)
class Undone:
    """What of a part has gone, in the order in which it went. What was used by then beyond what stood is used of what
    went, and stays so beside whatever is paid for the part afterwards. What comes back stood all along."""

    falls: tuple[Fall, ...] = ()

    @property
    def used_nanos(self) -> int:
        return sum(self._used())

    def gone_nanos(self, *, is_given: bool) -> int:
        return sum(fall.nanos for fall in self.falls if fall.is_given == is_given)

    def forgiven_of(self, forgiven_nanos: int) -> int:
        """What is used of what an operator gave, and of so much of the payment that was paid back."""
        given = sum(nanos for fall, nanos in zip(self.falls, self._used(), strict=True) if fall.is_given)
        return given + min(forgiven_nanos, self.used_nanos - given)

    def _used(self) -> list[int]:
        found = list[int]()
        for fall in self.falls:
            found.append(max(0, min(fall.nanos, fall.used_nanos - fall.stood_nanos - sum(found))))
        return found

    def heard(self, used_nanos: int, costs: Iterable[tuple[int, int]] = ()) -> Undone:
        """As it is where calls have ended that were under way at all falls but so many of the first, at their costs,
        and so much of the part is used by now: use that is voided is none of what went."""
        falls = self.falls
        for known, cost in costs:
            falls = (*falls[:known], *(replace(one, used_nanos=one.used_nanos + cost) for one in falls[known:]))
        return Undone(tuple(replace(one, used_nanos=min(one.used_nanos, used_nanos)) for one in falls))

    def within(self, gone_nanos: int, *, is_given: bool) -> Undone:
        """As it is where no more than so much is gone any more: of the rest, what went last comes back first."""
        falls, back_nanos = list(self.falls), self.gone_nanos(is_given=is_given) - gone_nanos
        for number, fall in reversed(list(enumerate(self.falls))):
            back = min(max(0, back_nanos), fall.nanos) if fall.is_given == is_given else 0
            back_nanos -= back
            falls[number] = replace(falls[number], nanos=fall.nanos - back)
            falls[number:] = [replace(one, stood_nanos=one.stood_nanos + back) for one in falls[number:]]
        # The others keep their numbers.
        while falls and not falls[-1].nanos:
            falls.pop()
        return Undone(tuple(falls))

    def beside(self, *falls: Fall) -> Undone:
        return Undone((*self.falls, *(one for one in falls if one.nanos > 0)))


NONE = Undone()
