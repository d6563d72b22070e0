"""Top-ups that are refunded, disputed and won again beside others: what is used afterwards is drawn on what stands, and
what was used of one that a dispute took is owed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from billing.accounts import sync
from billing.models import BillingAccount, BillingPeriod, TopUp
from billing.sandbox import StripeRefusal
from governance import ledger
from governance.actions import budgets
from governance.models import Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear, lose
from tests.billing.worth.test_held_up import at
from tests.billing.worth.test_simulated import read

USD = 10**9


def subscriber(shop: Shop, dollars: int = 50) -> str:
    """A customer with a plan of $50 a month."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(100 * dollars, metadata={"llm_budget_usd": str(dollars)}))
    hear(shop)
    return customer


def topup_price(shop: Shop, dollars: int = 20) -> str:
    product, worth = shop.post("products", name="Top-up")["id"], {"llm_topup_usd": str(dollars)}
    return str(shop.post("prices", currency="usd", unit_amount=100 * dollars, product=product, metadata=worth)["id"])


def buy(shop: Shop, customer: str, dollars: int = 20) -> str:
    """A top-up that is paid for; its charge."""
    price = topup_price(shop, dollars)
    before = {one["id"] for one in shop.all("charges", customer=customer)}
    shop.post("invoiceitems", customer=customer, pricing={"price": price})
    invoice = shop.post("invoices", customer=customer, pending_invoice_items_behavior="include")["id"]
    shop.post(f"invoices/{invoice}/pay")
    shop.account.advance(by=60)
    hear(shop)
    [charge] = {one["id"] for one in shop.all("charges", customer=customer)} - before
    return str(charge)


def use(shop: Shop, dollars: float, *, held: float = 0) -> None:
    """A call that costs so much, of which Stripe says nothing."""
    hold = factories.reserving(f"{held or dollars:.2f}")
    assert ledger.reserve(hold, now=at(shop)).allowed
    ledger.settle(factories.settling(hold.reservation_id, f"{dollars:.2f}"), now=at(shop))


def use_up(shop: Shop, customer: str) -> float:
    """Use whatever there is, $7 at a time, as long as there is anything; dollars."""
    used = 0.0
    while (left := dollars_left(shop, customer)) >= 0.01:
        use(shop, min(left, 7))
        used += min(left, 7)
    return used


def dollars_left(shop: Shop, customer: str) -> float:
    return read(shop, customer)[1] / USD


def undo(shop: Shop, how: str, charge: str) -> None:
    if how == "refund":
        shop.post("refunds", charge=charge)
    else:
        shop.account.dispute(charge)
    hear(shop)


@pytest.mark.parametrize("used", [0, 5])
@pytest.mark.parametrize("how", ["refund", "dispute"])
def test_one_that_is_undone_stays_so_when_another_is_used(shop: Shop, how: str, used: int) -> None:
    customer = subscriber(shop)
    use(shop, 50)
    first, _ = buy(shop, customer), buy(shop, customer)
    use(shop, used)
    undo(shop, how, first)
    assert dollars_left(shop, customer) == 20
    assert use_up(shop, customer) == 20


def test_of_many_that_are_disputed_none_comes_back(shop: Shop) -> None:
    customer = subscriber(shop)
    use(shop, 50)
    charges = [buy(shop, customer, 100) for _ in range(5)]
    buy(shop, customer, 10)
    for charge in charges:
        shop.account.dispute(charge)
    hear(shop)
    assert use_up(shop, customer) == 10
    for dispute in shop.all("disputes"):
        shop.account.close_dispute(dispute["id"], won=False)
    shop.account.advance(by=32 * DAY)
    hear(shop)
    assert dollars_left(shop, customer) == 50


def test_one_that_was_undone_is_not_used_in_place_of_another_when_its_window_is_over(shop: Shop) -> None:
    customer = subscriber(shop)
    first, _ = buy(shop, customer), buy(shop, customer)
    undo(shop, "refund", first)
    use(shop, 70)
    # Nothing is heard of the customer before the month is over.
    shop.account.advance(by=32 * DAY)
    hear(shop)
    assert dollars_left(shop, customer) == 50


