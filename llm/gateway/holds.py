"""Holds of calls under way: each is resolved exactly once, whatever happens to the call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any
from uuid import UUID

from governance import ledger
from governance.ledger.operations import Extend, Release, Settle
from governance.ledger.results import SettleResult
from governance.ledger.writer import GroupCommit
from governance.rules import money
from governance.rules.calls import Caller, Usage
from governance.rules.decision import Decision
from governance.rules.scopes import StopTarget, is_stopped
from llm.catalogue import snapshot
from llm.rules import bounds
from llm.rules.token_ratios import TokenRatios

log = logging.getLogger(__name__)

# What an answer, or a stream's event, says was used; the second argument is the model that was asked.
UsageReader = Callable[[Any, str], Usage | None]

EMERGENCY_STOP = "emergency_stop"
STOPS_PERIOD_S = 0.4
# How long an answer waits for its settlement to land before it goes out all the same.
SETTLE_PATIENCE_S = 2.0


class Holds:
    """The holds of this process: keeps those of long calls alive, and cuts those that an operator stops."""

    def __init__(self, commits: GroupCommit, *, ttl_s: int, token_ratios: TokenRatios) -> None:
        self._commits = commits
        self._token_ratios = token_ratios
        self._ttl_s = ttl_s
        self._running: dict[UUID, Hold] = {}

    def of(
        self,
        id: UUID,
        caller: Caller,
        decision: Decision,
        *,
        provider: str,
        request_id: str,
        read_usage: UsageReader,
        input_bytes: int | None = None,
        unit: str = "token",
        units: int = 0,
    ) -> Hold:
        return Hold(
            self._commits,
            self._running,
            self._token_ratios,
            id,
            caller,
            decision,
            provider=provider,
            request_id=request_id,
            read_usage=read_usage,
            input_bytes=input_bytes,
            unit=unit,
            units=units,
        )

    async def keep_alive(self) -> None:
        """Extend the life of holds whose calls still run, well before they would expire."""
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            old = time.monotonic() - self._ttl_s / 3
            for hold in list(self._running.values()):
                if hold.since < old:
                    self._commits.put(Extend(hold.id))

    async def watch_stops(self, read: Callable[[], Awaitable[Collection[StopTarget]]]) -> None:
        """End the running calls of whom an operator stops, also in another process, within a second."""
        while True:
            await asyncio.sleep(STOPS_PERIOD_S)
            if not self._running:
                continue
            try:
                stopped = await read()
            except Exception:
                log.exception("emergency stops could not be read; running calls go on")
                continue
            for hold in list(self._running.values()) if stopped else ():
                if is_stopped(stopped, tenant_id=hold.caller.tenant_id, agent=hold.caller.agent):
                    hold.cut(EMERGENCY_STOP)


class Hold:
    """One call's hold. Left unresolved, it is charged where money may have been spent, and freed elsewhere."""

    def __init__(
        self,
        commits: GroupCommit,
        running: dict[UUID, Hold],
        token_ratios: TokenRatios,
        id: UUID,
        caller: Caller,
        decision: Decision,
        *,
        provider: str,
        request_id: str,
        read_usage: UsageReader,
        input_bytes: int | None,
        unit: str,
        units: int,
    ) -> None:
        if decision.quote is None:
            raise ValueError("only a call that was let through has a hold")
        self.id = id
        self.caller = caller
        self.since = time.monotonic()
        self.first_byte_s: float | None = None
        # Why an operator cut the call short, if one did.
        self.cut_reason = ""
        # How to end the call; without it its task is cancelled.
        self.closer: Callable[[], None] | None = None
        self.decision = decision
        self.quote = decision.quote
        # What is held now.
        self.held_nanos = decision.quote.cost_nanos
        self.provider = provider
        self._request_id = request_id
        self._read_usage = read_usage
        # The strict bound of the input, and how many bytes the answer has: what they come to in tokens is learned.
        self._input_bytes = input_bytes
        self.output_bytes: int | None = None
        # What is estimated where the call is not counted in tokens.
        self._unit, self._units = unit, units
        self._unseen_bytes = 0
        self._token_ratios = token_ratios
        self._billed = _billed(decision.model)
        self._grows = decision.quote.held_tokens is not None
        # Set once the request may have reached the provider.
        self.sent = False
        # Of a stream: at most so many output tokens of each answer have come. None: nobody knows.
        self.streamed_tokens: int | None = None
        ratio_e2 = token_ratios.input_ratio_e2(model=self._billed, bound=False)
        self._likely_fixed_picos = self._fixed_picos(ratio_e2)
        self._least_ratio_e2 = token_ratios.output_ratio_e2(model=self._billed, bound=True)
        self._common_ratio_e2 = token_ratios.output_ratio_e2(model=self._billed, bound=False)
        self._commits = commits
        self._running = running
        self.resolved = False
        # What is charged for the call, once that is known.
        self.charge: Settle | None = None

    async def __aenter__(self) -> Hold:
        self._running[self.id] = self
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.pop(self.id, None)
        if self.resolved:
            return
        if self.sent:
            # Cancelled or failed with the request on its way: all of it counts, of a stream what has come.
            self._commits.put(self._settlement(self._seen_nanos(), self.estimated_usage(), reason="interrupted"))
        else:
            self._commits.put(Release(self.id))

    def cut(self, reason: str) -> None:
        """End a call that is still running; one that is settled already may finish."""
        if self.resolved or self.cut_reason:
            return
        self.cut_reason = reason
        if self.closer is not None:
            self.closer()
        elif self._task is not None:
            self._task.cancel()

    @property
    def held_tokens(self) -> int | None:
        """Output tokens of each answer that the hold covers beside the likely input; None: all that it may write."""
        quote = self.quote
        if not self._grows or quote.max_tokens is None or not quote.picos_per_output_token:
            return None
        tokens = (self.held_nanos * 1000 - self._likely_fixed_picos) // quote.picos_per_output_token
        return tokens if tokens < quote.max_tokens else None

    def wrote(self, more_bytes: int, *, unseen_bytes: int) -> None:
        """So many bytes of text have come since, and so many in all that the client is not shown.

        A token has one byte or more; how many this model's usually have is learned.
        """
        self.output_bytes = (self.output_bytes or 0) + more_bytes
        self._unseen_bytes = unseen_bytes
        self.streamed_tokens = self._output_tokens(self._least_ratio_e2)

    def _output_tokens(self, ratio_e2: int) -> int:
        written_bytes = (self.output_bytes or 0) + self._unseen_bytes
        return bounds.likely_tokens(-(-written_bytes // self.quote.answers), ratio_e2)

    async def extend(self, tokens: int) -> bool:
        """Hold for `tokens` output tokens of each answer. False where the budgets have no room for them."""
        tokens = min(tokens, self.quote.max_tokens or tokens)
        picos = self._likely_fixed_picos + self.quote.picos_per_output_token * tokens
        more_nanos = money.ceil_from_picos(picos) - self.held_nanos
        if more_nanos <= 0:
            return True
        try:
            await self._commits.submit(Extend(self.id, more_nanos=more_nanos))
        except ledger.LedgerError as error:
            log.info("request %s: the hold is not extended: %s", self._request_id, error)
            return False
        self.held_nanos += more_nanos
        return True

    def _fixed_picos(self, ratio_e2: int) -> int:
        """What the input costs where its tokens have `ratio_e2` hundredths of a byte; pictures are left as they are."""
        quote = self.quote
        if self._input_bytes is None or not quote.input_tokens:
            return quote.fixed_picos
        likely = min(quote.input_tokens, bounds.likely_tokens(self._input_bytes, ratio_e2))
        return quote.fixed_picos * likely // quote.input_tokens

    async def release(self) -> None:
        """Nothing was spent. Waits for the commit, so that the caller sees the room at once."""
        self.resolved = True
        await self._land(Release(self.id))

    async def settle_reported(self, answer: Mapping[str, Any]) -> tuple[int, SettleResult | None]:
        """Charge the usage that an answer (or a stream's chunk) reports, at the model that it says served.

        What was charged, in nanodollars, and the result; the whole estimate where it reports no usage.
        """
        usage = self._read_usage(answer, self.quote.model)
        if usage is None:
            return await self._settle_whole("usage_missing")
        usage = replace(usage, provider=self.provider)
        priced = snapshot.cost_of(usage)
        if priced is None:
            # It names a model that the catalogue does not know: the one asked for has a price.
            usage = replace(usage, model=self.quote.model)
            priced = snapshot.cost_of(usage)
        if priced is None:
            return await self._settle_whole("price_missing")
        cost_nanos, rule = priced
        self._learn(usage)
        return cost_nanos, await self._settle(self._settlement(cost_nanos, usage, price_rule=rule))

    def _learn(self, usage: Usage) -> None:
        if not usage.output_tokens:
            return
        model = _billed(usage.model)
        self._token_ratios.answered(
            model=model, agent=self.caller.agent, output_tokens=-(-usage.output_tokens // self.quote.answers)
        )
        if self._input_bytes is not None:
            self._token_ratios.read(model=model, input_tokens=usage.input_tokens, input_bytes=self._input_bytes)
        if self.output_bytes is not None:
            self._token_ratios.wrote(model=model, output_tokens=usage.output_tokens, output_bytes=self.output_bytes)

    async def settle_at_the_estimate(self, reason: str) -> int:
        """Charge the whole hold: something may have been spent, and nobody says how much. What was charged."""
        return (await self._settle_whole(reason))[0]

    async def settle_seen(self, reason: str) -> int:
        """Charge the prompt and what was streamed. What was charged."""
        cost_nanos = self._seen_nanos()
        await self._settle(self._settlement(cost_nanos, self.estimated_usage(), reason=reason))
        return cost_nanos

    def _seen_nanos(self) -> int:
        """The prompt and what was streamed, as such texts usually count; the whole hold where that is not known."""
        quote = self.quote
        if quote.max_tokens is None or self.streamed_tokens is None:
            return self.held_nanos
        tokens = self._output_tokens(self._common_ratio_e2)
        picos = self._likely_fixed_picos + quote.picos_per_output_token * tokens
        return min(money.ceil_from_picos(picos), self.held_nanos)

    async def _settle_whole(self, reason: str) -> tuple[int, SettleResult | None]:
        cost_nanos = self.held_nanos
        return cost_nanos, await self._settle(self._settlement(cost_nanos, self.estimated_usage(), reason=reason))

    async def _settle(self, operation: Settle) -> SettleResult | None:
        """None where the ledger is away: the settlement is kept and lands later."""
        self.resolved = True
        result: SettleResult | None = await self._land(operation)
        return result

    def estimated_usage(self) -> Usage:
        return Usage(provider=self.provider, model=self.quote.model, unit=self._unit, units=self._units)

    def _settlement(self, cost_nanos: int, usage: Usage, *, reason: str = "", price_rule: str = "") -> Settle:
        self.charge = Settle(
            reservation_id=self.id,
            cost_nanos=cost_nanos,
            usage=usage,
            certainty="estimated" if reason else "confirmed",
            reason=reason,
            price_rule=price_rule,
            request_id=self._request_id,
            metadata=self._measured(),
        )
        return self.charge

    def _measured(self) -> Mapping[str, int]:
        """What a process that starts later learns from."""
        found = {"input_bytes": self._input_bytes, "output_bytes": self.output_bytes}
        return {name: value for name, value in found.items() if value is not None}

    async def _land(self, operation: Settle | Release) -> Any:
        landing = asyncio.ensure_future(self._commits.submit(operation))
        try:
            return await asyncio.wait_for(asyncio.shield(landing), SETTLE_PATIENCE_S)
        except TimeoutError:
            landing.add_done_callback(_log_late)
            return None
        except ledger.AlreadyResolved:
            # An earlier try had landed, although its answer was lost.
            return None


def _billed(model: str) -> str:
    """The id under which calls of a model are learned from, whatever alias they came by."""
    entry = snapshot.current().resolve(model)
    return model if entry is None else entry.id


def _log_late(landing: asyncio.Future[Any]) -> None:
    if not landing.cancelled() and (error := landing.exception()):
        log.warning("a settlement that was kept for later ended so: %s", error)
