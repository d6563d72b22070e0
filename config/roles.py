"""What the console's named roles may do: Django's groups and their permissions, put right after every migration."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.db.models import Q

from governance.staff import StaffRole

# Everybody of the platform reads these; users, groups and sign-ins are the owners'.
READ_BY_ALL = ("governance", "llm", "billing")
VERBS = ("add", "change", "delete")
# What a tenant's own staff sees: the models whose pages know which rows are one tenant's (`tenant_path`).
OF_A_TENANT = (
    "tenant",
    "agent",
    "apikey",
    "anomaly",
    "budget",
    "budgetwindow",
    "budgetevent",
    "allowance",
    "ratelimit",
    "emergencystop",
    "spendentry",
    "spendrollup",
    "reservation",
    "pendingreport",
    "refusedcall",
)
_READ = Q(content_type__app_label__in=READ_BY_ALL, codename__startswith="view_")


def _writes(*apps_: str) -> Q:
    found = Q()
    for verb in VERBS:
        found |= Q(content_type__app_label__in=apps_, codename__startswith=f"{verb}_")
    return found


PERMISSIONS: dict[StaffRole, Q] = {
    StaffRole.OWNER: Q(),
    StaffRole.OPERATOR: _READ | _writes("governance", "llm"),
    StaffRole.BILLING: _READ | _writes("billing"),
    StaffRole.VIEWER: _READ,
    StaffRole.TENANT_STAFF: Q(
        content_type__app_label="governance", codename__in=[f"view_{model}" for model in OF_A_TENANT]
    ),
}


def put_right(using: str = "default", **kwargs: Any) -> None:
    """Makes the groups of the roles and gives each its permissions and no others. Runs after `migrate`."""
    for app in apps.get_app_configs():
        # Each app's come after its own migrations, in an order that is not ours.
        create_permissions(app, verbosity=0, using=using)
    for role, allowed in PERMISSIONS.items():
        group, _ = Group.objects.using(using).get_or_create(name=role.value)
        group.permissions.set(Permission.objects.using(using).filter(allowed))
