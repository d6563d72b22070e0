"""Stripe's wire format: form encoding, lists and errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import orjson

# The one version that is spoken, as the pinned SDK does (held by tests/billing/sandbox/test_forms.py).
API_VERSION = "2026-10-28.endive"
Row = dict[str, Any]
EMBEDDED = 10
PAGE = 10
MOST_PAGE = 100
# No parameter lies deeper.
MOST_DEPTH = 20
_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")


class StripeRefusal(Exception):
    """An answer other than 200, in the shape of Stripe's errors."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("message"))
        self.status = status
        self.body = {"error": dict(error)}


def refused(message: str, *, param: str = "", code: str = "", status: int = 400, **more: Any) -> StripeRefusal:
    """A request that will be refused again: what is wrong with it, and with which of its parameters."""
    named = {name: value for name, value in (("param", param), ("code", code)) if value}
    about = {"doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"} if code else {}
    return StripeRefusal(status, {"type": "invalid_request_error", "message": message, **named, **about, **more})


def no_such(kind: str, id: str, param: str = "") -> StripeRefusal:
    """An unknown id: 404 where it is the address, 400 in a parameter."""
    words = f"No such {kind.replace('_', ' ')}: '{id}'"
    return refused(words, param=param or "id", code="resource_missing", status=400 if param else 404)


def declined(message: str, code: str, **more: Any) -> StripeRefusal:
    """A payment that was tried and failed."""
    return StripeRefusal(402, {"type": "card_error", "code": code, "message": message, **more})


def parse(content_type: str, body: bytes) -> Row:
    """The parameters of a body: form-encoded, or JSON for the newer API. Raises StripeRefusal."""
    if content_type.startswith("application/json"):
        try:
            found = orjson.loads(body or b"{}")
        except orjson.JSONDecodeError as error:
            raise refused("The request body is no valid JSON.") from error
        if not isinstance(found, dict):
            raise refused("The request body must be a JSON object.")
        return found
    try:
        return unflatten(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body)))
    except (UnicodeDecodeError, ValueError) as error:
        raise refused("Invalid request body: it is no form.") from error


def unflatten(pairs: Iterable[tuple[str, str]]) -> Row:
    """`items[0][price]=p` as nested objects and lists."""
    root: Row = {}
    for name, value in pairs:
        found = _KEY.fullmatch(name)
        if found is None:
            raise refused(f"Received unknown parameter: {name}", param=name, code="parameter_unknown")
        place, keys = root, [found[1], *_PART.findall(found[2])]
        if len(keys) > MOST_DEPTH:
            raise refused(f"Received unknown parameter: {name[:200]}", param=keys[0], code="parameter_unknown")
        for key in keys[:-1]:
            place = place.setdefault(key or str(len(place)), {})
            if not isinstance(place, dict):
                raise refused(f"Invalid object: {name}", param=keys[0])
        place[keys[-1] or str(len(place))] = value
    return {key: _listed(value) for key, value in root.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdecimal() for key in value):
        return [_listed(value[key]) for key in sorted(value, key=int)]
    return {key: _listed(inner) for key, inner in value.items()}


def texts(value: Any) -> Any:
    """Values of Python as they would come in a form."""
    if isinstance(value, Mapping):
        return {str(key): texts(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [texts(inner) for inner in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def listing(rows: Sequence[Any], url: str, *, has_more: bool = False) -> Row:
    return {"object": "list", "data": list(rows), "has_more": has_more, "url": url}


def embedded(rows: Sequence[Any], url: str) -> Row:
    """A list within an object: its first ten members, however many there are."""
    return listing(rows[:EMBEDDED], url, has_more=len(rows) > EMBEDDED)


def page(rows: Sequence[Row], *, limit: int | None, after: str, before: str) -> tuple[list[Row], bool]:
    """The rows that a page shows, and whether there are more; `rows` are in the order of the list."""
    size = PAGE if limit is None else limit
    if not 1 <= size <= MOST_PAGE:
        raise refused(f"This value must be from 1 to {MOST_PAGE}.", param="limit", code="parameter_invalid_integer")
    if after and before:
        raise refused("You may only specify one of these parameters: starting_after, ending_before.")
    start, end = 0, len(rows)
    ids = [row["id"] for row in rows]
    if after:
        start = _place(ids, after, "starting_after") + 1
    if before:
        end = _place(ids, before, "ending_before")
        start = max(0, end - size)
        return list(rows[start:end]), start > 0
    return list(rows[start : start + size]), start + size < end


def _place(ids: list[str], id: str, param: str) -> int:
    if id not in ids:
        raise no_such("object", id, param)
    return ids.index(id)
