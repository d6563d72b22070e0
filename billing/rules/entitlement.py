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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from math import floor

from billing.rules import grants, kept_worths, valuation
from billing.rules.grants import Cycle, Period
from billing.rules.kept_worths import Kept
from billing.rules.refunds import Refund
from billing.rules.shares import OVER, WindowShare, owned, paid_for
from billing.rules.valuation import BillingPolicy, PlanRule, Priced, Pricing
from billing.stripe_api.objects import Item, Line, StripeInvoice, StripeSubscription
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
LIVE = (
    EntitlementState.ACTIVE,
    EntitlementState.TRIAL,
    EntitlementState.PROVISIONAL,
    EntitlementState.FROZEN,
    EntitlementState.FREE,
)


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """What one subscription gives in one cycle, for which prices. `until`: when time alone changes it."""

    subscription_id: str
    state: EntitlementState
    part: WindowShare | None = None
    priced: tuple[Priced, ...] = ()
    reasons: tuple[str, ...] = ()
    trial_products: tuple[str, ...] = ()
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Entitlement:
    """`limit_nanos` is that of the plans, before anything used or owed. `trials` maps a product to the subscription
    that tries it. `until`: when time alone changes it. Caps are ten thousandths, None where no metadata names them.
    `by_operator`: what it is less than before is an operator's doing.
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
    by_operator: bool = False


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

    `kept` holds what prices were worth when the spans began that they count in: for these it stays, unless something
    says more about them by now, and that comes to more. `trials_used` maps products to the subscription that has had
    their one trial; `refunds` maps invoices to what became of their payment.
    """
    policy = policy or BillingPolicy()
    facts = _Facts(plans, kept or {}, now, policy, invoices, dict(trials_used or {}), refunds or {})

    def at(rising: Collection[kept_worths.Sold]) -> Entitlement:
        return _entitled(replace(facts, rising=rising, values={}), subscriptions, override_nanos)

    found = _entitled(facts, subscriptions, override_nanos)
    return kept_worths.most(found, facts.outdone, at, lambda one: one.limit_nanos or 0)


def _entitled(facts: _Facts, subscriptions: Sequence[StripeSubscription], override_nanos: int | None) -> Entitlement:
    known = {sub.id: sub for sub in subscriptions}
    paid = [one for one in facts.invoices if one.status == "paid"]
    billed = {line.subscription_id or one.subscription_id for one in paid for line in one.lines if line.recurring}
    # Of two trials of a product that nobody has heard of before, the one that began first is the one.
    begun = {id: sub.trial_starts_at or sub.starts_at or grants.FIRST for id, sub in known.items()}
    ids = sorted((known.keys() | billed) - {""}, key=lambda id: (begun.get(id, grants.FIRST), id))
    over = {id for id, sub in known.items() if sub.status in OVER}
    statuses = [SubscriptionStatus(id, EntitlementState.CLOSED) for id in sorted(over)]
    statuses += [one for id in ids if id not in over for one in _statuses(facts, known.get(id), id)]
    return _combine(_default_once(statuses), facts, override_nanos)


def _statuses(facts: _Facts, sub: StripeSubscription | None, id: str) -> list[SubscriptionStatus]:
    """What a subscription gives where its prices are worth what they are kept at, for as long as the spans last that
    they count in. In a span that is new they are worth what is said by now."""
    kept = kept_worths.counting(kept_worths.of(id, facts.kept))
    while True:
        rising = {price for sub_id, price in facts.rising if sub_id == id}
        pricing = Pricing(facts.plans, kept, facts.policy.rates, rising)
        found = _Subscription(facts, pricing, sub, id)
        statuses = found.statuses()
        begun = found.begun(statuses)
        if (stays := kept_worths.lasting(kept, begun)) == kept:
            break
        kept = stays
    facts.outdone.update((id, price) for price in pricing.outdone)
    facts.values.update(kept_worths.noted(id, pricing.values, kept, begun))
    return statuses


