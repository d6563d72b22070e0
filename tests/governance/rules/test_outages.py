"""When something is about to give out."""

from __future__ import annotations

import pytest

from governance.rules import outages

GIB, MIB = 2**30, 2**20


@pytest.mark.parametrize(
    ("spent", "left", "resets_in_s", "gone"),
    [
        (10, 30, None, 2700),
        (10, 30, 36_000, 2700),
        # Not fast: less than a tenth of the limit went.
        (9, 1, None, None),
        # Fast, and it lasts for more than an hour.
        (10, 41, None, None),
        # Just before the reset it is no news.
        (10, 30, 4500, None),
        (10, 30, 4501, 2700),
        (10, 0, None, None),
    ],
)
def test_what_is_gone_within_the_hour_and_long_before_its_reset(
    spent: int, left: int, resets_in_s: int | None, gone: int | None
) -> None:
    found = outages.gone_in_s(spent_nanos=spent, over_s=900, left_nanos=left, limit_nanos=100, resets_in_s=resets_in_s)
    assert found == gone


@pytest.mark.parametrize(
    ("total", "free", "severity"),
    [
        (100 * GIB, 50 * GIB, None),
        (100 * GIB, 10 * GIB, None),
        (100 * GIB, 9 * GIB, "warning"),
        (100 * GIB, 3 * GIB, "critical"),
        (10 * GIB, GIB, "warning"),
        (4 * GIB, GIB // 4, "critical"),
        (4096 * GIB, 100 * GIB, None),
        (4096 * GIB, 19 * GIB, "warning"),
        (4096 * GIB, 7 * GIB, "critical"),
        # Small ones, such as a container's in memory.
        (256 * MIB, 256 * MIB, None),
        (256 * MIB, 64 * MIB, None),
        (256 * MIB, 63 * MIB, "warning"),
        (256 * MIB, 25 * MIB, "critical"),
        (4 * GIB, 1023 * MIB, "warning"),
    ],
)
def test_how_grave_it_is_that_a_disk_has_so_much_free(total: int, free: int, severity: str | None) -> None:
    assert outages.of_disk(total=total, free=free) == severity


def test_connections_that_are_nearly_used_up() -> None:
    assert outages.is_nearly_used_up(used=90, most=100)
    assert not outages.is_nearly_used_up(used=89, most=100)
