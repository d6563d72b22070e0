"""Time: whatever falls due on the account's clock or a test clock's happens in its order as the clock is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from billing.sandbox import changes, checkouts, invoices, payments, schedules, subscriptions, times, undoings
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused

TELL_TRIAL_S = 3 * times.DAY_S
KEPT_DAYS = 30
# Something that falls due: when, which of those of one moment comes first, its row, and what happens.
Due = tuple[int, int, Row, Callable[[State, Row], Any]]


def run(state: State, until: int) -> None:
    """Move the account's clock, and with it all that is on no test clock."""
    while (due := _next(state, None, until)) is not None:
        state.now = max(state.now, due[0])
        due[3](state, due[2])
    state.now = max(state.now, until)


def add(state: State, form: Any) -> Row:
    row = state.add(
        "test_helpers.test_clock",
        {
            "created": state.now,
            "deletes_after": state.now + KEPT_DAYS * times.DAY_S,
            "frozen_time": form.frozen_time,
            "name": form.name or None,
            "status": "ready",
            "status_details": {},
        },
    )
    state.emit("test_helpers.test_clock.created", row)
    return row


def advance(state: State, clock: Row, form: Any) -> Row:
    """Move a test clock forwards. Raises StripeRefusal.

    Stripe does that behind its answer; here all has happened by then, and the answer says so.
    """
    if form.frozen_time <= clock["frozen_time"]:
        raise refused("A test clock can only be advanced to a later time.", param="frozen_time")
    state.emit("test_helpers.test_clock.advancing", clock)
    while (due := _next(state, clock["id"], form.frozen_time)) is not None:
        clock["frozen_time"] = max(clock["frozen_time"], due[0])
        due[3](state, due[2])
    clock["frozen_time"] = form.frozen_time
    state.emit("test_helpers.test_clock.ready", clock)
    return clock


def delete(state: State, clock: Row) -> Row:
    """A clock goes with its customers."""
    for customer in state.rows("customer", test_clock=clock["id"]):
        for sub in state.rows("subscription", customer=customer["id"]):
            if sub["status"] not in subscriptions.ENDED:
                sub["status"] = "canceled"
        customer.update(deleted=True, test_clock=None)
    del state.tables["test_helpers.test_clock"][clock["id"]]
    state.emit("test_helpers.test_clock.deleted", clock)
    return {"id": clock["id"], "object": "test_helpers.test_clock", "deleted": True}


def _next(state: State, clock: str | None, until: int) -> Due | None:
    """What falls due first on a clock, at `until` at the latest."""
    found = [due for due in _all(state) if due[0] <= until and state.clock_of(due[2]) == clock]
    return min(found, key=lambda due: due[:2], default=None)


def _all(state: State) -> Iterator[Due]:
    for schedule in state.rows("subscription_schedule", status="active"):
        yield schedule["current_phase"]["end_date"], 0, schedule, schedules.advance
    for sub in state.rows("subscription"):
        if sub["status"] not in subscriptions.ENDED:
            yield from _of_subscription(sub)
    for invoice in state.rows("invoice"):
        yield from _of_invoice(invoice)
    for intent in state.rows("payment_intent", status="processing"):
        yield intent["_settles_at"], 5, intent, _settle
    for refund in state.rows("refund", status="pending"):
        yield refund["_settles_at"], 6, refund, undoings.settle_refund
    for session in state.rows("checkout.session", status="open"):
        yield session["expires_at"], 7, session, checkouts.expire


def _of_subscription(sub: Row) -> Iterator[Due]:
    if sub["status"] == "incomplete":
        yield sub["created"] + subscriptions.INCOMPLETE_S, 1, sub, subscriptions.expire
        return
    if sub["pending_update"]:
        yield sub["pending_update"]["expires_at"], 1, sub, changes.drop_pending
    if sub["cancel_at"]:
        yield sub["cancel_at"], 2, sub, subscriptions.end
    paused = sub["pause_collection"]
    if paused and paused.get("resumes_at"):
        yield paused["resumes_at"], 3, sub, _collect_again
    if sub["status"] == "trialing" and not sub["_trial_told"]:
        yield sub["trial_end"] - TELL_TRIAL_S, 3, sub, _tell_trial
    if sub["status"] in subscriptions.RENEWING:
        yield subscriptions.next_end(sub), 4, sub, subscriptions.renew


def _of_invoice(invoice: Row) -> Iterator[Due]:
    if invoice["status"] == "draft" and invoice["_finalize_at"]:
        yield invoice["_finalize_at"], 5, invoice, _finalize
    elif invoice["status"] == "open":
        if invoice["next_payment_attempt"]:
            yield invoice["next_payment_attempt"], 5, invoice, invoices.collect
        if invoice["due_date"] and not invoice["_overdue_told"]:
            yield invoice["due_date"], 6, invoice, _tell_overdue


def _finalize(state: State, invoice: Row) -> None:
    invoices.finalize(state, invoice)
    if invoice["status"] == "open" and invoice["collection_method"] == "charge_automatically":
        invoices.collect(state, invoice)


def _collect_again(state: State, sub: Row) -> None:
    before = state.show(state, sub)
    sub["pause_collection"] = None
    subscriptions.told(state, sub, before)


def _tell_trial(state: State, sub: Row) -> None:
    sub["_trial_told"] = True
    state.emit("customer.subscription.trial_will_end", sub)


def _tell_overdue(state: State, invoice: Row) -> None:
    invoice["_overdue_told"] = True
    state.emit("invoice.overdue", invoice)
    sub = state.find("subscription", invoice["_subscription"])
    if sub is not None and sub["status"] == "active":
        before = state.show(state, sub)
        sub["status"] = "past_due"
        subscriptions.told(state, sub, before)


def _settle(state: State, intent: Row) -> None:
    payments.settle_delayed(state, intent)
    invoices.intent_settled(state, intent)
    checkouts.intent_settled(state, intent)
