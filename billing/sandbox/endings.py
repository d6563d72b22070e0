"""How subscriptions end or go on after a pause, and what their invoices mean for them."""

from __future__ import annotations

from typing import Any

from billing.sandbox import changes, invoices, item_charges, lines, subscriptions
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused


def cancel(state: State, sub: Row, form: Any) -> Row:
    """End now, with unused time given back and a last invoice where that is asked for."""
    subscriptions.alive(sub)
    now, customer = state.time_of(sub), state.get("customer", sub["customer"])
    if form.prorate:
        plan = changes.ChangePlan(items=[], at=now)
        for item in sub["_items"]:
            changes.credit(state, sub, item, now, plan)
        for debit in plan.credited:
            changes.cut(debit, max(now, debit["start"]))
        for charge in plan.prorations:
            lines.pending(state, customer, charge)
    if form.invoice_now:
        metered = [item for item in sub["_items"] if item_charges.is_metered(state, item)]
        charges = [item_charges.usage_charge(state, sub, item, item["current_period_start"], now) for item in metered]
        invoice = item_charges.bill(state, sub, "subscription_update", charges)
        if invoice["_lines"]:
            item_charges.settle_up(state, sub, invoice)
    return subscriptions.end(state, sub)


def leave(state: State, sub: Row) -> None:
    """End as it was arranged; what was used up to now, and what waits to be billed, comes on a last invoice."""
    now, customer = state.time_of(sub), state.get("customer", sub["customer"])
    metered = [item for item in sub["_items"] if item_charges.is_metered(state, item)]
    free = sub["status"] == "trialing"
    used = [
        item_charges.usage_charge(state, sub, item, item["current_period_start"], now, free=free) for item in metered
    ]
    waits = any(item["_charge"].subscription == sub["id"] for item in _waiting(state, customer))
    subscriptions.end(state, sub)
    if waits or any(charge.amount for charge in used):
        invoice = item_charges.bill(state, sub, "subscription_cycle", used)
        subscriptions.finalize_later(invoice, now)


def _waiting(state: State, customer: Row) -> list[Row]:
    return list(state.rows("invoiceitem", customer=customer["id"], invoice=None))


def resume(state: State, sub: Row, form: Any) -> Row:
    """Go on after a pause that a trial's end brought: a new period begins, and is billed."""
    if sub["status"] != "paused":
        raise refused("You can only resume a subscription that is paused.", code="subscription_not_paused")
    before = state.show(state, sub)
    plan = changes.plan_of(state, sub, (), behaviour="none", anew=True)
    changes.carry_out(state, sub, plan)
    invoice = item_charges.bill(state, sub, "subscription_update", plan.whole)
    invoices.finalize(state, invoice)
    if invoice["status"] == "paid" or sub["collection_method"] == "send_invoice":
        _wake(state, sub, before)
    else:
        sub["_resumes"] = invoice["id"]
        invoices.collect(state, invoice)
    return sub


def _wake(state: State, sub: Row, before: Row) -> None:
    sub.update(status="active", _resumes=None)
    subscriptions.told(state, sub, before, "customer.subscription.resumed")


# What invoices do to subscriptions


def on_paid(state: State, invoice: Row) -> None:
    """A subscription whose invoice is paid is alive again, unless another one is still open."""
    sub = state.find("subscription", invoice["_subscription"])
    if sub is None:
        return
    if sub["_pending"] and sub["_pending"]["invoice"] == invoice["id"]:
        changes.make_pending(state, sub, invoice)
        return
    before = state.show(state, sub)
    if sub["status"] == "paused" and sub.get("_resumes") == invoice["id"]:
        _wake(state, sub, before)
    elif (sub["status"] == "incomplete" and invoice["billing_reason"] == "subscription_create") or (
        sub["status"] in ("past_due", "unpaid") and sub["latest_invoice"] == invoice["id"]
    ):
        sub["status"] = "active"
    subscriptions.told(state, sub, before)


def on_processing(state: State, invoice: Row) -> None:
    """Stripe trusts a debit that is on its way: the subscription begins."""
    sub = state.find("subscription", invoice["_subscription"])
    if sub is not None and sub["status"] == "incomplete":
        before = state.show(state, sub)
        sub["status"] = "active"
        subscriptions.told(state, sub, before)


def on_failed(state: State, invoice: Row) -> None:
    """An invoice that failed or is void: its subscription is past due, or over."""
    sub = state.find("subscription", invoice["_subscription"])
    if sub is None or sub["status"] in subscriptions.ENDED:
        return
    before = state.show(state, sub)
    if invoice["status"] == "void":
        if sub["status"] == "incomplete" and invoice["billing_reason"] == "subscription_create":
            sub.update(status="incomplete_expired", ended_at=state.time_of(sub))
    elif sub["_pending"] and sub["_pending"]["invoice"] == invoice["id"]:
        return
    elif invoice["_exhausted"] and state.after_last_try != "past_due":
        if state.after_last_try == "cancel":
            subscriptions.end(state, sub, reason="payment_failed")
            return
        sub["status"] = "unpaid"
    elif sub["status"] in ("active", "trialing"):
        sub["status"] = "past_due"
    subscriptions.told(state, sub, before)


def connect(state: State) -> None:
    """Let invoices tell subscriptions what became of them."""
    state.effects.invoice_paid = on_paid
    state.effects.invoice_processing = on_processing
    state.effects.invoice_failed = on_failed
