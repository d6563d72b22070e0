"""Which roles may use which method of a view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from governance.api.authentication import Principal
from governance.models.tenancy import Role

if TYPE_CHECKING:
    # The view module reads the settings that name this one.
    from rest_framework.views import APIView

OPERATORS = frozenset({Role.OPERATOR})
# Those who read everything, and those who read their own.
READERS = OPERATORS | {Role.VIEWER}
CALLERS = OPERATORS | {Role.AGENT, Role.TENANT}
EVERYONE = frozenset(Role)

# A view that says nothing is read by operators and viewers and changed by operators.
DEFAULT_ROLES: Mapping[str, frozenset[Role]] = {"GET": READERS}


class HasRole(BasePermission):
    """Looks the caller's role up in the view's `roles`: {"GET": EVERYONE, "POST": OPERATORS}."""

    message = "Your role does not allow this."

    def has_permission(self, request: Request, view: APIView) -> bool:
        if not isinstance(request.auth, Principal):
            return False
        method = "GET" if request.method == "HEAD" else str(request.method)
        if method == "OPTIONS" or method.lower() not in view.http_method_names or not hasattr(view, method.lower()):
            # Answered by the view itself: what it offers, or 405.
            return True
        roles = getattr(view, "roles", DEFAULT_ROLES)
        return request.auth.role in roles.get(method, OPERATORS)
