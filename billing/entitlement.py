"""What a customer's subscriptions entitle its tenant to spend, and in which period. Pure.

The answer is a function of the facts alone (subscriptions, invoices, plans, now), so that the order, the repetition
and the age of the events that brought them cannot matter. Amounts are integer nanodollars, times aware UTC.

Two rules keep money from being minted. A window is opened by the period of a paid `subscription_create` or
`subscription_cycle` invoice and by nothing else, whatever its amount. And time paid for in another way (a switch to
an annual price bills `subscription_update`) is divided into windows that start where the last one ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import cast

from billing.shapes import Invoice, Item, Line, Subscription
from billing.valuation import Kept, PlanRule, Pricing, Valued
from governance.windows import anchored_month

OPENING_REASONS = ("subscription_create", "subscription_cycle")
# Shorter months make 28 to 31 days; anything longer is more than one budget period.
LONGEST_MONTH = timedelta(days=32)


class State(StrEnum):
    ACTIVE = "active"
    TRIAL = "trial"
    PROVISIONAL = "provisional"
    LAPSED = "lapsed"
    SUSPENDED = "suspended"
    PENDING = "pending"
    CLOSED = "closed"
    NONE = "none"


# A customer's state is the first of these that one of its subscriptions is in.
STATE_ORDER = tuple(State)
LIVE = (State.ACTIVE, State.TRIAL, State.PROVISIONAL)


@dataclass(frozen=True, slots=True)
class Policy:
    """Shares are of the plan's limit, in percent."""

    trial_percent: int = 10
    provisional_percent: int = 10
    grace: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True, order=True)
class Period:
    starts_at: datetime
    ends_at: datetime

    def holds(self, at: datetime) -> bool:
        return self.starts_at <= at < self.ends_at


@dataclass(frozen=True, slots=True)
class Standing:
    """What one subscription gives."""

    subscription_id: str
    state: State
    period: Period | None = None
    limit_nanos: int = 0
    plan: str = ""
    reasons: tuple[str, ...] = ()
    trial_product: str = ""


@dataclass(frozen=True, slots=True)
class Entitlement:
    """`earlier_nanos` of the limit come from subscriptions whose period began before this one: a window that opens
    for it must not grant again what was used of them. `trials` maps a product to the subscription that tries it.
    """

    state: State
    limit_nanos: int | None = None
    earlier_nanos: int = 0
    period: Period | None = None
    subscription_id: str = ""
    plan: str = ""
    reasons: tuple[str, ...] = ()
    kept: Kept = field(default_factory=dict)
    trials: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Grant:
    period: Period
    lines: tuple[Line, ...]


def entitle(
    *,
    subscriptions: Sequence[Subscription],
    invoices: Sequence[Invoice],
    plans: Sequence[PlanRule],
    now: datetime,
    override_nanos: int | None = None,
    kept: Kept | None = None,
    trials_used: Mapping[str, str] | None = None,
    policy: Policy | None = None,
) -> Entitlement:
    """The tenant's limit and current period.

    `kept` holds the limits that prices had when the current window opened; `trials_used` maps products to the
    subscription that has had their one trial.
    """
    pricing = Pricing(plans=plans, kept=kept or {})
    known = {sub.id: sub for sub in subscriptions}
    paid = [invoice for invoice in invoices if invoice.status == "paid" and invoice.subscription_id]
    ids = sorted(known.keys() | {invoice.subscription_id for invoice in paid})
    rules = _Rules(pricing, now, policy or Policy(), trials_used or {})
    standings = [
        rules.standing(known.get(id), id, [invoice for invoice in paid if invoice.subscription_id == id]) for id in ids
    ]
    return _combine(standings, pricing=pricing, override_nanos=override_nanos, now=now)


