"""`manage.py send_test_alert`"""

from __future__ import annotations

import getpass
import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance.actions import alert_channels
from governance.alerts import environment
from governance.audit import Actor
from governance.management.terminal import TerminalCommand
from governance.models import AlertChannel


class Command(TerminalCommand):
    help = (
        "Send one test message to every channel of alerts that is switched on, ALERT_URLS included, or to one. "
        "Exits with 1 where one did not arrive, or there is none."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--channel", default="", metavar="NAME", help="this one alone")
        parser.add_argument("--dry-run", action="store_true", help="only say which channels would be tried")
        parser.add_argument("--json", action="store_true", help="print [{channel, kind, sent, error}]")

    def handle(self, *, channel: str, dry_run: bool, **options: Any) -> None:
        environment.adopt()
        rows = AlertChannel.objects.filter(enabled=True).select_related("tenant")
        found = list(rows.filter(name=channel) if channel else rows)
        if not found:
            raise CommandError(
                f"There is no channel {channel} that is switched on."
                if channel
                else "There is no channel. Set ALERT_URLS, or add one in the console: Settings, Alert channels."
            )
        tried = [self._tried(row, dry_run=dry_run) for row in found]
        failed = [] if dry_run else [one for one in tried if not one["sent"]]
        if options["json"]:
            self.stdout.write(json.dumps(tried))
        else:
            for one in tried:
                outcome = (
                    "would be tried" if dry_run else "arrived" if one["sent"] else f"did not arrive: {one['error']}"
                )
                self.stdout.write(f"{one['channel']} ({one['kind']}): {outcome}")
            if failed:
                self.stderr.write(f"{len(failed)} of {len(tried)} did not arrive.")
        if failed:
            sys.exit(1)

    def _tried(self, row: AlertChannel, *, dry_run: bool) -> dict[str, Any]:
        shown: dict[str, Any] = {"channel": row.name, "kind": row.kind, "sent": False, "error": ""}
        if dry_run:
            return shown
        by = Actor(f"command line ({getpass.getuser()})")
        delivery = alert_channels.try_out(channel=row, by=by, clock=timezone.now)
        return shown | {"sent": delivery.state == delivery.State.SENT, "error": delivery.error}
