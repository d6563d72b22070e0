"""Which rows a list shows, by what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from billing.sandbox import subscriptions
from billing.sandbox.state import State
from billing.sandbox.wire import Row

Select = Callable[[State, Row, Any], Iterable[Row]]


def of_kind(kind: str, *names: str) -> Select:
    """The rows of a kind, by those fields of the form that were given."""

    def select(state: State, row: Row, form: Any) -> Iterable[Row]:
        given = {name: getattr(form, name) for name in names if name in form.model_fields_set}
        for name in ("customer", "subscription"):
            if name in given:
                state.get(name, given[name], name)
        for one in state.rows(kind, **given):
            if not one.get("deleted"):
                yield one

    return select


def all_subscriptions(state: State, row: Row, form: Any) -> Iterable[Row]:
    """As Stripe lists them: without a status all that are not canceled."""
    if form.customer:
        state.get("customer", form.customer, "customer")
    by = {"customer": form.customer} if form.customer else {}
    for sub in state.rows("subscription", **by):
        wanted = {
            None: sub["status"] != "canceled",
            "all": True,
            "ended": sub["status"] in subscriptions.ENDED,
        }.get(form.status, sub["status"] == form.status)
        of_price = not form.price or form.price in [item["price"] for item in sub["_items"]]
        of_clock = not form.test_clock or sub["test_clock"] == form.test_clock
        if wanted and of_price and of_clock and form.customer in ("", sub["customer"]):
            yield sub


def all_invoices(state: State, row: Row, form: Any) -> Iterable[Row]:
    if form.customer:
        state.get("customer", form.customer, "customer")
    by = {"customer": form.customer} if form.customer else {}
    for invoice in state.rows("invoice", **by):
        of_subscription = not form.subscription or invoice["_subscription"] == form.subscription
        of_method = form.collection_method in (None, invoice["collection_method"])
        of_status = form.status in (None, invoice["status"])
        if of_subscription and of_method and of_status and form.customer in ("", invoice["customer"]):
            yield invoice


def all_invoice_items(state: State, row: Row, form: Any) -> Iterable[Row]:
    for item in state.rows("invoiceitem"):
        pending = form.pending is None or form.pending == (item["invoice"] is None)
        if pending and form.customer in ("", item["customer"]) and form.invoice in ("", item["invoice"]):
            yield item


def all_events(state: State, row: Row, form: Any) -> Iterable[Row]:
    waiting = {one.event for one in state.outgoing}
    for event in state.events:
        of_type = form.type in ("", event["type"]) and (not form.types or event["type"] in form.types)
        delivered = form.delivery_success in (None, event["id"] not in waiting)
        if event["object"] == "event" and of_type and delivered:
            yield event


def all_entitlements(state: State, row: Row, form: Any) -> Iterable[Row]:
    return list(state.get("customer", form.customer, "customer").get("_entitlements", ()))