def _combine(
    standings: Sequence[Standing], *, pricing: Pricing, override_nanos: int | None, now: datetime
) -> Entitlement:
    """Live subscriptions add up; the newest period is the tenant's."""
    if not standings:
        return Entitlement(State.NONE)
    state = min((standing.state for standing in standings), key=STATE_ORDER.index)
    counted = [one for one in standings if one.state == state or (one.state in LIVE and state in LIVE)]
    reasons = tuple(sorted({reason for one in standings if one.state != State.CLOSED for reason in one.reasons}))
    giving = sorted(
        (one.period, one.subscription_id, one) for one in counted if one.period is not None and one.limit_nanos > 0
    )
    if not giving:
        return Entitlement(state, reasons=reasons, kept=pricing.values)
    if state == State.LAPSED:
        # Nothing is current: the last paid period is shown, and others before it are history.
        giving = giving[-1:]
    period, subscription_id, _ = giving[-1]
    total = sum(one.limit_nanos for _, _, one in giving)
    limit = override_nanos if override_nanos is not None else total
    earlier = sum(one.limit_nanos for begun, _, one in giving if begun.starts_at < period.starts_at)
    return Entitlement(
        state=state,
        limit_nanos=limit,
        earlier_nanos=limit * earlier // total,
        period=period,
        subscription_id=subscription_id,
        plan=" + ".join(sorted({one.plan for _, _, one in giving if one.plan})),
        reasons=(*reasons, "override") if override_nanos is not None else reasons,
        kept=pricing.values,
        trials={one.trial_product: one.subscription_id for _, _, one in giving if one.trial_product},
    )


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules for one subscription, with what they all need."""

    pricing: Pricing
    now: datetime
    policy: Policy
    trials_used: Mapping[str, str]

    def standing(self, sub: Subscription | None, id: str, paid: Sequence[Invoice]) -> Standing:
        """`sub` is None where an invoice came before its subscription: a paid one speaks for itself."""
        grant = _newest_grant(sub, paid)
        status = sub.status if sub else "active"
        if status in ("canceled", "incomplete_expired"):
            return Standing(id, State.CLOSED)
        if status in ("unpaid", "paused"):
            return Standing(id, State.SUSPENDED, reasons=(status,))
        if status == "trialing" and sub is not None:
            return self._trial(sub, grant)
        if grant is None:
            return Standing(id, State.PENDING, reasons=("awaiting_first_payment",))
        # A subscription still `incomplete` whose first invoice is paid is an old picture of an active one.
        late = status == "past_due" or (sub is not None and sub.collection_paused)
        return self._paid(sub, id, grant, paid, late=late)

    def _trial(self, sub: Subscription, grant: _Grant | None) -> Standing:
        """One trial window to the trial's end, once for each tenant and product."""
        starts = [item.starts_at for item in sub.items if item.starts_at]
        starts_at = grant.period.starts_at if grant else min(starts, default=None)
        if starts_at is None or sub.trial_ends_at is None or sub.trial_ends_at <= starts_at:
            return Standing(sub.id, State.PENDING, reasons=("trial_without_period",))
        value = self.pricing.of_items(sub.items)
        product = next((item.price.product_id or item.price.id for item in sub.items), "")
        if self.trials_used.get(product, sub.id) != sub.id:
            return Standing(sub.id, State.PENDING, reasons=("trial_used",))
        period = Period(starts_at, sub.trial_ends_at)
        limit = self._trial_nanos(value)
        return Standing(sub.id, State.TRIAL, period, limit, value.plan, value.reasons, product)

    def _trial_nanos(self, value: Valued) -> int:
        if value.trial_nanos is not None:
            return value.trial_nanos
        return value.limit_nanos * self.policy.trial_percent // 100

    def _paid(
        self, sub: Subscription | None, id: str, grant: _Grant, paid: Sequence[Invoice], *, late: bool
    ) -> Standing:
        value = self._value(sub, grant, late=late)
        if _is_trial(sub, grant):
            # The trial is over early and nothing is paid yet: what is left of it is no more than a trial.
            value = replace(value, limit_nanos=self._trial_nanos(value))
        period, whole = self._current(grant, _paid_through(grant, paid), value)
        if period is None or not self._is_over(period):
            current = period or grant.period
            return Standing(id, State.ACTIVE, current, _share(value, current, whole), value.plan, value.reasons)
        rolled = _rolled_period(sub, after=period.ends_at)
        if rolled is None:
            return Standing(id, State.LAPSED, period, value.limit_nanos, value.plan, (*value.reasons, "period_ended"))
        if late and self.now >= rolled.starts_at + self.policy.grace:
            return Standing(id, State.SUSPENDED, reasons=("past_due",))
        if value.monthly and rolled.ends_at - rolled.starts_at > LONGEST_MONTH:
            rolled = _month(rolled.starts_at, max(self.now, rolled.starts_at))
        limit = value.limit_nanos * self.policy.provisional_percent // 100
        return Standing(id, State.PROVISIONAL, rolled, limit, value.plan, (*value.reasons, "awaiting_payment"))

    def _is_over(self, period: Period) -> bool:
        return period.ends_at <= self.now

    def _value(self, sub: Subscription | None, grant: _Grant, *, late: bool) -> Valued:
        """The items' worth; while a payment fails, no more than what the last paid invoice bought."""
        bought = [Item(line.id, line.price, line.quantity, None, None) for line in grant.lines]
        if sub is None or not sub.items:
            return self.pricing.of_items(bought)
        value = self.pricing.of_items(sub.items)
        if late and bought:
            return min(value, self.pricing.of_items(bought), key=lambda one: one.limit_nanos)
        return value

    def _current(self, grant: _Grant, paid_through: datetime, value: Valued) -> tuple[Period | None, Period | None]:
        """The budget period that holds now, and the whole one it is a part of.

        A month's budget within a longer billing period starts anew each month, bounded by what is paid through.
        """
        first = grant.period
        if paid_through <= first.ends_at and (not value.monthly or first.ends_at - first.starts_at <= LONGEST_MONTH):
            return first, None
        is_month = first.ends_at - first.starts_at <= LONGEST_MONTH
        if is_month and self.now < first.ends_at:
            return first, None
        anchor = first.ends_at if is_month else first.starts_at
        if not value.monthly:
            return (first, None) if self.now < first.ends_at else (Period(first.ends_at, paid_through), None)
        at = min(max(self.now, anchor), paid_through - timedelta(microseconds=1))
        whole = _month(anchor, at)
        return Period(whole.starts_at, min(whole.ends_at, paid_through)), whole


