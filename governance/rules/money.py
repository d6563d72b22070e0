"""Integer money, and the only rounding in the project.

Ledger amounts are **nanodollars** (10^-9 USD), prices **picodollars** (10^-12 USD) per unit. A reservation
rounds up, a settlement rounds half up, each once. No float ever touches money.
"""

import re
from decimal import Decimal

from governance.rules.errors import OverBound

NANOS_PER_DOLLAR = 1_000_000_000
PICOS_PER_NANO = 1_000
# What a text may say at all; a signed 64-bit column holds +-9.2 billion dollars.
MAX_NANOS = 9_000_000_000 * NANOS_PER_DOLLAR

# The bounds of what the ledger keeps, also constraints of its tables (ADR 21). What they leave to 2^63 is the point:
# nothing that is computed of two of them, in Python or SQL, can leave 64 bits.
#
# One report, hold, settlement or correction. No call costs a thousandth of it.
MAX_AMOUNT_NANOS = 10_000_000 * NANOS_PER_DOLLAR
# A limit, what allowances make of it, and a minute's ceiling, of which a rate bucket holds up to two.
MAX_LIMIT_NANOS = 1_000_000_000 * NANOS_PER_DOLLAR
# What a window has settled, what it has reserved, and an hour's sum, also of tokens: two of them still fit.
MAX_SUM = 4_000_000_000 * NANOS_PER_DOLLAR
# Tokens, pages, seconds or characters of one call.
MAX_UNITS = 10**12


class AmountError(ValueError):
    """A text or number that is no amount of dollars; the message says what would be."""


class TooMuch(AmountError):
    """More dollars, up or down, than there may be."""


_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,15})?")
# A number of our domain has fewer digits on either side of its point. Of an absurd exponent, arithmetic would raise
# errors of its own, and printing would take all memory.
_MOST_DIGITS = 30


def decimal(text: Decimal | str | int) -> Decimal:
    """A number as people write it, in ASCII digits; exactly.

    Raises AmountError for anything else (Python's own Decimal also takes "1_0" and other scripts' digits), for what is
    finer than any figure of ours, and TooMuch for what is more.
    """
    written = str(text).strip()
    if isinstance(text, bool) or len(written) > 10_000 or not _NUMBER.fullmatch(written):
        raise AmountError(f"{_short(written)!r} is not a number such as 12.50")
    number = Decimal(written)
    if not number:
        return Decimal(0)
    if number.adjusted() > _MOST_DIGITS:
        raise TooMuch(f"{_short(written)!r} is more than any amount")
    # Zeros at the end say nothing, however many there are.
    sign, digits, exponent = number.as_tuple()
    spare = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    places = -(int(exponent) + spare)
    if places > _MOST_DIGITS:
        raise AmountError(f"{_short(written)!r} is finer than any amount")
    return Decimal((sign, digits[: len(digits) - spare], int(exponent) + spare))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def nanos_from_dollars(dollars: Decimal | str | int, *, most: int = MAX_NANOS) -> int:
    """Nanodollars of a decimal amount, exactly; raises AmountError rather than round, TooMuch beyond +-`most` nanos."""
    try:
        amount = decimal(dollars)
    except TooMuch as error:
        raise TooMuch(f"{_short(str(dollars))!r} is more than {whole_dollars(most)}") from error
    except AmountError as error:
        raise AmountError(f'{_short(str(dollars))!r} is not an amount of dollars such as "12.50"') from error
    if not -dollars_from_nanos(most) <= amount <= dollars_from_nanos(most):
        raise TooMuch(f"{_short(str(dollars))!r} is more than {whole_dollars(most)}")
    sign, digits, exponent = amount.as_tuple()
    # By its digits: arithmetic would round to 28 of them.
    text, shift = "".join(map(str, digits)), int(exponent) + 9
    if not amount:
        return 0
    if shift < 0:
        raise AmountError(f"{_short(str(dollars))!r} is finer than a nanodollar (9 decimals)")
    nanos = int(text + "0" * shift)
    return -nanos if sign else nanos


def refuse_beyond(field: str, nanos: int, *, most: int) -> None:
    """Raise OverBound where a field's nanodollars are more than its bound, one of those above."""
    if nanos > most:
        raise OverBound(field, f"must be at most {whole_dollars(most)}")


def whole_dollars(nanos: int) -> str:
    """A bound as people read it: "10,000,000 dollars"."""
    return f"{nanos // NANOS_PER_DOLLAR:,} dollars"


def dollars_from_nanos(nanos: int) -> Decimal:
    """The exact decimal amount."""
    return Decimal(nanos).scaleb(-9)


def format_dollars(nanos: int) -> str:
    """A decimal string with at least two and at most nine decimals: "12.50", "0.000012345"."""
    sign = "-" if nanos < 0 else ""
    whole, fraction = divmod(abs(nanos), NANOS_PER_DOLLAR)
    decimals = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def ceil_from_picos(picos: int) -> int:
    """Nanodollars to reserve for `picos` picodollars: never less than the cost."""
    return -(-picos // PICOS_PER_NANO)


def round_from_picos(picos: int) -> int:
    """Nanodollars to settle for `picos` >= 0 picodollars: half a nanodollar rounds up."""
    return (picos + PICOS_PER_NANO // 2) // PICOS_PER_NANO


def share_nanos(limit_nanos: int, ratio_e4: int) -> int:
    """`ratio_e4` ten-thousandths of a limit, rounded down: a cap is never above what was granted."""
    return limit_nanos * ratio_e4 // 10_000


def room_nanos(*, limit_nanos: int, hard_e4: int, committed_nanos: int) -> int:
    """What a new reservation may still hold of a limit under its hard cap; negative after an overage."""
    return share_nanos(limit_nanos, hard_e4) - committed_nanos


def remaining_nanos(*, limit_nanos: int, hard_e4: int, committed_nanos: int) -> int:
    """What can still be spent of a limit: `remaining` wherever it is shown. Never below zero.

    `committed_nanos` is settled and reserved money. The hard cap counts, not the limit: of $10 with a hard cap of 0.5
    there are $5 to spend.
    """
    return max(0, room_nanos(limit_nanos=limit_nanos, hard_e4=hard_e4, committed_nanos=committed_nanos))


def ten_thousandths(ratio: Decimal) -> int:
    """A ratio as an integer of ten-thousandths (0.8 is 8000), exactly; raises AmountError where it is finer."""
    parts = decimal(ratio).scaleb(4)
    if parts != parts.to_integral_value():
        raise AmountError(f"{ratio} has more than four decimals")
    return int(parts)
