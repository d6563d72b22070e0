"""What takes a payment back: refunds that come or fail, credit notes, and disputes."""

from __future__ import annotations

from typing import Any

from billing.sandbox import catalogue, customers, invoices, lines, times
from billing.sandbox.books import Undoing
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused

# How long a refund that does not come at once is on its way.
PENDING_S = 5 * times.DAY_S
EVIDENCE_S = 9 * times.DAY_S
DISPUTE_FEE = 1_500
# While a dispute is in one of these, its money is not the business's to give back.
TAKING = ("needs_response", "under_review", "lost", "prevented")
PREVENTS = ("resolution", "block")
OPEN_DISPUTES = ("needs_response", "under_review", "warning_needs_response", "warning_under_review")


def _invoice_of(state: State, intent_id: str | None) -> str:
    """The invoice that a payment intent has paid; empty where it has none."""
    return next((str(row["invoice"]) for row in state.rows("invoice_payment", _intent=intent_id)), "")


def _book(state: State, row: Row, kind: str, charge: Row | None, amount: int, **more: Any) -> None:
    state.books.undoings[row["id"]] = Undoing(
        id=row["id"],
        kind=kind,
        customer=more.pop("customer", None) or (charge or {}).get("customer") or "",
        invoice=more.pop("invoice", "") or _invoice_of(state, charge["payment_intent"] if charge else None),
        charge=charge["id"] if charge else "",
        amount=amount,
        at=row["created"],
        **more,
    )


# Refunds


def refund(state: State, form: Any) -> Row:
    """A refund of a charge, whole unless an amount is named. Raises StripeRefusal."""
    if bool(form.charge) == bool(form.payment_intent):
        raise refused("You must provide exactly one of: charge, payment_intent.", param="charge")
    if form.payment_intent:
        intent = state.get("payment_intent", form.payment_intent, "payment_intent")
        if intent["status"] != "succeeded":
            raise refused("This PaymentIntent does not have a successful charge to refund.", param="payment_intent")
        charge = state.get("charge", intent["latest_charge"])
    else:
        charge = state.get("charge", form.charge, "charge")
    return give_back(state, charge, form.amount, reason=form.reason, metadata=form.metadata)


def give_back(state: State, charge: Row, amount: int | None, *, reason: str | None = None, metadata: Any = None) -> Row:
    """Refund so much of a charge, or all that is left of it. Raises StripeRefusal."""
    left = charge["amount_captured"] - charge["amount_refunded"]
    if charge["status"] != "succeeded":
        raise refused(f"Charge {charge['id']} has not succeeded, so it cannot be refunded.", param="charge")
    taken = [one for one in state.rows("dispute", charge=charge["id"]) if one["status"] in TAKING]
    if taken:
        message = f"Charge {charge['id']} has been charged back; cannot issue a refund."
        raise refused(message, param="charge", code="charge_disputed")
    if left <= 0:
        message = f"Charge {charge['id']} has already been refunded."
        raise refused(message, param="charge", code="charge_already_refunded")
    wanted = left if amount is None else amount
    if not 1 <= wanted <= left:
        raise refused(f"Refund amount ({wanted}) is greater than unrefunded amount on charge ({left})", param="amount")
    now, way = state.time_of(charge), charge.get("_way", "ok")
    row = state.add(
        "refund",
        {
            "amount": wanted,
            "balance_transaction": state.new_id("balance_transaction"),
            "charge": charge["id"],
            "created": now,
            "currency": charge["currency"],
            "customer": charge["customer"],
            "destination_details": {"type": charge["payment_method_details"]["type"]},
            "metadata": dict(metadata or {}),
            "payment_intent": charge["payment_intent"],
            "payment_method": charge["payment_method"],
            "reason": reason,
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": "pending" if way in ("slow_refund", "failing_refund") else "succeeded",
            "transfer_reversal": None,
        },
    )
    if row["status"] == "pending":
        row["_settles_at"] = now + PENDING_S
    charge["amount_refunded"] += wanted
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    _book(state, row, "refund", charge, wanted)
    state.emit("refund.created", row)
    state.emit("charge.refunded", charge)
    return row


def change_refund(state: State, row: Row, form: Any) -> Row:
    return catalogue.changed(state, row, form, (), "refund")


def settle_refund(state: State, row: Row) -> None:
    """A refund that was on its way has come, or has failed: then its money is the business's again."""
    row.pop("_settles_at")
    charge = state.get("charge", row["charge"])
    if charge.get("_way") == "failing_refund":
        fail_refund(state, row)
        return
    row["status"] = "succeeded"
    state.emit("refund.updated", row)
    state.emit("charge.refund.updated", row)


