"""What a subscription's items are billed: whole intervals, parts of them, usage and trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from billing.sandbox import catalogue, invoices, lines, meters
from billing.sandbox.lines import LineCharge
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused

MOST_ITEMS = 20


def step_of(state: State, item: Row) -> tuple[str, int]:
    recurring = state.get("price", item["price"])["recurring"]
    return recurring["interval"], recurring["interval_count"]


def is_metered(state: State, item: Row) -> bool:
    return bool(state.get("price", item["price"])["recurring"]["usage_type"] == "metered")


def cost_of(state: State, item: Row) -> int:
    """What an item of a fixed quantity costs for a whole interval."""
    return catalogue.cost(state.get("price", item["price"]), item["quantity"])


def recurring_price(state: State, id: str, param: str) -> Row:
    price = state.get("price", id, param)
    if price["type"] != "recurring":
        raise refused(
            "The price specified is set to `type=one_time` but this field only accepts recurring prices.", param=param
        )
    return price


def make_prices(state: State, items: Sequence[Any]) -> None:
    """Make the prices that items bring themselves, and name them there. Raises StripeRefusal."""
    for place, item in enumerate(items):
        data = getattr(item, "price_data", None)
        if data is None:
            continue
        if item.price:
            message = "You may only specify one of these parameters: price, price_data."
            raise refused(message, param=f"items[{place}][price]")
        item.price, item.price_data = catalogue.inline_price(state, data), None


def new_item(state: State, sub: Row, given: Any, place: int) -> Row:
    """An item as it is asked for; its period is set by whoever adds it. Raises StripeRefusal."""
    param = f"items[{place}][price]"
    if not given.price:
        raise refused("Missing required param: " + param, param=param, code="parameter_missing")
    price = recurring_price(state, given.price, param)
    if price["currency"] != sub["currency"]:
        raise refused("The price's currency is not the subscription's.", param=param)
    metered = price["recurring"]["usage_type"] == "metered"
    if metered and given.quantity is not None:
        raise refused("You cannot set the quantity for metered plans.", param=f"items[{place}][quantity]")
    return state.add(
        "subscription_item",
        {
            "billed_until": None,
            "billing_thresholds": None,
            "created": state.time_of(sub),
            "current_period_end": 0,
            "current_period_start": 0,
            "discounts": [],
            "metadata": dict(given.metadata or {}),
            "price": price["id"],
            "quantity": None if metered else 1 if given.quantity is None else given.quantity,
            "subscription": sub["id"],
            "tax_rates": [],
            # What was billed for time of it, which a credit gives back: {charge's own fields}.
            "_debits": [],
        },
    )


def check_items(state: State, sub: Row, items: Sequence[Row]) -> None:
    """Raises StripeRefusal for what cannot be billed together."""
    if not 1 <= len(items) <= MOST_ITEMS:
        raise refused(f"A subscription has from 1 to {MOST_ITEMS} items.", param="items")
    prices = [item["price"] for item in items]
    if len(set(prices)) < len(prices):
        price = max(prices, key=prices.count)
        raise refused(f"Cannot add multiple subscription items with the same plan: {price}", param="items")
    if sub["billing_mode"]["type"] == "classic" and len({step_of(state, item) for item in items}) > 1:
        raise refused("Currently, all items on a subscription must have the same billing interval.", param="items")


# Charges


def whole_charge(state: State, sub: Row, item: Row, start: int, end: int) -> LineCharge:
    """A whole interval of an item."""
    price = state.get("price", item["price"])
    return LineCharge(
        price, item["quantity"], start, end, cost_of(state, item), subscription=sub["id"], item=item["id"]
    )


def part_charge(state: State, sub: Row, item: Row, start: int, end: int, amount: int) -> LineCharge:
    """A part of an interval after a change, which discounts in percent apply to as to the whole."""
    price = state.get("price", item["price"])
    off = lines.percent_off(state, discounts_of(state, sub), amount, price["currency"], state.time_of(sub))
    return replace(first_part(state, sub, item, start, end, amount), proration=True, discounts=off)


def first_part(state: State, sub: Row, item: Row, start: int, end: int, amount: int) -> LineCharge:
    """The part of an interval that a subscription begins with, to Stripe a period like any other."""
    price = state.get("price", item["price"])
    return LineCharge(price, item["quantity"], start, end, amount, subscription=sub["id"], item=item["id"])


def usage_charge(state: State, sub: Row, item: Row, start: int, end: int, *, free: bool = False) -> LineCharge:
    """What a metered item counted in a span that is over; `free` in a trial."""
    price = state.get("price", item["price"])
    count = meters.used(state, price["recurring"]["meter"], sub["customer"], start, end)
    amount = 0 if free or not count else catalogue.cost(price, count)
    return LineCharge(
        price, count, start, end, amount, subscription=sub["id"], item=item["id"], arrears=True, trial=free
    )


def trial_charge(state: State, sub: Row, item: Row, start: int, end: int) -> LineCharge:
    price = state.get("price", item["price"])
    metered = is_metered(state, item)
    return LineCharge(
        price,
        0 if metered else item["quantity"],
        start,
        end,
        0,
        subscription=sub["id"],
        item=item["id"],
        arrears=metered,
        trial=True,
    )


def discounts_of(state: State, sub: Row) -> list[str]:
    """A subscription's discounts, or those of its customer where it has none."""
    if sub["discounts"]:
        return list(sub["discounts"])
    discount = (state.find("customer", sub["customer"]) or {}).get("_discount")
    return [discount] if discount else []


def bill(
    state: State,
    sub: Row,
    reason: str,
    charges: Sequence[LineCharge],
    *,
    period: tuple[int, int] | None = None,
    with_pending: bool = True,
) -> Row:
    """A draft of a subscription's, whose charges are noted with their items so that they can be given back."""
    customer = state.get("customer", sub["customer"])
    invoice = invoices.draft(
        state,
        customer,
        reason,
        currency=sub["currency"],
        charges=charges,
        sub=sub,
        period=period,
        with_pending=with_pending,
        discounts=discounts_of(state, sub),
        collection_method=sub["collection_method"],
        auto_advance=True,
        description=None,
        _days=sub["days_until_due"],
    )
    for line in invoice["_lines"]:
        if line["_invoiceitem"] is None:
            off = [(one["discount"], one["amount"]) for one in line["discount_amounts"]]
            note_debit(state, line["_charge"], off, line=(invoice["id"], line["id"]))
    return invoice


def note_debit(
    state: State, charge: LineCharge, off: Sequence[tuple[str, int]], *, line: tuple[str, str] = ("", "")
) -> None:
    """Note what was billed with its item; `line` is its invoice's id and its own, where it has them yet."""
    item = state.find("subscription_item", charge.item)
    if item is None or charge.arrears or charge.trial or charge.gives_back is not None or charge.amount < 0:
        return
    item["_debits"].append(
        {
            "price": charge.price["id"],
            "quantity": charge.quantity,
            "start": charge.start,
            "end": charge.end,
            "amount": charge.amount,
            "discounts": [list(one) for one in off],
            "line": list(line),
        }
    )


def settle_up(state: State, sub: Row, invoice: Row) -> None:
    """Finalize an invoice at once, and try to be paid."""
    invoices.finalize(state, invoice)
    if invoice["status"] == "open" and sub["collection_method"] == "charge_automatically":
        invoices.collect(state, invoice)
