"""Customers of the simulated Stripe who spend whatever they can, and change, leave, stop paying and buy more as they
like: of what was paid in cash each cent is spent once, and all of it by whoever pays and never leaves.

Prices cost what they are worth, and no policy gives credit. STRIPE_SPENDERS tries so many of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from billing.accounts import sync
from billing.sandbox import SimulatedStripe, StripeRefusal
from governance import ledger
from governance.models import BudgetWindow, Tenant
from governance.rules import money
from tests import factories
from tests.billing.sandbox.conftest import DAY, START, Shop
from tests.fakes.simulated_stripe import answering

pytestmark = pytest.mark.django_db

SEEDS = range(int(os.environ.get("STRIPE_SPENDERS", "4")))
STEPS = 25
# Stripe rounds each line to a cent.
ROUNDING = 30
NANOS = 10_000_000
BEHAVIOURS = ("create_prorations", "always_invoice", "none")
CARDS = ("pm_card_visa", "pm_card_visa", "pm_card_chargeCustomerFail")


@pytest.fixture(autouse=True)
def _no_credit(settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    settings.STRIPE_PROVISIONAL_PERCENT = settings.STRIPE_TRIAL_PERCENT = settings.STRIPE_CREDIT_PERCENT = 0
    settings.STRIPE_PAUSED_COLLECTION = "suspended"


class Spender:
    def __init__(self, shop: Shop, seed: int) -> None:
        self.shop, self.random, self.spent, self.log = shop, Random(seed), 0, list[str]()
        self.customer = shop.customer(metadata={"tenant_id": factories.tenant().slug})
        said = [("month", 20, {}), ("month", 200, {}), ("month", 1, {"llm_budget_per_unit": "true"})]
        said += [("year", 120, {"llm_budget_period": "billing"})]
        self.prices = [
            shop.price(dollars * 100, interval, metadata={"llm_budget_usd": str(dollars), **more})
            for interval, dollars, more in said
        ]
        product = shop.post("products", name="More")["id"]
        more = shop.post("prices", currency="usd", product=product, unit_amount=1000, metadata={"llm_topup_usd": "10"})
        self.topup = more["id"]

    def attempt(self, path: str, method: str = "post", **params: Any) -> dict[str, Any]:
        """What the API answers; what it refuses has changed nothing."""
        self.log.append(f"{datetime.fromtimestamp(self.shop.account.now, UTC)} {method} {path} {params}")
        try:
            return dict(getattr(self.shop, method)(path, **params))
        except StripeRefusal:
            return {}

    @property
    def subs(self) -> list[dict[str, Any]]:
        known = self.shop.all("subscriptions", customer=self.customer)
        return [one for one in known if one["status"] not in ("canceled", "incomplete_expired")]

    def item(self, price: str) -> dict[str, Any]:
        return {"price": price, "quantity": self.random.choice([1, 50]) if price == self.prices[2] else 1}

    def subscribe(self) -> None:
        if len(self.subs) < 3:
            items = [self.item(price) for price in self.random.sample(self.prices, self.random.choice([1, 2]))]
            self.attempt("subscriptions", customer=self.customer, items=items, billing_mode={"type": "flexible"})

    def try_out(self) -> None:
        """A trial gives nothing here; what of the customer's it lets go of would be spent."""
        if len(self.subs) < 3:
            items = [{"price": self.random.choice(self.prices)}]
            days = self.random.choice([1, 7])
            self.attempt("subscriptions", customer=self.customer, items=items, trial_period_days=days)

    def buy(self) -> None:
        invoice = self.attempt("invoices", customer=self.customer)["id"]
        quantity = self.random.choice([1, 5])
        self.attempt(
            "invoiceitems", customer=self.customer, invoice=invoice, pricing={"price": self.topup}, quantity=quantity
        )
        self.attempt(f"invoices/{invoice}/finalize")
        self.attempt(f"invoices/{invoice}/pay")

    def change(self, sub: dict[str, Any]) -> None:
        item = {"id": self.random.choice(sub["items"]["data"])["id"], **self.item(self.random.choice(self.prices))}
        self.attempt(f"subscriptions/{sub['id']}", items=[item], proration_behavior=self.random.choice(BEHAVIOURS))

    def add(self, sub: dict[str, Any]) -> None:
        item = self.item(self.random.choice(self.prices))
        self.attempt(f"subscriptions/{sub['id']}", items=[item], proration_behavior=self.random.choice(BEHAVIOURS))

    def remove(self, sub: dict[str, Any]) -> None:
        item = {"id": self.random.choice(sub["items"]["data"])["id"], "deleted": True}
        self.attempt(f"subscriptions/{sub['id']}", items=[item], proration_behavior=self.random.choice(BEHAVIOURS))

    def pause(self, sub: dict[str, Any]) -> None:
        self.attempt(f"subscriptions/{sub['id']}", pause_collection=self.random.choice([{"behavior": "void"}, ""]))

    def leave(self, sub: dict[str, Any]) -> None:
        prorate = self.random.choice([True, False])
        self.attempt(f"subscriptions/{sub['id']}", "delete", prorate=prorate, invoice_now=prorate)

    def use_card(self, sub: dict[str, Any]) -> None:
        card = self.random.choice(CARDS)
        self.attempt(f"customers/{self.customer}", invoice_settings={"default_payment_method": card})

    def raise_seats(self, sub: dict[str, Any]) -> None:
        for one in sub["items"]["data"]:
            if one["price"]["id"] == self.prices[2]:
                item = {"id": one["id"], "quantity": one["quantity"] + 20}
                self.attempt(f"subscriptions/{sub['id']}", items=[item], proration_behavior="always_invoice")

    def wait(self) -> None:
        """Some days, in steps, so that nothing ends unused."""
        until = self.shop.account.now + self.random.choice([0, 1, 10, 31]) * DAY
        while self.shop.account.now < until:
            self.shop.account.advance(to=min(until, self.shop.account.now + 2 * DAY))
            self.spend()

    def spend(self) -> None:
        now = datetime.fromtimestamp(self.shop.account.now, UTC)
        sync.customer(self.customer, now=now)
        sync.due(now=now)
        window = BudgetWindow.objects.filter(closed_at=None, budget__window="billing_cycle").first()
        left = window.remaining_nanos if window else 0
        most = (self.spent + max(0, left)) / NANOS
        assert most <= self.cash + ROUNDING, f"{most} of {self.cash}\n" + "\n".join(self.log)
        if left > 1:
            hold = factories.reserving(money.format_dollars(left), by=factories.caller(Tenant.objects.get()))
            assert ledger.reserve(hold, now=now).allowed
            ledger.settle(factories.settling(hold.reservation_id, money.format_dollars(left)), now=now)
            self.spent += left
            self.log.append(f"{now} used {left / NANOS / 100}")

    @property
    def cash(self) -> int:
        charges = self.shop.all("charges", customer=self.customer)
        return sum(one["amount"] for one in charges if one["status"] == "succeeded")


