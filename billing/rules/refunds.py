"""Which paid invoices were paid back, wholly or in part, and which are in dispute. Pure.

Stripe's newer charges do not name their invoice, nor its invoices their charges unless they are asked to, as with an
API key: then a charge that no invoice names belongs to none. Where nothing names the other a charge belongs to the
invoice of its customer that was paid with the same amount at about the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from fractions import Fraction

from billing.rules.credits import Charge
from billing.rules.grants import FIRST
from billing.stripe_api.objects import Line, StripeInvoice, StripePayment

# An inquiry takes no money yet, and what prevents a dispute need not: what either moved says it.
HARMLESS = ("prevented", "warning_needs_response", "warning_under_review", "warning_closed")
WON = "won"
# Any other that took money may still be won.
LOST = ("lost", "prevented", "warning_closed")
FAILED = ("failed", "canceled")
ABOUT_THEN = timedelta(days=3)


class RefundKind(IntEnum):
    """The higher says more about an invoice."""

    NONE = 0
    PARTIAL = 1
    REFUNDED = 2
    DISPUTED = 3

    @property
    def is_whole(self) -> bool:
        """Nothing of the payment is left, or what is in dispute may be taken any day: no budget stands on that."""
        return self >= RefundKind.REFUNDED


REASONS = {
    RefundKind.NONE: "",
    RefundKind.PARTIAL: "partial_refund",
    RefundKind.REFUNDED: "refunded",
    RefundKind.DISPUTED: "disputed",
}


@dataclass(frozen=True, slots=True)
class Losses:
    """Shares, or amounts: `lost` stands on no payment any more, `disputed` of it is in dispute or was lost in one, and
    `lost_in_dispute` was."""

    lost: Fraction = Fraction(0)
    disputed: Fraction = Fraction(0)
    lost_in_dispute: Fraction = Fraction(0)

    def __add__(self, other: Losses) -> Losses:
        return self._each(lambda name: getattr(self, name) + getattr(other, name))

    def __mul__(self, number: Fraction | int) -> Losses:
        return self._each(lambda name: getattr(self, name) * number)

    def at_most(self, most: int | Fraction) -> Losses:
        return self._each(lambda name: min(getattr(self, name), Fraction(most)))

    def _each(self, of: Callable[[str], Fraction]) -> Losses:
        return Losses(of("lost"), of("disputed"), of("lost_in_dispute"))


NOTHING = Losses()
# Of what was never paid.
ALL = Losses(lost=Fraction(1))


@dataclass(frozen=True, slots=True)
class Refund:
    """`refunded` of `paid` went back or is in dispute, in the currency's smallest unit. `charged`: what that and the
    credits of the same invoice paid for together, tax included. `beside`: what was refunded in part beside what is in
    dispute. `lines`: how much credit notes took of lines of the invoice, by their ids; `noted`: what of the refunded
    was for those that they took whole. `lost_share` of the refunded was lost in a dispute; `is_open`: another may still
    be won, and as it is then, what is refunded beside it is a gift. `carried` of what was charged was paid by credits
    for what was undone itself, or from the balance that they left; `credits`: how much was undone of what each took
    back, by its line's id. `to_balance`: when credit notes put how much on the balance; `beyond`: what went back in
    money beyond what these left of the payment, so that they stand on none."""

    kind: RefundKind
    refunded: int = 0
    paid: int = field(default=0, compare=False)
    charged: int = field(default=0, compare=False)
    beside: int = field(default=0, compare=False)
    lines: Mapping[str, Fraction] = field(default_factory=dict, compare=False)
    noted: Fraction = field(default=Fraction(0), compare=False)
    lost_share: Fraction = field(default=Fraction(0), compare=False)
    is_open: bool = field(default=False, compare=False)
    carried: Losses = NOTHING
    credits: Mapping[str, Losses] = field(default_factory=dict, compare=False)
    to_balance: Sequence[tuple[datetime, int]] = field(default=(), compare=False)
    beyond: Losses = field(default=NOTHING, compare=False)

    @property
    def reason(self) -> str:
        """What it is called: by what became of what credits took back where nothing did of its own payment."""
        if self.kind or not self.carried.lost:
            return REASONS[self.kind]
        return REASONS[RefundKind.DISPUTED] if self.carried.disputed else "credit_undone"

    @property
    def gone(self) -> Fraction:
        """How much of the payment went back or is in dispute, gifts included."""
        if self.paid <= 0:
            return Fraction(int(self.kind.is_whole))
        return min(Fraction(1), Fraction(self.refunded + self.beside, self.paid))

    @property
    def own(self) -> Losses:
        """Of what was charged, beside whole lines of credit notes, by what became of its own payment. What was refunded
        in part is a gift."""
        if not self.kind.is_whole:
            return NOTHING
        charged, noted = self.charged - self.noted, max(Fraction(0), self.noted - self.beside)
        if charged <= 0:
            return Losses(Fraction(1), Fraction(1) if self.is_open else self.lost_share, self.lost_share)
        lost = min(Fraction(1), max(Fraction(0), self.refunded - noted) / charged)
        in_dispute = min(lost, self.lost_share * self.refunded / charged)
        return Losses(lost, lost if self.is_open else in_dispute, in_dispute)

    @property
    def undone(self) -> Losses:
        """Of what was charged, beside whole lines of credit notes: what was used of that which was lost in a dispute is
        owed."""
        return (self.own + self.carried).at_most(1)


@dataclass(frozen=True, slots=True)
class Known:
    """A payment's object, and the second it was said in: what it tells of others may be out of date."""

    payment: StripePayment
    said_at_s: int


