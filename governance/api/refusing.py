"""Views whose POST is a call that may be refused: each refusal is noted, as the gateway notes its own.

`note_unread` is for what is refused before a view sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import UnreadablePostError
from django.urls import Resolver404, resolve
from django.utils import timezone
from rest_framework.exceptions import APIException
from rest_framework.request import Request

from governance.actions import refusal_log
from governance.actions.refusal_log import NotedRefusal
from governance.api import authentication, callers
from governance.api.authentication import Principal
from governance.api.permissions import HasRole
from governance.api.views import ControlView
from governance.rules.calls import Caller
from governance.rules.decision import Decision

log = logging.getLogger(__name__)

# Nobody who is known; nothing there, or nothing of the kind; what still runs or is done.
NO_REFUSALS = frozenset({401, 404, 405, 406, 409})


class RefusingView(ControlView):
    """`decision` is set where the budgets refused, `more_nanos` where they refused that a hold grows by so much;
    `is_noted` where the gateway has noted it already.
    """

    refuses = {"POST": (402, 429)}
    decision: Decision | None = None
    more_nanos: int | None = None
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

    def asker(self, by: Principal, said: Mapping[str, Any]) -> tuple[Caller | None, str]:
        """Who calls, and which model, as far as it is known; no one for a call that is for no tenant."""
        return callers.known_caller(by, said), said.get("model") or said.get("tool", "")

    def _note(self, request: Request, response: Any) -> None:
        # What is replayed from under an Idempotency-Key was noted the first time, and has no data.
        error = getattr(response, "data", {}).get("error")
        by = request.auth
        # Whoever may only read would else write into the lists of any tenant that they name.
        if not error or not isinstance(by, Principal) or not HasRole().has_permission(request, self):
            return
        said = callers.said(self.takes, _body(request))
        caller, model = self.asker(by, said)
        if caller is None:
            return
        refusal_log.log.note(
            NotedRefusal(
                request_id=error["request_id"] or "",
                caller=caller,
                model=model,
                tools=[said["tool"]] if "tool" in said else said.get("tools", ()),
                reason=self.decision.reason.value if self.decision else error["code"],
                status=response.status_code,
                at=self.now,
                sentence=error["message"],
                param=error["param"] or "",
                decision=self.decision,
                more_nanos=self.more_nanos,
            )
        )


def _body(request: Request) -> Any:
    """The body, where it could be read."""
    try:
        return request.data
    except (APIException, RequestDataTooBig, UnreadablePostError):
        return None


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
