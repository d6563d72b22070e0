"""What a window takes over of the one before. No database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules import carry_over, money
from governance.rules.carry_over import WindowBefore
from governance.rules.errors import FieldError

START = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)


def before(committed: int, *, limit: int = 100, extra: int = 0, ends_at: datetime | None = START) -> WindowBefore:
    return WindowBefore(ends_at, limit, extra, committed)


def carried(kept: str, last: WindowBefore | None, *, limit: int = 100, hard_e4: int = 10_000) -> int:
    return carry_over.carried_nanos(kept, limit_nanos=limit, hard_e4=hard_e4, starts_at=START, before=last)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        ("", None),
        (" none ", None),
        ("25%", "25%"),
        (" 12.50 % ", "12.5%"),
        ("100%", "100%"),
        ("10", "10.00"),
        (10, "10.00"),
        ("$0.5", "0.50"),
    ],
)
def test_it_is_a_share_or_dollars_or_nothing(value: Any, kept: str | None) -> None:
    assert carry_over.parse(value) == kept
    assert carry_over.parse(kept) == kept


@pytest.mark.parametrize("value", ["0%", "101%", "-5%", "0.001%", "much", "0", "-1", "x%", "%", True, "2000000000"])
def test_nothing_else(value: Any) -> None:
    with pytest.raises(FieldError) as refused:
        carry_over.parse(value)
    assert refused.value.field == "carry_over"


@pytest.mark.parametrize(
    ("kept", "last", "nanos"),
    [
        ("25%", None, 0),
        ("25%", before(0), 25),
        ("25%", before(90), 10),
        ("25%", before(100), 0),
        # After an overage.
        ("25%", before(130), 0),
        # Of an allowance nothing is left for later, and its money goes last.
        ("100%", before(40, limit=150, extra=50), 60),
        ("100%", before(120, limit=150, extra=50), 0),
        # What it had taken over itself counts, up to the cap.
        ("25%", before(110, limit=125), 15),
        ("25%", before(0, limit=125), 25),
        # A whole period without a call had all of its limit left.
        ("25%", before(100, ends_at=START - DAY), 25),
        ("100%", before(100, limit=200, ends_at=START - DAY), 100),
        # The clock of the tenant was set back.
        ("25%", before(90, ends_at=START + DAY / 24), 10),
        ("0.00000003", before(0), 30),
    ],
)
def test_what_is_taken_over(kept: str, last: WindowBefore | None, nanos: int) -> None:
    assert carried(kept, last) == nanos


def test_what_lies_above_the_hard_cap_was_never_to_be_spent() -> None:
    assert carried("100%", before(60), hard_e4=9_000) == 30
    assert carried("100%", before(0, ends_at=START - DAY), hard_e4=9_000) == 90


@given(
    spent=st.lists(st.integers(0, 250), min_size=1, max_size=40),
    share=st.integers(1, 100),
    limit=st.integers(1, 120),
)
def test_over_any_windows_it_never_passes_its_cap_nor_what_was_granted(
    spent: list[int], share: int, limit: int
) -> None:
    kept = f"{share}%"
    took, used, granted = 0, 0, 0
    for wanted in spent:
        granted += limit
        used += min(wanted, limit + took)
        assert used <= granted
        last = before(min(wanted, limit + took), limit=limit + took)
        took = carried(kept, last, limit=limit)
        assert 0 <= took <= carry_over.most_nanos(kept, limit) <= limit
        assert took <= money.remaining_nanos(
            limit_nanos=last.limit_nanos, hard_e4=10_000, committed_nanos=last.committed_nanos
        )