def of_invoices(
    invoices: Sequence[StripeInvoice], known: Sequence[Known], charges: Mapping[str, Charge]
) -> dict[str, Refund]:
    """Invoice id -> what became of its own payment, for those that anything became of."""
    found = {}
    links = _links(invoices, [one.payment for one in known])
    for invoice in invoices:
        mine = [one for one in known if links.get(one.payment.id) == invoice.id]
        refund = _of(max(invoice.total, invoice.amount_paid), invoice.credited, mine, before=invoice.credited_before)
        if refund.kind:
            notes = tuple(_to_balance(one.payment) for one in mine if one.payment.to_balance and _is_note(one.payment))
            lines = _credited(invoice, mine)
            refund = replace(refund, charged=charged(refund.paid, invoice, charges), lines=lines, to_balance=notes)
            found[invoice.id] = with_notes(refund, invoice)
    return found


def charged(paid: int, invoice: StripeInvoice, charges: Mapping[str, Charge]) -> int:
    """What was paid of an invoice in any way, and with credits. One for what it charged itself pays nothing."""
    mine = (line for line in invoice.lines if line.id not in charges or charges[line.id][0] is not invoice)
    return paid - sum(min(0, line.with_tax) for line in mine)


def with_notes(refund: Refund, invoice: StripeInvoice) -> Refund:
    return replace(refund, noted=_noted(refund, invoice))


def taken_back(gone: Refund, invoice: StripeInvoice, sold: Sequence[Line]) -> list[Fraction]:
    """How much went back of each of an invoice's lines that sold something once.

    A credit note says which lines it is of. What is refunded without one is of these before it is a gift of a plan's,
    so that what is left comes to what was paid; what nothing is a gift of, as a dispute, is of everything alike.
    """
    noted = [gone.lines.get(line.id, Fraction(0)) for line in sold]
    lost = gone.undone.lost
    if gone.kind == RefundKind.REFUNDED or lost == 1:
        return [max(share, lost) for share in noted]
    paid = _paid_for(gone, invoice)
    rest = Fraction(gone.beside if gone.kind == RefundKind.DISPUTED else gone.refunded)
    rest -= sum(paid(line, gone.lines.get(line.id, Fraction(0))) for line in invoice.lines)
    left = sum(paid(line, 1 - share) for line, share in zip(sold, noted, strict=True))
    each = min(Fraction(1), max(Fraction(0), rest / left)) if left else Fraction(0)
    return [min(Fraction(1), share + (1 - share) * each + lost) for share in noted]


def _noted(gone: Refund, invoice: StripeInvoice) -> Fraction:
    """What was for whole lines of credit notes, of what went back of all that was paid."""
    paid = _paid_for(gone, invoice)
    whole = (line for line in invoice.lines if gone.lines.get(line.id) == 1)
    return sum((paid(line, Fraction(1)) for line in whole if gone.kind.is_whole), Fraction(0))


def _paid_for(gone: Refund, invoice: StripeInvoice) -> Callable[[Line, Fraction], Fraction]:
    """What was paid for a share of one of an invoice's lines, with its part of the tax."""
    total = sum(max(0, line.with_tax) for line in invoice.lines)
    return lambda line, share: share * Fraction(gone.charged * max(0, line.with_tax), total) if total else Fraction(0)


def of_intent(intent_id: str, known: Sequence[Known]) -> Refund:
    """What became of a payment that has no invoice."""
    charges = {one.payment.charge_id for one in known if intent_id and one.payment.intent_id == intent_id} - {""}
    mine = [
        one for one in known if (intent_id and one.payment.intent_id == intent_id) or one.payment.charge_id in charges
    ]
    return _of(0, 0, mine)


