"""`manage.py review_reports`"""

import getpass
import json
import sys
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from governance.actions import reviews, tenancy
from governance.audit import Actor
from governance.management.terminal import TerminalCommand
from governance.models import PendingReport
from governance.rules import money, names
from governance.rules.errors import FieldError


class Command(TerminalCommand):
    help = (
        "List the reports of spend that wait for an operator, or accept or reject some of them. Exits with 1 where one"
        " of them cannot be decided; the others are. Each decision is audited."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", default="", help="list this tenant's alone")
        decision = parser.add_mutually_exclusive_group()
        decision.add_argument("--accept", nargs="+", type=UUID, metavar="ID", help="charge what they would add")
        decision.add_argument("--reject", nargs="+", type=UUID, metavar="ID", help="never charge it")
        parser.add_argument("--reason", default="", help="of the decision; kept in the audit trail")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be decided")
        parser.add_argument(
            "--json", action="store_true", help="print [{id, status, tenant, cost, charged, waiting, …}]"
        )

    def handle(self, *, tenant: str, accept: list[UUID] | None, reject: list[UUID] | None, **options: Any) -> None:
        decided = accept or reject
        refused: list[str] = []
        try:
            owner = tenancy.tenant_named(tenant) if tenant else None
            if decided and not options["reason"].strip():
                raise FieldError("reason", "say why")
        except FieldError as error:
            raise CommandError(f"--{error.field}: {error.message}") from error
        if decided:
            rows, refused = self._decide(decided, accepted=bool(accept), **options)
        else:
            found = reviews.waiting()
            rows = list(found.filter(tenant=owner) if owner else found)
        if options["json"]:
            self.stdout.write(json.dumps([printed(row) for row in rows]))
        else:
            self._say(rows, would=bool(decided) and options["dry_run"])
        for why in refused:
            self.stderr.write(why)
        if refused:
            sys.exit(1)

    def _decide(
        self, ids: list[UUID], *, accepted: bool, reason: str, dry_run: bool, **_: Any
    ) -> tuple[list[PendingReport], list[str]]:
        """(the reports that were decided, why others were not)."""
        by, now = Actor(f"command line ({getpass.getuser()})"), timezone.now()
        act = reviews.accept if accepted else reviews.reject
        rows, refused = [], []
        for id in ids:
            row = PendingReport.objects.select_related("tenant", "key").filter(pk=id).first()
            try:
                if row is None:
                    raise FieldError("", "there is no such report.")
                reviews.check_waiting(row)
                rows.append(row if dry_run else act(report=row, reason=reason, by=by, now=now))
            except FieldError as error:
                refused.append(f"{id}: {error.message}")
        return rows, refused

    def _say(self, rows: list[PendingReport], *, would: bool) -> None:
        if not rows:
            self.stdout.write("No report waits.")
        for row in rows:
            who = f"{row.tenant.slug} / {row.agent}" if row.agent else row.tenant.slug
            claimed = money.format_dollars(row.cost_nanos)
            status = "would be decided" if would else row.status
            self.stdout.write(
                f"{row.pk} {status}: {names.printable(who)}, ${money.format_dollars(row.waiting_nanos)} of ${claimed}"
                f" for {names.printable(row.model_served) or 'no model'}, reported {row.reported_at:%Y-%m-%d %H:%M} UTC"
            )


def printed(row: PendingReport) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "status": row.status,
        "tenant": row.tenant.slug,
        "agent": row.agent,
        "model": row.model_served,
        "request_id": row.request_id,
        "reservation": str(row.reservation) if row.reservation else None,
        "cost": money.format_dollars(row.cost_nanos),
        "charged": money.format_dollars(row.charged_nanos),
        "waiting": money.format_dollars(row.waiting_nanos),
        "reported_at": row.reported_at.isoformat(),
        "entry": str(row.entry) if row.entry else None,
    }
