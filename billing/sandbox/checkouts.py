"""Checkout sessions: what is sold, and what a payer's click on the hosted page comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from billing.sandbox import amounts, catalogue, customers, invoices, payments, subscriptions, times
from billing.sandbox.lines import LineCharge
from billing.sandbox.state import State
from billing.sandbox.wire import Row, declined, refused

LIFE_S = times.DAY_S


def create(state: State, form: Any) -> Row:
    """An open session. Raises StripeRefusal."""
    customer = customers.living(state, form.customer) if form.customer else None
    if customer and (form.customer_creation or form.customer_email):
        raise refused("`customer` goes with neither `customer_creation` nor `customer_email`.", param="customer")
    if form.mode == "subscription" and (form.customer_creation or form.invoice_creation or form.payment_intent_data):
        raise refused("This parameter is for `payment` mode alone.", param="customer_creation")
    if form.mode == "payment" and form.subscription_data:
        raise refused("You can not pass `subscription_data` in `payment` mode.", param="subscription_data")
    items = [_item(state, form, one, place) for place, one in enumerate(form.line_items)]
    total = sum(item["amount_total"] for item in items)
    trial = bool(form.subscription_data and form.subscription_data.trial_period_days)
    row = state.add("checkout.session", _blank(form) | {"_line_items": items})
    now = state.time_of(customer)
    row.update(
        amount_subtotal=total,
        amount_total=0 if trial else total,
        created=now,
        currency=items[0]["currency"],
        customer=customer["id"] if customer else None,
        expires_at=form.expires_at or now + LIFE_S,
        url=f"{state.base_url}/checkout/{row['id']}",
    )
    return row


def _item(state: State, form: Any, given: Any, place: int) -> Row:
    param = f"line_items[{place}][price]"
    if given.price_data is not None:
        price = catalogue.add_price(state, given.price_data)
    else:
        price = state.get("price", given.price, param)
    if form.mode == "payment" and price["type"] == "recurring":
        raise refused("You must use `subscription` mode with recurring prices.", param=param)
    chosen = price["custom_unit_amount"]
    quantity = 1 if given.quantity is None else given.quantity
    amount = (chosen.get("preset") or 0) if chosen else 0
    if not chosen and not (price["recurring"] and price["recurring"]["usage_type"] == "metered"):
        amount = catalogue.cost(price, quantity)
    return state.add(
        "item",
        {
            "amount_discount": 0,
            "amount_subtotal": amount,
            "amount_tax": 0,
            "amount_total": amount,
            "currency": price["currency"],
            "description": state.get("product", price["product"])["name"],
            "price": price["id"],
            "quantity": quantity,
        },
    )


@dataclass(slots=True)
class _Given:
    """What a subscription of a checkout is made with, as the API's form would have it."""

    customer: str
    items: list[Any]
    metadata: Any
    trial_period_days: int | None
    default_payment_method: str
    description: str = ""
    trial_end: int | None = None
    billing_cycle_anchor: int | None = None
    backdate_start_date: int | None = None
    proration_behavior: str = "create_prorations"
    payment_behavior: str = "allow_incomplete"
    collection_method: str = "charge_automatically"
    days_until_due: int | None = None
    billing_mode: Any = None
    cancel_at: int | None = None
    cancel_at_period_end: bool = False
    currency: str = ""
    trial_settings: Any = None
    discounts: list[Any] = field(default_factory=list)
    add_invoice_items: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class _GivenItem:
    price: str
    quantity: int | None
    metadata: Any = None


