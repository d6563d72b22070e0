"""`GET /v1/models` and `GET /v1/budget`: what a caller may read about itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.conf import settings
from django.db.utils import DatabaseError
from django.utils import timezone

from governance import ledger, ports
from governance.models import SpendRollup
from governance.queries.sums import LongSum
from governance.rules import refusals
from governance.rules.calls import Caller
from governance.rules.decision import Action, Call, Decision, fixed
from governance.rules.visibility import ShownWindow
from llm.catalogue import snapshot
from llm.gateway import callers, errors, idempotency, model_list
from llm.gateway.http import Exchange
from llm.gateway.process import Gateway
from llm.gateway.turns import Owner, TooManyRequests

# "The usual cost" of a call is its mean over so many days.
USUAL_DAYS = 7
# What a read takes of a processor, here and in a thread that asks the database.
READ_S = 0.003


async def models(gateway: Gateway, exchange: Exchange) -> None:
    """The catalogue, in the shape both dialects read; only what has a price and a provider with a key is there.

    Clients look in the list for what they were told to ask for, so an alias has a card of its own.
    """
    async with _turn(gateway, exchange):
        await gateway.identify(exchange, afresh=True)
    missing = gateway.providers.unconfigured()
    name = exchange.path.removeprefix("/v1/models").strip("/")
    if not name:
        await exchange.answer_json(200, orjson.Fragment(gateway.model_list.of(snapshot.current(), missing)))
        return
    entry = snapshot.resolve(name)
    if entry is None or entry.rates is None or entry.provider in missing:
        raise errors.not_found(f"There is no model {name!r} in the catalogue.")
    await exchange.answer_json(200, model_list.card(entry, entry.id))


async def budget(gateway: Gateway, exchange: Exchange) -> None:
    """The tightest budget of the caller, and how many more calls it lasts at their usual cost."""
    async with _turn(gateway, exchange):
        identity = await gateway.identify(exchange, afresh=True)
        caller = identity.caller(**callers.named(exchange))
        now = timezone.now()
        try:
            decision, usual_nanos = await gateway.read(lambda: _standing(caller, now))
        except (DatabaseError, ledger.LedgerUnavailable) as error:
            raise errors.ledger_unavailable() from error
    tightest = identity.audience.tightest(decision.views)
    runs_out_at = gateway.forecasts.runs_out_at(tightest, now=now) if tightest else None
    window = identity.audience.window(tightest, runs_out_at) if tightest else None
    shown = _shown(decision, window, usual_nanos)
    if window is not None:
        shown["upgrade_url"] = ports.upgrade_url(tenant=caller.tenant, window=window.kind, now=now)
    await exchange.answer_json(200, shown)


@asynccontextmanager
async def _turn(gateway: Gateway, exchange: Exchange) -> AsyncIterator[None]:
    """A key's reads here take of its share of a processor as those of the control plane do."""
    identity = await gateway.identify(exchange)
    if doubled := next(filter(exchange.is_doubled, idempotency.ONCE), None):
        raise errors.sent_twice(doubled)
    owner = Owner(f"key {identity.key_id}", f"tenant {identity.tenant_id}")
    try:
        async with gateway.turns.turn(owner, is_read=True, patience_s=settings.BODY_TIMEOUT_S) as turn:
            try:
                yield
            finally:
                turn.took(READ_S)
    except TooManyRequests as error:
        raise errors.too_many_requests(str(error)) from None


def _standing(caller: Caller, now: datetime) -> tuple[Decision, int]:
    decision = ledger.dry_run(caller, Call(model="", quote=fixed(0)), now=now)
    rollups = SpendRollup.objects.filter(tenant_id=caller.tenant_id, hour__gte=now - timedelta(days=USUAL_DAYS))
    if caller.agent:
        rollups = rollups.filter(agent=caller.agent)
    sums = rollups.aggregate(calls=LongSum("calls"), cost=LongSum("cost_nanos"))
    return decision, (sums["cost"] or 0) // (sums["calls"] or 1)


def _shown(decision: Decision, window: ShownWindow | None, usual_nanos: int) -> dict[str, Any]:
    if window is None:
        return {"object": "budget", "state": "active", "scope": None, "allowed": decision.allowed}
    shown: dict[str, Any] = {
        "object": "budget",
        "state": window.state.value if window.state else None,
        "scope": window.scope,
        "window": window.kind,
        "allowed": decision.action is not Action.HARD_STOP,
        "currency": "usd",
        "resets_at": refusals.rfc3339(window.ends_at) if window.ends_at else None,
        "runs_out_at": refusals.rfc3339(window.runs_out_at) if window.runs_out_at else None,
        **errors.amounts(window),
    }
    if window.remaining_nanos is not None:
        shown["calls_left"] = window.remaining_nanos // usual_nanos if usual_nanos else None
    return shown
