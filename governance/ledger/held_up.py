"""The tenants whom a lock holds up, as one process knows them: until when nothing of theirs is tried.

Its writer tells of them, and so does whoever asks the ledger beside it, as the control plane does: while one of a
tenant's waits for the lock, it has what all others want.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from django.db import OperationalError

from governance.ledger import locks
from governance.ledger.results import HeldUp, LedgerUnavailable

# Between tries: while one waits for the lock, so do all others of the process, and those who want what it has.
PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
# So long whoever tries one that is due does so alone; what comes of it is mostly known much sooner.
TRY_S = 2.0
# One of whom nobody has asked anything for so long is like all others again.
FORGOTTEN_S = 60.0

log = logging.getLogger(__name__)

T = TypeVar("T")


class HeldUpTenants:
    """Asked and told by the writer's thread, by those of the control plane, and by event loops."""

    def __init__(self) -> None:
        # How often each was tried in vain, and when it is due again (monotonic seconds).
        self._known: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def learn(self, held_up: Mapping[str, bool], *, tried: str | None) -> None:
        """Some were held up just now, each by a row of its own (True) or by one that is perhaps not.

        One that was `tried`, and is not among them, no longer is. One that several met at once is held up once.
        """
        with self._lock:
            for tenant, is_own in held_up.items():
                if tenant == tried or self.is_due(tenant):
                    self._note(tenant, is_own)
            if tried is not None and tried not in held_up:
                self._clear(tried)

    def _note(self, tenant: str, is_own: bool) -> None:
        # What all share is soon to be had again: somebody waits with it, and gives it back.
        tries = self._known.get(tenant, (0, 0.0))[0] + 1 if is_own else 1
        pause_s = min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (tries - 1))
        log.warning("a lock holds up %s (try %d), again in %.1f s", tenant or "what has no tenant", tries, pause_s)
        self._known[tenant] = tries, time.monotonic() + pause_s

    def _clear(self, tenant: str) -> None:
        if self._known.pop(tenant, None):
            log.warning("no lock holds up %s any more", tenant or "what has no tenant")

    def due_s(self, tenant: str) -> float:
        """When it is to be tried again, in monotonic seconds; long ago for whom nothing holds up."""
        return self._known.get(tenant, (0, 0.0))[1]

    def is_due(self, tenant: str) -> bool:
        return self.due_s(tenant) <= time.monotonic()

    def may_try(self, tenant: str) -> bool:
        """Whether whoever asks may try one now. Of those who ask while it is held up, one may, and the others wait."""
        with self._lock:
            if not self.is_due(tenant):
                return False
            if tenant in self._known:
                self._known[tenant] = self._known[tenant][0], time.monotonic() + TRY_S
            return True

    def apart(self, jobs: Sequence[T], tenants: Sequence[str]) -> tuple[list[T], dict[str, list[T]]]:
        """What is others', and what is of each of them; `tenants` has each job's."""
        others, theirs, known = list[T](), dict[str, list[T]](), self.names()
        for job, tenant in zip(jobs, tenants, strict=True):
            (theirs.setdefault(tenant, []) if tenant in known else others).append(job)
        return others, theirs

    def names(self) -> set[str]:
        """All of them, those that are due too."""
        now = time.monotonic()
        with self._lock:
            for tenant, (_, due_s) in list(self._known.items()):
                if due_s + FORGOTTEN_S < now:
                    self._clear(tenant)
            return set(self._known)


# Of this process.
known = HeldUpTenants()


def try_for(tenant: str, act: Callable[[], T]) -> T:
    """What an act for one tenant returns, beside the writer and in transactions of its own; raises HeldUp.

    At once where a lock is known to hold the tenant up. Else the act waits for each lock briefly, for it has the
    platform's window meanwhile, and is done once more where it met one, unless that was expected: others may have
    waited for the same. Where many want it in turn, and nobody keeps it, its turn is waited for at last.
    """
    was_known = tenant in known.names()
    # Of those who ask before it is known, none knows more than the others, or that it is over.
    tried = tenant if was_known else None
    if not known.may_try(tenant):
        raise HeldUp(tenant)
    met: Exception = HeldUp(tenant)
    for seconds in _waits_s(was_known=was_known):
        try:
            with locks.briefly_waited_for(seconds):
                done = act()
        except Exception as error:
            if not locks.is_in_the_way(error):
                # Whoever was refused by the ledger met no lock; what is wrong with a database tells nothing of locks.
                if not isinstance(error, (LedgerUnavailable, OperationalError)):
                    known.learn({}, tried=tried)
                raise
            met = error
        else:
            known.learn({}, tried=tried)
            return done
    known.learn({tenant: locks.is_of_tenant(met)}, tried=tried)
    raise HeldUp(tenant) from met


def _waits_s(*, was_known: bool) -> Iterator[float]:
    """How long each try waits for a lock."""
    yield locks.again_s()
    if not was_known:
        yield locks.again_s()
    if not locks.is_kept():
        yield locks.wait_s()
