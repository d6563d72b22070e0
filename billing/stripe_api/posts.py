"""POSTs to Stripe that must not be made twice: the key is committed first, and a repeat uses it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from billing.models import OutboundRequest
from billing.stripe_api.client import Fetched, StripeError, StripeRefused

State = OutboundRequest.State
# Stripe knows an Idempotency-Key for a day; a request older than this begins anew.
KEY_LIFE = timedelta(hours=20)


def once(
    *, kind: str, subject: str, params: Mapping[str, Any], send: Callable[[str], Fetched], now: datetime
) -> Fetched:
    """Stripe's answer to `send(key)`. Raises StripeUnavailable, StripeRefused.

    A request of the same kind, subject and parameters whose answer never came is made again under its own key, so
    that Stripe does once what it was asked twice. Never call this within a transaction.
    """
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
    request = _opened(kind, subject, digest, now)
    try:
        answer = send(str(request.key))
    except StripeError as error:
        # Stripe keeps an answer, a 500 too, and gives it again under the same key: the next try needs another one.
        if isinstance(error, StripeRefused) or (error.status or 0) >= 500:
            _answered(request, State.FAILED, now, error=str(error))
        raise
    _answered(request, State.DONE, now, object_id=str(answer.get("id") or ""))
    return answer


def latest(*, kind: str, subject: str, since: datetime) -> str:
    """The id of what Stripe made last for the subject since then; empty where it made nothing."""
    rows = OutboundRequest.objects.filter(kind=kind, subject=subject, state=State.DONE, created_at__gte=since)
    return rows.order_by("-created_at").values_list("object_id", flat=True).first() or ""


def _opened(kind: str, subject: str, digest: str, now: datetime) -> OutboundRequest:
    rows = OutboundRequest.objects.filter(kind=kind, subject=subject, digest=digest, state=State.OPEN)
    with transaction.atomic(durable=True):
        rows.filter(created_at__lt=now - KEY_LIFE).update(
            state=State.FAILED, answered_at=now, error="no answer within the life of its key"
        )
        found = rows.first()
        if found is not None:
            return found
        try:
            with transaction.atomic():
                return OutboundRequest.objects.create(kind=kind, subject=subject, digest=digest, created_at=now)
        except IntegrityError:
            # Asked for by somebody else at this moment: one request, one key.
            return rows.get()


def _answered(request: OutboundRequest, state: str, now: datetime, *, object_id: str = "", error: str = "") -> None:
    OutboundRequest.objects.filter(pk=request.pk, state=State.OPEN).update(
        state=state, answered_at=now, object_id=object_id[:255], error=error[:2000]
    )
