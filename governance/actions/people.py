"""Console users: made, named, and given or taken roles. Every act writes its audit row in the same transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.models import Group, User
from django.db import transaction

from governance import audit, staff
from governance.models import Tenant, TenantStaff
from governance.rules.errors import FieldError, NotAllowed
from governance.staff import StaffRole

# What somebody is called: for others to know them by, and no more.
NAMES = ("username", "first_name", "last_name", "email")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What a console user was given. `tenant` is the one that the role "tenant staff" sees."""

    is_active: bool = True
    is_staff: bool = True
    is_superuser: bool = False
    roles: frozenset[StaffRole] = frozenset()
    tenant: Tenant | None = None

    def to_audit(self) -> dict[str, Any]:
        return {
            "active": self.is_active,
            "staff": self.is_staff,
            "superuser": self.is_superuser,
            "roles": sorted(self.roles),
            "tenant": self.tenant.slug if self.tenant else None,
        }


# What somebody has who is not there yet.
NOTHING = Grants(is_active=False, is_staff=False)


def grants_of(user: User) -> Grants:
    bound = TenantStaff.objects.select_related("tenant").filter(user=user).first()
    names = user.groups.filter(name__in=list(StaffRole)).values_list("name", flat=True)
    return Grants(
        is_active=user.is_active,
        is_staff=user.is_staff,
        is_superuser=user.is_superuser,
        roles=frozenset(StaffRole(name) for name in names),
        tenant=bound.tenant if bound else None,
    )


@transaction.atomic
def create(*, user: User, grants: Grants, by: audit.Actor, now: datetime) -> User:
    """Keeps a new user, who has a password already, with what they are given."""
    _check(user, NOTHING, grants, by)
    user.is_active, user.is_staff, user.is_superuser = grants.is_active, grants.is_staff, grants.is_superuser
    user.save(force_insert=True)
    _bind(user, grants)
    audit.record(action="user.create", target=_target(user), by=by, now=now, new=grants.to_audit())
    return user


@transaction.atomic
def grant(*, user: User, grants: Grants, by: audit.Actor, now: datetime) -> User:
    """Give a user exactly these roles and flags, and take the others; nothing is written where nothing differs.

    Raises NotAllowed where `by` may not give or take that, FieldError where it does not go together.
    """
    stored = User.objects.select_for_update().get(pk=user.pk)
    old = grants_of(stored)
    if old == grants:
        return user
    _check(stored, old, grants, by)
    user.is_active, user.is_staff, user.is_superuser = grants.is_active, grants.is_staff, grants.is_superuser
    user.save(update_fields=["is_active", "is_staff", "is_superuser"])
    _bind(user, grants)
    before, after = old.to_audit(), grants.to_audit()
    changed = [name for name in after if before[name] != after[name]]
    audit.record(
        action="user.grant",
        target=_target(user),
        by=by,
        now=now,
        old={name: before[name] for name in changed},
        new={name: after[name] for name in changed},
    )
    return user


@transaction.atomic
def rename(*, user: User, by: audit.Actor, now: datetime) -> User:
    """Keep what `user` is called now; where that is nothing new, nothing is written.

    The row's target is the old name, under which the acts before it stand in the audit trail.
    """
    stored = User.objects.select_for_update().get(pk=user.pk)
    changed = [name for name in NAMES if getattr(stored, name) != getattr(user, name)]
    if changed:
        user.save(update_fields=changed)
        old, new = ({name: getattr(each, name) for name in changed} for each in (stored, user))
        audit.record(action="user.rename", target=_target(stored), by=by, now=now, old=old, new=new)
    return user


def record_password(*, user: User, by: audit.Actor, now: datetime) -> None:
    """That a user has another password, of their own or somebody else's; the password itself is written nowhere."""
    audit.record(action="user.password", target=_target(user), by=by, now=now)


def check(*, user: User, grants: Grants, by: audit.Actor) -> None:
    """What `grant`, or of a new user `create`, would raise. Writes nothing."""
    _check(user, grants_of(user) if user.pk else NOTHING, grants, by)


def _check(user: User, old: Grants, new: Grants, by: audit.Actor) -> None:
    if StaffRole.TENANT_STAFF in new.roles:
        if len(new.roles) > 1 or new.is_superuser:
            raise FieldError("groups", "Tenant staff sees one tenant alone, so it goes with no other role.")
        if new.tenant is None:
            raise FieldError("tenant", "Name the tenant that this user sees.")
    elif new.tenant is not None:
        raise FieldError("tenant", "A tenant is named for the role tenant staff alone.")
    if by.user is None:
        # Whoever has the command line has the database.
        return
    if not staff.access_of(by.user).is_owner:
        raise NotAllowed("groups", "Only owners give and take roles.")
    if (old.is_superuser or new.is_superuser) and not by.user.is_superuser:
        raise NotAllowed("is_superuser", "Only superusers give and take what superusers have.")
    if by.user.pk == user.pk and not _is_owner(new):
        raise FieldError("groups", "You cannot take your own access away; another owner can.")


def _is_owner(grants: Grants) -> bool:
    return grants.is_active and grants.is_staff and (grants.is_superuser or StaffRole.OWNER in grants.roles)


def _bind(user: User, grants: Grants) -> None:
    """Groups that are no roles stay as they are."""
    user.groups.remove(*Group.objects.filter(name__in=list(StaffRole)))
    user.groups.add(*Group.objects.filter(name__in=list(grants.roles)))
    if grants.tenant is None:
        TenantStaff.objects.filter(user=user).delete()
    else:
        TenantStaff.objects.update_or_create(user=user, defaults={"tenant": grants.tenant})


def _target(user: User) -> str:
    return f"user {user.get_username()}"
