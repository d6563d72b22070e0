"""An item of a subscription by itself: added, changed or taken away, as the same change of its subscription is made."""

from __future__ import annotations

from typing import Any

from billing.sandbox import changes, forms
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused

# What such a request says of the change, and not of the item.
OF_CHANGE = ("payment_behavior", "proration_behavior", "proration_date")


def add(state: State, form: Any) -> Row:
    """A new item, as it is shown. Raises StripeRefusal."""
    sub = state.get("subscription", form.subscription, "subscription")
    known = {item["id"] for item in sub["_items"]}
    _change(state, sub, form, _spec(form))
    made: Row = next(item for item in sub["_items"] if item["id"] not in known)
    return made


def change(state: State, item: Row, form: Any) -> Row:
    _change(state, _subscription(state, item), form, _spec(form, id=item["id"]))
    return item


def delete(state: State, item: Row, form: Any) -> Row:
    sub = _subscription(state, item)
    if len(sub["_items"]) == 1:
        message = "A subscription must have at least one active plan. To end it, cancel the subscription instead."
        raise refused(message, param="id")
    _change(state, sub, form, forms.ItemChange.model_construct(id=item["id"], deleted=True))
    return {"id": item["id"], "object": "subscription_item", "deleted": True}


def _subscription(state: State, item: Row) -> Row:
    return state.get("subscription", item["subscription"])


def _spec(form: Any, **more: Any) -> forms.ItemChange:
    given = form.model_fields_set & forms.ItemChange.model_fields.keys()
    return forms.ItemChange.model_construct(**{name: getattr(form, name) for name in given}, **more)


def _change(state: State, sub: Row, form: Any, spec: forms.ItemChange) -> None:
    given = {name: getattr(form, name) for name in OF_CHANGE if name in form.model_fields_set}
    changes.update(state, sub, forms.SubscriptionChange.model_construct(items=[spec], **given))
