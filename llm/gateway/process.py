"""What one process's gateway holds while it runs, and how it reads the database and knows its callers."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError
from django.utils import timezone

from governance import measures
from governance.actions import budgets, refusal_log, stops
from governance.idempotency import WaitingRepeats
from governance.ledger.results import LedgerUnavailable
from governance.ledger.writer import GroupCommit
from governance.queries import forecasts
from governance.rules.decision import Decision
from llm.catalogue import snapshot
from llm.catalogue.snapshot import Catalogue
from llm.gateway import errors
from llm.gateway.answer_memory import AnswerMemory
from llm.gateway.asked import Asked
from llm.gateway.bodies import Bodies, Held, TooManyThreads
from llm.gateway.forecasts import KnownForecasts
from llm.gateway.holds import Holds
from llm.gateway.http import Exchange
from llm.gateway.identities import Identities, Identity
from llm.gateway.model_list import ModelList
from llm.gateway.readers import Readers
from llm.gateway.shared_reads import SharedReads
from llm.gateway.turns import Turns
from llm.gateway.upstream import ProviderFailures
from llm.providers import endpoints, registry
from llm.state import breakers, call_log, metrics, otel, routing, tokenizers
from llm.state.aside import Aside
from llm.state.telemetry import CallObserver, Telemetry

log = logging.getLogger(__name__)

T = TypeVar("T")
# Threads, each with a connection of its own to the database.
READERS, KEEPERS = 3, 2
# Whether a key may call at all is read again after so long: what it decides costs nothing, and calls ask the ledger.
CALLER_STATUS_S = 0.25
# So long a start waits for the database before it goes on without, and is tried again after so long.
START_PATIENCE_S, START_AGAIN_S = 10.0, 0.5
# Between tries to write what is kept under Idempotency-Keys.
KEPT_AGAIN_S = 0.5
AWAY = (OperationalError, InterfaceError, InternalError, LedgerUnavailable)
# Python's own 5 ms are what the event loop and the ledger's writer wait each time they come back from a system call,
# dozens of times in a call, while a large body is parsed.
SWITCH_INTERVAL_S = 0.0005
# What there is when calls begin stays: Python's collector, which looks for circles, need not go through it again and
# again. Of what calls bring it looks at so many objects at a time; they leave no circles, so that little waits for it.
COLLECTED_AT = (20_000, 20, 20)
# Ours are shorter; a longer one is not worth remembering.
BEARER = re.compile(r"Bearer\s+(\S{1,200})\s*", re.IGNORECASE)


# How long calls that are cut off may take to end, beyond the time that the server gives them.
ENDING_S = 1.5
# So many answers of the largest size a tenant's may come to, and all tenants'.
ANSWERS_OF_A_TENANT, ANSWERS = 2, 4


class Gateway:
    """One process's gateway. `startup` and `shutdown` are the server's lifespan."""

    def __init__(self) -> None:
        self.identities = Identities()
        # Of what calls no model: reads here, and all of the control plane.
        self.turns = Turns(share=settings.API_PERCENT_PER_KEY / 100)
        # The event loop that it runs in, while it runs; and whether it takes calls yet.
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_open = False
        self._is_late = False
        self._kept_later: set[asyncio.Task[None]] = set()
        self.model_list = ModelList()
        self.forecasts = KnownForecasts()
        self.catalogues = SharedReads[Catalogue](lambda work: self._catalogue.run(work), good_for_s=0)

    async def startup(self) -> None:
        """Ready for calls; where the database is away, as soon as it is back: until then they are refused.

        A process that ended instead would take its healthy siblings with it.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        # What the cache cannot answer is read by these. Repeats ask for kept answers again and again, so by others.
        self._readers = Readers("reads", count=READERS)
        self._keepers = Readers("kept-answers", count=KEEPERS)
        # Stops are seen in time whatever else is read, and the catalogue's tables may be locked for long.
        self._stops = Readers("stops", count=1)
        self._catalogue = Readers("catalogue", count=1)
        self._opening = asyncio.create_task(self._open_when_it_can())
        done, waits = await asyncio.wait([self._opening], timeout=START_PATIENCE_S)
        self._is_late = bool(waits)
        for opened in done:
            # What is no trouble of the database's stops the start.
            opened.result()

    async def _open_when_it_can(self) -> None:
        while not self.is_open:
            try:
                await self._open()
            except Exception as error:
                # Once the process has been let go on, nobody is left to be told of anything else.
                if not (isinstance(error, AWAY) or self._is_late):
                    raise
                log.warning("calls are refused until the gateway can start: %s", error, exc_info=self._is_late)
                await asyncio.sleep(START_AGAIN_S)

    async def _open(self) -> None:
        """Read what calls need, then start what they use."""
        watch = endpoints.Watch()

        async def added() -> tuple[endpoints.Endpoint, ...]:
            return await self._catalogue.run(lambda: watch.read(now=timezone.now()))

        self.caller_statuses = SharedReads[Decision](self.read, good_for_s=CALLER_STATUS_S)
        self.waiting = WaitingRepeats()
        await self.read(lambda: budgets.sync_default(now=timezone.now()))
        await self._catalogue.run(snapshot.current)
        await self.read(routing.load)
        known = await self.read(routing.known_names)
        operators_own = await added()
        self.tokenizers = await asyncio.to_thread(tokenizers.load, settings.TOKENIZERS, known=known)
        self.bodies = Bodies(
            at_a_time=settings.LARGE_BODIES_PER_KEY,
            held=Held(
                of_a_key=max(settings.LARGE_BODY_BYTES_PER_KEY, settings.MAX_BODY_BYTES),
                of_a_tenant=max(settings.LARGE_BODY_BYTES_PER_TENANT, settings.MAX_BODY_BYTES),
                # A tenant alone has half of it.
                of_all=max(settings.LARGE_BODY_BYTES, 2 * settings.MAX_BODY_BYTES),
            ),
            patience_s=settings.BODY_TIMEOUT_S,
            share=settings.LARGE_BODY_PERCENT_PER_KEY / 100,
        )
        most_bytes = settings.MAX_ANSWER_BYTES
        self.answers = AnswerMemory(of_a_tenant=ANSWERS_OF_A_TENANT * most_bytes, of_all=ANSWERS * most_bytes)
        most = settings.ROUTED_CALLS
        self.threads = Held(of_a_key=most // 4, of_a_tenant=most // 2, of_all=most, refusal=TooManyThreads)
        self.commits = GroupCommit()
        self.commits.start()
        self.refusals = refusal_log.log
        self.refusals.start()
        self.breakers = breakers.shared()
        self.provider_failures = ProviderFailures(self.breakers, self.read)
        self.holds = Holds(
            self.commits,
            ttl_s=settings.RESERVATION_TTL_S,
            tokenizers=self.tokenizers,
            doubt=self.provider_failures.doubted,
            overran=self.provider_failures.overran,
        )
        self.providers = registry.configured()
        await self.providers.open()
        await self.providers.renew(operators_own)
        self._open_telemetry()
        self._chores = [
            asyncio.create_task(self.holds.keep_alive()),
            asyncio.create_task(self.providers.keep_current(added)),
            asyncio.create_task(self.holds.watch_stops(lambda: self._stops.run(stops.targets))),
            asyncio.create_task(metrics.keep_written(self._set_levels)),
            asyncio.create_task(
                self.forecasts.keep_current(lambda: self.read(lambda: forecasts.running_out(now=timezone.now())))
            ),
        ]
        self.loop = asyncio.get_running_loop()
        self._collected_at = gc.get_threshold()
        gc.set_threshold(*COLLECTED_AT)
        gc.freeze()
        self.is_open = True

    def _open_telemetry(self) -> None:
        """Who is told of calls that have ended."""
        told: list[CallObserver] = [metrics.observe_call]
        self.call_lines = Aside("log", call_log.CallLines().write) if settings.LOG_FORMAT == "json" else None
        if self.call_lines is not None:
            self.call_lines.start()
            told.append(self.call_lines.put)
        self.exporter = otel.exporter()
        if self.exporter is not None:
            self.exporter.open()
            told.append(self.exporter.put)
        self.telemetry = Telemetry.load(
            settings.TELEMETRY_OBSERVERS,
            always=[metrics.observe],
            calls=told,
            traces=self.exporter is not None,
        )

    def _set_levels(self) -> None:
        """What waits and runs in this process."""
        measures.level("ledger_queue_operations", "Operations that wait for the ledger's writers.").set(
            self.commits.depth
        )
        measures.level("calls_running", "Calls of models under way.").set(len(self.holds.running))

    async def shutdown(self) -> None:
        self.loop = None
        self._opening.cancel()
        await asyncio.gather(self._opening, return_exceptions=True)
        if self.is_open:
            await self._close()
        for threads in (self._readers, self._keepers, self._stops, self._catalogue):
            await asyncio.to_thread(threads.close)

    async def _close(self) -> None:
        # Those that the server has cut off just now write the ends of their streams, and settle.
        await self.holds.have_ended(within_s=ENDING_S)
        self.is_open = False
        gc.unfreeze()
        gc.set_threshold(*self._collected_at)
        chores = [*self._chores, *self._kept_later]
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        await self.providers.close()
        await asyncio.to_thread(self.commits.close)
        await asyncio.to_thread(self.refusals.close)
        for told in (self.call_lines, self.exporter):
            if told is not None:
                await asyncio.to_thread(told.close)
        self.tokenizers.close()
        self.bodies.close()
        metrics.write()

    async def read(self, work: Callable[[], T]) -> T:
        """Run a database read off the event loop. OperationalError where the database does not answer in time."""
        return await self._readers.run(work)

    async def catalogue(self) -> Catalogue:
        """What a call that begins goes by: prices as they are now, or while they cannot be read as they were last.

        Calls that have begun wait for no price: `snapshot.current` is enough for them.
        """
        if snapshot.is_stale():
            with suppress(DatabaseError):
                return await self.catalogues.get(0, snapshot.fresh)
        return snapshot.current()

    async def kept(self, work: Callable[[], T]) -> T:
        """The same for what is kept under Idempotency-Keys."""
        return await self._keepers.run(work)

    def keep_later(self, work: Callable[[], object]) -> None:
        """Do it as soon as the database is back. Of calls that had begun, as no others are taken meanwhile."""
        task = asyncio.create_task(self._keep_later(work))
        self._kept_later.add(task)
        task.add_done_callback(self._kept_later.discard)

    async def _keep_later(self, work: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(KEPT_AGAIN_S)
            with suppress(*AWAY):
                await self.kept(work)
                return

    async def identify(self, exchange: Exchange, *, afresh: bool = False) -> Identity:
        """Who calls; raises the 400, 401 or 403 that says why not.

        `afresh`: past the cache, for what is answered without the ledger, which would notice a revoked key.
        """
        if exchange.is_doubled("authorization"):
            raise errors.sent_twice("authorization")
        found = BEARER.fullmatch(exchange.header("authorization"))
        if found is None:
            raise errors.unauthorized("Send your key as `Authorization: Bearer <key>`.")
        key = found[1]
        identity = None if afresh else self.identities.cached(key)
        if identity is None:
            identity = await self.read(lambda: self.identities.find(key))
        if identity.has_ended:
            raise Asked(exchange, identity).noted(errors.key_ended(), self.refusals)
        return identity
