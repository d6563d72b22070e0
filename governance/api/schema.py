"""What drf-spectacular needs to know to describe the API. Named in SPECTACULAR_SETTINGS, so loaded with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers

ANY_WRITE = ("POST", "PUT", "PATCH", "DELETE")


class ErrorDetailBody(serializers.Serializer[Any]):
    """What was wrong: `code` for programs, `message` for people, `param` the field that is at fault."""

    code = serializers.CharField()
    message = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    request_id = serializers.CharField(allow_null=True)


class ErrorBody(serializers.Serializer[Any]):
    """What any error answers. Some say more beside these: `decision`, `raise_url`, `report`, `metadata`."""

    error = ErrorDetailBody()


class Described(AutoSchema):
    """Each operation is described with the errors that it may answer."""

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        found = super()._get_response_bodies(direction)
        for status in sorted(self._errors() - {int(status) for status in found}):
            described = self._get_response_for_code(  # type: ignore[no-untyped-call]
                ErrorBody, str(status), ["application/json"], direction
            )
            found[str(status)] = {**described, "description": codes(status)}
        return found

    def _errors(self) -> frozenset[int]:
        """The statuses of errors: what the operation takes says most of them, its view's `refuses` the others.

        Those that any request may be answered before are `config.edge_api`'s.
        """
        statuses = set(_refuses(type(self.view), self.method)) | {406}
        if self.view.permission_classes:
            # A database that is away, too.
            statuses |= {401, 403, 503}
        if self.get_override_parameters() or "{" in self.path or self.method in ANY_WRITE:
            statuses |= {400, 422}
        if "{" in self.path:
            statuses |= {404}
        if self.method in ANY_WRITE:
            statuses |= {409}
        return frozenset(statuses)


def _refuses(view: type, method: str) -> Iterator[int]:
    """All that a view and those it is made of refuse a method with."""
    for kind in view.__mro__:
        yield from vars(kind).get("refuses", {}).get(method, ())


def codes(status: int) -> str:
    """The codes that come with a status, from the table of errors and that of refusals."""
    # Imported here: the views' decorators load this module.
    from governance.api import errors
    from governance.rules import refusals

    found = [code for _, known, code in errors.STATUSES if known == status]
    found += [row.code for row in refusals.TABLE if row.status == status]
    found += errors.COMPLAINTS.values() if status == 400 else ()
    return f"`error.code` is one of: {', '.join(dict.fromkeys(found))}." if found else ""


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "governance.api.authentication.KeyAuthentication"
    name = "key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API key: sg_..."}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "governance.api.authentication.OperatorSession"
    name = "console"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid", "description": "Signed in to the console."}


def without_trailing_slashes(endpoints: list[tuple[Any, ...]], **_: Any) -> list[tuple[Any, ...]]:
    """Each path exists twice (see routes.both); one description is enough."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]
