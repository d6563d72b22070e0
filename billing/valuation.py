"""What a price is worth as a budget: plan rows first, then Stripe's metadata, then the safe default plan. Pure.

Never by a name that contains a word. Amounts are integer nanodollars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import IntEnum

from billing.shapes import Item, Object, Price
from governance import money

# A budget of more than a million dollars a period is a slip of the keyboard, not a plan.
MOST_DOLLARS = Decimal(1_000_000)
BUDGET_KEY = "llm_budget_usd"
TRIAL_KEY = "llm_trial_budget_usd"
PER_UNIT_KEY = "llm_budget_per_unit"
PERIOD_KEY = "llm_budget_period"


class Level(IntEnum):
    """Where a limit came from; the higher wins."""

    DEFAULT = 0
    PRODUCT_METADATA = 1
    PRICE_METADATA = 2
    PLAN = 3


# Price id -> (level, limit of one unit): what the prices were worth when the current window opened.
Kept = Mapping[str, tuple[int, int]]
UNMAPPED = (-1, 0)


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

    def matches(self, price: Price) -> bool:
        return (
            price.id in self.price_ids
            or (price.lookup_key != "" and price.lookup_key in self.lookup_keys)
            or (price.product_id != "" and price.product_id in self.product_ids)
        )

    def precision(self, price: Price) -> int:
        """A price id says more than a lookup key, and that more than a product id."""
        if price.id in self.price_ids:
            return 3
        return 2 if price.lookup_key and price.lookup_key in self.lookup_keys else 1


@dataclass(frozen=True, slots=True)
class Valued:
    """`monthly`: the limit is for a month, also where a longer period is billed."""

    limit_nanos: int
    plan: str = ""
    reasons: tuple[str, ...] = ()
    trial_nanos: int | None = None
    monthly: bool = True


@dataclass(frozen=True, slots=True)
class _Worth:
    level: Level
    limit_nanos: int
    plan: str = ""
    per_unit: bool = False
    monthly: bool = True


@dataclass(slots=True)
class Pricing:
    """Values prices, and remembers in `values` what they came to."""

    plans: Sequence[PlanRule]
    kept: Kept
    values: dict[str, tuple[int, int]] = field(default_factory=dict)

    def of_items(self, items: Sequence[Item]) -> Valued:
        """A subscription's items together. Where none is mapped, the default plan counts once, not once an item."""
        reasons: set[str] = set()
        mapped = [(item, worth) for item in items if (worth := self._worth(item.price, reasons)) is not None]
        if not mapped:
            return self._default(reasons)
        trials = [_amount(item.price, TRIAL_KEY, reasons) for item, _ in mapped]
        return Valued(
            limit_nanos=sum(worth.limit_nanos * (item.quantity if worth.per_unit else 1) for item, worth in mapped),
            plan=" + ".join(sorted({worth.plan for _, worth in mapped if worth.plan})),
            reasons=tuple(sorted(reasons)),
            trial_nanos=sum(trial for trial in trials if trial) or None,
            monthly=all(worth.monthly for _, worth in mapped),
        )

    def _default(self, reasons: set[str]) -> Valued:
        plan = next((plan for plan in self.plans if plan.is_default), None)
        reasons = reasons | {"unmapped_plan"} | ({"no_default_plan"} if plan is None else set())
        if plan is None:
            return Valued(0, reasons=tuple(sorted(reasons)))
        return Valued(plan.limit_nanos, plan.name, tuple(sorted(reasons)), monthly=plan.monthly)

    def _worth(self, price: Price, reasons: set[str]) -> _Worth | None:
        """What a price is worth now. What it was worth when the window opened stays, unless something that says
        more about it has come: changed metadata and edited plans are for new windows."""
        found = self._look_up(price, reasons)
        level, limit = self.kept.get(price.id, UNMAPPED)
        if found is None:
            if level < 0:
                self.values[price.id] = UNMAPPED
                return None
            found = _Worth(Level(level), limit, monthly=_monthly(price))
        elif level >= found.level:
            found = _Worth(Level(level), limit, found.plan, found.per_unit, found.monthly)
        self.values[price.id] = int(found.level), found.limit_nanos
        return found

    def _look_up(self, price: Price, reasons: set[str]) -> _Worth | None:
        per_unit = _flag(price, PER_UNIT_KEY)
        plans = [plan for plan in self.plans if plan.matches(price)]
        if plans:
            plan = max(plans, key=lambda one: (one.precision(price), one.name))
            return _Worth(Level.PLAN, plan.limit_nanos, plan.name, plan.per_unit or per_unit, plan.monthly)
        for level, metadata in (
            (Level.PRICE_METADATA, price.metadata),
            (Level.PRODUCT_METADATA, price.product_metadata),
        ):
            limit = read_amount(metadata, BUDGET_KEY, reasons)
            if limit is not None:
                return _Worth(level, limit, per_unit=per_unit, monthly=_monthly(price))
        return None


def read_amount(metadata: Object, key: str, reasons: set[str]) -> int | None:
    """A budget in nanodollars; None where there is none. What cannot be one is refused, with a reason."""
    raw = metadata.get(key)
    if raw is None or raw == "":
        return None
    try:
        dollars = Decimal(str(raw).strip())
        if not dollars.is_finite() or not 0 < dollars <= MOST_DOLLARS:
            raise InvalidOperation
        return money.nanos_from_dollars(dollars)
    except (InvalidOperation, money.AmountError):
        reasons.add(f"invalid_metadata:{key}")
        return None


def _amount(price: Price, key: str, reasons: set[str]) -> int | None:
    found = read_amount(price.metadata, key, reasons)
    return read_amount(price.product_metadata, key, reasons) if found is None else found


def _said(price: Price, key: str) -> str:
    return str(price.metadata.get(key) or price.product_metadata.get(key) or "").strip().lower()


def _flag(price: Price, key: str) -> bool:
    return _said(price, key) in ("1", "true", "yes", "on")


def _monthly(price: Price) -> bool:
    return _said(price, PERIOD_KEY) != "billing"
