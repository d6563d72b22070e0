"""`manage.py reprice`"""

import getpass
import json
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from governance import ledger
from governance.audit import Actor
from governance.console.display import subject_name
from governance.management.terminal import TerminalCommand
from governance.rules import money
from governance.rules.errors import FieldError
from llm.catalogue import prices, repricing
from llm.catalogue.repricing import RepricingResult


class Command(TerminalCommand):
    help = (
        "Charge the calls of a model again, after a wrong price of it was superseded: the differences are posted as"
        " adjustments, each call's once. Without --apply nothing is written: it says what would change, for whom, and"
        " which budgets would let calls in again. Exit status 1 where some calls could not be adjusted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", help="an id of the catalogue, or provider/id")
        parser.add_argument("--from", dest="starts_at", metavar="TIME", help="calls from then on; default: all")
        parser.add_argument("--to", dest="ends_at", metavar="TIME", help="calls before then; default: now")
        parser.add_argument("--reason", default="", help="needed with --apply; kept in the audit trail")
        parser.add_argument("--apply", action="store_true", help="post the differences")
        parser.add_argument("--dry-run", action="store_true", help="post nothing, which is the default")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *, model: str, starts_at: str | None, ends_at: str | None, **options: Any) -> None:
        now = timezone.now()
        # By the database's clock, which calls are dated by.
        until = ledger.by_database(now) + timedelta(seconds=1)
        try:
            row = prices.model_named(model)
        except prices.ModelUnknown as error:
            raise CommandError(str(error)) from error
        asked: dict[str, Any] = {
            "model": row,
            "starts_at": moment(starts_at, "--from") if starts_at else None,
            "ends_at": moment(ends_at, "--to") if ends_at else until,
            "progress": repricing.silence if options["json"] or not options["verbosity"] else self._progress,
        }
        if options["apply"] and options["dry_run"]:
            raise CommandError("--apply: not together with --dry-run")
        try:
            if options["apply"]:
                by = Actor(f"command line ({getpass.getuser()})")
                done = repricing.run(**asked, reason=options["reason"], by=by, now=now)
            else:
                done = repricing.preview(**asked)
        except FieldError as error:
            raise CommandError(f"--{error.field}: {error.message}") from error
        if options["json"]:
            self.stdout.write(json.dumps(_facts(done)))
        else:
            self._say(done)
        if done.refused:
            raise SystemExit(1)

    def _progress(self, looked_at: int) -> None:
        self.stderr.write(f"{looked_at:,} calls looked at")

    def _say(self, done: RepricingResult) -> None:
        would, lets = ("would be ", "would let") if done.dry_run else ("", "lets")
        self.stdout.write(f"{done.model}: {done.changed:,} of {done.looked_at:,} calls {would}adjusted.")
        for slug, tenant in sorted(done.by_tenant.items()):
            before, after = (money.format_dollars(nanos) for nanos in (tenant.before_nanos, tenant.after_nanos))
            self.stdout.write(f"  {slug}: {tenant.calls:,} calls, ${before} -> ${after}")
        for change in done.windows:
            if change.old_state != change.new_state:
                unblocked = f": {lets} calls in again" if change.unblocks else ""
                state = f"{change.old_state} -> {change.new_state}"
                kind = change.window.budget.get_window_display()
                self.stdout.write(f"  budget {subject_name(change.window)} per {kind}: {state}{unblocked}")
        for count, why in (
            (done.estimates, "estimates without tokens stay as they are; confirm or void them"),
            (done.last_words, "calls stay as an operator has confirmed or voided them"),
            (done.unpriced, "calls have no price for their time"),
            (done.refused, "calls could not be adjusted: their budget's window would fall below zero"),
        ):
            if count:
                self.stdout.write(f"  {count:,} {why}")
        if done.dry_run and done.changed:
            self.stdout.write("Nothing was written. Add --apply --reason '...' to post the differences.")


def moment(text: str, option: str) -> datetime:
    """A time, or a date, which means its first instant in UTC. Raises CommandError."""
    try:
        day = parse_date(text)
        found = datetime(day.year, day.month, day.day) if day else parse_datetime(text)  # noqa: DTZ001
    except ValueError:
        found = None
    if found is None:
        raise CommandError(f"{option}: must be a date or a time such as 2026-03-16 or 2026-03-16T12:00:00Z")
    return found if timezone.is_aware(found) else timezone.make_aware(found, timezone.get_default_timezone())


def _facts(done: RepricingResult) -> dict[str, Any]:
    return {
        "model": done.model,
        "dry_run": done.dry_run,
        "looked_at": done.looked_at,
        "changed": done.changed,
        "delta": money.format_dollars(done.delta_nanos),
        "tenants": {
            slug: {
                "calls": tenant.calls,
                "before": money.format_dollars(tenant.before_nanos),
                "after": money.format_dollars(tenant.after_nanos),
            }
            for slug, tenant in sorted(done.by_tenant.items())
        },
        "windows": [
            {
                "budget": change.window.budget_id,
                "name": subject_name(change.window),
                "from": change.old_state,
                "to": change.new_state,
                "unblocked": change.unblocks,
            }
            for change in done.windows
        ],
        "left": {
            "estimates": done.estimates,
            "last_words": done.last_words,
            "unpriced": done.unpriced,
            "refused": done.refused,
        },
    }
