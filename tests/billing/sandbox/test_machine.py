"""Whatever is done at the simulated Stripe, its money adds up, and nothing that it shows contradicts itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from billing.sandbox import SimulatedStripe, StripeRefusal, store
from tests.billing.sandbox.conftest import DAY, START, Shop

CARDS = ("pm_card_visa", "pm_card_chargeCustomerFail", "pm_usBankAccount_success", "pm_usBankAccount_insufficientFunds")
BEHAVIOURS = ("create_prorations", "always_invoice", "none")
TIERS = [{"up_to": "5", "unit_amount": 700}, {"up_to": "inf", "unit_amount": 500, "flat_amount": 1000}]


class Customers(RuleBasedStateMachine):
    """Two customers who do whatever customers do, while time passes."""

    @initialize(currency=st.sampled_from(["usd", "jpy", "kwd"]))
    def begin(self, currency: str) -> None:
        self.account = SimulatedStripe(now=int(START.timestamp()), seed="machine")
        self.shop = Shop(self.account)
        about = {"currency": currency}
        self.prices = [
            self.shop.price(3100, **about),
            self.shop.price(9990, **about),
            self.shop.price(100_000, "year", **about),
            self.shop.price(700, "week", **about),
            self.shop.price(None, billing_scheme="tiered", tiers_mode="graduated", tiers=TIERS, **about),
            self.shop.price(None, billing_scheme="tiered", tiers_mode="volume", tiers=TIERS, **about),
            self.shop.price(2000, transform_quantity={"divide_by": 3, "round": "up"}, **about),
        ]
        self.shop.post("coupons", id="half", percent_off=50, duration="repeating", duration_in_months=2)
        self.shop.post("coupons", id="ten", amount_off=1000, currency=currency, duration="once")
        self.customers = [self.shop.customer(), self.shop.customer("pm_usBankAccount_success")]

    def attempt(self, path: str, **params: Any) -> dict[str, Any]:
        """What the API answers; what it refuses must have changed nothing, which the invariants see."""
        try:
            return self.shop.post(path, **params)
        except StripeRefusal:
            return {}

    def subs(self) -> list[dict[str, Any]]:
        return [sub for sub in self.shop.all("subscriptions") if sub["status"] != "incomplete_expired"]

    @rule(
        who=st.integers(0, 1),
        price=st.integers(0, 6),
        quantity=st.integers(1, 9),
        coupon=st.sampled_from(["", "half", "ten"]),
        trial=st.sampled_from([0, 0, 5]),
        anchor=st.sampled_from([0, 0, 3]),
    )
    def subscribe(self, who: int, price: int, quantity: int, coupon: str, trial: int, anchor: int) -> None:
        more: dict[str, Any] = {"discounts": [{"coupon": coupon}]} if coupon else {}
        more |= {"trial_period_days": trial} if trial else {}
        more |= {"billing_cycle_anchor": self.account.now + anchor * DAY} if anchor and not trial else {}
        items = [{"price": self.prices[price], "quantity": quantity}]
        self.attempt("subscriptions", customer=self.customers[who], items=items, **more)

    @rule(
        pick=st.integers(0, 5),
        price=st.integers(0, 6),
        quantity=st.integers(1, 9),
        how=st.sampled_from(BEHAVIOURS),
        pending=st.booleans(),
        anew=st.booleans(),
    )
    def change(self, pick: int, price: int, quantity: int, how: str, pending: bool, anew: bool) -> None:
        if subs := self.subs():
            sub = subs[pick % len(subs)]
            item = {"id": sub["items"]["data"][0]["id"], "price": self.prices[price], "quantity": quantity}
            more = {"payment_behavior": "pending_if_incomplete"} if pending else {}
            more |= {"billing_cycle_anchor": {"type": "now"}} if anew else {}
            self.attempt(f"subscriptions/{sub['id']}", items=[item], proration_behavior=how, **more)

    @rule(who=st.integers(0, 1), card=st.sampled_from(CARDS))
    def use_card(self, who: int, card: str) -> None:
        self.attempt(f"customers/{self.customers[who]}", invoice_settings={"default_payment_method": card})

    @rule(days=st.sampled_from([1, 4, 8, 32]), seconds=st.integers(0, 86_399))
    def wait(self, days: int, seconds: int) -> None:
        self.account.advance(by=days * DAY + seconds)

    @rule(pick=st.integers(0, 9), share=st.sampled_from([1, 2, 4]))
    def refund(self, pick: int, share: int) -> None:
        if charges := self.shop.all("charges"):
            charge = charges[pick % len(charges)]
            self.attempt("refunds", charge=charge["id"], amount=max(1, charge["amount"] // share))

    @rule(pick=st.integers(0, 9), out=st.booleans())
    def note(self, pick: int, out: bool) -> None:
        if invoices := self.shop.all("invoices", status="paid"):
            invoice = invoices[pick % len(invoices)]
            way = {"out_of_band_amount": 100} if out else {"credit_amount": 100}
            self.attempt("credit_notes", invoice=invoice["id"], amount=100, **way)

    @rule(pick=st.integers(0, 9), elsewhere=st.booleans())
    def pay(self, pick: int, elsewhere: bool) -> None:
        if invoices := self.shop.all("invoices", status="open"):
            way: dict[str, Any] = {"paid_out_of_band": True} if elsewhere else {"payment_method": "pm_card_visa"}
            self.attempt(f"invoices/{invoices[pick % len(invoices)]['id']}/pay", **way)

    @rule(pick=st.integers(0, 5), at_end=st.booleans())
    def leave(self, pick: int, at_end: bool) -> None:
        if subs := self.subs():
            id = subs[pick % len(subs)]["id"]
            if at_end:
                self.attempt(f"subscriptions/{id}", cancel_at_period_end=True)
            else:
                self.shop.delete(f"subscriptions/{id}", prorate=True)

    @invariant()
    def paid_lines_are_paid_invoices(self) -> None:
        books = self.account.books
        for id, payment in books.payments.items():
            assert sum(span.amount for span in books.spans if span.invoice == id) == payment.total

    @invariant()
    def every_paid_invoice_was_paid_by_something(self) -> None:
        for invoice in self.account.state.rows("invoice", status="paid"):
            noted = invoice["pre_payment_credit_notes_amount"]
            assert invoice["total"] == invoice["amount_paid"] + invoice["_from_balance"] + noted
            assert invoice["amount_remaining"] == 0

    @invariant()
    def a_balance_is_the_sum_of_its_movements(self) -> None:
        for customer in self.customers:
            row = self.shop.get(f"customers/{customer}")
            moved = self.account.state.rows("customer_balance_transaction", customer=customer)
            assert row["balance"] == sum(one["amount"] for one in moved)

    @invariant()
    def nothing_is_given_back_that_was_not_billed(self) -> None:
        """Whatever was changed, no item has got back more for a time than it was billed for it."""
        for item in self.account.state.tables["subscription_item"].values():
            assert all(debit["amount"] >= 0 for debit in item["_debits"])
        by_item: dict[str, int] = {}
        for line in self.account.state.tables["line_item"].values():
            by_item[line["_charge"].item] = by_item.get(line["_charge"].item, 0) + line["_charge"].amount
        for waiting in self.account.state.rows("invoiceitem", invoice=None):
            by_item[waiting["_charge"].item] = by_item.get(waiting["_charge"].item, 0) + waiting["amount"]
        # Each proration is rounded to the currency's steps by itself.
        assert all(total >= -500 for total in by_item.values()), by_item

    @invariant()
    def periods_hold_now(self) -> None:
        for sub in self.subs():
            for item in sub["items"]["data"]:
                assert item["current_period_start"] < item["current_period_end"]
                assert sub["status"] in ("incomplete", "paused") or item["current_period_end"] > self.account.now

    @invariant()
    def what_is_kept_is_what_there_is(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            store.save(self.account.state, path)
            again = store.load(path)
        assert again.books == self.account.books
        for kind, rows in self.account.state.tables.items():
            assert again.tables[kind] == rows


TestCustomers = Customers.TestCase
TestCustomers.settings = settings(max_examples=25, stateful_step_count=20)
