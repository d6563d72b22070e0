"""The data plane: a lean ASGI application for `/v1/`, beside Django and without its request handling.

Django's own ASGI path costs about a millisecond of CPU a request; this one authenticates from a cache, decides and
holds in the ledger's batches, and relays bytes. No database connection is held while a model answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import uuid_utils.compat as uuids
from django.conf import settings
from django.db import DatabaseError

from governance import request_ids
from governance.rules import charsets
from llm.gateway import bodies, caller_status, calls, ended, errors, idempotency, reads, requests, routes
from llm.gateway.asgi import Receive, Scope, Send
from llm.gateway.asked import Asked
from llm.gateway.http import Exchange
from llm.gateway.process import Gateway
from llm.gateway.routes import ROUTES, Route
from llm.state import metrics
from llm.state.telemetry import TraceSpan, trace_context

log = logging.getLogger(__name__)

BATCH = "/v1/batch"


class GatewayApplication(Gateway):
    """A gateway that answers requests. `startup` and `shutdown` are the server's lifespan."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, request_id=scope.get("request_id") or str(uuids.uuid7()))
        request_ids.current.set(exchange.request_id)
        try:
            await self._route(exchange)
        except bodies.ClientGone as error:
            errors.let_go(error)
        except Exception as error:
            await self._refuse(exchange, _told(exchange, error))
            errors.let_go(error)
        finally:
            if exchange.notes.route:
                self.telemetry.call_ended(ended.told(exchange))
            metrics.observe_request("v1", exchange.status, time.perf_counter() - exchange.arrived)
            exchange.forget()

    async def _route(self, exchange: Exchange) -> None:
        if exchange.path == BATCH or exchange.path.startswith(BATCH + "/"):
            await self._refuse_batch(exchange)
        handler, allowed = self._handler(exchange.path)
        if exchange.method != allowed:
            raise errors.method_not_allowed(allowed)
        if not self.is_open:
            raise errors.ledger_unavailable()
        await handler(exchange)

    def _handler(self, path: str) -> tuple[Callable[[Exchange], Awaitable[None]], str]:
        if route := ROUTES.get(path):
            return lambda exchange: self._call(exchange, route), "POST"
        if path == "/v1/budget":
            return lambda exchange: reads.budget(self, exchange), "GET"
        if path == "/v1/models" or path.startswith("/v1/models/"):
            return lambda exchange: reads.models(self, exchange), "GET"
        raise errors.not_found(_advice(path))

    async def _refuse_batch(self, exchange: Exchange) -> None:
        asked = Asked(exchange, await self.identify(exchange))
        raise asked.noted(errors.batch_not_allowed(), self.refusals)

    async def _call(self, exchange: Exchange, route: Route) -> None:
        exchange.notes.route = exchange.path
        if self.commits.why_closed() is not None:
            # Whatever it asks for, it would be told so once it had been read.
            raise errors.ledger_unavailable()
        if self.telemetry.traces:
            exchange.notes.span = TraceSpan.under(trace_context(exchange.header("traceparent")))
        identity = await self.identify(exchange)
        asked = Asked(exchange, identity)

        async def check_status() -> None:
            await caller_status.check(self, identity)

        try:
            if doubled := next(filter(exchange.is_doubled, idempotency.ONCE), None):
                raise errors.sent_twice(doubled)
            if problem := charsets.problem(exchange.header("content-type")):
                raise errors.unsupported(problem, param="content-type")
            with self.bodies.turn(identity.key_id, identity.tenant_id) as turn:
                exchange.admit(
                    limit=settings.MAX_BODY_BYTES,
                    patience_s=settings.BODY_TIMEOUT_S,
                    turn=turn,
                    when_large=check_status,
                )
                # Before its Idempotency-Key is looked up: what is malformed leaves no row of that.
                await requests.read(self, asked, route)
                await idempotency.once(self, exchange, identity, lambda exchange: self._serve(exchange, route, asked))
        except tuple(errors.BODIES) as error:
            raise asked.noted(errors.bad_body(error), self.refusals) from error
        except errors.GatewayError as error:
            asked.note(error, self.refusals)
            raise
        finally:
            exchange.notes.request, exchange.notes.caller = asked.request, asked.caller or identity.caller()

    async def _serve(self, exchange: Exchange, route: Route, asked: Asked) -> None:
        try:
            await calls.serve(self, exchange, route, asked)
        except errors.GatewayError as error:
            # Under an Idempotency-Key it is answered before it comes to us again.
            ended.refused(exchange, error)
            asked.note(error, self.refusals)
            raise

    async def _refuse(self, exchange: Exchange, error: errors.GatewayError) -> None:
        ended.refused(exchange, error)
        if exchange.started:
            # Too late for a status: the answer just ends.
            return
        await exchange.answer_json(error.status, error.body(), error.headers)


def _told(exchange: Exchange, error: Exception) -> errors.GatewayError:
    """What a client is told of any error; called where it is handled."""
    if isinstance(error, errors.GatewayError):
        return error
    if isinstance(error, tuple(errors.BODIES)):
        return errors.bad_body(error)
    if isinstance(error, DatabaseError):
        log.exception("request %s: the database is away", exchange.request_id)
        return errors.ledger_unavailable()
    log.exception("request %s failed", exchange.request_id)
    return errors.internal()


def _advice(path: str) -> str:
    """What to ask instead of a path that is none."""
    there_is_none = f"There is no {path[:200]} here"
    if path == "/v1":
        return f"{there_is_none}: this is the base address, to which a client adds /chat/completions or /models."
    instead = routes.meant(path)
    if instead and (instead != "/v1" or not path.startswith("/v1/")):
        return f"{there_is_none}: the base address of this API ends in /v1, so this would be {instead}."
    return f"{there_is_none}: only calls that can be bounded and priced are passed on, chats at /v1/chat/completions."


gateway = GatewayApplication()
