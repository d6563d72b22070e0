"""A worker that sends usage, and kills its own process with -9 at one point: `python -m ... <point> <now>`.

The product knows nothing of it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import datetime
from typing import Any

POINTS = (
    "before_the_claim_commits",
    "after_the_claim",
    "after_the_send_before_the_mark",
    "before_the_mark_commits",
    "after_the_mark",
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def dying(name: str, owner: Any, *, before: bool = False) -> None:
    """Have `owner.name` do its work and then die; or die in its place."""
    work = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not before:
            work(*args, **kwargs)
        die()

    setattr(owner, name, wrapped)


def prepare(point: str) -> None:
    from billing.models import UsageMeter
    from billing.stripe_api import meters
    from billing.usage import outbox

    if point == "before_the_claim_commits":
        dying("_take", outbox)
    elif point == "after_the_claim":
        dying("send", meters.Reporter, before=True)
    elif point == "after_the_send_before_the_mark":
        dying("send", meters.Reporter)
    elif point == "before_the_mark_commits":
        mark = outbox._mark

        def half(row: Any, **values: Any) -> None:
            # The row is written and the meter is not: the transaction is still open.
            dying("filter", UsageMeter.objects, before=True)
            mark(row, **values)

        outbox._mark = half
    else:
        dying("_mark", outbox)


def main() -> None:
    import django

    django.setup()
    from billing.usage import outbox

    point, now = sys.argv[1], datetime.fromisoformat(sys.argv[2])
    outbox.write(now=now)
    prepare(point)
    outbox.drain(clock=lambda: now)


if __name__ == "__main__":
    main()
