"""What a price is worth as a budget: plan rows first, then Stripe's metadata, then the safe default plan. Pure.

Never by a name that contains a word. Amounts are integer nanodollars.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from enum import IntEnum

from billing.rules.kept_worths import Kept
from billing.stripe_api.objects import Object, StripePrice
from governance.rules import money

# A budget of more than a million dollars a period is a slip of the keyboard, not a plan.
MOST_DOLLARS = Decimal(1_000_000)
# A budget of ten times what a customer pays, likewise.
MOST_PERCENT = Decimal(1000)
BUDGET_KEY = "llm_budget_usd"
PERCENT_KEY = "llm_budget_percent"
TRIAL_KEY = "llm_trial_budget_usd"
TOPUP_KEY = "llm_topup_usd"
PER_UNIT_KEY = "llm_budget_per_unit"
PERIOD_KEY = "llm_budget_period"
SOFT_KEY = "llm_soft_cap"
HARD_KEY = "llm_hard_cap"
# Currencies whose smallest unit is not a hundredth, as Stripe lists them: how many decimals they have.
DECIMALS = dict.fromkeys(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"), 0
) | dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 3)


def amount_words(units: int | Decimal, currency: str) -> str:
    """An amount in its currency's smallest unit, a part of which is rounded: "$50.00", "12.00 EUR", "700 JPY"."""
    decimals = DECIMALS.get(currency, 2)
    shown = f"{Decimal(units).scaleb(-decimals):,.{decimals}f}"
    return f"${shown}" if currency == "usd" else f"{shown} {currency.upper()}"


class Level(IntEnum):
    """Where a limit came from; the higher wins."""

    DEFAULT = 0
    PRODUCT_METADATA = 1
    PRICE_METADATA = 2
    PLAN = 3


# What was billed, in a currency's smallest unit, and the currency.
Charge = tuple[int, str]


@dataclass(frozen=True, slots=True)
class PlanPolicy:
    """What a plan says of trials, of periods not paid yet, and of changes; None or empty: as everywhere."""

    trial_percent: int | None = None
    provisional_percent: int | None = None
    grace_days: int | None = None
    credit_percent: int | None = None
    upgrade: str = ""
    upgrade_times: int | None = None
    downgrade: str = ""
    pause: str = ""


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
class PlanRule:
    name: str
    limit_nanos: int
    price_ids: frozenset[str] = frozenset()
    lookup_keys: frozenset[str] = frozenset()
    product_ids: frozenset[str] = frozenset()
    is_default: bool = False
    per_unit: bool = False
    monthly: bool = True
    policy: PlanPolicy = PlanPolicy()

    def precision(self, price: StripePrice) -> int:
        """How much it says about a price: an id more than a lookup key, and that more than a product; 0: nothing."""
        if price.id in self.price_ids:
            return 3
        if price.lookup_key and price.lookup_key in self.lookup_keys:
            return 2
        return int(price.product_id != "" and price.product_id in self.product_ids)


@dataclass(frozen=True, slots=True)
class Worth:
    """What one price gives for a month (`monthly`, also where it bills longer or shorter) or for what it bills at once.

    `share_e4`: this share of what is billed, in ten thousandths, in place of a limit. `by_product`: its product says
    so, and not the price itself.
    """

    level: Level
    limit_nanos: int
    plan: str = ""
    per_unit: bool = False
    monthly: bool = True
    share_e4: int = 0
    policy: PlanPolicy = PlanPolicy()
    by_product: bool = False

    @property
    def is_of_product(self) -> bool:
        """Whether it is a limit that the product has for all its prices together."""
        return self.by_product and not self.share_e4


# A price and what it is worth.
Priced = tuple[StripePrice, Worth]


