"""What a customer's subscriptions entitle its tenant to spend, and in which period. Pure.

The answer is a function of the facts alone (subscriptions, invoices, what became of their payments, plans, now), so
that the order, the repetition and the age of the events that brought them cannot matter. Amounts are integer
nanodollars, times aware UTC.

Two rules keep money from being minted. A window is opened by the period of a paid `subscription_create` or
`subscription_cycle` invoice and by nothing else, whatever its amount. And time paid for in another way (a switch to
an annual price bills `subscription_update`) is divided into windows that start where the last one ended. What may
be spent of a window is then `billing.rules.balance`'s to say: it knows what was used before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from billing.rules import periods
from billing.rules.periods import LONGEST_MONTH, Grant, Period
from billing.rules.refunds import Refund, RefundKind
from billing.rules.valuation import Kept, PlanRule, Pricing, Valued
from billing.stripe_api.objects import Item, StripeInvoice, StripeSubscription
from governance.rules import money


class EntitlementState(StrEnum):
    ACTIVE = "active"
    TRIAL = "trial"
    PROVISIONAL = "provisional"
    FROZEN = "frozen"
    FREE = "free"
    LAPSED = "lapsed"
    SUSPENDED = "suspended"
    PENDING = "pending"
    CLOSED = "closed"
    NONE = "none"


# A customer's state is the first of these that one of its subscriptions is in.
STATE_ORDER = tuple(EntitlementState)
NOTHING = Valued(0)
LIVE = (
    EntitlementState.ACTIVE,
    EntitlementState.TRIAL,
    EntitlementState.PROVISIONAL,
    EntitlementState.FROZEN,
    EntitlementState.FREE,
)


@dataclass(frozen=True, slots=True)
class BillingPolicy:
    """Shares are of the plan's limit, in percent; a plan's own policy comes before it.

    `upgrade`: "whole" counts the new limit at once, "paid" as far as it is paid for. `downgrade`: "now", or at
    "period_end". `pause`: paused collection counts as "past_due", as "suspended", or not ("ignore").
    `free_nanos`: what a closed customer may spend each calendar month; 0: nothing. `rates`: dollars for one unit of
    a currency.
    """

    trial_percent: int = 10
    provisional_percent: int = 10
    grace: timedelta = timedelta(days=7)
    upgrade: str = "whole"
    downgrade: str = "now"
    pause: str = "past_due"
    free_nanos: int = 0
    rates: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowShare:
    """One subscription's share of a window. `whole` is the budget period that `period` is a part of.

    `given_nanos` need no payment: a trial, an operator's own limit. `level_nanos` is what the plan comes to.
    """

    subscription_id: str
    period: Period
    whole: Period
    limit_nanos: int
    paid_nanos: int = 0
    given_nanos: int = 0
    level_nanos: int = 0
    refund: RefundKind = RefundKind.NONE


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """What one subscription gives."""

    subscription_id: str
    state: EntitlementState
    part: WindowShare | None = None
    value: Valued = NOTHING
    reasons: tuple[str, ...] = ()
    trial_product: str = ""


@dataclass(frozen=True, slots=True)
class Entitlement:
    """`limit_nanos` is that of the plans, before anything used or owed. `trials` maps a product to the subscription
    that tries it. Caps are ten thousandths, None where no metadata names them.
    """

    state: EntitlementState
    limit_nanos: int | None = None
    period: Period | None = None
    parts: tuple[WindowShare, ...] = ()
    subscription_id: str = ""
    plan: str = ""
    reasons: tuple[str, ...] = ()
    kept: Kept = field(default_factory=dict)
    trials: Mapping[str, str] = field(default_factory=dict)
    soft_e4: int | None = None
    hard_e4: int | None = None


def entitle(
    *,
    subscriptions: Sequence[StripeSubscription],
    invoices: Sequence[StripeInvoice],
    plans: Sequence[PlanRule],
    now: datetime,
    override_nanos: int | None = None,
    kept: Kept | None = None,
    trials_used: Mapping[str, str] | None = None,
    policy: BillingPolicy | None = None,
    refunds: Mapping[str, Refund] | None = None,
) -> Entitlement:
    """The tenant's limit and current period.

    `kept` holds the limits that prices had when the current window opened; `trials_used` maps products to the
    subscription that has had their one trial; `refunds` maps invoices to what became of their payment.
    """
    policy = policy or BillingPolicy()
    pricing = Pricing(plans=plans, kept=kept or {}, rates=policy.rates)
    known = {sub.id: sub for sub in subscriptions}
    paid = [invoice for invoice in invoices if invoice.status == "paid" and invoice.subscription_id]
    ids = sorted(known.keys() | {invoice.subscription_id for invoice in paid})
    rules = _Rules(pricing, now, policy, trials_used or {}, refunds or {})
    statuses = [
        rules.status(known.get(id), id, [invoice for invoice in paid if invoice.subscription_id == id]) for id in ids
    ]
    return _combine(statuses, pricing=pricing, override_nanos=override_nanos, policy=policy, now=now)


def closed(
    *, policy: BillingPolicy, now: datetime, reasons: tuple[str, ...] = (), kept: Kept | None = None
) -> Entitlement:
    """A customer without a subscription any more: nothing, or the free tier's limit each calendar month."""
    if not policy.free_nanos:
        return Entitlement(EntitlementState.CLOSED, reasons=reasons, kept=kept or {})
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    period, nanos = periods.month(first, now), policy.free_nanos
    part = WindowShare("free", period, period, nanos, given_nanos=nanos, level_nanos=nanos)
    return Entitlement(
        EntitlementState.FREE, nanos, period, (part,), plan="free", reasons=(*reasons, "free_tier"), kept=kept or {}
    )


