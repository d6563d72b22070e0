"""Which periods a subscription's invoices pay for, and how much of a period's budget they pay. Pure.

A window is opened by the period of a paid `subscription_create` or `subscription_cycle` invoice and by nothing else,
whatever its amount. What is worth how much is `valuation`'s to say: here a line counts with the part of the
period that it bills, and a credit for unused time counts against it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from billing.rules.valuation import Pricing
from billing.stripe_api.objects import Item, Line, StripeInvoice, StripeSubscription
from governance.rules.windows import anchored_month

OPENING_REASONS = ("subscription_create", "subscription_cycle")
# Shorter months make 28 to 31 days; anything longer is more than one budget period.
LONGEST_MONTH = timedelta(days=32)
MONTH = timedelta(days=30)


@dataclass(frozen=True, slots=True, order=True)
class Period:
    starts_at: datetime
    ends_at: datetime

    @property
    def length(self) -> timedelta:
        return self.ends_at - self.starts_at

    def overlap(self, other: Period) -> timedelta:
        shared = min(self.ends_at, other.ends_at) - max(self.starts_at, other.starts_at)
        return max(shared, timedelta(0))


@dataclass(frozen=True, slots=True)
class Grant:
    """A paid period, and what opened it."""

    period: Period
    lines: tuple[Line, ...]
    invoice_id: str


def between(starts_at: datetime | None, ends_at: datetime | None) -> Period | None:
    return Period(starts_at, ends_at) if starts_at and ends_at and starts_at < ends_at else None


def month(anchor: datetime, at: datetime) -> Period:
    """The month holding `at`, of months counted from `anchor`."""
    span = anchored_month(anchor, at)
    return Period(span.starts_at, cast(datetime, span.ends_at))


def item_of(line: Line) -> Item:
    """What a line bills, as an item of a subscription; a part of a period as if it were the whole."""
    amount, span, price = abs(line.amount), between(line.starts_at, line.ends_at), line.price
    if line.proration and span is not None and price.unit_amount is not None:
        amount = price.unit_amount * line.quantity
    elif line.proration and span is not None:
        # The price is not known: its month has thirty days, or as many as are billed.
        amount = amount * max(MONTH, span.length) // span.length
    return Item(line.id, price, line.quantity, None, None, amount, line.currency)


def newest_grant(sub: StripeSubscription | None, paid: Sequence[StripeInvoice]) -> Grant | None:
    grants = [grant for invoice in paid if (grant := _grant(sub, invoice)) is not None]
    newest = max(grants, key=lambda grant: grant.period, default=None)
    if newest is not None and is_trial(sub, newest):
        # The first payment after a trial that was ended early bills an update, and opens a period all the same.
        firsts = [grant for invoice in paid if (grant := _whole_period(invoice, after=newest.period.starts_at))]
        return max(firsts, key=lambda grant: grant.period, default=newest)
    return newest


def grant_at(at: datetime, paid: Sequence[StripeInvoice]) -> Grant | None:
    """The newest paid period that had begun at a moment, of one subscription's invoices."""
    grants = [grant for invoice in paid if (grant := _grant(None, invoice)) or (grant := _whole_period(invoice))]
    return max((one for one in grants if one.period.starts_at <= at), key=lambda one: one.period, default=None)


def is_trial(sub: StripeSubscription | None, grant: Grant) -> bool:
    return sub is not None and sub.trial_starts_at == grant.period.starts_at


def paid_through(grant: Grant, paid: Sequence[StripeInvoice]) -> datetime:
    """Until when time is paid for without a gap from the grant on."""
    through = grant.period.ends_at
    spans = [span for invoice in paid if (span := _span(recurring(invoice)))]
    for span in sorted(spans):
        if grant.period.starts_at <= span.starts_at <= through < span.ends_at:
            through = span.ends_at
    return through


def rolled_period(sub: StripeSubscription | None, *, after: datetime) -> Period | None:
    """The period the subscription has moved on to, where that is later than what is paid for."""
    period = item_period(sub)
    if period is None or period.starts_at < after or (sub is not None and sub.cancel_at_period_end):
        return None
    return period


def item_period(sub: StripeSubscription | None) -> Period | None:
    periods = [between(item.starts_at, item.ends_at) for item in (sub.items if sub else ())]
    return max((one for one in periods if one), default=None)


def recurring(invoice: StripeInvoice) -> tuple[Line, ...]:
    return tuple(line for line in invoice.lines if line.recurring)


def paid_nanos(*, period: Period, whole: Period, grant: Grant, paid: Sequence[StripeInvoice], pricing: Pricing) -> int:
    """How much of the budget of `period` was paid for: never less than nothing.

    `whole` is the budget period that `period` is a part of. Lines of one span are valued together, as a
    subscription's items are.
    """
    groups: dict[tuple[Period, bool, str], list[Line]] = defaultdict(list)
    for invoice in paid:
        for line in invoice.lines:
            if not (line.recurring or line.proration):
                continue
            span = between(line.starts_at, line.ends_at)
            if span is None and invoice.id == grant.invoice_id and line.recurring:
                span = grant.period
            if span is not None and span.overlap(period):
                groups[span, line.credit, invoice.id].append(line)
    return max(0, sum(_worth(group, lines, period, whole, pricing) for group, lines in groups.items()))


def _worth(
    group: tuple[Period, bool, str], lines: Sequence[Line], period: Period, whole: Period, pricing: Pricing
) -> int:
    span, credit, _ = group
    microsecond = timedelta(microseconds=1)
    shared, length = span.overlap(period) // microsecond, whole.length // microsecond
    nanos = pricing.of_items([item_of(line) for line in lines]).limit_nanos * shared
    # Both are rounded against the customer, by less than a nanodollar.
    return nanos // length if not credit else -nanos // length


def _whole_period(invoice: StripeInvoice, *, after: datetime | None = None) -> Grant | None:
    lines = recurring(invoice)
    period = _span(lines)
    if period is None or (after is not None and period.starts_at <= after):
        return None
    return Grant(period, lines, invoice.id)


def _grant(sub: StripeSubscription | None, invoice: StripeInvoice) -> Grant | None:
    """The period that a paid invoice opens, if it is of the kind that does."""
    lines = recurring(invoice)
    period = _span(lines)
    if not _opens(invoice, period):
        return None
    if period is None:
        period = item_period(sub) or between(invoice.starts_at, invoice.ends_at)
    return Grant(period, lines, invoice.id) if period else None


def _opens(invoice: StripeInvoice, period: Period | None) -> bool:
    if invoice.billing_reason:
        return invoice.billing_reason in OPENING_REASONS
    # Old shapes leave the reason out. A change in mid-period prorates from the moment its new period starts; what
    # a renewal prorates lies before it.
    starts = [line.starts_at for line in invoice.lines if line.proration and line.starts_at]
    return period is not None and not any(start >= period.starts_at for start in starts)


def _span(lines: Sequence[Line]) -> Period | None:
    """The newest period among the lines: items of one invoice may have different ones."""
    periods = [between(line.starts_at, line.ends_at) for line in lines]
    return max((one for one in periods if one), default=None)


def is_within(invoice: StripeInvoice, period: Period) -> bool:
    """Whether an invoice bills time of a period."""
    spans = (between(line.starts_at, line.ends_at) for line in invoice.lines)
    return any(span is not None and span.overlap(period) for span in spans)