def fail_refund(state: State, row: Row, *, reason: str = "lost_or_stolen_card") -> None:
    """The bank has sent a refund's money back."""
    charge = state.get("charge", row["charge"])
    row.pop("_settles_at", None)
    row.update(status="failed", failure_reason=reason)
    row["failure_balance_transaction"] = state.new_id("balance_transaction")
    charge["amount_refunded"] -= row["amount"]
    charge["refunded"] = False
    state.books.undoings[row["id"]].in_force = False
    state.emit("refund.failed", row)
    state.emit("charge.refund.updated", row)


# Credit notes


def credit_note(state: State, form: Any) -> Row:
    """A credit note of a finalized invoice: before its payment it lowers what is due, after it gives back.

    After payment the amount goes where it is said to: refunded, credited to the balance, or given back outside Stripe.
    Raises StripeRefusal.
    """
    invoice = state.get("invoice", form.invoice, "invoice")
    if invoice["status"] not in ("open", "paid", "uncollectible"):
        raise refused(f"Credit notes cannot be made for {invoice['status']} invoices.", param="invoice")
    amount, listed = _noted(state, invoice, form)
    before = min(amount, invoice["amount_remaining"])
    after = amount - before
    parts = (form.refund_amount or 0) + (form.credit_amount or 0) + (form.out_of_band_amount or 0)
    if form.refund:
        parts += state.get("refund", form.refund, "refunds[0][refund]")["amount"]
    if parts != after:
        raise refused(
            f"The sum of credit amount, refund amount and out of band amount ({parts}) must equal the post payment "
            f"credit note amount ({after}).",
            param="amount",
        )
    row = _new_note(state, invoice, form, amount, before, listed)
    _book(state, row, "credit_note", None, amount, customer=invoice["customer"], invoice=invoice["id"])
    state.emit("credit_note.created", row)
    _lower(state, invoice, before)
    _give_after(state, invoice, row, form)
    return row


def _noted(state: State, invoice: Row, form: Any) -> tuple[int, list[Row]]:
    """The amount of a note, and of which lines it is. Raises StripeRefusal."""
    left = invoice["total"] - invoice["pre_payment_credit_notes_amount"] - invoice["post_payment_credit_notes_amount"]
    listed = [_credited(invoice, one, f"lines[{place}]") for place, one in enumerate(form.lines or ())]
    of_lines = sum(one["amount"] - one["discount_amount"] for one in listed)
    if form.amount is None and not listed:
        raise refused("You must specify `amount` or `lines`.", param="amount", code="parameter_missing")
    amount = of_lines if form.amount is None else form.amount
    if listed and amount != of_lines:
        raise refused("`amount` must be the sum of the lines.", param="amount")
    if not 1 <= amount <= left:
        message = f"The credit note's amount ({amount}) must be positive and at most what is left ({left})."
        raise refused(message, param="amount")
    return amount, listed


def _credited(invoice: Row, given: Any, param: str) -> Row:
    """A line of a note: so much of an invoice's, by its amount or quantity, or one of its own. Raises StripeRefusal."""
    if given.type == "custom_line_item":
        if given.unit_amount is None or not given.quantity:
            message = "A custom line item needs `unit_amount` and `quantity`."
            raise refused(message, param=f"{param}[unit_amount]", code="parameter_missing")
        amount = given.unit_amount * given.quantity
        return _note_fields(given, amount, given.description or None, None, 0)
    line = next((each for each in invoice["_lines"] if each["id"] == given.invoice_line_item), None)
    if line is None:
        message = f"No such invoice line item: '{given.invoice_line_item}'"
        raise refused(message, param=f"{param}[invoice_line_item]", code="resource_missing")
    if (given.amount is None) == (given.quantity is None):
        raise refused("You must specify exactly one of: amount, quantity.", param=f"{param}[amount]")
    if given.quantity is not None and given.quantity > line["quantity"]:
        message = f"The quantity ({given.quantity}) is more than the invoice's line has ({line['quantity']})."
        raise refused(message, param=f"{param}[quantity]")
    amount = line["amount"] * given.quantity // line["quantity"] if given.amount is None else given.amount
    if amount > line["amount"]:
        message = f"The amount ({amount}) is more than the invoice's line has ({line['amount']})."
        raise refused(message, param=f"{param}[amount]")
    discount = lines.off(line) * amount // line["amount"] if line["amount"] else 0
    return _note_fields(given, amount, line["description"], line["id"], discount)