@pytest.fixture
def shop() -> Iterator[Shop]:
    account = SimulatedStripe(now=int(START.timestamp()), seed="spenders", after_last_try="unpaid")
    with answering(account):
        yield Shop(account)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("downgrade", ["now", "period_end"])
def test_no_cent_is_spent_twice(shop: Shop, settings: Any, seed: int, downgrade: str) -> None:
    settings.STRIPE_DOWNGRADE = downgrade
    one = Spender(shop, seed)
    changes = [one.change, one.change, one.change, one.add, one.remove, one.pause, one.leave, one.use_card]
    for _ in range(STEPS):
        if (subs := one.subs) and one.random.random() < 0.6:
            one.random.choice(changes)(one.random.choice(subs))
        else:
            one.random.choice([one.subscribe, one.wait, one.wait, one.buy, one.try_out])()
        one.spend()


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_pays_and_never_leaves_has_all_of_it(shop: Shop, seed: int) -> None:
    one = Spender(shop, seed)
    for _ in range(STEPS):
        if (subs := one.subs) and one.random.random() < 0.3:
            one.raise_seats(one.random.choice(subs))
        else:
            one.random.choice([one.subscribe, one.wait, one.wait, one.buy])()
        one.spend()
        if one.subs:
            assert one.spent / NANOS >= one.cash - ROUNDING, "\n".join(one.log)
