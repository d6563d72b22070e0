"""Fixtures of the billing tests: a frozen clock is `now` itself, which all domain calls take."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from billing import dispatch
from billing.inbox import envelope, store
from billing.sandbox import SimulatedStripe
from billing.stripe_api import client
from governance.models import Budget, BudgetWindow, Tenant
from tests import factories
from tests.billing.events import START, standard_plans
from tests.billing.sandbox.conftest import START as SHOP_OPENS
from tests.billing.sandbox.conftest import Shop
from tests.billing.signing import PATH, SECRET, signed_headers
from tests.fakes.simulated_stripe import answering

Deliver = Callable[..., None]


@pytest.fixture(autouse=True)
def _settings(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET]
    settings.STRIPE_SECRET_KEY = ""
    # Nobody waits for Stripe's rate limit in a test.
    monkeypatch.setattr(client, "sleep", lambda seconds: None)


@pytest.fixture
def trusting(settings: Any) -> None:
    """A rise counts whole at once, so that a change of plan alone shows."""
    settings.STRIPE_UPGRADE = "whole"


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the view hands to the workers, in place of a broker."""
    found: list[str] = []
    monkeypatch.setattr(dispatch, "soon", found.append)
    return found


@pytest.fixture
def tenant(db: None) -> Tenant:
    standard_plans()
    return factories.tenant("acme")


@pytest.fixture
def shop(tenant: Tenant, settings: Any) -> Iterator[Shop]:
    """A simulated Stripe that the product asks, and what sells there."""
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    with answering(SimulatedStripe(now=int(SHOP_OPENS.timestamp()), seed="shop")) as account:
        yield Shop(account)


@pytest.fixture
def deliver(db: None) -> Deliver:
    """Store events and handle each at once, as a worker would."""

    def run(*events: dict[str, Any] | Iterable[dict[str, Any]], now: datetime = START) -> None:
        for item in events:
            for event in [item] if isinstance(item, dict) else item:
                store.store(envelope.parse(json.dumps(event)), now=now)
                store.process(event["id"], now=now)

    return run


@pytest.fixture
def post(client: Client) -> Callable[..., Any]:
    """Post a body to the webhook, signed now with the current secret unless said otherwise."""

    def run(body: Any, *, secret: str = SECRET, at: int | None = None, **headers: str) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        signed = signed_headers(raw, secret, int(time.time()) if at is None else at) | headers
        return client.generic("POST", PATH, raw, content_type="application/json", headers=signed)

    return run


def window_of(slug: str = "acme") -> BudgetWindow:
    """The tenant's open window of its billing cycle."""
    return BudgetWindow.objects.get(budget__tenant__slug=slug, closed_at=None, budget__window="billing_cycle")


def budget_of(slug: str = "acme") -> Budget:
    return Budget.objects.get(tenant__slug=slug, window="billing_cycle")
