"""How much of what invoices charged stands on a payment. Pure.

What goes back takes what was paid with it, wherever that went: credits for it, and what they left on the customer's
balance, pay for later invoices, and those stand on it as well. Stripe credits what was never paid as it does what was:
that is no money.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from functools import partial
from itertools import pairwise

from billing.rules import refunds
from billing.rules.credits import Charge, charges_of
from billing.rules.grants import FIRST, age
from billing.rules.refunds import ALL, NOTHING, Known, Losses, Refund, RefundKind
from billing.stripe_api.objects import Line, StripeInvoice

Step = tuple[tuple[datetime, int, str, str], int, Callable[[], None]]


def of_invoices(invoices: Sequence[StripeInvoice], known: Sequence[Known]) -> Mapping[str, Refund]:
    """Invoice id -> what became of what paid it, for those that anything became of. `invoices` are of any status."""
    charges = charges_of(sorted(invoices, key=age))
    found = refunds.of_invoices(invoices, known, charges)

    def walk(later: Mapping[str, Losses]) -> dict[str, Refund]:
        return _Walk(charges, dict(found), dict(later)).along(invoices)

    later = _finalized_later(invoices, charges)
    if not later:
        return walk({})
    # A credit for a draft may leave on the balance what pays for that draft in turn.
    least, most = (walk(dict.fromkeys(later, one)) for one in (NOTHING, ALL))
    return walk({id: _between(_undone(least, id), _undone(most, id)) for id in later})


def _finalized_later(invoices: Sequence[StripeInvoice], charges: Mapping[str, Charge]) -> set[str]:
    """The invoices that were drafts when a credit for them was finalized, as a renewal is for an hour."""
    credits = ((charges[line.id][0], one) for one in invoices for line in one.lines if line.id in charges)
    return {charged.id for charged, one in credits if _finalized(charged) > _finalized(one)}


def _between(least: Losses, most: Losses) -> Losses:
    """How much of an invoice is undone, by how much would be if nothing or all of it were when it was credited: what
    its own credits paid of it is as much undone as the rest. Where they and what went back are all, no payment is."""
    rest = 1 - most.lost + least.lost
    return (least * (1 / rest)).at_most(1) if rest > 0 else ALL


def _undone(found: Mapping[str, Refund], id: str) -> Losses:
    return found[id].undone if id in found else NOTHING


class _Walk:
    """From the oldest invoice to the newest, with what of the customer's balance stands on no payment."""

    def __init__(self, charges: Mapping[str, Charge], found: dict[str, Refund], later: dict[str, Losses]) -> None:
        """`later`: how much is undone of invoices that are credited before the walk comes to them."""
        self._charges, self._found, self._later = charges, found, later
        # By currency.
        self._balances: dict[str, Losses] = defaultdict(Losses)

    def along(self, invoices: Sequence[StripeInvoice]) -> dict[str, Refund]:
        steps: list[Step] = []
        for number, invoice in enumerate(invoices):
            if invoice.status == "paid":
                steps.append((_finalized(invoice), number, partial(self._take, invoice)))
                if invoice.overpaid:
                    key = _added(invoice, invoice.paid_at, invoice.overpaid, invoices)
                    steps.append((key, -1, partial(self._keep_overpaid, invoice)))
            for at, amount in self._found[invoice.id].to_balance if invoice.id in self._found else ():
                key = _added(invoice, at, amount, invoices)
                steps.append((key, -1, partial(self._keep_note, invoice, amount)))
        for _, _, step in sorted(steps, key=lambda one: one[:2]):
            step()
        return self._found

    def _take(self, invoice: StripeInvoice) -> None:
        """What paid an invoice; and what it left of that."""
        most = max(0, invoice.total, invoice.amount_paid)
        charged = refunds.charged(most, invoice, self._charges)
        refund = self._found.get(invoice.id, Refund(RefundKind.NONE, charged=charged))
        credit, added = max(0, -invoice.balance_before), invoice.balance_before - invoice.balance_after
        balance = self._balances[invoice.currency].at_most(credit)
        drawn = balance * Fraction(min(credit, max(0, -added)), credit) if credit else NOTHING
        older, mine = self._credits(invoice)
        credits = {line.id: self._of_charge(line) for line in older}
        money = sum((credits[line.id] * -min(0, line.with_tax) for line in older), drawn)
        if refund.kind == RefundKind.PARTIAL and refund.refunded + money.lost >= refund.charged:
            # The rest of it was no payment: nothing is left that a refund in part could be a gift beside.
            refund = refunds.with_notes(replace(refund, kind=RefundKind.REFUNDED), invoice)
        whole = refund.charged - refund.noted
        refund = replace(refund, carried=money * (1 / whole) if whole > 0 else NOTHING)
        # What is not paid in full gave nothing that could be taken back.
        credits |= {line.id: ALL for line in older if not self._is_paid(line)}
        credits |= {line.id: refund.undone for line in mine}
        self._balances[invoice.currency] = balance + drawn * -1 + refund.undone * max(0, added)
        if refund.kind or refund.carried != NOTHING or any(one != NOTHING for one in credits.values()):
            self._found[invoice.id] = replace(refund, credits=credits)
        self._later.pop(invoice.id, None)

    def _credits(self, invoice: StripeInvoice) -> tuple[list[Line], list[Line]]:
        """The credits of an invoice that take back what another charged, if any did, and those for its own charges."""
        credits = [line for line in invoice.lines if line.credit and line.price.id and line.proration]
        mine = [line for line in credits if line.id in self._charges and self._charges[line.id][0] is invoice]
        return [line for line in credits if line not in mine], mine

    def _is_paid(self, credit: Line) -> bool:
        return credit.id in self._charges and self._charges[credit.id][0].status == "paid"

    def _of_charge(self, credit: Line) -> Losses:
        """How much was undone of what a credit takes back, or was never paid."""
        if credit.id not in self._charges:
            return ALL
        invoice, line = self._charges[credit.id]
        refund = self._found.get(invoice.id)
        if invoice.status != "paid":
            stands = max(0, invoice.amount_paid - (refund.refunded + refund.beside if refund else 0))
            charged = refunds.charged(max(1, invoice.total), invoice, self._charges)
            return Losses(lost=1 - min(Fraction(1), Fraction(stands, charged)))
        undone = self._later.get(invoice.id, _undone(self._found, invoice.id))
        return replace(undone, lost=Fraction(1)) if refund and refund.lines.get(line.id) == 1 else undone

    def _keep_overpaid(self, invoice: StripeInvoice) -> None:
        if invoice.id in self._found:
            self._balances[invoice.currency] += self._found[invoice.id].undone * invoice.overpaid

    def _keep_note(self, invoice: StripeInvoice, amount: int) -> None:
        """What a credit note put on the balance: what it credits was paid with, and what went back beside it."""
        refund = self._found[invoice.id]
        beyond = refund.beyond * Fraction(amount, sum(each for _, each in refund.to_balance))
        self._balances[invoice.currency] += (beyond + refund.carried * amount).at_most(amount)


