"""Customers of the simulated Stripe who do whatever can be done there, heard of by events that come shuffled, doubled
and not at all.

Once all that was said has come, or every customer was read anew, each tenant can spend what its customer paid for and
what was not undone, and no more than that and the policy's credit (`tests.properties.stripe_oracle`). STRIPE_CUSTOMERS
tries so many other accounts.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from billing.accounts import sync
from billing.inbox import catch_up, envelope, handlers, store
from billing.models import BillingAccount
from billing.sandbox import SimulatedStripe, StripeRefusal
from governance import ledger
from governance.models import BudgetWindow, Tenant
from governance.rules import money
from tests import factories
from tests.billing.events import standard_plans
from tests.billing.sandbox.conftest import DAY, START, Shop
from tests.fakes.simulated_stripe import answering
from tests.properties.stripe_oracle import Oracle, Sold

pytestmark = pytest.mark.django_db

EXAMPLES = int(os.environ.get("STRIPE_CUSTOMERS", "3"))
TENANTS = ("acme", "globex", "hooli")
CARDS = ("pm_card_visa", "pm_card_chargeCustomerFail", "pm_usBankAccount_success", "pm_usBankAccount_insufficientFunds")
BEHAVIOURS = ("create_prorations", "always_invoice", "none")
TIERS = [{"up_to": "5", "unit_amount": 700}, {"up_to": "inf", "unit_amount": 500, "flat_amount": 1000}]
# What one of a currency's smallest unit is in nanodollars; and in the settings, dollars for one of its units.
UNITS = {"usd": 10_000_000, "jpy": 7_000_000, "kwd": 3_000_000}
RATES = {"jpy": Decimal("0.007"), "kwd": Decimal(3)}
USD = 1_000_000_000
# Each line may be rounded to a nanodollar, and a limit of nothing is one.
ROUNDING = 1_000
PRICES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"cents": 3100}, {"budget": 50 * USD}),
    ({"cents": 9990}, {"budget": 200 * USD}),
    ({"cents": 4900}, {"percent": 40}),
    ({"cents": 1000}, {"budget": 10 * USD, "per_unit": True}),
    ({"cents": 100_000, "interval": "year"}, {"budget": 50 * USD}),
    ({"cents": 100_000, "interval": "year"}, {"budget": 600 * USD, "monthly": False}),
    ({"cents": 120_000, "interval": "year"}, {"percent": 100}),
    ({"cents": 700, "interval": "week"}, {"budget": 50 * USD}),
    ({"cents": 990, "interval": "day", "count": 10}, {"budget": 15 * USD, "monthly": False}),
    ({"cents": None, "billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": TIERS}, {"percent": 40}),
    ({"cents": None, "billing_scheme": "tiered", "tiers_mode": "volume", "tiers": TIERS}, {"budget": 50 * USD}),
    (
        {"cents": 2000, "transform_quantity": {"divide_by": 3, "round": "up"}},
        {"budget": 5 * USD, "per_unit": True},
    ),
    ({"cents": 10, "metered": True}, {"budget": 50 * USD}),
)
which = st.integers(0, len(PRICES) - 1)
who = st.integers(0, len(TENANTS) - 1)
cards = st.sampled_from(CARDS)
quantities = st.sampled_from([1, 1, 4, 9])
picks = st.integers(0, 9)
randoms = st.randoms(use_true_random=False)


def three(each: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(each, min_size=3, max_size=3)


def metadata_of(sold: Sold, times: int = 1) -> dict[str, str]:
    percent, dollars = sold.percent * times, sold.budget * times // USD
    said = {"llm_budget_percent": str(percent)} if percent else {"llm_budget_usd": str(dollars)}
    said |= {"llm_budget_per_unit": "true"} if sold.per_unit else {}
    return said | ({} if sold.monthly else {"llm_budget_period": "billing"})


class StripeCustomers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.example = transaction.atomic()
        # Each example is undone as a whole; the ledger's durable transactions may nest in it as in a test's.
        self.example._from_testcase = True  # type: ignore[attr-defined]
        self.example.__enter__()
        standard_plans()
        self.account = SimulatedStripe(now=int(START.timestamp()), seed="tenants")
        self.shop = Shop(self.account)
        self.stripe = answering(self.account)
        self.stripe.__enter__()
        self.seen: set[str] = set()
        self.waiting: list[dict[str, Any]] = []
        self.used = dict.fromkeys(TENANTS, 0)

    def teardown(self) -> None:
        self.stripe.__exit__(None, None, None)
        self.example.__exit__(Exception, None, None)

    @initialize(currency=st.sampled_from(["usd", "usd", "jpy", "kwd"]), prices=three(which), cards=three(cards))
    def begin(self, currency: str, prices: list[int], cards: list[str]) -> None:
        self.sold: dict[str, Sold] = {}
        meter = self.shop.post(
            "billing/meters", display_name="Calls", event_name="calls", default_aggregation={"formula": "sum"}
        )
        for about, gives in PRICES:
            sold = Sold(**gives, unit=UNITS[currency])
            asked = {"currency": currency, "metadata": metadata_of(sold), **about}
            if asked.pop("metered", False):
                asked["recurring"] = {"interval": "month", "usage_type": "metered", "meter": meter["id"]}
            self.sold[self.shop.price(asked.pop("cents"), asked.pop("interval", "month"), **asked)] = sold
        self.prices = list(self.sold)
        self.oracle = Oracle(self.account, self.sold)
        self.shop.post("coupons", id="half", percent_off=50, duration="repeating", duration_in_months=2)
        self.shop.post("coupons", id="whole", percent_off=100, duration="once")
        self.customers = {
            self.shop.customer(metadata={"tenant_id": factories.tenant(slug).slug}): slug for slug in TENANTS
        }
        for who, price in enumerate(prices):
            self.subscribe(who, [price], 4, "", "")
            self.use_card(who, cards[who])

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.account.now, UTC)

    def attempt(self, path: str, **params: Any) -> dict[str, Any]:
        """What the API answers; what it refuses has changed nothing."""
        try:
            return self.shop.post(path, **params)
        except StripeRefusal:
            return {}

    def pick(self, kind: str, number: int, **wanted: Any) -> dict[str, Any]:
        """One of these, or nothing; later ones come first."""
        found = [
            row for row in self.shop.all(kind, **wanted) if row["status"] not in ("canceled", "incomplete_expired")
        ]
        return found[number % len(found)] if found else {}

    # What customers and the business do ----------------------------------------------------------------------

    @rule(
        who=who,
        prices=st.lists(which, min_size=1, max_size=2, unique=True),
        quantity=quantities,
        coupon=st.sampled_from(["", "", "half", "whole"]),
        more=st.sampled_from(["", "", "", "trial", "anchor", "sent"]),
    )
    def subscribe(self, who: int, prices: list[int], quantity: int, coupon: str, more: str) -> None:
        ways: dict[str, dict[str, Any]] = {
            "trial": {"trial_period_days": 5},
            "anchor": {"billing_cycle_anchor": self.account.now + 3 * DAY},
            "sent": {"collection_method": "send_invoice", "days_until_due": 14},
        }
        discounts = {"discounts": [{"coupon": coupon}]} if coupon else {}
        items = [self._item(number, quantity) for number in prices]
        self.attempt(
            "subscriptions", customer=list(self.customers)[who], items=items, **discounts, **ways.get(more, {})
        )

    def _item(self, number: int, quantity: int) -> dict[str, Any]:
        metered = "metered" in PRICES[number][0]
        return {"price": self.prices[number]} | ({} if metered else {"quantity": quantity})

    @rule(pick=picks, price=which, quantity=quantities, how=st.sampled_from(BEHAVIOURS), anew=st.booleans())
    def change(self, pick: int, price: int, quantity: int, how: str, anew: bool) -> None:
        if sub := self.pick("subscriptions", pick):
            items = [{"id": sub["items"]["data"][0]["id"], **self._item(price, quantity)}]
            more = {"billing_cycle_anchor": {"type": "now"}} if anew else {}
            self.attempt(f"subscriptions/{sub['id']}", items=items, proration_behavior=how, **more)

    @rule(pick=picks, days=st.sampled_from([2, 20]))
    def give_free_days(self, pick: int, days: int) -> None:
        if sub := self.pick("subscriptions", pick):
            until = self.account.now + days * DAY
            self.attempt(f"subscriptions/{sub['id']}", trial_end=until, proration_behavior="none")

    @rule(pick=picks, on=st.booleans())
    def pause_collection(self, pick: int, on: bool) -> None:
        if sub := self.pick("subscriptions", pick):
            self.attempt(f"subscriptions/{sub['id']}", pause_collection={"behavior": "void"} if on else "")

    @rule(pick=picks, at_end=st.booleans(), prorate=st.booleans())
    def leave(self, pick: int, at_end: bool, prorate: bool) -> None:
        if sub := self.pick("subscriptions", pick):
            if at_end:
                self.attempt(f"subscriptions/{sub['id']}", cancel_at_period_end=True)
            else:
                self.shop.delete(f"subscriptions/{sub['id']}", prorate=prorate)

    @rule(who=who, card=cards)
    def use_card(self, who: int, card: str) -> None:
        customer = list(self.customers)[who]
        self.attempt(f"customers/{customer}", invoice_settings={"default_payment_method": card})

    @rule(pick=picks, seats=st.sampled_from([2, 50]), how=st.sampled_from(BEHAVIOURS))
    def type_seats(self, pick: int, seats: int, how: str) -> None:
        """Whoever pays can type any number, in a checkout or the portal."""
        if sub := self.pick("subscriptions", pick):
            items = [{"id": sub["items"]["data"][0]["id"], "quantity": seats}]
            self.attempt(f"subscriptions/{sub['id']}", items=items, proration_behavior=how)

    @rule(who=who, price=which, seats=st.sampled_from([1, 50]))
    def try_seats(self, who: int, price: int, seats: int) -> None:
        self.subscribe(who, [price], 1, "", "trial")
        self.type_seats(0, seats, "none")

    @rule(who=who, price=which, paid=st.sampled_from([1, 4]), random=randoms)
    def renew_typed_seats(self, who: int, price: int, paid: int, random: Any) -> None:
        """Before a renewal that is not paid."""
        self.use_card(who, "pm_card_visa")
        self.subscribe(who, [price], paid, "", "")
        self.use_card(who, "pm_card_chargeCustomerFail")
        self.type_seats(0, 50, "none")
        self.wait(29, 1, random)
        self.wait(3, 1, random)

    @rule(who=who, days=st.sampled_from([3, 12]), random=randoms)
    def fail_to_renew(self, who: int, days: int, random: Any) -> None:
        self.use_card(who, "pm_card_chargeCustomerFail")
        self.wait(29, 1, random)
        self.wait(days, 1, random)

    @rule(who=who, price=which)
    def edit_what_is_sold(self, who: int, price: int) -> None:
        """An owner's edit is for spans to come: what was paid for stays, where another subscription opens a window too.
        It is taken back before any begins."""
        self.reconcile()
        for times in (3, 1):
            for id in {*self.prices} - {self.prices[price]}:
                self.shop.post(f"prices/{id}", metadata=metadata_of(self.sold[id], times))
            if times > 1:
                self.subscribe(who, [price], 1, "", "")
            self.reconcile()

    @rule(pick=picks, elsewhere=st.booleans())
    def pay(self, pick: int, elsewhere: bool) -> None:
        if invoice := self.pick("invoices", pick, status="open"):
            way: dict[str, Any] = {"paid_out_of_band": True} if elsewhere else {"payment_method": "pm_card_visa"}
            self.attempt(f"invoices/{invoice['id']}/pay", **way)

    @rule(pick=picks, share=st.sampled_from([1, 1, 2]))
    def refund(self, pick: int, share: int) -> None:
        if charge := self.pick("charges", pick):
            left = charge["amount"] - charge["amount_refunded"]
            self.attempt("refunds", charge=charge["id"], amount=max(1, left // share))

    @rule(pick=picks, share=st.sampled_from([1, 2]), way=st.sampled_from(["refund", "credit", "out_of_band"]))
    def note(self, pick: int, share: int, way: str) -> None:
        if invoice := self.pick("invoices", pick, status="paid"):
            amount = max(1, invoice["total"] // share)
            self.attempt("credit_notes", invoice=invoice["id"], amount=amount, **{f"{way}_amount": amount})

    @rule(pick=picks, what=st.sampled_from(["open", "won", "lost", "resolution", "block", "refund fails"]))
    def dispute(self, pick: int, what: str) -> None:
        try:
            if what == "open" and (charge := self.pick("charges", pick)):
                self.account.dispute(charge["id"])
            elif what in ("resolution", "block") and (charge := self.pick("charges", pick)):
                self.account.dispute(charge["id"], prevented_by=what)
            elif what == "refund fails" and (refund := self.pick("refunds", pick)):
                self.account.fail_refund(refund["id"])
            elif what in ("won", "lost") and (found := self.pick("disputes", pick)):
                self.account.close_dispute(found["id"], won=what == "won")
        except StripeRefusal:
            pass

    @rule(days=st.sampled_from([0, 1, 4, 8, 29, 29]), seconds=st.integers(0, DAY - 1), random=randoms)
    def wait(self, days: int, seconds: int, random: Any) -> None:
        self._gather()
        self.account.advance(by=days * DAY + seconds)
        if seconds % 2:
            self.deliver_all(random)
        else:
            self._keep_time()

    @rule(who=who, share=st.sampled_from([30, 100]))
    def spend(self, who: int, share: int) -> None:
        """Use a share of what is left, as a call would: only where it is admitted."""
        self._keep_time()
        tenant = Tenant.objects.get(slug=TENANTS[who])
        window = self._window(tenant)
        if window is None or not (nanos := window.remaining_nanos * share // 100):
            return
        hold = factories.reserving(money.format_dollars(nanos), by=factories.caller(tenant))
        if ledger.reserve(hold, now=self.now).allowed:
            ledger.settle(factories.settling(hold.reservation_id, money.format_dollars(nanos)), now=self.now)
            self.used[tenant.slug] += nanos

    # What is heard of it -------------------------------------------------------------------------------------

    @rule(data=st.data())
    def deliver_some(self, data: st.DataObject) -> None:
        """A few of the events, in any order, some of them twice; the others are late or lost."""
        self._gather()
        self._hear(data.draw(st.lists(st.sampled_from(self.waiting), max_size=3)) if self.waiting else [])

    @rule(random=randoms)
    def deliver_all(self, random: Any) -> None:
        """All that happened since this was done last, lost ones included, as a back-fill brings them."""
        self._gather()
        random.shuffle(self.waiting)
        self._hear(self.waiting + self.waiting[:2])
        self.waiting.clear()
        self._keep_time()
        self._judge()

    @rule()
    def reconcile(self) -> None:
        assert not catch_up.reconcile(now=self.now).figures["failed"]
        self._judge()

    def _gather(self) -> None:
        """Events that are asked for and are new, before they are too old to be listed."""
        for event in self.account.events:
            if event["id"] not in self.seen and event["type"] in handlers.EVENT_TYPES:
                self.waiting.append(event)
                self.seen.add(event["id"])

    def _hear(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            store.store(envelope.parse(json.dumps(event)), now=self.now)
            store.process(event["id"], now=self.now)

    def _keep_time(self) -> None:
        sync.due(now=self.now)

    # What must hold ------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        for customer, slug in self.customers.items():
            tenant = Tenant.objects.get(slug=slug)
            window = self._window(tenant)
            if window is None:
                # Nobody who paid falls on another budget; who has left before anything was heard is stopped.
                has_paid = any(span.list_amount for span in self.account.books.paid(customer))
                assert not has_paid or tenant.status == Tenant.Status.SUSPENDED, slug
                continue
            spendable = window.remaining_nanos if tenant.status == Tenant.Status.ACTIVE else 0
            least, most = self.oracle.bounds(customer, self.account.now)
            told = BillingAccount.objects.filter(tenant=tenant).values("state", "reasons", "limit_nanos").first()
            about = [float(one) / USD for one in (least, spendable, window.committed_nanos, most)], told
            # What was used of a payment that went back is given; it is no part of what else is paid for.
            is_undone = any(one.in_force and one.customer == customer for one in self.account.books.undoings.values())
            used = 0 if is_undone else window.committed_nanos
            assert spendable <= max(Fraction(0), most - used) + ROUNDING, about
            assert spendable >= least - self.used[slug] - ROUNDING, about

    def _window(self, tenant: Tenant) -> BudgetWindow | None:
        return BudgetWindow.objects.select_related("budget").filter(budget__tenant=tenant, closed_at=None).first()


def test_what_was_paid_for_can_be_spent_and_no_more(db: None, settings_of_stripe: None) -> None:
    run_state_machine_as_test(
        # Always the same accounts, or the names of things would decide which. STRIPE_CUSTOMERS tries others.
        StripeCustomers if "STRIPE_CUSTOMERS" in os.environ else seed(1)(StripeCustomers),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=False,
            phases=[Phase.generate],
        ),
    )


@pytest.fixture
def settings_of_stripe(settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    settings.STRIPE_EXCHANGE_RATES = RATES
    # A downgrade takes what Stripe credits, and no more: what is paid for can be spent.
    settings.STRIPE_DOWNGRADE = "period_end"
