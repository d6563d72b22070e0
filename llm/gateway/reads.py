"""`GET /v1/models` and `GET /v1/budget`: what a caller may read about itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

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
from llm.gateway import callers, errors
from llm.gateway.http import Exchange
from llm.gateway.process import Gateway
from llm.rules.pricing import Entry

# "The usual cost" of a call is its mean over so many days.
USUAL_DAYS = 7


async def models(gateway: Gateway, exchange: Exchange) -> None:
    """The catalogue, in the shape both dialects read; only what has a price and a provider with a key is there.

    Clients look in the list for what they were told to ask for, so an alias has a card of its own.
    """
    await gateway.identify(exchange, afresh=True)
    missing = gateway.providers.unconfigured()
    name = exchange.path.removeprefix("/v1/models").strip("/")
    if not name:
        cards = [
            _card(entry, known)
            for known, entry in snapshot.current().callable_names()
            if entry.rates and entry.provider not in missing
        ]
        await exchange.answer_json(200, {"object": "list", "data": cards})
        return
    entry = snapshot.resolve(name)
    if entry is None or entry.rates is None or entry.provider in missing:
        raise errors.not_found(f"There is no model {name!r} in the catalogue.")
    await exchange.answer_json(200, _card(entry, entry.id))


async def budget(gateway: Gateway, exchange: Exchange) -> None:
    """The tightest budget of the caller, and how many more calls it lasts at their usual cost."""
    identity = await gateway.identify(exchange, afresh=True)
    caller = identity.caller(**callers.named(exchange))
    now = timezone.now()
    try:
        decision, usual_nanos = await gateway.read(lambda: _standing(caller, now))
    except (DatabaseError, ledger.LedgerUnavailable) as error:
        raise errors.ledger_unavailable() from error
    tightest = identity.audience.tightest(decision.views)
    window = identity.audience.window(tightest) if tightest else None
    shown = _shown(decision, window, usual_nanos)
    if window is not None:
        shown["upgrade_url"] = ports.upgrade_url(tenant=caller.tenant, window=window.kind, now=now)
    await exchange.answer_json(200, shown)


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
        **errors.amounts(window),
    }
    if window.remaining_nanos is not None:
        shown["calls_left"] = window.remaining_nanos // usual_nanos if usual_nanos else None
    return shown


def _card(entry: Entry, name: str) -> dict[str, Any]:
    """`root` is the model that a name stands for."""
    abilities = entry.capabilities
    return {
        "id": name,
        "root": entry.id,
        "object": "model",
        "created": 0,
        "owned_by": entry.owned_by,
        "type": "base",
        "aliases": entry.aliases,
        "max_context_length": entry.context_tokens or 0,
        "capabilities": {
            "completion_chat": "chat" in abilities,
            "completion_fim": "fim" in abilities,
            "function_calling": "tools" in abilities,
            "vision": "vision" in abilities,
            "fine_tuning": False,
            "classification": "moderation" in abilities,
        },
    }
