"""What the lines of paid invoices give: a grant each. Pure.

A grant is a subscription's item, a span of time, and budget for it: the plan's limit times the share of the price's
interval that the span covers, or a share of what the line charged, net of discounts. A credit takes budget back. What
was used is paid for by the line that bills it, however short its span. No invoice's reason and no subscription's status
matter here: a period is paid for by the lines that cover it.

Each grant is measured by its own intervals, whatever windows divide them, so that they give what it gives to the cent.
Items whose budgets last equally long (a `Cycle`) have their windows together. Amounts are integer nanodollars.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import cast

from billing.rules.valuation import Level, Pricing, Worth
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
FIRST = datetime.min.replace(tzinfo=UTC)


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
        return Period(starts_at, _moved(starts_at, self.months))

    @property
    def months(self) -> int:
        """How many of them it has; none where it is of days."""
        return min(MONTHS.get(self.interval, 0) * self.count, MOST_MONTHS)

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
        whole = max((one for one in months(span) if one.starts_at <= now), default=months(span)[0])
        return Period(whole.starts_at, min(whole.ends_at, span.ends_at)), whole


@dataclass(frozen=True, slots=True)
class Grant:
    """Budget for a span: `nanos` for each of the `wholes`, its own intervals, as far as it covers them. A share of
    revenue is so much for each that all of them come to what was charged. A credit takes it back.

    `is_change`: it bills a part of a period that is paid for otherwise. `in_part`: it charged less than the whole.
    """

    cycle: Cycle
    span: Period
    nanos: Fraction
    wholes: Sequence[Period]
    is_credit: bool
    is_change: bool
    in_part: bool
    invoice_id: str
    line_id: str
    price: StripePrice
    quantity: int
    worth: Worth

    def lost(self, shares: Mapping[str, Fraction]) -> Fraction:
        """How much of it stands on no payment, by its line's id or its invoice's. A credit is of what it takes back."""
        of_invoice = Fraction(0) if self.is_credit else shares.get(self.invoice_id, Fraction(0))
        return max(of_invoice, shares.get(self.line_id, Fraction(0)))

    def within(self, period: Period) -> Fraction:
        """What it gives within a period, in nanodollars and parts of one."""
        shared = Period(max(self.span.starts_at, period.starts_at), min(self.span.ends_at, period.ends_at))
        return (-self.nanos if self.is_credit else self.nanos) * _number(self.wholes, shared)


Grants = Mapping[Cycle, Sequence[Grant]]


def between(starts_at: datetime | None, ends_at: datetime | None) -> Period | None:
    return Period(starts_at, ends_at) if starts_at and ends_at and starts_at < ends_at else None


def month(anchor: datetime, at: datetime) -> Period:
    """The month holding `at`, of months counted from `anchor`."""
    span = anchored_month(anchor, at)
    return Period(span.starts_at, cast(datetime, span.ends_at))


def months(span: Period) -> list[Period]:
    """The months of a longer span, the last one whole. They are counted from its start; or back from its end, where
    that alone tells the day that they begin on: a quarter of the 30th may begin on 28 February."""
    first, last = span.starts_at, span.ends_at
    count = (last.year - first.year) * 12 + last.month - first.month
    anchor, before = (last, count) if _moved(last, -count) == first else (first, 0)
    edges = [_moved(anchor, number - before) for number in range(count + 2)]
    return [Period(*pair) for pair in pairwise(edges) if pair[0] < last]


def _moved(at: datetime, count: int) -> datetime:
    return datetime.combine(add_months(at.date(), count), at.timetz())


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
) -> int:
    """What a quantity of a price gives for a whole cycle about that span, by its list price."""
    nanos = pricing.nanos(worth, price, quantity, None, reasons)
    if worth.share_e4:
        billed = Cycle(price.interval, price.interval_count).from_start(span.starts_at)
        wholes = _wholes(cycle_of(price, worth), billed, (), in_part=False) if billed else ()
        return floor(nanos / _number(wholes, billed)) if billed else nanos
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
    # What a price was worth when it was charged last: that is what a credit takes back.
    charged: dict[str, Worth | None] = {}
    paid = [one for one in invoices if one.status == "paid"]
    for invoice in sorted(paid, key=age):
        lines = [_told(line, items) for line in invoice.lines if _is_of(line, invoice, id)]
        # The items say by themselves what is wrong with them.
        worths = pricing.worths([line.price for line in lines], set() if items else reasons)
        # The default plan counts once on an invoice, and so does a limit whose price bills each of its tiers by itself.
        counted: dict[tuple[Period, bool, str], tuple[int, str]] = {}
        for number, line in enumerate(lines):
            price = line.price
            if line.proration and line.listed == 0:
                line = replace(line, credit=line.credit or _is_given(line, found))
            worth = (beside if price.id in items else worths).get(price.id)
            if line.credit:
                worth = charged.get(price.id, worth)
            if worth and (grant := _grant(line, invoice, worth, found, pricing, sub, reasons)):
                adds_up = price.unit_amount is not None or worth.share_e4 or worth.per_unit
                once = "" if worth.level == Level.DEFAULT else str(number) if adds_up else price.id
                first = counted.setdefault((grant.span, grant.is_credit, once), (number, price.id))
                if first[0] == number:
                    found[grant.cycle].append(grant)
                elif first[1] != price.id:
                    worth = None
            if not line.credit:
                charged[price.id] = worth
    return found


def given(grants: Sequence[Grant], period: Period, *, lost: Mapping[str, Fraction] | None = None) -> int:
    """How much budget grants give within a period: rounded down once, so that a credit takes back just what a charge
    gave, and never less than nothing. `lost`: so much of an invoice's charges, or of one line, stands on no payment."""
    stands = ((one, 1 - one.lost(lost or {})) for one in grants)
    return max(0, floor(sum(one.within(period) * share for one, share in stands if share)))


