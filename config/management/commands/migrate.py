"""`manage.py migrate`: Django's, that waits for no lock for long, and tries again."""

import time
from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError

from governance.management.terminal import AWAY, TerminalCommand

# What waits for a table holds up everybody who comes after it: governance/apps.py bounds how long.
TRIES, PAUSE_S = 20, 2.0
LOCK_NOT_AVAILABLE = "55P03"


class Command(TerminalCommand, migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        for tries_left in reversed(range(TRIES)):
            try:
                super().handle(*args, **options)
            except OperationalError as error:
                if getattr(error.__cause__, "sqlstate", "") != LOCK_NOT_AVAILABLE:
                    raise
                if not tries_left:
                    message = (
                        f"A table is still in use after {TRIES} tries. What was applied stays; run it again later."
                    )
                    raise CommandError(message, returncode=AWAY) from error
                # The migration that was under way was undone; those before it stay.
                self.stderr.write(f"A table is in use. Trying again in {PAUSE_S:.0f} s.")
                time.sleep(PAUSE_S)
            else:
                return
