"""`manage.py apply`"""

import getpass
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance.audit import Actor
from governance.management import policy_files
from governance.management.policy_files import PolicyRefused
from governance.management.policy_tables import CHANGED, CREATED, UNCHANGED, PolicyChange
from governance.management.terminal import TerminalCommand
from governance.rules import policy
from governance.rules.errors import FieldError

MARKS = {CREATED: "+", CHANGED: "~", UNCHANGED: "="}
# Of a file that is wrong from beginning to end the first lines tell enough.
MOST_PROBLEMS = 20


class Command(TerminalCommand):
    help = (
        "Bring budgets, rate limits, anomaly rules, agents and tenants to what policy files say. Everything is checked"
        " first, the difference is shown, and it is applied as a whole when it is agreed to. What the files do not name"
        " stays as it is. See docs/policies.md."
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
                self._show(changes)
            if applied := differs and not dry_run and (yes or self._is_agreed(options["json"])):
                by = Actor(f"command line ({getpass.getuser()})")
                policy_files.apply(entries, shown=changes, by=by, now=timezone.now(), reason=reason)
        except PolicyRefused as error:
            raise CommandError(_told(error.problems)) from error
        except FieldError as error:
            raise CommandError(error.message) from error
        counts = Counter(change.action for change in changes)
        if options["json"]:
            self.stdout.write(json.dumps(_to_json(changes) | {"applied": applied, "dry_run": dry_run}))
            return
        would = "Would be applied" if dry_run else "Applied"
        told = ", ".join(f"{counts[action]} {action}" for action in (CREATED, CHANGED, UNCHANGED) if counts[action])
        self.stdout.write(f"{would}: {told}." if differs else "Nothing differs.")

    def _show(self, changes: list[PolicyChange]) -> None:
        for change in changes:
            self.stdout.write(f"{MARKS[change.action]} {change.name}")
            for each in change.differences:
                old = "" if change.action == CREATED else f"{_as_text(each.field, each.old)} → "
                self.stdout.write(f"    {each.field}: {old}{_as_text(each.field, each.new)}")

    def _is_agreed(self, is_json: bool) -> bool:
        """Raises CommandError where it is not."""
        if is_json or not sys.stdin.isatty():
            raise CommandError("Nothing was applied: say --yes, or --dry-run to look alone")
        self.stdout.write("Apply this? [y/N] ", ending="")
        self.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was applied")
        return True


def _told(problems: Sequence[str]) -> str:
    left = len(problems) - MOST_PROBLEMS
    shown = [*problems[:MOST_PROBLEMS], *([f"and {left:,} more"] if left > 0 else [])]
    return "\n".join(["Nothing was applied:", *(f"  {problem}" for problem in shown)])


def _to_json(changes: list[PolicyChange]) -> dict[str, Any]:
    counts = Counter(change.action for change in changes)
    rows = [
        {
            "table": change.table,
            "name": change.name,
            "action": change.action,
            "fields": {each.field: {"old": each.old, "new": each.new} for each in change.differences},
        }
        for change in changes
    ]
    return {"changes": rows, **{action: counts[action] for action in (CREATED, CHANGED, UNCHANGED)}}


def _as_text(field: str, value: Any) -> str:
    """A value as people write it: "$12.50", "a, b", "none"."""
    if value is None or value == [] or value == "":
        return policy.NONE
    if isinstance(value, bool):
        return str(value).lower()
    if field in ("limit", "dollars_per_minute"):
        return f"${value}"
    if field in policy.COLUMNS and isinstance(value, list):
        return policy.to_text(field, value).replace("\n", "; ")
    return str(value)
