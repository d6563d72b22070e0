"""What each customer paid for, and what of it was undone: the stand-in's own bookkeeping.

Written at the moment of payment from the lines themselves, and read by whoever wants to judge what a product makes of
Stripe's objects: it shares no code and no thought with `billing.rules`. Amounts are in the currency's smallest unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any


@dataclass(slots=True)
class PaidSpan:
    """A line of a paid invoice: so much was charged, net of discounts, for an item from `start` to `end` (Unix time).

    `amount` is below nothing for a credit for time that was paid for before. `whole_amount` is what its price charges
    for a whole interval at this quantity, without discounts; None where a price says none by itself. `arrears`: for
    usage of that time. `item` is empty for what belongs to no subscription. `gives_back`: the line that a credit is
    for, where it was on an invoice before.
    """

    customer: str
    subscription: str
    item: str
    price: str
    product: str
    quantity: int
    start: int
    end: int
    amount: int
    list_amount: int
    whole_amount: int | None
    currency: str
    interval: str
    interval_count: int
    proration: bool
    arrears: bool
    trial: bool
    invoice: str
    line: str
    paid_at: int
    gives_back: str = ""

    @property
    def starts_at(self) -> datetime:
        return datetime.fromtimestamp(self.start, UTC)

    @property
    def ends_at(self) -> datetime:
        return datetime.fromtimestamp(self.end, UTC)


@dataclass(slots=True)
class Undoing:
    """A refund, credit note or dispute. It is `in_force` until it fails, is voided, or is won."""

    id: str
    kind: str
    customer: str
    invoice: str
    charge: str
    amount: int
    at: int
    in_force: bool = True
    # Of a credit note: the refund that carries its money back, which would count twice.
    carried_by: str = ""


@dataclass(slots=True)
class PaidInvoice:
    """How an invoice was paid: in money, from the customer's balance, or outside Stripe."""

    invoice: str
    customer: str
    total: int
    cash: int
    balance: int
    off_stripe: int
    at: int


@dataclass(slots=True)
class StripeBooks:
    spans: list[PaidSpan] = field(default_factory=list)
    payments: dict[str, PaidInvoice] = field(default_factory=dict)
    undoings: dict[str, Undoing] = field(default_factory=dict)

    def paid(self, customer: str, *, at: int | None = None) -> list[PaidSpan]:
        """What a customer has paid for; with `at` only what covers that moment (Unix time)."""
        return [
            span
            for span in self.spans
            if span.customer == customer and (at is None or span.start <= at < max(span.end, span.start + 1))
        ]

    def undone(self, invoice: str) -> list[Undoing]:
        """What is in force against an invoice, each thing once."""
        found = [one for one in self.undoings.values() if one.invoice == invoice and one.in_force]
        return [one for one in found if not (one.carried_by and self._is_in_force(one.carried_by))]

    def share_undone(self, invoice: str) -> Fraction:
        """How much of what an invoice charged has gone back or may be taken, from 0 to 1.

        A dispute takes the charge that it is about; the total is what was charged, however it was paid.
        """
        payment = self.payments.get(invoice)
        if payment is None or payment.total <= 0:
            return Fraction(0)
        return min(Fraction(1), Fraction(sum(one.amount for one in self.undone(invoice)), payment.total))

    def _is_in_force(self, id: str) -> bool:
        return id in self.undoings and self.undoings[id].in_force

    def to_json(self, customers: Iterable[str] | None = None) -> dict[str, Any]:
        wanted = None if customers is None else set(customers)

        def of(rows: Iterable[Any]) -> list[dict[str, Any]]:
            return [asdict(row) for row in rows if wanted is None or row.customer in wanted]

        return {
            "spans": of(self.spans),
            "payments": of(self.payments.values()),
            "undoings": of(self.undoings.values()),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StripeBooks:
        return cls(
            spans=[PaidSpan(**row) for row in data["spans"]],
            payments={row["invoice"]: PaidInvoice(**row) for row in data["payments"]},
            undoings={row["id"]: Undoing(**row) for row in data["undoings"]},
        )
