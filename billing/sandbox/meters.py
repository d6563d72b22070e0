"""Meters and the usage that they count: events once, by their identifiers, and sums of them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from billing.sandbox import times
from billing.sandbox.state import State, moment
from billing.sandbox.wire import Row, refused

# Identifiers are known for a day; usage is taken for 35 days back and 5 minutes ahead.
KNOWN_S = times.DAY_S
OLDEST_S = 35 * times.DAY_S
AHEAD_S = 300
SESSION_S = 15 * 60


def add(state: State, form: Any) -> Row:
    if any(state.rows("billing.meter", event_name=form.event_name, status="active")):
        raise refused("A meter with this event name already exists.", param="event_name")
    mapping = form.customer_mapping.event_payload_key if form.customer_mapping else "stripe_customer_id"
    value = form.value_settings.event_payload_key if form.value_settings else "value"
    row = state.add(
        "billing.meter",
        {
            "created": state.now,
            "customer_mapping": {"type": "by_id", "event_payload_key": mapping},
            "default_aggregation": {"formula": form.default_aggregation.formula},
            "display_name": form.display_name,
            "event_name": form.event_name,
            "event_time_window": None,
            "status": "active",
            "status_transitions": {"deactivated_at": None},
            "updated": state.now,
            "value_settings": {"event_payload_key": value},
        },
    )
    state.emit("billing.meter.created", row)
    return row


def switch(state: State, row: Row, *, active: bool) -> Row:
    row.update(status="active" if active else "inactive", updated=state.now)
    row["status_transitions"] = {"deactivated_at": None if active else state.now}
    state.emit("billing.meter.reactivated" if active else "billing.meter.deactivated", row)
    return row


def take(state: State, *, event_name: str, payload: Mapping[str, str], identifier: str, at: int | None) -> Row:
    """Count an event. Raises StripeRefusal for one that is known or cannot be read.

    An event of nobody's is taken and reported later, as Stripe does it.
    """
    meter = next(state.rows("billing.meter", event_name=event_name, status="active"), None)
    if meter is None:
        raise refused(f"No active meter found for event name {event_name}.", code="no_meter", param="event_name")
    id = identifier or state.new_id("billing.meter_event")
    if any(row["_received_at"] > state.now - KNOWN_S for row in state.rows("billing.meter_event", identifier=id)):
        raise refused(f"An event already exists with identifier {id}.", code="duplicate_meter_event")
    value = _value(payload.get(meter["value_settings"]["event_payload_key"]), meter)
    customer = payload.get(meter["customer_mapping"]["event_payload_key"], "")
    owner = state.find("customer", customer)
    stamp = state.time_of(owner) if at is None else at
    if not state.time_of(owner) - OLDEST_S <= stamp <= state.time_of(owner) + AHEAD_S:
        raise refused("The timestamp must be within the past 35 calendar days or 5 minutes ahead.", param="timestamp")
    row = state.add(
        "billing.meter_event",
        {
            "created": state.now,
            "event_name": event_name,
            "identifier": id,
            "payload": dict(payload),
            "timestamp": stamp,
            "_meter": meter["id"],
            "_customer": customer if owner and not owner.get("deleted") else "",
            "_value": value,
            "_received_at": state.now,
        },
    )
    if not row["_customer"]:
        _report(state, meter, row, customer)
    return row


def _value(raw: str | None, meter: Row) -> str:
    if meter["default_aggregation"]["formula"] == "count":
        return "1"
    try:
        value = Decimal(raw or "")
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0 or value != int(value):
        raise refused("The value must be a whole number that is not negative.", param="payload")
    return str(value)


def used(state: State, meter_id: str, customer: str, start: int, end: int) -> int:
    """What a meter has counted of a customer from `start` to before `end`."""
    rows = state.rows("billing.meter_event", _meter=meter_id, _customer=customer)
    found = [int(Decimal(row["_value"])) for row in rows if start <= row["timestamp"] < end]
    if state.get("billing.meter", meter_id)["default_aggregation"]["formula"] == "last":
        return found[-1] if found else 0
    return sum(found)


def summaries(state: State, meter: Row, form: Any) -> list[Row]:
    """The sum of a span, or of each of its hours or days. Raises StripeRefusal."""
    step = {"hour": times.HOUR_S, "day": times.DAY_S, None: 60}[form.value_grouping_window]
    if form.start_time % step or form.end_time % step:
        raise refused("The span must be of whole minutes, hours or days as it is grouped.", param="start_time")
    state.get("customer", form.customer, "customer")
    size = step if form.value_grouping_window else max(60, form.end_time - form.start_time)
    rows = []
    for start in range(form.start_time, form.end_time, size):
        end = min(start + size, form.end_time)
        value = used(state, meter["id"], form.customer, start, end)
        if value:
            rows.append(
                {
                    "id": f"mtrusg_{meter['id']}_{start}",
                    "object": "billing.meter_event_summary",
                    "aggregated_value": float(value),
                    "start_time": start,
                    "end_time": end,
                    "livemode": False,
                    "meter": meter["id"],
                }
            )
    return list(reversed(rows))


def _report(state: State, meter: Row, event: Row, customer: str) -> None:
    """The thin event that tells of usage that could not be counted."""
    sample = {"error_message": f"No such customer: {customer}", "request": {"identifier": event["identifier"]}}
    error = {"code": "meter_event_customer_not_found", "error_count": 1, "sample_errors": [sample]}
    now = moment(state.now)
    thin = {
        "id": state.new_id("event"),
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": now,
        "livemode": False,
        "related_object": {
            "id": meter["id"],
            "type": "billing.meter",
            "url": f"/v1/billing/meters/{meter['id']}",
        },
        "data": {
            "developer_message_summary": "There is 1 invalid event",
            "reason": {"error_count": 1, "error_types": [error]},
            "validation_start": now,
            "validation_end": now,
        },
        "_at": state.now,
    }
    state.keep_event(thin, "v2.core.event_destination")
