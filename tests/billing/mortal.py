"""A worker that kills its own process with -9 at one point of an event's life. The product knows nothing of it.

`in_a_process(point, event_id)` forks one, which handles the event as Celery's task does and dies on the way.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from billing import tasks
from billing.inbox import handlers, store
from tests.billing.events import START
from tests.concurrency.processes import FORK, let_go_of_connections

POINTS = (
    "before_stripe_is_asked",
    "after_stripe_has_answered",
    "after_the_claim",
    "after_the_effect",
    "after_the_mark",
    "after_the_commit_before_the_acknowledgement",
)


def in_a_process(point: str, event_id: str) -> int | None:
    """The exit code of a worker that was to die at `point`: -9, if it came so far."""
    let_go_of_connections()
    worker = FORK.Process(target=_work, args=(point, event_id), daemon=True)
    worker.start()
    worker.join(30)
    worker.kill()
    return worker.exitcode


def _work(point: str, event_id: str) -> None:
    globals()[point]()
    # The sweeps that come after it count their time from then.
    tasks.timezone = SimpleNamespace(now=lambda: START)  # type: ignore[attr-defined]
    tasks.process_event(event_id)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(module: Any, name: str) -> None:
    setattr(module, name, die)


def _after(module: Any, name: str) -> None:
    done: Callable[..., Any] = getattr(module, name)

    def dying(*args: Any, **kwargs: Any) -> None:
        done(*args, **kwargs)
        die()

    setattr(module, name, dying)


def before_stripe_is_asked() -> None:
    _before(handlers, "readings")


def after_stripe_has_answered() -> None:
    _after(handlers, "readings")


def after_the_claim() -> None:
    _before(handlers, "handle")


def after_the_effect() -> None:
    _after(handlers, "handle")


def after_the_mark() -> None:
    # The transaction is still open.
    _after(store, "_effect")


def after_the_commit_before_the_acknowledgement() -> None:
    _after(store, "_try")
