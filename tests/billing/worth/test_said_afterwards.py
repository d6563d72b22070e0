"""What is said of use afterwards: in windows that are over, of calls whose hold has expired, beyond every limit.
Whether somebody looks in between makes no difference. What was paid for and stands is known here from what the customer
bought, in dollars."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest import mock
from uuid import UUID

import pytest

from billing.accounts import sync, window_watch
from billing.models import BillingAccount, BillingPeriod, TopUp
from governance import ledger
from governance.actions import budgets, corrections
from governance.models import BudgetWindow, SpendEntry
from tests import factories
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear, lose
from tests.billing.worth.test_calls_under_way import ANN, end, first_charge, hold, left
from tests.billing.worth.test_held_up import at
from tests.billing.worth.test_undone_topups import USD, buy, subscriber, topup_price, undo, use


def renew(shop: Shop) -> float:
    shop.account.advance(by=32 * DAY)
    hear(shop)
    return left(shop)


def expire(shop: Shop) -> None:
    shop.account.advance(by=7200)
    assert ledger.expire_due(now=at(shop)) == 1


def settle_late(shop: Shop, held: UUID, cost: str) -> None:
    ledger.settle(factories.settling(held, cost), now=at(shop))


def test_use_of_a_window_that_is_over_is_heard_of_when_an_operator_voids_or_corrects_it(shop: Shop) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    ledger.record(factories.reporting("65"), now=at(shop))
    entry = SpendEntry.objects.get()
    assert renew(shop) == 55
    assert renew(shop) == 55
    corrections.correct(entry=entry, cost_nanos=60 * USD, reason="a mistake", by=ANN, now=at(shop))
    assert left(shop) == 60
    corrections.correct(entry=entry, cost_nanos=68 * USD, reason="a mistake", by=ANN, now=at(shop))
    assert left(shop) == 52
    corrections.void(entry=entry, reason="a mistake", by=ANN, now=at(shop))
    assert left(shop) == 70
    assert renew(shop) == 70


def test_a_late_settlement_in_a_window_that_is_over_is_heard_of(shop: Shop) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    use(shop, 50)
    held = hold(shop, 20)
    expire(shop)
    assert renew(shop) == 50
    settle_late(shop, held, "5.00")
    assert left(shop) == 65


def test_windows_that_are_over_and_as_they_were_are_not_looked_at(shop: Shop) -> None:
    customer = subscriber(shop)
    use(shop, 20)
    for _ in range(3):
        renew(shop)
    assert window_watch.changed() == []
    corrections.void(entry=SpendEntry.objects.get(), reason="a mistake", by=ANN, now=at(shop))
    assert window_watch.changed() == [customer]
    # Once it is heard, also where nothing came of it.
    assert renew(shop) == 50
    assert window_watch.changed() == []


@pytest.mark.parametrize("error", [SystemExit, ValueError])
def test_what_a_worker_had_heard_that_came_to_nothing_is_heard_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    ledger.record(factories.reporting("65"), now=at(shop))
    assert renew(shop) == 55
    corrections.void(entry=SpendEntry.objects.get(), reason="a mistake", by=ANN, now=at(shop))
    with monkeypatch.context() as patch:
        patch.setattr(sync, "write", mock.Mock(side_effect=error))
        with pytest.raises(SystemExit) if error is SystemExit else nullcontext():
            sync.due(now=at(shop))
    if error is ValueError:
        # What fails is tried again some minutes later.
        shop.account.advance(by=600)
    assert left(shop) == 70


def test_use_of_a_window_that_is_over_is_not_watched_for_a_customer_that_has_lost_its_tenant(shop: Shop) -> None:
    subscriber(shop)
    use(shop, 20)
    renew(shop)
    BillingAccount.objects.update(tenant=None)
    corrections.void(entry=SpendEntry.objects.get(), reason="a mistake", by=ANN, now=at(shop))
    assert window_watch.changed() == []


@pytest.mark.parametrize("is_looked_at", [True, False])
@pytest.mark.parametrize("order", ["expired, refunded", "refunded, expired"])
def test_a_late_settlement_beyond_the_hold_is_used_of_what_stands(shop: Shop, order: str, is_looked_at: bool) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    held = hold(shop, 5)
    for act in order.split(", "):
        if act == "expired":
            expire(shop)
        else:
            undo(shop, "refund", first_charge(shop))
    if is_looked_at:
        assert left(shop) == 20
    settle_late(shop, held, "12.00")
    assert left(shop) == 13
    assert renew(shop) == 63


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_a_late_settlement_of_less_than_the_hold_gives_the_rest_back(shop: Shop, is_looked_at: bool) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    held = hold(shop, 60)
    undo(shop, "refund", first_charge(shop))
    expire(shop)
    if is_looked_at:
        assert left(shop) == 10
    settle_late(shop, held, "15.00")
    assert left(shop) == 20
    assert renew(shop) == 70


@pytest.mark.parametrize("how", ["voided", "settled late"])
def test_use_that_becomes_less_is_heard_of_while_a_debt_waits_for_what_is_unused(shop: Shop, how: str) -> None:
    subscriber(shop)
    charge = first_charge(shop)
    use(shop, 30)
    assert renew(shop) == 50
    held = hold(shop, 40)
    expire(shop)
    lose(shop, charge)
    hear(shop)
    # Of the 30 that are owed 10 can be held back.
    assert left(shop) == 0
    if how == "voided":
        corrections.void(entry=SpendEntry.objects.latest("pk"), reason="a mistake", by=ANN, now=at(shop))
    else:
        settle_late(shop, held, "1.00")
    assert left(shop) == 20 - (how == "settled late")
    assert renew(shop) == 50


@pytest.mark.parametrize("is_looked_at", [True, False])
@pytest.mark.parametrize("beside", [0, 10])
def test_what_is_reported_beyond_what_a_refund_left_is_nobodys(shop: Shop, beside: int, is_looked_at: bool) -> None:
    customer = subscriber(shop)
    use(shop, 5)
    if beside:
        buy(shop, customer, beside)
    undo(shop, "refund", first_charge(shop))
    ledger.record(factories.reporting("30"), now=at(shop))
    if is_looked_at:
        sync.customer(customer, now=at(shop))
    assert left(shop) == 0
    assert renew(shop) == 50
    assert renew(shop) == 50


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_what_is_reported_beyond_what_a_downgrade_left_is_nobodys(shop: Shop, is_looked_at: bool) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    low, high = (shop.price(100 * usd, metadata={"llm_budget_usd": str(usd)}) for usd in (50, 200))
    sub = shop.subscribe(customer, high)["id"]
    hear(shop)
    use(shop, 40)
    item = {"id": shop.item(sub), "price": low}
    shop.post(f"subscriptions/{sub}", items=[item], proration_behavior="always_invoice")
    hear(shop)
    ledger.record(factories.reporting("100"), now=at(shop))
    if is_looked_at:
        sync.customer(customer, now=at(shop))
    assert renew(shop) == 50


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_an_estimate_that_is_confirmed_beyond_what_a_refund_left_is_nobodys(shop: Shop, is_looked_at: bool) -> None:
    subscriber(shop)
    hold(shop, 5)
    expire(shop)
    undo(shop, "refund", first_charge(shop))
    estimate = SpendEntry.objects.get()
    corrections.confirm(entry=estimate, cost_nanos=25 * USD, reason="it did", by=ANN, now=at(shop))
    if is_looked_at:
        left(shop)
    assert renew(shop) == 50


def test_a_top_up_that_a_call_holds_when_a_first_payment_never_came_is_used_for_what_the_call_cost(
    shop: Shop, settings: Any
) -> None:
    settings.DEFAULT_DAILY_BUDGET = Decimal(10)
    budgets.sync_default(now=at(shop))
    customer = shop.customer("pm_card_chargeCustomerFail", metadata={"tenant_id": "acme"})
    price = shop.price(5000, metadata={"llm_budget_usd": "50"})
    shop.subscribe(customer, price, payment_behavior="default_incomplete")
    hear(shop)
    shop.post("invoiceitems", customer=customer, pricing={"price": topup_price(shop, 20)})
    invoice = shop.post("invoices", customer=customer, pending_invoice_items_behavior="include")["id"]
    shop.post(f"invoices/{invoice}/pay", payment_method="pm_card_visa")
    hear(shop)
    held = hold(shop, 20)
    shop.account.advance(by=2 * DAY)
    hear(shop)
    # What it holds is in the way until it has ended.
    assert TopUp.objects.get().counts_from is not None
    assert window_watch.changed() == []
    end(shop, held, cost=1)
    sync.due(now=at(shop))
    assert not BillingPeriod.objects.exists()
    # A call opens the default budget's window, and a top-up counts in those that are open.
    use(shop, 2)
    sync.customer(customer, now=at(shop) + timedelta(minutes=1))
    assert BudgetWindow.objects.get(budget__window="day").remaining_nanos == (10 - 2 + 20 - 1) * USD