def test_what_was_refunded_in_part_does_not_come_back_with_the_next_one(shop: Shop) -> None:
    customer = subscriber(shop)
    charge = buy(shop, customer, 100)
    use(shop, 60)
    shop.post("refunds", charge=charge, amount=5000)
    hear(shop)
    assert use_up(shop, customer) == 40
    shop.account.advance(by=32 * DAY)
    assert use_up(shop, customer) == 50
    buy(shop, customer, 10)
    assert use_up(shop, customer) == 10


def test_a_refund_that_fails_and_is_made_again_gives_no_other_back(shop: Shop) -> None:
    customer = subscriber(shop)
    first, _ = buy(shop, customer), buy(shop, customer)
    refund = shop.post("refunds", charge=first)["id"]
    hear(shop)
    use(shop, 70)
    shop.account.fail_refund(refund)
    hear(shop)
    assert dollars_left(shop, customer) == 20
    undo(shop, "refund", first)
    assert use_up(shop, customer) == 0


def test_a_former_customers_that_is_undone_is_drawn_on_no_more(shop: Shop) -> None:
    old = subscriber(shop)
    charge = buy(shop, old, 30)
    shop.delete(f"subscriptions/{shop.all('subscriptions', customer=old)[0]['id']}")
    hear(shop)
    shop.account.advance(by=DAY)
    new = subscriber(shop)
    buy(shop, new)
    assert dollars_left(shop, new) == 100
    undo(shop, "refund", charge)
    sync.due(now=at(shop))
    assert use_up(shop, new) == 70
    shop.account.advance(by=32 * DAY)
    hear(shop)
    assert use_up(shop, new) == 50


def test_one_that_was_used_beyond_its_end_does_not_come_back_with_the_next_one(shop: Shop) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    # A call that cost a dollar more than was held for it.
    use(shop, 71, held=70)
    buy(shop, customer)
    assert use_up(shop, customer) == 20


@pytest.mark.parametrize(("how", "owed"), [("lost", 50), ("won", 0), ("refunded", 0)])
def test_what_was_used_of_one_that_a_dispute_took_is_owed(shop: Shop, how: str, owed: int) -> None:
    customer = subscriber(shop)
    charge = buy(shop, customer, 100)
    use(shop, 150)
    if how == "refunded":
        undo(shop, "refund", charge)
    else:
        shop.account.close_dispute(shop.account.dispute(charge)["id"], won=how == "won")
    hear(shop)
    assert dollars_left(shop, customer) < 0.01
    shop.account.advance(by=32 * DAY)
    hear(shop)
    assert round(dollars_left(shop, customer), 2) == 50 - owed
    reasons = BillingAccount.objects.get().reasons
    assert reasons == ([f"owed:{owed}.00"] if owed else [])


def test_what_was_used_before_the_subscription_of_one_that_a_dispute_took_is_owed(shop: Shop, settings: Any) -> None:
    settings.DEFAULT_DAILY_BUDGET = Decimal(10)
    budgets.sync_default(now=at(shop))
    customer = shop.customer(metadata={"tenant_id": "acme"})
    hear(shop)
    use(shop, 10)
    charge = buy(shop, customer)
    use(shop, 5)
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    hear(shop)
    assert dollars_left(shop, customer) == 50 + 15
    lose(shop, charge)
    hear(shop)
    assert dollars_left(shop, customer) == 50 - 5


def test_a_window_keeps_nothing_of_one_that_stands_and_is_not_used(shop: Shop) -> None:
    customer = subscriber(shop)
    first, _ = buy(shop, customer), buy(shop, customer)
    assert drawn_on_topups() == {}
    undo(shop, "refund", first)
    one, other = (TopUp.objects.get(refunded_nanos=nanos).key for nanos in (20 * USD, 0))
    assert drawn_on_topups() == {one: [0, 0]}
    use(shop, 55)
    read(shop, customer)
    assert drawn_on_topups() == {one: [0, 0], other: [5 * USD, 20 * USD]}


