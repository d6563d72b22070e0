"""The life of a governed call: identify, parse, estimate, reserve, call, settle or release; written here once.

No database connection is held while the model answers. Answers are relayed as the bytes they came in; of a stream
only the chunk that carries the usage is written anew, with what it cost (`llm.gateway.streaming`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import orjson

from governance import ledger, money
from governance.operations import Caller, Reserve
from governance.policies import Call, Decision, Quoter
from governance.results import SettleResult
from llm import catalog, dialect, estimation
from llm.gateway import errors
from llm.gateway.holds import Hold
from llm.gateway.http import Exchange
from llm.gateway.identities import Identity
from llm.gateway.streaming import relay_stream
from llm.providers import Answer, ProviderError

if TYPE_CHECKING:
    from llm.gateway.application import Gateway

log = logging.getLogger(__name__)

PATH = "/chat/completions"
MAX_BODY_BYTES = 32 * 1024 * 1024
# The provider's refusals that are about us, not the call: the operator's to mend, never shown as the client's.
_OURS = {
    401: ("upstream_auth", "The gateway's own key was refused by the model's API."),
    402: ("provider_spend_limit", "The gateway's own account at the model's API is out of money."),
    403: ("upstream_auth", "The gateway's own key was refused by the model's API."),
}


async def complete(gateway: Gateway, exchange: Exchange) -> None:
    """`POST /v1/chat/completions`, plain and streaming."""
    arrived = time.perf_counter()
    identity = await gateway.identify(exchange)
    request, quote = _read(await exchange.body(limit=MAX_BODY_BYTES), identity)
    caller = await _caller(gateway, exchange, identity, request)
    id, decision = await _reserve(gateway, exchange, caller, request, quote)
    if not decision.allowed:
        raise errors.refusal(decision, show_amounts=identity.show_amounts)
    async with gateway.holds.of(id, caller, decision, provider=gateway.provider.name) as hold:
        try:
            await _carry_out(gateway, exchange, hold, identity, request, arrived=arrived)
        except asyncio.CancelledError:
            if not hold.cut_reason:
                raise
            # An operator's stop cancelled the wait for the answer, not the server this task.
            cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
            await hold.settle_at_the_estimate(hold.cut_reason)
            raise errors.stopped() from None


async def _carry_out(
    gateway: Gateway,
    exchange: Exchange,
    hold: Hold,
    identity: Identity,
    request: dialect.ChatRequest,
    *,
    arrived: float,
) -> None:
    """Send the call on as it was decided, and relay what comes."""
    # What was held for is what may be written: the bound goes upstream with the call.
    body = dialect.apply(
        request,
        model=hold.decision.model,
        max_tokens=hold.quote.max_tokens,
        disabled_tools=hold.decision.disabled_tools,
    )
    sent = time.perf_counter()
    answer = await _call(gateway, hold, body, exchange)
    try:
        if request.stream and answer.status == 200:
            headers = [*_headers(exchange, hold, request.model), *_budget(hold, identity, None)]
            headers.append(("server-timing", _timing(arrived, sent, time.perf_counter())))
            await relay_stream(exchange, hold, answer, headers, n=request.n)
        else:
            await _relay(exchange, hold, answer, identity, request, arrived=arrived, sent=sent)
    finally:
        answer.close()


def _read(body: bytes, identity: Identity) -> tuple[dialect.ChatRequest, Quoter]:
    """The request, and what it costs at most at any model."""
    try:
        request = dialect.parse(body)
        estimate = estimation.chat(request.payload, default_max_tokens=identity.default_max_tokens)
    except dialect.DialectError as error:
        raise errors.bad_request(error.message, param=error.param, code=error.code) from error
    except estimation.UnboundedInput as error:
        raise errors.bad_request(f"{error}.", param=error.param, code="unbounded_input") from error
    models = catalog.current()
    entry = models.resolve(request.model)
    if entry is not None and "chat" in estimate.lacks(entry):
        raise errors.bad_request(f"{request.model} is no chat model.", param="model", code="model_not_capable")
    return request, estimation.offer(estimate, models)


async def _caller(gateway: Gateway, exchange: Exchange, identity: Identity, request: dialect.ChatRequest) -> Caller:
    """Whom the call is for: headers say it, or the body's `metadata` and `user`."""

    def said(name: str) -> str:
        value = exchange.header(f"x-{name}") or request.metadata.get(name) or ""
        return value if isinstance(value, str) else str(value)

    caller = identity.caller(
        agent=said("agent"), user=said("user") or request.user, session=said("session"), task=said("task")
    )
    if not gateway.identities.is_registered(caller):
        await gateway.read(lambda: gateway.identities.register(caller))
    return caller


