"""How the models do that are called from this machine: circuit breakers that all its processes share.

They live in one small file of fixed slots, a slot a model, found by the digest of its name (docs/adr/0011). A slot also
has the breakers of the few tenants whose calls alone fail there (docs/adr/0041). A look is one `pread`, and what was
well is taken to be so for WELL_FOR_S; a change holds the slot's `fcntl` lock for microseconds. Each slot carries a
checksum, so a torn read, a crash in mid-write or a foreign file costs what was known of a model and no more. Where the
file does not work every model counts as well: a breaker is advice, and never what stops a call.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from llm.rules.breakers import LATENCY_KNOWN_S, LONGEST_COOL_DOWN_S, PROBES, Breaker, Phase, Probe, Sender
from llm.rules.pricing import DEFAULT_PROVIDER, ZONE_PROVIDERS
from llm.rules.shared_breakers import TENANTS, OwnBreaker, SharedBreaker

log = logging.getLogger(__name__)

# A new layout gets a new name: processes of two versions then do not fight over one file.
FILE = "breakers-2"
MAGIC = b"spend-governor breakers 2\n".ljust(64, b"\0")
SLOTS, SLOT_BYTES = 1024, 640
# A name's slot is one of so many that follow each other. The last window needs room behind the last slot.
WINDOW = 16
FILE_BYTES = len(MAGIC) + (SLOTS + WINDOW) * SLOT_BYTES
# checksum; digest, name's length, passed, openings, latency_ms, measured_at, changed_at, failures, opened_at,
# cool_until, the tenants that have a breaker of their own (0: none); everybody's probes (process, tenant, until); the
# own ones (counted, passed, failures, opened_at, cool_until, probes (process, until)); name.
_HEAD = struct.Struct(f"<I16sHxBI3dI2d{TENANTS}q")
_PROBE = struct.Struct("<Iqd")
_OWN = struct.Struct("<BBI2d")
_OWN_PROBE = struct.Struct("<Id")
_OWN_AT = _HEAD.size + PROBES * _PROBE.size
_OWN_BYTES = _OWN.size + PROBES * _OWN_PROBE.size
_NAME_AT = _OWN_AT + TENANTS * _OWN_BYTES
_LONGEST_NAME = SLOT_BYTES - _NAME_AT
_CHANGED = struct.Struct("<d")
# Where failures, opened_at, cool_until and the tenants are: all that a call at a healthy model reads.
_TROUBLES = struct.Struct(f"<I2d{TENANTS}q")
_TROUBLES_AT = _HEAD.size - _TROUBLES.size
_NO_TROUBLES = bytes(_TROUBLES.size)
_CHANGED_AT = _TROUBLES_AT - _CHANGED.size
# A slot that is being written as it is read is read again.
READS = 3
# A verdict that cannot be written in this time is given up: whoever holds the lock is not running.
LONGEST_WAIT_S = 0.05
# The mean latency of a healthy model is renewed no oftener than this, to keep most calls from writing at all.
MEASURED_EVERY_S = 0.05
# So long after a look at which all was well a process does not look again: by so much it learns later what others meet.
WELL_FOR_S = 0.02
COMPLAIN_AGAIN_S = 60.0
_MISTRALS = frozenset({DEFAULT_PROVIDER, *ZONE_PROVIDERS})


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """What is known of one model at a moment. `tenants`: for how many it is impaired as their calls alone failed."""

    name: str
    phase: Phase
    cooling_down: bool
    breaker: Breaker
    changed_at: float
    tenants: int

    @property
    def is_impaired(self) -> bool:
        """Cooling down, or not closed: calls go to it not at all, or a few to try it."""
        return self.cooling_down or self.phase is not Phase.CLOSED

    @property
    def label(self) -> str:
        """closed, open, half-open or cooling down."""
        return "cooling down" if self.cooling_down else self.phase.value


class _Process(NamedTuple):
    """`owner` is how its probes name it; `lock` keeps its threads apart, which `fcntl` does not."""

    owner: int
    lock: threading.RLock


class Breakers:
    """The breakers in one file. Names are places, `provider/id`; a tenant is its id, never 0.

    Nothing here raises, or waits longer than 50 ms.
    """

    def __init__(self, path: Path, *, well_for_s: float = WELL_FOR_S) -> None:
        self.path = path
        self._well_for_s = well_for_s
        self._fd = -1
        self._places: dict[str, tuple[bytes, int]] = {}
        # Until when a model is taken to be well, and what its slot held, None for nothing.
        self._well: dict[str, tuple[float, bytes | None]] = {}
        self._processes: dict[int, _Process] = {}
        self._complained_at = -COMPLAIN_AGAIN_S

    def admits(self, name: str, tenant: int, now: float) -> bool:
        """Whether a call may go. One to a half-open model is a probe, and needs a verdict or `release_probe`."""
        data = self._look(name)
        if data is None or _admits_all_of(data, tenant):
            return True
        breaker = _unpacked(data)
        if breaker.blocks(tenant, now):
            return False
        if breaker.admitted(sender := self._sender(tenant), now) == breaker:
            return True
        admitted = False

        def admit(breaker: SharedBreaker) -> SharedBreaker:
            nonlocal admitted
            after = breaker.admitted(sender, now)
            admitted = after is not None
            return after or breaker

        return self._change(name, admit, now) and admitted

    def blocks(self, name: str, tenant: int, now: float) -> bool:
        """Whether `admits` would say no. A look: no probe is taken."""
        data = self._look(name)
        return data is not None and not _admits_all_of(data, tenant) and _unpacked(data).blocks(tenant, now)

    def succeeded(self, name: str, tenant: int, latency_ms: float | None, now: float) -> None:
        """The model answered the tenant; `latency_ms` after it was asked, where that says how quick it is."""
        data = self._look(name)
        if data is not None and latency_ms is None and _is_well(data, tenant):
            return
        known = _unpacked(data) if data is not None else SharedBreaker()
        well = known.is_well(tenant)
        if well and (latency_ms is None or 0 <= now - known.everyone.measured_at < MEASURED_EVERY_S):
            return

        def succeed(breaker: SharedBreaker) -> SharedBreaker:
            after = breaker.succeeded(self._sender(tenant), now)
            return after if latency_ms is None else after.measured(latency_ms, now)

        self._change(name, succeed, now, patient=not well)

    def failed(self, name: str, tenant: int, now: float) -> None:
        """The model did not answer the tenant: 429, 5xx, silence, no connection or a broken one."""
        self._change(name, lambda breaker: breaker.failed(self._sender(tenant), now), now)

    def cool_down(self, name: str, tenant: int, until: float, now: float | None = None) -> None:
        """The model asked the tenant's call to leave it alone; it is for LONGEST_COOL_DOWN_S at most."""
        now = time.time() if now is None else now
        until = min(until, now + LONGEST_COOL_DOWN_S)
        self._change(name, lambda breaker: breaker.cooling_down(tenant, until, now), now)

    def release_probe(self, name: str, tenant: int, now: float | None = None) -> None:
        """A call that was admitted ended without a verdict."""
        now = time.time() if now is None else now
        self._change(name, lambda breaker: breaker.released(self._sender(tenant), now), now)

    def latency_ms(self, name: str, now: float) -> float | None:
        """The mean latency of late; None where it is not known."""
        data = self._look(name)
        return None if data is None else _unpacked(data).everyone.known_latency_ms(now)

    def status(self, name: str, now: float, *, tenant: int | None = None) -> BreakerStatus | None:
        """What is known of one model, if anything; as it is for a tenant, where one is named."""
        data = self._look(name)
        return None if data is None else _status(data, now, tenant)

    def snapshot(self, now: float) -> list[BreakerStatus]:
        """All models that are known, by name."""
        try:
            with self._me().lock:
                self._open_again_if_harmed()
            data = os.pread(self._file(), FILE_BYTES, 0)
        except OSError as error:
            self._complain(error)
            return []
        slots = (data[at : at + SLOT_BYTES] for at in range(len(MAGIC), len(data), SLOT_BYTES))
        found = (_status(slot, now) for slot in slots if _is_whole(slot))
        return sorted(found, key=lambda status: status.name)

    def close(self) -> None:
        with self._me().lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
            self._places.clear()
            self._well.clear()

    def _look(self, name: str) -> bytes | None:
        """The slot of a name without a lock, as of a moment ago where all was well; None: nothing is known of it."""
        now = time.monotonic()
        kept = self._well.get(name)
        if kept is not None and now < kept[0]:
            return kept[1]
        try:
            data = self._read(self._file(), name)
        except OSError as error:
            self._complain(error)
            return None
        if data is None or data.startswith(_NO_TROUBLES, _TROUBLES_AT):
            if len(self._well) >= SLOTS:
                self._well.clear()
            self._well[name] = now + self._well_for_s, data
        return data

    def _read(self, fd: int, name: str) -> bytes | None:
        known = self._places.get(name)
        if known is not None:
            data = os.pread(fd, SLOT_BYTES, known[1])
            if _is_whole(data) and data[4:20] == known[0]:
                return data
        digest, start = _key(name)
        for _ in range(READS):
            window = os.pread(fd, WINDOW * SLOT_BYTES, start)
            mine = [at for at in range(0, len(window), SLOT_BYTES) if window[at + 4 : at + 20] == digest]
            for at in mine:
                if _is_whole(data := window[at : at + SLOT_BYTES]):
                    self._places[name] = (digest, start + at)
                    return data
            if not mine:
                break
        return None

    def _change(
        self, name: str, change: Callable[[SharedBreaker], SharedBreaker], now: float, *, patient: bool = True
    ) -> bool:
        """Put what `change` makes of a breaker in its place. False where that could not be done."""
        try:
            with self._locked(name, wait_s=LONGEST_WAIT_S if patient else 0) as fd:
                if fd < 0:
                    return False
                data = self._read(fd, name)
                before = _unpacked(data) if data is not None else SharedBreaker()
                after = change(before)
                if after != before:
                    at = self._places[name][1] if data is not None else self._free(fd, name)
                    os.pwrite(fd, _packed(name, after, now), at)
                # What this process changed, or saw changed, it knows.
                self._well.pop(name, None)
            return True
        except OSError as error:
            self._complain(error)
            return False

    @contextmanager
    def _locked(self, name: str, *, wait_s: float) -> Iterator[int]:
        """The file, with the window of a name locked against threads and processes; -1 where it is not to be had."""
        lock = self._me().lock
        if not lock.acquire(timeout=wait_s):
            yield -1
            return
        try:
            self._open_again_if_harmed()
            fd = self._file()
            # Windows overlap, so a lock covers all slots that the name, or a neighbour's, may take.
            _, start = _key(name)
            if not _lock(fd, start, WINDOW * SLOT_BYTES, wait_s=wait_s):
                yield -1
                return
            try:
                yield fd
            finally:
                fcntl.lockf(fd, fcntl.LOCK_UN, WINDOW * SLOT_BYTES, start)
        finally:
            lock.release()

    def _free(self, fd: int, name: str) -> int:
        """Where a name without a slot goes: an empty or broken one, or the one that has not changed for longest."""
        _, start = _key(name)
        window = os.pread(fd, WINDOW * SLOT_BYTES, start).ljust(WINDOW * SLOT_BYTES, b"\0")
        return start + min(range(0, len(window), SLOT_BYTES), key=lambda at: _changed_at(window[at : at + SLOT_BYTES]))

    def _sender(self, tenant: int) -> Sender:
        return Sender(self._me().owner, tenant)

    def _me(self) -> _Process:
        """A forked process is another. Of threads that are the first at once one makes it."""
        pid = os.getpid()
        found = self._processes.get(pid)
        return found or self._processes.setdefault(pid, _Process(secrets.randbits(32), threading.RLock()))

    def _file(self) -> int:
        if self._fd < 0:
            with self._me().lock:
                if self._fd < 0:
                    self._fd = _opened(self.path)
        return self._fd

    def _open_again_if_harmed(self) -> None:
        """Somebody who deletes the file would else leave two groups of processes, each with its own."""
        if self._fd < 0:
            return
        found = os.fstat(self._fd)
        if found.st_nlink == 0 or found.st_size < FILE_BYTES:
            os.close(self._fd)
            self._fd = -1
            self._places.clear()

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._complained_at >= COMPLAIN_AGAIN_S:
            self._complained_at = now
            log.error("the circuit breakers cannot be kept in %s, so every model is called: %s", self.path, error)


