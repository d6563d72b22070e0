"""`manage.py createsuperuser`: Django's, with its row in the audit trail."""

from __future__ import annotations

import getpass
from typing import Any

from django.contrib.auth.management.commands import createsuperuser
from django.contrib.auth.models import User
from django.utils import timezone

from config.management import saved_users
from governance import audit
from governance.actions import people
from governance.management.terminal import TerminalCommand


class Command(TerminalCommand, createsuperuser.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        by = audit.Actor(f"command line ({getpass.getuser()})")

        def record(user: User) -> None:
            new = people.grants_of(user).to_audit()
            audit.record(action="user.create", target=f"user {user.get_username()}", by=by, now=timezone.now(), new=new)

        with saved_users.recorded(record):
            super().handle(*args, **options)
