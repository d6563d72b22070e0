"""`manage.py stripe_reconcile`"""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from billing.inbox import catch_up
from billing.stripe_api import client
from governance.management.terminal import TerminalCommand


class Command(TerminalCommand):
    help = (
        "Read every customer and subscription anew from Stripe, write what follows, and print what differed. A second"
        " run finds nothing. Without STRIPE_SECRET_KEY what was said last is computed anew. Beat does this each night."
        " Exit status 1 where a customer could not be read."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="print what differs, and write nothing")
        parser.add_argument(
            "--json", action="store_true", help="print {customers, differed, failed, differences, dry_run}"
        )

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        report = catch_up.ignore if options["json"] or options["verbosity"] == 0 else self.stderr.write
        try:
            done = catch_up.reconcile(now=timezone.now(), dry_run=dry_run, report=report)
        except client.StripeError as error:
            raise CommandError(f"Stripe's subscriptions could not be listed: {error}") from error
        figures = done.figures
        if options["json"]:
            self.stdout.write(json.dumps(figures | {"differences": done.lines, "dry_run": dry_run}))
        else:
            for line in done.lines:
                self.stdout.write(line)
            verb = "would be" if dry_run else "were"
            self.stdout.write(
                f"{figures['customers']} customers read, {figures['differed']} {verb} changed,"
                f" {figures['failed']} could not be read."
            )
        if figures["failed"]:
            raise SystemExit(1)
