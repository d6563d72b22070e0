"""Holds of calls under way: each is resolved exactly once, whatever happens to the call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any
from uuid import UUID

from django.conf import settings

from governance import ledger
from governance.ledger.operations import Extend, Release, Reserve, Settle
from governance.ledger.results import SettleResult
from governance.ledger.writer import GroupCommit
from governance.rules import decision_notes, money
from governance.rules.calls import Usage
from governance.rules.decision import Decision
from governance.rules.overruns import ModelOverrun
from governance.rules.scopes import StopTarget, is_stopped
from llm.gateway.call_usage import (
    TIER_UNPRICED,
    TOLD_ABOVE_HOLD,
    USAGE_IMPLAUSIBLE,
    USAGE_MISSING,
    CallUsage,
    NotChargeable,
    PricedUsage,
)
from llm.rules import exact_count, told_price
from llm.rules.shown_work import AskedTexts
from llm.rules.told_usage import ToldUsage
from llm.rules.usage import larger, named_models, raised
from llm.state.tokenizers import Tokenizers

log = logging.getLogger(__name__)

EMERGENCY_STOP = "emergency_stop"
# The server ended before the call did, or the call by a defect.
INTERRUPTED = "interrupted"
STOPS_PERIOD_S = 0.4
# How long an answer waits for its settlement to land before it goes out all the same.
SETTLE_PATIENCE_S = 2.0
# No provider has as many.
MOST_TIERS = 8


class Holds:
    """The holds of this process: keeps those of long calls alive, and cuts those that an operator stops."""

    def __init__(
        self,
        commits: GroupCommit,
        *,
        ttl_s: int,
        tokenizers: Tokenizers,
        doubt: Callable[..., None],
        overran: Callable[[ModelOverrun], None],
    ) -> None:
        """`doubt` tells operators of a usage that cannot be charged as reported: (`provider/id`, reason, usage, tiers);
        `overran` of a model that its request did not bound.
        """
        self.commits = commits
        self.tokenizers = tokenizers
        self.doubt = doubt
        self.overran = overran
        self.running: dict[UUID, Hold] = {}
        self._ttl_s = ttl_s

    async def have_ended(self, *, within_s: float) -> None:
        """Wait for the calls that still run."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.running:
                    await asyncio.sleep(0.02)

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
        self._asked = reserved.model_requested or reserved.call.model
        self.since = time.monotonic()
        self.held_nanos = usage.quote.cost_nanos
        # Set once the request may have reached the provider.
        self.sent = False
        # What is asked, once it is sent.
        self.asked = AskedTexts(bytes)
        # What has come of its answer; and what that says of its own failure, in so many bytes, to be looked at.
        self.count = usage.count()
        self.failures: list[dict[str, Any]] = []
        self.failure_bytes = 0
        # What its answer said that it used, in all and of which answers; of that, what can be; and what it showed.
        self._reported: Usage | None = None
        self._told = ToldUsage(usage.quote.answers)
        self._believed: Usage | None = None
        self._shown: Usage | None = None
        # The dearer tiers that it names, the most that it says it cost, and what it costs as the refusal that it is.
        self._tiers: set[str] = set()
        self._told_nanos = self._fee_nanos = 0
        # The models that it named: ids of the catalogue, and why another has no price.
        self._named: set[str] = set()
        self._unpriced = self._last_name = ""
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
            # Cancelled or failed with the request on its way: all of it counts, of an answer what has come.
            self._holds.commits.put(self._seen(INTERRUPTED, cut=True))
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

    def drop(self) -> None:
        """Nothing was sent, and nobody waits to see the room again."""
        self.resolved = True
        self._holds.commits.put(Release(self.id))

    async def release(self) -> None:
        """Nothing was spent. Waits for the commit, so that the caller sees the room at once."""
        self.resolved = True
        await self._land(Release(self.id))

    @property
    def was_told(self) -> bool:
        """Whether the answer said anything of what was used."""
        return self._reported is not None

    @property
    def has_price(self) -> bool:
        """Whether it is known to cost something, whatever was used."""
        return bool(self._told_nanos or self._fee_nanos)

    def reported(self, answer: Mapping[str, Any]) -> Usage | None:
        """What an answer, or a stream's event, says the call has used: however it ends, at least that was.

        None too where it says so of some of several answers, until all have been counted.
        """
        said = self.usage.reported(answer)
        found = self._told.took(answer, said, None if said else self.usage.at_least(answer))
        self._note(self._told.least)
        if shown := self.usage.shown(answer):
            self._shown = larger(self._shown, shown)
            self._reported = larger(self._reported, shown)
        for name in named_models(answer):
            self._note_name(name)
        self._note_price(answer)
        return found

    def failed(self, said: dict[str, Any], *, size_bytes: int) -> None:
        """Its answer is an error, or broke off with one: what that says is looked at before it is settled."""
        self.count.has_failed = True
        self.failures.append(said)
        self.failure_bytes += size_bytes
        self._note_price(said)
        if fee_nanos := told_price.fee_nanos(said):
            # Where the request has these words itself the refusal may quote them: then it is in doubt, as any other.
            is_quoted = self.asked.has(told_price.VIOLATION)
            self._fee_nanos = max(self._fee_nanos, min(fee_nanos, self.held_nanos) if is_quoted else fee_nanos)

    def _note_price(self, said: Mapping[str, Any]) -> None:
        for tier in told_price.dearer_tiers(said):
            if len(self._tiers) < MOST_TIERS:
                self._tiers.add(tier)
        self._told_nanos = max(self._told_nanos, told_price.cost_nanos(said))

    def _note_name(self, name: str) -> None:
        """Keep which model it is, however many are named."""
        if name == self._last_name:
            return
        self._last_name = name
        try:
            self._named.add(self.usage.id_of(name))
        except NotChargeable as error:
            self._unpriced = error.reason

    def _note(self, said: Usage | None) -> None:
        if said is None:
            return
        self._reported = larger(self._reported, said)
        believed = larger(self._believed, said)
        if believed and believed != self._believed and self.usage.believes(believed):
            self._believed = believed

    async def settle_reported(self, found: Usage | None) -> tuple[int, SettleResult | None]:
        """Charge the usage that an answer reports, at the model that it says served.

        What was charged, in nanodollars, and the result. A usage that cannot be charged as it is counts as what has
        come, at the strict count, or as the whole hold; an operator is told of one that cannot be true.
        """
        self._note(found)
        if self._told.untold_answers or self._told.has_shrunk:
            # Of some answers, or of pieces of one: what all used is not said.
            return await self.settle_seen(USAGE_MISSING)
        # Never fewer tokens than it said before, nor units than it shows.
        used = None if found is None else raised(raised(found, self._believed), self._shown)
        falls_short = found is not None and used is not None and used.unit != "token" and used.units > found.units
        try:
            charge = self.usage.charge(
                used, written_bytes=self.count.written_bytes, answer_bytes=self.count.answer_bytes
            )
            charge, doubt = self._dearest(charge, charge.usage, self._named - {charge.usage.model})
            if doubt:
                raise NotChargeable(doubt)
        except NotChargeable as error:
            if error.reason == USAGE_MISSING:
                return await self.settle_seen(error.reason)
            self._holds.doubt(self.usage.served.place, error.reason, found)
            return await self._settle(self._whole(error.reason))
        if falls_short:
            self._holds.doubt(self.usage.served.place, USAGE_IMPLAUSIBLE, found)
        if charge.usage.input_tokens > self.quote.input_tokens and self.usage.served.entry is not None:
            self._holds.tokenizers.distrust(self.usage.served.entry)
        reason = USAGE_IMPLAUSIBLE if falls_short else ""
        return await self._settle(
            self._settlement(charge.cost_nanos, charge.usage, price_rule=charge.price_rule, reason=reason)
        )

    async def settle_told(self) -> tuple[int, SettleResult | None]:
        """Charge what its price is said to be: nothing was read and nothing written."""
        return await self._settle(self._settlement(0, replace(self.usage.estimated(0), input_tokens=0, units=0)))

    async def settle_whole(self, reason: str) -> tuple[int, SettleResult | None]:
        """Charge the whole hold: something may have been spent, and nobody says how much."""
        return await self._settle(self._whole(reason))

    async def settle_seen(
        self, reason: str, *, cut: bool = False, at_least: Usage | None = None
    ) -> tuple[int, SettleResult | None]:
        """Charge the input and what has come of the answer, at the strict count; where that says nothing, the hold.

        `cut`: the answer is not whole. `at_least`: what the model said in between that it had used.
        """
        self._note(at_least)
        await self._count_texts()
        return await self._settle(self._seen(reason, cut=cut))

    async def _count_texts(self) -> None:
        """Count what has come exactly, where the model's tokenizer is there; until that is done it counts by bytes."""
        tokenizer, texts = self.usage.tokenizer, self.count.take_texts()
        if tokenizer is None or not texts:
            return
        # A text in pieces takes longer than one in a piece.
        tokens = await self._holds.tokenizers.count(
            lambda: exact_count.answer_tokens(tokenizer, texts), text_bytes=4 * self.count.text_bytes
        )
        if tokens is not None:
            self.count.counted(tokens)

    def _seen(self, reason: str, *, cut: bool) -> Settle:
        tokens = self.count.tokens(cut=cut)
        # Where answers are read out, models go on whoever has closed their streams.
        goes_on = cut and settings.READ_CANCELLED_ANSWERS
        if tokens is None or self.count.overruns or goes_on or self._unpriced:
            return self._whole(reason)
        counted_nanos = min(self.count.cost_nanos(tokens), self.held_nanos)
        charge, doubt = self._counted(counted_nanos, self.usage.estimated(tokens))
        return self._whole(reason) if doubt else self._settlement(charge.cost_nanos, charge.usage, reason=reason)

    def _whole(self, reason: str) -> Settle:
        """All that was held; where more text came than can have been held for, that, at the strict count."""
        tokens = self.count.overrun_tokens
        cost_nanos = max(self.held_nanos, self.count.cost_nanos(tokens)) if tokens else self.held_nanos
        charge, doubt = self._counted(cost_nanos, self.usage.estimated(tokens or None))
        if doubt and doubt != reason:
            self._holds.doubt(self.usage.served.place, doubt, self._reported)
        return self._settlement(charge.cost_nanos, charge.usage, reason=reason)

    def _counted(self, cost_nanos: int, used: Usage) -> tuple[PricedUsage, str]:
        """That, and what was reported or shown beyond it, as `_dearest`."""
        least = self._least(used.output_tokens)
        most = used if least is None else replace(larger(used, least) or used, model=used.model)
        names = self._named if most == used else {*self._named, used.model}
        return self._dearest(PricedUsage(used, cost_nanos, ""), most, names)

    def _least(self, counted_tokens: int) -> Usage | None:
        """What was used at the least: that and, where some answers were counted alone, what the others may have.

        `counted_tokens` is the output of all answers at most, by what came of them. Where those that were counted have
        more than that, there is more to the others as well than came.
        """
        least, untold = larger(self._believed, self._shown), self._told.untold_answers
        if least is None or not untold:
            return least
        most = untold * (self.quote.max_tokens or 0)
        rest = most if least.output_tokens > counted_tokens else min(counted_tokens, most)
        return raised(least, replace(least, output_tokens=least.output_tokens + rest))

    def _dearest(self, priced: PricedUsage, used: Usage, names: Iterable[str]) -> tuple[PricedUsage, str]:
        """That, or the usage at a model of these names: routers choose, and say so in some of their chunks.

        And why the price of another model that was named is not known, or not believed.
        """
        found, doubt = [priced], self._unpriced
        for name in names:
            try:
                found.append(self.usage.named(used, name))
            except NotChargeable as error:
                doubt = doubt or error.reason
        return max(found, key=lambda each: each.cost_nanos), doubt

    def _in_tiers(self, priced: PricedUsage) -> tuple[PricedUsage, str]:
        """That at the dearest tier that served, and TIER_UNPRICED where one of them has no price here."""
        found, reason = [priced], ""
        for tier in self._tiers:
            if (dearer := self.usage.in_tier(priced.usage, tier)) is None:
                reason = TIER_UNPRICED
            else:
                found.append(dearer)
        return max(found, key=lambda each: each.cost_nanos), reason

    async def _settle(self, operation: Settle) -> tuple[int, SettleResult | None]:
        """The result is None where the ledger is away: the settlement is kept and lands later."""
        self.resolved = True
        for overrun in operation.overruns:
            self._holds.overran(overrun)
        result = await self._land(operation)
        # The ledger believes no sum that no call can have cost.
        return operation.cost_nanos if result is None else result.charged_nanos, result

    def _settlement(self, cost_nanos: int, usage: Usage, *, price_rule: str = "", reason: str = "") -> Settle:
        """`price_rule`: what priced the usage that was reported; without one it was counted here."""
        charge, unpriced = self._in_tiers(PricedUsage(usage, cost_nanos, price_rule))
        if unpriced:
            self._holds.doubt(self.usage.served.place, unpriced, usage, ", ".join(sorted(self._tiers)))
            reason = reason or unpriced
        if price_rule:
            cost_nanos, price_rule = charge.cost_nanos, charge.price_rule
        else:
            # Nobody but us says that it was as much, so it costs no more than its hold.
            cost_nanos = max(cost_nanos, min(charge.cost_nanos, self.held_nanos))
        told: dict[str, Any] = {}
        if self._told_nanos > cost_nanos:
            # Whoever bills it says so. Beyond what was held for it is one number of an answer: that is looked at.
            if self._told_nanos > self.held_nanos:
                self._holds.doubt(self.usage.served.place, TOLD_ABOVE_HOLD, usage)
                reason = reason or TOLD_ABOVE_HOLD
            cost_nanos, price_rule = max(cost_nanos, min(self._told_nanos, self.held_nanos)), ""
            told = {"told_cost_usd": money.format_dollars(min(self._told_nanos, money.MAX_AMOUNT_NANOS))}
        self.charge = Settle(
            reservation_id=self.id,
            cost_nanos=max(cost_nanos, self._fee_nanos),
            usage=usage,
            certainty="estimated" if reason else "confirmed",
            reason=reason,
            price_rule=price_rule,
            request_id=self._request_id,
            metadata=self._metadata(is_estimate=bool(reason)) | told,
            overruns=self._overruns(),
            caller=self.caller,
        )
        return self.charge

    def _overruns(self) -> tuple[ModelOverrun, ...]:
        """What its answer shows of the model. What an error, an echo or a page says shows nothing."""
        if not self.count.is_answer:
            return ()
        said = None if self.count.has_failed else self._reported
        return self.usage.overruns(said, shown_tokens=self.count.shown_tokens)

    def _metadata(self, *, is_estimate: bool) -> dict[str, Any]:
        """What was decided out of the ordinary; and of an estimate, what its tokens were counted by."""
        noted = decision_notes.noted(self.decision, asked=self._asked)
        counted = {"tokenizer": self.usage.tokenizer.name} if is_estimate and self.usage.tokenizer else {}
        return noted | counted

    async def _land(self, operation: Settle | Release) -> SettleResult | None:
        """What it came to, where that is known soon. It is queued at once, and lands whatever becomes of who waits."""
        try:
            landed = await self._holds.commits.submit(operation, timeout_s=SETTLE_PATIENCE_S)
        except (ledger.LedgerUnavailable, ledger.AlreadyResolved, ledger.ReservationUnknown):
            # It is tried on until it lands; an earlier try had, although its answer was lost; or there is nothing that
            # could be released.
            return None
        # Without its hold it is charged as a report is, whose windows nobody asks for here.
        return landed if isinstance(landed, SettleResult) else None
