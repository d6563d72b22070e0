"""Holds of calls under way: each is resolved exactly once, whatever happens to the call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import TracebackType
from typing import Any
from uuid import UUID

from governance import ledger
from governance.ledger.operations import Extend, Release, Reserve, Settle
from governance.ledger.results import SettleResult
from governance.ledger.writer import GroupCommit
from governance.rules.calls import Usage
from governance.rules.decision import Decision
from governance.rules.scopes import StopTarget, is_stopped
from llm.gateway.call_usage import CallUsage
from llm.rules.stream_count import StreamCount

log = logging.getLogger(__name__)

EMERGENCY_STOP = "emergency_stop"
STOPS_PERIOD_S = 0.4
# How long an answer waits for its settlement to land before it goes out all the same.
SETTLE_PATIENCE_S = 2.0


class Holds:
    """The holds of this process: keeps those of long calls alive, and cuts those that an operator stops."""

    def __init__(self, commits: GroupCommit, *, ttl_s: int) -> None:
        self.commits = commits
        self.running: dict[UUID, Hold] = {}
        self._ttl_s = ttl_s

    async def keep_alive(self) -> None:
        """Extend the life of holds whose calls still run, well before they would expire."""
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            old = time.monotonic() - self._ttl_s / 3
            for hold in list(self.running.values()):
                if hold.since < old:
                    self.commits.put(Extend(hold.id))

    async def watch_stops(self, read: Callable[[], Awaitable[Collection[StopTarget]]]) -> None:
        """End the running calls of whom an operator stops, also in another process, within a second."""
        while True:
            await asyncio.sleep(STOPS_PERIOD_S)
            if not self.running:
                continue
            try:
                stopped = await read()
            except Exception:
                log.exception("emergency stops could not be read; running calls go on")
                continue
            for hold in list(self.running.values()) if stopped else ():
                if is_stopped(stopped, tenant_id=hold.caller.tenant_id, agent=hold.caller.agent):
                    hold.cut(EMERGENCY_STOP)


class Hold:
    """What is held for one call, from the decision that let it through until it is settled or released.

    Used as a context while the call runs: it is kept alive then, and may be cut. Left unresolved at the end, it is
    charged where money may have been spent, and freed elsewhere.
    """

    def __init__(
        self, holds: Holds, reserved: Reserve, decision: Decision, usage: CallUsage, *, request_id: str
    ) -> None:
        self._holds = holds
        self.id = reserved.reservation_id
        self.caller = reserved.caller
        self.decision = decision
        self.usage = usage
        self.quote = usage.quote
        self._request_id = request_id
        self.since = time.monotonic()
        # What is held now.
        self.held_nanos = usage.quote.cost_nanos
        # Set once the request may have reached the provider.
        self.sent = False
        # What counts along with a stream, and the bytes of a plain answer. None: nobody knows.
        self.count: StreamCount | None = None
        self.answer_bytes: int | None = None
        # Why the call was cut short, if it was, and how it is ended; without that its task is cancelled.
        self.cut_reason = ""
        self.closer: Callable[[], None] | None = None
        self.resolved = False
        # What is charged for the call, once that is known.
        self.charge: Settle | None = None

    async def __aenter__(self) -> Hold:
        self._holds.running[self.id] = self
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holds.running.pop(self.id, None)
        if self.resolved:
            return
        if self.sent:
            # Cancelled or failed with the request on its way: all of it counts, of a stream what has come.
            self._holds.commits.put(self._settlement(self._seen_nanos(), reason="interrupted"))
        else:
            self.drop()

    def cut(self, reason: str) -> None:
        """End a call that is still running; one that is settled already may finish."""
        if self.resolved or self.cut_reason:
            return
        self.cut_reason = reason
        if self.closer is not None:
            self.closer()
        elif self._task is not None:
            self._task.cancel()

    async def extend(self, to_nanos: int) -> bool:
        """Hold so much in all. False where the budgets have no room for it."""
        more_nanos = to_nanos - self.held_nanos
        if more_nanos <= 0:
            return True
        try:
            await self._holds.commits.submit(Extend(self.id, more_nanos=more_nanos))
        except ledger.LedgerError as error:
            log.info("request %s: the hold is not extended: %s", self._request_id, error)
            return False
        self.held_nanos += more_nanos
        return True

    def drop(self) -> None:
        """Nothing was sent, and nobody waits to see the room again."""
        self.resolved = True
        self._holds.commits.put(Release(self.id))

    async def release(self) -> None:
        """Nothing was spent. Waits for the commit, so that the caller sees the room at once."""
        self.resolved = True
        await self._land(Release(self.id))

    async def settle_reported(self, answer: Mapping[str, Any]) -> tuple[int, SettleResult | None]:
        """Charge the usage that an answer (or a stream's chunk) reports, at the model that it says served.

        What was charged, in nanodollars, and the result; the whole estimate where it reports no usage.
        """
        usage = self.usage.reported(answer)
        if usage is None:
            return await self._settle_whole("usage_missing")
        charge = self.usage.charge(usage)
        if charge is None:
            return await self._settle_whole("price_missing")
        self.usage.learn(charge, self._output_bytes)
        settlement = self._settlement(charge.cost_nanos, usage=charge.usage, price_rule=charge.price_rule)
        return charge.cost_nanos, await self._settle(settlement)

    async def settle_at_the_estimate(self, reason: str) -> int:
        """Charge the whole hold: something may have been spent, and nobody says how much. What was charged."""
        return (await self._settle_whole(reason))[0]

    async def settle_seen(self, reason: str) -> int:
        """Charge the prompt and what was streamed; the whole hold where that is not known. What was charged."""
        cost_nanos = self._seen_nanos()
        await self._settle(self._settlement(cost_nanos, reason=reason))
        return cost_nanos

    def _seen_nanos(self) -> int:
        seen_nanos = self.count.nanos_seen() if self.count else None
        return self.held_nanos if seen_nanos is None else min(seen_nanos, self.held_nanos)

    async def _settle_whole(self, reason: str) -> tuple[int, SettleResult | None]:
        cost_nanos = self.held_nanos
        return cost_nanos, await self._settle(self._settlement(cost_nanos, reason=reason))

    async def _settle(self, operation: Settle) -> SettleResult | None:
        """None where the ledger is away: the settlement is kept and lands later."""
        self.resolved = True
        result: SettleResult | None = await self._land(operation)
        return result

    def _settlement(
        self, cost_nanos: int, *, usage: Usage | None = None, price_rule: str = "", reason: str = ""
    ) -> Settle:
        # What a process that starts later learns from.
        measured = {"input_bytes": self.usage.estimate.input_bytes, "output_bytes": self._output_bytes}
        self.charge = Settle(
            reservation_id=self.id,
            cost_nanos=cost_nanos,
            usage=usage or self.usage.estimated(),
            certainty="estimated" if reason else "confirmed",
            reason=reason,
            price_rule=price_rule,
            request_id=self._request_id,
            metadata={name: value for name, value in measured.items() if value is not None},
        )
        return self.charge

    @property
    def _output_bytes(self) -> int | None:
        return self.count.output_bytes if self.count else self.answer_bytes

    async def _land(self, operation: Settle | Release) -> Any:
        landing = asyncio.ensure_future(self._holds.commits.submit(operation))
        try:
            return await asyncio.wait_for(asyncio.shield(landing), SETTLE_PATIENCE_S)
        except TimeoutError:
            landing.add_done_callback(_log_late)
            return None
        except ledger.AlreadyResolved:
            # An earlier try had landed, although its answer was lost.
            return None


def _log_late(landing: asyncio.Future[Any]) -> None:
    if not landing.cancelled() and (error := landing.exception()):
        log.warning("a settlement that was kept for later ended so: %s", error)
