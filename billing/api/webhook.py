"""`POST /api/webhooks/stripe`: verify, store, answer. No outbound call is made here."""

from __future__ import annotations

import logging
from functools import partial

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError, transaction
from django.http import HttpRequest, JsonResponse
from django.http.request import UnreadablePostError
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from billing import dispatch
from billing.inbox import envelope, store
from billing.stripe_api import signatures

log = logging.getLogger(__name__)


@csrf_exempt
def stripe_webhook(request: HttpRequest) -> JsonResponse:
    """200 once the event is committed; what Stripe should send again gets a 5xx, what it should not a 4xx."""
    if request.method != "POST":
        response = _error(request, 405, "method_not_allowed", "Only POST is answered here.")
        response["Allow"] = "POST"
        return response
    if not settings.STRIPE_WEBHOOK_SECRETS:
        message = "STRIPE_WEBHOOK_SECRET is not set, so no webhook can be verified."
        return _error(request, 503, "not_configured", message)
    try:
        body = _body(request)
    except RequestDataTooBig:
        message = f"A webhook's body has at most {envelope.MOST_BYTES} bytes."
        return _error(request, 413, "body_too_large", message)
    except UnreadablePostError:
        return _error(request, 400, "unreadable_body", "The body ended before its announced length.")
    return _receive(request, body)


def _receive(request: HttpRequest, body: bytes) -> JsonResponse:
    now = timezone.now()
    try:
        text = body.decode()
        header = request.headers.get("Stripe-Signature", "")
        signatures.verify(body=text, header=header, secrets=settings.STRIPE_WEBHOOK_SECRETS, now=now)
        event = envelope.parse(text)
    except UnicodeDecodeError:
        return _error(request, 400, "invalid_body", "The body is not UTF-8.")
    except signatures.NotFromStripe as error:
        return _error(request, 400, "invalid_signature", str(error))
    except envelope.NotAnEvent as error:
        return _error(request, 400, "invalid_body", str(error))
    try:
        new = store.store(event, now=now)
    except DatabaseError as error:
        log.error("event %s could not be stored: %s", event.id, error)
        return _error(request, 503, "unavailable", "The event could not be stored; send it again.")
    if new:
        transaction.on_commit(partial(dispatch.soon, event.id))
    return JsonResponse({"received": True, "id": event.id, "duplicate": not new})


def _body(request: HttpRequest) -> bytes:
    """The raw body, refused by its announced length before any of it is read, and by its true one."""
    announced = request.META.get("CONTENT_LENGTH") or ""
    if announced.isdecimal() and int(announced) > envelope.MOST_BYTES:
        raise RequestDataTooBig
    body = request.body
    if len(body) > envelope.MOST_BYTES:
        raise RequestDataTooBig
    return body


def _error(request: HttpRequest, status: int, code: str, message: str) -> JsonResponse:
    error = {
        "code": code,
        "message": message,
        "param": None,
        "request_id": getattr(request, "request_id", None),
    }
    return JsonResponse({"error": error}, status=status)
