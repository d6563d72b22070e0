"""One run of telling: what happened becomes notices, notices become deliveries, and what is due is sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from governance.alerts import environment, outbox
from governance.models import AlertChannel
from governance.upkeep import budget_notices


def run(*, clock: Callable[[], datetime], only: AlertChannel | None = None) -> int:
    """How many messages arrived. Any number of workers may run it at once; `only`: sends to one channel alone."""
    environment.adopt()
    budget_notices.write(now=clock())
    outbox.spread(now=clock())
    return outbox.drain(clock=clock, only=only)
