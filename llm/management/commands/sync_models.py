"""`manage.py sync_models`"""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance.management.terminal import TerminalCommand
from llm.catalogue import sync


class Command(TerminalCommand):
    help = (
        "Take Mistral's list of models into the catalogue: aliases, deprecations, context lengths; new models as"
        " previews, which are not served. Beat does it every night. Exit status 1 where the list could not be had."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
        parser.add_argument("--json", action="store_true", help="print {listed, changes, alerts, dry_run}")

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        if not sync.can_ask():
            raise CommandError("MISTRAL_API_KEY: is not set, so there is no list to ask for")
        try:
            outcome = sync.run(now=timezone.now(), dry_run=dry_run)
        except sync.SyncFailed as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            report = {
                "listed": outcome.listed,
                "changes": outcome.changes,
                "alerts": outcome.alerts,
                "dry_run": dry_run,
            }
            self.stdout.write(json.dumps(report))
            return
        for change in outcome.changes:
            self.stdout.write(change)
        would = "would be " if dry_run else ""
        self.stdout.write(
            f"{outcome.listed} models listed, {len(outcome.changes)} changes {would}made, {outcome.alerts} alerts open."
        )
