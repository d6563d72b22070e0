"""`manage.py apply`"""

import getpass
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance.audit import Actor
from governance.management import differences, policy_files
from governance.management.policy_files import PolicyRefused
from governance.management.policy_tables import UNCHANGED
from governance.management.terminal import TerminalCommand
from governance.rules.errors import FieldError

# Of a file that is wrong from beginning to end the first lines tell enough.
MOST_PROBLEMS = 20


class Command(TerminalCommand):
    help = (
        "Bring budgets, rate limits, anomaly rules, prices of tools, agents and tenants to what policy files say."
        " Everything is checked first, the difference is shown, and it is applied as a whole when it is agreed to. What"
        " the files do not name stays as it is. See docs/policies.md."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE", help="YAML; several are applied as one")
        parser.add_argument("--yes", action="store_true", help="apply it without asking")
        parser.add_argument("--reason", default="", help="kept in the audit trail; default: the files' names")
        parser.add_argument(
            "--dry-run", action="store_true", help="check everything, show the difference, keep nothing"
        )
        parser.add_argument("--json", action="store_true", help="print {changes, created, changed, unchanged, applied}")

    def handle(self, *, files: list[str], yes: bool, dry_run: bool, **options: Any) -> None:
        reason = options["reason"] or f"apply {' '.join(Path(file).name for file in files)}"[:300]
        if len(reason) > 300:
            raise CommandError("--reason: must be 300 characters at most")
        try:
            entries = policy_files.read(files)
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from error
        except PolicyRefused as error:
            raise CommandError(_told(error.problems)) from error
        try:
            changes = policy_files.plan(entries)
            differs = any(change.action != UNCHANGED for change in changes)
            if not options["json"]:
                for line in differences.lines(changes):
                    self.stdout.write(line)
            if applied := differs and not dry_run and (yes or differences.are_agreed_to(self.stdout, options["json"])):
                by = Actor(f"command line ({getpass.getuser()})")
                policy_files.apply(entries, shown=changes, by=by, now=timezone.now(), reason=reason)
        except PolicyRefused as error:
            raise CommandError(_told(error.problems)) from error
        except FieldError as error:
            raise CommandError(error.message) from error
        if options["json"]:
            self.stdout.write(json.dumps(differences.to_json(changes) | {"applied": applied, "dry_run": dry_run}))
            return
        self.stdout.write(differences.summary(changes, dry_run=dry_run))


def _told(problems: Sequence[str]) -> str:
    left = len(problems) - MOST_PROBLEMS
    shown = [*problems[:MOST_PROBLEMS], *([f"and {left:,} more"] if left > 0 else [])]
    return "\n".join(["Nothing was applied:", *(f"  {problem}" for problem in shown)])
