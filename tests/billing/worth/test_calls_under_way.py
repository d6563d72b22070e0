"""Calls that are under way when something is undone: what they hold is neither given for good nor forgotten. What was
paid for and stands is known here from what the customer bought, in dollars."""

from __future__ import annotations

import itertools
from importlib import import_module
from unittest.mock import Mock
from uuid import UUID

import pytest

from billing.accounts import binding, plans, sync, window_watch
from billing.models import BillingAccount, Plan, TopUp
from governance import ledger
from governance.actions import corrections
from governance.audit import Actor
from governance.models import BudgetWindow, SpendEntry, Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear, lose
from tests.billing.worth.test_held_up import at
from tests.billing.worth.test_undone_topups import USD, buy, subscriber, undo, use

ANN = Actor("ann")


def hold(shop: Shop, dollars: float) -> UUID:
    held = factories.reserving(f"{dollars:.2f}")
    assert ledger.reserve(held, now=at(shop)).allowed
    return held.reservation_id


def end(shop: Shop, *ids: UUID, cost: float = 0.01) -> None:
    for id in ids:
        ledger.settle(factories.settling(id, f"{cost:.2f}"), now=at(shop))


def left(shop: Shop) -> float:
    """What can be spent a minute later: Stripe is not asked, nor does it say anything."""
    sync.due(now=at(shop))
    return round(window_of().remaining_nanos / USD, 2)


def first_charge(shop: Shop) -> str:
    return str(shop.all("charges")[-1]["id"])


@pytest.mark.parametrize("how", ["refund", "dispute"])
def test_a_top_up_that_is_undone_while_a_call_holds_it_is_gone_when_that_ends(shop: Shop, how: str) -> None:
    customer = subscriber(shop)
    use(shop, 50)
    charge = buy(shop, customer)
    held = hold(shop, 20)
    buy(shop, customer)
    undo(shop, how, charge)
    assert left(shop) == 0
    end(shop, held)
    assert left(shop) == 20


@pytest.mark.parametrize(("cost", "beside"), [(0.01, 0), (5, 0), (0.01, 20), (5, 20)])
def test_a_plan_that_is_refunded_while_calls_hold_it_keeps_what_they_cost(shop: Shop, cost: float, beside: int) -> None:
    customer = subscriber(shop)
    if beside:
        buy(shop, customer, beside)
    held = [hold(shop, 5) for _ in range(10)]
    undo(shop, "refund", first_charge(shop))
    end(shop, *held, cost=cost)
    assert left(shop) == beside
    assert round(window_of().limit_nanos / USD, 2) == 10 * cost + beside
    # What they cost is forgiven with it, and nothing of the top-up was used.
    shop.account.advance(by=32 * DAY)
    hear(shop)
    assert left(shop) == 50 + beside


def test_a_plan_that_is_cancelled_while_calls_hold_it_leaves_a_top_up_alone(shop: Shop) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    held = [hold(shop, 10) for _ in range(5)]
    shop.delete(f"subscriptions/{shop.all('subscriptions')[0]['id']}")
    hear(shop)
    assert left(shop) == 0
    end(shop, *held[:2], cost=10)
    end(shop, *held[2:], cost=0.01)
    assert left(shop) == 20
    assert round(window_of().limit_nanos / USD, 2) == 20.03 + 20


def test_a_call_that_goes_on_is_waited_for(shop: Shop) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    short, long = hold(shop, 10), hold(shop, 30)
    undo(shop, "refund", first_charge(shop))
    end(shop, short, cost=10)
    assert left(shop) == 0
    end(shop, long, cost=4)
    assert left(shop) == 20
    use(shop, 20)
    assert left(shop) == 0
    assert round(window_of().limit_nanos / USD, 2) == 14 + 20


