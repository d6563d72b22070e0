"""Objects as Stripe shows them: lists cut, references as ids unless they are asked for in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from billing.sandbox import wire
from billing.sandbox.state import State
from billing.sandbox.wire import Row

# Field -> the kind of object that its id names.
REFERENCES = {
    "customer": "customer",
    "product": "product",
    "default_price": "price",
    "price": "price",
    "latest_invoice": "invoice",
    "invoice": "invoice",
    "subscription": "subscription",
    "schedule": "subscription_schedule",
    "charge": "charge",
    "latest_charge": "charge",
    "payment_intent": "payment_intent",
    "payment_method": "payment_method",
    "default_payment_method": "payment_method",
    "test_clock": "test_helpers.test_clock",
    "feature": "entitlements.feature",
}
# Fields that are there only where they are asked for.
INCLUDABLE: dict[tuple[str, str], Callable[[State, Row], Any]] = {
    ("invoice", "payments"): lambda state, row: wire.embedded(
        [show(state, one) for one in state.rows("invoice_payment", invoice=row["id"])],
        f"/v1/invoice_payments?invoice={row['id']}",
    ),
    ("price", "tiers"): lambda state, row: row.get("_tiers"),
    ("charge", "refunds"): lambda state, row: wire.embedded(
        [show(state, one) for one in state.rows("refund", charge=row["id"])], f"/v1/charges/{row['id']}/refunds"
    ),
    ("checkout.session", "line_items"): lambda state, row: wire.embedded(
        [show(state, one) for one in row["_line_items"]], f"/v1/checkout/sessions/{row['id']}/line_items"
    ),
}


def show(state: State, row: Row, expand: Sequence[str] = ()) -> Row:
    """A copy of an object as the API answers it. Raises StripeRefusal for what cannot be expanded."""
    if row.get("deleted"):
        return {"id": row["id"], "object": row["object"], "deleted": True}
    shown: Row = {name: value for name, value in row.items() if not name.startswith("_")}
    render = _RENDERERS.get(str(row.get("object")))
    if render is not None:
        shown |= render(state, row)
    found: Row = orjson.loads(orjson.dumps(shown))
    for path in expand:
        _expand(state, found, path.split("."), path)
    return found


def shown_list(state: State, rows: Sequence[Row], url: str, *, has_more: bool, expand: Sequence[str] = ()) -> Row:
    """A page of a list; what is to be expanded of it begins with `data`."""
    if wrong := next((path for path in expand if not path.startswith("data.")), None):
        raise _no_expansion(wrong)
    inner = [path.removeprefix("data.") for path in expand]
    return wire.listing([show(state, row, inner) for row in rows], url, has_more=has_more)


def _expand(state: State, shown: Any, names: Sequence[str], path: str) -> None:
    if isinstance(shown, list):
        for one in shown:
            _expand(state, one, names, path)
        return
    if not isinstance(shown, dict):
        return
    name, rest = names[0], names[1:]
    includable = INCLUDABLE.get((str(shown.get("object")), name))
    if includable is not None:
        row = state.find(shown["object"], shown["id"])
        shown[name] = includable(state, row) if row else None
    elif name in REFERENCES and (isinstance(shown.get(name), str) or (name in shown and shown[name] is None)):
        row = state.find(REFERENCES[name], shown[name])
        shown[name] = show(state, row) if row else shown[name]
    elif name not in shown or not isinstance(shown[name], dict | list):
        raise _no_expansion(path)
    if rest:
        _expand(state, shown[name], rest, path)


def _no_expansion(path: str) -> wire.StripeRefusal:
    return wire.refused(f"This property cannot be expanded ({path}).", param="expand")


def _subscription(state: State, row: Row) -> Row:
    items = [show(state, one) for one in row["_items"]]
    return {"items": wire.embedded(items, f"/v1/subscription_items?subscription={row['id']}")}


def _subscription_item(state: State, row: Row) -> Row:
    price = show(state, state.get("price", row["price"]))
    return {"price": price, "plan": _plan(price)}


def _plan(price: Row) -> Row:
    """The older name of the same thing, which items still carry."""
    recurring = price["recurring"] or {}
    copied = {name: price[name] for name in ("id", "active", "billing_scheme", "created", "currency", "livemode")}
    return {
        **copied,
        "object": "plan",
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "interval": recurring.get("interval"),
        "interval_count": recurring.get("interval_count"),
        "metadata": price["metadata"],
        "meter": recurring.get("meter"),
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": price["transform_quantity"],
        "trial_period_days": None,
        "usage_type": recurring.get("usage_type"),
    }


def _invoice(state: State, row: Row) -> Row:
    lines = [show(state, one) for one in row["_lines"]]
    return {"lines": wire.embedded(lines, f"/v1/invoices/{row['id']}/lines")}


def _credit_note(state: State, row: Row) -> Row:
    lines = [show(state, one) for one in row["_lines"]]
    return {"lines": wire.embedded(lines, f"/v1/credit_notes/{row['id']}/lines")}


def _priced(state: State, row: Row) -> Row:
    return {"price": show(state, state.get("price", row["price"]))}


def _summary(state: State, row: Row) -> Row:
    url = f"/v1/customer/{row['customer']}/entitlements"
    return {"entitlements": wire.embedded([show(state, one) for one in row["_entitlements"]], url)}


_RENDERERS: dict[str, Callable[[State, Row], Row]] = {
    "subscription": _subscription,
    "subscription_item": _subscription_item,
    "invoice": _invoice,
    "credit_note": _credit_note,
    "item": _priced,
    "entitlements.active_entitlement_summary": _summary,
}