def state() -> str:
    """How Mistral is, in a word for /api/health.

    "failing": a model of it is impaired; "down": each that was called of late is, and none has answered since. Else
    how it is set up: "configured", "sandbox" or "not_configured".
    """
    now = time.time()
    called = [
        status
        for status in shared().snapshot(now)
        if abs(now - status.changed_at) < LATENCY_KNOWN_S and status.name.partition("/")[0] in _MISTRALS
    ]
    if any(status.is_impaired for status in called):
        return "failing" if any(not status.is_impaired or status.breaker.passed for status in called) else "down"
    if settings.MISTRAL_API_KEY:
        return "configured"
    return "sandbox" if settings.MISTRAL_API_BASE == settings.SANDBOX_URL else "not_configured"


@cache
def shared() -> Breakers:
    """The breakers of this machine."""
    return Breakers(Path(settings.VAR_DIR) / FILE)


def _opened(path: Path) -> int:
    """The file, made where there is none. Slots of one that is not ours fail their checksums, so it can stay."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.pread(fd, len(MAGIC), 0) != MAGIC or os.fstat(fd).st_size < FILE_BYTES:
            os.ftruncate(fd, FILE_BYTES)
            os.pwrite(fd, MAGIC, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _lock(fd: int, start: int, length: int, *, wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            # Lets the one that holds it run, where it waits for this processor.
            time.sleep(0)
        else:
            return True


@cache
def _key(name: str) -> tuple[bytes, int]:
    """The digest of a name, and where its window begins."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return digest, len(MAGIC) + int.from_bytes(digest[:4], "little") % SLOTS * SLOT_BYTES


