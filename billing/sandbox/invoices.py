"""Invoices from draft to paid, void or given up; with credit balances, retries and payments of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from billing.sandbox import customers, lines, payments, times
from billing.sandbox.books import PaidInvoice, PaidSpan
from billing.sandbox.lines import LineCharge
from billing.sandbox.state import State
from billing.sandbox.wire import Row, declined, refused

# A draft that advances by itself is finalized an hour after it was made, and tried again after so many days.
DRAFT_S = times.HOUR_S
RETRIES_DAYS = (3, 5, 7)


def draft(
    state: State,
    customer: Row,
    reason: str,
    *,
    currency: str,
    charges: Sequence[LineCharge] = (),
    sub: Row | None = None,
    period: tuple[int, int] | None = None,
    with_pending: bool = True,
    discounts: Sequence[str] = (),
    **more: Any,
) -> Row:
    """A draft with what waits for the customer's next invoice, and then these charges."""
    now = state.time_of(customer)
    starts, ends = period or (now, now)
    of_sub = sub["id"] if sub else None
    about = {"currency": currency, "billing_reason": reason, "_subscription": of_sub}
    invoice = state.add("invoice", _blank(customer, now) | about)
    invoice.update(period_start=starts, period_end=ends, test_clock=customer.get("test_clock"))
    invoice.update(more)
    if sub is not None:
        details = {"metadata": dict(sub["metadata"]), "subscription": sub["id"]}
        invoice["parent"] = {"type": "subscription_details", "quote_details": None, "subscription_details": details}
        sub["latest_invoice"] = invoice["id"]
    if with_pending:
        for item in _waiting(state, customer, sub, currency):
            item["invoice"] = invoice["id"]
            line = lines.of_charge(state, invoice, item["_charge"], invoiceitem=item["id"])
            lines.name_debit(state, item["_charge"], invoice, line)
            invoice["_lines"].append(line)
    invoice["_lines"] += [lines.of_charge(state, invoice, charge) for charge in charges]
    invoice["discounts"] = list(discounts)
    lines.apply_discounts(state, invoice, discounts, now)
    add_up(invoice)
    state.emit("invoice.created", invoice)
    return invoice


def _waiting(state: State, customer: Row, sub: Row | None, currency: str) -> list[Row]:
    """Items without an invoice: the customer's own, and the subscription's where one is billed."""
    found = state.rows("invoiceitem", customer=customer["id"], invoice=None, currency=currency)
    owners = ("", sub["id"]) if sub else ("",)
    return [item for item in found if item["_charge"].subscription in owners]


def add_up(invoice: Row) -> None:
    """Work out the totals of what is not finalized yet."""
    subtotal = sum(line["amount"] for line in invoice["_lines"])
    off: dict[str, int] = {}
    for line in invoice["_lines"]:
        for one in line["discount_amounts"]:
            off[one["discount"]] = off.get(one["discount"], 0) + one["amount"]
    total = subtotal - sum(off.values())
    invoice.update(
        subtotal=subtotal,
        subtotal_excluding_tax=subtotal,
        total=total,
        total_excluding_tax=total,
        total_discount_amounts=[{"amount": amount, "discount": id} for id, amount in off.items()],
        amount_due=max(0, total),
        amount_remaining=max(0, total),
    )


def finalize(state: State, invoice: Row) -> Row:
    """Close a draft to changes: the balance is applied, and the amount due stands. Raises StripeRefusal."""
    if invoice["status"] != "draft":
        raise refused("Invoice is already finalized", code="invoice_not_editable")
    customer, now = state.get("customer", invoice["customer"]), state.time_of(invoice)
    invoice["_finalize_at"] = None
    _apply_balance(state, invoice, customer)
    prefix, sequence = customer["invoice_prefix"], customer.get("next_invoice_sequence", 1)
    customer["next_invoice_sequence"] = sequence + 1
    invoice.update(status="open", number=f"{prefix}-{sequence:04d}", effective_at=now)
    invoice.update(amount_remaining=invoice["amount_due"], attempted=False)
    invoice["status_transitions"] = {**invoice["status_transitions"], "finalized_at": now}
    invoice["hosted_invoice_url"] = f"{state.base_url}/invoices/{invoice['id']}"
    if invoice["collection_method"] == "send_invoice":
        invoice["due_date"] = invoice["due_date"] or now + (invoice["_days"] or 30) * times.DAY_S
    state.emit("invoice.finalized", invoice)
    if invoice["amount_due"] == 0:
        paid_off(state, invoice)
    elif invoice["collection_method"] == "send_invoice" and invoice["auto_advance"]:
        state.emit("invoice.sent", invoice)
    return invoice


