"""Who asks: a bearer key, or a signed-in operator of the console. `request.auth` is the Principal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from governance import staff
from governance.actions import refusal_log, tenancy
from governance.actions.refusal_log import NotedRefusal
from governance.audit import Actor
from governance.models import Agent, ApiKey, Tenant
from governance.models.tenancy import Role, digest_of
from governance.queries.spend import Reader
from governance.rules.decision import Action, Decision, Reason
from governance.rules.visibility import STAFF, Audience


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller of the control plane."""

    role: str
    name: str
    tenant: Tenant | None = None
    agent: Agent | None = None
    key: ApiKey | None = None
    user: Any = None

    @property
    def actor(self) -> Actor:
        return Actor(name=self.name, user=self.user, key=self.key)

    @property
    def reader(self) -> Reader:
        """What it may read: an agent its own, a tenant its tenant's, operators and viewers everything."""
        if self.tenant is None:
            return Reader()
        agent = self.agent.slug if self.agent else ""
        return Reader(tenant=self.tenant, agent=agent, key_prefix=self.key.scope_key if self.key else "")

    @property
    def audience(self) -> Audience:
        """What it is told of budgets. `show_amounts` is about what agents learn: it is for keys, and not for people."""
        if self.tenant is None:
            return STAFF
        return Audience(is_tenants=True, show_amounts=self.key is None or self.tenant.show_amounts)


def principal(request: Request) -> Principal:
    """The caller of a view that lets nobody in without one."""
    return cast(Principal, request.auth)


def key_of(authorization: str) -> ApiKey | None:
    """The key that a header bears, if it works now."""
    try:
        key = _find(authorization)
    except ApiKey.DoesNotExist:
        return None
    return key if key is not None and tenancy.works(key) else None


def _find(authorization: str) -> ApiKey | None:
    """The key that a header bears; None where it bears none. Raises ApiKey.DoesNotExist."""
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    try:
        return ApiKey.objects.select_related("tenant", "agent__tenant", "issued_by").get(digest=digest_of(text.strip()))
    except UnicodeEncodeError:
        raise ApiKey.DoesNotExist from None


class KeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer sg_...`"""

    def authenticate(self, request: Request) -> tuple[None, Principal] | None:
        try:
            key = _find(request.headers.get("Authorization", ""))
        except ApiKey.DoesNotExist:
            raise AuthenticationFailed("This API key is not known.", code="invalid_api_key") from None
        if key is None:
            return None
        if not tenancy.works(key):
            _note_ended(key, request, timezone.now())
            raise AuthenticationFailed("This API key is expired or revoked.", code="invalid_api_key")
        return None, Principal(role=key.role, name=f"key {key.prefix}", tenant=key.tenant, agent=key.agent, key=key)

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="Spend Governor"'


def _note_ended(key: ApiKey, request: Request, now: datetime) -> None:
    """Whoever still uses an ended key of a tenant is seen where its refused calls are."""
    caller = refusal_log.bearer(key)
    if caller is not None:
        decision = Decision(Action.HARD_STOP, Reason.KEY_INVALID)
        request_id = getattr(request._request, "request_id", "")
        refusal_log.log.note(
            NotedRefusal(request_id, caller, "", (), decision.reason.value, 401, now, decision=decision)
        )


class OperatorSession(SessionAuthentication):
    """A staff user signed in to the console; writes need the CSRF token.

    The role says whose keys' paths are open: those of operators, or of whoever is bound to a tenant those of its
    tenant. What of these the user may do is asked for each act (permissions.HasRole).
    """

    def authenticate(self, request: Request) -> tuple[Any, Principal] | None:
        user = getattr(request._request, "user", None)
        if not (user and user.is_active and user.is_staff):
            return None
        self.enforce_csrf(request)
        access = staff.access_of(user)
        role = Role.TENANT if access.is_bound else Role.OPERATOR
        return user, Principal(role=role, name=user.get_username(), tenant=access.tenant, user=user)
