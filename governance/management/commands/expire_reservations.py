"""`manage.py expire_reservations`"""

import json
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from governance import ledger
from governance.management.terminal import TerminalCommand
from governance.models import Reservation


class Command(TerminalCommand):
    help = "Charge reservations whose time ran out, as estimates. Beat does this every 15 seconds."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only count them")
        parser.add_argument("--json", action="store_true", help="print {expired, due}")

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        now = timezone.now()
        if dry_run:
            count = Reservation.objects.filter(status="pending", expires_at__lte=now).count()
        else:
            count = ledger.expire_due(now=now)
        if options["json"]:
            self.stdout.write(json.dumps({"expired": 0 if dry_run else count, "due": count}))
        else:
            self.stdout.write(f"{count} reservations {'are due' if dry_run else 'expired'}.")
