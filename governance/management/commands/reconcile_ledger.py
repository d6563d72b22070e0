"""`manage.py reconcile_ledger`"""

import getpass
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from governance.audit import Actor
from governance.upkeep import reconcile
from governance.upkeep.reconcile import Drift


class Command(BaseCommand):
    help = (
        "Check the ledger's invariants and print every figure that has drifted, to the nanodollar. Nothing is repaired"
        " unless --repair is given. Exit status 1 where drift remains."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--repair",
            action="store_true",
            help="set windows and rollups to what entries and reservations say; each figure is audited",
        )
        parser.add_argument("--dry-run", action="store_true", help="only check, also with --repair; the default")
        parser.add_argument(
            "--json", action="store_true", help="print [{invariant, subject, figure, expected, actual}] of what remains"
        )

    def handle(self, *, repair: bool, dry_run: bool, **options: Any) -> None:
        report = self.stderr.write if options["verbosity"] > 1 else reconcile.silence
        now, repaired = timezone.now(), list[Drift]()
        if repair and not dry_run:
            by = Actor(f"command line ({getpass.getuser()})")
            repaired = reconcile.repair(by=by, now=now, report=report)
        drifts = reconcile.run(now=now, repaired=len(repaired), report=report)
        if options["json"]:
            self.stdout.write(json.dumps([asdict(drift) for drift in drifts]))
        else:
            self._print(repaired, drifts)
        if drifts:
            sys.exit(1)

    def _print(self, repaired: Sequence[Drift], drifts: Sequence[Drift]) -> None:
        for drift in repaired:
            self.stdout.write(f"Repaired: {drift}")
        for drift in drifts:
            self.stdout.write(str(drift))
        if not drifts:
            self.stdout.write("The ledger holds: all six invariants, no drift.")