def _combine(
    statuses: Sequence[SubscriptionStatus],
    *,
    pricing: Pricing,
    override_nanos: int | None,
    policy: BillingPolicy,
    now: datetime,
) -> Entitlement:
    """Live subscriptions add up; the newest period is the tenant's."""
    if not statuses:
        return Entitlement(EntitlementState.NONE)
    state = min((status.state for status in statuses), key=STATE_ORDER.index)
    counted = [one for one in statuses if one.state == state or (one.state in LIVE and state in LIVE)]
    reasons = tuple(
        sorted({reason for one in statuses if one.state != EntitlementState.CLOSED for reason in one.reasons})
    )
    if state == EntitlementState.CLOSED:
        return closed(policy=policy, now=now, reasons=reasons, kept=pricing.values)
    giving = sorted(
        ((one.part.period, one.subscription_id, one, one.part) for one in counted if one.part is not None),
        key=lambda found: found[:2],
    )
    if not giving:
        return Entitlement(state, reasons=reasons, kept=pricing.values)
    if state == EntitlementState.LAPSED:
        # Nothing is current: the last paid period is shown, and others before it are history.
        giving = giving[-1:]
    period, subscription_id, _, _ = giving[-1]
    parts = tuple(part for _, _, _, part in giving)
    caps = [one.value for _, _, one, _ in giving]
    found = Entitlement(
        state=state,
        limit_nanos=min(money.MAX_LIMIT_NANOS, sum(part.limit_nanos for part in parts)),
        period=period,
        parts=parts,
        subscription_id=subscription_id,
        plan=" + ".join(sorted({one.value.plan for _, _, one, _ in giving if one.value.plan})),
        reasons=reasons,
        kept=pricing.values,
        trials={one.trial_product: one.subscription_id for _, _, one, _ in giving if one.trial_product},
        soft_e4=min((one.soft_e4 for one in caps if one.soft_e4 is not None), default=None),
        hard_e4=min((one.hard_e4 for one in caps if one.hard_e4 is not None), default=None),
    )
    return found if override_nanos is None else _overridden(found, override_nanos)