def _of(paid: int, credited: int, mine: Sequence[Known], *, before: int = 0) -> Refund:
    disputes = [one.payment for one in mine if one.payment.kind == "dispute"]
    disputes = [one for one in disputes if _takes_money(one)]
    notes = [one.payment for one in mine if _is_note(one.payment)]
    noted, beside = sum(note.amount for note in notes), sum(note.unrefunded for note in notes)
    # A credit note's refund is in both sums; what was credited without one, or before there was a payment, is in the
    # notes alone.
    refunded = max(_refunded(mine) + beside + before, credited + before, noted)
    if refunded <= 0 and not disputes:
        return Refund(RefundKind.NONE)
    # Several payments of one invoice may come to more than it asked for; one that the balance paid in part, to less.
    charges = [one.payment for one in mine if one.payment.kind == "charge" and one.payment.status not in FAILED]
    paid = max(paid, sum(charge.amount for charge in charges))
    if not disputes:
        kind = RefundKind.REFUNDED if refunded >= paid else RefundKind.PARTIAL
        return Refund(kind, refunded, paid, paid, beyond=Losses(Fraction(max(0, refunded - paid))))
    disputed = _in_all(disputes, paid)
    gone, beside = (paid, 0) if disputed + refunded >= paid else (disputed, refunded)
    lost = [one for one in disputes if one.status in LOST]
    # Where nobody knows what was paid, all of it was lost, or none.
    share = Fraction(_in_all(lost, gone), gone) if gone > 0 else Fraction(int(bool(lost)))
    is_open = len(lost) < len(disputes)
    over, lost_over = (Fraction(max(0, one + refunded - paid)) for one in (disputed, _in_all(lost, paid)))
    beyond = Losses(over, over if is_open else lost_over, lost_over if lost else Fraction(0))
    return Refund(RefundKind.DISPUTED, gone, paid, paid, beside, lost_share=share, is_open=is_open, beyond=beyond)


def _is_note(payment: StripePayment) -> bool:
    return payment.kind == "credit_note" and payment.status != "void"


def _to_balance(note: StripePayment) -> tuple[datetime, int]:
    return note.created_at or FIRST, note.to_balance


def _takes_money(dispute: StripePayment) -> bool:
    """Whether a dispute has its money: by what it moved of the business's balance, where it says that."""
    if dispute.status == WON:
        return False
    return dispute.status not in HARMLESS if dispute.moved is None else dispute.moved < 0


def _in_all(disputes: Sequence[StripePayment], most: int) -> int:
    """What disputes are about together. One that does not say how much that is is about all."""
    amounts = [one.amount if one.amount > 0 else most for one in disputes]
    return min(most, sum(amounts))


def _credited(invoice: StripeInvoice, mine: Sequence[Known]) -> dict[str, Fraction]:
    """How much of each line credit notes took."""
    notes = [one.payment for one in mine if _is_note(one.payment)]
    listed = {line.id: line.listed for line in invoice.lines if line.listed > 0}
    found: dict[str, Fraction] = {}
    for id, amount in (pair for note in notes for pair in note.lines if pair[0] in listed):
        found[id] = min(Fraction(1), found.get(id, Fraction(0)) + Fraction(max(0, amount), listed[id]))
    return found


def _refunded(mine: Sequence[Known]) -> int:
    """What charges say was refunded, less refunds that failed since they said so."""
    total = 0
    for one in mine:
        if one.payment.kind != "charge":
            continue
        failed = [
            other.payment.amount
            for other in mine
            if other.payment.kind == "refund"
            and other.payment.status in FAILED
            and other.payment.charge_id in ("", one.payment.id)
            and other.said_at_s >= one.said_at_s
        ]
        total += max(0, one.payment.refunded - sum(failed))
    return total


def _links(invoices: Sequence[StripeInvoice], payments: Sequence[StripePayment]) -> dict[str, str]:
    """Payment object id -> invoice id."""
    owner: dict[str, str] = {}
    for invoice in invoices:
        owner.update(dict.fromkeys((invoice.id, *invoice.payments), invoice.id))
    # A charge ties the names that it has together, for those who know only one of them.
    for payment in payments:
        found = _first(owner, (payment.invoice_id, payment.charge_id, payment.intent_id))
        if found:
            owner.update({name: found for name in (payment.charge_id, payment.intent_id) if name})
    taken = {invoice.id for invoice in invoices if invoice.payments or invoice.tells_payments}
    for payment in sorted(payments, key=lambda one: one.id):
        names = (payment.invoice_id, payment.charge_id, payment.intent_id)
        if payment.kind not in ("charge", "dispute") or payment.status in FAILED or _first(owner, names):
            continue
        if (guess := _alike(payment, invoices, taken)) is not None:
            owner.update({name: guess for name in names if name})
            taken.add(guess)
    return {
        payment.id: found
        for payment in payments
        if (found := _first(owner, (payment.invoice_id, payment.charge_id, payment.intent_id)))
    }


def _first(owner: Mapping[str, str], names: Iterable[str]) -> str:
    return next((owner[name] for name in names if name and name in owner), "")


def _alike(payment: StripePayment, invoices: Sequence[StripeInvoice], taken: set[str]) -> str | None:
    """The invoice paid with this amount about then, the nearest; a dispute comes later than its payment."""
    near = [
        (min(abs(payment.created_at - at) for at in (invoice.created_at, invoice.paid_at) if at), invoice.id)
        for invoice in invoices
        if payment.created_at is not None
        and (invoice.created_at or invoice.paid_at)
        and invoice.id not in taken
        and invoice.amount_paid == payment.amount > 0
        and invoice.currency in ("", payment.currency)
    ]
    near = [one for one in near if payment.kind == "dispute" or one[0] <= ABOUT_THEN]
    return min(near)[1] if near else None