def _note_fields(given: Any, amount: int, description: str | None, line: str | None, discount: int) -> Row:
    return {
        "amount": amount,
        "description": description,
        "discount_amount": discount,
        "discount_amounts": [],
        "invoice_line_item": line,
        "quantity": given.quantity,
        "type": given.type,
        "unit_amount": given.unit_amount,
        "unit_amount_decimal": None if given.unit_amount is None else str(given.unit_amount),
    }


def _new_note(state: State, invoice: Row, form: Any, amount: int, before: int, listed: list[Row]) -> Row:
    now, count = state.time_of(invoice), sum(1 for _ in state.rows("credit_note", invoice=invoice["id"]))
    kind = "pre_payment" if before == amount else "post_payment" if not before else "mixed"
    return state.add(
        "credit_note",
        {
            "amount": amount,
            "amount_shipping": 0,
            "created": now,
            "currency": invoice["currency"],
            "customer": invoice["customer"],
            "customer_account": None,
            "customer_balance_transaction": None,
            "discount_amount": 0,
            "discount_amounts": [],
            "effective_at": now,
            "invoice": invoice["id"],
            "memo": form.memo or None,
            "metadata": dict(form.metadata or {}),
            "number": f"{invoice['number']}-CN-{count + 1:02d}",
            "out_of_band_amount": form.out_of_band_amount,
            "pdf": "",
            "post_payment_amount": amount - before,
            "pre_payment_amount": before,
            "pretax_credit_amounts": [],
            "reason": form.reason,
            "refunds": [],
            "shipping_cost": None,
            "status": "issued",
            "subtotal": amount,
            "subtotal_excluding_tax": amount,
            "total": amount,
            "total_excluding_tax": amount,
            "total_taxes": [],
            "type": kind,
            "voided_at": None,
            "_lines": [_note_line(state, one) for one in listed],
        },
    )


def _note_line(state: State, one: Row) -> Row:
    row = {"metadata": {}, "pretax_credit_amounts": [], "tax_rates": [], "taxes": [], **one}
    return state.add("credit_note_line_item", row)


def _lower(state: State, invoice: Row, amount: int) -> None:
    """Before payment: so much less is due; what is due no more is paid."""
    if not amount:
        return
    invoice["pre_payment_credit_notes_amount"] += amount
    invoice["amount_due"] -= amount
    invoice["amount_remaining"] -= amount
    state.emit("invoice.updated", invoice)
    if invoice["amount_remaining"] == 0 and invoice["status"] == "open":
        invoices.paid_off(state, invoice)


def _give_after(state: State, invoice: Row, note: Row, form: Any) -> None:
    """After payment: what is given back, and how."""
    if not note["post_payment_amount"]:
        return
    invoice["post_payment_credit_notes_amount"] += note["post_payment_amount"]
    if form.refund_amount:
        made = give_back(state, _charge_of(state, invoice), form.refund_amount, metadata={})
        _carry(state, note, made)
    if form.refund:
        _carry(state, note, state.get("refund", form.refund))
    if form.credit_amount:
        customer = customers.living(state, invoice["customer"])
        about = {"currency": invoice["currency"], "credit_note": note["id"], "invoice": invoice["id"]}
        moved = customers.move_balance(state, customer, -form.credit_amount, "credit_note", **about)
        note["customer_balance_transaction"] = moved["id"]
    state.emit("invoice.updated", invoice)


def _carry(state: State, note: Row, refund: Row) -> None:
    """A refund carries a note's money: the books count it once."""
    note["refunds"].append({"amount_refunded": refund["amount"], "refund": refund["id"], "type": "refund"})
    entry = state.books.undoings[note["id"]]
    if refund["amount"] >= entry.amount:
        entry.carried_by = refund["id"]
    else:
        entry.amount -= refund["amount"]


def _charge_of(state: State, invoice: Row) -> Row:
    for row in state.rows("invoice_payment", invoice=invoice["id"], status="paid"):
        intent = state.get("payment_intent", row["payment"]["payment_intent"])
        return state.get("charge", intent["latest_charge"])
    raise refused("The invoice has no payment that can be refunded.", param="refund_amount")


def void_note(state: State, row: Row) -> Row:
    """Take a note back, which its invoice must still be open for. Raises StripeRefusal."""
    invoice = state.get("invoice", row["invoice"])
    if row["status"] == "void" or invoice["status"] != "open" or row["post_payment_amount"]:
        raise refused("You can only void issued credit notes of open invoices.")
    row.update(status="void", voided_at=state.time_of(row))
    invoice["pre_payment_credit_notes_amount"] -= row["amount"]
    invoice["amount_due"] += row["amount"]
    invoice["amount_remaining"] += row["amount"]
    state.books.undoings[row["id"]].in_force = False
    state.emit("credit_note.voided", row)
    return row


