"""Customers of whom nothing comes until a person acts are not looked at each minute, and keep nobody else waiting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing.accounts import binding, sync
from billing.inbox import catch_up
from billing.models import BillingAccount
from governance import ledger
from governance.audit import Actor
from governance.models import Budget, Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_simulated import read


def at(shop: Shop) -> datetime:
    return datetime.fromtimestamp(shop.account.now, UTC)


def readings_of_ten_minutes(shop: Shop, customer: str) -> int:
    def readings() -> int:
        return BillingAccount.objects.get(stripe_customer_id=customer).fetches

    before = readings()
    for minute in range(10):
        sync.due(now=at(shop) + timedelta(minutes=minute))
    return readings() - before


def spend_some(shop: Shop, dollars: str) -> bool:
    hold = factories.reserving(dollars)
    if not ledger.reserve(hold, now=at(shop)).allowed:
        return False
    ledger.settle(factories.settling(hold.reservation_id, dollars), now=at(shop))
    return True


def stop_paying(shop: Shop, customer: str) -> None:
    shop.account.state.after_last_try = "past_due"
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    shop.account.advance(by=45 * DAY)


def cancelled_beside_own_budgets(shop: Shop, slug: str, price: str) -> str:
    customer = shop.customer(metadata={"tenant_id": slug})
    sync.customer(customer, now=at(shop))
    factories.budget("3.00", tenant=Tenant.objects.get(slug=slug))
    sub = shop.subscribe(customer, price)["id"]
    shop.delete(f"subscriptions/{sub}")
    sync.customer(customer, now=at(shop))
    return customer


def test_one_whose_tenant_has_budgets_of_its_own_waits_for_consent(shop: Shop) -> None:
    customer = cancelled_beside_own_budgets(shop, "acme", shop.price(5000, lookup_key="standard"))
    assert readings_of_ten_minutes(shop, customer) == 0


def test_one_that_claims_the_tenant_of_another_whom_an_operator_bound(shop: Shop) -> None:
    old, by, price = shop.customer(), Actor("operator"), shop.price(5000, lookup_key="standard")
    shop.subscribe(old, price)
    sync.customer(old, now=at(shop))
    account = BillingAccount.objects.get(stripe_customer_id=old)
    binding.bind(account=account, tenant=Tenant.objects.get(slug="acme"), by=by, now=at(shop))
    read(shop, old)
    stop_paying(shop, old)
    assert read(shop, old)[0] == "suspended"
    new = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(new, price)
    sync.customer(new, now=at(shop))
    assert readings_of_ten_minutes(shop, new) == 0
    # An operator's word is heard at once.
    binding.bind(account=BillingAccount.objects.get(stripe_customer_id=old), tenant=None, by=by, now=at(shop))
    assert readings_of_ten_minutes(shop, new) == 1
    assert BillingAccount.objects.get(stripe_customer_id=new).tenant == Tenant.objects.get(slug="acme")


@pytest.mark.parametrize("others", [0, 5])
def test_as_many_of_them_as_one_run_takes_keep_nobody_waiting(shop: Shop, others: int) -> None:
    price = shop.price(5000, lookup_key="standard")
    for number in range(others):
        factories.tenant(f"other-{number}")
        cancelled_beside_own_budgets(shop, f"other-{number}", price)
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, price)
    read(shop, customer)
    stop_paying(shop, customer)

    sync.due(now=at(shop), limit=5)

    assert Tenant.objects.get(slug="acme").status == Tenant.Status.SUSPENDED


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("way", ["due", "reconcile"])
def test_budgets_of_its_own_that_are_taken_away_leave_the_tenant_its_plan(shop: Shop, way: str, is_used: bool) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sync.customer(customer, now=at(shop))
    own = factories.budget("3.00", tenant=Tenant.objects.get(slug="acme"))
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    sync.customer(customer, now=at(shop))
    if is_used:
        assert spend_some(shop, "1.00")
    # Without an act of ours: an act leaves no moment for others to put right.
    Budget.objects.filter(pk=own.pk).update(enabled=False)
    assert Budget.objects.filter(enabled=True).count() == 0

    if way == "due":
        assert readings_of_ten_minutes(shop, customer) == 1
    else:
        assert catch_up.reconcile(now=at(shop) + timedelta(minutes=1)).figures["differed"] == 1

    assert window_of().remaining_nanos == 50 * 10**9
    assert catch_up.reconcile(now=at(shop) + timedelta(minutes=20)).figures["differed"] == 0


def test_one_that_has_paid_nothing_yet_is_held_back_when_its_own_budgets_are_taken_away(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail", metadata={"tenant_id": "acme"})
    sync.customer(customer, now=at(shop))
    own = factories.budget("3.00", tenant=Tenant.objects.get(slug="acme"))
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), payment_behavior="default_incomplete")
    sync.customer(customer, now=at(shop))
    Budget.objects.filter(pk=own.pk).update(enabled=False)

    assert readings_of_ten_minutes(shop, customer) == 1
    assert not spend_some(shop, "1.00")
