"""Which charge each credit takes back. Pure.

A credit names the invoice of its charge in newer versions alone; in all of them it is of the same price and, but for a
change before its time and an end that was set before, ends with what it takes back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction

from billing.rules.grants import FIRST, between
from billing.stripe_api.objects import Line, StripeInvoice

Charge = tuple[StripeInvoice, Line]
Key = tuple[str, str, datetime | None]


def charges_of(invoices: Iterable[StripeInvoice]) -> Mapping[str, Charge]:
    """The id of a credit on a paid invoice -> the charge that it takes back, where one is known, paid or not.

    `invoices` are of any status, in the order that they were made in: a draft is finalized after a change to it.
    """
    found: dict[str, Charge] = {}
    standing: dict[Key, list[Charge]] = defaultdict(list)
    billed: list[Charge] = []
    for invoice in invoices:
        # What is charged and taken back at once is of this invoice, and found once older ones have nothing left.
        priced = [line for line in invoice.lines if line.price.id]
        lines = sorted(priced, key=lambda line: line.starts_at or FIRST, reverse=True)
        charges = [(invoice, line) for line in lines if not line.credit]
        own: dict[Key, list[Charge]] = defaultdict(list)
        for one in charges:
            own[_key(one[1], invoice)].append(one)
        for line in reversed(lines if invoice.status == "paid" else []):
            key = _key(line, invoice)
            if line.credit and (left := standing.get(key) or own.get(key)):
                found[line.id] = left.pop()
            elif line.credit and key not in standing and (around := _around(line, invoice, billed)):
                found[line.id] = around
        billed += charges
        for key, left in own.items():
            standing[key] += reversed(left)
    return found


def paid_with(invoice: StripeInvoice) -> Fraction:
    """How much of what an invoice charges credit paid, of its own lines or of the customer's balance."""
    charged = sum(max(0, line.with_tax) for line in invoice.lines)
    credit = sum(-min(0, line.with_tax) for line in invoice.lines)
    credit += min(max(0, -invoice.balance_before), max(0, invoice.balance_after - invoice.balance_before))
    return min(Fraction(1), Fraction(credit, charged)) if charged else Fraction(0)


def _key(line: Line, invoice: StripeInvoice) -> Key:
    return line.subscription_id or invoice.subscription_id, line.price.id, line.ends_at


def _around(credit: Line, invoice: StripeInvoice, billed: Sequence[Charge]) -> Charge | None:
    """The last charge of which a credit takes back a part that ends before it does."""
    span, key = between(credit.starts_at, credit.ends_at), _key(credit, invoice)[:2]
    same = (
        (one, between(one[1].starts_at, one[1].ends_at)) for one in reversed(billed) if _key(one[1], one[0])[:2] == key
    )
    return next((one for one, whole in same if span and whole and whole.overlap(span) == span.length), None)
