"""What the lines of paid invoices give: a grant each. Pure.

A grant is a subscription's item, a span of time, and budget for it: the plan's limit times the share of the price's
interval that the span covers, or a share of what the line charged, net of discounts. A credit takes budget back. No
invoice's reason and no subscription's status matter here: a period is paid for by the lines that cover it.

Items whose budgets last equally long (a `Cycle`) have their windows together. Amounts are integer nanodollars.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from math import floor
from typing import cast

from billing.rules.valuation import Charge, Level, Pricing, Worth
from billing.stripe_api.objects import Line, StripeInvoice, StripePrice, StripeSubscription
from governance.rules.windows import add_months, anchored_month

# Shorter months make 28 to 31 days; anything longer is more than one budget period.
LONGEST_MONTH = timedelta(days=32)
# By so much do months differ. What is shorter than the shortest is a part of one.
SLACK = timedelta(days=3)
DAYS = {"day": 1, "week": 7}
MONTHS = {"month": 1, "year": 12}
# Stripe bills three years at most at once.
MOST_MONTHS = 120
MICROSECOND = timedelta(microseconds=1)


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

    def share(self, nanos: int, whole: Period) -> int:
        """Its part of what is for a whole, rounded down."""
        return nanos * (self.length // MICROSECOND) // (whole.length // MICROSECOND)


@dataclass(frozen=True, slots=True, order=True)
class Cycle:
    """How long a budget lasts before it starts anew: a month, or as long as a price bills for at once.

    `in_arrears`: it is paid for when it is over. An interval that is not known is as long as what is billed.
    """

    interval: str
    count: int = 1
    in_arrears: bool = False

    def __str__(self) -> str:
        return f"{self.count} {self.interval}{' in arrears' if self.in_arrears else ''}"

    @property
    def is_month(self) -> bool:
        return (self.interval, self.count) == ("month", 1)

    def from_start(self, starts_at: datetime) -> Period | None:
        """A whole one from a moment on, by the calendar; None where the interval is not known."""
        if self.interval in DAYS:
            return Period(starts_at, starts_at + timedelta(days=DAYS[self.interval] * self.count))
        if self.interval not in MONTHS:
            return None
        months = min(MONTHS[self.interval] * self.count, MOST_MONTHS)
        return Period(starts_at, datetime.combine(add_months(starts_at.date(), months), starts_at.timetz()))

    def whole(self, span: Period, *, in_part: bool = False) -> Period:
        """The whole cycle that a span is, or is a part of; what was billed `in_part` is none, however long."""
        natural = self.from_start(span.starts_at)
        slack = SLACK if self.interval in MONTHS else timedelta(0)
        if natural is None or (not in_part and natural.length - slack <= span.length <= natural.length + slack):
            return span
        return natural

    def at(self, span: Period, now: datetime, *, in_part: bool = False) -> tuple[Period, Period]:
        """The budget period of a span of time that holds `now`, or its last one, and the whole that it is a part of:
        a month's budget within a longer span starts anew each month."""
        if not self.is_month or span.length <= LONGEST_MONTH:
            return span, self.whole(span, in_part=in_part)
        whole = month(span.starts_at, min(max(now, span.starts_at), span.ends_at - MICROSECOND))
        return Period(whole.starts_at, min(whole.ends_at, span.ends_at)), whole


@dataclass(frozen=True, slots=True)
class Grant:
    """Budget for a span: `nanos` for each whole cycle or, where `at_once`, for the span. A credit takes it back.

    `is_change`: it bills a part of a period that is paid for otherwise. `in_part`: it charged less than the whole.
    """

    cycle: Cycle
    span: Period
    nanos: int
    at_once: bool
    is_credit: bool
    is_change: bool
    in_part: bool
    invoice_id: str
    price: StripePrice
    worth: Worth

    def within(self, period: Period, whole: Period) -> Fraction:
        """What it gives of a period's budget, in nanodollars and parts of one."""
        shared = self.span.overlap(period) // MICROSECOND
        length = (self.span if self.at_once else whole).length // MICROSECOND
        return Fraction((-self.nanos if self.is_credit else self.nanos) * shared, length)


Grants = Mapping[Cycle, Sequence[Grant]]


def between(starts_at: datetime | None, ends_at: datetime | None) -> Period | None:
    return Period(starts_at, ends_at) if starts_at and ends_at and starts_at < ends_at else None


def month(anchor: datetime, at: datetime) -> Period:
    """The month holding `at`, of months counted from `anchor`."""
    span = anchored_month(anchor, at)
    return Period(span.starts_at, cast(datetime, span.ends_at))


def cycle_of(price: StripePrice, worth: Worth) -> Cycle:
    days = DAYS.get(price.interval, 0) * price.interval_count
    if worth.monthly and (days == 0 or days > LONGEST_MONTH.days):
        return Cycle("month", in_arrears=price.metered)
    return Cycle(price.interval, price.interval_count, price.metered)


def per_cycle(
    pricing: Pricing,
    worth: Worth,
    price: StripePrice,
    quantity: int,
    span: Period,
    reasons: set[str],
    charge: Charge | None = None,
) -> int:
    """What a quantity of a price gives for a whole cycle about that span, by what it charged or its list price."""
    nanos = pricing.nanos(worth, price, quantity, charge, reasons)
    if worth.share_e4:
        is_long = worth.monthly and price.interval in MONTHS
        return nanos // (MONTHS[price.interval] * price.interval_count if is_long else 1)
    days = DAYS.get(price.interval, 0) * price.interval_count
    if not worth.monthly or not 0 < days <= LONGEST_MONTH.days:
        return nanos
    # A month's budget for a price that bills less than a month: its share of the month that begins then.
    return nanos * days // month(span.starts_at, span.starts_at).length.days


