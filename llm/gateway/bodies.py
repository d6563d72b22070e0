"""Bodies of requests, within bounds: how large, how slow, how packed, and how many large ones of a key at a time.

For either plane; what is wrong with a body is told by these exceptions, and each plane has its own words for them.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from llm.gateway.asgi import Message, Receive

T = TypeVar("T")

# What is larger takes the event loop's time from everybody, so it is read in turns and parsed beside the loop.
LARGE_BYTES = 64 * 1024
# So much is unpacked before others have their turn: a few milliseconds' work.
SLICE_BYTES = 1024 * 1024
# The slowest that a body may come on the whole, after the patience that it has in any case.
LEAST_BYTES_PER_S = 4 * 1024
# What a key's bodies may take of a processor at once, before its share is looked at.
AT_ONCE_S = 0.1
# What JSON of many small values takes to be parsed, checked and worked on by Django.
LIKELY_S_PER_BYTE = 3e-7
# Window bits of zlib for what may be packed, and for whom else that is.
_PACKINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
PACKINGS = ("gzip", "deflate")


class BodyTooLarge(Exception):
    """The body is larger than `limit` bytes, as it came or unpacked."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body may have at most {limit:,} bytes.")
        self.limit = limit


class BodyTooSlow(Exception):
    """The body did not come in time."""

    def __init__(self) -> None:
        super().__init__("The body did not come in time; send it again.")


class CodingUnknown(Exception):
    """The body is coded for the way in a manner that is not undone here."""

    def __init__(self) -> None:
        super().__init__(
            "A body's transfer-encoding may be chunked, and that alone; what it is packed with is its content-encoding."
        )


class PackingUnknown(Exception):
    """The body is packed in a way that is not undone here."""

    def __init__(self) -> None:
        super().__init__(f"A body's content-encoding may be {' or '.join(PACKINGS)}, or none, and one alone.")


class PackingBroken(Exception):
    """The body is not packed as it says."""

    def __init__(self, packing: str) -> None:
        super().__init__(f"The body is not {packing}, as its content-encoding says.")


class TooManyBodies(Exception):
    """There are as many large bodies on their way as may be, of a key, a tenant or all."""

    def __init__(self, whose: str = " of this key") -> None:
        super().__init__(f"Too many large bodies{whose} are on their way; send fewer at a time, or try again shortly.")


class TooManyThreads(Exception):
    """As many threads wait for a model as may, of a key, a tenant or all."""

    def __init__(self, whose: str) -> None:
        super().__init__(
            f"Too many calls{whose} wait for a model here (ROUTED_CALLS); send fewer at a time, or try again shortly."
        )


class ClientGone(Exception):
    """The client went away before its request was read."""


def packing_of(headers: Mapping[bytes, bytes]) -> str:
    """How a body is packed, or "". Raises PackingUnknown, and CodingUnknown where it is packed for the way as well."""
    if headers.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked":
        raise CodingUnknown
    named = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if named in ("", "identity"):
        return ""
    if named not in _PACKINGS:
        raise PackingUnknown
    return named


def announced_bytes(headers: Mapping[bytes, bytes], *, limit: int) -> int:
    """What a request says of its body's size, 0 where it does not. Raises BodyTooLarge."""
    said = headers.get(b"content-length", b"")
    if not said.isdigit():
        return 0
    # So many digits are no number of bytes that anybody has; they are not read as one.
    if len(said) > 18 or int(said) > limit:
        raise BodyTooLarge(limit)
    return int(said)


async def read(receive: Receive, *, limit: int, patience_s: float) -> AsyncIterator[bytes]:
    """The parts of a body as they come. Raises BodyTooLarge, BodyTooSlow and ClientGone."""
    loop = asyncio.get_running_loop()
    # Only the client's own time counts, not what it waits for here.
    waited_s, size, more = 0.0, 0, True
    while more:
        asked = loop.time()
        message = await _received(receive, min(patience_s, patience_s + size / LEAST_BYTES_PER_S - waited_s))
        waited_s += loop.time() - asked
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        more = message.get("more_body", False)
        yield part