def _default_once(statuses: Sequence[SubscriptionStatus]) -> list[SubscriptionStatus]:
    """All but those that would give the default plan's limit once more, or beside what is mapped and paid for: a tenant
    has it once, however many subscriptions nobody has mapped. They begin with the oldest."""
    giving = [(one, one.part.limit_nanos) for one in statuses if one.state in LIVE and one.part and not one.part.frozen]
    giving = [(one, nanos) for one, nanos in giving if nanos]
    default = [(one, nanos) for one, nanos in giving if _is_default(one)]
    if not any(one.state == EntitlementState.ACTIVE for one, _ in giving if not _is_default(one)):
        default = [pair for pair in default if pair is not max(default, key=lambda pair: pair[1])]
    return [one for one in statuses if one not in [dropped for dropped, _ in default]]


def _is_default(one: SubscriptionStatus) -> bool:
    """Whether what a subscription gives is the default plan's, as nothing says more of its prices or of their trial."""
    is_named = one.trial_products and valuation.trial_nanos(one.priced, set())
    return not is_named and all(worth.level == valuation.Level.DEFAULT for _, worth in one.priced)


def closed(
    *, policy: BillingPolicy, now: datetime, reasons: tuple[str, ...] = (), kept: Kept | None = None
) -> Entitlement:
    """A customer without a subscription any more: nothing, or the free tier's limit each calendar month."""
    if not policy.free_nanos:
        return Entitlement(EntitlementState.CLOSED, reasons=reasons, kept=kept or {})
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    period, nanos = grants.month(first, now), policy.free_nanos
    part = WindowShare("free", period, nanos, given_nanos=nanos)
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


def _combine(statuses: Sequence[SubscriptionStatus], facts: _Facts, override_nanos: int | None) -> Entitlement:
    """Live subscriptions add up; the newest period is the tenant's."""
    if not statuses:
        return Entitlement(EntitlementState.NONE)
    state = min((status.state for status in statuses), key=STATE_ORDER.index)
    counted = [one for one in statuses if one.state == state or (one.state in LIVE and state in LIVE)]
    known = {reason for one in statuses if one.state != EntitlementState.CLOSED for reason in one.reasons}
    if state == EntitlementState.CLOSED:
        return closed(policy=facts.policy, now=facts.now, kept=facts.values)
    until = min((one.until for one in counted if one.until), default=None)
    giving = [(one.part.period, one.subscription_id, one.part, one) for one in counted if one.part is not None]
    giving.sort(key=lambda found: found[:2])
    if not giving:
        return Entitlement(state, reasons=tuple(sorted(known)), kept=facts.values, until=until)
    if state == EntitlementState.LAPSED:
        # Nothing is current: the last paid period is shown, and others before it are history.
        giving = giving[-1:]
    period, subscription_id, _, _ = giving[-1]
    parts = tuple(part for _, _, part, _ in giving)
    priced = [pair for *_, one in giving for pair in one.priced]
    soft_e4, hard_e4 = valuation.caps(priced, known)
    found = Entitlement(
        state=state,
        limit_nanos=min(money.MAX_LIMIT_NANOS, sum(part.limit_nanos for part in parts)),
        period=period,
        parts=parts,
        subscription_id=subscription_id,
        plan=valuation.plans_of(priced),
        reasons=tuple(sorted(known)),
        kept=facts.values,
        trials={product: one.subscription_id for *_, one in giving for product in one.trial_products},
        until=until,
        soft_e4=soft_e4,
        hard_e4=hard_e4,
    )
    if override_nanos is None:
        return found
    own = owned(parts, override_nanos, instead_of=found.limit_nanos or 0)
    return replace(found, limit_nanos=override_nanos, parts=own, reasons=(*found.reasons, "override"))


@dataclass(frozen=True, slots=True)
class _Facts:
    plans: Sequence[PlanRule]
    kept: Kept
    now: datetime
    policy: BillingPolicy
    invoices: Sequence[StripeInvoice]
    trials_used: dict[str, str]
    refunds: Mapping[str, Refund]
    # Prices by their subscriptions: those that are worth what is said by now, as that is more.
    rising: Collection[kept_worths.Sold] = ()
    # What prices are found to be worth, and those of which something says more by now.
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outdone: set[kept_worths.Sold] = field(default_factory=set)


