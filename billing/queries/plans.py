"""Who is on which plan, and what Stripe's prices are worth by what is said of them now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q

from billing.models import BillingAccount, CatalogEntry, Plan
from billing.rules.valuation import DECIMALS, PlanRule, Pricing, Worth
from billing.stripe_api import objects
from billing.stripe_api.objects import StripePrice
from governance.rules import money

# A customer with several items is on several plans: "Premium + Standard".
AND = " + "
# So many of the newest prices are looked at.
MOST_PRICES = 200


@dataclass(frozen=True, slots=True)
class SoldPrice:
    """A recurring price of Stripe's as it was said last, what it costs, and what it is worth as a budget."""

    price: StripePrice
    product: str
    costs: str
    worth: Worth


def on(plan: Plan) -> Q:
    """Customers who have a plan, alone or among others."""
    name = plan.name
    begins, ends, amid = f"{name}{AND}", f"{AND}{name}", f"{AND}{name}{AND}"
    return Q(plan=name) | Q(plan__startswith=begins) | Q(plan__endswith=ends) | Q(plan__contains=amid)


def customers_on(plans: Sequence[Plan]) -> dict[int, int]:
    """Plan -> how many customers have it. One query."""
    rows = BillingAccount.objects.exclude(plan="").order_by().values_list("plan").annotate(Count("pk"))
    counts: Counter[str] = Counter()
    for joined, count in rows:
        for name in {joined, *joined.split(AND)}:
            counts[name] += count
    return {plan.pk: counts[plan.name] for plan in plans}


def prices(rules: Sequence[PlanRule]) -> list[SoldPrice]:
    """The recurring prices that Stripe told of, those that nothing is said of first. Two queries."""
    entries = list(CatalogEntry.objects.filter(kind=CatalogEntry.Kind.PRICE).order_by("-id")[:MOST_PRICES])
    ids = {objects.identifier(entry.data.get("product")) for entry in entries}
    products = dict(CatalogEntry.objects.filter(stripe_id__in=ids - {""}).values_list("stripe_id", "data"))
    pricing = Pricing(rules, {})
    found = [_price(entry, products, pricing) for entry in entries if objects.mapping(entry.data.get("recurring"))]
    known = [one for one in found if one is not None]
    return sorted(known, key=lambda one: (one.worth.level != 0, one.product, one.price.id))


def _price(entry: CatalogEntry, products: Mapping[str, Mapping[str, Any]], pricing: Pricing) -> SoldPrice | None:
    """None for one that sells top-ups alone."""
    data = dict(entry.data)
    data["lookup_key"] = objects.text(data.get("lookup_key")) or entry.sold_as
    product_id = objects.identifier(data.get("product"))
    data["product"] = {"id": product_id, **products.get(product_id, {})}
    price = objects.price(data)
    worth = pricing.worths([price], set()).get(price.id)
    if worth is None:
        return None
    name = objects.text(data["product"].get("name")) or objects.text(data.get("nickname")) or product_id
    return SoldPrice(price, name, _costs(price), worth)


def _costs(price: StripePrice) -> str:
    """ "120.00 USD a month", "a month" where the price has no amount of its own."""
    every = f"a {price.interval}" if price.interval_count == 1 else f"every {price.interval_count} {price.interval}s"
    if price.unit_amount is None:
        return every
    nanos = price.unit_amount * money.NANOS_PER_DOLLAR // 10 ** DECIMALS.get(price.currency, 2)
    return f"{money.format_dollars(nanos)} {price.currency.upper()} {every}"
