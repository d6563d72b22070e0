"""`manage.py correct_spend`"""

import getpass
import json
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from governance.actions import corrections
from governance.audit import Actor
from governance.ledger.results import LedgerError
from governance.management.terminal import TerminalCommand
from governance.models import SpendEntry
from governance.rules import money
from governance.rules.errors import FieldError, NotOpen


class Command(TerminalCommand):
    help = (
        "Say what a call truly cost, or that it cost nothing: the difference to what it is charged at is posted, and"
        " audited. Exits with 1 where it cannot be said of that line."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("entry", type=UUID, help="the id of the charge")
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--cost", metavar="DOLLARS", help="such as 0.0125")
        what.add_argument("--void", action="store_true", help="it never was; said once")
        parser.add_argument("--reason", required=True, help="kept in the audit trail")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be posted")
        parser.add_argument("--json", action="store_true", help="print {id, correction, delta, cost, dry_run}")

    def handle(self, *, entry: UUID, cost: str | None, void: bool, reason: str, dry_run: bool, **options: Any) -> None:
        row = SpendEntry.objects.filter(pk=entry).first()
        if row is None:
            raise CommandError(f"There is no line {entry}.")
        given: dict[str, Any] = {
            "entry": row,
            "reason": reason,
            "by": Actor(f"command line ({getpass.getuser()})"),
            "now": timezone.now(),
        }
        try:
            cost_nanos = 0 if cost is None else money.nanos_from_dollars(cost)
            with transaction.atomic():
                done = corrections.void(**given) if void else corrections.correct(**given, cost_nanos=cost_nanos)
                charged_nanos = corrections.charged_nanos(row)
                transaction.set_rollback(dry_run)
        except (NotOpen, LedgerError) as error:
            raise CommandError(str(error)) from error
        except money.AmountError as error:
            raise CommandError(f"--cost: {error}") from error
        except FieldError as error:
            raise CommandError(f"--{error.field}: {error.message}") from error
        delta, charged = money.format_dollars(done.delta_nanos), money.format_dollars(charged_nanos)
        if options["json"]:
            answer = {"id": str(row.pk), "correction": str(done.entry_id), "delta": delta, "cost": charged}
            self.stdout.write(json.dumps(answer | {"dry_run": dry_run}))
            return
        self.stdout.write(f"{'Would post' if dry_run else 'Posted'} ${delta}: {row.pk} costs ${charged}.")
