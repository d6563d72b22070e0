"""`manage.py reconcile_ledger`"""

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from governance import reconcile


class Command(BaseCommand):
    help = "Check the ledger's invariants and print every figure that has drifted. Exit status 1 where one has."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print [{invariant, subject, expected, actual}]")

    def handle(self, **options: Any) -> None:
        drifts = reconcile.check()
        if options["json"]:
            self.stdout.write(json.dumps([asdict(drift) for drift in drifts]))
        elif drifts:
            for drift in drifts:
                self.stdout.write(str(drift))
        else:
            self.stdout.write("The ledger holds: all six invariants, no drift.")
        if drifts:
            sys.exit(1)
