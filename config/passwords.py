"""Hashing passwords: a third of a second of a processor for each that is tried, by whoever asks for the sign-in page.

So one is hashed at a time in a process, behind everything else there, and a few wait; others are told to come again.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

from django.contrib.auth.hashers import PBKDF2PasswordHasher

from governance import database

# Passwords that are hashed, or wait for it: of all in a process, and of those those that came from one address.
MOST_AT_A_TIME, MOST_OF_AN_ADDRESS = 8, 2
# Of the places in line these are for whoever is known: signed in, or was from the same address before. A few addresses
# would else keep everybody out.
KEPT = 2
# How long one waits, and when to come again.
PATIENCE_S = 10
AGAIN_S = 5
# Among the threads of a busy machine this one gets a tenth of what another does, and of an idle one all.
NICENESS = 10


class TooMany(Exception):
    """As many passwords as may be are being hashed."""


def _step_back() -> None:
    # On Linux alone the niceness is the thread's own, and not the process's.
    if sys.platform == "linux":
        os.nice(NICENESS)


class HashingLine:
    """Who waits for a password to be hashed holds no connection to the database meanwhile."""

    def __init__(self, *, most: int = MOST_AT_A_TIME, kept: int = KEPT, patience_s: float = PATIENCE_S) -> None:
        self._places = threading.BoundedSemaphore(most)
        self._strangers = threading.BoundedSemaphore(most - kept)
        self._patience_s = patience_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="passwords", initializer=_step_back)

    def hashed(self, do: Callable[[], str], *, of_stranger: bool = False) -> str:
        """What `do` makes, in its turn. Raises TooMany."""
        with _place(self._strangers) if of_stranger else nullcontext(), _place(self._places):
            database.give_back()
            running = self._thread.submit(do)
            try:
                return running.result(self._patience_s)
            except TimeoutError:
                running.cancel()
                raise TooMany from None


@contextmanager
def _place(places: threading.BoundedSemaphore) -> Iterator[None]:
    if not places.acquire(blocking=False):
        raise TooMany
    try:
        yield
    finally:
        places.release()


class Addresses:
    """So many sign-ins of one address at a time, so that it takes no more than its part of the line."""

    def __init__(self, most: int = MOST_OF_AN_ADDRESS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._entered: Counter[str] = Counter()

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Raises TooMany."""
        with self._lock:
            if self._entered[address] >= self._most:
                raise TooMany
            self._entered[address] += 1
        try:
            yield
        finally:
            with self._lock:
                self._entered[address] -= 1
                if not self._entered[address]:
                    del self._entered[address]


line = HashingLine()
addresses = Addresses()
# Whether the sign-in that this thread looks at is a stranger's.
_of_stranger: ContextVar[bool] = ContextVar("of_stranger", default=False)


@contextmanager
def sign_in(*, username: str, address: str, is_known: bool) -> Iterator[None]:
    """Whose password is hashed meanwhile. A name that is known has its own places at an address. Raises TooMany."""
    with addresses.place(f"{username} {address}" if is_known else address):
        before = _of_stranger.set(not is_known)
        try:
            yield
        finally:
            _of_stranger.reset(before)


class Hasher(PBKDF2PasswordHasher):
    """PASSWORD_HASHERS: Django's own, in line."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        def encode() -> str:
            return PBKDF2PasswordHasher.encode(self, password, salt, iterations)

        return line.hashed(encode, of_stranger=_of_stranger.get())
