"""What an invoice brought in, and when it counts: net of tax and of what went back, spread over what it pays for. Pure.

Amounts are integers of the nano-unit of the invoice's currency (10^-9 dollars for USD). An annual invoice counts
month by month as its time passes; a line without a period, such as a top-up, counts when it was paid. A paid invoice
counts with its total, also where the customer's balance paid it: what a downgrade or credit note put there was taken
off the invoice it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from billing.rules.refunds import Refund
from billing.rules.valuation import DECIMALS
from billing.stripe_api import objects

USD = "usd"
NANO_DECIMALS = 9
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class BilledShare:
    """A part of a bill and the time it pays for; without one it counts at once. Credits are less than nothing."""

    weight: int
    starts_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Bill:
    """What is left of an invoice's payment, and what it was for."""

    currency: str
    net_nanos: int
    paid_at: datetime | None
    shares: tuple[BilledShare, ...]


def bill(data: Mapping[str, Any], refund: Refund | None = None) -> Bill:
    """Read a paid invoice of any shape. `refund` is what became of its payment; what is in dispute is not ours now."""
    read = objects.invoice(data)
    net, gross = _without_tax(data, read.amount_paid)
    back = refund.refunded + refund.beside if refund else read.credited
    currency = read.currency.lower() or USD
    nanos = net * 10 ** (NANO_DECIMALS - DECIMALS.get(currency, 2))
    paid_at = objects.moment(objects.mapping(data.get("status_transitions")).get("paid_at"))
    return Bill(
        currency=currency,
        net_nanos=nanos - nanos * min(back, gross) // gross if gross > 0 else nanos,
        paid_at=paid_at or read.created_at or read.starts_at,
        shares=tuple(_share(line) for line in read.lines if line.amount),
    )


def within(bill: Bill, starts_at: datetime | None, ends_at: datetime | None) -> int:
    """Nano-units that count in `[starts_at, ends_at)`; None leaves that side open. Neighbours add up to the whole."""
    upto = bill.net_nanos if ends_at is None else _until(bill, ends_at)
    return upto - (0 if starts_at is None else _until(bill, starts_at))


def total(bills: Iterable[Bill], starts_at: datetime | None, ends_at: datetime | None) -> dict[str, int]:
    """Currency -> nano-units within the period, for the currencies that anything counts in."""
    found: dict[str, int] = {}
    for one in bills:
        found[one.currency] = found.get(one.currency, 0) + within(one, starts_at, ends_at)
    return {currency: nanos for currency, nanos in sorted(found.items()) if nanos}


def _until(bill: Bill, at: datetime) -> int:
    """What has counted before `at`."""
    whole = sum(share.weight for share in bill.shares)
    if whole == 0:
        return bill.net_nanos if _passed(bill.paid_at, at) else 0
    counted = reached = 0
    for share in bill.shares:
        # Each line's part is the step between two roundings, so that the parts add up to the bill.
        before, reached = bill.net_nanos * reached // whole, reached + share.weight
        part = bill.net_nanos * reached // whole - before
        counted += _elapsed(share, part, bill.paid_at, at)
    return counted


def _elapsed(share: BilledShare, part: int, paid_at: datetime | None, at: datetime) -> int:
    if share.starts_at is None or share.ends_at is None:
        return part if _passed(paid_at, at) else 0
    passed = min(max(at, share.starts_at), share.ends_at) - share.starts_at
    return part * (passed // MICROSECOND) // ((share.ends_at - share.starts_at) // MICROSECOND)


def _passed(moment: datetime | None, at: datetime) -> bool:
    """Whether something of that moment counts before `at`; of an unknown one it does."""
    return moment is None or moment < at


def _share(line: objects.Line) -> BilledShare:
    if line.starts_at is None or line.ends_at is None or line.ends_at <= line.starts_at:
        return BilledShare(line.amount)
    return BilledShare(line.amount, line.starts_at, line.ends_at)


def _without_tax(data: Mapping[str, Any], amount_paid: int) -> tuple[int, int]:
    """(total without tax, total): the part of each payment that is revenue."""
    gross = objects.whole(data.get("total")) if "total" in data else amount_paid
    known = data.get("total_excluding_tax")
    if isinstance(known, int) and not isinstance(known, bool):
        return known, gross
    if taxes := list(objects.members(data.get("total_taxes"))) or list(objects.members(data.get("total_tax_amounts"))):
        return gross - sum(objects.whole(tax.get("amount")) for tax in taxes), gross
    return gross - objects.whole(data.get("tax")), gross
