"""The life of a governed call that was read: plan, reserve, attempt; written here once.

A call that a model does not answer is tried at the next one, with a hold of its own at that one's price, as long as
the client has not been sent a byte (`attempts`). No database connection is held while a model answers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from uuid import UUID

import uuid_utils.compat as uuids
from django.utils import timezone

from governance import ledger
from governance.ledger.operations import Reserve
from governance.rules.decision import Call, Reason
from llm.gateway import errors, upstream
from llm.gateway.asked import Asked
from llm.gateway.attempts import GovernedCall, HeldAttempt, PricedAnew
from llm.gateway.bodies import LARGE_BYTES, ClientGone
from llm.gateway.call_usage import CallUsage
from llm.gateway.holds import Hold
from llm.gateway.http import Exchange
from llm.gateway.process import Gateway
from llm.gateway.routes import Route
from llm.gateway.upstream import Unanswered
from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate
from llm.rules.pricing import Entry
from llm.rules.routing import Candidate, NoneFits, UnknownStrategy, candidates
from llm.state import routing


async def serve(gateway: Gateway, exchange: Exchange, route: Route, asked: Asked) -> None:
    """Answer a call of any route, plain or streaming, that was read."""
    if exchange.has_left():
        raise ClientGone
    identity, request, estimate, caller = asked.identity, asked.request, asked.estimate, asked.caller
    assert request is not None and estimate is not None and caller is not None  # noqa: S101, PT018 - it was read
    catalogue = await gateway.catalogue()
    named = Candidate(request.model, catalogue.resolve(request.model))
    unconfigured = gateway.providers.unconfigured()
    if named.entry is not None:
        _check(named.entry, request, route, estimate, unconfigured)
    if not gateway.identities.is_registered(caller):
        await gateway.read(lambda: gateway.identities.refuse_one_more(caller))
    call = GovernedCall(
        gateway, exchange, route, identity, caller, request, estimate, catalogue, named, set(unconfigured)
    )
    await _try_in_order(call)


def _check(entry: Entry, request: Request, route: Route, estimate: Estimate, unconfigured: Collection[str]) -> None:
    """Raises the refusal of a call that the model asked for could not be, whatever the budgets say."""
    lacking = estimate.lacks(entry)
    if route.kind in lacking:
        raise errors.bad_request(f"{request.model} is no {route.kind} model.", param="model", code="model_not_capable")
    if "bound" in lacking:
        raise errors.bad_request(estimate.no_bound_at(entry), param="model", code="unbounded_input")
    if entry.provider in unconfigured:
        raise errors.provider_not_configured(request.model, entry.provider)


async def _try_in_order(call: GovernedCall) -> None:
    """Try the candidates in order until one answers. Each failure is avoided from then on, so this ends.

    So does waiting for a hold while prices change: they do so a few times a day.
    """
    # What stands in for a model is worked out where it has to be: most calls are answered by the one that they name.
    if not call.strategy and (alone := _open_ones(call, (call.asked,))):
        if await _is_answered(call, alone):
            return
        call.goes_by(await call.gateway.catalogue())
    while order := _open_ones(call, plan := _plan(call)):
        # A strategy's candidates, and what a failed call falls back to, do as well as the first.
        if await _is_answered(call, order if _is_moved_to(call, order[0]) else order[:1]):
            return
        call.goes_by(await call.gateway.catalogue())
    raise call.first_failure() or _blocked(call, plan)


async def _is_answered(call: GovernedCall, order: Sequence[Candidate]) -> bool:
    """Whether an attempt answered the call; what failed is known to it, and avoided."""
    try:
        await _attempt(call, order)
    except PricedAnew:
        return False
    except Unanswered as unanswered:
        call.failure = call.failure or unanswered.error
        call.avoided.update(unanswered.avoid)
        return False
    return True


def _blocked(call: GovernedCall, candidates: Iterable[Candidate]) -> errors.GatewayError:
    places = [candidate.place for candidate in candidates]
    return upstream.blocked(places, call.gateway.breakers, time.time(), tenant=call.caller.tenant_id)


def _is_moved_to(call: GovernedCall, candidate: Candidate) -> bool:
    """Whether a strategy, a failure or a breaker chose the model, and not the client."""
    return bool(call.strategy or call.failure) or candidate.name != call.request.model


def _may_move(call: GovernedCall) -> bool:
    allow = call.exchange.header("x-allow-downgrade").lower()
    if allow not in ("", "true", "false"):
        raise errors.bad_request(f"x-allow-downgrade must be true or false, not {allow!r}.", param="x-allow-downgrade")
    return allow != "false"


def _plan(call: GovernedCall) -> tuple[Candidate, ...]:
    """The models that this call may be tried at, in order."""
    now, called = time.time(), call.exchange.called
    try:
        return candidates(
            routing.options(call.catalogue),
            asked=call.asked,
            strategy=call.strategy,
            estimate=call.estimate,
            observed=lambda place: call.gateway.breakers.latency_ms(place, now),
            payload=call.request.payload,
            allow_downgrade=_may_move(call),
        )
    except UnknownStrategy as error:
        raise errors.bad_request(f"{error}", param=called("x-strategy"), code="unknown_strategy") from error
    except NoneFits as error:
        raise errors.bad_request(f"{error}.", param=called(error.param), code="model_not_capable") from error


def _open_ones(call: GovernedCall, plan: Sequence[Candidate]) -> list[Candidate]:
    """Those that may answer: not avoided, and not blocked by a breaker."""
    now, breakers, tenant = time.time(), call.gateway.breakers, call.caller.tenant_id
    return [
        candidate
        for candidate in plan
        if call.avoided.isdisjoint(candidate.places) and not breakers.blocks(candidate.place, tenant, now)
    ]


async def _attempt(call: GovernedCall, order: Sequence[Candidate]) -> None:
    hold = await _reserve(call, order)
    if call.exchange.has_left():
        # It went while it waited for its hold; nobody is left who wants the answer.
        hold.drop()
        raise ClientGone
    served = hold.usage.served
    if served.provider not in call.gateway.providers:
        # An operator took it away while this call waited for its hold.
        hold.drop()
        raise Unanswered(errors.provider_not_configured(served.name, served.provider), served.provider)
    if not call.gateway.breakers.admits(served.place, call.caller.tenant_id, time.time()):
        hold.drop()
        raise Unanswered(_blocked(call, [served]), served.place)
    await HeldAttempt(call, hold, call.gateway.providers[served.provider]).carry_out()


async def _reserve(call: GovernedCall, order: Sequence[Candidate]) -> Hold:
    """Hold for the first of `order` that the budgets allow, or what they lead to. Raises the refusal."""
    if (size_bytes := len(call.request.body)) > LARGE_BYTES:
        await call.exchange.turn.work(size_bytes, partial(call.bound.prepare, order))
    if isinstance(unbounded := call.bound.at_provider(order[0].provider), errors.GatewayError):
        raise Unanswered(unbounded, order[0].place)
    await call.bound.count_texts({candidate.provider for candidate in order})
    known = {candidate.name: candidate for candidate in order}
    home = order[0].provider
    wanted = Call(
        model=order[0].name,
        quote=call.bound.quoter(known, home),
        overrun_quote=lambda overruns: call.bound.quoter(known, home, overruns),
        tools=call.request.tools,
        forced_tool=call.request.forced_tool,
        allow_downgrade=_may_move(call),
        alternatives=tuple(candidate.name for candidate in order[1:]),
        shows_amounts=call.identity.audience.show_amounts,
    )
    # The first hold's id is the request's: one name for a call, from its answer to its ledger entry.
    id = uuids.uuid7() if call.was_held else UUID(call.exchange.request_id)
    reserve = Reserve(id, call.caller, wanted, provider=home, model_requested=call.request.model)
    try:
        decision = await call.gateway.commits.submit(reserve)
    except ledger.LedgerUnavailable as error:
        held_up = error.tenant if isinstance(error, ledger.HeldUp) else None
        raise errors.ledger_unavailable(held_up=held_up) from error
    except ledger.OutOfBounds as error:
        # No call is so dear, but by a price or a length that is a mistake.
        raise errors.bad_request(f"What this call may cost at most {error}.", code="out_of_bounds") from error
    call.exchange.notes.decision = decision
    if decision.reason == Reason.MODEL_NOT_PRICED and (endless := call.bound.endless(order[0])):
        raise Unanswered(endless, order[0].place)
    if decision.quote is None:
        raise call.first_failure() or errors.refusal(
            decision,
            audience=call.identity.audience,
            tenant=call.caller.tenant,
            now=timezone.now(),
            fields=errors.fields_as(call.exchange.called),
            forecasts=call.gateway.forecasts,
        )
    call.was_held = True
    served = known[decision.model]
    usage = CallUsage(
        catalogue=call.catalogue,
        route=call.route,
        estimate=call.bound.at(served) or call.estimate,
        served=served,
        quote=decision.quote,
        tokenizer=call.gateway.tokenizers.of(served.entry),
        counts_answer=call.bound.leaves_tokens_to(served),
    )
    return Hold(call.gateway.holds, reserve, decision, usage, request_id=call.exchange.request_id)
