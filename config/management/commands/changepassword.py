"""`manage.py changepassword`: Django's, with its row in the audit trail."""

from __future__ import annotations

import getpass
from typing import Any

from django.contrib.auth.management.commands import changepassword
from django.utils import timezone

from config.management import saved_users
from governance import audit
from governance.actions import people
from governance.management.terminal import TerminalCommand


class Command(TerminalCommand, changepassword.Command):
    def handle(self, *args: Any, **options: Any) -> str | None:
        by = audit.Actor(f"command line ({getpass.getuser()})")
        with saved_users.recorded(lambda user: people.record_password(user=user, by=by, now=timezone.now())):
            return super().handle(*args, **options)
