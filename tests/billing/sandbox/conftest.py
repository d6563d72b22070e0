"""An account whose clock stands still until a test moves it, and the pinned SDK in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from billing.sandbox import SimulatedStripe
from tests.fakes.simulated_stripe import answering

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = 86_400


@dataclass
class Shop:
    """The business: what it sells, and short names for what it asks of Stripe."""

    account: SimulatedStripe

    def post(self, path: str, **params: Any) -> dict[str, Any]:
        return self.account.call("POST", f"/v1/{path}", params)

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        return self.account.call("GET", f"/v1/{path}", params)

    def all(self, path: str, **params: Any) -> list[dict[str, Any]]:
        return list(self.get(path, limit=100, **params)["data"])

    def delete(self, path: str, **params: Any) -> dict[str, Any]:
        return self.account.call("DELETE", f"/v1/{path}", params)

    def customer(self, method: str = "pm_card_visa", **params: Any) -> str:
        return str(self.post("customers", **({"payment_method": method} if method else {}), **params)["id"])

    def price(self, cents: int | None = 5000, interval: str = "month", count: int = 1, **params: Any) -> str:
        product = params.pop("product", None) or self.post("products", name="Plan")["id"]
        flat = {} if cents is None else {"unit_amount": cents}
        recurring = params.pop("recurring", {"interval": interval, "interval_count": count})
        return str(
            self.post("prices", **{"currency": "usd", "product": product, "recurring": recurring, **flat, **params})[
                "id"
            ]
        )

    def subscribe(self, customer: str, *prices: str, quantity: int | None = None, **params: Any) -> dict[str, Any]:
        items = [{"price": price, **({} if quantity is None else {"quantity": quantity})} for price in prices]
        return self.post("subscriptions", customer=customer, items=items, **params)

    def sub(self, id: str) -> dict[str, Any]:
        return self.get(f"subscriptions/{id}")

    def item(self, sub: str) -> str:
        return str(self.sub(sub)["items"]["data"][0]["id"])

    def invoices(self, customer: str) -> list[dict[str, Any]]:
        """Oldest first."""
        return list(reversed(self.all("invoices", customer=customer)))

    def told(self) -> list[str]:
        return [event["type"] for event in self.account.events]


@pytest.fixture
def account() -> SimulatedStripe:
    return SimulatedStripe(now=int(START.timestamp()), seed="test")


@pytest.fixture
def shop(account: SimulatedStripe) -> Shop:
    return Shop(account)


@pytest.fixture
def sdk(account: SimulatedStripe) -> Iterator[stripe.StripeClient]:
    """Stripe's own client, unmodified."""
    with answering(account):
        yield stripe.StripeClient("sk_test_1", max_network_retries=0, http_client=stripe.RequestsClient())
