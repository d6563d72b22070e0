"""Idempotency-Key of the data plane: a call sent again under its key gets its stored answer, and is charged once.

Only calls that send the header pay for this. The answer is recorded as it is sent, a stream too, and kept before its
last bytes go out; so whoever has seen a whole answer gets the same one again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from django.db import Error as DatabaseTrouble

from governance import idempotency
from governance.idempotency import Claim, Headers, StoredAnswer
from governance.ledger import clock
from governance.models import ApiKey
from llm.gateway import errors
from llm.gateway.asgi import Message, Send
from llm.gateway.http import Exchange
from llm.gateway.identities import Identity
from llm.gateway.process import Gateway
from llm.rules import forms

log = logging.getLogger(__name__)

# Whom a call is for, and what it may become, by its headers.
WHOM = ("x-agent", "x-user", "x-session", "x-task", "x-strategy", "x-allow-downgrade")
# What a call says once or not at all.
ONCE = (idempotency.HEADER, *WHOM)

T = TypeVar("T")
Handler = Callable[[Exchange], Awaitable[None]]


async def once(gateway: Gateway, exchange: Exchange, identity: Identity, handle: Handler) -> None:
    """Answer a call; under an Idempotency-Key, as it was answered before."""
    key = exchange.header(idempotency.HEADER)
    if not key:
        await handle(exchange)
        return
    body = await exchange.body()
    digest = await exchange.turn.work(len(body), lambda: _digest(exchange, identity, body))
    found = await _begin(gateway, identity, key, digest)
    if isinstance(found, StoredAnswer):
        await exchange.answer(found.status, found.body, [*found.headers, idempotency.REPLAYED])
        return
    run = _Run(gateway, exchange, found)
    alive = asyncio.create_task(run.stay_alive())
    try:
        await run.answer(handle)
    finally:
        alive.cancel()
        await run.end()


def _digest(exchange: Exchange, identity: Identity, body: bytes) -> str:
    sent = forms.canonical(body, exchange.header("content-type"))
    whom = [f"{name}: {value}" for name in WHOM if (value := exchange.header(name))]
    return idempotency.digest(method=exchange.method, path=exchange.path, agent=identity.agent, body=sent, whom=whom)


async def _begin(gateway: Gateway, identity: Identity, key: str, digest: str) -> Claim | StoredAnswer:
    """Waits while the same request runs elsewhere; all database work is off the event loop."""
    try:
        idempotency.checked(key)
        found = await gateway.kept(lambda: _look(identity, key, digest))
        if found is not None:
            return found
        with gateway.waiting.place(identity.key_id):
            for pause_s in idempotency.pauses():
                await asyncio.sleep(pause_s)
                found = await gateway.kept(lambda: _look(identity, key, digest))
                if found is not None:
                    return found
        raise idempotency.still_running()
    except idempotency.IdempotencyError as error:
        raise refusal(error) from error
    except DatabaseTrouble as error:
        raise errors.ledger_unavailable() from error


def _look(identity: Identity, key: str, digest: str) -> Claim | StoredAnswer | None:
    now = clock.now()
    # A stored answer passes the ledger by, which would notice that the key was revoked.
    key_row = ApiKey.objects.filter(pk=identity.key_id).first()
    if key_row is None or not key_row.is_usable(now):
        raise errors.key_ended()
    return idempotency.begin(tenant_id=identity.tenant_id, key=key, digest=digest, now=now, api_key_id=identity.key_id)


def refusal(error: idempotency.IdempotencyError) -> errors.GatewayError:
    kind, sentence = "invalid_request_error", f"Idempotency-Key: {error}"
    if isinstance(error, idempotency.KeyReused):
        return errors.GatewayError(422, kind, "idempotency_mismatch", sentence, "idempotency-key")
    if isinstance(error, idempotency.TooManyKept):
        wait = (("retry-after", str(error.wait)),)
        return errors.GatewayError(429, "rate_limit_error", "too_many_kept_answers", sentence, "idempotency-key", wait)
    if isinstance(error, idempotency.StillRunning):
        wait = (("retry-after", str(error.wait)),)
        return errors.GatewayError(409, kind, "idempotency_in_progress", sentence, "idempotency-key", wait)
    return errors.bad_request(sentence, param="idempotency-key")


class _Run:
    """The one run of a request under its key: passes the answer on, and keeps it when it is whole."""

    def __init__(self, gateway: Gateway, exchange: Exchange, claim: Claim) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._claim = claim
        self._status = 0
        self._headers: Headers = ()
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False
        exchange.send_through(self._recording)

    async def answer(self, handle: Handler) -> None:
        try:
            await handle(self._exchange)
        except errors.GatewayError as error:
            if self._exchange.started:
                raise
            # Answered here, so that the refusal is recorded as well.
            await self._exchange.answer_json(error.status, error.body(), error.headers)
            errors.let_go(error)

    async def stay_alive(self) -> None:
        """A long answer's key is not taken over while it is still being given."""
        while True:
            await asyncio.sleep(idempotency.ALIVE_FOR.total_seconds() / 3)
            with suppress(DatabaseTrouble):
                await self._gateway.kept(lambda: idempotency.stay_alive(self._claim, now=clock.now()))

    async def end(self) -> None:
        """Let go of a run whose answer is not whole: cut, failed, or never given."""
        if not self._ended:
            self._ended = True
            give_up = idempotency.let_go if not self._status else idempotency.forget
            await self._write(lambda: give_up(self._claim))

    def _recording(self, send: Send) -> Send:
        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
                self._headers = [(name.decode(), value.decode("latin-1")) for name, value in message["headers"]]
            else:
                self._record(message.get("body", b""))
                if not message.get("more_body"):
                    await (self._keep() if self._is_whole() else self.end())
            await send(message)

        return record

    def _record(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= idempotency.MOST_BYTES:
            self._parts.append(data)
        else:
            self._parts.clear()

    def _is_whole(self) -> bool:
        return self._exchange.complete and self._size <= idempotency.MOST_BYTES

    async def _keep(self) -> None:
        self._ended = True
        # Sent with its length when it is replayed, whether it was streamed or not.
        headers = [(name, value) for name, value in self._headers if name != "content-length"]
        answer = StoredAnswer(self._status, headers, b"".join(self._parts))
        await self._write(lambda: idempotency.keep(self._claim, answer))

    async def _write(self, work: Callable[[], T]) -> None:
        """The client has its answer, or gets it now; a database that is away changes nothing about that.

        It is written when that is back, or a repeat would be another call.
        """
        try:
            await self._gateway.kept(work)
        except DatabaseTrouble:
            log.exception("request %s: what is kept under its key waits for the database", self._exchange.request_id)
            self._gateway.keep_later(work)
