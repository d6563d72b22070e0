"""What stands before Django: a request's body comes whole, within bounds, and a large one only from who is known here.

Django would take a body of any size first, into a file where it is large, and ask who sent it afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, TypeVar

import orjson
import uuid_utils.compat as uuids
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.db import DatabaseError, InterfaceError

from billing.inbox import envelope
from config import addresses
from config.control_plane import TOOK_S
from governance import database
from governance.api import authentication, refusing
from governance.api import errors as answers
from llm.gateway import bodies
from llm.gateway import idempotency as repeats
from llm.gateway.asgi import Application, Message, Receive, Scope, Send
from llm.gateway.bodies import LIKELY_S_PER_BYTE, Held
from llm.gateway.turns import LIKELY_S, Owner, RequestTurn, TooManyRequests, Turns

log = logging.getLogger(__name__)

T = TypeVar("T")

API = "/api/"
WEBHOOK = "/api/webhooks/stripe"
HEALTH = "/api/health"
# What a request of the API says once or not at all: who asks, for whom, and whether it has asked before.
ONCE = frozenset(name.encode() for name in (*repeats.ONCE, "authorization", "stripe-signature"))
# So much may come from anybody: a form to sign in with, a mistaken key's request.
ANYBODYS_BYTES = 64 * 1024
# So many of the largest bodies are held in a process at a time: of a key or user, of a tenant, and of all. Django takes
# ten times as much for one while it is parsed.
OF_A_KEY, OF_A_TENANT, ALL = 8, 16, 64
# Threads that look up whose requests are, and seconds for which that is remembered: what it decides is who waits.
LOOKUPS, KNOWN_S, MOST_KNOWN = 4, 10.0, 10_000

# Backslashes in cookies: a page of messages has a hundred. Python before 3.11.10 and 3.12.6 takes quadratic time for
# them (CVE-2024-7592), a second for 16 kB.
MOST_ESCAPES = 1_000
TOO_MANY_ESCAPES = f"Cookies may hold {MOST_ESCAPES:,} backslashes at most."

# What may be wrong with a body: status and code.
STATUSES: dict[type[Exception], tuple[int, str]] = {
    bodies.BodyTooLarge: (413, "body_too_large"),
    bodies.BodyTooSlow: (408, "body_timeout"),
    bodies.CodingUnknown: (501, "transfer_encoding_unknown"),
    bodies.PackingUnknown: (415, "unsupported_media_type"),
    bodies.PackingBroken: (400, "invalid"),
    bodies.TooManyBodies: (429, "too_many_large_bodies"),
}
# All that is answered here, whatever is asked for.
REFUSALS = (
    *STATUSES.values(),
    (400, "invalid"),
    (401, "authentication_required"),
    (429, "too_many_requests"),
    (431, "headers_too_large"),
    (503, "database_unavailable"),
)


class _Unknown(Exception):
    """A large body came from nobody that is known here."""


class Holding:
    """What one request's body takes of the memory for large ones; all is given back at its end."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._bytes = 0
        self.owner: Owner | None = None

    def hold(self, size_bytes: int) -> None:
        """Count what of the body has come; nothing of a small one. Raises TooManyBodies."""
        if self.owner is not None and size_bytes > max(self._bytes, ANYBODYS_BYTES):
            self._held.add(size_bytes - self._bytes, key_id=self.owner.name, tenant_id=self.owner.counts_for)
            self._bytes = size_bytes

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *error: object) -> None:
        if self.owner is not None:
            self._held.give_back(self._bytes, key_id=self.owner.name, tenant_id=self.owner.counts_for)
        self._bytes = 0