def billed_at(grants: Sequence[Grant], ends_at: datetime) -> dict[str, tuple[Fraction, int]]:
    """Price id -> what was billed of it for the end of a period, for a whole cycle, as changes within it are, and for
    how many. Where a price was billed anew before its time, what it was billed before is no part of that; nor is what
    cents that were rounded leave of a share that was credited."""
    last = Period(ends_at - MICROSECOND, ends_at)
    lines = sorted((one for one in grants if one.span.overlap(last)), key=lambda one: one.span)
    begun = {one.price.id: one.span.starts_at for one in lines if not (one.is_change or one.is_credit)}
    found: dict[str, tuple[Fraction, int]] = {}
    for one in lines:
        if one.span.starts_at >= begun.get(one.price.id, one.span.starts_at):
            (nanos, quantity), sign = found.get(one.price.id, (Fraction(0), 0)), -1 if one.is_credit else 1
            found[one.price.id] = nanos + sign * one.nanos, quantity + sign * one.quantity
    shares = {one.price.id for one in lines if one.worth.share_e4}
    return {id: (nanos, quantity) for id, (nanos, quantity) in found.items() if quantity > 0 or id not in shares}


def about(period: Period, invoices: Sequence[StripeInvoice]) -> list[StripeInvoice]:
    """The invoices of which a line bills some time of a period: no other has a part in what is given within it."""
    starts_at, ends_at = period.starts_at, period.ends_at
    spans = ((line.starts_at, line.ends_at, one) for one in invoices for line in one.lines)
    return list(
        {one.id: one for start, end, one in spans if start and end and start < ends_at and starts_at < end}.values()
    )


def age(invoice: StripeInvoice) -> tuple[datetime, int, str, str]:
    """Puts the oldest first, of the same second by their numbers, which count up."""
    return invoice.created_at or FIRST, len(invoice.number), invoice.number, invoice.id


def spans(grants: Sequence[Grant]) -> list[Period]:
    """The time that is paid for, as it was billed, in order and without overlap.

    What is billed within a period is a part of it, and goes on after it where it is longer. A period that begins anew,
    and goes on beyond all that or has the rest of it credited, ends it; what was not credited of it counts in the new
    one.
    """
    found: list[Period] = []
    ends_at = FIRST
    billed = [one for one in grants if not one.is_credit]
    for one in sorted(billed, key=lambda one: (one.span.starts_at, one.is_change, one.span.ends_at)):
        at = one.span.starts_at
        if at < ends_at:
            begun = found[-1].starts_at if at < found[-1].ends_at else found[-1].ends_at
            if not _begins_anew(one, Period(begun, ends_at), grants):
                ends_at = max(ends_at, _until(one, grants))
                continue
        found[-1:] = _ended(found[-1:], min(at, ends_at))
        found.append(one.span)
        ends_at = one.span.ends_at
    found[-1:] = _ended(found[-1:], ends_at)
    return found


def _ended(last: Sequence[Period], at: datetime) -> list[Period]:
    """A period that ends at a moment, and apart from it what goes on after it."""
    return [
        span
        for one in last
        for span in (Period(one.starts_at, min(one.ends_at, at)), Period(one.ends_at, at))
        if span.starts_at < span.ends_at
    ]


def _until(one: Grant, grants: Sequence[Grant]) -> datetime:
    """When what a line bills ends: where all that its price was billed to that end is credited, with the last credit's
    beginning."""
    same = [other for other in grants if other.price.id == one.price.id and other.span.ends_at == one.span.ends_at]
    credited = [other.span.starts_at for other in same if other.is_credit]
    return max(credited) if 2 * len(credited) >= len(same) else one.span.ends_at


def _begins_anew(one: Grant, last: Period, grants: Sequence[Grant]) -> bool:
    if one.is_change or one.span.starts_at == last.starts_at:
        return False
    rest = Period(one.span.starts_at, last.ends_at)
    return one.span.ends_at > last.ends_at or any(other.is_credit and other.span == rest for other in grants)


def until_next(period: Period, grants: Sequence[Grant]) -> Period:
    """A period as it is known afterwards: no longer than until the next one that was paid for."""
    later = [span.starts_at for span in spans(grants) if span.starts_at > period.starts_at]
    return Period(period.starts_at, min([period.ends_at, *later]))


