"""Hands stored events to the workers, without ever keeping Stripe waiting for a broker.

A message is a hint: one that is lost costs the seconds until the next sweep of the inbox.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from contextvars import Context, copy_context

from billing import tasks

log = logging.getLogger(__name__)

# More than this in waiting means that the broker is down: the sweep will do.
MOST_WAITING = 1000


class _Sender:
    """A thread that talks to the broker in place of the request: over the network, or by writing files."""

    def __init__(self) -> None:
        # Each with what its request is known by, which goes on in the worker.
        self.waiting: queue.Queue[tuple[str, Context]] = queue.Queue(MOST_WAITING)
        self.process_id = os.getpid()
        threading.Thread(target=self._run, name="stripe-dispatch", daemon=True).start()

    def put(self, event_id: str) -> None:
        try:
            self.waiting.put_nowait((event_id, copy_context()))
        except queue.Full:
            log.warning("the broker is slow or down; event %s waits for the sweep", event_id)

    def _run(self) -> None:
        while True:
            event_id, context = self.waiting.get()
            context.run(_send, event_id)


_sender: _Sender | None = None
_starting = threading.Lock()


def soon(event_id: str) -> None:
    """Have an event handled by a worker. Never raises, never waits for the broker."""
    _running_sender().put(event_id)


def _running_sender() -> _Sender:
    global _sender
    with _starting:
        # A forked process has the object but not its thread.
        if _sender is None or _sender.process_id != os.getpid():
            _sender = _Sender()
        return _sender


def _send(event_id: str) -> None:
    try:
        tasks.process_event.apply_async((event_id,), retry=False, ignore_result=True)
    except Exception as error:
        log.warning("event %s waits for the sweep: %s", event_id, error)
