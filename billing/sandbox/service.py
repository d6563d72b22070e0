"""A simulated Stripe that speaks the real wire format, with a state and a clock of its own.

`SimulatedStripe().app` is a bare ASGI application; `call` asks for the same in the process. What Stripe has no API for
(a payer's click, a dispute, the account's clock) is under `/control`, with the same key.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson

from billing.sandbox import (
    checkouts,
    clocks,
    customers,
    endings,
    endpoints,
    fields,
    forms,
    hosted,
    payment_forms,
    routes,
    store,
    times,
    undoings,
    views,
    wire,
)
from billing.sandbox.books import StripeBooks
from billing.sandbox.state import Delivery, State
from billing.sandbox.wire import Row, StripeRefusal, refused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LIVE_KEYS = ("sk_live_", "rk_live_")
TEST_KEYS = ("sk_test_", "rk_test_")
# Stripe knows an Idempotency-Key for a day.
KNOWN_S = times.DAY_S
MOST_BYTES = 1 << 20
MOST_AHEAD_S = 3 * 366 * times.DAY_S


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class SimulatedStripe:
    """One account in test mode.

    `now`: where its clock stands (Unix seconds) until it is moved; with `clock`, which tells the time, it runs by
    itself. `seed` makes its ids others than those of other accounts. `path`: where the state is kept; what is there
    already is gone on with. `api_key`: the one key that is accepted (empty: any test key). Raises StateUnreadable.
    """

    def __init__(
        self,
        *,
        now: int = 0,
        clock: Callable[[], float] | None = None,
        seed: str = "",
        path: Path | None = None,
        api_key: str = "",
        base_url: str = "https://stripe.invalid",
        after_last_try: str = "cancel",
    ) -> None:
        if api_key.startswith(LIVE_KEYS):
            raise ValueError("A live key is Stripe's alone.")
        self.lock = threading.RLock()
        self.api_key, self.path, self._clock = api_key, path, clock
        if path is not None and path.exists():
            self.state = store.load(path)
        else:
            self.state = State(now=int(clock()) if clock else now, seed=seed, after_last_try=after_last_try)
        self.state.base_url = base_url
        self.state.show = views.show
        endings.connect(self.state)
        # How far the account's clock was moved ahead of the one that tells the time.
        self._ahead_s = max(0, self.state.now - int(clock())) if clock else 0

    @property
    def app(self) -> SimulatedStripe:
        """The ASGI application: the account itself, as servers tell applications by their `__call__`."""
        return self

    @property
    def now(self) -> int:
        return self.state.now

    @property
    def books(self) -> StripeBooks:
        """What was paid for, and what of it was undone."""
        return self.state.books

    @property
    def events(self) -> list[Row]:
        """All events of the last 30 days in the order in which they happened, as webhooks bring them."""
        return [as_sent(event) for event in self.state.events]

    def call(self, method: str, path: str, params: Mapping[str, Any] | None = None, **more: Any) -> Row:
        """An operation of the API, in the process. Raises StripeRefusal."""
        with self.lock:
            given = wire.texts({**(params or {}), **more})
            return self._do(method, path, given)

    def add_customer(self, id: str, **params: Any) -> Row:
        """A customer under an id of the caller's choice, as one that was moved here. Raises StripeRefusal."""
        with self.lock:
            form = fields.read(forms.CustomerForm, wire.texts(params))
            return views.show(self.state, customers.add(self.state, form, id=id))

    def tick(self) -> None:
        """Let happen what fell due since, where the account's clock runs by itself."""
        if self._clock is not None:
            with self.lock:
                clocks.run(self.state, int(self._clock()) + self._ahead_s)

    def advance(self, *, to: int = 0, by: int = 0) -> None:
        """Move the account's clock to a moment, or by so many seconds; what falls due happens in its order.

        Raises StripeRefusal: forwards alone, and no further at once than the longest interval is.
        """
        with self.lock:
            until = max(to, self.state.now + by)
            if not self.state.now <= until <= min(self.state.now + MOST_AHEAD_S, times.LATEST):
                raise refused("The clock moves forwards, by three years at most, in seconds of Unix time.", param="to")
            self._ahead_s += until - self.state.now if self._clock else 0
            clocks.run(self.state, until)

    def complete_checkout(self, id: str, *, method: str = "pm_card_visa", amount: int | None = None) -> Row:
        """The payer pays on the hosted page. Raises StripeRefusal."""
        with self.lock:
            row = self.state.get("checkout.session", id)
            return views.show(self.state, checkouts.complete(self.state, row, method=method, amount=amount))

    def dispute(self, charge: str, *, amount: int | None = None, inquiry: bool = False, prevented_by: str = "") -> Row:
        """A payer disputes a charge at its bank. Raises StripeRefusal."""
        with self.lock:
            row = self.state.get("charge", charge)
            made = undoings.dispute(self.state, row, amount=amount, inquiry=inquiry, prevented_by=prevented_by)
            return views.show(self.state, made)

    def close_dispute(self, id: str, *, won: bool) -> Row:
        """The bank decides. Raises StripeRefusal."""
        with self.lock:
            row = self.state.get("dispute", id)
            return views.show(self.state, undoings.close_dispute(self.state, row, won=won))

    def fail_refund(self, id: str) -> Row:
        """The payer's bank sends a refund back. Raises StripeRefusal."""
        with self.lock:
            row = self.state.get("refund", id)
            if row["status"] == "failed":
                raise refused("This refund has failed already.")
            undoings.fail_refund(self.state, row)
            return views.show(self.state, row)

    def send_webhooks(self, url: str, *, secret: str, events: Sequence[str]) -> None:
        """Send these types of events to an address, in place of all others. Raises StripeRefusal.

        What is on its way goes to the new address: it is the same product, which has moved.
        """
        with self.lock:
            old = [row["id"] for row in self.state.rows("webhook_endpoint")]
            for id in old:
                del self.state.tables["webhook_endpoint"][id]
            form = fields.read(payment_forms.EndpointForm, {"url": url, "enabled_events": list(events)})
            made = endpoints.add(self.state, form, secret=secret)
            made["api_version"] = wire.API_VERSION
            for one in self.state.outgoing:
                one.endpoint = made["id"] if one.endpoint in old else one.endpoint

    def take_outgoing(self, now: float) -> list[tuple[Delivery, Row, Row]]:
        """The webhooks that are due: each with its event as it is sent, and its endpoint."""
        with self.lock:
            events = {event["id"]: event for event in self.state.events}
            found = []
            for one in list(self.state.outgoing):
                endpoint = self._endpoint(one.endpoint)
                if one.event not in events or endpoint is None or endpoint["status"] != "enabled":
                    self.state.outgoing.remove(one)
                elif one.due_at <= now:
                    found.append((one, as_sent(events[one.event]), dict(endpoint)))
            return found

    def note_delivery(self, one: Delivery, *, arrived: bool, again_at: float | None) -> None:
        """What came of a webhook; without a time for the next try it is given up."""
        with self.lock:
            one.tries += 1
            if not arrived and again_at is not None:
                one.due_at = again_at
                return
            if one in self.state.outgoing:
                self.state.outgoing.remove(one)
            event = next((event for event in self.state.events if event["id"] == one.event), None)
            if arrived and event is not None and event.get("pending_webhooks"):
                event["pending_webhooks"] -= 1

    def _endpoint(self, id: str) -> Row | None:
        return self.state.find("webhook_endpoint", id) or self.state.find("v2.core.event_destination", id)

    def save(self) -> None:
        if self.path is not None:
            with self.lock:
                store.save(self.state, self.path)

    # HTTP

    def reply(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer a request; names of headers are in small letters."""
        self.tick()
        path = path.rstrip("/") or "/"
        with self.lock:
            try:
                if path == "/":
                    return _json(200, {"service": "simulated Stripe", "now": self.state.now})
                if path.startswith("/checkout/"):
                    return self._hosted(method, path.rpartition("/")[2], body)
                key = self._admit(headers, path)
                params = wire.unflatten(parse_qsl(query, keep_blank_values=True))
                params |= wire.parse(headers.get("content-type", ""), body) if body else {}
                if path.startswith("/control/"):
                    return _json(200, self._control(method, path, params))
                return self._once(method, path, params, headers.get("idempotency-key", "") if key else "")
            except StripeRefusal as refusal:
                return self._named(_json(refusal.status, refusal.body))

    def _admit(self, headers: Mapping[str, str], path: str) -> str:
        """The key that a request came with. Raises StripeRefusal; a live key gets no further than here."""
        key = headers.get("authorization", "").removeprefix("Bearer ")
        if key.startswith(LIVE_KEYS):
            raise refused("A live key must never be sent here: this is no Stripe.", status=401)
        is_stream = path == "/v2/billing/meter_event_stream" and key.startswith("token_")
        wrong = key != self.api_key if self.api_key else not key.startswith(TEST_KEYS)
        if wrong and not is_stream:
            message = f"Invalid API Key provided: {key[:8]}***" if key else "You did not provide an API key."
            raise refused(message, status=401)
        version = headers.get("stripe-version", wire.API_VERSION)
        if version != wire.API_VERSION:
            raise refused(f"Invalid Stripe API version: {version}. This one speaks {wire.API_VERSION} alone.")
        return key

    def _once(self, method: str, path: str, params: Row, key: str) -> Reply:
        """The answer; under a known Idempotency-Key the one that was given before. Raises StripeRefusal."""
        if not key or method != "POST":
            return self._named(_json(200, self._do(method, path, params)))
        digest = hashlib.sha256(orjson.dumps([method, path, params], option=orjson.OPT_SORT_KEYS)).hexdigest()
        answered = self.state.answered
        for old in [name for name, kept in answered.items() if kept[0] <= self.state.now - KNOWN_S]:
            del answered[old]
        if key in answered:
            _, known, status, body = answered[key]
            if known != digest:
                message = (
                    "Keys for idempotent requests can only be used with the same parameters they were first used with."
                )
                raise StripeRefusal(400, {"type": "idempotency_error", "message": message})
            return self._named(_json(status, body), (b"idempotent-replayed", b"true"))
        self.state.request = {"id": None, "idempotency_key": key}
        status, found = 200, {}
        try:
            found = self._do(method, path, params)
        except StripeRefusal as refusal:
            # What was refused before anything was done may be asked for again; a payment that failed was tried.
            if refusal.status != 402:
                raise
            status, found = refusal.status, refusal.body
        answered[key] = [self.state.now, digest, status, found]
        return self._named(_json(status, found))

    def _named(self, reply: Reply, *more: tuple[bytes, bytes]) -> Reply:
        self.state.number += 1
        name = f"req_{self.state.seed}{self.state.number:08d}".encode()
        headers = ((b"request-id", name), (b"stripe-version", wire.API_VERSION.encode()), *more)
        return Reply(reply.status, reply.body, reply.content_type, headers)

    def _do(self, method: str, path: str, params: Row) -> Row:
        """Raises StripeRefusal."""
        state = self.state
        state.request = {"id": f"req_{state.seed}{state.number:08d}", **_key_of(state.request)}
        try:
            if (found := routes.special(state, method, path, params)) is not None:
                return found
            operation = routes.find(method, path)
            if operation is None:
                message = f"Unrecognized request URL ({method}: {path}), or one that is not simulated."
                raise refused(message, status=404)
            return routes.answer(state, *operation, params)
        finally:
            state.request = {"id": None, "idempotency_key": None}

    def _hosted(self, method: str, id: str, body: bytes) -> Reply:
        """The page where a payer pays, and its buttons."""
        row = self.state.get("checkout.session", id)
        if method == "POST":
            form = dict(parse_qsl(body.decode(errors="replace")))
            problem = ""
            try:
                amount = hosted.amount_in(form.get("amount", ""), row["currency"])
                self.complete_checkout(id, method=form.get("method", "pm_card_visa"), amount=amount)
            except StripeRefusal as refusal:
                problem = str(refusal)
            if not problem:
                url = hosted.destination(row)
                return Reply(303, b"", headers=((b"location", url.encode()),))
            return Reply(402, hosted.page(self.state, row, problem), b"text/html; charset=utf-8")
        return Reply(200, hosted.page(self.state, row), b"text/html; charset=utf-8")

    def _control(self, method: str, path: str, params: Row) -> Row:
        """What no API of Stripe's does. Raises StripeRefusal."""
        match [method, *path.split("/")[2:]]:
            case ["POST", "clock"]:
                self.advance(to=_number(params, "to"), by=_number(params, "by"))
                return {"now": self.state.now}
            case ["GET", "books"]:
                return self.books.to_json([params["customer"]] if "customer" in params else None)
            case ["POST", "checkouts", id, "complete"]:
                method_name = str(params.get("method", "pm_card_visa"))
                amount = _number(params, "amount") if "amount" in params else None
                return self.complete_checkout(id, method=method_name, amount=amount)
            case ["POST", "disputes"]:
                amount = _number(params, "amount") if "amount" in params else None
                inquiry = params.get("inquiry") in (True, "true")
                charge, prevented_by = (str(params.get(name, "")) for name in ("charge", "prevented_by"))
                return self.dispute(charge, amount=amount, inquiry=inquiry, prevented_by=prevented_by)
            case ["POST", "disputes", id, "close"]:
                return self.close_dispute(id, won=params.get("won") in (True, "true"))
            case ["POST", "refunds", id, "fail"]:
                return self.fail_refund(id)
        raise refused(f"There is nothing at {path} to control.", status=404)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body") or len(body) > MOST_BYTES:
                break
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        reply = self.reply(scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers, body)
        length = (b"content-length", str(len(reply.body)).encode())
        start = {"type": "http.response.start", "status": reply.status}
        await send(start | {"headers": [(b"content-type", reply.content_type), length, *reply.headers]})
        await send({"type": "http.response.body", "body": reply.body})


def as_sent(event: Row) -> Row:
    """An event as a webhook brings it: a thin one without its data."""
    thin = event["object"] != "event"
    return {name: value for name, value in event.items() if not name.startswith("_") and not (thin and name == "data")}


def _key_of(request: Row) -> Row:
    return {"idempotency_key": request.get("idempotency_key")}


def _number(params: Mapping[str, Any], name: str) -> int:
    try:
        return int(params.get(name) or 0)
    except (TypeError, ValueError) as error:
        raise refused(f"Invalid integer: {params.get(name)}", param=name) from error


def _json(status: int, body: Row) -> Reply:
    return Reply(status, orjson.dumps(body))
