"""The demo's customers at the simulated Stripe: who pays for which tenant, and how that went so far."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from billing.sandbox import SimulatedStripe, StateUnreadable
from config import demo, story
from governance.actions import tenancy
from governance.models import BudgetWindow, Tenant

DAY_S = 86_400
# Before the first of them signed up.
SINCE = timedelta(days=75)
GOOD_CARD, FAILING_CARD = "pm_card_visa", "pm_card_chargeCustomerFail"
TOPUP, STANDARD, PREMIUM, SMALL = "topup_20", "standard", "premium", "small"
# The budget of a week, renewed with it: the metadata says both.
A_WEEK = {"llm_budget_usd": "5", "llm_budget_period": "billing"}
# lookup key -> name, cents, metadata of the price
PRICES: dict[str, tuple[str, int, dict[str, str]]] = {
    STANDARD: ("Standard", 12_000, {}),
    PREMIUM: ("Premium", 39_000, {}),
    # Less than its customer costs: the one that is lost on.
    SMALL: ("Small", 700, {"llm_budget_usd": "15"}),
    TOPUP: ("Top-up of $20", 2_000, {"llm_topup_usd": "20"}),
    story.PRICE: ("Weekly", 600, A_WEEK),
}
# One whose renewal was not paid. It has no calls of its own.
LATE, LATE_NAME, LATE_DAYS = "hooli", "Hooli Search", 3
# One whose customer names a tenant with budgets of its own: an operator decides.
CLAIMING, CLAIMING_DAYS = "initech", 5


def prepare(path: Path, *, url: str, secret: str, events: Sequence[str], now: datetime) -> str:
    """Make the account where there is none, with its webhooks on their way to `url`; the id of the top-up's price."""
    try:
        account = SimulatedStripe(now=_second(now - SINCE), seed=secrets.token_hex(3), path=path)
    except StateUnreadable:
        # Of another version: the demo's own file, which nothing else depends on.
        path.unlink()
        account = SimulatedStripe(now=_second(now - SINCE), seed=secrets.token_hex(3), path=path)
    account.send_webhooks(url, secret=secret, events=events)
    if not path.exists():
        _play(account, now)
    account.save()
    (price,) = account.call("GET", "/v1/prices", {"lookup_keys": [TOPUP]})["data"]
    return str(price["id"])


def _play(account: SimulatedStripe, now: datetime) -> None:
    """What customers did up to now, in its order."""
    prices = {key: _price(account, key) for key in PRICES}
    acts: list[tuple[int, Callable[[], Any]]] = []
    for slug, key in (("acme", STANDARD), ("globex", SMALL)):
        acts.append(_sign_up(account, slug, prices[key], renewed=_renewed(slug, now)))
    late = _second(now - timedelta(days=LATE_DAYS))
    _tenant(LATE, LATE_NAME, now)
    acts.append(_sign_up(account, LATE, prices[STANDARD], renewed=late))
    acts.append((late - DAY_S, lambda: _give_card(account, LATE, FAILING_CARD)))
    began = _second(now - timedelta(days=CLAIMING_DAYS))
    acts.append((began, lambda: _subscribe(account, CLAIMING, prices[STANDARD])))
    for at, act in sorted(acts, key=lambda one: one[0]):
        account.advance(to=at)
        act()
    account.advance(to=_second(now))


def _price(account: SimulatedStripe, key: str) -> str:
    name, cents, metadata = PRICES[key]
    product = account.call("POST", "/v1/products", {"name": name})
    interval = "week" if key == story.PRICE else "month"
    recurring = {} if key == TOPUP else {"recurring": {"interval": interval}}
    wanted = {"product": product["id"], "currency": "usd", "unit_amount": cents, "lookup_key": key}
    return str(account.call("POST", "/v1/prices", {**wanted, "metadata": metadata, **recurring})["id"])


def _sign_up(account: SimulatedStripe, slug: str, price: str, *, renewed: int) -> tuple[int, Callable[[], Any]]:
    """A sign-up four weeks before a renewal, which the billing day was set to."""
    return renewed - 28 * DAY_S, lambda: _subscribe(account, slug, price, billing_cycle_anchor=renewed)


def _subscribe(account: SimulatedStripe, slug: str, price: str, **more: Any) -> None:
    metadata = {"tenant_id": slug}
    about = {"name": slug.title(), "email": f"billing@{slug}.example", "metadata": metadata}
    made = account.add_customer(demo.customer_of(slug), payment_method=GOOD_CARD, **about)
    wanted = {"customer": made["id"], "items": [{"price": price}], "metadata": metadata}
    account.call("POST", "/v1/subscriptions", {**wanted, **more})


def _give_card(account: SimulatedStripe, slug: str, card: str) -> None:
    settings = {"default_payment_method": card}
    account.call("POST", f"/v1/customers/{demo.customer_of(slug)}", {"invoice_settings": settings})


def _renewed(slug: str, now: datetime) -> int:
    """When the period began that the demo's history shows as paid."""
    window = BudgetWindow.objects.filter(source_id=demo.customer_of(slug), closed_at=None).first()
    return _second(window.starts_at if window else now - timedelta(days=14))


def _tenant(slug: str, name: str, now: datetime) -> None:
    if not Tenant.objects.filter(slug=slug).exists():
        tenancy.create_tenant(slug=slug, name=name, by=demo.BY, now=now)


def _second(at: datetime) -> int:
    return int(at.timestamp())
