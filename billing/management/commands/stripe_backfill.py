"""`manage.py stripe_backfill`"""

import json
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.inbox import catch_up, store
from billing.management import arguments
from billing.stripe_api import client
from governance.management.terminal import TerminalCommand


class Command(TerminalCommand):
    help = (
        "Fetch the events that never came as a webhook, and handle them. Stripe lists events of 30 days; beat does this"
        " every hour. Exit status 1 where an event could not be handled (it is tried again)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--since",
            type=arguments.moment,
            metavar="WHEN",
            help=f"{arguments.WHEN}; default: since when nobody has looked",
        )
        parser.add_argument("--dry-run", action="store_true", help="only name the events that are missing")
        parser.add_argument(
            "--json", action="store_true", help="print {since, seen, missing, handled, events, dry_run}"
        )

    def handle(self, *, since: datetime | None, dry_run: bool, **options: Any) -> None:
        if not client.is_configured():
            raise CommandError("STRIPE_SECRET_KEY is not set.")
        now = timezone.now()
        report = catch_up.ignore if options["json"] or options["verbosity"] == 0 else self.stderr.write
        since = since or catch_up.backfill_since(now=now)
        try:
            done = catch_up.backfill(since=since, now=now, dry_run=dry_run, report=report)
        except catch_up.BadRange as error:
            raise CommandError(f"--since: {error}") from error
        except client.StripeError as error:
            raise CommandError(f"Stripe's events could not be listed: {error}") from error
        handled = 0 if dry_run else store.handle_all(done.event_ids, now=now, report=report)
        if options["json"]:
            printed = {"since": since.isoformat(), **done.figures, "handled": handled, "events": done.event_ids}
            self.stdout.write(json.dumps(printed | {"dry_run": dry_run}))
        else:
            for line in done.lines if dry_run else ():
                self.stdout.write(f"Missing: {line}")
            self.stdout.write(
                f"{done.figures['seen']} events since {since:%Y-%m-%d %H:%M} UTC, {done.figures['missing']} of them"
                f" were missing, {handled} handled."
            )
        if not dry_run and handled < len(done.event_ids):
            raise SystemExit(1)
