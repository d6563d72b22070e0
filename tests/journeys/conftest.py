"""A tenant on a paid plan, as it is after checkout: bound to its Stripe customer, with its first period paid."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from billing.inbox import store
from tests.billing import events, signing
from tests.product import Product


@dataclass
class Stripe:
    """Sends signed webhooks to the running product, and lets its worker's job run."""

    product: Product

    def deliver(self, event: dict[str, Any], *, now: datetime | None = None) -> httpx.Response:
        body = json.dumps(event).encode()
        headers = signing.signed_headers(body, signing.SECRET, int(time.time()))
        response = httpx.post(self.product.url + signing.PATH, content=body, headers=headers, timeout=30)
        store.process(event["id"], now=now or timezone.now())
        return response


@pytest.fixture
def stripe(product: Product) -> Stripe:
    events.standard_plans()
    return Stripe(product)


@dataclass(frozen=True)
class Period:
    starts_at: datetime
    ends_at: datetime

    @property
    def next(self) -> Period:
        return Period(self.ends_at, self.ends_at + (self.ends_at - self.starts_at))


@pytest.fixture
def period() -> Period:
    """A month that has just ended: its renewal is on its way."""
    ends_at = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)
    return Period(ends_at - timedelta(days=30), ends_at)


@pytest.fixture
def requests_to(product: Product, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """How many requests for a path have arrived at the gateway."""
    from llm.gateway.application import GatewayApplication

    paths: Counter[str] = Counter()
    route = GatewayApplication._route

    async def counted(self: GatewayApplication, exchange: Any) -> None:
        paths[exchange.path] += 1
        await route(self, exchange)

    monkeypatch.setattr(GatewayApplication, "_route", counted)
    return lambda path: paths[path]
