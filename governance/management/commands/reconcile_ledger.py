"""`manage.py reconcile_ledger`"""

import getpass
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance.audit import Actor
from governance.management import arguments
from governance.management.terminal import TerminalCommand
from governance.rules import judgement as rules
from governance.rules.judgement import Judgement, Silence, WrongPeriod
from governance.upkeep import judgement, reconcile
from governance.upkeep.reconcile import Drift

# Exit statuses, the gravest wins.
DRIFTED, SILENT, DISAGREES = 1, 3, 4
NUMBERS = frozenset({"ledger", "reported", "difference", "lines", "amount"})


class Command(TerminalCommand):
    help = (
        "Check the ledger's invariants and print every figure that has drifted, to the nanodollar. Nothing is repaired"
        " unless --repair is given. Then compare its days with what providers report, where they do, and tell what"
        " nobody can judge. Exit status 1 where drift remains, else 4 where a provider disagrees, else 3 where one that"
        " should have reported did not."
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
        parser.add_argument(
            "--judgement", action="store_true", help="with --json: print {drifts, judgement}, the drifts as ever"
        )
        parser.add_argument(
            "--from", dest="since", metavar="DAY", help="judge from this day (UTC) on; default: yesterday"
        )
        parser.add_argument("--to", dest="until", metavar="DAY", help="up to and without this day; default: tomorrow")

    def handle(self, *, repair: bool, dry_run: bool, **options: Any) -> None:
        report = self.stderr.write if options["verbosity"] > 1 else reconcile.silence
        now, repaired = timezone.now(), list[Drift]()
        days = {name: arguments.day(option, options[name]) for name, option in (("since", "from"), ("until", "to"))}
        try:
            rules.period(now=now, **days)
        except WrongPeriod as error:
            raise CommandError(f"--from, --to: {error}") from error
        if repair and not dry_run:
            by = Actor(f"command line ({getpass.getuser()})")
            repaired = reconcile.repair(by=by, now=now, report=report)
        drifts = reconcile.run(now=now, repaired=len(repaired), report=report)
        judged = judgement.run(now=now, **days)
        if options["json"]:
            found = [asdict(drift) for drift in drifts]
            both = {"drifts": found, "judgement": rules.to_api(judged)}
            self.stdout.write(json.dumps(both if options["judgement"] else found))
        else:
            self._print_judgement(judged)
            self._print(repaired, drifts)
        if status := DRIFTED if drifts else DISAGREES if judged.disagreeing else SILENT if judged.silent else 0:
            sys.exit(status)

    def _print_judgement(self, judged: Judgement) -> None:
        """Nothing where there is nothing to be said."""
        if judged.is_empty:
            return
        told = rules.to_api(judged)
        self.stdout.write(f"Judged from {told['from']} up to {told['to']}, days of UTC:")
        self._table(
            ("account", "day", "ledger", "reported", "difference", "ruling"),
            [row | {"ruling": _ruling(row)} for row in told["providers"]],
        )
        self._table(("provider", "kind", "reason", "lines", "amount"), told["unproven"])
        for account, why in told["silent"].items():
            self.stdout.write(f"{account}: {why}")
        self.stdout.write(f"${told['own_word']} of ${told['ledger']} rest on the ledger's own word.")

    def _table(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        cells = [columns, *([_shown(row[name]) for name in columns] for row in rows)]
        widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
        for line in cells if rows else ():
            self.stdout.write(
                "  ".join(
                    cell.rjust(width) if name in NUMBERS else cell.ljust(width)
                    for name, cell, width in zip(columns, line, widths, strict=True)
                ).rstrip()
            )

    def _print(self, repaired: Sequence[Drift], drifts: Sequence[Drift]) -> None:
        for drift in repaired:
            self.stdout.write(f"Repaired: {drift}")
        for drift in drifts:
            self.stdout.write(str(drift))
        if not drifts:
            self.stdout.write("The ledger holds: all seven invariants, no drift.")


def _ruling(row: Mapping[str, Any]) -> str:
    silence = row["reason"]
    return f"{row['ruling']}: {rules.SENTENCES[Silence(silence)]}" if silence else row["ruling"]


def _shown(value: Any) -> str:
    """Names come from outside: nothing of them reaches a terminal as anything but text."""
    text = "-" if value in (None, "") else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)
