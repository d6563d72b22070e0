"""Views whose POST is a call that may be refused: each refusal is noted, as the gateway notes its own.

`note_unread` is for what is refused before a view sees it.
"""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import ObjectDoesNotExist, RequestDataTooBig
from django.http import UnreadablePostError
from django.urls import Resolver404, resolve
from django.utils import timezone
from rest_framework.exceptions import APIException
from rest_framework.request import Request

from governance.actions import refusal_log
from governance.actions.refusal_log import NotedRefusal
from governance.api import authentication
from governance.api.authentication import Principal
from governance.api.callers import caller_of
from governance.api.permissions import HasRole
from governance.api.views import ControlView
from governance.models import Tenant
from governance.rules.calls import Caller
from governance.rules.decision import Decision
from governance.rules.errors import FieldError
from governance.rules.names import printable

log = logging.getLogger(__name__)

# Nobody who is known; nothing there, or nothing of the kind; what still runs or is done.
NO_REFUSALS = frozenset({401, 404, 405, 406, 409})


class RefusingView(ControlView):
    """`decision` is set where the budgets refused; `is_noted` where the gateway has noted it already."""

    refuses = {"POST": (402, 429)}
    decision: Decision | None = None
    is_noted = False

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        status = response.status_code
        if request.method == "POST" and 400 <= status < 500 and status not in NO_REFUSALS and not self.is_noted:
            try:
                self._note(request, response)
            except Exception:
                # The answer is due, whatever is wrong with the request it is for.
                log.exception("a refusal could not be noted")
        return response

    def asker(self, by: Principal, asked: dict[str, Any]) -> Caller:
        """Who calls; raises where the request says something that cannot be."""
        return caller_of(by, asked)

    def _caller(self, request: Request) -> Caller | None:
        """As far as it is known; None for a call that nobody makes: for no tenant, or of who may make none for it."""
        by = request.auth
        # Whoever may only read would else write into the lists of any tenant that they name.
        if not isinstance(by, Principal) or not HasRole().has_permission(request, self):
            return None
        said = _said(request)
        names = {name: said[name] for name in NAMED if isinstance(said.get(name), str)}
        try:
            return self.asker(by, names)
        except (APIException, FieldError, ObjectDoesNotExist):
            tenant = by.tenant or Tenant.objects.filter(slug=printable(names.get("tenant", ""))).first()
        if tenant is None:
            return None
        key = by.key if by.tenant else None
        return Caller(
            tenant.pk,
            tenant.slug,
            agent=by.agent.slug if by.agent else "",
            key_id=key.pk if key else None,
            key_prefix=key.scope_key if key else "",
        )

    def _note(self, request: Request, response: Any) -> None:
        # What is replayed from under an Idempotency-Key was noted the first time, and has no data.
        error = getattr(response, "data", {}).get("error")
        if not error or (caller := self._caller(request)) is None:
            return
        said = _said(request)
        model, tools = said.get("model"), said.get("tools")
        refusal_log.log.note(
            NotedRefusal(
                request_id=error["request_id"] or "",
                caller=caller,
                model=model if isinstance(model, str) else "",
                tools=[tool for tool in tools if isinstance(tool, str)] if isinstance(tools, list) else (),
                reason=self.decision.reason.value if self.decision else error["code"],
                status=response.status_code,
                at=self.now,
                sentence=error["message"],
                param=error["param"] or "",
                decision=self.decision,
            )
        )


NAMED = ("tenant", "agent", "user", "session", "task")


def _said(request: Request) -> dict[str, Any]:
    """The body, where it could be read."""
    try:
        return request.data if isinstance(request.data, dict) else {}
    except (APIException, RequestDataTooBig, UnreadablePostError):
        return {}


def note_unread(path: str, authorization: str, *, status: int, error: dict[str, Any]) -> None:
    """Note a POST whose body is refused before its view: packed, written or sent in a way that is not read.

    `error` is what is answered. Asks the database whose key it is; nothing is noted of a call that nobody makes. Never
    raises: the answer is due.
    """
    try:
        if not _takes_calls(path):
            return
        key = authentication.key_of(authorization)
        caller = refusal_log.bearer(key) if key else None
        if caller is None:
            return
        refusal_log.log.note(
            NotedRefusal(
                request_id=error["request_id"] or "",
                caller=caller,
                model="",
                tools=(),
                reason=error["code"],
                status=status,
                at=timezone.now(),
                sentence=error["message"],
                param=error["param"] or "",
            )
        )
    except Exception:
        log.exception("a refusal could not be noted")


def _takes_calls(path: str) -> bool:
    try:
        view = resolve(path).func
    except Resolver404:
        return False
    return issubclass(getattr(view, "cls", object), RefusingView)
