"""What stands before Django: a request's body comes whole, within bounds, and a large one only from who is known here.

Django would take a body of any size first, into a file where it is large, and ask who sent it afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from typing import Any

import orjson
import uuid_utils.compat as uuids
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.db import DatabaseError, InterfaceError, connection

from billing.inbox import envelope
from config.control_plane import TOOK_S
from governance.api import authentication, refusing
from governance.api import errors as answers
from llm.gateway import bodies
from llm.gateway.asgi import Application, Message, Receive, Scope, Send
from llm.gateway.bodies import Spread

log = logging.getLogger(__name__)

WEBHOOKS = "/api/webhooks/"
# So much may come from anybody: a form to sign in with, a mistaken key's request.
ANYBODYS_BYTES = 64 * 1024

# Backslashes in cookies: a page of messages has a hundred. Python before 3.11.10 and 3.12.6 takes quadratic time for
# them (CVE-2024-7592), a second for 16 kB.
MOST_ESCAPES = 1_000
TOO_MANY_ESCAPES = f"Cookies may hold {MOST_ESCAPES:,} backslashes at most."

# What may be wrong with a body: status and code.
_STATUSES: dict[type[Exception], tuple[int, str]] = {
    bodies.BodyTooLarge: (413, "body_too_large"),
    bodies.BodyTooSlow: (408, "body_timeout"),
    bodies.CodingUnknown: (501, "transfer_encoding_unknown"),
    bodies.PackingUnknown: (415, "unsupported_media_type"),
    bodies.PackingBroken: (400, "invalid"),
    bodies.TooManyBodies: (429, "too_many_large_bodies"),
}


class _Unknown(Exception):
    """A large body came from nobody that is known here."""


def gate(django: Application) -> Application:
    """Django, behind what is looked at before it reads a body."""
    spread = Spread(share=settings.LARGE_BODY_PERCENT_PER_KEY / 100)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if scope["type"] == "http" and _escapes(scope) > MOST_ESCAPES:
            await _answer(send, 431, _told("headers_too_large", TOO_MANY_ESCAPES), [])
            return
        if scope["type"] != "http" or not (
            headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        ):
            await django(scope, receive, send)
            return
        try:
            body, whose = await _body(scope, headers, receive)
            settle = await _turn(spread, whose, len(body))
        except bodies.ClientGone:
            return
        except (DatabaseError, InterfaceError):
            log.exception("a large body's caller could not be looked up")
            await _answer(send, 503, _told("database_unavailable", answers.MESSAGES["database_unavailable"]), [])
        except _Unknown:
            message = "Send a key that is known here before a body of this size."
            await _answer(send, 401, _told("authentication_required", message), [(b"www-authenticate", b"Bearer")])
        except tuple(_STATUSES) as error:
            more = [(b"accept-encoding", ", ".join(bodies.PACKINGS).encode())] * isinstance(
                error, bodies.PackingUnknown
            )
            status, code = _STATUSES[type(error)]
            told = _told(code, str(error))
            more += [(b"retry-after", b"5")] * (status == 429)
            await _answer(send, status, told, more)
            if scope["method"] == "POST" and status < 500:
                await sync_to_async(_note)(scope["path"], headers, status, told)
        else:
            took_s: list[float] = []
            try:
                await django({**_plain(scope, len(body)), TOOK_S: took_s}, _Once(body, receive), send)
            finally:
                settle(sum(took_s))

    return application


def _escapes(scope: Scope) -> int:
    return sum(value.count(b"\\") for name, value in scope["headers"] if name == b"cookie")


async def _body(scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> tuple[bytes, str]:
    """A body, and whose a large one is; "" where that is Stripe's."""
    is_webhook = scope["path"].startswith(WEBHOOKS)
    limit = envelope.MOST_BYTES if is_webhook else settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    packing = bodies.packing_of(headers)
    whose = ""
    if bodies.announced_bytes(headers, limit=limit) > ANYBODYS_BYTES and not is_webhook:
        whose = await _whose(headers)
    parts, size = [], 0
    async for part in bodies.read(receive, limit=limit, patience_s=settings.BODY_TIMEOUT_S):
        parts.append(part)
        size += len(part)
        if size > ANYBODYS_BYTES and not (whose or is_webhook):
            whose = await _whose(headers)
    body = b"".join(parts)
    if not packing:
        return body, whose
    parts = []
    for part in bodies.slices(body, packing, limit=limit if whose or is_webhook else ANYBODYS_BYTES):
        parts.append(part)
        # Others have their turn.
        await asyncio.sleep(0)
    return b"".join(parts), whose


async def _turn(spread: Spread, whose: str, size: int) -> Callable[[float], None]:
    """Waits until a body's owner has its share of the processor for it. Raises TooManyBodies."""
    if whose and size > ANYBODYS_BYTES:
        return await spread.begin(whose, size, patience_s=settings.BODY_TIMEOUT_S)
    return lambda seconds: None


async def _whose(headers: dict[bytes, bytes]) -> str:
    """Which key's or user's a request is; raises _Unknown for a caller without a key that works, or a session."""
    if not (whose := await sync_to_async(_looked_up)(headers)):
        raise _Unknown
    return whose


def _looked_up(headers: dict[bytes, bytes]) -> str:
    """Outside of Django's requests, at whose ends a connection that broke is dropped."""
    try:
        return _key_or_user(headers)
    finally:
        connection.close_if_unusable_or_obsolete()


def _key_or_user(headers: dict[bytes, bytes]) -> str:
    if key := authentication.key_of(headers.get(b"authorization", b"").decode("latin-1")):
        return f"key {key.pk}"
    try:
        cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return ""
    named = cookies.get(settings.SESSION_COOKIE_NAME)
    if named is None:
        return ""
    user = import_module(settings.SESSION_ENGINE).SessionStore(named.value).get(SESSION_KEY)
    return f"user {user}" if user else ""


def _note(path: str, headers: dict[bytes, bytes], status: int, told: dict[str, Any]) -> None:
    try:
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        refusing.note_unread(path, authorization, status=status, error=told["error"])
    finally:
        connection.close_if_unusable_or_obsolete()


def _plain(scope: Scope, size: int) -> Scope:
    """The request as if its body had come unpacked, and in one piece."""
    told = (b"content-length", b"content-encoding", b"transfer-encoding")
    headers = [header for header in scope["headers"] if header[0] not in told]
    return {**scope, "headers": [*headers, (b"content-length", str(size).encode())]}


class _Once:
    """A body that was read, and then whatever the client does next."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            return await self._receive()
        return {"type": "http.request", "body": body, "more_body": False}


def _told(code: str, message: str) -> dict[str, Any]:
    return answers.envelope(code, message, None, str(uuids.uuid7()))


async def _answer(send: Send, status: int, told: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> None:
    request_id = told["error"]["request_id"].encode()
    data = orjson.dumps(told)
    # What is left of the body is not waited for.
    about = [(b"content-type", b"application/json"), (b"connection", b"close"), (b"x-request-id", request_id)]
    about += [(b"content-length", str(len(data)).encode()), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": status, "headers": [*about, *headers]})
    await send({"type": "http.response.body", "body": data})
