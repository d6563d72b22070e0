"""Top-ups: bought once, unblocking at once, drawn on last, kept or not when the window ends, taken back as unused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from billing.accounts import binding, mirror, sync
from billing.models import BillingAccount, StripeEvent, TopUp
from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.models import AuditEntry, BudgetWindow, Tenant
from governance.rules import money
from tests import factories
from tests.billing.conftest import Deliver, window_of
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    event,
    invoice_paid,
    price_of,
    seconds,
    subscription_created,
    subscription_deleted,
    subscription_updated,
)

pytestmark = pytest.mark.django_db
STANDARD, TWENTY = factories.nanos("50"), factories.nanos("20")
NEXT, AFTER = START + 30 * DAY, START + 60 * DAY
PRODUCT = {"object": "product", "metadata": {"llm_topup_usd": "20"}}
TOPUP = price_of("price_topup", metadata={"llm_topup_usd": "20"}, recurring=None)


def joined() -> list[dict[str, Any]]:
    return [checkout_completed(), subscription_created(), invoice_paid()]


def bought(id: str = "in_topup") -> dict[str, Any]:
    line = {"id": f"il_{id}", "object": "line_item", "amount": 2000, "currency": "usd", "quantity": 1, "price": TOPUP}
    paid = invoice_paid(subscription=None, billing_reason="manual", amount_paid=2000, created=START + DAY)
    paid["data"]["object"] |= {"id": id, "charge": f"ch_{id}", "lines": {"object": "list", "data": [line]}}
    return paid


def refunded(amount: int) -> dict[str, Any]:
    data = {
        "id": "ch_in_topup",
        "object": "charge",
        "customer": "cus_acme",
        "amount": 2000,
        "currency": "usd",
        "amount_refunded": amount,
        "created": seconds(START),
    }
    return event("charge.refunded", data, created=START + 2 * DAY)


def renewal() -> dict[str, Any]:
    return invoice_paid(billing_reason="subscription_cycle", period_start=NEXT, period_end=AFTER)


def spend(dollars: str, now: Any = START) -> None:
    ledger.record(factories.reporting(dollars), now=now)


def test_a_paid_top_up_unblocks_within_one_event_and_counts_once(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    spend("50")
    assert window_of().state == "stopped"
    deliver(bought(), bought(), event("invoice.payment_succeeded", bought()["data"]["object"]))
    window = window_of()
    assert (window.limit_nanos, window.remaining_nanos, window.state) == (STANDARD + TWENTY, TWENTY, "active")
    assert TopUp.objects.count() == 1
    assert BillingAccount.objects.get().reasons == ["topups:20.00"]


def test_a_tenant_over_its_limit_gets_the_whole_top_up(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    spend("53")
    deliver(bought())
    assert window_of().remaining_nanos == TWENTY


@pytest.mark.parametrize(("policy", "left"), [("roll_over", "15"), ("expire", "0")])
def test_what_is_left_rolls_over_or_expires(
    tenant: Tenant, deliver: Deliver, settings: Any, policy: str, left: str
) -> None:
    settings.STRIPE_TOPUPS = policy
    deliver(joined(), bought())
    spend("55")
    deliver(renewal(), now=NEXT)
    assert window_of().limit_nanos == STANDARD + factories.nanos(left)


@pytest.mark.parametrize(("used", "back", "limit"), [("0", 2000, "50"), ("55", 2000, "55"), ("55", 500, "65")])
def test_a_refunded_top_up_is_taken_back_as_far_as_it_is_unused(
    tenant: Tenant, deliver: Deliver, used: str, back: int, limit: str
) -> None:
    deliver(joined(), bought())
    spend(used)
    deliver(refunded(back), now=START + 2 * DAY)
    assert window_of().limit_nanos == factories.nanos(limit)


def test_a_checkout_without_an_invoice_sells_by_its_own_metadata(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    session = checkout_completed()["data"]["object"] | {
        "mode": "payment",
        "id": "cs_1",
        "metadata": {"llm_topup_usd": "20"},
        "payment_intent": "pi_9",
    }
    deliver(*(event("checkout.session.completed", session) for _ in range(2)))
    assert window_of().limit_nanos == STANDARD + TWENTY
    invoiced = {**session, "id": "cs_2", "invoice": "in_topup"}
    # Paid for, and its invoice is still to be made.
    early = {**session, "id": "cs_2", "invoice": None, "invoice_creation": {"enabled": True}}
    deliver(*(event("checkout.session.completed", one) for one in (early, invoiced)), bought())
    assert window_of().limit_nanos == STANDARD + 2 * TWENTY


@pytest.mark.parametrize(("ending", "bought"), [("succeeded", TWENTY), ("failed", 0)])
def test_a_top_up_by_a_delayed_method_counts_with_the_event_of_its_payment(
    tenant: Tenant, deliver: Deliver, ending: str, bought: int
) -> None:
    deliver(joined())
    session = checkout_completed()["data"]["object"] | {
        "mode": "payment",
        "id": "cs_1",
        "metadata": {"llm_topup_usd": "20"},
        "payment_status": "unpaid",
    }
    deliver(event("checkout.session.completed", session))
    assert window_of().limit_nanos == STANDARD
    paid = session | {"payment_status": "paid" if ending == "succeeded" else "unpaid"}
    deliver(event(f"checkout.session.async_payment_{ending}", paid, created=START + DAY))
    assert window_of().limit_nanos == STANDARD + bought


def test_a_top_up_of_a_tenant_without_a_subscription_adds_to_its_own_budget(tenant: Tenant, deliver: Deliver) -> None:
    budget = factories.budget("5", window="day", tenant=tenant)
    spend("5")
    deliver(checkout_completed(mode="payment"), bought(), bought())
    window = budget.windows.get()
    assert (window.limit_nanos, window.remaining_nanos) == (factories.nanos("25"), TWENTY)
    assert AuditEntry.objects.filter(action="budget.top_up").count() == 1


def test_a_price_told_of_later_is_looked_at_again(tenant: Tenant, deliver: Deliver) -> None:
    late = bought()
    line = late["data"]["object"]["lines"]["data"][0]
    line["price"] = {"id": "price_topup"}
    deliver(joined(), late)
    assert window_of().limit_nanos == STANDARD
    deliver(event("price.updated", TOPUP))
    assert sync.due(now=START) == 1
    assert window_of().limit_nanos == STANDARD + TWENTY


def test_news_of_a_price_has_nobody_looked_at_whom_it_does_not_concern(tenant: Tenant, deliver: Deliver) -> None:
    other = {**TOPUP, "id": "price_else", "product": "prod_else"}
    deliver(joined(), bought(), event("price.created", other), event("product.updated", {"id": "prod_else", **PRODUCT}))
    assert sync.due(now=START) == 0


def test_news_of_a_price_holds_nobodys_windows(tenant: Tenant, deliver: Deliver, monkeypatch: Any) -> None:
    """However many customers it concerns, each is looked at by itself."""
    line = (late := bought())["data"]["object"]["lines"]["data"][0]
    line["price"] = {"id": "price_topup"}
    deliver(joined(), late)
    monkeypatch.setattr(sync, "write", None)
    deliver(event("price.updated", TOPUP))
    assert not StripeEvent.objects.waiting().exists()
    assert BillingAccount.objects.get().due_at == START


def test_news_that_a_reading_of_one_customer_has_brought_before_reaches_the_others(
    tenant: Tenant, deliver: Deliver
) -> None:
    line = (late := bought())["data"]["object"]["lines"]["data"][0]
    line["price"] = {"id": "price_topup"}
    deliver(joined(), late)
    news = event("price.updated", TOPUP)
    mirror.take_catalog(TOPUP, version=mirror.version_of_reading(1, START), now=START)
    deliver(news)
    assert sync.due(now=START) == 1
    assert window_of().limit_nanos == STANDARD + TWENTY


class TestWhileASubscriptionWaits:
    """Nothing of a plan is current: what was bought beside it can be spent, and nothing else."""

    WAITING: dict[str, Any] = {"subscription": "sub_again", "status": "incomplete", "created": START + DAY}

    @pytest.mark.parametrize(("used", "left"), [("0", "20"), ("30", "20"), ("55", "15"), ("75", "0")])
    def test_the_last_plan_is_over(self, tenant: Tenant, deliver: Deliver, used: str, left: str) -> None:
        deliver(joined(), bought())
        spend(used)
        over = [subscription_deleted(created=START + DAY), subscription_created(**self.WAITING)]
        deliver(over, over[1], now=START + DAY)
        assert (BillingAccount.objects.get().state, window_of().remaining_nanos) == ("pending", factories.nanos(left))
        deliver(subscription_updated(**{**self.WAITING, "status": "active", "created": START + 2 * DAY}))
        paid = {"period_start": START + DAY, "period_end": START + 31 * DAY}
        deliver(invoice_paid(subscription="sub_again", **paid), now=START + 2 * DAY)
        assert window_of().remaining_nanos == STANDARD + factories.nanos(left)

    def test_one_that_is_bought_then_counts_at_once(self, tenant: Tenant, deliver: Deliver, settings: Any) -> None:
        deliver(checkout_completed(), subscription_created(status="incomplete"), bought())
        assert (BillingAccount.objects.get().state, window_of().remaining_nanos) == ("pending", TWENTY)
        spend("5", START + DAY)
        deliver(subscription_updated(created=START + 2 * DAY), invoice_paid(), now=START + 2 * DAY)
        assert window_of().remaining_nanos == STANDARD + TWENTY - factories.nanos("5")
        deliver(renewal(), now=NEXT)
        assert window_of().remaining_nanos == STANDARD + TWENTY

    def test_one_of_who_bought_nothing_has_nothing(self, tenant: Tenant, deliver: Deliver) -> None:
        deliver(joined())
        spend("30")
        deliver(subscription_deleted(created=START + DAY), subscription_created(**self.WAITING), now=START + DAY)
        assert (BillingAccount.objects.get().state, window_of().remaining_nanos) == ("pending", 0)


def paid_back(charge: str = "ch_sub_acme", *, amount: int = 5000, at: Any = START + DAY) -> dict[str, Any]:
    data = {"id": charge, "object": "charge", "customer": "cus_acme", "amount": 5000, "currency": "usd"}
    return event("charge.refunded", data | {"amount_refunded": amount, "created": seconds(START)}, created=at)


def plan(subscription: str = "sub_acme", **fields: Any) -> list[dict[str, Any]]:
    paid = invoice_paid(subscription=subscription, charge=f"ch_{subscription}", **fields)
    return [checkout_completed(), subscription_created(subscription=subscription), paid]


class TestBesideWhatIsStopped:
    """Of a plan that stops, what is used by then stays; what is used after that is of what was bought beside it."""

    STOPS: dict[str, list[dict[str, Any]]] = {
        "refunded": [paid_back()],
        "waits for another": [
            subscription_deleted(created=START + DAY),
            subscription_created(**TestWhileASubscriptionWaits.WAITING),
        ],
        "another waits": [
            subscription_created(**TestWhileASubscriptionWaits.WAITING),
            subscription_deleted(created=START + DAY),
        ],
        "over": [subscription_deleted(created=START + DAY)],
        "unpaid": [subscription_updated(status="unpaid", created=START + DAY)],
    }

    @staticmethod
    def spend_all(now: Any) -> int:
        """Spend what is left, a few dollars at a time, with a reading after each."""
        spent = 0
        while spent < 10 * STANDARD and (left := window_of().remaining_nanos) > 1:
            nanos = min(left, factories.nanos("7"))
            hold = factories.reserving(money.format_dollars(nanos), by=factories.caller(Tenant.objects.get()))
            if not ledger.reserve(hold, now=now).allowed:
                break
            ledger.settle(factories.settling(hold.reservation_id, money.format_dollars(nanos)), now=now)
            sync.customer("cus_acme", now=now)
            spent += nanos
        return spent

    @pytest.mark.parametrize("why", STOPS)
    @pytest.mark.parametrize(("used", "left"), [("0", "20"), ("10", "20"), ("55", "15")])
    def test_a_top_up_is_spent_once(self, tenant: Tenant, deliver: Deliver, why: str, used: str, left: str) -> None:
        deliver(plan(), bought())
        spend(used)
        deliver(self.STOPS[why], now=START + DAY)
        assert self.spend_all(START + DAY) == factories.nanos(left)
        # Nor is it left for the next subscription.
        again = {**TestWhileASubscriptionWaits.WAITING, "status": "active", "created": START + 2 * DAY}
        paid = {"period_start": START + 2 * DAY, "period_end": START + 32 * DAY}
        new = invoice_paid(subscription="sub_again", **paid)
        deliver(subscription_created(**again), new, now=START + 2 * DAY)
        assert self.spend_all(START + 2 * DAY) == STANDARD

    @pytest.mark.parametrize(("used", "left"), [("0", "50"), ("10", "50"), ("60", "40")])
    def test_another_subscription_is_spent_once(self, tenant: Tenant, deliver: Deliver, used: str, left: str) -> None:
        deliver(plan(), plan("sub_else"))
        spend(used)
        deliver(paid_back(), now=START + DAY)
        assert self.spend_all(START + DAY) == factories.nanos(left)

    def test_of_two_that_stop_one_after_the_other_each_keeps_what_was_used(
        self, tenant: Tenant, deliver: Deliver
    ) -> None:
        deliver(plan(), plan("sub_else"), bought())
        spend("10")
        deliver(paid_back(), now=START + DAY)
        spend("30", START + DAY)
        deliver(paid_back("ch_sub_else"), now=START + DAY)
        assert self.spend_all(START + DAY) == TWENTY

    def test_a_refund_that_failed_gives_back_what_was_not_used(self, tenant: Tenant, deliver: Deliver) -> None:
        deliver(plan(), bought())
        spend("10")
        deliver(paid_back(), now=START + DAY)
        spend("15", START + DAY)
        deliver(paid_back(amount=0, at=START + 3 * DAY), now=START + 3 * DAY)
        assert self.spend_all(START + 3 * DAY) == STANDARD + TWENTY - factories.nanos("25")


class TestBeforeASubscription:
    """A top-up of a tenant on the platform's default budget, of $10 a day."""

    @pytest.fixture(autouse=True)
    def _default(self, tenant: Tenant, settings: Any) -> None:
        settings.DEFAULT_DAILY_BUDGET = Decimal(10)
        budgets.sync_default(now=START)

    def left(self) -> int:
        return BudgetWindow.objects.get(tenant__slug="acme", closed_at=None, budget__tenant=None).remaining_nanos

    @pytest.mark.parametrize(("used", "rest"), [("5", "20"), ("25", "5"), ("31", "0")])
    @pytest.mark.parametrize("policy", ["roll_over", "expire"])
    def test_counts_once(self, deliver: Deliver, settings: Any, policy: str, used: str, rest: str) -> None:
        settings.STRIPE_TOPUPS = policy
        spend("1")
        deliver(checkout_completed(mode="payment"), bought())
        assert self.left() == factories.nanos("29")
        spend(str(int(used) - 1))
        deliver(subscription_created(), invoice_paid())
        kept = 0 if policy == "expire" else factories.nanos(rest)
        assert window_of().remaining_nanos == STANDARD + kept
        assert self.left() == max(0, factories.nanos("10") - factories.nanos(used))
        deliver(renewal(), now=NEXT)
        assert window_of().remaining_nanos == STANDARD + kept

    @pytest.mark.parametrize(("used", "back", "left"), [("1", 2000, "9"), ("15", 2000, "0"), ("15", 500, "10")])
    def test_is_taken_back_as_far_as_it_is_unused(self, deliver: Deliver, used: str, back: int, left: str) -> None:
        spend(used if used == "1" else "10")
        deliver(checkout_completed(mode="payment"), bought())
        if used != "1":
            spend("5")
        deliver(refunded(back), refunded(back))
        assert self.left() == factories.nanos(left)
        deliver(subscription_created(), invoice_paid())
        kept = max(0, 20 - back // 100 - (0 if used == "1" else 5))
        assert window_of().remaining_nanos == STANDARD + factories.nanos(str(kept))

    @pytest.mark.parametrize(
        ("used", "waiting", "left", "rest"), [("5", "0", "25", "20"), ("15", "3", "12", "11"), ("15", "15", "0", "0")]
    )
    def test_counts_again_where_the_subscriptions_first_payment_never_came(
        self, tenant: Tenant, deliver: Deliver, used: str, waiting: str, left: str, rest: str
    ) -> None:
        spend("1")
        deliver(checkout_completed(mode="payment"), bought())
        spend(str(int(used) - 1))
        deliver(subscription_created(status="incomplete"))
        ledger.record(factories.reporting(waiting), now=START)
        expired = subscription_updated(status="incomplete_expired", created=START + DAY)
        deliver(expired, expired, now=START + DAY / 4)
        account = BillingAccount.objects.get()
        assert (account.state, account.window_start) == ("closed", None)
        assert self.left() == factories.nanos(left)
        # The default budget is in force again.
        assert ledger.reserve(factories.reserving("1"), now=START + DAY / 4).allowed == (left != "0")
        again: dict[str, Any] = {"subscription": "sub_again", "period_start": START + DAY, "period_end": NEXT}
        new = subscription_created(created=START + DAY, **again), invoice_paid(created=START + DAY, **again)
        deliver(*new, now=START + DAY)
        assert window_of().remaining_nanos == STANDARD + factories.nanos(rest)
        assert window_of().budget.downgrade_rules

    def test_of_two_is_each_used_once(self, deliver: Deliver) -> None:
        spend("10")
        deliver(checkout_completed(mode="payment"), bought(), bought("in_more"))
        spend("25")
        deliver(subscription_created(), invoice_paid())
        assert window_of().remaining_nanos == STANDARD + factories.nanos("15")

    def test_of_a_tenant_with_budgets_of_its_own_is_left_in_them(self, tenant: Tenant, deliver: Deliver) -> None:
        budget = factories.budget("5", window="day", tenant=tenant)
        spend("5")
        deliver(checkout_completed(mode="payment"), bought())
        spend("8")
        deliver(subscription_created(), invoice_paid())
        account = BillingAccount.objects.get()
        binding.accept(account=account, by=Actor("ann"), now=START)
        sync.customer("cus_acme", now=START)
        assert window_of().remaining_nanos == STANDARD + factories.nanos("12")
        assert budget.windows.get().remaining_nanos == factories.nanos("12")
