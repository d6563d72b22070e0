"""The simulated Stripe in the place of the real one, for this process: what is sent to its hosts is answered by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import responses

from billing.sandbox import SimulatedStripe

HOSTS = re.compile(r"https://(api|meter-events)\.stripe\.com/.*")


@contextmanager
def answering(account: SimulatedStripe) -> Iterator[SimulatedStripe]:
    """`account` in the place of Stripe's API."""

    def callback(request: Any) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(request.url)
        body = request.body or b""
        headers = {name.lower(): str(value) for name, value in request.headers.items()}
        reply = account.reply(
            request.method, parts.path, parts.query, headers, body if isinstance(body, bytes) else body.encode()
        )
        return reply.status, {name.decode(): value.decode() for name, value in reply.headers}, reply.body

    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for method in ("GET", "POST", "DELETE"):
            mock.add_callback(method, HOSTS, callback)
        yield account
