"""What some calls come to, and what is reckoned from that: a call's cost, shares, changes. Pure.

Shares and changes are ten-thousandths, rounded half up: 1250 is 12.5 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

WHOLE_E4 = 10_000
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SpendSums:
    """Sums of calls. Cached tokens are part of the input's; `estimated_nanos` is the part of the cost that was charged
    at an estimate; refused calls are none of `calls`."""

    cost_nanos: int = 0
    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    estimated_nanos: int = 0
    refused: int = 0

    def __add__(self, other: SpendSums) -> SpendSums:
        return self._with(other, 1)

    def __sub__(self, other: SpendSums) -> SpendSums:
        return self._with(other, -1)

    def _with(self, other: SpendSums, times: int) -> SpendSums:
        return SpendSums(
            self.cost_nanos + times * other.cost_nanos,
            self.calls + times * other.calls,
            self.input_tokens + times * other.input_tokens,
            self.cached_tokens + times * other.cached_tokens,
            self.output_tokens + times * other.output_tokens,
            self.estimated_nanos + times * other.estimated_nanos,
            self.refused + times * other.refused,
        )

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def call_nanos(self) -> int | None:
        """What one call cost; None where there was none."""
        return rounded(self.cost_nanos, self.calls)

    @property
    def thousand_tokens_nanos(self) -> int | None:
        """What a thousand tokens cost; None where none were used."""
        return rounded(self.cost_nanos * 1000, self.tokens)

    @property
    def cached_e4(self) -> int | None:
        return share_e4(self.cached_tokens, self.input_tokens)

    @property
    def estimated_e4(self) -> int | None:
        return share_e4(self.estimated_nanos, self.cost_nanos)


NOTHING = SpendSums()


def rounded(amount: int, parts: int) -> int | None:
    """An amount for each of so many parts, half up; None where there are none."""
    return (2 * amount + parts) // (2 * parts) if parts > 0 else None


def share_e4(part: int, whole: int) -> int | None:
    """From nothing to the whole, which corrections may have made smaller than its part; None of nothing."""
    found = rounded(part * WHOLE_E4, whole)
    return None if found is None else min(WHOLE_E4, max(0, found))


def change_e4(now: int, before: int) -> int | None:
    """How much more, or less, it is than before; None where there was nothing before."""
    return rounded((now - before) * WHOLE_E4, before)


def whole_hour(at: datetime) -> datetime:
    """The first hour of UTC that begins at that moment or after it.

    Sums are kept by these hours. Where a day begins within one (India's at 18:30 UTC), that hour is of the day that it
    begins in, in every figure.
    """
    at = at.astimezone(UTC)
    begun = at.replace(minute=0, second=0, microsecond=0)
    return begun if begun == at else begun + HOUR