# Disputes


def dispute(
    state: State, charge: Row, *, amount: int | None = None, inquiry: bool = False, prevented_by: str = ""
) -> Row:
    """A payer disputes a charge: the money is gone until it is won. An inquiry takes none yet. Raises StripeRefusal.

    Prevented by a `resolution` it is gone for good; by a `block` none is taken.
    """
    if charge["status"] != "succeeded" or charge["disputed"]:
        raise refused(f"Charge {charge['id']} cannot be disputed.", param="charge")
    if prevented_by not in ("", *PREVENTS):
        raise refused(f"A dispute is prevented by one of {PREVENTS}.", param="prevented_by")
    now = state.time_of(charge)
    row = state.add(
        "dispute",
        {
            "amount": charge["amount"] if amount is None else amount,
            "balance_transactions": [],
            "charge": charge["id"],
            "created": now,
            "currency": charge["currency"],
            "enhanced_eligibility_types": [],
            "evidence": {"uncategorized_text": None},
            "evidence_details": {
                "due_by": now + EVIDENCE_S,
                "enhanced_eligibility": {},
                "has_evidence": False,
                "past_due": False,
                "submission_count": 0,
            },
            "is_charge_refundable": inquiry,
            "metadata": {},
            "payment_intent": charge["payment_intent"],
            "payment_method_details": {
                "type": "card",
                "card": {"brand": "visa", "case_type": prevented_by or "chargeback"},
            },
            "reason": "fraudulent",
            "status": "prevented" if prevented_by else "warning_needs_response" if inquiry else "needs_response",
            "customer": charge["customer"],
        },
    )
    del row["customer"]
    row["_customer"] = charge["customer"]
    charge["disputed"] = True
    takes = not inquiry and prevented_by != "block"
    _book(state, row, "dispute", charge, row["amount"], in_force=takes)
    if takes:
        _move(state, row, -row["amount"])
    state.emit("charge.dispute.created", row)
    if takes:
        state.emit("charge.dispute.funds_withdrawn", row)
    if prevented_by:
        state.emit("charge.dispute.closed", row)
    return row


def answer_dispute(state: State, row: Row, form: Any) -> Row:
    """Evidence; Stripe's test texts `winning_evidence` and `losing_evidence` decide once they are submitted."""
    if row["status"] not in OPEN_DISPUTES:
        raise refused("This dispute is closed, and takes no evidence any more.")
    text = form.evidence.uncategorized_text if form.evidence else None
    if text is not None:
        row["evidence"] = {"uncategorized_text": text}
        row["evidence_details"] = {**row["evidence_details"], "has_evidence": True}
    if form.submit or form.submit is None:
        row["evidence_details"] = {**row["evidence_details"], "submission_count": 1}
        row["status"] = "warning_under_review" if row["status"].startswith("warning") else "under_review"
        state.emit("charge.dispute.updated", row)
        if row["evidence"]["uncategorized_text"] in ("winning_evidence", "losing_evidence"):
            close_dispute(state, row, won=row["evidence"]["uncategorized_text"] == "winning_evidence")
    return row


def close_dispute(state: State, row: Row, *, won: bool) -> Row:
    """The end of a dispute: won, its money comes back; lost, it stays away; an inquiry is just closed."""
    if row["status"] not in OPEN_DISPUTES:
        raise refused("This dispute is already closed.")
    inquiry = row["status"].startswith("warning")
    row["status"] = "warning_closed" if inquiry else "won" if won else "lost"
    entry = state.books.undoings[row["id"]]
    entry.in_force = row["status"] == "lost"
    if won and not inquiry:
        _move(state, row, row["amount"])
    state.emit("charge.dispute.closed", row)
    if won and not inquiry:
        state.emit("charge.dispute.funds_reinstated", row)
    return row


def _move(state: State, row: Row, amount: int) -> None:
    fee = DISPUTE_FEE if amount < 0 else 0
    row["balance_transactions"].append(
        {
            "id": state.new_id("balance_transaction"),
            "object": "balance_transaction",
            "amount": amount,
            "created": row["created"],
            "currency": row["currency"],
            "fee": fee,
            "net": amount - fee,
            "reporting_category": "dispute" if amount < 0 else "dispute_reversal",
            "source": row["id"],
            "status": "pending",
            "type": "adjustment",
        }
    )
