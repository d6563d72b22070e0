"""The tenants whom a lock holds up, as one process's writer knows them: until when nothing of theirs is tried."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from typing import TypeVar

# Between tries: while one waits for the lock, so do all others of the process, and those who want what it has.
PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
# One of whom nobody has asked anything for so long is like all others again.
FORGOTTEN_S = 60.0

log = logging.getLogger(__name__)

T = TypeVar("T")


class HeldUpTenants:
    """Written by the writer's thread, read by event loops too."""

    def __init__(self) -> None:
        # How often each was tried in vain, and when it is due again (monotonic seconds).
        self._known: dict[str, tuple[int, float]] = {}

    def learn(self, held_up: Collection[str], *, tried: str | None) -> None:
        """Some were held up just now; one that was `tried`, and is not among them, no longer is."""
        for tenant in held_up:
            self._note(tenant)
        if tried is not None and tried not in held_up:
            self._clear(tried)

    def _note(self, tenant: str) -> None:
        tries = self._known.get(tenant, (0, 0.0))[0] + 1
        pause_s = min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (tries - 1))
        log.warning("a lock holds up %s (try %d), again in %.1f s", tenant or "what has no tenant", tries, pause_s)
        self._known[tenant] = tries, time.monotonic() + pause_s

    def _clear(self, tenant: str) -> None:
        del self._known[tenant]
        log.warning("no lock holds up %s any more", tenant or "what has no tenant")

    def due_s(self, tenant: str) -> float:
        """When it is to be tried again, in monotonic seconds; long ago for whom nothing holds up."""
        return self._known.get(tenant, (0, 0.0))[1]

    def is_due(self, tenant: str) -> bool:
        return self.due_s(tenant) <= time.monotonic()

    def apart(self, jobs: Sequence[T], tenants: Sequence[str]) -> tuple[list[T], dict[str, list[T]]]:
        """What is others', and what is of each of them; `tenants` has each job's."""
        others, theirs, known = list[T](), dict[str, list[T]](), self.names()
        for job, tenant in zip(jobs, tenants, strict=True):
            (theirs.setdefault(tenant, []) if tenant in known else others).append(job)
        return others, theirs

    def names(self) -> set[str]:
        """All of them, those that are due too."""
        now = time.monotonic()
        for tenant, (_, due_s) in list(self._known.items()):
            if due_s + FORGOTTEN_S < now:
                self._clear(tenant)
        return set(self._known)
