"""Subscription schedules, as far as they are simple: phases of items that begin at a time, then release or end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from billing.sandbox import catalogue, changes, item_charges, subscriptions, times
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused


def create(state: State, form: Any) -> Row:
    """A schedule that goes on from a running subscription, with its present period as the first phase."""
    sub = subscriptions.alive(state.get("subscription", form.from_subscription, "from_subscription"))
    if sub["schedule"]:
        raise refused(f"The subscription is managed by the subscription schedule `{sub['schedule']}`.")
    phase = _phase(
        [{"price": item["price"], "quantity": item["quantity"]} for item in sub["_items"]],
        max(item["current_period_start"] for item in sub["_items"]),
        subscriptions.period_end(sub),
    )
    row = state.add(
        "subscription_schedule",
        {
            "application": None,
            "billing_mode": dict(sub["billing_mode"]),
            "canceled_at": None,
            "completed_at": None,
            "created": state.time_of(sub),
            "current_phase": {"start_date": phase["start_date"], "end_date": phase["end_date"]},
            "customer": sub["customer"],
            "customer_account": None,
            "default_settings": {"billing_cycle_anchor": "automatic", "collection_method": sub["collection_method"]},
            "end_behavior": "release",
            "metadata": {},
            "pause_schedules": [],
            "phases": [phase],
            "released_at": None,
            "released_subscription": None,
            "status": "active",
            "subscription": sub["id"],
            "test_clock": sub["test_clock"],
        },
    )
    before = state.show(state, sub)
    sub["schedule"] = row["id"]
    state.emit("subscription_schedule.created", row)
    subscriptions.told(state, sub, before)
    return row


def update(state: State, row: Row, form: Any) -> Row:
    """Other phases. Those that are over, and the one that runs, keep their times. Raises StripeRefusal."""
    _alive(row)
    if form.end_behavior:
        row["end_behavior"] = form.end_behavior
    if "metadata" in form.model_fields_set:
        row["metadata"] = catalogue.merge(row["metadata"], form.metadata)
    if form.phases:
        row["phases"] = _phases(state, row, form.phases)
        now = state.time_of(row)
        current = next(one for one in row["phases"] if one["start_date"] <= now < one["end_date"])
        row["current_phase"] = {"start_date": current["start_date"], "end_date": current["end_date"]}
        _apply(state, row, current, behaviour=form.proration_behavior)
    state.emit("subscription_schedule.updated", row)
    return row


def _phases(state: State, row: Row, given: Sequence[Any]) -> list[Row]:
    """The phases with a beginning and an end each. Raises StripeRefusal."""
    phases: list[Row] = []
    for place, one in enumerate(given):
        param = f"phases[{place}]"
        items = []
        for number, item in enumerate(one.items):
            price = item_charges.recurring_price(state, item.price, f"{param}[items][{number}][price]")
            metered = price["recurring"]["usage_type"] == "metered"
            items.append({"price": price["id"], "quantity": None if metered else item.quantity or 1})
        start = phases[-1]["end_date"] if phases else one.start_date or row["phases"][0]["start_date"]
        if one.start_date not in (None, start):
            raise refused("Phases must follow each other without a gap.", param=f"{param}[start_date]")
        end = one.end_date
        if one.duration is not None:
            end = times.boundary(start, one.duration.interval, 1, one.duration.interval_count)
        if end is None or end <= start:
            raise refused("Each phase needs an `end_date` or a `duration`.", param=f"{param}[end_date]")
        phases.append(_phase(items, start, end, one.proration_behavior))
    now = state.time_of(row)
    if not any(one["start_date"] <= now < one["end_date"] for one in phases):
        raise refused("One of the phases must be the present one.", param="phases")
    return phases


def _phase(items: Sequence[Row], start: int, end: int, behaviour: str = "create_prorations") -> Row:
    return {
        "items": [dict(item) for item in items],
        "start_date": start,
        "end_date": end,
        "proration_behavior": behaviour,
        "discounts": [],
        "metadata": {},
    }


def advance(state: State, row: Row) -> None:
    """The phase is over: the next one begins, or the schedule ends as it was told to."""
    now = state.time_of(row)
    following = next((one for one in row["phases"] if one["start_date"] <= now < one["end_date"]), None)
    sub = state.get("subscription", row["subscription"])
    if following is not None:
        row["current_phase"] = {"start_date": following["start_date"], "end_date": following["end_date"]}
        _apply(state, row, following, behaviour=following["proration_behavior"])
        state.emit("subscription_schedule.updated", row)
    elif row["end_behavior"] == "cancel":
        row.update(status="completed", completed_at=now, current_phase=None)
        subscriptions.end(state, sub)
        state.emit("subscription_schedule.completed", row)
    else:
        release(state, row)


def _apply(state: State, row: Row, phase: Row, *, behaviour: str) -> None:
    """Bring the subscription to a phase's items, in their order."""
    sub = state.get("subscription", row["subscription"])
    specs = []
    for place, wanted in enumerate(phase["items"]):
        known = sub["_items"][place]["id"] if place < len(sub["_items"]) else ""
        specs.append(changes.Spec(id=known, price=wanted["price"], quantity=wanted["quantity"]))
    specs += [changes.Spec(id=item["id"], deleted=True) for item in sub["_items"][len(phase["items"]) :]]
    changes.apply(state, sub, specs, behaviour=behaviour)


def release(state: State, row: Row) -> Row:
    """Leave the subscription as it is, on its own from now on."""
    _alive(row)
    sub = state.get("subscription", row["subscription"])
    before = state.show(state, sub)
    now = state.time_of(row)
    row.update(status="released", released_at=now, released_subscription=sub["id"], subscription=None)
    row["current_phase"] = None
    sub["schedule"] = None
    state.emit("subscription_schedule.released", row)
    subscriptions.told(state, sub, before)
    return row


def cancel(state: State, row: Row) -> Row:
    """End the schedule and its subscription."""
    _alive(row)
    subscriptions.end(state, state.get("subscription", row["subscription"]))
    return row


def _alive(row: Row) -> None:
    if row["status"] not in ("active", "not_started"):
        raise refused(f"This subscription schedule is {row['status']}.")
