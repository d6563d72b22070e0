"""`manage.py backup`"""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connection

from config.backups import copies, postgres
from governance.ledger import clock
from governance.management.terminal import TerminalCommand
from governance.upkeep.reconcile import silence


class Command(TerminalCommand):
    help = (
        "Copy the whole database into a new folder, as of one moment and while the product runs: SQLite's by VACUUM "
        "INTO, PostgreSQL's by pg_dump. The folder's manifest.json names what only the SECRET_KEY in force can read. "
        "That key is not in the backup: keep it elsewhere."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", type=Path, help="where the new folder, named after the time, is made")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be copied, and by what")
        parser.add_argument("--json", action="store_true", help="print {folder, bytes, sealed, dry_run}")

    def handle(self, *, folder: Path, dry_run: bool, **options: Any) -> None:
        now = clock.now()
        folder = folder.expanduser().absolute()
        silent = options["json"] or options["verbosity"] == 0
        try:
            if dry_run:
                place, size = folder / copies.NAMED.format(now), 0
                if connection.vendor == "postgresql":
                    postgres.tool("pg_dump", at_least=postgres.server())
            else:
                place, made = copies.back_up(folder, now=now, report=silence if silent else self.stderr.write)
                size = made.bytes
        except (copies.BackupRefused, postgres.NoTool, postgres.Failed) as error:
            raise CommandError(str(error)) from error
        names = [name for each in copies.sealed() for name in each.what]
        if options["json"]:
            answer = {"folder": str(place), "bytes": size, "sealed": names, "dry_run": dry_run}
            self.stdout.write(json.dumps(answer))
            return
        self.stdout.write(f"Would copy to {place}." if dry_run else f"Copied {size} bytes to {place}.")
        if names:
            self.stdout.write(f"Of no use without this SECRET_KEY, which is not in it: {', '.join(names)}.")
