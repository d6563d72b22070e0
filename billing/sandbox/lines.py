"""Lines of invoices and the items that wait for one, with what discounts take off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from billing.sandbox import amounts, catalogue, times
from billing.sandbox.state import State
from billing.sandbox.wire import Row, no_such, refused

Discounts = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class LineCharge:
    """What a line is about: a price and a quantity for a span, in whole or in part.

    `amount` is the list amount; below nothing it is a credit, and one of a free price is of nothing: it `gives_back`,
    as far as that is known, a line of an invoice (their ids). `discounts` are fixed where they are given, as those of a
    credit are by what it gives back: (discount's id, amount).
    """

    price: Row
    quantity: int | None
    start: int
    end: int
    amount: int
    subscription: str = ""
    item: str = ""
    proration: bool = False
    arrears: bool = False
    trial: bool = False
    gives_back: Sequence[str] | None = None
    description: str = ""
    discounts: Discounts | None = None
    metadata: Mapping[str, str] | None = None


def pending(state: State, customer: Row, charge: LineCharge, *, invoice: str | None = None) -> Row:
    """An invoice item: it waits for the customer's next invoice, or belongs to the draft that is named."""
    parent = None
    if charge.subscription:
        details = {"subscription": charge.subscription, "subscription_item": charge.item or None}
        parent = {"type": "subscription_details", "subscription_details": details}
    row = state.add(
        "invoiceitem",
        {
            "amount": charge.amount,
            "currency": charge.price["currency"],
            "customer": customer["id"],
            "customer_account": None,
            "date": state.time_of(customer),
            "description": charge.description or None,
            "discountable": not charge.proration,
            "discounts": [],
            "frozen_fields": ["pricing", "quantity", "discounts"] if charge.proration else [],
            "invoice": invoice,
            "metadata": dict(charge.metadata or {}),
            "net_amount": charge.amount - sum(amount for _, amount in charge.discounts or ()),
            "parent": parent,
            "period": {"start": charge.start, "end": charge.end},
            "pricing": _pricing(charge),
            "proration": charge.proration,
            "proration_details": _proration_details(charge),
            "quantity": charge.quantity or 1,
            "quantity_decimal": str(charge.quantity or 1),
            "tax_rates": [],
            "test_clock": customer.get("test_clock"),
            "_charge": charge,
        },
    )
    state.emit("invoiceitem.created", row)
    return row


def of_charge(state: State, invoice: Row, charge: LineCharge, *, invoiceitem: str | None = None) -> Row:
    """The line of an invoice."""
    gross = charge.amount
    return state.add(
        "line_item",
        {
            "amount": gross,
            "currency": charge.price["currency"],
            "description": charge.description or _described(charge),
            "discount_amounts": [{"amount": amount, "discount": id} for id, amount in charge.discounts or ()],
            "discountable": not charge.proration,
            "discounts": [],
            "invoice": invoice["id"],
            "metadata": dict(charge.metadata or {}),
            "parent": _parent(charge, invoiceitem),
            "period": {"start": charge.start, "end": charge.end},
            "pretax_credit_amounts": [],
            "pricing": _pricing(charge),
            "quantity": charge.quantity if charge.quantity is not None else 1,
            "quantity_decimal": str(charge.quantity if charge.quantity is not None else 1),
            "subscription": charge.subscription or None,
            "subtotal": gross,
            "taxes": [],
            "_charge": charge,
            "_invoiceitem": invoiceitem,
        },
    )


def name_debit(state: State, charge: LineCharge, invoice: Row, line: Row) -> None:
    """What waited with its item for an invoice is on one now, as whoever gives it back says."""
    item = state.find("subscription_item", charge.item)
    for debit in item["_debits"] if item else ():
        if debit["line"] == ["", ""] and (debit["price"], debit["start"]) == (charge.price["id"], charge.start):
            debit["line"] = [invoice["id"], line["id"]]


def _parent(charge: LineCharge, invoiceitem: str | None) -> Row:
    details = {
        "invoice_item": invoiceitem,
        "proration": charge.proration,
        "proration_details": _proration_details(charge),
        "subscription": charge.subscription or None,
    }
    if charge.item:
        details["subscription_item"] = charge.item
        return {
            "type": "subscription_item_details",
            "invoice_item_details": None,
            "subscription_item_details": details,
        }
    return {"type": "invoice_item_details", "invoice_item_details": details, "subscription_item_details": None}


def _proration_details(charge: LineCharge) -> Row:
    invoice, line = charge.gives_back or ("", "")
    return {
        "credited_items": {"invoice": invoice, "invoice_line_items": [line]} if invoice else None,
        "discount_amounts": [{"amount": amount, "discount": id} for id, amount in charge.discounts or ()],
    }


def _pricing(charge: LineCharge) -> Row:
    price = charge.price
    return {
        "type": "price_details",
        "price_details": {"price": price["id"], "product": price["product"]},
        "unit_amount_decimal": price["unit_amount_decimal"],
    }


def _described(charge: LineCharge) -> str:
    name = charge.price["nickname"] or charge.price["lookup_key"] or charge.price["id"]
    if charge.trial:
        return f"Trial period for {name}"
    words = amounts.in_words(charge.amount, charge.price["currency"])
    return f"{charge.quantity if charge.quantity is not None else 1} × {name} ({words})"


def whole_amount(charge: LineCharge) -> int | None:
    """What the price charges for a whole interval at the line's quantity."""
    if charge.price["custom_unit_amount"]:
        return None
    return catalogue.cost(charge.price, charge.quantity if charge.quantity is not None else 1)


# Discounts


def add_discounts(state: State, owner: Row, given: Any) -> list[str]:
    """Discounts of coupons for a customer or subscription; their ids. Raises StripeRefusal."""
    ids = []
    for place, one in enumerate(given or ()):
        coupon = state.get("coupon", one.coupon, f"discounts[{place}][coupon]")
        if coupon.get("deleted"):
            raise no_such("coupon", one.coupon, f"discounts[{place}][coupon]")
        coupon["times_redeemed"] += 1
        start, months = state.time_of(owner), coupon["duration_in_months"]
        row = state.add(
            "discount",
            {
                "checkout_session": None,
                "customer": owner.get("customer") or owner["id"],
                "customer_account": None,
                "end": times.boundary(start, "month", 1, months) if months else None,
                "invoice": None,
                "invoice_item": None,
                "promotion_code": None,
                "source": {"type": "coupon", "coupon": coupon["id"]},
                "start": start,
                "subscription": owner["id"] if owner["object"] == "subscription" else None,
                "subscription_item": None,
                "_used": False,
            },
        )
        ids.append(str(row["id"]))
    return ids


def in_force(state: State, ids: Sequence[str], at: int) -> list[Row]:
    """The discounts that still take something off at a moment."""
    found = [state.get("discount", id) for id in ids]
    return [
        one
        for one in found
        if not (one["end"] and one["end"] <= at)
        and not (one["_used"] and state.get("coupon", one["source"]["coupon"])["duration"] == "once")
    ]


def percent_off(state: State, ids: Sequence[str], amount: int, currency: str, at: int) -> list[tuple[str, int]]:
    """What discounts in percent take off an amount, one after the other."""
    found, left = [], amount
    for one in in_force(state, ids, at):
        percent = state.get("coupon", one["source"]["coupon"])["percent_off"]
        if percent is not None:
            off = amounts.rounded(Decimal(left) * Decimal(str(percent)) / 100, currency)
            found.append((str(one["id"]), off))
            left -= off
    return found


def apply_discounts(state: State, invoice: Row, ids: Sequence[str], at: int) -> None:
    """Take discounts off the lines that may have any, and mark those as used that count once."""
    open_lines = [one for one in invoice["_lines"] if one["discountable"] and one["amount"] > 0]
    if not open_lines:
        return
    for line in open_lines:
        off = percent_off(state, ids, line["amount"], line["currency"], at)
        line["discount_amounts"] = [{"amount": amount, "discount": id} for id, amount in off]
    for one in in_force(state, ids, at):
        coupon = state.get("coupon", one["source"]["coupon"])
        if coupon["amount_off"] is not None and coupon["currency"] == invoice["currency"]:
            _spread(open_lines, str(one["id"]), coupon["amount_off"])
        one["_used"] = True


def _spread(lines: Sequence[Row], id: str, amount_off: int) -> None:
    """A fixed amount over the lines by what is left of each; never more than there is."""
    left = [line["amount"] - off(line) for line in lines]
    total = sum(left)
    wanted = given = min(amount_off, total)
    for place, line in enumerate(lines):
        share = given if place + 1 == len(lines) else wanted * left[place] // total if total else 0
        given -= share
        line["discount_amounts"].append({"amount": share, "discount": id})


def off(line: Row) -> int:
    """What discounts take off a line; below nothing for a credit's."""
    return sum(one["amount"] for one in line["discount_amounts"])


def item_charge(state: State, customer: Row, form: Any) -> LineCharge:
    """What an invoice item asks for: a price and a quantity, or an amount by itself. Raises StripeRefusal."""
    now = state.time_of(customer)
    start, end = (form.period.start, form.period.end) if form.period else (now, now)
    price_id = form.pricing.price if form.pricing else ""
    if price_id:
        price = state.get("price", price_id, "pricing[price]")
        if price["type"] != "one_time":
            raise refused(f"The price specified is set to `type={price['type']}`.", param="pricing[price]")
        quantity = 1 if form.quantity is None else form.quantity
        amount = catalogue.cost(price, quantity)
        return LineCharge(price, quantity, start, end, amount, subscription=form.subscription, metadata=form.metadata)
    if form.amount is None or not form.currency:
        raise refused(
            "You must specify `pricing`, or `amount` and `currency`.", param="amount", code="parameter_missing"
        )
    price = _price_of_amount(state, form)
    return LineCharge(
        price,
        1,
        start,
        end,
        form.amount,
        subscription=form.subscription,
        description=form.description,
        metadata=form.metadata,
    )


def _price_of_amount(state: State, form: Any) -> Row:
    """Stripe makes a price of its own for an amount that has none."""
    product = state.add("product", {"active": False, "name": form.description or "One-time item", "metadata": {}})
    return state.add(
        "price",
        {
            "active": False,
            "billing_scheme": "per_unit",
            "created": state.now,
            "currency": form.currency,
            "custom_unit_amount": None,
            "lookup_key": None,
            "metadata": {},
            "nickname": None,
            "product": product["id"],
            "recurring": None,
            "tax_behavior": "unspecified",
            "tiers_mode": None,
            "_tiers": None,
            "transform_quantity": None,
            "type": "one_time",
            "unit_amount": form.amount,
            "unit_amount_decimal": str(form.amount),
        },
    )
