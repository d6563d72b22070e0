"""What a customer owes, and has used of a period, goes with it to another tenant, as its credit does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from billing.accounts import sync
from governance import ledger
from governance.models import BudgetWindow, Tenant
from governance.rules import money
from tests import factories
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_spent_once import cash, flat, top_up
from tests.billing.worth.test_tenants_that_move import account_of, move


def hear(shop: Shop) -> None:
    now = datetime.fromtimestamp(shop.account.now, UTC)
    for customer in shop.all("customers"):
        sync.customer(customer["id"], now=now)
    sync.due(now=now)


def spend(shop: Shop, slug: str) -> int:
    """Spend what a tenant has; whole dollars."""
    hear(shop)
    tenant, now = Tenant.objects.get(slug=slug), datetime.fromtimestamp(shop.account.now, UTC)
    window = BudgetWindow.objects.filter(budget__tenant=tenant, closed_at=None, budget__window="billing_cycle").first()
    if window is None or tenant.status != Tenant.Status.ACTIVE or window.remaining_nanos <= 1:
        return 0
    dollars = money.format_dollars(window.remaining_nanos)
    hold = factories.reserving(dollars, by=factories.caller(tenant))
    assert ledger.reserve(hold, now=now).allowed
    ledger.settle(factories.settling(hold.reservation_id, dollars), now=now)
    return round(float(dollars))


def left_with_credit(shop: Shop, *, tens: int = 0) -> str:
    """A customer that used what it paid for, left acme, and has most of it as credit, or that many tens of it as a
    top-up; another has the tenant since."""
    factories.tenant("globex")
    old, new = shop.customer(metadata={"tenant_id": "acme"}), shop.customer()
    sub = shop.subscribe(old, flat(shop, 1000))["id"]
    assert spend(shop, "acme") == 1000
    shop.account.advance(by=3607)
    shop.delete(f"subscriptions/{sub}", prorate=True, invoice_now=True)
    if tens:
        top_up(shop, old, tens)
    hear(shop)
    shop.subscribe(new, flat(shop, 5), metadata={"tenant_id": "acme"})
    hear(shop)
    assert account_of(new).tenant == Tenant.objects.get(slug="acme")
    return old


def test_credit_that_goes_to_another_tenant_was_used_and_the_one_that_is_left_owes_nothing(shop: Shop) -> None:
    old = left_with_credit(shop)
    # Who pays for the tenant by now has nothing of that credit, and all that it paid for.
    assert spend(shop, "acme") == 5
    shop.subscribe(old, flat(shop, 900), metadata={"tenant_id": "globex"})
    assert spend(shop, "globex") == 0
    assert (account_of(old).reasons, cash(shop)) == (["owed:900.00"], 1005)
    shop.account.advance(by=31 * DAY + 7200)
    # The next month of each, of which $99 are of the credit.
    assert (spend(shop, "acme"), spend(shop, "globex"), round(cash(shop))) == (5, 801, 1811)


def test_a_top_up_that_a_former_customers_credit_paid_for_is_held_back_for_what_that_one_owes(shop: Shop) -> None:
    left_with_credit(shop, tens=90)
    assert (spend(shop, "acme"), cash(shop)) == (5, 1005)


@pytest.mark.parametrize("to", ["globex", None])
def test_what_was_used_of_a_period_stays_used_in_the_next_tenant(shop: Shop, to: str | None) -> None:
    factories.tenant("globex")
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, flat(shop, 50))
    assert spend(shop, "acme") == 50
    shop.account.advance(by=DAY)
    move(shop, customer, to=to)
    if to is None:
        move(shop, customer, to="globex")
    assert spend(shop, "globex") == 0
    shop.account.advance(by=31 * DAY + 7200)
    assert (spend(shop, "globex"), cash(shop)) == (50, 100)
    move(shop, customer, to="acme")
    assert spend(shop, "acme") == 0
