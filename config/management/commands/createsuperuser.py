"""`manage.py createsuperuser`: Django's, with its row in the audit trail."""

from __future__ import annotations

import getpass
from typing import Any

from django.contrib.auth.management.commands import createsuperuser
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from governance import audit
from governance.actions import people
from governance.management.terminal import TerminalCommand


class Command(TerminalCommand, createsuperuser.Command):
    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        before = set(User.objects.values_list("pk", flat=True))
        super().handle(*args, **options)
        for user in User.objects.exclude(pk__in=before):
            audit.record(
                action="user.create",
                target=f"user {user.get_username()}",
                by=audit.Actor(f"command line ({getpass.getuser()})"),
                now=timezone.now(),
                new=people.grants_of(user).to_audit(),
            )
