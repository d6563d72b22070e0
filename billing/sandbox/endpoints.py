"""Where webhooks go: endpoints for events with their objects, and event destinations for thin ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from billing.sandbox import catalogue, wire
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused

MOST = 16
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def add(state: State, form: Any, *, secret: str = "") -> Row:
    """A new endpoint, whose secret is told this once. Raises StripeRefusal."""
    if form.api_version not in (None, wire.API_VERSION):
        raise refused(f"Invalid API version: {form.api_version}", param="api_version")
    row = _new(state, "webhook_endpoint", form.url, secret)
    row.update(
        api_version=form.api_version,
        application=None,
        created=state.now,
        description=form.description or None,
        enabled_events=list(form.enabled_events),
        metadata=dict(form.metadata or {}),
        status="enabled",
        url=form.url,
    )
    return row


def _new(state: State, kind: str, url: str, secret: str) -> Row:
    parts = urlsplit(url)
    # The real one sends to https alone; this one has no other way to a product on the same machine.
    if not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in THIS_MACHINE)):
        raise refused("Invalid URL: it must be https, or http on this machine.", param="url", code="url_invalid")
    if len(state.tables[kind]) >= MOST:
        raise refused(f"You have reached the maximum of {MOST} test webhook endpoints.")
    row = state.add(kind, {})
    made = hashlib.sha256(f"{state.seed}/{row['id']}".encode()).hexdigest()[:32]
    row["_secret"] = secret or f"whsec_{made}"
    return row


def change(state: State, row: Row, form: Any) -> Row:
    given = form.model_fields_set
    for name in ("description", "enabled_events", "url"):
        if name in given:
            row[name] = getattr(form, name)
    if "disabled" in given:
        row["status"] = "disabled" if form.disabled else "enabled"
    if "metadata" in given:
        row["metadata"] = catalogue.merge(row["metadata"], form.metadata)
    return row


def delete(state: State, row: Row) -> Row:
    del state.tables["webhook_endpoint"][row["id"]]
    return {"id": row["id"], "object": "webhook_endpoint", "deleted": True}


def with_secret(state: State, row: Row) -> Row:
    return {**state.show(state, row), "secret": row["_secret"]}


# Event destinations


def add_destination(state: State, params: Mapping[str, Any]) -> Row:
    """Raises StripeRefusal. Only thin events go there: snapshots have endpoints."""
    known = {
        "name",
        "type",
        "event_payload",
        "enabled_events",
        "webhook_endpoint",
        "include",
        "description",
        "metadata",
    }
    if wrong := sorted(params.keys() - known):
        raise refused(f"Received unknown parameter: {wrong[0]}", param=wrong[0], code="parameter_unknown")
    address = (params.get("webhook_endpoint") or {}).get("url")
    if params.get("type") != "webhook_endpoint" or params.get("event_payload") != "thin" or not address:
        raise refused("Destinations are webhook endpoints with thin events here.", param="type")
    row = _new(state, "v2.core.event_destination", str(address), "")
    row.update(
        created=state.now,
        description=params.get("description") or "",
        enabled_events=list(params.get("enabled_events") or ()),
        event_payload="thin",
        metadata=dict(params.get("metadata") or {}),
        name=params.get("name") or "",
        status="enabled",
        type="webhook_endpoint",
        webhook_endpoint={"url": address, "signing_secret": None},
        url=address,
    )
    return _destination(state, row, params, once=True)


def change_destination(state: State, row: Row, params: Mapping[str, Any]) -> Row:
    for name in ("enabled_events", "name", "description", "metadata"):
        if name in params:
            row[name] = params[name]
    return _destination(state, row, params)


def switch_destination(state: State, row: Row, *, enabled: bool) -> Row:
    row["status"] = "enabled" if enabled else "disabled"
    return state.show(state, row)


def _destination(state: State, row: Row, params: Mapping[str, Any], *, once: bool = False) -> Row:
    shown = state.show(state, row)
    if once and "webhook_endpoint.signing_secret" in (params.get("include") or ()):
        shown["webhook_endpoint"]["signing_secret"] = row["_secret"]
    return shown
