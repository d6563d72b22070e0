"""Customers, their payment methods and their balance."""

from __future__ import annotations

from typing import Any

from billing.sandbox import catalogue
from billing.sandbox.state import State
from billing.sandbox.wire import Row, declined, no_such, refused

# Stripe's payment methods for tests (https://docs.stripe.com/testing): their type, and how their payments go.
TEST_METHODS = {
    "pm_card_visa": ("card", "ok"),
    "pm_card_mastercard": ("card", "ok"),
    "pm_card_chargeDeclined": ("card", "refused"),
    "pm_card_chargeCustomerFail": ("card", "fails"),
    "pm_card_authenticationRequired": ("card", "asks"),
    "pm_card_createDispute": ("card", "disputed"),
    "pm_card_pendingRefund": ("card", "slow_refund"),
    "pm_card_refundFail": ("card", "failing_refund"),
    "pm_usBankAccount_success": ("us_bank_account", "delayed"),
    "pm_usBankAccount_insufficientFunds": ("us_bank_account", "delayed_fails"),
}


def add(state: State, form: Any, *, id: str = "") -> Row:
    """A new customer, under an id of its own unless one is given. Raises StripeRefusal."""
    if form.test_clock:
        state.get("test_helpers.test_clock", form.test_clock, "test_clock")
    if id and state.find("customer", id):
        raise refused("Customer already exists.", param="id", code="resource_already_exists")
    row: Row = {
        **({"id": id} if id else {}),
        "address": None,
        "balance": form.balance,
        "created": state.now,
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": form.description or None,
        "discount": None,
        "email": form.email or None,
        "invoice_prefix": f"SIM{state.number + 1:05d}",
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "metadata": dict(form.metadata or {}),
        "name": form.name or None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": form.test_clock or None,
        "_discount": None,
    }
    row = state.add("customer", row)
    row["created"] = state.time_of(row)
    state.emit("customer.created", row)
    if form.payment_method:
        method = attach(state, form.payment_method, row)
        if form.invoice_settings is None:
            row["invoice_settings"]["default_payment_method"] = method["id"]
    _use_default(state, row, form)
    return row


def change(state: State, row: Row, form: Any) -> Row:
    _refuse_deleted(row)
    _use_default(state, row, form)
    return catalogue.changed(state, row, form, ("name", "email", "description", "balance"), "customer")


def _use_default(state: State, row: Row, form: Any) -> None:
    settings = form.invoice_settings
    if settings is None:
        return
    id = settings.default_payment_method
    method = own_method(state, row, id, "invoice_settings[default_payment_method]") if id else None
    before = dict(row["invoice_settings"])
    row["invoice_settings"] = {**before, "default_payment_method": method["id"] if method else None}
    if before != row["invoice_settings"]:
        state.emit("customer.updated", row, {"invoice_settings": before})


def living(state: State, id: str | None, param: str = "customer") -> Row:
    """The customer, for something new of it. Raises StripeRefusal where there is none, or no more."""
    row = state.get("customer", id, param)
    if row.get("deleted"):
        raise no_such("customer", id or "", param)
    return row


def _refuse_deleted(row: Row) -> None:
    if row.get("deleted"):
        raise no_such("customer", row["id"])


def delete(state: State, row: Row) -> Row:
    """What is left of a deleted customer is its id. Its subscriptions are ended before, by whoever calls this."""
    _refuse_deleted(row)
    state.emit("customer.deleted", row)
    kept = {name: row[name] for name in ("id", "object", "test_clock", "_discount", "balance", "invoice_prefix")}
    row.clear()
    row.update(kept, deleted=True)
    return {"id": row["id"], "object": "customer", "deleted": True}


# Payment methods


def add_method(state: State, form: Any) -> Row:
    token = {"tok_visa": "pm_card_visa", "tok_chargeCustomerFail": "pm_card_chargeCustomerFail"}.get(form.card.token)
    if form.type != "card" or token is None:
        raise refused("Cards are made from a test token here: tok_visa or tok_chargeCustomerFail.", param="card[token]")
    return new_method(state, token)


def attach(state: State, id: str, customer: Row) -> Row:
    """A method of the customer's own, made of a test method where one is named. Raises StripeRefusal."""
    kind, way = TEST_METHODS.get(id, ("", ""))
    if way == "refused":
        raise declined("Your card was declined.", "card_declined", decline_code="generic_decline")
    row = new_method(state, id) if kind else state.get("payment_method", id, "payment_method")
    if row["customer"] not in (None, customer["id"]):
        raise refused("The payment method you provided has already been attached to a customer.")
    row["customer"] = customer["id"]
    state.emit("payment_method.attached", row)
    return row


def detach(state: State, row: Row) -> Row:
    owner, row["customer"] = state.find("customer", row["customer"]), None
    if owner and owner["invoice_settings"]["default_payment_method"] == row["id"]:
        owner["invoice_settings"] = {**owner["invoice_settings"], "default_payment_method": None}
    for sub in state.rows("subscription", default_payment_method=row["id"]):
        sub["default_payment_method"] = None
    state.emit("payment_method.detached", row)
    return row


def own_method(state: State, customer: Row, id: str, param: str) -> Row:
    """A payment method that the customer has; a test method becomes one. Raises StripeRefusal."""
    if id in TEST_METHODS:
        return attach(state, id, customer)
    row = state.get("payment_method", id, param)
    if row["customer"] != customer["id"]:
        raise refused("The customer does not have a payment method with the ID " + id + ".", param=param)
    return row


def new_method(state: State, token: str) -> Row:
    kind, way = TEST_METHODS[token]
    details = {"brand": "visa", "last4": "4242", "exp_month": 9, "exp_year": 2099, "country": "US", "funding": "credit"}
    if kind != "card":
        details = {"bank_name": "STRIPE TEST BANK", "last4": "6789", "account_type": "checking"}
    return state.add(
        "payment_method",
        {
            "allow_redisplay": "unspecified",
            "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
            "created": state.now,
            "customer": None,
            "customer_account": None,
            "metadata": {},
            "radar_options": None,
            "type": kind,
            kind: details,
            "_way": way,
        },
    )


# Balance: below nothing it is the customer's credit, above nothing it owes.


def move_balance(state: State, customer: Row, amount: int, kind: str, *, currency: str, **about: Any) -> Row:
    """Add to a customer's balance, with the row that says why."""
    before = customer["balance"]
    customer["balance"] = before + amount
    customer["currency"] = customer.get("currency") or currency
    return state.add(
        "customer_balance_transaction",
        {
            "amount": amount,
            "checkout_session": None,
            "created": state.time_of(customer),
            "credit_note": about.get("credit_note"),
            "currency": currency,
            "customer": customer["id"],
            "customer_account": None,
            "description": about.get("description"),
            "ending_balance": customer["balance"],
            "invoice": about.get("invoice"),
            "metadata": about.get("metadata") or {},
            "type": kind,
        },
    )


def adjust_balance(state: State, customer: Row, form: Any) -> Row:
    _refuse_deleted(customer)
    before = customer["balance"]
    row = move_balance(
        state,
        customer,
        form.amount,
        "adjustment",
        currency=form.currency,
        description=form.description or None,
        metadata=dict(form.metadata or {}),
    )
    state.emit("customer.updated", customer, {"balance": before})
    return row