def cycle_at(known: Grants, at: datetime) -> str:
    """The cycle that time was paid for in at a moment; empty where it was not."""
    found = (cycle for cycle, all in known.items() for span in spans(all) if span.starts_at <= at < span.ends_at)
    return next((str(cycle) for cycle in found), "")


def _is_of(line: Line, invoice: StripeInvoice, id: str) -> bool:
    """Whether a line bills an item of this subscription, and not a fee or a purchase beside it."""
    return (line.recurring or line.proration) and (line.subscription_id or invoice.subscription_id) == id


def _told(line: Line, items: Mapping[str, StripePrice]) -> Line:
    """Invoices may name a price by its id alone; the subscription tells the rest of it."""
    return line if line.price.interval else replace(line, price=items.get(line.price.id, line.price))


def _is_given(line: Line, known: Grants) -> bool:
    """Whether the time that a part of a period is for was given at its price already, so that one of nothing gives it
    back: an invoice need not say so."""
    mine = [one for all in known.values() for one in all if one.price.id == line.price.id]
    span = between(line.starts_at, line.ends_at)
    until = [one.is_credit for one in mine if span and one.span.ends_at == span.ends_at and one.span <= span]
    return until.count(False) > until.count(True)


def _grant(
    line: Line,
    invoice: StripeInvoice,
    worth: Worth,
    known: Grants,
    pricing: Pricing,
    sub: StripeSubscription | None,
    reasons: set[str],
) -> Grant | None:
    """The grant of a line; None of one that charges nothing for what has a price, as in a trial; a usage-based
    one bills time that is not over then."""
    span, price = between(line.starts_at, line.ends_at), line.price
    if span is None:
        return None
    trial = between(sub.trial_starts_at, sub.trial_ends_at) if sub else None
    is_listed = price.unit_amount is not None and price.currency in ("", line.currency)
    list_amount = (price.unit_amount or 0) * line.quantity if is_listed else 0
    has_price = list_amount > 0 or (line.quantity == 0 and price.unit_amount != 0)
    is_given = has_price or bool(trial and trial.overlap(span))
    if price.metered:
        is_given = invoice.created_at is not None and invoice.created_at < span.ends_at
    if line.listed == 0 and is_given:
        return None
    cycle = cycle_of(price, worth)
    in_part = line.proration or 0 < line.listed < list_amount
    part = Fraction(abs(line.listed), list_amount) if list_amount and _is_interval_of(cycle, price) else None
    wholes = _wholes(cycle, span, known.get(cycle, ()) if line.proration else (), in_part=in_part, part=part)
    if worth.share_e4:
        charged = pricing.nanos(worth, price, line.quantity, (line.amount - line.included_tax, line.currency), reasons)
        nanos = charged / _number(wholes, span)
    else:
        nanos = Fraction(per_cycle(pricing, worth, price, line.quantity, wholes[0], reasons))
    return Grant(
        cycle=cycle,
        span=span,
        nanos=nanos,
        wholes=wholes,
        is_credit=line.credit,
        is_change=line.proration,
        in_part=in_part,
        invoice_id=invoice.id,
        line_id=line.id,
        price=price,
        quantity=line.quantity,
        worth=worth,
    )


def _is_interval_of(cycle: Cycle, price: StripePrice) -> bool:
    return (cycle.interval, cycle.count) == (price.interval, price.interval_count)


def _wholes(
    cycle: Cycle, span: Period, known: Sequence[Grant], *, in_part: bool, part: Fraction | None = None
) -> Sequence[Period]:
    """The intervals that a line's budget is for. A change's are those of the period that it goes to the end of, so that
    a credit takes back what was charged. `part`: so much of its price for a whole one was charged."""
    for one in known:
        is_whole = not (one.is_change or one.is_credit)
        if is_whole and one.span.ends_at == span.ends_at and one.span.starts_at <= span.starts_at:
            return one.wholes
    if not cycle.is_month or span.length <= LONGEST_MONTH:
        return (span,) if cycle.in_arrears else (_whole(cycle, span, part, in_part=in_part),)
    found = months(span)
    if cycle.in_arrears:
        found[-1] = Period(found[-1].starts_at, span.ends_at)
    return found


def _whole(cycle: Cycle, span: Period, part: Fraction | None, *, in_part: bool) -> Period:
    """The interval that a span is a part of that is billed by itself, as until an anchor: of the one that begins with
    it, as Stripe documents of a backdated start, and the one that ends with it, that by which it was charged."""
    found = cycle.whole(span, in_part=in_part)
    if found == span or part is None or not cycle.months:
        return found
    before = Period(_moved(span.ends_at, -cycle.months), span.ends_at)
    return min(found, before, key=lambda one: abs(_number((one,), span) - part))


def _number(wholes: Sequence[Period], span: Period) -> Fraction:
    """How many intervals a span covers, parts included."""
    covered = ((one.overlap(span) // MICROSECOND, one.length // MICROSECOND) for one in wholes)
    return sum((Fraction(*pair) for pair in covered if pair[0]), Fraction(0))
