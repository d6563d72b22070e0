"""`manage.py restore`"""

import getpass
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from config.backups import copies
from config.backups.copies import Restored
from governance.audit import Actor
from governance.management.terminal import AWAY, TerminalCommand
from governance.upkeep.reconcile import Drift, silence


class Command(TerminalCommand):
    help = (
        "Put a backup back: its folder and its SECRET_KEY are proved before anything is done, then all of it counts or "
        "nothing. Usage that is not known to have reached Stripe is held until Stripe's sums tell; sessions end; the "
        "ledger is checked. Stop web, worker and beat first. Exit status 1 where it was refused, or drift was found; 3 "
        "where it was put back, or may have been, and more is to be done, which it says."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", type=Path, nargs="?", help="a folder that `backup` made")
        parser.add_argument("--replace", action="store_true", help="put it in the place of what the database has")
        parser.add_argument(
            "--without-secrets", action="store_true", help="also under another SECRET_KEY: enter its secrets again"
        )
        parser.add_argument(
            "--recovered",
            metavar="TIME",
            help="the database was put back otherwise, to this time: see to the rest alone",
        )
        parser.add_argument("--dry-run", action="store_true", help="only prove that it could be put back")
        parser.add_argument("--json", action="store_true", help="print {made_at, held, kept, drifts, dry_run}")

    def handle(self, *, folder: Path | None, recovered: str | None, dry_run: bool, **options: Any) -> None:
        # Of two machines' clocks the database's is not asked: it may not be there yet.
        now, by = timezone.now(), Actor(f"command line ({getpass.getuser()})")
        report = silence if options["json"] or options["verbosity"] == 0 else self.stderr.write
        if (folder is None) == (recovered is None):
            raise CommandError("Name the folder of a backup, or give --recovered and no folder.", returncode=2)
        try:
            if folder is None:
                self._follow(_moment(recovered or "", now), by=by, now=now, dry_run=dry_run, options=options)
                return
            place = folder.expanduser().absolute()
            found = copies.look(place, replace=options["replace"], without_secrets=options["without_secrets"])
            if dry_run:
                self._say(Restored(found, "", 0, []), dry_run=True, as_json=options["json"])
                return
            done = copies.put_back(place, found, by=by, now=now, report=report)
        except copies.BackupRefused as error:
            raise CommandError(str(error)) from error
        except copies.Unfinished as error:
            raise CommandError(str(error), returncode=AWAY) from error
        self._say(done, dry_run=False, as_json=options["json"])

    def _follow(self, made_at: datetime, *, by: Actor, now: datetime, dry_run: bool, options: dict[str, Any]) -> None:
        held, drifts = (0, list[Drift]()) if dry_run else copies.follow(made_at=made_at, by=by, now=now, report=silence)
        self._print(made_at, held, "", drifts, dry_run=dry_run, as_json=options["json"])

    def _say(self, done: Restored, *, dry_run: bool, as_json: bool) -> None:
        self._print(done.manifest.made_at, done.held, done.kept, done.drifts, dry_run=dry_run, as_json=as_json)

    def _print(
        self, made_at: datetime, held: int, kept: str, drifts: list[Drift], *, dry_run: bool, as_json: bool
    ) -> None:
        if as_json:
            answer = {
                "made_at": made_at.isoformat(),
                "held": held,
                "kept": kept,
                "drifts": [str(one) for one in drifts],
            }
            self.stdout.write(json.dumps(answer | {"dry_run": dry_run}))
        elif dry_run:
            self.stdout.write(f"Nothing stands in the way of the database of {made_at:%Y-%m-%d %H:%M:%S} UTC.")
        else:
            self._tell(made_at, held, kept, drifts)
        if drifts:
            sys.exit(1)

    def _tell(self, made_at: datetime, held: int, kept: str, drifts: list[Drift]) -> None:
        self.stdout.write(f"The database is that of {made_at:%Y-%m-%d %H:%M:%S} UTC.")
        if kept:
            self.stdout.write(f"What it was before is kept in {kept}; delete it when nobody needs it.")
        if held:
            self.stdout.write(f"{held} reports of usage are held until Stripe's sums tell whether they arrived.")
        for drift in drifts:
            self.stdout.write(str(drift))
        self.stdout.write(
            "Before you start the product again: stops, limits, roles and revoked keys are as they were then. "
            "After it: stripe_backfill, stripe_reconcile, and reconcile_ledger, which reads providers' own reports."
        )


def _moment(text: str, now: datetime) -> datetime:
    try:
        found = parse_datetime(text)
    except ValueError:
        found = None
    if found is None or (found := found if found.tzinfo else found.replace(tzinfo=UTC)) > now:
        raise CommandError("--recovered: a time that is past, such as 2026-11-28T12:00:00Z.", returncode=2)
    return found
