"""Which requests read the replica (governance/replica.py): those that look at what was, and change nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.db import DatabaseError, connections
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve
from prometheus_client import Counter

from governance import measures, replica

logger = logging.getLogger(__name__)
Handler = Callable[[HttpRequest], HttpResponse]

# Names of paths under /api/, and of pages of the console. What is not here reads the primary: one row that somebody has
# just made, what is left of a budget, whatever is a form.
API = ("spend", "spend-summary", "spend-forecast", "refusals", "budget-windows", "budget-events", "report-preview")
PAGES = ("index", "overview-live", "overview-happened", "spend", "calls", "advice", "reports", "report-mail", "margin")
TABLES = ("spendrollup", "spendentry", "refusedcall", "reservation", "budgetwindow", "budgetevent", "auditentry")
READS = frozenset(
    (
        *(*API, "billing-margin"),
        *(f"admin:{name}" for name in PAGES),
        *(f"admin:governance_{name}_changelist" for name in TABLES),
    )
)
SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")
# In the browser of whoever has just written something; any process knows it again by that.
WROTE = "wrote"


def _reads() -> Counter:
    explained = "Requests that may read the replica, by what they read."
    return measures.counter("replica_reads", explained, "database")


class ReplicaMiddleware:
    """Lets a request that only looks read the replica, and asks the primary where that failed.

    With a session: but for some seconds after it was used to write. A key that may write is asked for in
    `governance.api.views`, where it is known whose it is.
    """

    def __init__(self, get_response: Handler) -> None:
        if replica.ALIAS not in settings.DATABASES:
            raise MiddlewareNotUsed
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if request.method not in SAFE and settings.SESSION_COOKIE_NAME in request.COOKIES:
            response.set_cookie(
                WROTE,
                "1",
                # A replica that may be read has all that is older than that.
                max_age=settings.REPLICA_MAX_LAG_S + 1,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        return response

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponseBase | None:
        """The answer from the replica; None: Django calls the view, which then reads the primary."""
        if not _may_be_behind(request):
            return None
        if not replica.watch.may_be_read():
            measures.count(_reads, ("primary",))
            return None
        with replica.reading() as reading:
            try:
                response: HttpResponseBase = view(request, *args, **kwargs)
                if hasattr(response, "render"):
                    # A page reads while it is written.
                    response = response.render()
            except DatabaseError:
                if not reading.is_used:
                    raise
                logger.warning("the replica could not be read, so the primary is", exc_info=True)
            else:
                if response.status_code < 500 or not reading.is_used:
                    measures.count(_reads, ("replica" if reading.is_used else "primary",))
                    return response
        # It is away; or it has taken away rows that a long look still read, and the next one begins anew.
        replica.watch.failed()
        connections[replica.ALIAS].close()
        measures.count(_reads, ("primary",))
        return None


def _may_be_behind(request: HttpRequest) -> bool:
    return (
        request.method in ("GET", "HEAD")
        and _name(request) in READS
        and WROTE not in request.COOKIES
        # A browser's reload past everything that is kept.
        and "no-cache" not in request.headers.get("Cache-Control", "")
    )


def _name(request: HttpRequest) -> str:
    """Of the path. Under /api/ that with a slash at its end has none, and is the same."""
    match = request.resolver_match
    if match is None or match.url_name is None:
        try:
            match = resolve(request.path_info.removesuffix("/"))
        except Resolver404:
            # As of the root's, which leads on to the console.
            return ""
    return match.view_name