def complete(state: State, row: Row, *, method: str = "pm_card_visa", amount: int | None = None) -> Row:
    """The payer pays. `amount` is what was chosen where the price leaves that open. Raises StripeRefusal.

    A method that fails leaves the session open; one that is delayed completes it unpaid.
    """
    if row["status"] != "open":
        raise refused(f"This Checkout Session is {row['status']}.")
    if customers.TEST_METHODS.get(method, ("", ""))[1] in ("refused", "fails", "asks"):
        _decline(state, row, method, amount)
        raise declined("Your card was declined.", "card_declined", decline_code="generic_decline")
    customer = _payer(state, row)
    made = customers.attach(state, method, customer) if customer else customers.new_method(state, method)
    if row["mode"] == "subscription":
        _subscribe(state, row, customer, made)
    else:
        _pay_once(state, row, customer, made, amount)
    row.update(status="complete", url=None)
    row["customer_details"] = {"email": customer["email"] if customer else None}
    state.emit("checkout.session.completed", row)
    return row


def _decline(state: State, row: Row, method: str, amount: int | None) -> None:
    """An attempt that fails is a charge of the intent that a later one may pay."""
    if row["mode"] == "payment" and not row["invoice_creation"]["enabled"]:
        _choose(state, row, amount)
        intent = _intent(state, row, state.find("customer", row["customer"]))
        payments.confirm(state, intent, customers.new_method(state, method)["id"])


def _intent(state: State, row: Row, customer: Row | None) -> Row:
    """What a session without an invoice is paid by, however often that is tried."""
    metadata, total = row["_payment_intent_data"].get("metadata"), row["amount_total"]
    intent = state.find("payment_intent", row["payment_intent"]) or payments.add_intent(
        state, amount=total, currency=row["currency"], customer=customer, metadata=metadata
    )
    # The payer's own amount may be another than at the last attempt, and a customer made since.
    intent.update(amount=total, customer=customer["id"] if customer else None)
    row["payment_intent"] = intent["id"]
    return intent


def _payer(state: State, row: Row) -> Row | None:
    """The session's customer; a new one where it makes one."""
    if row["customer"]:
        return customers.living(state, row["customer"])
    is_needed = row["customer_creation"] == "always" or row["invoice_creation"]["enabled"]
    if row["mode"] == "payment" and not is_needed:
        return None
    made = customers.add(state, _NewCustomer(email=row["customer_email"] or ""))
    row["customer"] = made["id"]
    return made


@dataclass(slots=True)
class _NewCustomer:
    email: str
    name: str = ""
    description: str = ""
    balance: int = 0
    metadata: Any = None
    test_clock: str = ""
    payment_method: str = ""
    invoice_settings: Any = None


def _subscribe(state: State, row: Row, customer: Row | None, method: Row) -> None:
    items = [_GivenItem(one["price"], one["quantity"]) for one in row["_line_items"]]
    recurring = [one for one in items if state.get("price", one.price)["recurring"]]
    for one in recurring:
        if state.get("price", one.price)["recurring"]["usage_type"] == "metered":
            one.quantity = None
    once = [one for one in items if one not in recurring]
    data = row["_subscription_data"]
    given = _Given(
        customer=customer["id"] if customer else "",
        items=recurring,
        metadata=data.get("metadata"),
        trial_period_days=data.get("trial_period_days"),
        default_payment_method=method["id"],
        description=data.get("description") or "",
        add_invoice_items=once,
    )
    sub = subscriptions.create(state, given)
    invoice = state.get("invoice", sub["latest_invoice"])
    row.update(subscription=sub["id"], invoice=invoice["id"])
    row["payment_status"] = _status(invoice["status"] == "paid", invoice["total"])


def _status(paid: bool, total: int) -> str:
    if total == 0:
        return "no_payment_required"
    return "paid" if paid else "unpaid"


