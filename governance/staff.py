"""Who signs in to the console: which roles they have, what these let them do, and which keys they may make.

What a role may do is Django's permissions of the group of its name; config/roles.py fills these groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.core.exceptions import ObjectDoesNotExist

from governance.models import Tenant
from governance.models.tenancy import Role


class StaffRole(StrEnum):
    """The groups that mean something."""

    OWNER = "owner"
    OPERATOR = "operator"
    BILLING = "billing"
    VIEWER = "viewer"
    TENANT_STAFF = "tenant staff"


# What keys a console user of a role may make. Whoever has none of these makes no key, whatever else was allowed.
KEY_ROLES: dict[StaffRole, frozenset[Role]] = {
    StaffRole.OWNER: frozenset(Role),
    StaffRole.OPERATOR: frozenset(Role),
    StaffRole.BILLING: frozenset({Role.VIEWER}),
    StaffRole.VIEWER: frozenset({Role.VIEWER}),
    StaffRole.TENANT_STAFF: frozenset({Role.TENANT, Role.AGENT}),
}


@dataclass(frozen=True, slots=True)
class StaffAccess:
    """A console user's roles. `is_bound`: sees one tenant alone, `tenant`; none at all while that is not named."""

    roles: frozenset[StaffRole] = frozenset()
    tenant: Tenant | None = None

    @property
    def is_owner(self) -> bool:
        return StaffRole.OWNER in self.roles

    @property
    def is_bound(self) -> bool:
        return StaffRole.TENANT_STAFF in self.roles

    @property
    def key_roles(self) -> frozenset[Role]:
        if self.is_bound:
            return KEY_ROLES[StaffRole.TENANT_STAFF] if self.tenant else frozenset()
        return frozenset().union(*(KEY_ROLES[role] for role in self.roles))


NO_ACCESS = StaffAccess()


def access_of(user: Any) -> StaffAccess:
    """Read once for each user object, which lives as long as its request."""
    if not (user.is_active and user.is_staff):
        return NO_ACCESS
    found: StaffAccess | None = getattr(user, "_staff_access", None)
    if found is None:
        found = user._staff_access = _read(user)
    return found


def _read(user: Any) -> StaffAccess:
    if user.is_superuser:
        return StaffAccess(frozenset({StaffRole.OWNER}))
    names = user.groups.filter(name__in=list(StaffRole)).values_list("name", flat=True)
    roles = frozenset(StaffRole(name) for name in names)
    if StaffRole.TENANT_STAFF not in roles:
        return StaffAccess(roles)
    try:
        return StaffAccess(roles, user.tenant_staff.tenant)
    except ObjectDoesNotExist:
        return StaffAccess(roles)


def may(user: Any, permission: str) -> bool:
    """Whether a console user may do an act, named by its permission: "governance.change_budget".

    Whoever is bound to a tenant reads, and reads nothing while no tenant is named.
    """
    access = access_of(user)
    if access.is_bound and (access.tenant is None or not permission.partition(".")[2].startswith("view_")):
        return False
    return bool(permission and user.is_active and user.is_staff and (access.is_owner or user.has_perm(permission)))