def _overridden(found: Entitlement, nanos: int) -> Entitlement:
    """An operator's own limit in place of the plans', shared between the parts as the plans' was. It is given: an
    operator answers for it."""
    total, left, parts = found.limit_nanos or 0, nanos, []
    for number, part in enumerate(found.parts):
        is_last = number + 1 == len(found.parts)
        share = left if is_last or not total else nanos * part.limit_nanos // total
        left -= share
        parts.append(replace(part, limit_nanos=share, given_nanos=max(share, part.given_nanos), level_nanos=share))
    return replace(found, limit_nanos=nanos, parts=tuple(parts), reasons=(*found.reasons, "override"))


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules for one subscription, with what they all need."""

    pricing: Pricing
    now: datetime
    policy: BillingPolicy
    trials_used: Mapping[str, str]
    refunds: Mapping[str, Refund]

    def status(self, sub: StripeSubscription | None, id: str, paid: Sequence[StripeInvoice]) -> SubscriptionStatus:
        """`sub` is None where an invoice came before its subscription: a paid one speaks for itself."""
        grant = periods.newest_grant(sub, paid)
        status = sub.status if sub else "active"
        paused = sub is not None and sub.collection_paused
        if status in ("canceled", "incomplete_expired"):
            return SubscriptionStatus(id, EntitlementState.CLOSED)
        if status in ("unpaid", "paused"):
            return SubscriptionStatus(id, EntitlementState.SUSPENDED, reasons=(status,))
        if paused and self.policy.pause == "suspended":
            return SubscriptionStatus(id, EntitlementState.SUSPENDED, reasons=("collection_paused",))
        if status == "trialing" and sub is not None:
            return self._trial(sub, grant)
        if grant is None:
            return SubscriptionStatus(id, EntitlementState.PENDING, reasons=("awaiting_first_payment",))
        # A subscription still `incomplete` whose first invoice is paid is an old state of an active one.
        late = status == "past_due" or (paused and self.policy.pause == "past_due")
        found = self._paid(sub, id, grant, paid, late=late)
        more = [*self._refund_reasons(grant, paid), *(["collection_paused"] if paused else [])]
        if sub is not None and (sub.cancel_at_period_end or sub.cancels_at):
            more.append("cancels_at_period_end" if sub.cancel_at_period_end else "cancels")
        return replace(found, reasons=(*found.reasons, *more))

    def _refund_reasons(self, grant: Grant, paid: Sequence[StripeInvoice]) -> list[str]:
        names = {RefundKind.PARTIAL: "partial_refund", RefundKind.REFUNDED: "refunded", RefundKind.DISPUTED: "disputed"}
        current = [one.id for one in paid if one.id == grant.invoice_id or periods.is_within(one, grant.period)]
        return sorted({names[self.refunds[id].kind] for id in current if id in self.refunds})

    def _trial(self, sub: StripeSubscription, grant: Grant | None) -> SubscriptionStatus:
        """One trial window to the trial's end, once for each tenant and product."""
        starts = [item.starts_at for item in sub.items if item.starts_at]
        starts_at = grant.period.starts_at if grant else min(starts, default=None)
        if starts_at is None or sub.trial_ends_at is None or sub.trial_ends_at <= starts_at:
            return SubscriptionStatus(sub.id, EntitlementState.PENDING, reasons=("trial_without_period",))
        value = self.pricing.of_items(sub.items)
        product = next((item.price.product_id or item.price.id for item in sub.items), "")
        if self.trials_used.get(product, sub.id) != sub.id:
            return SubscriptionStatus(sub.id, EntitlementState.PENDING, reasons=("trial_used",))
        period, nanos = Period(starts_at, sub.trial_ends_at), self._trial_nanos(value)
        part = WindowShare(sub.id, period, period, nanos, given_nanos=nanos, level_nanos=nanos)
        return SubscriptionStatus(sub.id, EntitlementState.TRIAL, part, value, value.reasons, product)

    def _trial_nanos(self, value: Valued) -> int:
        if value.trial_nanos is not None:
            return value.trial_nanos
        return value.limit_nanos * _first(value.policy.trial_percent, self.policy.trial_percent) // 100

    def _paid(
        self, sub: StripeSubscription | None, id: str, grant: Grant, paid: Sequence[StripeInvoice], *, late: bool
    ) -> SubscriptionStatus:
        value, given = self._value(sub, grant, late=late), 0
        if periods.is_trial(sub, grant):
            # The trial is over early and nothing is paid yet: what is left of it is no more than a trial.
            given = self._trial_nanos(value)
            value = replace(value, limit_nanos=given)
        period, whole = self._current(grant, periods.paid_through(grant, paid), value)
        if self.now < period.ends_at:
            return self._granted(EntitlementState.ACTIVE, id, period, whole, grant, paid, value, given)
        rolled = periods.rolled_period(sub, after=period.ends_at)
        if rolled is None:
            lapsed = replace(value, reasons=(*value.reasons, "period_ended"))
            return self._granted(EntitlementState.LAPSED, id, period, whole, grant, paid, lapsed, given)
        grace = timedelta(days=value.policy.grace_days) if value.policy.grace_days is not None else self.policy.grace
        if late and self.now >= rolled.starts_at + grace:
            return SubscriptionStatus(id, EntitlementState.SUSPENDED, reasons=("past_due",))
        if value.monthly and rolled.length > LONGEST_MONTH:
            rolled = periods.month(rolled.starts_at, max(self.now, rolled.starts_at))
        percent = _first(value.policy.provisional_percent, self.policy.provisional_percent)
        part = WindowShare(id, rolled, rolled, value.limit_nanos * percent // 100, level_nanos=value.limit_nanos)
        return SubscriptionStatus(id, EntitlementState.PROVISIONAL, part, value, (*value.reasons, "awaiting_payment"))

    def _granted(
        self,
        state: EntitlementState,
        id: str,
        period: Period,
        whole: Period,
        grant: Grant,
        paid: Sequence[StripeInvoice],
        value: Valued,
        given: int,
    ) -> SubscriptionStatus:
        """A period that is paid for, or was until its payment went back."""
        nanos = _share(value.limit_nanos, period, whole)
        gone = self.refunds.get(grant.invoice_id, Refund(RefundKind.NONE)).kind
        part = WindowShare(id, period, whole, nanos, given_nanos=given, refund=gone)
        bought = paid_for(part, grant=grant, paid=paid, refunds=self.refunds, pricing=self.pricing)
        if self.policy.upgrade == "paid":
            nanos = min(nanos, max(bought, given))
        part = replace(part, limit_nanos=nanos, paid_nanos=bought, level_nanos=min(nanos, max(bought, given)))
        if gone.is_whole and state == EntitlementState.ACTIVE:
            state = EntitlementState.FROZEN
        return SubscriptionStatus(id, state, part, value, value.reasons)

    def _value(self, sub: StripeSubscription | None, grant: Grant, *, late: bool) -> Valued:
        """The items' worth; while a payment fails, no more than what the last paid invoice bought."""
        bought = [periods.item_of(line) for line in grant.lines]
        if sub is None or not sub.items:
            return self.pricing.of_items(bought)
        value = self.pricing.of_items([_billed(item, bought) for item in sub.items])
        if late and bought:
            return min(value, self.pricing.of_items(bought), key=lambda one: one.limit_nanos)
        if self.policy.downgrade == "period_end" and bought:
            return max(value, self.pricing.of_items(bought), key=lambda one: one.limit_nanos)
        return value

    def _current(self, grant: Grant, paid_through: datetime, value: Valued) -> tuple[Period, Period]:
        """The budget period that holds now, and the whole one it is a part of.

        A month's budget within a longer billing period starts anew each month, bounded by what is paid through.
        """
        first = grant.period
        if paid_through <= first.ends_at and (not value.monthly or first.length <= LONGEST_MONTH):
            return first, first
        is_month = first.length <= LONGEST_MONTH
        if is_month and self.now < first.ends_at:
            return first, first
        anchor = first.ends_at if is_month else first.starts_at
        if not value.monthly:
            found = first if self.now < first.ends_at else Period(first.ends_at, paid_through)
            return found, found
        at = min(max(self.now, anchor), paid_through - timedelta(microseconds=1))
        whole = periods.month(anchor, at)
        return Period(whole.starts_at, min(whole.ends_at, paid_through)), whole


def paid_for(
    part: WindowShare, *, grant: Grant, paid: Sequence[StripeInvoice], refunds: Mapping[str, Refund], pricing: Pricing
) -> int:
    """How much of a part's budget was paid for and not paid back. A partial refund is an operator's gift."""
    stands = [one for one in paid if one.id not in refunds or not refunds[one.id].kind.is_whole]
    if not grant.lines or not all(line.price.id for line in grant.lines):
        # The invoice does not say what it bills: it pays for what the subscription has.
        return part.limit_nanos if any(one.id == grant.invoice_id for one in stands) else 0
    return periods.paid_nanos(period=part.period, whole=part.whole, grant=grant, paid=stands, pricing=pricing)


def _first(own: int | None, usual: int) -> int:
    return usual if own is None else own


def _billed(item: Item, bought: Sequence[Item]) -> Item:
    """A subscription's item with the amount that the period's invoice billed for it, where it did."""
    same = (one for one in bought if one.price.id == item.price.id and one.quantity == item.quantity)
    line = next(same, None)
    return item if line is None else replace(item, amount=line.amount, currency=line.currency)


def _share(nanos: int, period: Period, whole: Period) -> int:
    """The limit; of a last month that is cut short by what is paid through, its part."""
    if period == whole:
        return nanos
    return max(1, nanos * int(period.length.total_seconds()) // int(whole.length.total_seconds())) if nanos else 0
