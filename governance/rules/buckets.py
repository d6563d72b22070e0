"""How fast money, requests and tokens may go: a bucket for each limit that flows off evenly over a minute. Pure.

A minute's worth may come at once; after that only as fast as it flows off. Something larger than a whole minute's
worth may go when the bucket is empty: otherwise it never could.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

MICROS_PER_MINUTE = 60_000_000
# Requests and tokens are counted in millionths, so that what flows off between two calls is not lost to rounding.
E6 = 1_000_000
# No level is above so many ceilings: nothing that is booked closes a limit for longer than its second minute.
MOST_CEILINGS = 2
FULLEST_FLOWS_OFF = MOST_CEILINGS * timedelta(minutes=1)
LONGEST_WAIT_S = 59


@dataclass(frozen=True, slots=True)
class Amount:
    """Nanodollars, and millionths of requests and tokens."""

    nanos: int = 0
    requests_e6: int = 0
    tokens_e6: int = 0

    def plus(self, other: Amount) -> Amount:
        """The sum; nothing falls below zero, for what has flowed off is not owed back."""
        return Amount(
            max(0, self.nanos + other.nanos),
            max(0, self.requests_e6 + other.requests_e6),
            max(0, self.tokens_e6 + other.tokens_e6),
        )

    def at_most(self, other: Amount) -> Amount:
        """The smaller of each."""
        return Amount(
            min(self.nanos, other.nanos),
            min(self.requests_e6, other.requests_e6),
            min(self.tokens_e6, other.tokens_e6),
        )

    def negated(self) -> Amount:
        return Amount(-self.nanos, -self.requests_e6, -self.tokens_e6)


NOTHING = Amount()


def amount_of(*, cost_nanos: int, tokens: int, requests: int = 1) -> Amount:
    return Amount(cost_nanos, requests * E6, tokens * E6)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a minute may bring; None is no ceiling."""

    nanos: int | None = None
    requests: int | None = None
    tokens: int | None = None

    def pairs(self, level: Amount, more: Amount) -> list[tuple[int, int, int]]:
        """(ceiling, level, more) of each ceiling that is set, in the units of amounts."""
        found = (
            (self.nanos, 1, level.nanos, more.nanos),
            (self.requests, E6, level.requests_e6, more.requests_e6),
            (self.tokens, E6, level.tokens_e6, more.tokens_e6),
        )
        return [(ceiling * unit, has, adds) for ceiling, unit, has, adds in found if ceiling is not None]

    def most_of(self, amount: Amount) -> Amount:
        """As much of an amount as a bucket holds: two minutes' worth, and nothing where there is no ceiling."""
        return Amount(
            min(amount.nanos, MOST_CEILINGS * (self.nanos or 0)),
            min(amount.requests_e6, MOST_CEILINGS * (self.requests or 0) * E6),
            min(amount.tokens_e6, MOST_CEILINGS * (self.tokens or 0) * E6),
        )

    def filled(
        self, level: Amount, *, more: Amount = NOTHING, less: Amount = NOTHING, ago: timedelta = timedelta(0)
    ) -> Amount:
        """The level once `more` is booked in the place of `less`, which was booked so long ago.

        What is beyond that is booked now. A call counts as at most what a bucket holds, so that what it does not use is
        given back of that alone, and of that only what has not flowed off since.
        """
        beyond = more.plus(less.negated())
        kept, had = after(more.at_most(less), self, ago), after(less, self, ago)
        return self.most_of(level.plus(beyond).plus(kept).plus(had.negated()))


def after(level: Amount, ceilings: Ceilings, passed: timedelta) -> Amount:
    """The level when `passed` has gone by; a clock that went back lets nothing flow off.

    One that is too high, of a ceiling that was lowered since, comes down to what the bucket may hold first.
    """
    level = ceilings.most_of(level)
    micros = max(0, passed // timedelta(microseconds=1))

    def left(has: int, ceiling: int | None, unit: int) -> int:
        return max(0, has - (ceiling or 0) * unit * micros // MICROS_PER_MINUTE)

    return Amount(
        left(level.nanos, ceilings.nanos, 1),
        left(level.requests_e6, ceilings.requests, E6),
        left(level.tokens_e6, ceilings.tokens, E6),
    )


@dataclass(frozen=True, slots=True)
class BucketView:
    """One rate limit as a decision sees it: its level as of now. `is_shared`: by all tenants."""

    scope: str
    ceilings: Ceilings
    level: Amount
    measured_at: datetime
    is_shared: bool = False

    def wait_s(self, more: Amount) -> int:
        """Whole seconds until `more` may go; 0 where it may go now.

        Of a limit that all tenants share always the longest wait: less would tell each of them how much all use.
        """
        waits = [0]
        for ceiling, has, adds in self.ceilings.pairs(self.level, more):
            if has and has + adds > ceiling:
                too_much = min(has, has + adds - ceiling)
                waits.append(-(-too_much * MICROS_PER_MINUTE // ceiling))
        if self.is_shared and len(waits) > 1:
            return LONGEST_WAIT_S
        return min(LONGEST_WAIT_S, -(-max(waits) // E6))
