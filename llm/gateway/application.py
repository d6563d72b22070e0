"""The data plane: a lean ASGI application for `/v1/`, beside Django and without its request handling.

Django's own ASGI path costs about a millisecond of CPU a request; this one authenticates from a cache, decides and
holds in the ledger's batches, and relays bytes. No database connection is held while a model answers.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import uuid_utils.compat as uuids
from django.conf import settings
from django.db import connection
from django.utils import timezone

from governance import budgets, stops
from governance.group_commit import GroupCommit
from llm import catalog, endpoints, experience, health, routing_file
from llm.gateway import calls, errors, idempotency, reads
from llm.gateway.holds import Holds
from llm.gateway.http import BodyTooLarge, ClientGone, Exchange, Receive, Scope, Send
from llm.gateway.identities import Identities, Identity
from llm.gateway.routes import ROUTES, Route
from llm.gateway.upstream import Troubles
from llm.providers import registry
from llm.telemetry import Telemetry

log = logging.getLogger(__name__)

T = TypeVar("T")
BATCH = "/v1/batch"
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
        await self.read(catalog.current)
        await self.read(routing_file.load)
        self.commits = GroupCommit()
        self.commits.start()
        self.lessons = await self.read(experience.recalled)
        self.holds = Holds(self.commits, ttl_s=settings.RESERVATION_TTL_S, lessons=self.lessons)
        self.providers = registry.configured()
        await self.providers.open()
        watch = endpoints.Watch()

        async def added() -> tuple[endpoints.Endpoint, ...]:
            return await self.read(lambda: watch.read(now=timezone.now()))

        await self.providers.renew(await added())
        self.telemetry = Telemetry.load(settings.TELEMETRY_OBSERVERS)
        self.breakers = health.shared()
        self.troubles = Troubles(self.breakers, self.read)
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
        await self.read(lambda: connection.close())
        self._reader.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, request_id=str(uuids.uuid7()))
        try:
            await self._route(exchange)
        except ClientGone:
            pass
        except BodyTooLarge as error:
            await self._refuse(exchange, errors.too_large(error.limit))
        except errors.GatewayError as error:
            await self._refuse(exchange, error)
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            await self._refuse(exchange, errors.internal())

    async def read(self, work: Callable[[], T]) -> T:
        """Run a database read off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, _tidily, work)

    async def identify(self, exchange: Exchange) -> Identity:
        """Who calls; raises the 401 or 403 that says why not."""
        found = BEARER.fullmatch(exchange.header("authorization"))
        if found is None:
            raise errors.unauthorized("Send your key as `Authorization: Bearer <key>`.")
        key = found[1]
        cached = self.identities.cached(key)
        return cached if cached is not None else await self.read(lambda: self.identities.find(key))

    async def _route(self, exchange: Exchange) -> None:
        handler, allowed = self._handler(exchange.path)
        if exchange.method != allowed:
            raise errors.method_not_allowed(allowed)
        await handler(exchange)

    def _handler(self, path: str) -> tuple[Callable[[Exchange], Awaitable[None]], str]:
        if route := ROUTES.get(path):
            return lambda exchange: self._call(exchange, route), "POST"
        if path == "/v1/budget":
            return lambda exchange: reads.budget(self, exchange), "GET"
        if path == "/v1/models" or path.startswith("/v1/models/"):
            return lambda exchange: reads.models(self, exchange), "GET"
        if path == BATCH or path.startswith(BATCH + "/"):
            raise errors.batch_not_allowed()
        raise errors.not_found(f"There is no {path} here: only calls that can be bounded and priced are passed on.")

    async def _call(self, exchange: Exchange, route: Route) -> None:
        await idempotency.once(
            self, exchange, lambda exchange: calls.serve(self, exchange, route), limit=route.max_body_bytes
        )

    async def _refuse(self, exchange: Exchange, error: errors.GatewayError) -> None:
        if exchange.started:
            # Too late for a status: the answer just ends.
            return
        await exchange.answer_json(error.status, error.body(), error.headers)


def _tidily(work: Callable[[], T]) -> T:
    """`work` on this thread's database connection, which is dropped if it broke: the next read makes a new one."""
    try:
        return work()
    finally:
        connection.close_if_unusable_or_obsolete()


gateway = Gateway()
