"""The newer API below /v2/: event destinations, thin events and usage, in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from billing.sandbox import endpoints, fields, meters, payment_forms, views, wire
from billing.sandbox.state import State, moment
from billing.sandbox.wire import Row, refused


def answer(state: State, method: str, names: list[str], params: Mapping[str, Any]) -> Row | None:
    """The operations of /v2/, whose bodies are JSON."""
    kind = "v2.core.event_destination"
    match [method, *names[1:]]:
        case ["GET", "core", "events", id]:
            return event_of(state, id, "v2.core.event")
        case ["GET", "core", "event_destinations"]:
            rows = [views.show(state, row) for row in state.rows(kind)]
            return {"data": rows, "next_page_url": None, "previous_page_url": None}
        case ["POST", "core", "event_destinations"]:
            return endpoints.add_destination(state, params)
        case ["POST", "core", "event_destinations", id]:
            return endpoints.change_destination(state, state.get(kind, id), params)
        case ["POST", "core", "event_destinations", id, ("enable" | "disable") as word]:
            return endpoints.switch_destination(state, state.get(kind, id), enabled=word == "enable")
        case ["POST", "billing", "meter_events"]:
            return _newer_meter_event(state, params)
        case ["POST", "billing", "meter_event_session"]:
            return _session(state)
        case ["POST", "billing", "meter_event_stream"]:
            for event in params.get("events") or ():
                _newer_meter_event(state, event)
            return {}
    return None


def _newer_meter_event(state: State, params: Mapping[str, Any]) -> Row:
    said = params.get("timestamp")
    try:
        at = int(datetime.fromisoformat(str(said)).timestamp()) if said else None
    except ValueError as error:
        raise refused(f"Invalid timestamp: {said}", param="timestamp") from error
    form = fields.read(payment_forms.MeterEventForm, {**params, **({} if at is None else {"timestamp": str(at)})})
    row = new_meter_event(state, {}, form)
    return {**views.show(state, row), "object": "v2.billing.meter_event"}


def _session(state: State) -> Row:
    return {
        "id": state.new_id("billing.meter_event").replace("mev_", "bmes_"),
        "object": "v2.billing.meter_event_session",
        "authentication_token": f"token_{state.seed or 'simulated'}_{state.number}",
        "created": moment(state.now),
        "expires_at": moment(state.now + meters.SESSION_S),
        "livemode": False,
    }


def new_meter_event(state: State, row: Row, form: Any) -> Row:
    return meters.take(
        state, event_name=form.event_name, payload=form.payload, identifier=form.identifier, at=form.timestamp
    )


def event_of(state: State, id: str, kind: str) -> Row:
    found = next((one for one in state.events if one["id"] == id and one["object"] == kind), None)
    if found is None:
        raise wire.no_such("event", id)
    return views.show(state, found)