async def _reserve(
    gateway: Gateway, exchange: Exchange, caller: Caller, request: dialect.ChatRequest, quote: Quoter
) -> tuple[UUID, Decision]:
    allow = exchange.header("x-allow-downgrade").lower()
    if allow not in ("", "true", "false"):
        raise errors.bad_request(f"x-allow-downgrade must be true or false, not {allow!r}.", param="x-allow-downgrade")
    call = Call(
        model=request.model,
        quote=quote,
        tools=request.tools,
        forced_tool=request.forced_tool,
        allow_downgrade=allow != "false",
    )
    # The reservation's id is the request's: one name for a call, from its answer to its ledger entry.
    id = UUID(exchange.request_id)
    try:
        decision = await gateway.commits.submit(Reserve(id, caller, call, provider=gateway.provider.name))
    except ledger.LedgerUnavailable as error:
        raise errors.ledger_unavailable() from error
    return id, decision


async def _call(gateway: Gateway, hold: Hold, body: bytes, exchange: Exchange) -> Answer:
    hold.sent = True
    try:
        return await gateway.provider.post(PATH, body, request_id=exchange.request_id)
    except ProviderError as error:
        raise await _failed(hold, error, spent=error.sent) from error


async def _failed(hold: Hold, error: ProviderError, *, spent: bool) -> errors.GatewayError:
    """Resolve the hold of a call that got no answer; what the client is told."""
    if spent:
        # It may have been worked on, and nobody says how far: the whole estimate counts.
        await hold.settle_at_the_estimate(error.code)
    else:
        await hold.release()
    status = 504 if error.code == "upstream_timeout" else 502
    return errors.upstream(status, error.code, str(error))


async def _relay(
    exchange: Exchange,
    hold: Hold,
    answer: Answer,
    identity: Identity,
    request: dialect.ChatRequest,
    *,
    arrived: float,
    sent: float,
) -> None:
    """A plain answer: read whole, settled, then sent on with what it cost."""
    try:
        data = await answer.read()
    except ProviderError as error:
        # A refusal that breaks off is one all the same: nothing was spent.
        raise await _failed(hold, error, spent=answer.status == 200) from error
    answered = time.perf_counter()
    if answer.status != 200:
        await hold.release()
        await _relay_refusal(exchange, answer, data)
        return
    cost_nanos, result = await hold.settle_reported(_json_object(data))
    await exchange.answer(
        200,
        data,
        [
            *_headers(exchange, hold, request.model),
            *_budget(hold, identity, result),
            ("x-request-cost-usd", money.format_dollars(cost_nanos)),
            ("server-timing", _timing(arrived, sent, answered)),
            ("content-type", answer.headers.get("content-type", "application/json")),
        ],
    )


async def _relay_refusal(exchange: Exchange, answer: Answer, data: bytes) -> None:
    """The provider did no work. Its word on the request goes to the client; its word on us does not."""
    status, retry_after = answer.status, answer.headers.get("retry-after", "")
    if status in _OURS:
        code, message = _OURS[status]
        log.error("request %s: %s It answered with status %d.", exchange.request_id, message, status)
        raise errors.upstream(503, code, message)
    if status == 429:
        raise errors.upstream(429, "upstream_rate_limit", "The model's API is rate limiting.", retry_after=retry_after)
    if status >= 500 or status < 400:
        raise errors.upstream(
            503 if status == 503 else 502,
            "upstream_failed",
            f"The model's API answered with status {status}.",
            retry_after=retry_after,
        )
    await exchange.answer(
        status,
        data,
        [
            ("content-type", answer.headers.get("content-type", "application/json")),
            ("x-request-id", exchange.request_id),
        ],
    )


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _headers(exchange: Exchange, hold: Hold, requested: str) -> list[tuple[str, str]]:
    """What was done to the call, for whoever sent it."""
    decision = hold.decision
    headers = [
        ("x-request-id", exchange.request_id),
        ("x-model-requested", requested),
        ("x-model-served", decision.model),
        ("x-reserved-usd", money.format_dollars(hold.quote.cost_nanos)),
    ]
    if decision.model != requested and decision.because:
        headers.append(
            (
                "x-downgrade-reason",
                f"{decision.reason.value} of {decision.because.scope} per {decision.because.kind}",
            )
        )
    if decision.disabled_tools:
        headers.append(("x-tools-disabled", ",".join(decision.disabled_tools)))
    if decision.clamped:
        headers.append(("x-max-tokens-clamped", str(hold.quote.max_tokens)))
    return headers


def _budget(hold: Hold, identity: Identity, result: SettleResult | None) -> list[tuple[str, str]]:
    """The tightest budget, after this call: as settled, or (not yet settled) as held."""
    view = hold.decision.tightest
    if view is None:
        return []
    remaining_nanos, state = view.room_nanos - hold.quote.cost_nanos, ""
    for balance in result.balances if result else ():
        if balance.window_id == view.window_id:
            cap_nanos = money.share_nanos(balance.limit_nanos, view.policy.hard_e4)
            remaining_nanos = cap_nanos - balance.settled_nanos - balance.reserved_nanos
            state = balance.state
    return errors.budget_headers(view, show_amounts=identity.show_amounts, remaining_nanos=remaining_nanos, state=state)


def _timing(arrived: float, sent: float, answered: float) -> str:
    """Milliseconds before the call was sent on, and until the model's answer began."""
    return f"gateway;dur={(sent - arrived) * 1000:.1f}, upstream;dur={(answered - sent) * 1000:.1f}"
