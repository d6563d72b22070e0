"""Payment intents and charges: a payment that goes through, fails, waits for its bank, or asks its payer."""

from __future__ import annotations

from typing import Any

from billing.sandbox import customers, times
from billing.sandbox.state import State
from billing.sandbox.wire import Row, declined, refused

# How long a debit of a bank account is on its way.
DELAY_S = 4 * times.DAY_S
FAILURES = {
    "fails": ("card_declined", "generic_decline", "Your card was declined."),
    "refused": ("card_declined", "generic_decline", "Your card was declined."),
    "asks": ("authentication_required", "authentication_required", "This payment needs its payer's authentication."),
    "delayed_fails": ("payment_intent_payment_attempt_failed", "insufficient_funds", "The debit was returned."),
    "": ("payment_intent_unexpected_state", "", "The customer has no payment method to be charged."),
}


def add_intent(state: State, *, amount: int, currency: str, customer: Row | None, **more: Any) -> Row:
    """An intent that nobody has confirmed yet."""
    row = state.add(
        "payment_intent",
        {
            "allowed_payment_method_types": None,
            "amount": amount,
            "amount_capturable": 0,
            "amount_details": {"tip": {}},
            "amount_received": 0,
            "application": None,
            "application_fee_amount": None,
            "automatic_payment_methods": None,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": "automatic_async",
            "client_secret": None,
            "confirmation_method": "automatic",
            "created": state.time_of(customer),
            "currency": currency,
            "customer": customer["id"] if customer else None,
            "customer_account": None,
            "description": more.get("description"),
            "excluded_payment_method_types": None,
            "last_payment_error": None,
            "latest_charge": None,
            "managed_payments": None,
            "metadata": dict(more.get("metadata") or {}),
            "next_action": None,
            "on_behalf_of": None,
            "payment_method": None,
            "payment_method_configuration_details": None,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "processing": None,
            "receipt_email": None,
            "review": None,
            "setup_future_usage": None,
            "shipping": None,
            "statement_descriptor": None,
            "statement_descriptor_suffix": None,
            "status": "requires_payment_method",
            "transfer_data": None,
            "transfer_group": None,
        },
    )
    row["client_secret"] = f"{row['id']}_secret_simulated"
    state.emit("payment_intent.created", row)
    return row


def create(state: State, form: Any) -> Row:
    """An intent of the business's own, confirmed at once where it asks for that. Raises StripeRefusal."""
    customer = customers.living(state, form.customer) if form.customer else None
    if form.amount < 1:
        raise refused("Invalid positive integer", param="amount", code="parameter_invalid_integer")
    row = add_intent(
        state,
        amount=form.amount,
        currency=form.currency,
        customer=customer,
        metadata=form.metadata,
        description=form.description or None,
    )
    if form.confirm:
        _confirm_or_refuse(state, row, form.payment_method)
    return row


def confirm_form(state: State, row: Row, form: Any) -> Row:
    return _confirm_or_refuse(state, row, form.payment_method)


def _confirm_or_refuse(state: State, row: Row, method: str) -> Row:
    customer = state.find("customer", row["customer"])
    if method and customer:
        method = customers.own_method(state, customer, method, "payment_method")["id"]
    elif method in customers.TEST_METHODS:
        method = customers.new_method(state, method)["id"]
    if confirm(state, row, method or None) == "requires_payment_method":
        raise declined(
            row["last_payment_error"]["message"], row["last_payment_error"]["code"], payment_intent=row["id"]
        )
    return row


def would_fail(state: State, method: str | None) -> bool:
    """Whether a payment by this method fails at once."""
    found = state.find("payment_method", method)
    return found is None or found["_way"] in ("fails", "asks")