def _finalized(invoice: StripeInvoice) -> tuple[datetime, int, str, str]:
    """Puts first what was finalized first: the balance pays then."""
    return invoice.finalized_at or invoice.created_at or FIRST, *age(invoice)[1:]


def _added(
    invoice: StripeInvoice, at: datetime | None, amount: int, invoices: Sequence[StripeInvoice]
) -> tuple[datetime, int, str, str]:
    """Puts what was added to the balance after all that was finalized by then; in the same second it is before the
    invoice that found so much more there than the one before it had left."""
    mine = _finalized(invoice)
    at = max(at or FIRST, mine[0])
    same = sorted((one for one in invoices if one.currency == invoice.currency), key=_finalized)
    found = (_finalized(one) for last, one in pairwise(same) if last.balance_after - one.balance_before >= amount)
    return next((key for key in found if key > mine and key[0] == at), (at, sys.maxsize, "", ""))


def lost(found: Mapping[str, Refund]) -> dict[str, Fraction]:
    """How much stands on no payment: of what invoices charged, by their ids; of lines that credit notes took whole, and
    of what credits took back, by those lines'."""
    notes = {id: share for one in found.values() for id, share in one.lines.items() if share == 1}
    return _by_id(found, lambda one: one.lost) | notes


def disputed(found: Mapping[str, Refund]) -> dict[str, Fraction]:
    """How much is in dispute, or was lost in one, by the same ids; with what was never paid."""
    return _by_id(found, lambda one: one.disputed)


def lost_in_dispute(found: Mapping[str, Refund]) -> dict[str, Fraction]:
    """How much was lost in a dispute, by the same ids."""
    return _by_id(found, lambda one: one.lost_in_dispute)


def _by_id(found: Mapping[str, Refund], of: Callable[[Losses], Fraction]) -> dict[str, Fraction]:
    credits = {id: of(share) for one in found.values() for id, share in one.credits.items()}
    return {id: of(one.undone) for id, one in found.items()} | credits
