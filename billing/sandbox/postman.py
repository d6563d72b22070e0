"""Brings webhooks to their endpoints, signed as Stripe signs them, and again for as long as they are not taken."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time

import httpx2 as httpx
import orjson

from billing.sandbox.service import SimulatedStripe
from billing.sandbox.wire import Row

log = logging.getLogger(__name__)

PAUSE_S = 0.25
TIMEOUT_S = 10.0
# Seconds until each further try; after the last the event is left to whoever lists events.
AGAIN_S = (1, 2, 5, 15, 60, 300, 1_800, 7_200, 21_600, 43_200, 86_400)
# The state is kept so often while something happens.
SAVE_S = 2.0


def signature(body: bytes, secret: str, at: int) -> str:
    """The Stripe-Signature header of a body that is sent at a Unix second."""
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={mac}"


class Postman:
    """A thread that lets the account's time pass, delivers what is due, and keeps the state."""

    def __init__(self, account: SimulatedStripe) -> None:
        self.account = account
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulated-stripe", daemon=True)
        self._saved_at, self._saved_number = 0.0, -1

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(TIMEOUT_S + 1)
        self.account.save()

    def _run(self) -> None:
        # This machine is not asked for at a proxy.
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
            while not self._stopping.wait(PAUSE_S):
                try:
                    self.account.tick()
                    self.deliver(client)
                    self._save()
                except Exception:
                    log.exception("the simulated Stripe's clock or webhooks failed")

    def deliver(self, client: httpx.Client) -> int:
        """Send what is due, in its order; how much of it arrived."""
        arrived = 0
        for one, event, endpoint in self.account.take_outgoing(time.time()):
            if self._stopping.is_set():
                break
            ok = _send(client, event, endpoint)
            again_at = time.time() + AGAIN_S[one.tries] if one.tries < len(AGAIN_S) else None
            self.account.note_delivery(one, arrived=ok, again_at=again_at)
            arrived += ok
        return arrived

    def _save(self) -> None:
        number = self.account.state.number + len(self.account.state.outgoing)
        if number != self._saved_number and time.monotonic() >= self._saved_at + SAVE_S:
            self.account.save()
            self._saved_at, self._saved_number = time.monotonic(), number


def _send(client: httpx.Client, event: Row, endpoint: Row) -> bool:
    body = orjson.dumps(event)
    headers = {
        "content-type": "application/json; charset=utf-8",
        "user-agent": "Stripe/1.0 (simulated)",
        "stripe-signature": signature(body, endpoint["_secret"], int(time.time())),
    }
    try:
        return client.post(endpoint["url"], content=body, headers=headers).status_code < 300
    except httpx.HTTPError as error:
        log.info("webhook %s did not arrive: %s", event["id"], error)
        return False
