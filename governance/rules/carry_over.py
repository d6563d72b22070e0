"""What a window takes over of what the one before it had left. Pure; amounts are integer nanodollars.

A budget keeps it as text: "25%" of its limit, or "10.00" dollars, at the most. None: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from governance.rules import money
from governance.rules.errors import FieldError, quoted
from governance.rules.windows import WindowKind

# Those whose windows follow one another by the calendar.
KINDS = frozenset({WindowKind.HOUR, WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH})
NONE = "none"


@dataclass(frozen=True, slots=True)
class WindowBefore:
    """The last window of a subject before another one, as it stands when that opens."""

    ends_at: datetime | None
    limit_nanos: int
    # The part of the limit that allowances gave: that was for this window alone.
    extra_nanos: int
    committed_nanos: int

    def left_nanos(self, hard_e4: int) -> int:
        """What was neither spent nor held of its limit and of what it had itself taken over."""
        limit_nanos = self.limit_nanos - self.extra_nanos
        return money.remaining_nanos(limit_nanos=limit_nanos, hard_e4=hard_e4, committed_nanos=self.committed_nanos)


def parse(value: Any) -> str | None:
    """What is kept of "25%", "10.00" or nothing. Raises FieldError."""
    if value is None or (isinstance(value, str) and value.strip() in ("", NONE)):
        return None
    text = str(value).strip()
    try:
        if text.endswith("%"):
            share = money.decimal(text[:-1].strip()) / 100
            money.ten_thousandths(share)
            if not 0 < share <= 1:
                raise ValueError
            return f"{(share * 100).normalize():f}%"
        nanos = money.nanos_from_dollars(text.removeprefix("$"), most=money.MAX_LIMIT_NANOS)
    except (ArithmeticError, ValueError) as error:
        raise FieldError("carry_over", f'must be such as "25%" or "10.00" dollars, not {quoted(value)}') from error
    if nanos <= 0:
        raise FieldError("carry_over", "must be more than 0 dollars")
    return money.format_dollars(nanos)


def most_nanos(kept: str, limit_nanos: int) -> int:
    """How much a window takes over at the most."""
    if kept.endswith("%"):
        return money.share_nanos(limit_nanos, money.ten_thousandths(money.decimal(kept[:-1]) / 100))
    return money.nanos_from_dollars(kept)


def carried_nanos(
    kept: str, *, limit_nanos: int, hard_e4: int, starts_at: datetime, before: WindowBefore | None
) -> int:
    """What a window that opens at `starts_at` takes over; it stays so, whatever becomes of the one before.

    A subject of which there was no window before takes over nothing. One that has let a whole period pass has had all
    of its limit left, and no more: what would have been taken over into that period is over with it.
    """
    if before is None:
        return 0
    is_next = before.ends_at is None or before.ends_at >= starts_at
    left_nanos = before.left_nanos(hard_e4) if is_next else money.share_nanos(limit_nanos, hard_e4)
    return min(most_nanos(kept, limit_nanos), left_nanos)