def _pay_once(state: State, row: Row, customer: Row | None, method: Row, amount: int | None) -> None:
    _choose(state, row, amount)
    total = row["amount_total"]
    if row["invoice_creation"]["enabled"] and customer:
        now = state.time_of(customer)
        charges = [
            LineCharge(state.get("price", one["price"]), one["quantity"], now, now, one["amount_total"])
            for one in row["_line_items"]
        ]
        invoice = invoices.draft(
            state,
            customer,
            "manual",
            currency=row["currency"],
            charges=charges,
            with_pending=False,
            metadata=dict(row["_invoice_data"].get("metadata") or {}),
        )
        invoices.finalize(state, invoice)
        if invoice["status"] == "open":
            invoices.collect(state, invoice, method=method["id"])
        row["invoice"] = invoice["id"]
        row["payment_status"] = _status(invoice["status"] == "paid", total)
        of_it = next(iter(state.rows("invoice_payment", invoice=invoice["id"])), None)
        row["payment_intent"] = of_it["payment"]["payment_intent"] if of_it else None
        return
    intent = _intent(state, row, customer)
    payments.confirm(state, intent, method["id"])
    row["payment_status"] = _status(intent["status"] == "succeeded", total)


def _choose(state: State, row: Row, amount: int | None) -> None:
    """The payer's own amount, within the bounds that the price sets."""
    for item in row["_line_items"]:
        chosen = state.get("price", item["price"])["custom_unit_amount"]
        if not chosen:
            continue
        value = chosen.get("preset") if amount is None else amount
        low, high = chosen.get("minimum") or 1, chosen.get("maximum")
        if value is None or value < low or (high is not None and value > high):
            words = amounts.in_words(low, item["currency"])
            raise refused(f"The payer must choose an amount from {words} on, within what the price allows.")
        item.update(amount_subtotal=value * item["quantity"], amount_total=value * item["quantity"])
    row["amount_subtotal"] = row["amount_total"] = sum(item["amount_total"] for item in row["_line_items"])


def intent_settled(state: State, intent: Row) -> None:
    """A delayed payment of a completed session has come, or has not."""
    for row in state.rows("checkout.session", payment_status="unpaid", status="complete"):
        invoice = state.find("invoice", row["invoice"])
        mine = row["payment_intent"] == intent["id"] or any(
            one["payment"]["payment_intent"] == intent["id"]
            for one in state.rows("invoice_payment", invoice=invoice["id"] if invoice else "")
        )
        if mine and intent["status"] == "succeeded":
            row["payment_status"] = "paid"
            state.emit("checkout.session.async_payment_succeeded", row)
        elif mine:
            state.emit("checkout.session.async_payment_failed", row)


def expire(state: State, row: Row) -> Row:
    if row["status"] != "open":
        raise refused(f'Only Checkout Sessions with a status in ["open"] can be expired; this one is {row["status"]}.')
    row.update(status="expired", url=None)
    state.emit("checkout.session.expired", row)
    return row


def _blank(form: Any) -> Row:
    nothing = (
        *("adaptive_pricing", "after_expiration", "allow_promotion_codes", "billing_address_collection"),
        *("client_secret", "consent", "consent_collection", "customer_account", "customer_details", "invoice"),
        *("locale", "payment_intent", "payment_link", "recovered_from", "setup_intent", "subscription", "submit_type"),
    )
    creation = form.invoice_creation
    return {
        **dict.fromkeys(nothing),
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "cancel_url": form.cancel_url or None,
        "client_reference_id": form.client_reference_id or None,
        "custom_fields": [],
        "custom_text": {"after_submit": None, "shipping_address": None, "submit": None},
        "customer_creation": form.customer_creation or ("if_required" if form.mode == "payment" else None),
        "customer_email": form.customer_email or None,
        "discounts": [],
        "invoice_creation": {"enabled": bool(creation and creation.enabled), "invoice_data": {}},
        "metadata": dict(form.metadata or {}),
        "mode": form.mode,
        "payment_method_collection": "always",
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "shipping_options": [],
        "status": "open",
        "success_url": form.success_url or None,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "_invoice_data": creation.invoice_data.model_dump() if creation and creation.invoice_data else {},
        "_payment_intent_data": form.payment_intent_data.model_dump() if form.payment_intent_data else {},
        "_subscription_data": form.subscription_data.model_dump() if form.subscription_data else {},
    }
