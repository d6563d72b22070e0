"""`manage.py purge_spend`"""

import getpass
import json
import sys
from dataclasses import asdict
from datetime import timedelta
from typing import Any, NoReturn

from django.core.management.base import CommandError, CommandParser

from governance.audit import Actor
from governance.ledger import clock
from governance.management.terminal import TerminalCommand
from governance.rules import money
from governance.rules.errors import FieldError
from governance.upkeep import retention
from governance.upkeep.reconcile import silence


class Command(TerminalCommand):
    help = (
        "Delete ledger entries and resolved reservations of long ago, in batches; the hourly sums stay. Each hour is"
        " proved first: exit status 1, and the drift printed, where a rollup is not the sum of its entries. May be"
        " ended at any time and started again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--older-than-days", type=int, required=True, metavar="N", help="1 or more")
        parser.add_argument("--batch", type=int, default=5000, metavar="N", help="calls a transaction; default: 5000")
        parser.add_argument("--dry-run", action="store_true", help="prove and count, and delete nothing")
        parser.add_argument(
            "--json", action="store_true", help="print {before, entries, reservations, cost, kept, drifts, dry_run}"
        )

    def handle(self, *, older_than_days: int, batch: int, dry_run: bool, **options: Any) -> None:
        # By the database's clock, which calls are dated by.
        now = clock.now()
        if not 1 <= older_than_days <= 36_500:
            raise CommandError("--older-than-days: must be 1 or more: younger calls may still be corrected or repeated")
        before = now - timedelta(days=older_than_days)
        report = silence if options["json"] or options["verbosity"] == 0 else self.stderr.write
        try:
            if dry_run:
                done = retention.look(before=before, now=now, batch=batch, report=report)
            else:
                by = Actor(f"command line ({getpass.getuser()})")
                done = retention.purge(before=before, now=now, by=by, batch=batch, report=report)
        except FieldError as error:
            raise CommandError(f"--{error.field}: {error.message}") from error
        except retention.Unproven as error:
            self._refuse(error, as_json=options["json"])
        if options["json"]:
            cost = money.format_dollars(done.cost_nanos)
            answer = {"before": done.before.isoformat(), "entries": done.entries, "reservations": done.reservations}
            answer |= {"cost": cost, "kept": done.kept, "drifts": [], "dry_run": dry_run}
            self.stdout.write(json.dumps(answer))
        else:
            self._say(done, dry_run=dry_run)

    def _refuse(self, error: retention.Unproven, *, as_json: bool) -> NoReturn:
        if as_json:
            self.stdout.write(json.dumps({"drifts": [asdict(drift) for drift in error.drifts]}))
        else:
            for drift in error.drifts:
                self.stdout.write(str(drift))
            self.stdout.write("Nothing of these hours was deleted: their rollups are not the sums of their entries.")
        sys.exit(1)

    def _say(self, done: retention.Purged, *, dry_run: bool) -> None:
        verb = "Would delete" if dry_run else "Deleted"
        self.stdout.write(
            f"{verb} {done.entries} entries (${money.format_dollars(done.cost_nanos)}) and {done.reservations}"
            f" reservations from before {done.before:%Y-%m-%d %H:%M} UTC."
        )
        if done.kept:
            self.stdout.write(f"{done.kept} old entries stay, because a younger correction belongs to them.")
