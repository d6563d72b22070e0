"""Which charge each credit takes back. Pure.

A credit names the invoice of its charge in newer versions alone; in all of them it is of the same price and ends with
what it takes back, and Stripe credits a whole line at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from billing.rules.grants import FIRST
from billing.stripe_api.objects import Line, StripeInvoice

Charge = tuple[StripeInvoice, Line]


def charges_of(invoices: Iterable[StripeInvoice]) -> Mapping[str, Charge]:
    """The id of a credit on a paid invoice -> the charge that it takes back, where one is known, paid or not.

    `invoices` are of any status, in the order that they were made in: a draft is finalized after a change to it.
    """
    found: dict[str, Charge] = {}
    standing: dict[tuple[str, str, datetime | None], list[Charge]] = defaultdict(list)
    for invoice in invoices:
        # What is charged and taken back at once is of this invoice, and found once older ones have nothing left.
        priced = [line for line in invoice.lines if line.price.id]
        lines = sorted(priced, key=lambda line: line.starts_at or FIRST, reverse=True)
        own: dict[tuple[str, str, datetime | None], list[Charge]] = defaultdict(list)
        for line in lines:
            if not line.credit:
                own[_key(line, invoice)].append((invoice, line))
        for line in reversed(lines):
            if (
                invoice.status == "paid"
                and line.credit
                and (charges := standing[_key(line, invoice)] or own[_key(line, invoice)])
            ):
                found[line.id] = charges.pop()
        for key, charges in own.items():
            standing[key] += reversed(charges)
    return found


def _key(line: Line, invoice: StripeInvoice) -> tuple[str, str, datetime | None]:
    return line.subscription_id or invoice.subscription_id, line.price.id, line.ends_at
