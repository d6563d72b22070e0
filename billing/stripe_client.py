"""Stripe's API as this product uses it: bounded in time, retried where that helps, its failures told apart.

Called by Celery tasks and commands only, never within a database transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import stripe
from django.conf import settings

CONNECT_TIMEOUT_S = 3.05
READ_TIMEOUT_S = 10
NETWORK_RETRIES = 2
PAGE = 100
# Invoices older than this many say nothing about the current period of a customer.
MOST_INVOICES = 200

Fetched = Mapping[str, Any]


class StripeError(Exception):
    """Stripe did not do what was asked."""


class StripeUnavailable(StripeError):
    """Worth trying again later: a timeout, 429, 5xx, or a key that does not work and that an operator will mend."""


class StripeRefused(StripeError):
    """Final: the same request will be refused again."""


@dataclass(frozen=True, slots=True)
class CustomerPicture:
    """All that a customer's entitlement follows from, as Stripe has it now."""

    customer: Fetched
    subscriptions: tuple[Fetched, ...]
    invoices: tuple[Fetched, ...]


def is_configured() -> bool:
    return bool(settings.STRIPE_SECRET_KEY)


def is_live() -> bool | None:
    """Whether the key is a live one; None without a key."""
    if not is_configured():
        return None
    return settings.STRIPE_SECRET_KEY.startswith(("sk_live_", "rk_live_"))


def customer_picture(customer_id: str) -> CustomerPicture:
    """The customer with its subscriptions and newest invoices. Raises StripeUnavailable, StripeRefused.

    A customer deleted at Stripe has `deleted` set and nothing else.
    """
    client = _client()
    with _failures():
        customer = client.v1.customers.retrieve(customer_id).to_dict(for_json=True)
        if customer.get("deleted"):
            return CustomerPicture(customer, (), ())
        subscriptions = client.v1.subscriptions.list({"customer": customer_id, "status": "all", "limit": PAGE})
        invoices = client.v1.invoices.list({"customer": customer_id, "status": "paid", "limit": PAGE})
        return CustomerPicture(customer, tuple(_all(subscriptions)), tuple(_all(invoices, at_most=MOST_INVOICES)))


def product(product_id: str) -> Fetched:
    """A product, for its metadata. Raises StripeUnavailable, StripeRefused."""
    client = _client()
    with _failures():
        return client.v1.products.retrieve(product_id).to_dict(for_json=True)


def _all(listed: stripe.ListObject[Any], *, at_most: int | None = None) -> Iterator[Fetched]:
    for count, item in enumerate(listed.auto_paging_iter()):
        if at_most is not None and count >= at_most:
            return
        yield item.to_dict(for_json=True)


def _client() -> stripe.StripeClient:
    # Not kept between calls: its session must not be shared between threads or forked processes.
    return stripe.StripeClient(
        settings.STRIPE_SECRET_KEY,
        max_network_retries=NETWORK_RETRIES,
        base_addresses={"api": settings.STRIPE_API_BASE},
        http_client=stripe.RequestsClient(timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)),
    )


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (
        stripe.APIConnectionError,
        stripe.RateLimitError,
        stripe.AuthenticationError,
        stripe.PermissionError,
    ) as error:
        raise StripeUnavailable(_told(error)) from error
    except stripe.StripeError as error:
        status = error.http_status or 500
        kind = StripeUnavailable if status >= 500 or status in (408, 409, 429) else StripeRefused
        raise kind(_told(error)) from error


def _told(error: stripe.StripeError) -> str:
    return f"{type(error).__name__} {error.http_status or ''}: {error.user_message or error}"[:500]