class _Subscription:
    """What one subscription that is not over gives, cycle by cycle. Where an invoice came before it, `sub` is
    None: a paid one speaks for itself."""

    def __init__(self, facts: _Facts, pricing: Pricing, sub: StripeSubscription | None, id: str) -> None:
        self.facts, self.pricing, self.id, self.now = facts, pricing, id, facts.now
        self.sub = sub or StripeSubscription(id, "active", ())
        self.reasons: set[str] = set()
        known = grants.of(sub, id, facts.invoices, pricing, self.reasons)
        # Of what was never paid there may be credits alone.
        self.grants = {cycle: lines for cycle, lines in known.items() if not all(one.is_credit for one in lines)}
        self.spans = {cycle: grants.spans(lines) for cycle, lines in self.grants.items()}
        prices = [item.price for item in self.sub.items]
        self.worths = pricing.worths(prices, self.reasons)
        self.items: dict[Cycle, list[Item]] = defaultdict(list)
        for item in self.sub.items:
            if (worth := self.worths.get(item.price.id)) is not None:
                self.items[grants.cycle_of(item.price, worth)].append(item)
        self.policy = facts.policy.with_own(valuation.policy_of(self._priced(self.sub.items)))
        self.is_paused = self.sub.collection_paused
        self.is_late = self.sub.status == "past_due" or (self.is_paused and self.policy.pause == "past_due")

    def statuses(self) -> list[SubscriptionStatus]:
        status = self.sub.status
        if status in ("unpaid", "paused") or (self.is_paused and self.policy.pause == "suspended"):
            return [self._is(EntitlementState.SUSPENDED, *([] if self.is_paused else [status]))]
        # The first that is not over: Stripe's clock may be ahead of ours.
        left = {cycle: [span for span in all if self.now < span.ends_at] for cycle, all in self.spans.items()}
        current = {cycle: all[0] for cycle, all in left.items() if all}
        # Beside a period that is paid for, another interval that nothing was paid for is a rise: it counts when paid.
        begun = [one for one in self.items if one in self.spans or one.in_arrears or not current]
        begun = [one for one in begun if one not in current and status != "trialing"]
        waiting = {one: due for one in begun if (due := self._waiting(one, self.items[one]))}
        self._move_unpaid(current, waiting)
        found = [self._paid(cycle, span) for cycle, span in current.items()]
        if status == "trialing":
            # Free days for somebody who has paid take nothing of that.
            return found or [self._trial()]
        found += waiting.values()
        if not found and self.spans:
            found = [self._over(*max((all[-1], cycle) for cycle, all in self.spans.items()))]
        return found or [self._is(EntitlementState.PENDING, "awaiting_first_payment")]

    def begun(self, statuses: Sequence[SubscriptionStatus]) -> dict[str, int]:
        """Price id -> when the span began that it counts in, in Unix seconds, of those that count in one. For one whose
        budget would last otherwise by now that is all that is paid for at once: it had its part of that."""
        parts = {one.part.cycle: one.part.period for one in statuses if one.part}
        # A trial is of every cycle.
        spans = {cycle: span for cycle in (*self.grants, *self.items) if (span := parts.get(str(cycle), parts.get("")))}
        sold = [(cycle, one.price.id) for cycle in spans for one in self.items.get(cycle, ())]
        # What was sold before, and not for this span, would be sold anew.
        billed = ((cycle, one) for cycle, span in spans.items() for one in self.grants.get(cycle, ()))
        sold += [(cycle, one.price.id) for cycle, one in billed if one.span.overlap(spans[cycle])]
        return {id: int(self._begun(cycle, spans[cycle], id).timestamp()) for cycle, id in sold}

    def _begun(self, cycle: Cycle, span: Period, id: str) -> datetime:
        paid = (one.starts_at for one in self.spans.get(cycle, ()) if one.overlap(span))
        return next(paid, span.starts_at) if id in self.pricing.recycled else span.starts_at

    def _move_unpaid(self, current: Mapping[Cycle, Period], waiting: Collection[Cycle]) -> None:
        """Have items that give nothing by themselves yet, as another interval that is not paid for, count in the place
        of what is not sold any more: in what is paid for of cycles of which no item is left."""
        sold = {item.price.id for item in self.sub.items}
        left = [cycle for cycle in current if sold and cycle not in self.items]
        # Items and lines may tell a price's interval otherwise.
        left = [cycle for cycle in left if not any(one.price.id in sold for one in self.grants[cycle])]
        unpaid = [one for one in self.items if one not in current and one not in waiting]
        moved = [item for cycle in unpaid for item in self.items[cycle]]
        for cycle in sorted(left, key=lambda one: (current[one].ends_at, one), reverse=True):
            self.items[cycle], moved = moved, []

    def _is(
        self,
        state: EntitlementState,
        *reasons: str,
        part: WindowShare | None = None,
        priced: Sequence[Priced] = (),
        until: datetime | None = None,
    ) -> SubscriptionStatus:
        more = ["collection_paused"] if self.is_paused else []
        if self.sub.cancel_at_period_end or self.sub.cancels_at:
            more.append("cancels_at_period_end" if self.sub.cancel_at_period_end else "cancels")
        if part is not None:
            more += self.reasons
        return SubscriptionStatus(self.id, state, part, tuple(priced), (*reasons, *more), until=until)

    def _paid(self, cycle: Cycle, span: Period) -> SubscriptionStatus:
        """A period that is paid for, or was until its payment went back."""
        lines, refunds = self.grants[cycle], self.facts.refunds
        in_part = any(one.span == span and one.in_part for one in lines)
        period, whole = cycle.at(span, self.now, in_part=in_part)
        part = paid_for(WindowShare(self.id, period, 0, str(cycle)), lines, refunds)
        nanos = grants.given(lines, period) if part.frozen else max(part.paid_nanos, part.given_nanos)
        part = replace(part, limit_nanos=self._changed(nanos, cycle, period, whole))
        billed = [one for one in lines if one.span.overlap(period)]
        gone = {refunds[one.invoice_id].reason for one in billed if one.invoice_id in refunds} - {""}
        priced = self._priced(self.items.get(cycle, ())) or [(one.price, one.worth) for one in billed]
        state = EntitlementState.FROZEN if part.frozen else EntitlementState.ACTIVE
        return self._is(state, *sorted(gone), part=part, priced=priced, until=period.ends_at)

    def _over(self, span: Period, cycle: Cycle) -> SubscriptionStatus:
        """A paid period is over, and nobody has said what comes after it. What is left of it was paid for, and is asked
        about each day; of what was to end with it, that is over when a payment would be late as well."""
        ends_at, is_last = span.ends_at + timedelta(days=self.policy.grace_days), self.sub.cancel_at_period_end
        if is_last and self.now >= ends_at:
            return self._is(EntitlementState.SUSPENDED, "period_ended")
        days = (self.now - span.ends_at) // timedelta(days=1) + 1
        until = ends_at if is_last else span.ends_at + timedelta(days=days)
        over = self._paid(cycle, span)
        return replace(over, state=EntitlementState.LAPSED, reasons=(*over.reasons, "period_ended"), until=until)

    def _changed(self, paid: int, cycle: Cycle, period: Period, whole: Period) -> int:
        """What was paid for a period, where the items are worth more or less by now than what its lines bill.

        A share of what is billed is what was billed, for as many as there are by now; before it is, of the list price.
        """
        items, known = self.items.get(cycle), grants.billed_at(self.grants[cycle], period.ends_at)
        shares = [one for one in items or () if self.worths[one.price.id].share_e4]
        # What a share comes to of a price in tiers nobody knows before it is billed.
        if items is None or any(one.price.unit_amount is None and one.price.id not in known for one in shares):
            return paid
        worth = Fraction(self._worth([one for one in items if one not in shares], whole))
        for one in shares:
            of_one = Fraction(self._worth([replace(one, quantity=1)], whole)), 1
            nanos, quantity = known.get(one.price.id, of_one)
            worth += nanos * one.quantity / quantity
        asked, billed = min(money.MAX_LIMIT_NANOS, floor(worth)), floor(sum(nanos for nanos, _ in known.values()))
        if asked > billed and self.policy.upgrade == "whole" and not self.is_late:
            return max(paid, min(period.share(asked, whole), paid * self.policy.upgrade_times))
        if asked < billed and self.policy.downgrade == "now":
            return min(paid, period.share(asked, whole))
        return paid

    def _worth(self, items: Sequence[Item], whole: Period) -> int:
        """What items are worth for a whole cycle; the default plan once, and nothing where there is none of an item."""
        items = [one for one in items if one.quantity]
        if any(self.worths[item.price.id].level == valuation.Level.DEFAULT for item in items):
            items = items[:1]
        pricing, worths, reasons = self.pricing, self.worths, self.reasons
        each = (
            grants.per_cycle(pricing, worths[one.price.id], one.price, one.quantity, whole, reasons) for one in items
        )
        return min(money.MAX_LIMIT_NANOS, sum(each))

    def _trusted(self, cycle: Cycle, items: Sequence[Item], whole: Period) -> int:
        """What credit is a share of. Whoever pays can type a quantity: it counts as far as it was paid for in the
        period before, or before anything was, as it was billed at first; and as one of each at least."""
        if lines := self.grants.get(cycle):
            period, _ = cycle.at(self.spans[cycle][-1], self.now)
            last = paid_for(WindowShare(self.id, period, 0), lines, self.facts.refunds)
            known = max(last.paid_nanos, last.given_nanos)
        else:
            mine = [one for one in self.facts.invoices if one.subscription_id == self.id]
            first = min(mine, key=grants.age, default=None)
            billed = [replace(first, status="paid")] if first else []
            lines = grants.of(self.sub, self.id, billed, self.pricing, set()).get(cycle, ())
            known = floor(sum(nanos for nanos, _ in grants.billed_at(lines, whole.ends_at).values()))
        return min(self._worth(items, whole), max(known, self._worth(_one_each(items), whole)))

    def _waiting(self, cycle: Cycle, items: Sequence[Item]) -> SubscriptionStatus | None:
        """A period that is not paid for (yet). None where nothing has begun since the last one that is."""
        sub, known = self.sub, [span for item in items if (span := grants.between(item.starts_at, item.ends_at))]
        if not known or sub.status.startswith("incomplete"):
            return None
        rolled, paid = max(known), self.spans.get(cycle, [])
        if paid and rolled.ends_at <= paid[-1].ends_at:
            return None
        # Nobody has credit for a first invoice that was not sent to them.
        is_sent = any(one.subscription_id == self.id and one.status == "open" for one in self.facts.invoices)
        if not (self.grants or sub.trial_ends_at or cycle.in_arrears or (sub.days_until_due and is_sent)):
            return self._is(EntitlementState.PENDING, "awaiting_first_payment")
        terms = self._terms(rolled, items, in_arrears=cycle.in_arrears)
        grace = max(terms, timedelta(days=self.policy.grace_days))
        due_at = (rolled.ends_at if cycle.in_arrears else rolled.starts_at) + terms
        is_behind = not cycle.in_arrears or self._is_behind(paid, rolled)
        ends_at = (rolled.starts_at if is_behind else rolled.ends_at) + grace
        if self.now >= ends_at and not (self.is_paused and self.policy.pause == "ignore"):
            return self._is(EntitlementState.SUSPENDED, "past_due")
        # What of it is paid for, as by the period that it has cut short, needs no credit; and its grace began with it.
        rest = Period(max(rolled.starts_at, paid[-1].ends_at) if paid else rolled.starts_at, rolled.ends_at)
        # A year that is late has no credit again with each month that is billed beside it.
        timely = [one for one in items if cycle.in_arrears or self.now < (one.starts_at or rolled.starts_at) + grace]
        return self._on_credit(cycle, timely or items, rest, ends_at, due_at)

    def _terms(self, current: Period, items: Sequence[Item], *, in_arrears: bool) -> timedelta:
        """How long after the period's start what is billed of items then is due: what was sent says so, once it is."""
        sent = [one for one in self.facts.invoices if one.status == "open" and one.due_at]
        mine = (one for one in sent for line in one.lines if self._bills(line, one, current, items, in_arrears))
        due_at = max((one.due_at for one in mine if one.due_at), default=None)
        return due_at - current.starts_at if due_at else timedelta(days=self.sub.days_until_due)

    def _bills(
        self, line: Line, invoice: StripeInvoice, current: Period, items: Sequence[Item], in_arrears: bool
    ) -> bool:
        """Whether a line bills a period of items, or where that is done in arrears the one before it."""
        span = grants.between(line.starts_at, line.ends_at)
        if span is None or not line.recurring or (line.subscription_id or invoice.subscription_id) != self.id:
            return False
        # What else the subscription bills, in another rhythm, has terms of its own.
        if not any(line.price.id == one.price.id or line.price.rhythm == one.price.rhythm for one in items):
            return False
        return span.ends_at == current.starts_at if in_arrears else bool(span.overlap(current))

    def _is_behind(self, paid: Sequence[Period], current: Period) -> bool:
        """Whether the period before, which is billed when it is over, is not paid for."""
        begun = max((at for at in (self.sub.starts_at, self.sub.trial_ends_at) if at), default=current.starts_at)
        is_paid = begun >= current.starts_at or any(span.ends_at >= current.starts_at for span in paid)
        # Or it was paid for at another price, which is sold no more.
        sold = {item.price.id for item in self.sub.items}
        before = (one for lines in self.grants.values() for one in lines if one.price.id not in sold)
        is_paid = is_paid or any(not one.is_credit and one.span.ends_at >= current.starts_at for one in before)
        return self.is_late or not is_paid

    def _on_credit(
        self, cycle: Cycle, items: Sequence[Item], rolled: Period, ends_at: datetime, due_at: datetime
    ) -> SubscriptionStatus:
        """What the policy gives of a period before it is paid for: its credit where that was agreed, until it is due.
        Used, and not paid for by then, it is owed."""
        period, whole = cycle.at(rolled, self.now)
        is_agreed = cycle.in_arrears or self.now < due_at
        percent = self.policy.credit_percent if is_agreed else self.policy.provisional_percent
        nanos = period.share(self._trusted(cycle, items, whole) * percent // 100, whole)
        part = WindowShare(self.id, period, nanos, str(cycle))
        part = replace(part, given_nanos=nanos, given_until=due_at) if is_agreed else part
        until = min(at for at in (ends_at, due_at, period.ends_at) if at > self.now or at == ends_at)
        state = EntitlementState.ACTIVE if cycle.in_arrears else EntitlementState.PROVISIONAL
        reason = "on_credit" if is_agreed else "awaiting_payment"
        return self._is(state, reason, part=part, priced=self._priced(items), until=until)

    def _trial(self) -> SubscriptionStatus:
        """One trial window to the trial's end. Of each product a tenant has one, whatever is tried beside it."""
        sub = self.sub
        begun = sub.trial_starts_at or min((item.starts_at for item in sub.items if item.starts_at), default=None)
        known = [at for at in (begun, *(all[-1].ends_at for all in self.spans.values())) if at]
        period = grants.between(max(known, default=None), sub.trial_ends_at)
        if period is None:
            return self._is(EntitlementState.PENDING, "trial_without_period")
        mine = [one for one in sub.items if self.facts.trials_used.setdefault(one.product, sub.id) == sub.id]
        if sub.items and not mine:
            return self._is(EntitlementState.PENDING, "trial_used")
        tried = ([one for one in items if one in mine] for items in self.items.values())
        whole = sum(self._worth(_one_each(items), period) for items in tried)
        nanos = valuation.trial_nanos(self._priced(mine), self.reasons) or whole * self.policy.trial_percent // 100
        part = WindowShare(self.id, period, nanos, given_nanos=nanos)
        found = self._is(EntitlementState.TRIAL, part=part, priced=self._priced(sub.items), until=period.ends_at)
        return replace(found, trial_products=tuple(sorted({one.product for one in mine})))

    def _priced(self, items: Sequence[Item]) -> list[Priced]:
        return [(one.price, self.worths[one.price.id]) for one in items if one.price.id in self.worths]


def _one_each(items: Sequence[Item]) -> list[Item]:
    return [replace(one, quantity=min(one.quantity, 1)) for one in items]
