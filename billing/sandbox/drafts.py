"""Invoices and their items as the business makes them itself, beside those of subscriptions."""

from __future__ import annotations

from typing import Any

from billing.sandbox import catalogue, customers, invoices, lines
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused


def new_invoice(state: State, row: Row, form: Any) -> Row:
    customer = customers.living(state, form.customer)
    if form.collection_method == "send_invoice" and form.days_until_due is None:
        raise refused("Missing required param: days_until_due.", param="days_until_due", code="parameter_missing")
    sub = state.get("subscription", form.subscription, "subscription") if form.subscription else None
    currency = form.currency or (sub or {}).get("currency") or customer["currency"] or "usd"
    return invoices.draft(
        state,
        customer,
        "manual",
        currency=currency,
        sub=sub,
        with_pending=form.pending_invoice_items_behavior == "include" or sub is not None,
        discounts=lines.add_discounts(state, customer, form.discounts),
        auto_advance=form.auto_advance,
        collection_method=form.collection_method,
        description=form.description or None,
        metadata=dict(form.metadata or {}),
        _days=form.days_until_due,
        _asked_by_hand=not form.auto_advance,
        _finalize_at=state.time_of(customer) + invoices.DRAFT_S if form.auto_advance else None,
    )


def change_invoice(state: State, row: Row, form: Any) -> Row:
    if row["status"] not in ("draft", "open"):
        raise refused("This invoice can no longer be edited.", code="invoice_not_editable")
    names = ("auto_advance", "description", "default_payment_method")
    return catalogue.changed(state, row, form, names, "invoice")


def finalize(state: State, row: Row, form: Any) -> Row:
    if form.auto_advance is not None:
        row["auto_advance"] = form.auto_advance
    return invoices.finalize(state, row)


def send(state: State, row: Row, form: Any) -> Row:
    if row["collection_method"] != "send_invoice":
        raise refused("You can only manually send an invoice if its collection method is 'send_invoice'.")
    if row["status"] == "draft":
        invoices.finalize(state, row)
    state.emit("invoice.sent", row)
    return row


def new_invoice_item(state: State, row: Row, form: Any) -> Row:
    customer = customers.living(state, form.customer)
    charge = lines.item_charge(state, customer, form)
    if form.subscription:
        state.get("subscription", form.subscription, "subscription")
    invoice = state.get("invoice", form.invoice, "invoice") if form.invoice else None
    if invoice is None:
        return lines.pending(state, customer, charge)
    if invoice["status"] != "draft" or invoice["currency"] != charge.price["currency"]:
        raise refused("The invoice must be a draft in the item's currency.", param="invoice")
    item = lines.pending(state, customer, charge, invoice=invoice["id"])
    invoice["_lines"].append(lines.of_charge(state, invoice, charge, invoiceitem=item["id"]))
    lines.apply_discounts(state, invoice, invoice["discounts"], state.time_of(customer))
    invoices.add_up(invoice)
    state.emit("invoice.updated", invoice)
    return item


def delete_invoice_item(state: State, row: Row, form: Any) -> Row:
    if row["invoice"] is not None:
        raise refused("You cannot delete an invoice item that is on an invoice.")
    del state.tables["invoiceitem"][row["id"]]
    state.emit("invoiceitem.deleted", row)
    return {"id": row["id"], "object": "invoiceitem", "deleted": True}


def attach(state: State, row: Row, form: Any) -> Row:
    return invoices.attach_payment(state, row, state.get("payment_intent", form.payment_intent, "payment_intent"))
