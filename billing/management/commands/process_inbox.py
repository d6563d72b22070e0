"""`manage.py process_inbox`"""

import json
from typing import Any

from django.core.management.base import CommandParser
from django.db.models import Q
from django.utils import timezone

from billing.accounts import guests, sync
from billing.inbox import store
from billing.models import StripeEvent
from governance.management.terminal import TerminalCommand


class Command(TerminalCommand):
    help = "Handle the Stripe events that wait, and sync the customers whose period has ended. Exits 1 if events fail."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--all", action="store_true", help="also events whose next try is not due yet")
        parser.add_argument("--limit", type=int, default=500, help="at most so many events (default: 500)")
        parser.add_argument("--dry-run", action="store_true", help="only say how many wait")
        parser.add_argument("--json", action="store_true", help="print {handled, waiting, put_aside, synced}")

    def handle(self, *, limit: int, dry_run: bool, **options: Any) -> None:
        now = timezone.now()
        handled = synced = failing = 0
        if not dry_run:
            tried = StripeEvent.objects.waiting().filter(attempts__gt=0)
            if options["all"]:
                StripeEvent.objects.waiting().update(next_attempt_at=now)
            handled = store.sweep(now=now, limit=limit)
            synced = sync.due(now=now)
            guests.retry(now=now)
            failing = tried.filter(Q(next_attempt_at__gt=now)).count()
        waiting = StripeEvent.objects.waiting().count()
        aside = StripeEvent.objects.exclude(quarantine_reason="").count()
        figures = {"handled": handled, "waiting": waiting, "put_aside": aside, "synced": synced}
        if options["json"]:
            self.stdout.write(json.dumps(figures | {"dry_run": dry_run}))
        else:
            self.stdout.write(
                f"{handled} events handled, {waiting} waiting, {aside} put aside; {synced} customers synced."
            )
        if failing:
            raise SystemExit(1)
