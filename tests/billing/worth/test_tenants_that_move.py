"""A tenant that another customer pays for by now, or the same one again: what was used is counted once, and what is
paid for afterwards is there, in whatever order all of that is heard of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from billing.accounts import binding, sync
from billing.inbox import catch_up
from billing.models import BillingAccount
from governance.audit import Actor
from governance.models import Tenant
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear, lose
from tests.billing.worth.test_held_up import at
from tests.billing.worth.test_simulated import read, spend

USD = 10**9
OPERATOR = Actor("operator")


def account_of(customer: str) -> BillingAccount:
    return BillingAccount.objects.get(stripe_customer_id=customer)


def move(shop: Shop, customer: str, *, to: str | None) -> None:
    tenant = Tenant.objects.get(slug=to) if to else None
    binding.bind(account=account_of(customer), tenant=tenant, by=OPERATOR, now=at(shop))
    sync.customer(customer, now=at(shop))


@pytest.mark.parametrize("used", [0, 50])
def test_a_period_that_began_before_the_former_customers_last_is_whole(shop: Shop, used: int) -> None:
    old, price = shop.customer(metadata={"tenant_id": "acme"}), shop.price(5000, lookup_key="standard")
    shop.account.advance(by=9 * DAY)
    sub = shop.subscribe(old, price)["id"]
    hear(shop)
    shop.account.advance(by=26 * DAY)
    new = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(new, price)
    hear(shop)
    assert account_of(new).reasons == ["tenant_taken:acme"]
    # The old one renews, and is cancelled.
    shop.account.advance(by=5 * DAY + 9000)
    hear(shop)
    assert not used or spend(shop, old, at_most=used) == used
    shop.account.advance(by=DAY)
    shop.delete(f"subscriptions/{sub}")
    hear(shop)
    sync.due(now=at(shop))

    assert spend(shop, new) == 50
    assert read(shop, new) == ("active", 0)
    # And its next month.
    shop.account.advance(by=31 * DAY)
    assert spend(shop, new) == 50


def test_what_was_used_before_a_tenant_was_moved_away_and_back_stays_used(shop: Shop) -> None:
    old, new = shop.customer(metadata={"tenant_id": "acme"}), shop.customer()
    shop.subscribe(old, shop.price(5000, lookup_key="standard"))
    hear(shop)
    assert spend(shop, old, at_most=40) == 40
    shop.account.advance(by=2 * DAY)
    sub = shop.subscribe(new, shop.price(1000, metadata={"llm_budget_usd": "10"}))["id"]
    hear(shop)
    move(shop, old, to=None)
    move(shop, new, to="acme")
    assert spend(shop, new) == 10
    shop.account.advance(by=2 * DAY)
    shop.delete(f"subscriptions/{sub}")
    hear(shop)
    move(shop, old, to="acme")

    assert spend(shop, old) == 10
    for _ in range(2):
        move(shop, old, to=None)
        move(shop, old, to="acme")
        assert read(shop, old) == ("active", 0)
    shop.account.advance(by=30 * DAY)
    assert spend(shop, old) == 50


def test_what_was_used_before_another_subscription_came_and_went_stays_used_for_who_is_bound_anew(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    assert spend(shop, customer) == 50
    shop.account.advance(by=10 * DAY)
    weekly = shop.price(700, "week", metadata={"llm_budget_usd": "7", "llm_budget_period": "billing"})
    sub = shop.subscribe(customer, weekly)["id"]
    assert read(shop, customer) == ("active", 7 * USD)
    shop.account.advance(by=DAY)
    shop.delete(f"subscriptions/{sub}")
    sync.customer(customer, now=at(shop))
    move(shop, customer, to=None)
    move(shop, customer, to="acme")

    assert read(shop, customer)[1] <= 1


def test_a_plan_that_is_changed_counts_from_the_next_window_of_who_has_taken_over(shop: Shop) -> None:
    old, price = shop.customer(metadata={"tenant_id": "acme"}), shop.price(5000, metadata={"llm_budget_usd": "50"})
    shop.account.advance(by=2 * DAY)
    sub = shop.subscribe(old, shop.price(5000, lookup_key="standard"))["id"]
    new = shop.customer()
    shop.subscribe(new, price)
    hear(shop)
    shop.account.advance(by=DAY)
    shop.post(f"subscriptions/{sub}", billing_cycle_anchor={"type": "now"}, proration_behavior="none")
    hear(shop)
    shop.delete(f"subscriptions/{sub}")
    hear(shop)
    move(shop, new, to="acme")
    assert read(shop, new) == ("active", 50 * USD)

    shop.post(f"prices/{price}", metadata={"llm_budget_usd": "5"})
    hear(shop)
    assert read(shop, new) == ("active", 50 * USD)
    shop.account.advance(by=31 * DAY)
    assert read(shop, new) == ("active", 5 * USD)


def refund(shop: Shop, charge: str) -> None:
    shop.post("refunds", charge=charge)


def succeeded(shop: Shop) -> tuple[str, str]:
    """A customer that used up what it paid for and left, and the one that has its tenant since the day after."""
    old, price = shop.customer(metadata={"tenant_id": "acme"}), shop.price(5000, lookup_key="standard")
    sub = shop.subscribe(old, price)["id"]
    hear(shop)
    assert spend(shop, old) == 50
    shop.delete(f"subscriptions/{sub}")
    hear(shop)
    shop.account.advance(by=DAY)
    new = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(new, price)
    hear(shop)
    return old, new


@pytest.mark.parametrize("is_heard_of_last", [True, False])
@pytest.mark.parametrize(("goes_back", "left"), [(lose, 0), (refund, 50)])
def test_what_becomes_of_a_former_customers_payment_counts_for_the_one_that_came_after_it(
    shop: Shop, goes_back: Callable[[Shop, str], None], left: int, is_heard_of_last: bool
) -> None:
    old, new = succeeded(shop)
    charge = shop.all("charges", customer=old)[0]["id"]

    acts = [lambda: goes_back(shop, charge), lambda: shop.post(f"customers/{new}", name="Acme")]
    for act in acts if not is_heard_of_last else reversed(acts):
        shop.account.advance(by=60)
        act()
        hear(shop)
    sync.due(now=at(shop))

    assert window_of().remaining_nanos // USD == left
    assert catch_up.reconcile(now=at(shop) + timedelta(minutes=1)).figures["differed"] == 0


def test_a_run_over_all_customers_brings_the_one_that_came_after_what_no_event_told(shop: Shop) -> None:
    old, new = succeeded(shop)
    lose(shop, shop.all("charges", customer=old)[0]["id"])

    for minute in range(3):
        done = catch_up.reconcile(now=at(shop) + timedelta(minutes=minute))
        sync.due(now=at(shop) + timedelta(minutes=minute))

    assert done.figures["differed"] == 0
    assert account_of(new).reasons == ["owed:50.00"]
