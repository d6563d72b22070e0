"""Turns of requests that are no calls of models: so much of a processor for a key over time, and for its tenant.

A read of the control plane takes Python's lock for as long as a large body does, and all calls wait for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from llm.gateway.bodies import Places, Shares

# What requests may take at once, before their share is looked at: a page of the console and what is on it.
AT_ONCE_S = 1.0
# What a request counts for until it is known what it took; so it is bounded how many begin at once.
LIKELY_S = 0.02
# Of a key: reads at a time, for which the database works too, and requests that wait. A tenant has twice as much.
READS, MOST_WAITING = 2, 100
TENANTS = 2


class TooManyRequests(Exception):
    """A key's, a user's or an address' requests would wait too long for their turn."""

    def __init__(self, whose: str, share: float) -> None:
        super().__init__(
            f"The requests of this {whose} wait for their share of a processor, {share:.0%} over time, and"
            f" {READS} reads at a time (API_PERCENT_PER_KEY); send fewer, or try again shortly."
        )


class Owner(NamedTuple):
    """Whose a request is: a key, a user or an address; and for whom it counts besides, its tenant or itself."""

    name: str
    counts_for: str


class _Line:
    """Where the requests of each of some wait for one another."""

    def __init__(self, *, share: float, reads: int) -> None:
        self.shares = Shares(share=share, at_once_s=AT_ONCE_S)
        self.reads = Places(reads)
        self.first = Places(1)


class RequestTurn:
    """One request's turn; `took` is told what it takes of a processor, at its end or as it goes."""

    def __init__(self, lines: dict[str, _Line], likely_s: float, leave_place: Callable[[], Awaitable[None]]) -> None:
        self._lines = lines
        # What it reads is read: others may, while it is sent.
        self.leave_place = leave_place
        self._likely_s = likely_s
        self._count(likely_s)

    def took(self, seconds: float) -> None:
        foreseen_s = min(seconds, self._likely_s)
        self._likely_s -= foreseen_s
        self._count(seconds - foreseen_s)

    def end(self) -> None:
        """What it was likely to take and did not is given back."""
        self._count(-self._likely_s)

    def _count(self, seconds: float) -> None:
        for whose, line in self._lines.items():
            line.shares.took(whose, seconds)

    async def wait(self) -> None:
        await _until_even(self._lines)


class Turns:
    """`share`: of one processor, what the requests of one key take at most over time."""

    def __init__(self, *, share: float) -> None:
        self._share = share
        self._keys = _Line(share=share, reads=READS)
        self._tenants = _Line(share=TENANTS * share, reads=TENANTS * READS)
        self._waiting: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(
        self, owner: Owner, *, is_read: bool, patience_s: float, likely_s: float = LIKELY_S
    ) -> AsyncIterator[RequestTurn]:
        """Waits for a request's turn. Raises TooManyRequests where that would be later than in `patience_s`."""
        lines = {owner.name: self._keys}
        if owner.counts_for != owner.name:
            lines[owner.counts_for] = self._tenants
        async with AsyncExitStack() as places:
            try:
                async with asyncio.timeout(patience_s):
                    await self._wait(owner, lines, places, is_read)
            except TimeoutError:
                raise self._refusal(owner) from None
            turn = RequestTurn(lines, likely_s, places.aclose)
            try:
                yield turn
            finally:
                turn.end()

    async def _wait(self, owner: Owner, lines: dict[str, _Line], places: AsyncExitStack, is_read: bool) -> None:
        if self._waiting[owner.name] >= MOST_WAITING:
            raise self._refusal(owner)
        self._waiting[owner.name] += 1
        try:
            # A key's place first: in its tenant's line it has no more than those.
            for whose, line in lines.items() if is_read else ():
                await places.enter_async_context(line.reads.place(whose))
            async with AsyncExitStack() as firsts:
                # A key waits for its own share before it is the first of its tenant's, whose other keys wait for that.
                for whose, line in lines.items():
                    await firsts.enter_async_context(line.first.place(whose))
                    await _until_even({whose: line})
        finally:
            self._waiting[owner.name] -= 1
            # Nothing is kept of whoever waits for nothing.
            self._waiting = +self._waiting

    def _refusal(self, owner: Owner) -> TooManyRequests:
        return TooManyRequests(owner.name.partition(" ")[0], self._share)


async def _until_even(lines: dict[str, _Line]) -> None:
    while wait_s := max(line.shares.wait_s(whose) for whose, line in lines.items()):
        await asyncio.sleep(wait_s)