@dataclass(slots=True)
class Pricing:
    """Values prices, and remembers in `values` what they came to. `rates`: dollars for one of a currency's units.

    What prices of a subscription were worth is `kept`, by their ids, whatever is said since: changed metadata, mappings
    and edited plans are for new spans. `rising`: the prices that are worth what is said of them now, as something says
    more. `outdone`: those of which something does, and `recycled`: those whose budget would last otherwise by now.
    """

    plans: Sequence[PlanRule]
    kept: Kept
    rates: Mapping[str, Decimal] = field(default_factory=dict)
    rising: Collection[str] = ()
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outdone: set[str] = field(default_factory=set)
    recycled: set[str] = field(default_factory=set)

    def worths(self, prices: Sequence[StripePrice], reasons: set[str]) -> dict[str, Worth]:
        """Price id -> worth, of prices sold together. Where none of them is mapped, each is worth the default plan,
        which counts once; beside one that is mapped, others are worth nothing, and so is what is used beyond a plan:
        a metered price for which its product speaks, and that is sold with another of the same."""
        # A price that only sells top-ups is no budget, and lacks none.
        asked = [one for one in prices if not _is_topup(one) or self._is_named(one)]
        said = {one.id: self._look_up(one, reasons) for one in asked}
        found = {one.id: self._held(one, said[one.id]) for one in asked}
        mapped = [one for one in asked if found[one.id].level != Level.DEFAULT]
        if asked and not mapped and all(worth.level == Level.DEFAULT for worth in said.values()):
            is_default = any(plan.is_default for plan in self.plans)
            reasons |= {"unmapped_plan"} | (set() if is_default else {"no_default_plan"})
        sold = {one.product_id for one in mapped if not one.metered}
        beyond = {one.id for one in mapped if one.metered and one.product_id in sold and found[one.id].is_of_product}
        return {one.id: found[one.id] for one in mapped or asked if one.id not in beyond}

    def _is_named(self, price: StripePrice) -> bool:
        """Whether a plan or metadata says what a price is worth as a budget."""
        said = any(_said(price, key) for key in (BUDGET_KEY, PERCENT_KEY))
        return said or any(plan.precision(price) for plan in self.plans)

    def nanos(self, worth: Worth, price: StripePrice, quantity: int, charge: Charge | None, reasons: set[str]) -> int:
        """What a quantity of a price gives: its limit, or its share of a charge (of the list price where none is
        known). No limit is above the highest: a quantity is whatever somebody typed."""
        if not worth.share_e4:
            return min(money.MAX_LIMIT_NANOS, worth.limit_nanos * (quantity if worth.per_unit else 1))
        amount, currency = charge or ((price.unit_amount or 0) * quantity, price.currency)
        currency = (currency or price.currency or "usd").lower()
        rate = Decimal(1) if currency == "usd" else self.rates.get(currency)
        if rate is None:
            # A currency without a rate is worth nothing, with a reason.
            reasons.add(f"no_exchange_rate:{currency}")
            return 0
        nanos = int(Decimal(abs(amount)).scaleb(-DECIMALS.get(currency, 2)) * rate * 1_000_000_000)
        return min(money.MAX_LIMIT_NANOS, nanos * worth.share_e4 // 10_000)

    def _held(self, price: StripePrice, found: Worth) -> Worth:
        """What a price was worth when its span began, if it was known then, or else by now."""
        if (kept := self.kept.get(price.id)) is not None:
            level, limit, share, *more = kept
            held = replace(found, level=Level(level), limit_nanos=limit, share_e4=share)
            if more and more[0] >= 0:
                held = replace(held, per_unit=bool(more[0]), monthly=bool(more[1]))
            if held.monthly != found.monthly and (price.interval, price.interval_count) != ("month", 1):
                self.recycled.add(price.id)
            elif found.level > level:
                self.outdone.add(price.id)
            found = found if price.id in self.outdone.intersection(self.rising) else held
        self.values[price.id] = (
            *(int(found.level), found.limit_nanos, found.share_e4),
            *(int(found.per_unit), int(found.monthly)),
        )
        return found

    def _look_up(self, price: StripePrice, reasons: set[str]) -> Worth:
        """What plans and metadata say of a price now, or else the default plan."""
        per_unit = _flag(price, PER_UNIT_KEY)
        plan = max(self.plans, key=lambda one: (one.precision(price), one.name), default=None)
        if plan is not None and plan.precision(price):
            found = Worth(Level.PLAN, plan.limit_nanos, plan.name, plan.per_unit or per_unit, plan.monthly)
            return replace(found, policy=plan.policy, by_product=plan.precision(price) == 1)
        for level, metadata in (
            (Level.PRICE_METADATA, price.metadata),
            (Level.PRODUCT_METADATA, price.product_metadata),
        ):
            limit = read_amount(metadata, BUDGET_KEY, reasons)
            if limit is not None:
                of_product = level == Level.PRODUCT_METADATA
                return Worth(level, limit, per_unit=per_unit, monthly=_monthly(price), by_product=of_product)
            share_e4 = read_percent(metadata, PERCENT_KEY, reasons)
            if share_e4 is not None and price.metered:
                # What it bills is known when it is over, and cannot bound what is used before.
                reasons.add(f"invalid_metadata:{PERCENT_KEY}")
                return Worth(level, 0, monthly=_monthly(price))
            if share_e4 is not None:
                return Worth(level, 0, monthly=_monthly(price), share_e4=share_e4)
        default = next((plan for plan in self.plans if plan.is_default), None)
        if default is None:
            return Worth(Level.DEFAULT, 0)
        return Worth(Level.DEFAULT, default.limit_nanos, default.name, monthly=default.monthly, policy=default.policy)


def plans_of(priced: Sequence[Priced]) -> str:
    return " + ".join(sorted({worth.plan for _, worth in priced if worth.plan}))


def policy_of(priced: Sequence[Priced]) -> PlanPolicy:
    """The policy of the plan with the highest limit."""
    found = max((worth for _, worth in priced), key=lambda one: (one.limit_nanos, one.plan), default=None)
    return found.policy if found else PlanPolicy()


def trial_nanos(priced: Sequence[Priced], reasons: set[str]) -> int | None:
    """What metadata says of a trial; None where it says nothing."""
    return sum(_amount(price, TRIAL_KEY, reasons) or 0 for price, _ in priced) or None


def read_amount(metadata: Object, key: str, reasons: set[str]) -> int | None:
    """A budget in nanodollars; None where there is none. What cannot be one is refused, with a reason."""
    dollars = _number(metadata, key, MOST_DOLLARS, reasons)
    try:
        return None if dollars is None else money.nanos_from_dollars(dollars)
    except money.AmountError:
        reasons.add(f"invalid_metadata:{key}")
        return None


def read_percent(metadata: Object, key: str, reasons: set[str]) -> int | None:
    """A percentage in ten thousandths, rounded down; None where there is none or it cannot be one."""
    percent = _number(metadata, key, MOST_PERCENT, reasons)
    if percent is None:
        return None
    share_e4 = int(percent * 100)
    if share_e4 == 0:
        reasons.add(f"invalid_metadata:{key}")
    return share_e4 or None


def topup_nanos(price: StripePrice, reasons: set[str]) -> int | None:
    """What one of this price adds to a budget; None where it is no top-up. What is billed again and again is none: its
    credits and prorations would have to take back, and add, what is bought once. Nor is what the payer decides on the
    amount of: whatever is paid, it would add the same."""
    nanos = _amount(price, TOPUP_KEY, reasons) if _is_topup(price) else None
    if nanos and (price.interval or price.payer_decides):
        reasons.add(f"invalid_metadata:{TOPUP_KEY}")
        return None
    return nanos


def _is_topup(price: StripePrice) -> bool:
    """Whether a price says that it sells top-ups. What a product says is for those of its prices that are paid once."""
    return bool(price.metadata.get(TOPUP_KEY) or (not price.interval and _said(price, TOPUP_KEY)))


def _number(metadata: Object, key: str, most: Decimal, reasons: set[str]) -> Decimal | None:
    raw = metadata.get(key)
    if raw is None or raw == "":
        return None
    try:
        number = money.decimal(str(raw).strip())
        if 0 < number <= most:
            return number
    except money.AmountError:
        pass
    reasons.add(f"invalid_metadata:{key}")
    return None


def caps(priced: Sequence[Priced], reasons: set[str]) -> tuple[int | None, int | None]:
    """The strictest soft and hard cap that the prices name, in ten thousandths; None where none does. Those that no
    budget can have are refused, with a reason."""
    found = []
    for key in (SOFT_KEY, HARD_KEY):
        ratios = [_number({key: _said(price, key)}, key, Decimal(1), reasons) for price, _ in priced]
        found.append(min((int(ratio * 10_000) for ratio in ratios if ratio is not None), default=None) or None)
    soft_e4, hard_e4 = found
    if soft_e4 is not None and soft_e4 >= (hard_e4 or 10_000):
        reasons.add(f"invalid_metadata:{SOFT_KEY}")
        soft_e4 = None
    return soft_e4, hard_e4


def _amount(price: StripePrice, key: str, reasons: set[str]) -> int | None:
    found = read_amount(price.metadata, key, reasons)
    return read_amount(price.product_metadata, key, reasons) if found is None else found


def _said(price: StripePrice, key: str) -> str:
    return str(price.metadata.get(key) or price.product_metadata.get(key) or "").strip().lower()


def _flag(price: StripePrice, key: str) -> bool:
    return _said(price, key) in ("1", "true", "yes", "on")


def _monthly(price: StripePrice) -> bool:
    return _said(price, PERIOD_KEY) != "billing"
