"""The tenants whom a lock holds up, as one process knows them: until when nothing of theirs is tried.

Its writer tells of them, and so does whoever asks the ledger beside it, as the control plane does: while one of a
tenant's waits for the lock, it has what all others want.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import TypeVar, cast

from django.db import OperationalError

from governance.ledger import book, locks
from governance.ledger.operations import Operation
from governance.ledger.results import HeldUp, LedgerUnavailable

# Until it is looked again whether a tenant's rows are free, which takes a few milliseconds and holds up nobody. Where a
# try met a lock that no look knows of, others waited with it: so many times as long as that took.
PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
PAUSES = 5
# So long whoever tries one that is due does so alone; what comes of it is mostly known much sooner.
TRY_S = 2.0
# One of whom nobody has asked anything for so long is like all others again.
FORGOTTEN_S = 60.0

log = logging.getLogger(__name__)

T = TypeVar("T")


class HeldUpTenants:
    """Asked and told by the writer's thread, by those of the control plane, and by event loops."""

    def __init__(self) -> None:
        # When each is due again (monotonic seconds).
        self._known: dict[str, float] = {}
        self._lock = threading.Lock()

    def learn(self, held_up: Collection[str], *, tried: Collection[str] = (), took_s: float = 0.0) -> None:
        """Some were held up just now. Those that were `tried`, and are not among them, no longer are.

        To try took so long. One that several met at once is held up once.
        """
        pause_s = min(LONGEST_PAUSE_S, max(PAUSE_S, PAUSES * took_s)) if tried else PAUSE_S
        with self._lock:
            for tenant in held_up:
                if tenant not in self._known:
                    log.warning("a lock holds up %s", tenant or "what has no tenant")
                if tenant in tried or self.is_due(tenant):
                    self._known[tenant] = time.monotonic() + pause_s
            for tenant in set(tried).difference(held_up):
                self._clear(tenant)

    def _clear(self, tenant: str) -> None:
        if self._known.pop(tenant, None):
            log.warning("no lock holds up %s any more", tenant or "what has no tenant")

    def due_s(self, tenant: str) -> float:
        """When it is to be tried again, in monotonic seconds; long ago for whom nothing holds up."""
        return self._known.get(tenant, 0.0)

    def is_due(self, tenant: str) -> bool:
        return self.due_s(tenant) <= time.monotonic()

    def may_try(self, tenant: str) -> bool:
        """Whether whoever asks may try one now. Of those who ask while it is held up, one may, and the others wait."""
        with self._lock:
            if not self.is_due(tenant):
                return False
            if tenant in self._known:
                self._known[tenant] = time.monotonic() + TRY_S
            return True

    def names(self) -> set[str]:
        """All of them, those that are due too."""
        now = time.monotonic()
        with self._lock:
            for tenant, due_s in list(self._known.items()):
                if due_s + FORGOTTEN_S < now:
                    self._clear(tenant)
            return set(self._known)


# Of this process.
known = HeldUpTenants()


def try_for(tenant: str, act: Callable[[], T], *, needing: Operation, now: datetime) -> T:
    """What an act for one tenant returns, beside the writer and in transactions of its own; raises HeldUp.

    At once where a lock is known to hold the tenant up, or is found to be kept on a row that the operation needs. Else
    the act waits for each lock briefly, for it has the platform's window meanwhile, and is done again where it met one,
    unless that was expected: others may have waited for the same, or many want it in turn.
    """
    was_known = tenant in known.names()
    # Of those who ask before it is known, none knows more than the others, or that it is over.
    tried = [tenant] if was_known else []
    if not known.may_try(tenant):
        raise HeldUp(tenant)
    began_s, met = time.monotonic(), cast(Exception, HeldUp(tenant))
    is_kept = was_known and book.is_kept_from(needing, now=now)
    for seconds in locks.waits_s()[: 1 if was_known else None]:
        if is_kept:
            break
        try:
            with locks.briefly_waited_for(seconds):
                done = act()
        except Exception as error:
            if not locks.is_in_the_way(error):
                # Whoever was refused by the ledger met no lock; what is wrong with a database tells nothing of locks.
                if not isinstance(error, (LedgerUnavailable, OperationalError)):
                    known.learn([], tried=tried)
                raise
            met, is_kept = error, book.is_kept_from(needing, now=now)
        else:
            known.learn([], tried=tried)
            return done
    known.learn([tenant], tried=tried, took_s=time.monotonic() - began_s)
    raise HeldUp(tenant) from met
