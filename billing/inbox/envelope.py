"""What a webhook's body says: a verified, bounded and storable event, or a reason why it is none. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from billing.stripe_api import objects

MOST_BYTES = 512 * 1024
# Stripe nests a dozen levels; the bound keeps whatever comes within what JSON columns and encoders take.
DEEPEST = 64
EVENT_OBJECTS = ("event", "v2.core.event")


class NotAnEvent(ValueError):
    """The body is no Stripe event; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """`account` is the connected account an event belongs to; empty for our own."""

    id: str
    type: str
    created: int
    livemode: bool
    api_version: str
    account: str
    customer_id: str
    payload: dict[str, Any]


def parse(body: str) -> Envelope:
    """Read a snapshot event, or a thin one. Raises NotAnEvent."""
    try:
        payload = orjson.loads(body)
    except ValueError as error:
        raise NotAnEvent(f"The body is not JSON: {error}.") from error
    return envelope(payload)


def envelope(payload: Any) -> Envelope:
    """The same of an event that was read already. Raises NotAnEvent."""
    if not isinstance(payload, dict):
        raise NotAnEvent("The body must be a JSON object.")
    if payload.get("object") not in EVENT_OBJECTS:
        raise NotAnEvent('The body must be a Stripe event: "object" is not "event".')
    payload = _storable(payload, DEEPEST)
    data = objects.mapping(objects.mapping(payload.get("data")).get("object"))
    return Envelope(
        id=_name(payload, "id", 255),
        type=_name(payload, "type", 120),
        created=_created(payload.get("created")),
        livemode=payload.get("livemode") is True,
        api_version=objects.text(payload.get("api_version"))[:60],
        # Thin events say it as the context that their objects are to be asked for in.
        account=objects.text(payload.get("account")) or objects.text(payload.get("context")),
        customer_id=objects.customer_id(data)[:255],
        payload=payload,
    )


def _name(payload: Mapping[str, Any], field: str, most: int) -> str:
    value = payload.get(field)
    if not isinstance(value, str) or not value or len(value) > most:
        raise NotAnEvent(f'"{field}" must be a text of 1 to {most} characters.')
    return value


def _created(value: Any) -> int:
    """Unix seconds; thin events say it as RFC 3339."""
    if isinstance(value, str):
        try:
            value = int(datetime.fromisoformat(value).timestamp())
        except (ValueError, OverflowError):
            value = None
    if objects.moment(value) is None:
        raise NotAnEvent('"created" must be a time in Unix seconds.')
    return int(value)


def _storable(value: Any, depth: int) -> Any:
    """The value as every database can hold it: PostgreSQL has no NUL in its texts."""
    if depth == 0:
        raise NotAnEvent(f"The body nests deeper than {DEEPEST} levels.")
    if isinstance(value, str):
        return value.replace("\x00", "�")
    if isinstance(value, dict):
        return {_storable(key, depth - 1): _storable(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item, depth - 1) for item in value]
    return value
