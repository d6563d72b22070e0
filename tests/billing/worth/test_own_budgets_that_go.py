"""A tenant's own budgets that are deleted or switched off: what its customer pays for is there in the same moment."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from billing.accounts import binding, sync
from billing.models import BillingAccount
from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.models import Budget, Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_held_up import at

BY = Actor("owner")
Go = Callable[[Shop, Budget], object]


def delete(shop: Shop, budget: Budget) -> object:
    return budgets.delete(budget=budget, by=BY, now=at(shop))


def switch_off(shop: Shop, budget: Budget) -> object:
    return budgets.change(budget=budget, changes={"enabled": False}, by=BY, now=at(shop))


def own(dollars: str = "3.00", **fields: Any) -> Budget:
    return factories.budget(dollars, tenant=Tenant.objects.get(slug="acme"), **fields)


def most(shop: Shop) -> float:
    """The most dollars that a call of the tenant's may cost, of a few; nothing is asked of Stripe meanwhile."""
    fetches = sum(BillingAccount.objects.values_list("fetches", flat=True))
    found = 0.0
    for dollars in (1, 3, 5, 50, 51, 1000):
        hold = factories.reserving(str(dollars))
        if ledger.reserve(hold, now=at(shop)).allowed:
            ledger.release(factories.releasing(hold.reservation_id), now=at(shop))
            found = dollars
    assert sum(BillingAccount.objects.values_list("fetches", flat=True)) == fetches
    return found


def customer_of_standard(shop: Shop, **more: Any) -> str:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"), **more)
    hear(shop)
    return customer


@pytest.mark.parametrize("go", [delete, switch_off])
@pytest.mark.parametrize("is_used", [True, False])
@pytest.mark.parametrize("is_bound", [True, False])
def test_what_the_customer_pays_for_is_there_when_the_last_one_goes(
    shop: Shop, go: Go, is_used: bool, is_bound: bool
) -> None:
    """Whether the customer was bound before the tenant had budgets of its own, or waits for it since."""
    if is_bound:
        shop.customer(metadata={"tenant_id": "acme"})
        hear(shop)
        first, second = own(), own("5.00", window="month")
        sub_of = BillingAccount.objects.get().stripe_customer_id
        shop.subscribe(sub_of, shop.price(5000, lookup_key="standard"))
        hear(shop)
    else:
        first, second = own(), own("5.00", window="month")
        customer_of_standard(shop)
    assert (most(shop), Budget.objects.filter(window="billing_cycle").count()) == (3, 0)
    if is_used:
        ledger.record(factories.reporting("1.00"), now=at(shop))
    go(shop, first)
    assert Budget.objects.filter(window="billing_cycle").count() == 0
    go(shop, second)
    assert (most(shop), window_of().limit_nanos) == (50, factories.nanos("50"))
    assert BillingAccount.objects.get().reasons == []


@pytest.mark.parametrize("go", [delete, switch_off])
def test_one_that_has_not_paid_yet_leaves_nothing(shop: Shop, go: Go) -> None:
    budget = own()
    customer_of_standard(shop, payment_behavior="default_incomplete")
    go(shop, budget)
    assert most(shop) == 0


def test_one_that_an_operator_has_accepted_and_that_has_not_paid_leaves_nothing(shop: Shop) -> None:
    budget = own()
    customer_of_standard(shop, payment_behavior="default_incomplete")
    binding.accept(account=BillingAccount.objects.get(), by=BY, now=at(shop))
    sync.customer(BillingAccount.objects.get().stripe_customer_id, now=at(shop))
    delete(shop, budget)
    assert most(shop) == 0


def test_without_a_customer_the_platforms_default_is_there(shop: Shop, settings: Any) -> None:
    settings.DEFAULT_DAILY_BUDGET = Decimal(5)
    budgets.sync_default(now=at(shop))
    budget = own("3.00")
    assert most(shop) == 3
    delete(shop, budget)
    assert most(shop) == 5


def test_another_tenants_goes_as_before_and_so_does_one_of_an_agent(shop: Shop) -> None:
    own()
    customer_of_standard(shop)
    other = factories.budget("1.00", tenant=factories.tenant("other"))
    agent = own("2.00", scope_type="agent", scope_key="*")
    for budget in (other, agent):
        assert budgets.delete(budget=budget, by=BY, now=at(shop))
    assert Budget.objects.filter(window="billing_cycle").count() == 0
    assert BillingAccount.objects.get().tenant is None


def test_a_customer_that_cannot_be_computed_keeps_the_budget(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = own()
    customer_of_standard(shop)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no answer")

    monkeypatch.setattr(sync.mirror, "facts", fail)
    with pytest.raises(RuntimeError):
        delete(shop, budget)
    assert most(shop) == 3


def test_it_goes_on_as_any_other_afterwards(shop: Shop) -> None:
    budget = own()
    customer = customer_of_standard(shop)
    delete(shop, budget)
    window = window_of()
    sync.customer(customer, now=at(shop))
    assert window_of() == window
    shop.account.advance(by=32 * DAY)
    hear(shop)
    assert window_of().starts_at > window.starts_at


def test_a_budget_of_stripes_that_an_operator_switched_off_stays_so_and_stops_no_sync(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    first = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    hear(shop)
    switch_off(shop, Budget.objects.get(window="billing_cycle"))
    shop.delete(f"subscriptions/{first}")
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    price = shop.price(5000, lookup_key="standard", transfer_lookup_key=True)
    shop.subscribe(customer, price, payment_behavior="default_incomplete")
    assert sync.customer(customer, now=at(shop)).state == "pending"
    assert not Budget.objects.get(window="billing_cycle").enabled