def _is_whole(data: bytes) -> bool:
    """Zeros are not: their checksum is another one."""
    return len(data) == SLOT_BYTES and data[:4] == _checksum(data)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(memoryview(data)[4:]).to_bytes(4, "little")


def _admits_all_of(data: bytes, tenant: int) -> bool:
    """Whether nothing is held against the model that concerns the tenant's calls."""
    _, opened_at, cool_until, *tenants = _TROUBLES.unpack_from(data, _TROUBLES_AT)
    return not opened_at and not cool_until and tenant not in tenants


def _is_well(data: bytes, tenant: int) -> bool:
    """`SharedBreaker.is_well`, of a slot."""
    failures, opened_at, _, *tenants = _TROUBLES.unpack_from(data, _TROUBLES_AT)
    return not failures and not opened_at and tenant not in tenants


def _packed(name: str, breaker: SharedBreaker, now: float) -> bytes:
    shown, everyone = name.encode()[:_LONGEST_NAME], breaker.everyone
    tenants = (*(own.tenant for own in breaker.own), *[0] * TENANTS)[:TENANTS]
    body = b"".join(
        (
            _HEAD.pack(
                0,
                _key(name)[0],
                len(shown),
                min(everyone.passed, 255),
                min(everyone.openings, 2**32 - 1),
                -1.0 if everyone.latency_ms is None else everyone.latency_ms,
                everyone.measured_at,
                now,
                min(everyone.failures, 2**32 - 1),
                everyone.opened_at or 0.0,
                everyone.cool_until,
                *tenants,
            ),
            b"".join(_PROBE.pack(*probe.owner, probe.until) for probe in everyone.probes).ljust(
                PROBES * _PROBE.size, b"\0"
            ),
            b"".join(map(_packed_own, breaker.own)).ljust(TENANTS * _OWN_BYTES, b"\0"),
            shown,
        )
    ).ljust(SLOT_BYTES, b"\0")
    return _checksum(body) + body[4:]


