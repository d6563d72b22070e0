"""Whom a call is for: what its headers say, else its body, in the form in which names are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from governance.rules import names
from governance.rules.errors import FieldError
from llm.gateway import errors
from llm.gateway.http import Exchange
from llm.rules.client_requests import Request


def named(exchange: Exchange, request: Request | None = None) -> dict[str, str]:
    """Agent, user, session and task of a call. Raises the 400 that says which name is none.

    A header wins, for it is what a platform's own proxy adds; then the body's `metadata`, then its `user`.
    """
    try:
        return {kind: _name(kind, exchange, request) for kind in names.OF_A_CALL}
    except FieldError as error:
        raise _refused(error) from error


def known(exchange: Exchange, request: Request | None) -> dict[str, str]:
    """The same of a call that is refused: what is no name is left out."""
    found = {}
    for kind in names.OF_A_CALL:
        with suppress(FieldError):
            found[kind] = _name(kind, exchange, request)
    return found


def checked(kind: str, text: str, *, field: str) -> str:
    """What else a call names. Raises the 400 that says why it is no name."""
    try:
        return names.checked(kind, text, field=field)
    except FieldError as error:
        raise _refused(error) from error


def _name(kind: str, exchange: Exchange, request: Request | None) -> str:
    said = (names.of_call(kind, text, field=field) for field, text in _said(kind, exchange, request))
    return next(filter(None, said), "")


def _refused(error: FieldError) -> errors.GatewayError:
    return errors.bad_request(f"{error.field} {error.message}", param=error.field, code="invalid_name")


def _said(kind: str, exchange: Exchange, request: Request | None) -> Iterator[tuple[str, Any]]:
    """What a call says of a name: (field, text), the first one counts."""
    if text := exchange.header(f"x-{kind}"):
        yield f"x-{kind}", text
    if request is None:
        return
    value = request.metadata.get(kind)
    if value is not None and value != "":
        is_number = isinstance(value, int) and not isinstance(value, bool)
        yield f"metadata.{kind}", str(value) if is_number else value
    if kind == "user" and request.user:
        yield "user", request.user