def _apply_balance(state: State, invoice: Row, customer: Row) -> None:
    """Credit pays first, a debt is asked for with it, and a total below nothing becomes credit."""
    before, total = customer["balance"], invoice["total"]
    if before < 0 < total:
        moved = min(-before, total)
    elif total < 0:
        moved = total
    else:
        moved = -before if before > 0 and total >= 0 else 0
    invoice["starting_balance"] = before
    if moved:
        about = {"currency": invoice["currency"], "invoice": invoice["id"]}
        customers.move_balance(state, customer, moved, "applied_to_invoice", **about)
        state.emit("customer.updated", customer, {"balance": before})
    invoice.update(ending_balance=customer["balance"], amount_due=max(0, total - moved), _from_balance=moved)


def collect(state: State, invoice: Row, *, method: str | None = None) -> str:
    """Try to be paid what is still due, by the method that is named or the one that counts; the invoice's status.

    A payment that fails leaves the invoice open, to be tried again later if it advances by itself.
    """
    customer = state.get("customer", invoice["customer"])
    intent = _intent(state, invoice, customer)
    invoice["next_payment_attempt"] = None
    if intent["status"] == "processing":
        return str(invoice["status"])
    invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + 1)
    outcome = payments.confirm(state, intent, method or method_of(state, invoice))
    if outcome == "succeeded":
        _take(state, invoice, intent)
    elif outcome == "processing":
        state.effects.invoice_processing(state, invoice)
    else:
        _note_failure(state, invoice, asks=outcome == "requires_action")
    return str(invoice["status"])


def method_of(state: State, invoice: Row) -> str | None:
    """The payment method that an invoice is charged to."""
    sub = state.find("subscription", invoice["_subscription"])
    customer = state.find("customer", invoice["customer"])
    default = (customer or {}).get("invoice_settings") or {}
    of_sub = sub["default_payment_method"] if sub else None
    return invoice["default_payment_method"] or of_sub or default.get("default_payment_method")


def _intent(state: State, invoice: Row, customer: Row) -> Row:
    """The intent of the invoice's own payment: the open one, for what is due now."""
    known = [one for one in state.rows("invoice_payment", invoice=invoice["id"], status="open") if one["is_default"]]
    if known:
        intent = state.get("payment_intent", known[0]["payment"]["payment_intent"])
        if intent["status"] != "processing":
            intent["amount"] = known[0]["amount_requested"] = invoice["amount_remaining"]
        return intent
    owner = None if customer.get("deleted") else customer
    about = {"description": f"Payment for Invoice {invoice['number']}"}
    intent = payments.add_intent(
        state, amount=invoice["amount_remaining"], currency=invoice["currency"], customer=owner, **about
    )
    _invoice_payment(state, invoice, intent, is_default=True)
    return intent


def _invoice_payment(state: State, invoice: Row, intent: Row, *, is_default: bool) -> Row:
    return state.add(
        "invoice_payment",
        {
            "amount_paid": None,
            "amount_requested": intent["amount"],
            "created": state.time_of(invoice),
            "currency": invoice["currency"],
            "customer": invoice["customer"],
            "invoice": invoice["id"],
            "is_default": is_default,
            "payment": {"type": "payment_intent", "payment_intent": intent["id"]},
            "status": "open",
            "status_transitions": {"canceled_at": None, "paid_at": None},
            "_intent": intent["id"],
        },
    )


def attach_payment(state: State, invoice: Row, intent: Row) -> Row:
    """Count a payment of the business's own making towards an open invoice. Raises StripeRefusal."""
    if invoice["status"] != "open":
        raise refused(f"Payments can be attached to open invoices alone; this one is {invoice['status']}.")
    if intent["customer"] != invoice["customer"] or intent["currency"] != invoice["currency"]:
        raise refused("The payment must be of the invoice's customer and currency.", param="payment_intent")
    _invoice_payment(state, invoice, intent, is_default=False)
    if intent["status"] == "succeeded":
        _take(state, invoice, intent)
    return invoice


