"""Idempotency-Key of the control plane: a POST that is repeated under its key is answered as it was the first time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import DatabaseError
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from governance import database, idempotency
from governance.api import callers
from governance.api.parsing import header
from governance.api.views import ControlView
from governance.idempotency import Claim, StoredAnswer
from governance.ledger import clock
from governance.models import Tenant

log = logging.getLogger(__name__)
waiting = idempotency.WaitingRepeats()
# In the place of an agent's name, and none: those have no NUL.
OPERATORS_OWN = "\0operator"

PARAMETER = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="Names the request: sent again within 24 hours it is answered as before and charged once.",
)


class OnceView(ControlView):
    """A view whose POST may carry an Idempotency-Key. `claim` is there while a request that carries one is run."""

    refuses = {"POST": (429,)}
    claim: Claim | None = None
    # Set with an answer that did nothing further and may be otherwise a moment later: it is not kept for repeats.
    is_passing = False
    # Whether it acts on what may be no tenant's: the operators share the keys of that.
    is_for_all = False

    def owner(self, request: Request, **where: Any) -> Tenant | None:
        """The tenant that the key belongs to; None where the request will be refused for naming none."""
        if self.by.tenant is not None:
            return self.by.tenant
        slug = callers.said(self.takes, request.data).get("tenant")
        return Tenant.objects.filter(slug=slug).first() if slug else None


def once(post: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates `post`: looks the key up before anything is decided, and keeps the answer."""

    @wraps(post)
    def post_once(view: OnceView, request: Request, **where: Any) -> Any:
        key = idempotency.checked(header(request, idempotency.HEADER))
        # The body is read as bytes before it is parsed, for both are needed.
        body = request._request.body if key else b""
        tenant = view.owner(request, **where) if key else None
        if not key or (tenant is None and not view.is_for_all):
            return post(view, request, **where)
        # What an operator is answered has figures in it that no key of the tenant may be replayed.
        agent = OPERATORS_OWN if view.by.tenant is None else view.by.agent.slug if view.by.agent else ""
        digest = idempotency.digest(method="POST", path=request.path, agent=agent, body=body)
        found = _begin(tenant, key, digest, api_key_id=view.by.key.pk if view.by.key else None)
        if isinstance(found, StoredAnswer):
            return _replayed(found)
        return _run(view, found, lambda: post(view, request, **where))

    return post_once


def _begin(tenant: Tenant | None, key: str, digest: str, *, api_key_id: int | None) -> Claim | StoredAnswer:
    def look() -> Claim | StoredAnswer | None:
        return idempotency.begin(
            tenant_id=tenant.pk if tenant else None, key=key, digest=digest, now=clock.now(), api_key_id=api_key_id
        )

    found = look()
    if found is not None:
        return found
    with waiting.place(api_key_id):
        for pause_s in idempotency.pauses():
            database.give_back()
            time.sleep(pause_s)
            found = look()
            if found is not None:
                return found
    raise idempotency.still_running()


def _run(view: OnceView, claim: Claim, act: Callable[[], Response]) -> Response:
    view.claim = claim
    try:
        response = _answered(view, act)
    except BaseException:
        idempotency.let_go(claim)
        raise
    headers = [(name, value) for name, value in response.headers.items() if name.lower() != "content-type"]
    try:
        if view.is_passing:
            idempotency.forget(claim)
            return response
        idempotency.keep(claim, StoredAnswer(response.status_code, headers, JSONRenderer().render(response.data)))
    except DatabaseError:
        # What was done is done, and the answer is due; a repeat takes the run over in a while.
        log.exception("an answer could not be kept")
    return response


def _answered(view: OnceView, act: Callable[[], Response]) -> Response:
    """The answer, also where it is a refusal: that one is kept as well."""
    try:
        return act()
    except Exception as error:
        return view.handle_exception(error)


def _replayed(answer: StoredAnswer) -> HttpResponse:
    response = HttpResponse(answer.body, status=answer.status, content_type="application/json")
    for name, value in [*answer.headers, idempotency.REPLAYED]:
        response.headers.setdefault(name, value)
    return response