async def _received(receive: Receive, within_s: float) -> Message:
    try:
        async with asyncio.timeout(within_s):
            return await receive()
    except TimeoutError:
        raise BodyTooSlow from None


def slices(data: bytes, packing: str, *, limit: int) -> Iterator[bytes]:
    """What was packed, slice by slice: one that counts as small, then larger ones, none empty.

    No more than a slice beyond `limit` bytes is ever unpacked. Raises BodyTooLarge and PackingBroken.
    """
    # Raw deflate, without zlib's frame, is sent under the same name.
    bits = -15 if packing == "deflate" and not _has_zlib_frame(data) else _PACKINGS[packing]
    unpacker = zlib.decompressobj(bits)
    size, most, taken = 0, LARGE_BYTES, 0
    while not unpacker.eof:
        piece = unpacker.unconsumed_tail
        if not piece:
            # What is left over is copied each time, so it is kept short.
            piece, taken = data[taken : taken + most], taken + most
        try:
            found = unpacker.decompress(piece, most)
        except zlib.error:
            raise PackingBroken(packing) from None
        if not (piece or found):
            raise PackingBroken(packing)
        size += len(found)
        if size > limit:
            raise BodyTooLarge(limit)
        if found:
            most = SLICE_BYTES
            yield found
    # What follows the end, gzip's further members too, is nothing that a client sends.
    if unpacker.unused_data or taken < len(data):
        raise PackingBroken(packing)


def _has_zlib_frame(data: bytes) -> bool:
    return len(data) > 1 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0


class Turn:
    """What one request's body takes of its key's share. `take` waits; all is given back at its end."""

    def __init__(self, bodies: Bodies, key_id: int, tenant_id: int) -> None:
        self._bodies = bodies
        self._key_id = key_id
        self._tenant_id = tenant_id
        self._bytes = 0
        self.is_taken = False

    async def take(self) -> None:
        """Wait for the turn of a large body. Raises TooManyBodies."""
        await self._bodies.enter(self._key_id)
        self.is_taken = True

    def hold(self, size_bytes: int) -> None:
        """Count what of the body is held in memory from now on. Raises TooManyBodies."""
        more = size_bytes - self._bytes
        if more > 0:
            self._bodies.held.add(more, key_id=self._key_id, tenant_id=self._tenant_id)
            self._bytes = size_bytes

    async def work(self, size_bytes: int, do: Callable[[], T]) -> T:
        """Do what takes time by a body's size: at once where it is small, else beside the event loop."""
        if size_bytes <= LARGE_BYTES:
            return do()
        return await self._bodies.beside(self._key_id, do, counts=True)

    async def beside(self, do: Callable[[], T]) -> T:
        """Do it in the thread that all keys share, after what was asked for this key before."""
        return await self._bodies.beside(self._key_id, do)

    def leave(self) -> None:
        """Another large body of the key has its turn; this one is read and parsed."""
        if self.is_taken:
            self.is_taken = False
            self._bodies.leave(self._key_id)

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()
        if self._bytes:
            self._bodies.held.give_back(self._bytes, key_id=self._key_id, tenant_id=self._tenant_id)
            self._bytes = 0


