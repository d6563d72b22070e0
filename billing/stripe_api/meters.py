"""Stripe's side of usage: its meters, their events in each encoding, and its sums of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import stripe

from billing.stripe_api import client, objects
from billing.stripe_api.client import Fetched, StripeRefused, StripeUnavailable

# A stream's session lasts 15 minutes; a new one is begun a little before that.
SESSION_MARGIN = timedelta(minutes=1)
# Stripe refuses an identifier it knows, with a code or, in v1, with this sentence alone.
DUPLICATE_CODE = "duplicate_meter_event"
DUPLICATE_WORDS = "event already exists with identifier"


@dataclass(frozen=True, slots=True)
class Meter:
    """`sums`: it adds its events up, so that its totals can be compared with ours."""

    id: str
    event_name: str
    sums: bool
    customer_key: str = "stripe_customer_id"
    value_key: str = "value"


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One event. `attempt` tells apart the tries of one identifier."""

    identifier: str
    stripe_customer_id: str
    value: int
    at: datetime
    attempt: int = 1


def active() -> dict[str, Meter]:
    """The active meters by the name of their events. Raises StripeUnavailable, StripeRefused."""

    def read(api: stripe.StripeClient) -> list[Fetched]:
        listed = api.v1.billing.meters.list({"status": "active", "limit": client.PAGE})
        return [item.to_dict(for_json=True) for item in listed.auto_paging_iter()]

    return {meter.event_name: meter for meter in map(_meter, client.ask(read))}


def total(meter: Meter, *, stripe_customer_id: str, starts_at: datetime, ends_at: datetime) -> int:
    """What Stripe has counted of a customer from `starts_at` to before `ends_at`, which are full minutes."""
    params: Any = {
        "customer": stripe_customer_id,
        "start_time": int(starts_at.timestamp()),
        "end_time": int(ends_at.timestamp()),
        "limit": client.PAGE,
    }

    def read(api: stripe.StripeClient) -> list[Fetched]:
        listed = api.v1.billing.meters.event_summaries.list(meter.id, params)
        return [item.to_dict(for_json=True) for item in listed.auto_paging_iter()]

    # Stripe says a float; ours are whole numbers far below where floats have gaps.
    return sum(int(Decimal(str(row.get("aggregated_value") or 0))) for row in client.ask(read))


class Reporter:
    """Sends events in one encoding: v1, v2 or stream, whose session is kept between them. For one worker at a time."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self._session: tuple[str, datetime] | None = None

    def send(self, meter: Meter, usage: UsageEvent, *, now: datetime) -> bool:
        """Whether the event is new to Stripe. Raises StripeUnavailable, StripeRefused.

        The Idempotency-Key is new with each attempt: Stripe would give a kept 500 again under the same one. That an
        event counts once is the work of its identifier.
        """
        options: Any = {"idempotency_key": f"{usage.identifier}-{usage.attempt}"}
        try:
            if self.encoding == "stream":
                self._stream(_event(meter, usage, usage.at.isoformat()), options, now)
            elif self.encoding == "v2":
                event: Any = _event(meter, usage, usage.at.isoformat())
                client.ask(lambda api: api.v2.billing.meter_events.create(event, options))
            else:
                event = _event(meter, usage, int(usage.at.timestamp()))
                client.ask(lambda api: api.v1.billing.meter_events.create(event, options))
        except StripeRefused as error:
            if error.code == DUPLICATE_CODE or DUPLICATE_WORDS in str(error):
                return False
            raise
        return True

    def _stream(self, event: Any, options: Any, now: datetime) -> None:
        if self._session is None or now >= self._session[1] - SESSION_MARGIN:
            new = client.ask(lambda api: api.v2.billing.meter_event_session.create().to_dict(for_json=True))
            self._session = str(new["authentication_token"]), datetime.fromisoformat(str(new["expires_at"]))
        token = self._session[0]
        try:
            client.ask(lambda api: api.v2.billing.meter_event_stream.create({"events": [event]}, options), key=token)
        except StripeUnavailable:
            # Perhaps it is the session that ended; the next event begins a new one.
            self._session = None
            raise


def _event(meter: Meter, usage: UsageEvent, timestamp: Any) -> dict[str, Any]:
    return {
        "event_name": meter.event_name,
        "identifier": usage.identifier,
        "timestamp": timestamp,
        "payload": {meter.customer_key: usage.stripe_customer_id, meter.value_key: str(usage.value)},
    }


def _meter(data: Fetched) -> Meter:
    customer, value = (objects.mapping(data.get(name)) for name in ("customer_mapping", "value_settings"))
    return Meter(
        id=objects.text(data.get("id")),
        event_name=objects.text(data.get("event_name")),
        sums=objects.mapping(data.get("default_aggregation")).get("formula") == "sum",
        customer_key=objects.text(customer.get("event_payload_key")) or "stripe_customer_id",
        value_key=objects.text(value.get("event_payload_key")) or "value",
    )
