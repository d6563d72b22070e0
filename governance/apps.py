from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate

# What a connection has while it migrates. Whoever waits for a table's lock holds up all who come after.
MIGRATING = {"idle_in_transaction_session_timeout": "0", "lock_timeout": "3s"}


class GovernanceConfig(AppConfig):
    name = "governance"
    verbose_name = "Spend governance"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        pre_migrate.connect(take_the_time, sender=self)
        post_migrate.connect(keep_deadlines, sender=self)


def take_the_time(using: str, **_: Any) -> None:
    """Migrations work things out between their statements: who is ended for that begins anew, and is ended again.

    They wait for a lock for three seconds, and are then undone; `manage.py migrate` tries again.
    """
    _set(using, *(f"SET {name} = '{value}'" for name, value in MIGRATING.items()))


def keep_deadlines(using: str, **_: Any) -> None:
    """The connection may go on to other work."""
    _set(using, *(f"RESET {name}" for name in MIGRATING))


def _set(using: str, *statements: str) -> None:
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
