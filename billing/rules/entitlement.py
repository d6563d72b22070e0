"""What a customer's subscriptions entitle its tenant to spend, and in which period. Pure.

The answer is a function of the facts alone (subscriptions, invoices, what became of their payments, plans, now), so
that the order, the repetition and the age of the events that brought them cannot matter. Amounts are integer
nanodollars, times aware UTC.

What was paid for is `billing.rules.grants`'s to say, and nothing else counts as paid: here is what a policy gives on
credit beside it, and for how long. What may be spent of a window is then `billing.rules.balance`'s to say: it knows
what was used before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from billing.rules import grants, valuation
from billing.rules.grants import Cycle, Grant, Period
from billing.rules.refunds import Refund, RefundKind
from billing.rules.valuation import Kept, PlanPolicy, PlanRule, Pricing, Terms, Worth
from billing.stripe_api.objects import Item, StripeInvoice, StripePrice, StripeSubscription
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


REFUND_REASONS = {
    RefundKind.PARTIAL: "partial_refund",
    RefundKind.REFUNDED: "refunded",
    RefundKind.DISPUTED: "disputed",
}
NO_TERMS = Terms()
WHOLLY_GONE = (RefundKind.REFUNDED, RefundKind.DISPUTED)
# A customer's state is the first of these that one of its subscriptions is in.
STATE_ORDER = tuple(EntitlementState)
LIVE = (
    EntitlementState.ACTIVE,
    EntitlementState.TRIAL,
    EntitlementState.PROVISIONAL,
    EntitlementState.FROZEN,
    EntitlementState.FREE,
)


@dataclass(frozen=True, slots=True)
class BillingPolicy:
    """What is given besides what was paid for. Shares are of the plan's limit, in percent; a plan's own come first.

    `credit_percent`: of a period that is paid for later by agreement, with a usage-based price or within an invoice's
    terms. `upgrade`: a rise counts as far as it is "paid", or "whole" at once, up to `upgrade_times` what was paid.
    `downgrade`: one that was not credited yet lowers the limit "now", or at "period_end". `pause`: paused collection
    counts as "past_due", as "suspended", or not ("ignore"). `free_nanos`: what a closed customer may spend each
    calendar month; 0: nothing. `rates`: dollars for one unit of a currency.
    """

    trial_percent: int = 10
    provisional_percent: int = 10
    credit_percent: int = 100
    grace_days: int = 7
    upgrade: str = "paid"
    upgrade_times: int = 4
    downgrade: str = "now"
    pause: str = "past_due"
    free_nanos: int = 0
    rates: Mapping[str, Decimal] = field(default_factory=dict)

    def with_own(self, own: PlanPolicy) -> BillingPolicy:
        values = {one.name: getattr(own, one.name) for one in fields(own)}
        return replace(self, **{name: value for name, value in values.items() if value not in (None, "")})


@dataclass(frozen=True, slots=True)
class WindowShare:
    """A subscription's share of a window, of one cycle. `whole` is the budget period that `period` is a part of.

    `paid_nanos` was paid for and stands. `given_nanos` need no payment (a trial, an operator's own limit), or none
    before `given_until`. `forgiven_nanos` were paid back by the business. `frozen`: nothing that was paid stands.
    """

    subscription_id: str
    period: Period
    whole: Period
    limit_nanos: int
    cycle: str = ""
    paid_nanos: int = 0
    given_nanos: int = 0
    given_until: datetime | None = None
    forgiven_nanos: int = 0
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """What one subscription gives in one cycle. `until`: when time alone changes it."""

    subscription_id: str
    state: EntitlementState
    part: WindowShare | None = None
    terms: Terms = NO_TERMS
    reasons: tuple[str, ...] = ()
    trial_product: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Entitlement:
    """`limit_nanos` is that of the plans, before anything used or owed. `trials` maps a product to the subscription
    that tries it. `until`: when time alone changes it. Caps are ten thousandths, None where no metadata names them.
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
    until: datetime | None = None
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
    paid = [one for one in invoices if one.status == "paid"]
    billed = {line.subscription_id or one.subscription_id for one in paid for line in one.lines if line.recurring}
    rules = _Rules(pricing, now, policy, invoices, trials_used or {}, refunds or {})
    statuses = [one for id in sorted((known.keys() | billed) - {""}) for one in rules.of(known.get(id), id)]
    return _combine(statuses, pricing=pricing, override_nanos=override_nanos, policy=policy, now=now)


def closed(
    *, policy: BillingPolicy, now: datetime, reasons: tuple[str, ...] = (), kept: Kept | None = None
) -> Entitlement:
    """A customer without a subscription any more: nothing, or the free tier's limit each calendar month."""
    if not policy.free_nanos:
        return Entitlement(EntitlementState.CLOSED, reasons=reasons, kept=kept or {})
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    period, nanos = grants.month(first, now), policy.free_nanos
    part = WindowShare("free", period, period, nanos, given_nanos=nanos)
    return Entitlement(
        EntitlementState.FREE,
        nanos,
        period,
        (part,),
        plan="free",
        reasons=(*reasons, "free_tier"),
        kept=kept or {},
        until=period.ends_at,
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
    until = min((one.until for one in counted if one.until), default=None)
    if not giving:
        return Entitlement(state, reasons=reasons, kept=pricing.values, until=until)
    if state == EntitlementState.LAPSED:
        # Nothing is current: the last paid period is shown, and others before it are history.
        giving = giving[-1:]
    period, subscription_id, _, _ = giving[-1]
    parts = tuple(part for _, _, _, part in giving)
    terms = [one.terms for _, _, one, _ in giving]
    found = Entitlement(
        state=state,
        limit_nanos=min(money.MAX_LIMIT_NANOS, sum(part.limit_nanos for part in parts)),
        period=period,
        parts=parts,
        subscription_id=subscription_id,
        plan=" + ".join(sorted({name for one in terms for name in one.plan.split(" + ") if name})),
        reasons=reasons,
        kept=pricing.values,
        trials={one.trial_product: one.subscription_id for _, _, one, _ in giving if one.trial_product},
        until=until,
        soft_e4=min((one.soft_e4 for one in terms if one.soft_e4 is not None), default=None),
        hard_e4=min((one.hard_e4 for one in terms if one.hard_e4 is not None), default=None),
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
        parts.append(replace(part, limit_nanos=share, given_nanos=max(share, part.given_nanos), given_until=None))
    return replace(found, limit_nanos=nanos, parts=tuple(parts), reasons=(*found.reasons, "override"))


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules for one subscription after the other, with what they all need."""

    pricing: Pricing
    now: datetime
    policy: BillingPolicy
    invoices: Sequence[StripeInvoice]
    trials_used: Mapping[str, str]
    refunds: Mapping[str, Refund]

    def of(self, sub: StripeSubscription | None, id: str) -> list[SubscriptionStatus]:
        """`sub` is None where an invoice came before its subscription: a paid one speaks for itself."""
        status = sub.status if sub else "active"
        if status in ("canceled", "incomplete_expired"):
            return [SubscriptionStatus(id, EntitlementState.CLOSED)]
        if status in ("unpaid", "paused"):
            return [SubscriptionStatus(id, EntitlementState.SUSPENDED, reasons=(status,))]
        one = _Subscription(self, sub, id, status)
        if one.is_paused and one.policy.pause == "suspended":
            return [SubscriptionStatus(id, EntitlementState.SUSPENDED, reasons=("collection_paused",))]
        more = ["collection_paused"] if one.is_paused else []
        if sub is not None and (sub.cancel_at_period_end or sub.cancels_at):
            more.append("cancels_at_period_end" if sub.cancel_at_period_end else "cancels")
        return [replace(found, reasons=(*found.reasons, *more)) for found in one.statuses()]


class _Subscription:
    """What one subscription that is not over gives, cycle by cycle."""

    def __init__(self, rules: _Rules, sub: StripeSubscription | None, id: str, status: str) -> None:
        self.rules, self.sub, self.id, self.status, self.now = rules, sub, id, status, rules.now
        self.reasons: set[str] = set()
        self.grants = grants.of(sub, id, rules.invoices, rules.pricing, self.reasons)
        items = sub.items if sub else ()
        self.worths = rules.pricing.worths([item.price for item in items], self.reasons) if items else {}
        self.items: dict[Cycle, list[Item]] = defaultdict(list)
        for item in items:
            if (worth := self.worths.get(item.price.id)) is not None:
                self.items[grants.cycle_of(item.price, worth)].append(item)
        priced = [(item.price, self.worths[item.price.id]) for one in self.items.values() for item in one]
        self.policy = rules.policy.with_own(valuation.terms(priced, set()).policy)
        self.is_paused = sub is not None and sub.collection_paused
        self.is_late = status == "past_due" or (self.is_paused and self.policy.pause == "past_due")
        self.spans = {cycle: grants.spans(lines) for cycle, lines in self.grants.items()}

    def statuses(self) -> list[SubscriptionStatus]:
        # The first that is not over: Stripe's clock may be ahead of ours.
        left = {cycle: [span for span in all if self.now < span.ends_at] for cycle, all in self.spans.items()}
        current = {cycle: all[0] for cycle, all in left.items() if all}
        found = [self._paid(cycle, span, EntitlementState.ACTIVE) for cycle, span in current.items()]
        if self.status == "trialing":
            # Free days for somebody who has paid take nothing of that.
            return found or [self._trial()]
        waiting = [self._waiting(cycle, items) for cycle, items in self.items.items() if cycle not in current]
        found += [one for one in waiting if one is not None]
        if found:
            return found
        ended = [(span, cycle) for cycle, all in self.spans.items() for span in all if span.ends_at <= self.now]
        if ended:
            span, cycle = max(ended)
            return [self._paid(cycle, span, EntitlementState.LAPSED)]
        return [SubscriptionStatus(self.id, EntitlementState.PENDING, reasons=("awaiting_first_payment",))]

    def _paid(self, cycle: Cycle, span: Period, state: EntitlementState) -> SubscriptionStatus:
        """A period that is paid for, or was until its payment went back."""
        lines = self.grants[cycle]
        in_part = any(one.span == span and one.in_part for one in lines)
        period, whole = cycle.at(span, self.now, in_part=in_part)
        part = paid_for(WindowShare(self.id, period, whole, 0, str(cycle)), lines, self.rules.refunds)
        if part.frozen and state == EntitlementState.ACTIVE:
            state = EntitlementState.FROZEN
        nanos = grants.given(lines, period, whole) if part.frozen else part.paid_nanos
        if state != EntitlementState.LAPSED:
            nanos = self._changed(nanos, cycle, period, whole)
        billed = [(one.price, one.worth) for one in lines if one.span.overlap(period) and not one.is_credit]
        terms = self._terms([(item.price, self.worths[item.price.id]) for item in self.items.get(cycle, ())] or billed)
        gone = {
            self.rules.refunds[one.invoice_id].kind
            for one in lines
            if one.span.overlap(period) and one.invoice_id in self.rules.refunds
        }
        reasons = (*terms.reasons, *sorted(REFUND_REASONS[kind] for kind in gone))
        if state == EntitlementState.LAPSED:
            return SubscriptionStatus(
                self.id, state, replace(part, limit_nanos=nanos), terms, (*reasons, "period_ended")
            )
        return SubscriptionStatus(
            self.id, state, replace(part, limit_nanos=nanos), terms, reasons, until=period.ends_at
        )

    def _changed(self, paid: int, cycle: Cycle, period: Period, whole: Period) -> int:
        """What was paid for a period, where the items are worth more or less by now than what its lines bill.

        A share of what is billed is what was billed.
        """
        items = self.items.get(cycle, [])
        if not items or any(self.worths[item.price.id].share_e4 for item in items):
            return paid
        asked = self._worth(cycle, items, whole)
        # What is billed of a change is billed to the period's end.
        moment = Period(period.ends_at - grants.MICROSECOND, period.ends_at)
        lines = [one for one in self.grants[cycle] if one.span.overlap(moment)]
        billed = sum(-one.nanos if one.is_credit else one.nanos for one in lines)
        share = asked * (period.length // grants.MICROSECOND) // (whole.length // grants.MICROSECOND)
        if asked > billed and self.policy.upgrade == "whole" and not self.is_late:
            return max(paid, min(share, paid * self.policy.upgrade_times))
        if asked < billed and self.policy.downgrade == "now" and lines:
            return min(paid, share)
        return paid

    def _worth(self, cycle: Cycle, items: Sequence[Item], whole: Period) -> int:
        """What items are worth for a whole cycle; the default plan once."""
        worths = {item.price.id: self.worths[item.price.id] for item in items}
        if any(worth.level == valuation.Level.DEFAULT for worth in worths.values()):
            items = items[:1]
        pricing, reasons = self.rules.pricing, self.reasons
        nanos = sum(grants.per_cycle(pricing, worths[one.price.id], one, whole, reasons) for one in items)
        return min(money.MAX_LIMIT_NANOS, nanos)

    def _waiting(self, cycle: Cycle, items: Sequence[Item]) -> SubscriptionStatus | None:
        """A period that is not paid for (yet). None where nothing has begun since the last one that is."""
        sub = self.sub
        known = [span for item in items if (span := grants.between(item.starts_at, item.ends_at))]
        if sub is None or not known or self.status.startswith("incomplete"):
            return None
        paid_to = max((span.ends_at for span in self.spans.get(cycle, []) if span.ends_at <= self.now), default=None)
        rolled = max(known)
        if paid_to is not None and (sub.cancel_at_period_end or rolled.ends_at <= paid_to):
            return None
        rolled = Period(max(rolled.starts_at, paid_to or rolled.starts_at), rolled.ends_at)
        due_at = rolled.starts_at + timedelta(days=sub.days_until_due)
        ends_at = max(due_at, rolled.starts_at + timedelta(days=self.policy.grace_days))
        in_arrears = cycle.in_arrears and not (self.now >= ends_at and self._is_behind(cycle, rolled, sub))
        # Nobody has credit for a first invoice that was not sent to them.
        is_sent = any(one.subscription_id == self.id and one.status == "open" for one in self.rules.invoices)
        has_terms = sub.days_until_due > 0 and is_sent
        if not (self.grants or sub.trial_ends_at or has_terms or cycle.in_arrears):
            return SubscriptionStatus(self.id, EntitlementState.PENDING, reasons=("awaiting_first_payment",))
        if self.now >= ends_at and not in_arrears and not (self.is_paused and self.policy.pause == "ignore"):
            return SubscriptionStatus(self.id, EntitlementState.SUSPENDED, reasons=("past_due",))
        if in_arrears:
            # Owed only where it is still not paid for when its own invoice is late.
            until = rolled.ends_at + (ends_at - rolled.starts_at)
            found = self._on_credit(EntitlementState.ACTIVE, cycle, items, rolled, until)
            changes_at = ends_at if self._is_behind(cycle, rolled, sub) else rolled.ends_at
            return replace(found, reasons=(*found.reasons, "on_credit"), until=changes_at)
        until_due = due_at if self.now < due_at else None
        found = self._on_credit(EntitlementState.PROVISIONAL, cycle, items, rolled, until_due)
        next_at = min(until_due or ends_at, found.part.period.ends_at if found.part else ends_at)
        return replace(found, reasons=(*found.reasons, "awaiting_payment"), until=next_at)

    def _is_behind(self, cycle: Cycle, current: Period, sub: StripeSubscription) -> bool:
        """Whether the period before, which is billed when it is over, is not paid for."""
        begun = max((at for at in (sub.starts_at, sub.trial_ends_at) if at), default=None)
        is_first = begun is None or begun >= current.starts_at
        is_paid = any(span.ends_at >= current.starts_at for span in self.spans.get(cycle, []))
        return self.is_late or not (is_first or is_paid)

    def _on_credit(
        self, state: EntitlementState, cycle: Cycle, items: Sequence[Item], rolled: Period, until: datetime | None
    ) -> SubscriptionStatus:
        """What the policy gives of a period before it is paid for. `until`: by agreement it need not be before that."""
        period, whole = cycle.at(rolled, self.now)
        percent = self.policy.provisional_percent if until is None else self.policy.credit_percent
        nanos = self._worth(cycle, items, whole) * percent // 100
        nanos = nanos * (period.length // grants.MICROSECOND) // (whole.length // grants.MICROSECOND)
        given = 0 if until is None else nanos
        part = WindowShare(self.id, period, whole, nanos, str(cycle), given_nanos=given, given_until=until)
        terms = self._terms([(item.price, self.worths[item.price.id]) for item in items])
        return SubscriptionStatus(self.id, state, part, terms, terms.reasons)

    def _trial(self) -> SubscriptionStatus:
        """One trial window to the trial's end, once for each tenant and product."""
        sub = self.sub
        starts = [item.starts_at for item in (sub.items if sub else ()) if item.starts_at]
        ended = [span.ends_at for spans in self.spans.values() for span in spans if span.ends_at <= self.now]
        starts_at = max(ended, default=None) or (sub and sub.trial_starts_at) or min(starts, default=None)
        if sub is None or starts_at is None or sub.trial_ends_at is None or sub.trial_ends_at <= starts_at:
            return SubscriptionStatus(self.id, EntitlementState.PENDING, reasons=("trial_without_period",))
        product = next((item.price.product_id or item.price.id for item in sub.items), "")
        if self.rules.trials_used.get(product, sub.id) != sub.id:
            return SubscriptionStatus(self.id, EntitlementState.PENDING, reasons=("trial_used",))
        period = Period(starts_at, sub.trial_ends_at)
        whole = sum(self._worth(cycle, items, period) for cycle, items in self.items.items())
        terms = self._terms([(item.price, self.worths[item.price.id]) for all in self.items.values() for item in all])
        nanos = whole * self.policy.trial_percent // 100 if terms.trial_nanos is None else terms.trial_nanos
        part = WindowShare(self.id, period, period, nanos, given_nanos=nanos)
        return SubscriptionStatus(
            self.id, EntitlementState.TRIAL, part, terms, terms.reasons, product, until=sub.trial_ends_at
        )

    def _terms(self, priced: Sequence[tuple[StripePrice, Worth]]) -> Terms:
        return valuation.terms(priced, self.reasons)


def paid_for(part: WindowShare, lines: Sequence[Grant], gone: Mapping[str, Refund]) -> WindowShare:
    """A part with what was paid for it and stands. What was refunded in part is the business's gift."""
    refunded, disputed = ({id for id, one in gone.items() if one.kind == kind} for kind in WHOLLY_GONE)
    stands = grants.given(lines, part.period, part.whole, gone=refunded | disputed)
    back = grants.given(lines, part.period, part.whole, gone=disputed) - stands
    billed = any(
        one.span.overlap(part.period) and not one.is_credit and one.invoice_id in refunded | disputed for one in lines
    )
    return replace(part, paid_nanos=stands, forgiven_nanos=max(0, back), frozen=billed and not stands)