def confirm(state: State, intent: Row, method: str | None) -> str:
    """Try to take the money: the intent's status after it."""
    if intent["status"] in ("succeeded", "processing", "canceled"):
        raise refused(
            f"This PaymentIntent could not be confirmed because it is {intent['status']}.",
            code="payment_intent_unexpected_state",
        )
    found = state.find("payment_method", method)
    way = found["_way"] if found else ""
    intent["payment_method"] = found["id"] if found else None
    intent["payment_method_types"] = [found["type"] if found else "card"]
    if way.startswith("delayed"):
        intent["status"] = "processing"
        intent["_settles_at"] = state.time_of(intent) + DELAY_S
        state.emit("payment_intent.processing", intent)
    elif way in FAILURES:
        _fail(state, intent, way)
    else:
        _succeed(state, intent, way)
    return str(intent["status"])


def settle_delayed(state: State, intent: Row) -> None:
    """The bank has answered for a debit that was on its way."""
    intent.pop("_settles_at")
    method = state.get("payment_method", intent["payment_method"])
    if method["_way"] == "delayed_fails":
        _fail(state, intent, "delayed_fails")
    else:
        _succeed(state, intent, "ok")


def cancel(state: State, intent: Row, reason: str | None = None) -> Row:
    if intent["status"] in ("succeeded", "canceled", "processing"):
        raise refused(
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
        )
    intent.update(status="canceled", canceled_at=state.time_of(intent), cancellation_reason=reason)
    state.emit("payment_intent.canceled", intent)
    return intent


def _fail(state: State, intent: Row, way: str) -> None:
    code, decline, message = FAILURES[way]
    if way:
        intent["latest_charge"] = _charge(state, intent, failure=(code, message))["id"]
    error = {"code": code, "decline_code": decline or None, "message": message, "type": "card_error"}
    intent["last_payment_error"] = error
    if way == "asks":
        intent.update(status="requires_action", next_action={"type": "use_stripe_sdk", "use_stripe_sdk": {}})
        state.emit("payment_intent.requires_action", intent)
        return
    intent["status"] = "requires_payment_method"
    state.emit("payment_intent.payment_failed", intent)


def _succeed(state: State, intent: Row, way: str) -> None:
    charge = _charge(state, intent)
    charge["_way"] = way
    intent.update(
        status="succeeded",
        amount_received=intent["amount"],
        latest_charge=charge["id"],
        last_payment_error=None,
        next_action=None,
    )
    state.emit("payment_intent.succeeded", intent)
    state.emit("charge.succeeded", charge)


def _charge(state: State, intent: Row, failure: tuple[str, str] | None = None) -> Row:
    method = state.find("payment_method", intent["payment_method"])
    kind = method["type"] if method else "card"
    paid = failure is None
    row = state.add(
        "charge",
        {
            "amount": intent["amount"],
            "amount_captured": intent["amount"] if paid else 0,
            "amount_refunded": 0,
            "application": None,
            "application_fee": None,
            "application_fee_amount": None,
            "balance_transaction": state.new_id("balance_transaction") if paid else None,
            "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
            "calculated_statement_descriptor": "SIMULATED",
            "captured": paid,
            "created": state.time_of(intent),
            "currency": intent["currency"],
            "customer": intent["customer"],
            "description": intent["description"],
            "disputed": False,
            "failure_balance_transaction": None,
            "failure_code": failure[0] if failure else None,
            "failure_message": failure[1] if failure else None,
            "fraud_details": {},
            "metadata": dict(intent["metadata"]),
            "on_behalf_of": None,
            "outcome": {"type": "authorized" if paid else "issuer_declined", "risk_level": "normal"},
            "paid": paid,
            "payment_intent": intent["id"],
            "payment_method": intent["payment_method"],
            "payment_method_details": {"type": kind, kind: dict(method[kind]) if method else {}},
            "radar_options": None,
            "receipt_email": None,
            "receipt_number": None,
            "receipt_url": None,
            "refunded": False,
            "review": None,
            "shipping": None,
            "source_transfer": None,
            "statement_descriptor": None,
            "statement_descriptor_suffix": None,
            "status": "succeeded" if paid else "failed",
            "transfer_data": None,
            "transfer_group": None,
        },
    )
    if not paid:
        state.emit("charge.failed", row)
    return row
