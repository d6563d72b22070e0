"""What one process's gateway holds while it runs, and how it reads the database and knows its callers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.conf import settings
from django.db import OperationalError, connection
from django.utils import timezone

from governance.actions import budgets, stops
from governance.ledger.writer import GroupCommit
from llm.catalogue import snapshot
from llm.gateway import errors
from llm.gateway.bodies import Bodies
from llm.gateway.holds import Holds
from llm.gateway.http import Exchange
from llm.gateway.identities import Identities, Identity
from llm.gateway.upstream import ProviderFailures
from llm.providers import endpoints, registry
from llm.state import breakers, metrics, routing, tokenizers
from llm.state.telemetry import Telemetry

T = TypeVar("T")
# Ours are shorter; a longer one is not worth remembering.
BEARER = re.compile(r"Bearer\s+(\S{1,200})\s*", re.IGNORECASE)


class Gateway:
    """One process's gateway. `startup` and `shutdown` are the server's lifespan."""

    def __init__(self) -> None:
        self.identities = Identities()
        # The event loop that it runs in, while it runs.
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self) -> None:
        # Reads that the cache cannot answer go through one thread, and so through one database connection.
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gateway-reads")
        await self.read(lambda: budgets.sync_default(now=timezone.now()))
        await self.read(snapshot.current)
        await self.read(routing.load)
        known = await self.read(routing.known_names)
        self.tokenizers = await asyncio.to_thread(tokenizers.load, settings.TOKENIZERS, known=known)
        self.bodies = Bodies(
            at_a_time=settings.LARGE_BODIES_PER_KEY,
            most_bytes=max(settings.LARGE_BODY_BYTES_PER_KEY, settings.MAX_BODY_BYTES),
            patience_s=settings.BODY_TIMEOUT_S,
        )
        self.commits = GroupCommit()
        self.commits.start()
        self.breakers = breakers.shared()
        self.provider_failures = ProviderFailures(self.breakers, self.read)
        self.holds = Holds(
            self.commits,
            ttl_s=settings.RESERVATION_TTL_S,
            tokenizers=self.tokenizers,
            doubt=self.provider_failures.doubted,
        )
        self.providers = registry.configured()
        await self.providers.open()
        watch = endpoints.Watch()

        async def added() -> tuple[endpoints.Endpoint, ...]:
            return await self.read(lambda: watch.read(now=timezone.now()))

        await self.providers.renew(await added())
        self.telemetry = Telemetry.load(settings.TELEMETRY_OBSERVERS, always=[metrics.observe])
        self._chores = [
            asyncio.create_task(self.holds.keep_alive()),
            asyncio.create_task(self.providers.keep_current(added)),
            asyncio.create_task(self.holds.watch_stops(lambda: self.read(stops.targets))),
        ]
        self.loop = asyncio.get_running_loop()

    async def shutdown(self) -> None:
        self.loop = None
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self.providers.close()
        await asyncio.to_thread(self.commits.close)
        self.tokenizers.close()
        self.bodies.close()
        await self.read(lambda: connection.close())
        self._reader.shutdown()

    async def read(self, work: Callable[[], T]) -> T:
        """Run a database read off the event loop. OperationalError where the database does not answer in time."""
        reading = asyncio.get_running_loop().run_in_executor(self._reader, _tidily, work)
        try:
            return await asyncio.wait_for(reading, settings.LEDGER_TIMEOUT_S)
        except TimeoutError as error:
            raise OperationalError("the database does not answer") from error

    async def identify(self, exchange: Exchange) -> Identity:
        """Who calls; raises the 401 or 403 that says why not."""
        found = BEARER.fullmatch(exchange.header("authorization"))
        if found is None:
            raise errors.unauthorized("Send your key as `Authorization: Bearer <key>`.")
        key = found[1]
        cached = self.identities.cached(key)
        return cached if cached is not None else await self.read(lambda: self.identities.find(key))


def _tidily(work: Callable[[], T]) -> T:
    """`work` on this thread's database connection, which is dropped if it broke: the next read makes a new one."""
    try:
        return work()
    finally:
        connection.close_if_unusable_or_obsolete()
