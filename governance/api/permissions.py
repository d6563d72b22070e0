"""Which roles may use which method of a view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from governance import staff
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

# The permission that a method of a view asks people for, by Django's names. A POST is named by `permission_of`.
VERBS = {"GET": "view", "PUT": "change", "PATCH": "change", "DELETE": "delete"}
# These keys read or change the platform, so they are held to what their maker may do; others only their tenant.
HELD_TO_MAKER = frozenset({Role.OPERATOR, Role.VIEWER})


def permission_of(view: APIView, method: str) -> str:
    """What a console user needs to use a method of a view: "governance.change_budget"; "" where nobody may.

    The view's `acts_on` is the model, "governance.budget". A POST beside a GET adds one; alone it is an act on one.
    Where that is not so the view's `permissions` say it: {"POST": "governance.view_budget"}.
    """
    stated: str | None = getattr(view, "permissions", {}).get(method)
    if stated is not None:
        return stated
    app, _, model = getattr(view, "acts_on", "").partition(".")
    verb = VERBS.get(method) or ("add" if hasattr(view, "get") else "change")
    return f"{app}.{verb}_{model}" if model else ""


class HasRole(BasePermission):
    """Looks the caller's role up in the view's `roles`: {"GET": EVERYONE, "POST": OPERATORS}.

    People, and keys of the platform that people made, need the permission for the act as well.
    """

    message = "Your role does not allow this."

    def has_permission(self, request: Request, view: APIView) -> bool:
        if not isinstance(request.auth, Principal):
            return False
        method = "GET" if request.method == "HEAD" else str(request.method)
        if method == "OPTIONS" or method.lower() not in view.http_method_names or not hasattr(view, method.lower()):
            # Answered by the view itself: what it offers, or 405.
            return True
        roles = getattr(view, "roles", DEFAULT_ROLES)
        if request.auth.role not in roles.get(method, OPERATORS):
            return False
        person = _held_to(request.auth)
        if person is not None and request.auth.tenant is None and staff.access_of(person).is_bound:
            # A key of the platform, made before its maker was one tenant's staff: it would read all of them.
            return False
        return person is None or staff.may(person, permission_of(view, method))


def _held_to(by: Principal) -> Any:
    """Whose permissions bound what the caller may do; None: nobody's."""
    if by.key is None:
        return by.user
    return by.key.issued_by if by.role in HELD_TO_MAKER else None