def of(
    sub: StripeSubscription | None, id: str, invoices: Sequence[StripeInvoice], pricing: Pricing, reasons: set[str]
) -> Grants:
    """A subscription's grants, by cycle, of all lines of all paid invoices. What its trial bills gives nothing."""
    items = {item.price.id: item.price for item in (sub.items if sub else ())}
    # What is not mapped is worth the default plan alone; not beside an item that is.
    beside = pricing.worths(list(items.values()), set())
    found: dict[Cycle, list[Grant]] = defaultdict(list)
    counted: set[tuple[str, Period, bool]] = set()
    for invoice in invoices:
        if invoice.status != "paid":
            continue
        lines = [replace(line, price=_told(line.price, items)) for line in invoice.lines if _is_of(line, invoice, id)]
        # The items say by themselves what is wrong with them.
        worths = pricing.worths([line.price for line in lines], set() if items else reasons)
        for line in lines:
            worth = (beside if line.price.id in items else worths).get(line.price.id)
            if worth is None or (grant := _grant(line, invoice.id, worth, pricing, sub, reasons)) is None:
                continue
            once = invoice.id, grant.span, grant.is_credit
            if worth.level != Level.DEFAULT or once not in counted:
                found[grant.cycle].append(grant)
                counted.add(once)
    return found


def given(grants: Sequence[Grant], period: Period, whole: Period, *, gone: Collection[str] = ()) -> int:
    """How much of a period's budget grants give: rounded down once, so that a credit takes back just what a charge
    gave, and never less than nothing. `gone`: invoices whose payment is."""
    return max(0, floor(sum(one.within(period, whole) for one in grants if one.invoice_id not in gone)))


def spans(grants: Sequence[Grant]) -> list[Period]:
    """The time that is paid for, as it was billed, in order and without overlap.

    A change within a period is a part of it. A period that begins anew ends the one before where the rest of that was
    credited; where it was not, it goes on when that is over.
    """
    found: list[Period] = []
    billed = [one for one in grants if not one.is_credit]
    for one in sorted(billed, key=lambda one: (one.span.starts_at, one.is_change, one.span.ends_at)):
        last = found[-1] if found else None
        if last is None or one.span.starts_at >= last.ends_at:
            found.append(one.span)
        elif _ends_early(last, one, grants):
            found[-1] = Period(last.starts_at, one.span.starts_at)
            found.append(one.span)
        elif one.span.ends_at > last.ends_at:
            found.append(Period(last.ends_at, one.span.ends_at))
    return found


def until_next(period: Period, grants: Sequence[Grant]) -> Period:
    """A period as it is known afterwards: no longer than until the next one that was paid for."""
    later = [span.starts_at for span in spans(grants) if span.starts_at > period.starts_at]
    return Period(period.starts_at, min([period.ends_at, *later]))


def cycle_at(known: Grants, at: datetime) -> str:
    """The cycle that time was paid for in at a moment; empty where it was not."""
    found = (cycle for cycle, all in known.items() for span in spans(all) if span.starts_at <= at < span.ends_at)
    return next((str(cycle) for cycle in found), "")


def _ends_early(last: Period, one: Grant, grants: Sequence[Grant]) -> bool:
    rest = Period(one.span.starts_at, last.ends_at)
    return (
        not one.is_change
        and one.span.starts_at > last.starts_at
        and any(other.is_credit and other.span == rest for other in grants)
    )


def _is_of(line: Line, invoice: StripeInvoice, id: str) -> bool:
    """Whether a line bills an item of this subscription, and not a fee or a purchase beside it."""
    return (line.recurring or line.proration) and (line.subscription_id or invoice.subscription_id) == id


def _told(price: StripePrice, items: Mapping[str, StripePrice]) -> StripePrice:
    """Invoices may name a price by its id alone; the subscription tells the rest of it."""
    return price if price.interval else items.get(price.id, price)


def _grant(
    line: Line,
    invoice_id: str,
    worth: Worth,
    pricing: Pricing,
    sub: StripeSubscription | None,
    reasons: set[str],
) -> Grant | None:
    """The grant of a line; None of one that charges nothing for what has a price, as in a trial."""
    span, price = between(line.starts_at, line.ends_at), line.price
    if span is None:
        return None
    trial = between(sub.trial_starts_at, sub.trial_ends_at) if sub else None
    is_listed = price.unit_amount is not None and price.currency in ("", line.currency)
    list_amount = (price.unit_amount or 0) * line.quantity if is_listed else 0
    if line.listed == 0 and not price.metered and (list_amount > 0 or (trial and trial.overlap(span))):
        return None
    cycle = cycle_of(price, worth)
    in_part = line.proration or 0 < line.listed < list_amount
    charge = line.amount, line.currency
    at_once = bool(worth.share_e4) and (in_part or not worth.monthly or price.interval not in MONTHS)
    if at_once:
        nanos = pricing.nanos(worth, price, line.quantity, charge, reasons)
    else:
        nanos = per_cycle(pricing, worth, price, line.quantity, span, reasons, charge)
    return Grant(cycle, span, nanos, at_once, line.credit, line.proration, in_part, invoice_id, price, worth)
