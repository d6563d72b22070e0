"""A stream that runs across the end of a month belongs to the month it began in."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from governance.models import BudgetWindow, SpendEntry
from llm.gateway.application import gateway
from tests import factories as make
from tests.llm.gateway.test_chat import nothing_is_held, streaming
from tests.product import Product

MIDNIGHT = datetime.fromisoformat("2026-03-31T11:00:00+00:00")


class Clock:
    """The ledger's clock in this process, which a test turns."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(product: Product, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(MIDNIGHT - timedelta(seconds=1))
    monkeypatch.setattr(gateway.commits, "_clock", clock)
    return clock


def test_a_stream_across_the_end_of_a_month_settles_in_the_old_one(product: Product, clock: Clock) -> None:
    # April begins in Auckland eleven hours before it does in UTC, during a day of UTC like any other.
    owner = make.tenant(time_zone="Pacific/Auckland")
    make.budget("1.00", window="month", tenant=owner)
    make.budget("1.00", scope_type="platform", window="month")
    key = product.key(of=owner)
    product.sandbox.behave("pace=0.02|output=20")
    with streaming(product, key) as response:
        lines = response.iter_lines()
        next(lines)
        march = BudgetWindow.objects.get(tenant=owner)
        assert (march.ends_at, march.closed_at) == (MIDNIGHT, None)
        assert march.reserved_nanos > 0
        clock.now = MIDNIGHT
        # The next call opens April while the first still runs.
        product.sandbox.behave("")
        assert product.chat(key).status_code == 200
        assert "[DONE]" in "".join(lines)
    march, april = BudgetWindow.objects.filter(tenant=owner).order_by("starts_at")
    assert (march.closed_at, april.starts_at, april.closed_at) == (MIDNIGHT, MIDNIGHT, None)
    # The stream's hold is older than the other call's.
    first, second = SpendEntry.objects.order_by("reservation__reserved_at").values_list("cost_nanos", flat=True)
    assert march.settled_nanos == first > 0
    assert april.settled_nanos == second > 0
    # In UTC it is still March: one window has both.
    platform = BudgetWindow.objects.get(tenant=None)
    assert platform.settled_nanos == march.settled_nanos + april.settled_nanos
    assert platform.ends_at is not None
    assert platform.ends_at > MIDNIGHT
    assert nothing_is_held()
