"""`manage.py import_litellm`"""

import getpass
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from config.litellm import database, export, files, mapping, steps
from config.litellm.export import LitellmExport
from config.litellm.mapping import NotTakenOver
from config.litellm.rows import BadExport, LitellmRow
from governance.audit import Actor
from governance.ledger import clock
from governance.management import differences
from governance.management.policy_tables import UNCHANGED
from governance.management.terminal import TerminalCommand
from governance.rules import names
from governance.rules.errors import FieldError

# Of many who share one reason; --json has all.
MOST_NAMED = 10


class Command(TerminalCommand):
    help = (
        "Take over teams, users, keys, budgets, rate limits and names of models from a LiteLLM proxy: of its database,"
        " of answers of its API as files, or of both, where files go first. The difference is shown, with all that"
        " is not taken over and why, and it is applied when it is agreed to: customer by customer, some keys at a time,"
        " so that no call waits for long. Broken off, it goes on when it is run again, which changes nothing else."
        " Agents keep their keys. See docs/coming-from.md."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "files",
            nargs="*",
            type=Path,
            metavar="FILE",
            help=f"answers of its API, or folders of them; names begin with {', '.join(files.ANSWERS)}",
        )
        parser.add_argument(
            "--database",
            nargs="?",
            const="",
            metavar="URL",
            help="its database, of which nothing is changed; without the URL that of LITELLM_DATABASE_URL, as a URL"
            " with a password is seen by all who can list processes",
        )
        parser.add_argument("--others-to", default="", metavar="TENANT", help="whose keys of no team and no user are")
        parser.add_argument(
            "--into",
            action="append",
            default=[],
            metavar="TENANT",
            help="a customer of that name is here already: whoever has it at LiteLLM is the same, with its agents;"
            " may be said of several",
        )
        parser.add_argument(
            "--overwrite",
            action="store_true",
            help="change limits that are here already, also where somebody has changed them here",
        )
        parser.add_argument("--yes", action="store_true", help="apply it without asking")
        parser.add_argument("--dry-run", action="store_true", help="show the difference, keep nothing")
        parser.add_argument(
            "--json",
            action="store_true",
            help="print {changes, created, changed, unchanged, not_taken_over, applied, dry_run}",
        )

    def handle(self, *, files: list[Path], yes: bool, dry_run: bool, **options: Any) -> None:
        now = clock.now()
        found = _read(files, options["database"])
        known = steps.known_here((key.digest for key in found.keys), now=now)
        by = Actor(f"command line ({getpass.getuser()})")
        try:
            others_to = names.checked("tenant", options["others_to"], field="others-to")
            wanted = mapping.of(found, known, others_to=others_to, into=options["into"], now=now)
            shown = steps.plan(wanted, known, overwrite=options["overwrite"])
            left = list(_by_reason([*wanted.not_taken, *shown.left]))
            if not options["json"]:
                self._show(shown.steps, left)
            differs = any(step.action != UNCHANGED for step in shown.steps)
            if applied := differs and not dry_run and (yes or differences.are_agreed_to(self.stdout, options["json"])):
                steps.apply(shown, by=by, clock=clock.now, progress=self._progress)
        except FieldError as error:
            raise CommandError(f"--{error.field}: {error.message}" if error.field else error.message) from error
        if options["json"]:
            answer = differences.to_json(shown.steps) | {"not_taken_over": left}
            self.stdout.write(json.dumps(answer | {"applied": applied, "dry_run": dry_run}))
            return
        self.stdout.write(differences.summary(shown.steps, dry_run=dry_run))

    def _progress(self, done: int, of: int) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"{done:,} of {of:,} parts applied")

    def _show(self, changes: Sequence[steps.ImportStep], left: Sequence[dict[str, Any]]) -> None:
        for line in differences.lines(changes):
            self.stdout.write(line)
        if left:
            self.stdout.write("Not taken over, or not as it was:")
        for each in left:
            named = ", ".join(each["what"][:MOST_NAMED])
            more = f" and {each['count'] - MOST_NAMED:,} more" if named and each["count"] > MOST_NAMED else ""
            self.stdout.write(f"  {each['count']:,} × {each['why']}{f': {named}{more}' if named else ''}")


def _read(paths: Sequence[Path], url: str | None) -> LitellmExport:
    if url is None and not paths:
        raise CommandError("Name files of its API's answers, or --database")
    tables: dict[str, list[LitellmRow]] = {}
    counts: dict[str, int] = {}
    try:
        if url is not None:
            address = url or settings.LITELLM_DATABASE_URL
            if not address:
                raise CommandError("--database: give the URL, or set LITELLM_DATABASE_URL")
            tables, counts = database.read(address)
        return export.of(tables | files.read(paths), left=counts)
    except (BadExport, database.NotReadable) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error


def _by_reason(left: Iterable[NotTakenOver]) -> Iterator[dict[str, Any]]:
    grouped: dict[str, list[NotTakenOver]] = defaultdict(list)
    for each in left:
        grouped[each.why].append(each)
    for why, group in grouped.items():
        yield {
            "why": why,
            "count": sum(each.count for each in group),
            "what": [each.what for each in group if each.what],
        }