def _take(state: State, invoice: Row, intent: Row) -> None:
    """A payment has come. What it pays beyond what is due is the customer's credit."""
    now = state.time_of(invoice)
    for row in state.rows("invoice_payment", invoice=invoice["id"], _intent=intent["id"], status="open"):
        row.update(status="paid", amount_paid=intent["amount_received"])
        row["status_transitions"] = {**row["status_transitions"], "paid_at": now}
        state.emit("invoice_payment.paid", row)
    received = intent["amount_received"]
    beyond = max(0, received - invoice["amount_remaining"])
    invoice["amount_paid"] += received - beyond
    invoice["amount_remaining"] -= received - beyond
    if beyond:
        invoice["amount_overpaid"] += beyond
        customer = state.get("customer", invoice["customer"])
        about = {"currency": invoice["currency"], "invoice": invoice["id"]}
        customers.move_balance(state, customer, -beyond, "invoice_overpaid", **about)
    if invoice["amount_remaining"] == 0 and invoice["status"] in ("open", "uncollectible"):
        paid_off(state, invoice)


def paid_off(state: State, invoice: Row) -> None:
    """Nothing is due any more: the invoice is paid, the books say so, and its subscription hears of it."""
    now = state.time_of(invoice)
    invoice.update(status="paid", amount_remaining=0, next_payment_attempt=None, auto_advance=False)
    invoice["status_transitions"] = {**invoice["status_transitions"], "paid_at": now}
    for row in state.rows("invoice_payment", invoice=invoice["id"], status="open"):
        row["status"] = "canceled"
    _book(state, invoice, now)
    state.emit("invoice.paid", invoice)
    state.emit("invoice.payment_succeeded", invoice)
    state.effects.invoice_paid(state, invoice)


def _book(state: State, invoice: Row, now: int) -> None:
    off_stripe = invoice["amount_paid_off_stripe"]
    state.books.payments[invoice["id"]] = PaidInvoice(
        invoice=invoice["id"],
        customer=invoice["customer"],
        total=invoice["total"],
        cash=invoice["amount_paid"] - off_stripe,
        balance=max(0, invoice["_from_balance"]),
        off_stripe=off_stripe,
        at=now,
    )
    for line in invoice["_lines"]:
        charge: LineCharge = line["_charge"]
        recurring = charge.price["recurring"] or {}
        state.books.spans.append(
            PaidSpan(
                customer=invoice["customer"],
                subscription=charge.subscription,
                item=charge.item,
                price=charge.price["id"],
                product=charge.price["product"],
                quantity=charge.quantity if charge.quantity is not None else 1,
                start=charge.start,
                end=charge.end,
                amount=line["amount"] - lines.off(line),
                list_amount=line["amount"],
                whole_amount=lines.whole_amount(charge),
                currency=line["currency"],
                interval=recurring.get("interval") or "",
                interval_count=recurring.get("interval_count") or 0,
                proration=charge.proration,
                arrears=charge.arrears,
                trial=charge.trial,
                invoice=invoice["id"],
                line=line["id"],
                gives_back=(charge.gives_back or ("", ""))[1],
                paid_at=now,
            )
        )


def _note_failure(state: State, invoice: Row, *, asks: bool) -> None:
    tries = invoice["attempt_count"]
    again = invoice["auto_advance"] and tries <= len(RETRIES_DAYS) and not invoice["_asked_by_hand"]
    days = RETRIES_DAYS[tries - 1] if again else 0
    invoice["next_payment_attempt"] = state.time_of(invoice) + days * times.DAY_S if days else None
    invoice["_exhausted"] = bool(invoice["auto_advance"] and tries > len(RETRIES_DAYS))
    state.emit("invoice.payment_failed", invoice)
    if asks:
        state.emit("invoice.payment_action_required", invoice)
    state.effects.invoice_failed(state, invoice)


def intent_settled(state: State, intent: Row) -> None:
    """A debit that was on its way has come, or was returned: its invoice hears of it."""
    for row in state.rows("invoice_payment", _intent=intent["id"], status="open"):
        invoice = state.get("invoice", row["invoice"])
        if intent["status"] == "succeeded":
            _take(state, invoice, intent)
        elif row["is_default"] and invoice["status"] == "open":
            _note_failure(state, invoice, asks=False)


