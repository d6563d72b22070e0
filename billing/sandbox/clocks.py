"""Time: whatever falls due on the account's clock or a test clock's happens in its order as the clock is moved."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from billing.sandbox import (
    changes,
    checkouts,
    endings,
    invoices,
    item_charges,
    payments,
    schedules,
    subscriptions,
    times,
    undoings,
)
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused

TELL_TRIAL_S = 3 * times.DAY_S
KEPT_DAYS = 30
# Something that falls due: when, which of those of one moment comes first, and what happens.
Due = tuple[int, int, Callable[[State, Row], Any]]
KINDS = ("subscription_schedule", "subscription", "invoice", "payment_intent", "refund", "checkout.session")


def run(state: State, until: int) -> None:
    """Move the account's clock, and with it all that is on no test clock."""
    _play(state, None, until, lambda at: setattr(state, "now", max(state.now, at)))


def _play(state: State, clock: str | None, until: int, move: Callable[[int], Any]) -> None:
    """Let all happen that falls due on a clock up to a moment, in its order, and leave the clock there.

    What one act brings up is due to the same customer: nobody else is looked at again.
    """
    numbers = itertools.count()
    waiting: list[tuple[int, int, int, Row]] = []

    def look_at(rows: Iterable[Row]) -> None:
        for row in rows:
            for at, order, _ in due_of(row):
                if at <= until and state.clock_of(row) == clock:
                    heapq.heappush(waiting, (at, order, next(numbers), row))

    look_at(row for kind in KINDS for row in state.rows(kind))
    while waiting:
        at, order, _, row = heapq.heappop(waiting)
        # What it was noted for may have come about, or be put off, since.
        act = next((act for *when, act in due_of(row) if when == [at, order]), None)
        if act is None or state.find(str(row["object"]), row["id"]) is None:
            continue
        move(at)
        act(state, row)
        customer = row.get("customer")
        look_at([row] if customer is None else (one for kind in KINDS for one in state.rows(kind, customer=customer)))
    move(until)


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
    if form.frozen_time > _reach(state, clock):
        raise refused(
            "A test clock can only be advanced by two intervals of its shortest subscription, or by two years.",
            param="frozen_time",
        )
    state.emit("test_helpers.test_clock.advancing", clock)
    _play(state, clock["id"], form.frozen_time, lambda at: clock.update(frozen_time=max(clock["frozen_time"], at)))
    state.emit("test_helpers.test_clock.ready", clock)
    return clock


def _reach(state: State, clock: Row) -> int:
    """How far a clock can be advanced at once: https://docs.stripe.com/api/test_clocks/advance."""
    customers = state.rows("customer", test_clock=clock["id"])
    subs = [sub for one in customers for sub in state.rows("subscription", customer=one["id"])]
    items = [item for sub in subs if sub["status"] not in subscriptions.ENDED for item in sub["_items"]]
    steps = [item_charges.step_of(state, item) for item in items] or [("year", 1)]
    return min(times.boundary(clock["frozen_time"], interval, count, 2) for interval, count in steps)


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


def due_of(row: Row) -> Iterator[Due]:
    """What falls due of a row, as it is now."""
    match row["object"]:
        case "subscription_schedule" if row["status"] == "active":
            yield row["current_phase"]["end_date"], 0, schedules.advance
        case "subscription" if row["status"] not in subscriptions.ENDED:
            yield from _of_subscription(row)
        case "invoice":
            yield from _of_invoice(row)
        case "payment_intent" if row["status"] == "processing":
            yield row["_settles_at"], 5, _settle
        case "refund" if row["status"] == "pending":
            yield row["_settles_at"], 6, undoings.settle_refund
        case "checkout.session" if row["status"] == "open":
            yield row["expires_at"], 7, checkouts.expire


def _of_subscription(sub: Row) -> Iterator[Due]:
    if sub["status"] == "incomplete":
        yield sub["created"] + subscriptions.INCOMPLETE_S, 1, subscriptions.expire
        return
    if sub["pending_update"]:
        yield sub["pending_update"]["expires_at"], 1, changes.drop_pending
    if sub["cancel_at"]:
        yield sub["cancel_at"], 2, endings.leave
    paused = sub["pause_collection"]
    if paused and paused.get("resumes_at"):
        yield paused["resumes_at"], 3, _collect_again
    if sub["status"] == "trialing" and not sub["_trial_told"]:
        yield sub["trial_end"] - TELL_TRIAL_S, 3, _tell_trial
    if sub["status"] in subscriptions.RENEWING:
        yield subscriptions.next_end(sub), 4, subscriptions.renew


def _of_invoice(invoice: Row) -> Iterator[Due]:
    if invoice["status"] == "draft" and invoice["_finalize_at"]:
        yield invoice["_finalize_at"], 5, _finalize
    elif invoice["status"] == "open":
        if invoice["next_payment_attempt"]:
            yield invoice["next_payment_attempt"], 5, invoices.collect
        if invoice["due_date"] and not invoice["_overdue_told"]:
            yield invoice["due_date"], 6, _tell_overdue


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