def _packed_own(own: OwnBreaker) -> bytes:
    breaker = own.breaker
    failures = min(breaker.failures, 2**32 - 1)
    head = _OWN.pack(own.counted, breaker.passed, failures, breaker.opened_at or 0.0, breaker.cool_until)
    probes = (_OWN_PROBE.pack(probe.owner.process, probe.until) for probe in breaker.probes)
    return b"".join((head, *probes)).ljust(_OWN_BYTES, b"\0")


def _unpacked(data: bytes) -> SharedBreaker:
    _, _, _, passed, openings, latency_ms, measured_at, _, failures, opened_at, cool_until, *tenants = (
        _HEAD.unpack_from(data)
    )
    probes = (_PROBE.unpack_from(data, _HEAD.size + place * _PROBE.size) for place in range(PROBES))
    everyone = Breaker(
        failures=failures,
        openings=openings,
        opened_at=opened_at or None,
        passed=passed,
        probes=tuple(Probe(Sender(process, tenant), until) for process, tenant, until in probes if until),
        cool_until=cool_until,
        latency_ms=None if latency_ms < 0 else latency_ms,
        measured_at=measured_at,
    )
    own = (_unpacked_own(data, _OWN_AT + place * _OWN_BYTES, tenant) for place, tenant in enumerate(tenants) if tenant)
    return SharedBreaker(everyone, tuple(own))


def _unpacked_own(data: bytes, start: int, tenant: int) -> OwnBreaker:
    counted, passed, failures, opened_at, cool_until = _OWN.unpack_from(data, start)
    places = range(start + _OWN.size, start + _OWN_BYTES, _OWN_PROBE.size)
    probes = (_OWN_PROBE.unpack_from(data, place) for place in places)
    breaker = Breaker(
        failures=failures,
        opened_at=opened_at or None,
        passed=passed,
        probes=tuple(Probe(Sender(process, tenant), until) for process, until in probes if until),
        cool_until=cool_until,
    )
    return OwnBreaker(tenant, breaker, counted)


def _changed_at(data: bytes) -> float:
    """0 for a slot that is free to take."""
    return float(_CHANGED.unpack_from(data, _CHANGED_AT)[0]) if _is_whole(data) else 0.0


def _status(data: bytes, now: float, tenant: int | None = None) -> BreakerStatus:
    known = _unpacked(data)
    breaker = known.shown(now) if tenant is None else known.seen_by(tenant, now)
    name = data[_NAME_AT : _NAME_AT + _HEAD.unpack_from(data)[2]].decode(errors="replace")
    return BreakerStatus(
        name=name,
        phase=breaker.phase(now),
        cooling_down=breaker.is_cooling_down(now),
        breaker=breaker,
        changed_at=_changed_at(data),
        tenants=sum(own.is_impaired(now) for own in known.own),
    )