def _month(anchor: datetime, at: datetime) -> Period:
    span = anchored_month(anchor, at)
    return Period(span.starts_at, cast(datetime, span.ends_at))


def _share(value: Valued, period: Period, whole: Period | None) -> int:
    """The limit; of a last month that is cut short by what is paid through, its part."""
    if whole is None or period == whole:
        return value.limit_nanos
    part_s, whole_s = (int((one.ends_at - one.starts_at).total_seconds()) for one in (period, whole))
    return max(1, value.limit_nanos * part_s // whole_s) if value.limit_nanos else 0


def _newest_grant(sub: Subscription | None, paid: Sequence[Invoice]) -> _Grant | None:
    grants = [grant for invoice in paid if (grant := _grant(sub, invoice)) is not None]
    newest = max(grants, key=lambda grant: (grant.period.starts_at, grant.period.ends_at), default=None)
    if newest is not None and _is_trial(sub, newest):
        # The first payment after a trial that was ended early bills an update, and opens a period all the same.
        firsts = [grant for invoice in paid if (grant := _whole_period(invoice, after=newest.period.starts_at))]
        return max(firsts, key=lambda grant: (grant.period.starts_at, grant.period.ends_at), default=newest)
    return newest


def _is_trial(sub: Subscription | None, grant: _Grant) -> bool:
    return sub is not None and sub.trial_starts_at == grant.period.starts_at


def _whole_period(invoice: Invoice, *, after: datetime) -> _Grant | None:
    lines = tuple(line for line in invoice.lines if line.recurring)
    period = _span(lines)
    return _Grant(period, lines) if period and period.starts_at > after else None


def _grant(sub: Subscription | None, invoice: Invoice) -> _Grant | None:
    """The period that a paid invoice opens, if it is of the kind that does."""
    lines = tuple(line for line in invoice.lines if line.recurring)
    period = _span(lines)
    if not _opens(invoice, period):
        return None
    if period is None:
        period = _item_period(sub) or _between(invoice.starts_at, invoice.ends_at)
    return _Grant(period, lines) if period else None


def _opens(invoice: Invoice, period: Period | None) -> bool:
    if invoice.billing_reason:
        return invoice.billing_reason in OPENING_REASONS
    # Old shapes leave the reason out. A change in mid-period prorates from the moment its new period starts; what
    # a renewal prorates lies before it.
    starts = [line.starts_at for line in invoice.lines if line.proration and line.starts_at]
    return period is not None and not any(start >= period.starts_at for start in starts)


def _paid_through(grant: _Grant, paid: Sequence[Invoice]) -> datetime:
    """Until when time is paid for without a gap from the grant on."""
    through = grant.period.ends_at
    spans = [span for invoice in paid if (span := _span(tuple(x for x in invoice.lines if x.recurring)))]
    for span in sorted(spans, key=lambda one: (one.starts_at, one.ends_at)):
        if grant.period.starts_at <= span.starts_at <= through < span.ends_at:
            through = span.ends_at
    return through


def _rolled_period(sub: Subscription | None, *, after: datetime) -> Period | None:
    """The period the subscription has moved on to, where that is later than what is paid for."""
    period = _item_period(sub)
    if period is None or period.starts_at < after or (sub is not None and sub.cancel_at_period_end):
        return None
    return period


def _item_period(sub: Subscription | None) -> Period | None:
    periods = [_between(item.starts_at, item.ends_at) for item in (sub.items if sub else ())]
    return max((one for one in periods if one), key=lambda one: (one.starts_at, one.ends_at), default=None)


def _span(lines: Sequence[Line]) -> Period | None:
    """The newest period among the lines: items of one invoice may have different ones."""
    periods = [_between(line.starts_at, line.ends_at) for line in lines]
    return max((one for one in periods if one), key=lambda one: (one.starts_at, one.ends_at), default=None)


def _between(starts_at: datetime | None, ends_at: datetime | None) -> Period | None:
    return Period(starts_at, ends_at) if starts_at and ends_at and starts_at < ends_at else None