class Places:
    """So many places for each key; who comes later waits in line. Nothing is kept of a key that takes none."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._places: dict[int | str, asyncio.Semaphore] = {}
        self._entered: Counter[int | str] = Counter()

    async def enter(self, key_id: int | str) -> None:
        self._entered[key_id] += 1
        try:
            await self._places.setdefault(key_id, asyncio.Semaphore(self._count)).acquire()
        except BaseException:
            self._forget(key_id)
            raise

    def leave(self, key_id: int | str) -> None:
        self._places[key_id].release()
        self._forget(key_id)

    @asynccontextmanager
    async def place(self, key_id: int | str) -> AsyncIterator[None]:
        await self.enter(key_id)
        try:
            yield
        finally:
            self.leave(key_id)

    def _forget(self, key_id: int | str) -> None:
        self._entered[key_id] -= 1
        if not self._entered[key_id]:
            del self._entered[key_id], self._places[key_id]


class Shares:
    """How much of the processor each key's bodies, or requests, have taken lately. Beyond its share the next waits.

    What parses takes turns with the event loop for Python's lock, so that all other calls feel it for as long.
    """

    def __init__(
        self, *, share: float, at_once_s: float = AT_ONCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._share = share
        self._at_once_s = at_once_s
        self._clock = clock
        # When a key's share will have made up for what it took.
        self._even_at: dict[int | str, float] = {}

    def wait_s(self, key_id: int | str) -> float:
        return max(0.0, self._even_at.get(key_id, 0.0) - self._clock() - self._at_once_s / self._share)

    def took(self, key_id: int | str, seconds: float) -> None:
        now = self._clock()
        self._even_at = {key: even_at for key, even_at in self._even_at.items() if even_at > now}
        self._even_at[key_id] = max(now, self._even_at.get(key_id, now)) + seconds / self._share


class Held:
    """What calls hold in this process, such as bytes of large bodies: so many of a key, of a tenant, and of all.

    A tenant holds no more than half of what others leave, so that some tenants, or many, leave room for one more.
    `refusal` makes what is raised where there is no room, of whose it is that there is none of.
    """

    def __init__(
        self, *, of_a_key: int, of_a_tenant: int, of_all: int, refusal: Callable[[str], Exception] = TooManyBodies
    ) -> None:
        self._most = (of_a_key, of_a_tenant, of_all)
        self._refusal = refusal
        self._held: Counter[tuple[str, int | str]] = Counter()

    def add(self, count: int, *, key_id: int | str, tenant_id: int | str) -> None:
        """Raises the refusal, and adds nothing then."""
        whose = key, tenant, all_ = _whose(key_id, tenant_id)
        for who, most in zip((key, tenant), self._most, strict=False):
            if self._held[who] + count > most:
                raise self._refusal(who[0])
        others = self._held[all_] - self._held[tenant]
        if self._held[tenant] + count > (self._most[2] - others) // 2:
            raise self._refusal(all_[0])
        self._held.update(dict.fromkeys(whose, count))

    def give_back(self, count: int, *, key_id: int | str, tenant_id: int | str) -> None:
        self._held.subtract(dict.fromkeys(_whose(key_id, tenant_id), count))
        # Nothing is kept of whoever holds nothing.
        self._held = +self._held


def _whose(key_id: int | str, tenant_id: int | str) -> tuple[tuple[str, int | str], ...]:
    return (" of this key", key_id), (" of this tenant", tenant_id), ("", 0)


class Bodies:
    """The large bodies of all keys: so many are read and parsed at a time for each key, others of it wait.

    `share`: of one processor, what the parsing of one key's bodies takes at most over time.
    """

    def __init__(self, *, at_a_time: int, held: Held, patience_s: float, share: float = 1.0) -> None:
        self.held = held
        self._shares = Shares(share=share)
        self._patience_s = patience_s
        self._turns = Places(at_a_time)
        # The thread's line has one piece of work of a key at most, whatever else of it waits: keys take turns there.
        self._in_line = Places(1)
        # One alone: what is parsed takes turns with the event loop, and two would take two of three.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gateway-bodies")

    def turn(self, key_id: int, tenant_id: int) -> Turn:
        return Turn(self, key_id, tenant_id)

    async def enter(self, key_id: int) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._turns.enter(key_id)
        except TimeoutError:
            raise TooManyBodies from None

    def leave(self, key_id: int) -> None:
        self._turns.leave(key_id)

    async def beside(self, key_id: int, do: Callable[[], T], *, counts: bool = False) -> T:
        """`counts`: it holds Python's lock while it works, so it takes of the key's share."""
        await self._in_line.enter(key_id)
        try:
            if counts and (wait_s := self._shares.wait_s(key_id)):
                await asyncio.sleep(wait_s)
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, key_id, do, counts)
        finally:
            self._in_line.leave(key_id)

    def _timed(self, key_id: int, do: Callable[[], T], counts: bool) -> T:
        began_s = time.thread_time()
        try:
            return do()
        finally:
            if counts:
                self._shares.took(key_id, time.thread_time() - began_s)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