def test_what_calls_hold_beyond_the_limit_is_given_to_no_top_up_that_is_bought_meanwhile(shop: Shop) -> None:
    """Forty seats of $10, of which one was paid first; the payment of the others is lost."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    price = shop.price(1000, metadata={"llm_budget_usd": "10", "llm_budget_per_unit": "true"})
    sub = shop.subscribe(customer, price, quantity=1)["id"]
    shop.post(
        f"subscriptions/{sub}",
        items=[{"id": shop.item(sub), "quantity": 40}],
        proration_behavior="always_invoice",
    )
    hear(shop)
    held = [hold(shop, 39.6) for _ in range(10)]
    dispute = shop.account.dispute(shop.all("charges")[0]["id"])["id"]
    hear(shop)
    buy(shop, customer, 1)
    end(shop, *held)
    shop.account.close_dispute(dispute, won=False)
    hear(shop)
    assert left(shop) == 10 + 1 - 0.1
    assert round(window_of().limit_nanos / USD, 2) == 11


@pytest.mark.parametrize("order", list(itertools.permutations(["refund", "buy", "end"])))
def test_the_order_in_which_things_happen_meanwhile_is_the_same(shop: Shop, order: tuple[str, ...]) -> None:
    customer = subscriber(shop)
    use(shop, 50)
    charge, _ = buy(shop, customer), buy(shop, customer, 10)
    held = hold(shop, 20)
    for act in order:
        if act == "refund":
            undo(shop, "refund", charge)
        elif act == "buy":
            buy(shop, customer)
        else:
            end(shop, held)
    # The call's cent is the refunded one's, if that was not undone before; else it is of what stands.
    assert left(shop) in (30, 29.99)


def test_a_call_that_holds_a_top_up_over_the_renewal_gives_it_back_when_it_ends(shop: Shop) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    use(shop, 5)
    held = hold(shop, 60)
    shop.account.advance(by=32 * DAY)
    hear(shop)
    assert left(shop) == 55
    end(shop, held)
    assert left(shop) == 70


@pytest.mark.parametrize(("cost", "used"), [(0.01, 0), (15, 6), (29, 20)])
def test_what_a_call_holds_when_a_subscription_begins_is_used_of_a_top_up_as_far_as_it_is(
    shop: Shop, cost: float, used: int
) -> None:
    tenant = Tenant.objects.get()
    factories.budget("10.00", tenant=tenant, window="month")
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sync.customer(customer, now=at(shop))
    binding.bind(account=BillingAccount.objects.get(), tenant=tenant, by=ANN, now=at(shop))
    # A call opens the window.
    use(shop, 1)
    buy(shop, customer)
    held = hold(shop, 29)
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}))
    hear(shop)

    def spendable() -> float:
        sync.due(now=at(shop))
        window = BudgetWindow.objects.get(budget__window="billing_cycle", closed_at=None)
        return round(window.remaining_nanos / USD, 2)

    assert spendable() == 50
    end(shop, held, cost=cost)
    assert spendable() == 50 + 20 - used
    assert TopUp.objects.get().held_before == {}
    shop.account.advance(by=32 * DAY)
    hear(shop)
    assert spendable() == 50 + 20 - used


def test_a_top_up_without_a_subscription_that_is_refunded_while_a_call_holds_it_is_gone(shop: Shop) -> None:
    tenant = Tenant.objects.get()
    factories.budget("10.00", tenant=tenant, window="month")
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sync.customer(customer, now=at(shop))
    binding.bind(account=BillingAccount.objects.get(), tenant=tenant, by=ANN, now=at(shop))
    use(shop, 1)
    charge = buy(shop, customer, 100)
    held = hold(shop, 105)
    undo(shop, "refund", charge)
    end(shop, held)
    assert BudgetWindow.objects.get().remaining_nanos == factories.nanos("8.99")


@pytest.mark.parametrize("beside", [0, 20])
def test_use_that_an_operator_voids_was_none(shop: Shop, beside: int) -> None:
    customer = subscriber(shop)
    ledger.record(factories.reporting("500"), now=at(shop))
    if beside:
        buy(shop, customer, beside)
        assert left(shop) == beside
    else:
        undo(shop, "refund", first_charge(shop))
        assert left(shop) == 0
    corrections.void(entry=SpendEntry.objects.get(), reason="a mistake", by=ANN, now=at(shop))
    assert left(shop) == (70 if beside else 0)


def override(shop: Shop, dollars: int | None) -> None:
    limit_nanos = dollars * USD if dollars else None
    sync.override(account=BillingAccount.objects.get(), limit_nanos=limit_nanos, by=ANN, now=at(shop))


def renew(shop: Shop) -> None:
    shop.account.advance(by=32 * DAY)
    hear(shop)


@pytest.mark.parametrize("ends", ["before", "after"])
@pytest.mark.parametrize(("act", "owed"), [("refund", 0), ("dispute", 40), ("override", 0), ("apply", 0)])
def test_a_call_that_ends_after_the_renewal_is_as_one_that_ended_before(
    shop: Shop, act: str, owed: int, ends: str
) -> None:
    """Of $50, or what an operator made of it, a call of $40 is used, when it falls to what the call may not be."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    hear(shop)
    buy(shop, customer)
    charge, again = str(shop.all("charges")[-1]["id"]), 50
    if act == "override":
        override(shop, 100)
    held = hold(shop, 90 if act == "override" else 40)
    if act == "refund":
        undo(shop, "refund", charge)
    elif act == "dispute":
        lose(shop, charge)
        hear(shop)
    elif act == "override":
        override(shop, None)
    else:
        again = 10
        Plan.objects.filter(limit_nanos=50 * USD).update(limit_nanos=10 * USD)
        plans.apply_now(by=ANN, now=at(shop))
    for moment in ("before", "after"):
        if moment == "after":
            renew(shop)
        if moment == ends:
            end(shop, held, cost=90 if act == "override" else 40)
    assert left(shop) == again - owed + 20
    renew(shop)
    assert left(shop) == again + 20


