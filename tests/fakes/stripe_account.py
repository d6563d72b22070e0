"""A customer's life at Stripe, simulated plainly: its objects as the API answers, and the events they cause.

One month is thirty days. `payments` is the truth that budgets are held against, kept apart from the objects: how
many nanodollars of budget were paid for which time, computed at the moment of payment from the plans alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from billing.stripe_api.client import CustomerSnapshot
from tests.billing import events

MONTH = timedelta(days=30)
CENTS = {"price_standard": 5_000, "price_premium": 20_000, "price_seats": 1_000, "price_topup": 2_000}


@dataclass
class Paid:
    """`nanos` of budget paid for `[starts_at, ends_at)` with `cents`, both less than nothing for a credit, which is
    `of` what it takes back, where that was paid."""

    invoice_id: str
    subscription_id: str
    price: str
    quantity: int
    starts_at: datetime
    ends_at: datetime
    nanos: int
    cents: int
    of: Paid | None = None


@dataclass
class Sub:
    id: str
    price: str
    quantity: int
    starts_at: datetime
    ends_at: datetime
    status: str = "active"
    trial: tuple[datetime, datetime] | None = None
    ends_with_period: bool = False
    # Proration lines that wait for the next invoice: price, quantity, from, to, and whether they are a credit.
    pending: list[tuple[str, int, datetime, datetime, bool]] = field(default_factory=list)


class StripeAccount:
    """`values` are the plans: nanodollars of budget for a month of one unit of a price."""

    def __init__(self, values: dict[str, int], now: datetime, customer: str = "cus_acme", tenant: str = "acme") -> None:
        self.values, self.now, self.customer, self.tenant = values, now, customer, tenant
        self.subs: list[Sub] = []
        self.invoices: dict[str, dict[str, Any]] = {}
        self.charges: dict[str, dict[str, Any]] = {}
        self.disputes: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.payments: list[Paid] = []
        self.card_works = True
        # The most that a plan of this customer has ever come to, in nanodollars a month.
        self.highest_nanos = 0
        self._ids = itertools.count(1)

    # What the API answers ---------------------------------------------------------------------------------

    def snapshot(self) -> CustomerSnapshot:
        customer = {"id": self.customer, "object": "customer", "metadata": {"tenant_id": self.tenant}}
        paid = [one for one in self.invoices.values() if one["status"] == "paid"]
        return CustomerSnapshot(
            customer,
            tuple(self._object(sub) for sub in self.subs),
            tuple(_plain(one) for one in paid),
            (*self.charges.values(), *self.disputes.values()),
        )

    def price(self, id: str) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if id == "price_seats":
            more = {"metadata": {"llm_budget_usd": str(self.values[id] // 10**9), "llm_budget_per_unit": "true"}}
        if id == "price_topup":
            more = {"metadata": {"llm_topup_usd": "20"}, "recurring": None, "type": "one_time"}
        return events.price_of(id, unit_amount=CENTS[id], **more)

    @property
    def sub(self) -> Sub | None:
        """The subscription that lives."""
        return next((sub for sub in self.subs if sub.status != "canceled"), None)

    def disputed(self) -> set[str]:
        """The invoices of charges that are in dispute, or were lost in one."""
        return {one["charge"].removeprefix("ch_") for one in self.disputes.values() if one["status"] != "won"}

    def standing(self, undone: set[str]) -> list[tuple[Paid, Fraction]]:
        """What was paid, and how much of it stands where some invoices' charges went back: what credits for that paid
        for does not."""
        lost: dict[int, Fraction] = {}
        found = []
        for invoice, group in itertools.groupby(self.payments, key=lambda one: one.invoice_id):
            lines = list(group)
            older = [one for one in lines if one.cents < 0 and (one.of is None or one.of.invoice_id != invoice)]
            charged = sum(one.cents for one in lines)
            paid = max(0, charged) - sum(one.cents for one in older)
            gone = Fraction(max(0, charged) if invoice in undone else 0)
            gone -= sum(one.cents * lost.get(id(one.of), 1) for one in older)
            share = gone / paid if paid else Fraction(0)
            for one in lines:
                lost[id(one)] = lost.get(id(one.of), Fraction(1)) if one in older else share
                found.append((one, 1 - lost[id(one)]))
        return found

    # What customers do --------------------------------------------------------------------------------------

    def sign_up(self, price: str, quantity: int, *, trial_days: int = 0) -> None:
        ends_at = self.now + (timedelta(days=trial_days) if trial_days else MONTH)
        sub = Sub(f"sub_{next(self._ids)}", price, quantity, self.now, ends_at)
        self.subs.append(sub)
        self.highest_nanos = max(self.highest_nanos, self.value(price, quantity))
        if trial_days:
            sub.status, sub.trial = "trialing", (self.now, ends_at)
            self._send("customer.subscription.created", self._object(sub))
            self._bill(sub, "subscription_create", [(price, quantity, self.now, ends_at, False)], free=True)
            return
        sub.status = "incomplete"
        self._send("customer.subscription.created", self._object(sub))
        if self._bill(sub, "subscription_create", [(price, quantity, self.now, ends_at, False)]):
            sub.status = "active"
            self._send("customer.subscription.updated", self._object(sub))

    def change(self, price: str, quantity: int, how: str) -> None:
        """Another price or quantity in mid-period: prorated and invoiced now, with the next invoice, or for nothing."""
        sub = self.sub
        if sub is None or sub.status not in ("active", "trialing") or (price, quantity) == (sub.price, sub.quantity):
            return
        lines = [
            (sub.price, sub.quantity, self.now, sub.ends_at, True),
            (price, quantity, self.now, sub.ends_at, False),
        ]
        sub.price, sub.quantity = price, quantity
        self.highest_nanos = max(self.highest_nanos, self.value(price, quantity))
        self._send("customer.subscription.updated", self._object(sub))
        if sub.status == "trialing" or how == "none":
            return
        if how == "now":
            self._bill(sub, "subscription_update", lines, proration=True)
        else:
            sub.pending += lines

    def reset_anchor(self) -> None:
        """The billing period begins anew now: unused time is credited, a whole period is billed."""
        sub = self.sub
        if sub is None or sub.status != "active":
            return
        credit = (sub.price, sub.quantity, self.now, sub.ends_at, True)
        sub.starts_at, sub.ends_at = self.now, self.now + MONTH
        self._send("customer.subscription.updated", self._object(sub))
        whole = (sub.price, sub.quantity, sub.starts_at, sub.ends_at, False)
        self._bill(sub, "subscription_update", [whole], more=[credit])

    def cancel(self, *, at_period_end: bool) -> None:
        sub = self.sub
        if sub is None:
            return
        sub.ends_with_period = at_period_end
        if at_period_end:
            self._send("customer.subscription.updated", self._object(sub))
        else:
            self._end(sub)

    def recover(self) -> None:
        """The card works again, and what is open is paid."""
        self.card_works = True
        sub = self.sub
        if sub is None or sub.status not in ("past_due", "incomplete"):
            return
        for invoice in self.invoices.values():
            if invoice["status"] == "open" and invoice["metadata"]["sub"] == sub.id:
                self._collect(invoice)
        sub.status = "active"
        self._send("customer.subscription.updated", self._object(sub))

    def top_up(self) -> None:
        if self.card_works:
            lines = [("price_topup", 1, self.now, self.now, False)]
            self._bill(None, "manual", lines)

    # What happens to them -----------------------------------------------------------------------------------

    def pass_time(self, span: timedelta) -> None:
        until = self.now + span
        while (sub := self.sub) is not None and sub.ends_at <= until:
            self.now = max(self.now, sub.ends_at)
            if sub.ends_with_period or sub.status == "incomplete":
                self._end(sub)
                continue
            if sub.status == "past_due":
                # Unpaid for a whole period: Stripe gives up.
                self._end(sub)
                continue
            sub.starts_at, sub.ends_at, sub.status = sub.ends_at, sub.ends_at + MONTH, "active"
            self._send("customer.subscription.updated", self._object(sub))
            pending, sub.pending = sub.pending, []
            whole = (sub.price, sub.quantity, sub.starts_at, sub.ends_at, False)
            if not self._bill(sub, "subscription_cycle", [whole], more=pending):
                sub.status = "past_due"
                self._send("customer.subscription.updated", self._object(sub))
        self.now = until

    def refund(self, share: int) -> None:
        """Pay back `share` percent of the newest charge."""
        charge = next((one for one in reversed(self.charges.values()) if not one["amount_refunded"]), None)
        if charge is None or charge["disputed"]:
            return
        charge["amount_refunded"] = charge["amount"] * share // 100
        charge["refunded"] = share == 100
        self._send("charge.refunded", charge)

    def fail_refund(self) -> None:
        charge = next((one for one in self.charges.values() if one["amount_refunded"]), None)
        if charge is None:
            return
        amount, charge["amount_refunded"], charge["refunded"] = charge["amount_refunded"], 0, False
        refund = {
            "id": f"re_{next(self._ids)}",
            "object": "refund",
            "charge": charge["id"],
            "amount": amount,
            "payment_intent": charge["payment_intent"],
            "status": "failed",
        }
        self._send("refund.failed", refund)

    def dispute(self) -> None:
        charge = next((one for one in reversed(self.charges.values()) if not one["disputed"]), None)
        if charge is None or charge["amount_refunded"]:
            return
        charge["disputed"] = True
        made = {
            "id": f"dp_{next(self._ids)}",
            "object": "dispute",
            "charge": charge["id"],
            "amount": charge["amount"],
            "payment_intent": charge["payment_intent"],
            "status": "needs_response",
            "created": self._seconds(),
            "balance_transactions": [],
        }
        self.disputes[made["id"]] = made
        self._send("charge.dispute.created", made)

    def close_dispute(self, *, won: bool) -> None:
        found = next((one for one in self.disputes.values() if one["status"] == "needs_response"), None)
        if found is None:
            return
        found["status"] = "won" if won else "lost"
        self._send("charge.dispute.closed", found)

    # Parts --------------------------------------------------------------------------------------------------

    def _end(self, sub: Sub) -> None:
        sub.status = "canceled"
        self._send("customer.subscription.deleted", self._object(sub))

    def _bill(
        self,
        sub: Sub | None,
        reason: str,
        lines: list[tuple[str, int, datetime, datetime, bool]],
        *,
        more: list[tuple[str, int, datetime, datetime, bool]] | None = None,
        proration: bool = False,
        free: bool = False,
    ) -> bool:
        """Make an invoice of the lines (and of waiting prorations) and try to collect it; whether it is paid."""
        id = f"in_{next(self._ids)}"
        listed = [self._line(id, sub, line, proration) for line in lines]
        listed += [self._line(id, sub, line, True) for line in more or []]
        if free:
            for line in listed:
                line["amount"] = 0
        details = {"type": "subscription_details", "subscription_details": {"subscription": sub.id}} if sub else None
        invoice = {
            "id": id,
            "object": "invoice",
            "number": f"ACME-{len(self.invoices) + 1:04}",
            "customer": self.customer,
            "status": "open",
            "billing_reason": reason,
            "created": self._seconds(),
            "currency": "usd",
            "amount_paid": 0,
            "metadata": {"sub": sub.id if sub else ""},
            "parent": details,
            "lines": {"object": "list", "data": listed},
        }
        self.invoices[id] = invoice
        if self.card_works or free:
            self._collect(invoice, free=free)
            return True
        self._send("invoice.payment_failed", invoice)
        return False

    def _collect(self, invoice: dict[str, Any], *, free: bool = False) -> None:
        lines = invoice["lines"]["data"]
        invoice["status"], invoice["amount_paid"] = "paid", max(0, sum(line["amount"] for line in lines))
        if not free:
            for line in lines:
                self._count(invoice, line)
        if invoice["amount_paid"]:
            charge = {
                "id": f"ch_{invoice['id']}",
                "object": "charge",
                "customer": self.customer,
                "status": "succeeded",
                "amount": invoice["amount_paid"],
                "amount_refunded": 0,
                "refunded": False,
                "disputed": False,
                "currency": "usd",
                "payment_intent": f"pi_{invoice['id']}",
                "created": self._seconds(),
            }
            self.charges[charge["id"]] = charge
            payment = {"type": "payment_intent", "payment_intent": charge["payment_intent"]}
            invoice["payments"] = {"object": "list", "data": [{"object": "invoice_payment", "payment": payment}]}
        self._send("invoice.paid", invoice)

    def _count(self, invoice: dict[str, Any], line: dict[str, Any]) -> None:
        price, quantity, starts_at, ends_at, credit = line["metadata"]["truth"]
        if price == "price_topup":
            return
        nanos = self.value(price, quantity) * ((ends_at - starts_at) // timedelta(seconds=1))
        nanos //= MONTH // timedelta(seconds=1)
        sub, sign = invoice["metadata"]["sub"], -1 if credit else 1
        paid = Paid(invoice["id"], sub, price, quantity, starts_at, ends_at, sign * nanos, line["amount"])
        if credit:
            taken_back = {id(one.of) for one in self.payments}
            what = price, quantity, ends_at, True
            same = [one for one in self.payments if (one.price, one.quantity, one.ends_at, one.cents > 0) == what]
            paid.of = next((one for one in reversed(same) if id(one) not in taken_back), None)
        self.payments.append(paid)

    def value(self, price: str, quantity: int) -> int:
        return self.values[price] * (quantity if price == "price_seats" else 1)

    def _line(
        self, id: str, sub: Sub | None, line: tuple[str, int, datetime, datetime, bool], proration: bool
    ) -> dict[str, Any]:
        price, quantity, starts_at, ends_at, credit = line
        cents = CENTS[price] * quantity
        if sub is not None:
            cents = cents * ((ends_at - starts_at) // timedelta(seconds=1)) // (MONTH // timedelta(seconds=1))
        details = {"subscription": sub.id, "proration": proration} if sub else {}
        return {
            "id": f"il_{next(self._ids)}",
            "object": "line_item",
            "amount": -cents if credit else cents,
            "currency": "usd",
            "quantity": quantity,
            "metadata": _Hidden(truth=line),
            "period": {"start": int(starts_at.timestamp()), "end": int(ends_at.timestamp())},
            "parent": {"type": "subscription_item_details", "subscription_item_details": details} if sub else None,
            "pricing": {"type": "price_details", "price_details": {"price": price, "product": f"prod_{price[6:]}"}},
        }

    def _object(self, sub: Sub) -> dict[str, Any]:
        trial = sub.trial or (None, None)
        return events.subscription(
            customer=self.customer,
            subscription=sub.id,
            price=self.price(sub.price),
            quantity=sub.quantity,
            period_start=sub.starts_at,
            period_end=sub.ends_at,
            status=sub.status,
            metadata={"tenant_id": self.tenant},
            cancel_at_period_end=sub.ends_with_period,
            trial_start=trial[0] and events.seconds(trial[0]),
            trial_end=trial[1] and events.seconds(trial[1]),
        )

    def _seconds(self) -> int:
        return events.seconds(self.now)

    def _send(self, kind: str, data: dict[str, Any]) -> None:
        id = f"evt_{next(self._ids):06d}_{self.customer}"
        self.events.append(events.event(kind, _plain(data), created=self.now, id=id))


class _Hidden(dict[str, Any]):
    """The fake's own note on a line, which no event carries."""


def _plain(data: Any) -> Any:
    """A copy as it is now, without the fake's notes."""
    if isinstance(data, _Hidden):
        return {}
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list) else data
