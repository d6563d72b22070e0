"""How an exception becomes an answer: {"error": {"code", "message", "param", "request_id"}}. One table."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, TooManyFieldsSent
from django.db import InterfaceError, InternalError, OperationalError, ProgrammingError
from django.http import Http404, HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions as drf
from rest_framework.response import Response
from rest_framework.views import set_rollback

from governance import idempotency
from governance.actions import reservations, reviews
from governance.api.fields import BEYOND, MISSING, SURPLUS, UNKNOWN
from governance.ledger import results
from governance.rules.errors import Conflict, FieldError, Gone, NotAllowed, NotOpen, OverBound
from governance.rules.json_bounds import BeyondBounds
from governance.rules.money import AmountError
from governance.rules.names import printable

# Looked through in order; the first class that fits decides. An exception without a row is a defect: a 500.
STATUSES: tuple[tuple[type[Exception], int, str], ...] = (
    (drf.ParseError, 400, "malformed_json"),
    (drf.ValidationError, 400, "invalid"),
    (drf.NotAuthenticated, 401, "authentication_required"),
    (drf.AuthenticationFailed, 401, "invalid_api_key"),
    (drf.PermissionDenied, 403, "forbidden"),
    (PermissionDenied, 403, "forbidden"),
    (drf.NotFound, 404, "not_found"),
    (Http404, 404, "not_found"),
    (drf.MethodNotAllowed, 405, "method_not_allowed"),
    (drf.NotAcceptable, 406, "not_acceptable"),
    (drf.UnsupportedMediaType, 415, "unsupported_media_type"),
    (drf.Throttled, 429, "rate_limit_exceeded"),
    (Gone, 404, "not_found"),
    (Conflict, 409, "conflict"),
    (NotOpen, 409, "conflict"),
    (NotAllowed, 403, "forbidden"),
    (OverBound, 422, BEYOND),
    (FieldError, 400, "invalid"),
    (idempotency.KeyMalformed, 400, "invalid"),
    (idempotency.KeyReused, 422, "idempotency_mismatch"),
    (idempotency.TooManyKept, 429, "too_many_kept_answers"),
    (idempotency.StillRunning, 409, "idempotency_in_progress"),
    (AmountError, 400, "invalid"),
    (BeyondBounds, 400, "invalid"),
    (TooManyFieldsSent, 400, "invalid"),
    (RequestDataTooBig, 413, "body_too_large"),
    (results.ReservationUnknown, 404, "reservation_not_found"),
    (results.AlreadyResolved, 409, "reservation_resolved"),
    (reservations.HeldByGateway, 409, "held_by_gateway"),
    (reviews.TooManyWaiting, 429, "too_many_reports"),
    (results.LedgerUnavailable, 503, "ledger_unavailable"),
    (results.HoldBeyondBound, 402, "hold_beyond_bound"),
    (results.RequestIdReused, 409, "request_id_reused"),
    (results.OutOfBounds, 422, BEYOND),
    (results.TooManyNames, 429, "too_many_names"),
    (results.ReserveAnew, 409, "reserve_anew"),
    (results.LedgerError, 409, "refused_by_ledger"),
    (OperationalError, 503, "database_unavailable"),
    (InterfaceError, 503, "database_unavailable"),
    # Read-only after a failover; without the rights, or not migrated yet.
    (InternalError, 503, "database_unavailable"),
    (ProgrammingError, 503, "database_unavailable"),
)
# What a serializer complains of, where that is more than "invalid", in its words and in ours.
COMPLAINTS = {"required": MISSING, **{code: code for code in (MISSING, SURPLUS, UNKNOWN)}}
# Said in place of the exception's own words, which are for the log or would tell too much.
MESSAGES = {
    "not_found": "There is nothing here that you can see.",
    "database_unavailable": "The database cannot be reached; try again.",
    "ledger_unavailable": "The ledger cannot be reached; nothing was done. Try again.",
}
UNSURE = "The ledger's answer was lost, and it may have been done. Ask again under the same Idempotency-Key, or look."


class Refused(drf.ValidationError):
    """A 400 with a code of its own, such as `model_not_priced`."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__({param or "non_field_errors": [message]}, code=code)
        self.own_code = code


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """REST_FRAMEWORK's EXCEPTION_HANDLER."""
    found = next(((status, code) for kind, status, code in STATUSES if isinstance(error, kind)), None)
    if found is None:
        return None
    status, code = found
    if isinstance(error, drf.ValidationError):
        complaint = _first(error.detail)[1].code or ""
        status, code = (422, BEYOND) if complaint == BEYOND else (status, COMPLAINTS.get(complaint, code))
    code = getattr(error, "own_code", code)
    param, message = _explain(error, code)
    request = context.get("request")
    set_rollback()
    return Response(body(code, message, param, request), status=status, headers=_headers(error, status))


def body(code: str, message: str, param: str | None, request: Any) -> dict[str, Any]:
    return envelope(code, message, param, getattr(getattr(request, "_request", request), "request_id", None))


def envelope(code: str, message: str, param: str | None, request_id: str | None) -> dict[str, Any]:
    """What any error answers. What it names as it came is written so that it can be sent and seen."""
    message = printable(message, keep="\n")
    param = printable(param) if isinstance(param, str) else param
    return {"error": {"code": code, "message": message, "param": param, "request_id": request_id}}


@csrf_exempt
def unknown_path(request: HttpRequest) -> JsonResponse:
    """What any other path under /api/ answers."""
    return JsonResponse(body("not_found", "There is no such path.", None, request), status=404)


def _explain(error: Exception, code: str) -> tuple[str | None, str]:
    """(the field that is wrong, a sentence)."""
    if getattr(error, "unsure", False):
        return None, UNSURE
    if isinstance(error, results.HeldUp):
        return None, f"The ledger is locked for {error.tenant or 'this'}; nothing was done. Try again."
    if code in MESSAGES:
        return None, MESSAGES[code]
    if isinstance(error, drf.ValidationError):
        path, complaint = _first(error.detail)
        return path or None, f"{path}: {complaint}" if path else str(complaint)
    if isinstance(error, drf.APIException):
        return None, str(error.detail)
    if isinstance(error, BeyondBounds):
        return error.field or None, error.sentence
    field = getattr(error, "field", "")
    return field or None, f"{field}: {error}" if field else str(error)


def _first(detail: Any, path: str = "") -> tuple[str, drf.ErrorDetail]:
    """The path to the first field that a serializer's nested errors complain of, `downgrade_rules.0.to`, and how."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            if inner:
                part = "" if name == "non_field_errors" else str(name)
                return _first(inner, f"{path}.{part}".strip("."))
    if isinstance(detail, list):
        for index, inner in enumerate(detail):
            if isinstance(inner, dict | list) and inner:
                return _first(inner, f"{path}.{index}".strip("."))
            if inner:
                return path, inner
    return path, drf.ErrorDetail(detail)


def _headers(error: Exception, status: int) -> dict[str, str]:
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if status == 503:
        headers["Retry-After"] = "1"
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait))
    return headers