@pytest.mark.parametrize(("used", "cost", "stays"), [(0, 45, 5), (0, 90, 0), (30, 15, 5), (60, 30, 0)])
def test_an_operators_limit_that_is_taken_away_under_a_call_gives_what_that_cost(
    shop: Shop, used: int, cost: int, stays: int
) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    override(shop, 100)
    if used:
        use(shop, used)
    held = hold(shop, 90 - used)
    override(shop, None)
    end(shop, held, cost=cost)
    assert left(shop) == stays + 20
    # A limit that is given again is all there is of the plan.
    override(shop, 100)
    assert left(shop) == 100 - used - cost + 20
    override(shop, None)
    assert left(shop) == stays + 20
    renew(shop)
    assert left(shop) == 70


def test_what_an_operator_gave_and_took_away_is_used_of_nothing_that_is_paid_for_afterwards(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    low, high = (shop.price(100 * usd, metadata={"llm_budget_usd": str(usd)}) for usd in (50, 100))
    sub = shop.subscribe(customer, low)["id"]
    hear(shop)
    override(shop, 80)
    use(shop, 75)
    override(shop, 60)
    override(shop, None)
    assert left(shop) == 0
    items = [{"id": shop.item(sub), "price": high}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")
    hear(shop)
    assert left(shop) == 50


@pytest.mark.parametrize("cost", [0, 1])
def test_a_call_over_a_month_of_a_year_gives_the_top_up_back_whatever_it_cost(shop: Shop, cost: int) -> None:
    """One look opens the month; nothing is heard of Stripe."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(60000, interval="year", metadata={"llm_budget_usd": "50"}))
    hear(shop)
    buy(shop, customer)
    held = hold(shop, 70)
    shop.account.advance(by=31 * DAY + 60)
    assert left(shop) == 50
    if cost:
        end(shop, held, cost=cost)
    else:
        ledger.release(factories.releasing(held), now=at(shop))
    assert left(shop) == 70


def test_a_window_that_waits_for_nothing_is_not_looked_at(shop: Shop) -> None:
    customer = subscriber(shop)
    use(shop, 20)
    held = hold(shop, 10)
    assert window_watch.changed() == []
    lose(shop, first_charge(shop))
    hear(shop)
    assert window_watch.changed() == []
    end(shop, held)
    assert window_watch.changed() == [customer]
    assert left(shop) == 0
    assert window_watch.changed() == []


@pytest.mark.parametrize("whole", [False, True])
def test_what_was_used_beyond_all_parts_is_kept_in_the_upgrade_whichever_version_wrote_them(whole: bool) -> None:
    span = ["2026-11-01T00:00:00+00:00", "2026-12-01T00:00:00+00:00"]
    part = ["sub_1", *span, *(span if whole else []), 50, 0, "1 month", ""]
    rows = [Mock(parts=[part, part], floor_nanos=floor, stopped={"a": 7}, draws={}) for floor in (0, 100, 103)]
    apps = Mock(**{"get_model.return_value.objects.exclude.return_value.iterator.return_value": rows})
    import_module("billing.migrations.0015_calls_under_way").keep_what_was_used(apps, None)
    assert [row.draws for row in rows] == [{"a": [7, 7, True]}, {"a": [7, 7, True]}, {"a": [7, 7, True], "": [3, 3]}]