def pay(state: State, invoice: Row, form: Any) -> Row:
    """What the business asks for: another try, another method, or "it was paid elsewhere". Raises StripeRefusal."""
    if invoice["status"] == "paid":
        raise refused("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] == "void":
        raise refused("This invoice can no longer be paid", code="invoice_not_payable")
    if invoice["status"] == "draft":
        finalize(state, invoice)
        if invoice["status"] == "paid":
            return invoice
    if form.paid_out_of_band:
        due = invoice["amount_remaining"]
        invoice.update(amount_paid=invoice["amount_paid"] + due, amount_paid_off_stripe=due)
        paid_off(state, invoice)
        return invoice
    method = None
    if form.payment_method:
        customer = customers.living(state, invoice["customer"])
        method = customers.own_method(state, customer, form.payment_method, "payment_method")["id"]
    if collect(state, invoice, method=method) == "open" and not _is_processing(state, invoice):
        raise declined("Your card was declined.", "card_declined", invoice=invoice["id"])
    return invoice


def _is_processing(state: State, invoice: Row) -> bool:
    rows = state.rows("invoice_payment", invoice=invoice["id"], status="open")
    intents = [state.get("payment_intent", row["payment"]["payment_intent"]) for row in rows]
    return any(intent["status"] == "processing" for intent in intents)


def void(state: State, invoice: Row) -> Row:
    """Take a finalized invoice back: nothing of it is owed, and the credit that it used returns."""
    if invoice["status"] not in ("open", "uncollectible"):
        raise refused(f"You can only void open and uncollectible invoices; this one is {invoice['status']}.")
    now = state.time_of(invoice)
    invoice.update(status="void", next_payment_attempt=None, auto_advance=False)
    invoice["status_transitions"] = {**invoice["status_transitions"], "voided_at": now}
    customer = state.get("customer", invoice["customer"])
    if invoice["_from_balance"] and not customer.get("deleted"):
        about = {"currency": invoice["currency"], "invoice": invoice["id"]}
        customers.move_balance(state, customer, -invoice["_from_balance"], "unapplied_from_invoice", **about)
        invoice["_from_balance"] = 0
    _leave_payments(state, invoice, "void_invoice")
    state.emit("invoice.voided", invoice)
    state.effects.invoice_failed(state, invoice)
    return invoice


def _leave_payments(state: State, invoice: Row, reason: str) -> None:
    for row in state.rows("invoice_payment", invoice=invoice["id"], status="open"):
        row["status"] = "canceled"
        intent = state.get("payment_intent", row["payment"]["payment_intent"])
        if intent["status"].startswith("requires"):
            payments.cancel(state, intent, reason)


def give_up(state: State, invoice: Row) -> Row:
    if invoice["status"] != "open":
        raise refused(f"Only open invoices can be marked uncollectible; this one is {invoice['status']}.")
    now = state.time_of(invoice)
    invoice.update(status="uncollectible", next_payment_attempt=None, auto_advance=False)
    invoice["status_transitions"] = {**invoice["status_transitions"], "marked_uncollectible_at": now}
    state.emit("invoice.marked_uncollectible", invoice)
    return invoice


def delete_draft(state: State, invoice: Row) -> Row:
    if invoice["status"] != "draft" or invoice["_subscription"]:
        raise refused("You can only delete draft invoices that belong to no subscription.")
    for item in state.rows("invoiceitem", invoice=invoice["id"]):
        item["invoice"] = None
    del state.tables["invoice"][invoice["id"]]
    state.emit("invoice.deleted", invoice)
    return {"id": invoice["id"], "object": "invoice", "deleted": True}


def _blank(customer: Row, now: int) -> Row:
    nobody = dict.fromkeys(
        (
            *("account_name", "account_tax_ids", "application", "automatically_finalizes_at", "confirmation_secret"),
            *("custom_fields", "customer_account", "customer_address", "customer_phone", "customer_shipping"),
            *("default_payment_method", "default_source", "description", "due_date", "effective_at", "footer"),
            *("from_invoice", "hosted_invoice_url", "invoice_pdf", "last_finalization_error", "latest_revision"),
            *("next_payment_attempt", "number", "on_behalf_of", "parent", "receipt_number", "rendering"),
            *("shipping_cost", "shipping_details", "statement_descriptor", "webhooks_delivered_at"),
        )
    )
    noughts = dict.fromkeys(
        (
            *("amount_due", "amount_overpaid", "amount_paid", "amount_paid_off_stripe", "amount_remaining"),
            *("amount_shipping", "attempt_count", "starting_balance", "_from_balance"),
            *("post_payment_credit_notes_amount", "pre_payment_credit_notes_amount"),
        ),
        0,
    )
    return {
        **nobody,
        **noughts,
        "account_country": "US",
        "attempted": False,
        "auto_advance": False,
        "automatic_tax": {
            "enabled": False,
            "disabled_reason": None,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "collection_method": "charge_automatically",
        "created": now,
        "customer": customer["id"],
        "customer_email": customer.get("email"),
        "customer_name": customer.get("name"),
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "ending_balance": None,
        "issuer": {"type": "self"},
        "metadata": {},
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "status": "draft",
        "status_transitions": dict.fromkeys(("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")),
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "_lines": [],
        "_subscription": None,
        "_finalize_at": None,
        "_days": None,
        "_exhausted": False,
        "_asked_by_hand": False,
        "_overdue_told": False,
    }
