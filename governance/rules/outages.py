"""When something is about to give out: money, a disk, connections. Pure."""

from __future__ import annotations

HOUR_S = 3600
# A budget goes fast where a tenth of it went lately; less is how small ones are spent.
FAST_SHARE = 10
# It is no news that the last of it goes shortly before the reset.
BEFORE_RESET_S = 1800
# Of a disk: shares in per cent, and bytes that are few on any but a small one.
LOW_PERCENT, FULL_PERCENT = 10, 4
LOW_BYTES, FULL_BYTES = 2 * 2**30, 512 * 2**20
CONNECTIONS_PERCENT = 90
LONG_TRANSACTION_S = 600


def gone_in_s(
    *, spent_nanos: int, over_s: int, left_nanos: int, limit_nanos: int, resets_in_s: int | None
) -> int | None:
    """In how many seconds what is left is gone at the pace of late; None where that is neither fast nor early.

    `resets_in_s` is None where it never resets.
    """
    if spent_nanos * FAST_SHARE < limit_nanos or left_nanos <= 0:
        return None
    gone_s = left_nanos * over_s // spent_nanos
    if gone_s >= HOUR_S or (resets_in_s is not None and gone_s + BEFORE_RESET_S >= resets_in_s):
        return None
    return gone_s


def of_disk(*, total: int, free: int) -> str | None:
    """How grave it is that so many bytes are free; None where it is not.

    A small share of a large disk is plenty, and a small disk, such as a container's in memory, never has many.
    """
    if free < min(FULL_BYTES, total // 10) or (free * 100 < total * FULL_PERCENT and free < 4 * LOW_BYTES):
        return "critical"
    if free < min(LOW_BYTES, total // 4) or (free * 100 < total * LOW_PERCENT and free < 10 * LOW_BYTES):
        return "warning"
    return None


def is_nearly_used_up(*, used: int, most: int) -> bool:
    return used * 100 >= most * CONNECTIONS_PERCENT