def drawn_on_topups() -> dict[str, list[int]]:
    keys = set(TopUp.objects.values_list("key", flat=True))
    return {key: draw[:2] for key, draw in BillingPeriod.objects.get().draws.items() if key in keys}


@dataclass
class Bought:
    """A top-up as its buyer sees it, in cents."""

    charge: str
    cents: int
    gone: int = 0
    used: int = 0

    @property
    def left(self) -> int:
        return max(0, self.cents - self.gone - self.used)


class Buyer:
    """A plan of $50 each month, and top-ups that are bought, used, refunded, disputed and given back at random.

    What is used is taken from the plan, then from what stands at that moment, the first by its key before the others;
    nothing else is known of it here.
    """

    def __init__(self, shop: Shop, seed: int) -> None:
        self.shop, self.random = shop, random.Random(seed)
        self.customer, self.plan, self.bought = subscriber(shop), 5000, dict[str, Bought]()
        self.refunds: list[tuple[Bought, str, int]] = []
        self.disputes: list[tuple[Bought, str, int]] = []

    @property
    def left(self) -> int:
        return self.plan + sum(one.left for one in self.bought.values())

    def buy(self) -> None:
        cents = self.random.choice([500, 2000])
        charge = buy(self.shop, self.customer, cents // 100)
        [row] = TopUp.objects.exclude(key__in=self.bought)
        self.bought[row.key] = Bought(charge, cents)

    def use(self) -> None:
        cents = self.left * self.random.choice([10, 30, 100]) // 100
        if cents:
            use(self.shop, cents / 100)
        taken = min(cents, self.plan)
        self.plan -= taken
        order = TopUp.objects.filter(key__in=self.bought).order_by("counts_from", "key").values_list("key", flat=True)
        for one in (self.bought[key] for key in order):
            more = min(cents - taken, one.left)
            one.used += more
            taken += more

    def refund(self) -> None:
        found = [one for one in self.bought.values() if one.gone < one.cents and not self._in_dispute(one)]
        if found:
            one = self.random.choice(found)
            cents = max(1, (one.cents - one.gone) // self.random.choice([1, 1, 2]))
            one.gone += cents
            self.refunds.append((one, self.shop.post("refunds", charge=one.charge, amount=cents)["id"], cents))

    def fail(self) -> None:
        if self.refunds:
            one, id, cents = self.refunds.pop(self.random.randrange(len(self.refunds)))
            self.shop.account.fail_refund(id)
            one.gone -= cents

    def dispute(self) -> None:
        found = [one for one in self.bought.values() if not (one.gone or self._in_dispute(one))]
        if found:
            one = self.random.choice(found)
            cents = one.cents // self.random.choice([1, 2])
            try:
                id = self.shop.account.dispute(one.charge, amount=cents)["id"]
            except StripeRefusal:
                return
            one.gone += cents
            self.disputes.append((one, id, cents))

    def win(self) -> None:
        if self.disputes:
            one, id, cents = self.disputes.pop()
            self.shop.account.close_dispute(id, won=True)
            one.gone -= cents

    def wait(self) -> None:
        hear(self.shop)
        self.shop.account.advance(by=32 * DAY)
        self.plan = 5000

    def _in_dispute(self, one: Bought) -> bool:
        return any(one is other for other, *_ in self.disputes)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_of_all_is_what_stands_and_was_not_used(shop: Shop, seed: int) -> None:
    buyer = Buyer(shop, seed)
    acts = [buyer.buy, buyer.use, buyer.use, buyer.refund, buyer.fail, buyer.dispute, buyer.win]
    told: list[Any] = []
    for step in range(40):
        act = buyer.wait if step % 13 == 12 else buyer.random.choice(acts)
        act()
        hear(shop)
        told.append((act.__name__, buyer.left))
        assert Tenant.objects.get(slug="acme").status == Tenant.Status.ACTIVE
        assert abs(window_of().remaining_nanos - buyer.left * USD // 100) <= 1, told
