"""Requests of the data plane, read: parsed within bounds, their names checked, and whom they are for."""

from __future__ import annotations

from dataclasses import replace

from llm.gateway import caller_status, callers, errors
from llm.gateway.asked import Asked
from llm.gateway.http import Exchange
from llm.gateway.identities import Identity
from llm.gateway.process import Gateway
from llm.gateway.routes import Route
from llm.rules import bounds, forms, transcription
from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate
from llm.rules.request_checks import DialectError


async def read(gateway: Gateway, asked: Asked, route: Route) -> None:
    """Read a request of any route. Raises the 400 of one that is malformed: nothing was looked up or written for it."""
    exchange, identity = asked.exchange, asked.identity
    body = await exchange.body()

    def parse() -> None:
        asked.request = request = route.parse(body, exchange.header("content-type"), gateway.providers.extra_fields)
        _check_names(exchange, request)
        estimate = route.estimate(request, identity.default_max_tokens)
        more = (request.lengthening | _whose(estimate, identity)) - estimate.asked
        asked.estimate = replace(estimate, asked=estimate.asked | more) if more else estimate

    try:
        await exchange.turn.work(len(body), parse)
    except (DialectError, bounds.UnboundedInput) as error:
        # Who may not call at all is told that first.
        await caller_status.check(gateway, identity)
        if isinstance(error, DialectError):
            raise mistake(error) from error
        raise errors.bad_request(f"{error}.", param=error.param, code="unbounded_input") from error
    exchange.turn.leave()
    asked.caller = identity.caller(**callers.named(exchange, asked.request))


def _whose(estimate: Estimate, identity: Identity) -> frozenset[str]:
    """Of a sound whose it is: a file that is longer than it seems says nothing of other tenants' files.

    A model's tokens are the model's own, but the seconds of a sound are its sender's.
    """
    return frozenset({f"tenant-{identity.tenant_id}"} if estimate.kind == transcription.KIND else ())


def _check_names(exchange: Exchange, request: Request) -> None:
    callers.checked("model", request.model, field="model")
    callers.checked("strategy", exchange.header("x-strategy"), field="x-strategy")
    for tool in request.tools:
        callers.checked("tool", tool, field="tools")


def mistake(error: DialectError) -> errors.GatewayError:
    """The answer to a request that cannot be read, or not be written for a model's API."""
    if error.code == forms.WRONG_CHARSET:
        return errors.unsupported(error.message, param="content-type")
    return errors.bad_request(error.message, param=error.param, code=error.code)