class Gate:
    """Django, behind what is looked at before it reads a body, and the line in which each one's requests wait."""

    def __init__(self, django: Application, *, turns: Turns) -> None:
        self._django = django
        self._turns = turns
        # By what a request bears: until when it is remembered whose that is.
        self._owners: dict[tuple[bytes, bytes], tuple[float, Owner]] = {}
        most, most_of_webhooks = settings.DATA_UPLOAD_MAX_MEMORY_SIZE, ALL * envelope.MOST_BYTES
        self._known = Held(of_a_key=OF_A_KEY * most, of_a_tenant=OF_A_TENANT * most, of_all=ALL * most)
        # Of these nobody is known but an address, which has half of what others leave.
        self._webhooks = Held(of_a_key=most_of_webhooks, of_a_tenant=most_of_webhooks, of_all=most_of_webhooks)
        # Their own, as asgiref has one thread for whatever is no request of Django's, which any flood would fill; and
        # two kinds, so that no large body waits for what is written of refused ones.
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="gate-lookups")
        self._notes = ThreadPoolExecutor(1, thread_name_prefix="gate-notes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if scope["type"] == "http" and _escapes(scope) > MOST_ESCAPES:
            await _answer(send, 431, _told("headers_too_large", TOO_MANY_ESCAPES), [])
        elif doubled := _doubled(scope):
            told = _told("sent_twice", f"The header {doubled} was sent more than once: send it once.", param=doubled)
            await _answer(send, 400, told, [])
            if scope["method"] == "POST":
                await _run(self._notes, _note, scope["path"], headers, 400, told)
        elif scope["type"] != "http" or not (
            headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        ):
            await self._take_turn(scope, headers, receive, send)
        else:
            with Holding(self._webhooks if _is_webhook(scope) else self._known) as holding:
                await self._pass_on(scope, headers, holding, receive, send)

    async def _pass_on(
        self, scope: Scope, headers: dict[bytes, bytes], holding: Holding, receive: Receive, send: Send
    ) -> None:
        try:
            body = await self._body(scope, headers, holding, receive)
        except bodies.ClientGone:
            return
        except (DatabaseError, InterfaceError):
            log.exception("a large body's caller could not be looked up")
            await _answer(send, 503, _told("database_unavailable", answers.MESSAGES["database_unavailable"]), [])
        except _Unknown:
            message = "Send a key that is known here before a body of this size."
            await _answer(send, 401, _told("authentication_required", message), [(b"www-authenticate", b"Bearer")])
        except tuple(STATUSES) as error:
            more = [(b"accept-encoding", ", ".join(bodies.PACKINGS).encode())] * isinstance(
                error, bodies.PackingUnknown
            )
            status, code = STATUSES[type(error)]
            told = _told(code, str(error))
            more += [(b"retry-after", b"5")] * (status == 429)
            await _answer(send, status, told, more)
            if scope["method"] == "POST" and status < 500:
                await _run(self._notes, _note, scope["path"], headers, status, told)
        else:
            await self._take_turn(_plain(scope, len(body)), headers, _Once(body, receive), send, size=len(body))

    async def _take_turn(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send, *, size: int = 0
    ) -> None:
        """Have Django answer, when whoever asks has its share of a processor for it."""
        if scope["type"] != "http" or _is_webhook(scope):
            await self._django(scope, receive, send)
            return
        owner = await self._counted_for(scope, headers)
        is_read, likely_s = scope["method"] in ("GET", "HEAD"), LIKELY_S + size * LIKELY_S_PER_BYTE
        try:
            async with self._turns.turn(
                owner, is_read=is_read, patience_s=settings.BODY_TIMEOUT_S, likely_s=likely_s
            ) as turn:
                took_s: list[float] = []
                try:
                    # Nothing that strangers get is made by the database while they read it.
                    made = _paced(send, turn, is_made_at_once=owner == _of_address(scope))
                    await self._django({**scope, TOOK_S: took_s}, receive, made)
                finally:
                    turn.took(sum(took_s))
        except TooManyRequests as error:
            told = _told("too_many_requests", str(error))
            await _answer(send, 429, told, [(b"retry-after", b"5")])
            if scope["method"] == "POST":
                await _run(self._notes, _note, scope["path"], headers, 429, told)

    async def _counted_for(self, scope: Scope, headers: dict[bytes, bytes]) -> Owner:
        """Whose share a request takes of. Whoever bears nothing that is known here is its address."""
        address = _of_address(scope)
        if scope["path"].startswith(HEALTH):
            # A probe waits for none of what else comes from its address.
            return Owner(f"probe of {address.name}", f"probe of {address.name}")
        try:
            return await self._known_owner(headers) or address
        except (DatabaseError, InterfaceError):
            # Django says so.
            return address

    async def _body(self, scope: Scope, headers: dict[bytes, bytes], holding: Holding, receive: Receive) -> bytes:
        is_webhook = _is_webhook(scope)
        limit = envelope.MOST_BYTES if is_webhook else settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        packing = bodies.packing_of(headers)
        if is_webhook:
            holding.owner = _of_address(scope)
        elif bodies.announced_bytes(headers, limit=limit) > ANYBODYS_BYTES:
            holding.owner = await self._owner(headers)
        parts, size = [], 0
        async for part in bodies.read(receive, limit=limit, patience_s=settings.BODY_TIMEOUT_S):
            parts.append(part)
            size += len(part)
            if size > ANYBODYS_BYTES and holding.owner is None:
                holding.owner = await self._owner(headers)
            holding.hold(size)
        body = b"".join(parts)
        if not packing:
            return body
        parts = []
        for part in bodies.slices(body, packing, limit=limit if holding.owner else ANYBODYS_BYTES):
            parts.append(part)
            size += len(part)
            holding.hold(size)
            # Others have their turn.
            await asyncio.sleep(0)
        return b"".join(parts)

    async def _owner(self, headers: dict[bytes, bytes]) -> Owner:
        """Which key's or user's a request is; raises _Unknown for a caller without a key that works, or a session."""
        if not (owner := await self._known_owner(headers)):
            raise _Unknown
        return owner

    async def _known_owner(self, headers: dict[bytes, bytes]) -> Owner | None:
        """Raises DatabaseError and InterfaceError."""
        # By both: whoever has no key in the one, as behind a proxy that signs in, is known by the other.
        borne = headers.get(b"authorization", b""), headers.get(b"cookie", b"")
        if not any(borne):
            return None
        now_s = time.monotonic()
        until_s, owner = self._owners.get(borne, (0.0, None))
        if owner is not None and until_s > now_s:
            return owner
        if (owner := await _run(self._lookups, _looked_up, headers)) is not None:
            if len(self._owners) >= MOST_KNOWN:
                self._owners.clear()
            self._owners[borne] = now_s + KNOWN_S, owner
        return owner


def _paced(send: Send, turn: RequestTurn, *, is_made_at_once: bool) -> Send:
    """What is made while it is sent counts as it is made, and the rest of it waits for its share.

    Once all is made its place is free: however slowly it is read, others of the same key or address have theirs.
    """
    sent_s = 0.0

    async def paced(message: Message) -> None:
        nonlocal sent_s
        if sent_s and message.get("more_body"):
            turn.took(time.monotonic() - sent_s)
            await turn.wait()
        if is_made_at_once or (message["type"] == "http.response.body" and not message.get("more_body")):
            await turn.leave_place()
        await send(message)
        sent_s = time.monotonic()

    return paced


async def _run(threads: ThreadPoolExecutor, do: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, do, *arguments)


def _doubled(scope: Scope) -> str:
    """A header of the API that came more than once and says something once or not at all; "" where there is none.

    Django would join its values, to a name that no budget knows.
    """
    if scope["type"] != "http" or not scope["path"].startswith(API):
        return ""
    names = [name for name, _ in scope["headers"] if name in ONCE]
    return next((name.decode() for name in names if names.count(name) > 1), "")


def _is_webhook(scope: Scope) -> bool:
    return bool(scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/") == WEBHOOK)


def _of_address(scope: Scope) -> Owner:
    client = scope.get("client")
    whose = f"address {addresses.counted(client[0] if client else '', bits=addresses.SITE_BITS)}"
    return Owner(whose, whose)


def _escapes(scope: Scope) -> int:
    return sum(value.count(b"\\") for name, value in scope["headers"] if name == b"cookie")


def _looked_up(headers: dict[bytes, bytes]) -> Owner | None:
    """Outside of Django's requests, at whose ends the connection is given back."""
    try:
        return _key_or_user(headers)
    finally:
        database.give_back()


def _key_or_user(headers: dict[bytes, bytes]) -> Owner | None:
    if key := authentication.key_of(headers.get(b"authorization", b"").decode("latin-1")):
        whose = f"key {key.pk}"
        return Owner(whose, f"tenant {key.tenant_id}" if key.tenant_id else whose)
    if not (session := _session_of(headers.get(b"cookie", b"").decode("latin-1"))):
        return None
    user = import_module(settings.SESSION_ENGINE).SessionStore(session).get(SESSION_KEY)
    return Owner(f"user {user}", f"user {user}") if user else None


def _session_of(cookies: str) -> str:
    """The key of a session, as Django will read it: of the last cookie of that name. The others may be thousands."""
    named = re.findall(rf"(?:^|;)\s*{re.escape(settings.SESSION_COOKIE_NAME)}\s*=([^;]*)", cookies)
    return named[-1].strip().strip('"') if named else ""


def _note(path: str, headers: dict[bytes, bytes], status: int, told: dict[str, Any]) -> None:
    try:
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        refusing.note_unread(path, authorization, status=status, error=told["error"])
    finally:
        database.give_back()


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


def _told(code: str, message: str, *, param: str | None = None) -> dict[str, Any]:
    return answers.envelope(code, message, param, str(uuids.uuid7()))


async def _answer(send: Send, status: int, told: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> None:
    request_id = told["error"]["request_id"].encode()
    data = orjson.dumps(told)
    # What is left of the body is not waited for.
    about = [(b"content-type", b"application/json"), (b"connection", b"close"), (b"x-request-id", request_id)]
    about += [(b"content-length", str(len(data)).encode()), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": status, "headers": [*about, *headers]})
    await send({"type": "http.response.body", "body": data})
