"""`manage.py spend_report`"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import Q

from governance.actions import tenancy
from governance.management import arguments
from governance.management.terminal import TerminalCommand
from governance.queries import spend
from governance.rules import csv_tables, money, names
from governance.rules.errors import FieldError

MEASURES = ("calls", "input_tokens", "cached_tokens", "output_tokens", "cost")
NUMBERS = frozenset(MEASURES)


class Command(TerminalCommand):
    help = "Sum up what was spent, by tenant, agent, provider, model, hour, day or month. Times are UTC."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--by", default="tenant", help=f"comma-separated, of {', '.join(spend.GROUPS)}; default: tenant"
        )
        parser.add_argument(
            "--from", dest="since", metavar="WHEN", help="2026-03-01, or a time such as 2026-03-01T12:00Z"
        )
        parser.add_argument("--to", dest="until", metavar="WHEN", help="up to and without this moment")
        parser.add_argument("--tenant", default="", help="only this tenant's")
        parser.add_argument("--agent", default="", help="only this agent's")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--json", action="store_true", help="print {from, to, results, total}")
        how.add_argument("--csv", action="store_true", help="print the groups as CSV")

    def handle(self, *, by: str, since: str | None, until: str | None, **options: Any) -> None:
        groups = _groups(by)
        period = spend.TimeRange(arguments.moment("from", since), arguments.moment("to", until))
        if period.starts_at and period.ends_at and period.ends_at <= period.starts_at:
            raise CommandError("--to: must be later than --from")
        reader, where = _asked(options["tenant"], options["agent"])
        rows = [_row(row) for row in spend.summary(group_by=groups, reader=reader, period=period, where=where)]
        total = _total(groups, rows)
        if options["json"]:
            self.stdout.write(json.dumps({"from": since, "to": until, "results": rows, "total": total}))
        elif options["csv"]:
            for piece in csv_tables.lines_of(rows, [*groups, *MEASURES]):
                self.stdout.write(piece, ending="")
        elif rows:
            self._table([*groups, *MEASURES], [*rows, {groups[0]: "total"} | total])
        else:
            self.stdout.write("Nothing was spent.")

    def _table(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        cells = [columns, *([names.printable(str(row.get(name, ""))) for name in columns] for row in rows)]
        widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
        for line in cells:
            self.stdout.write(
                "  ".join(
                    cell.rjust(width) if name in NUMBERS else cell.ljust(width)
                    for name, cell, width in zip(columns, line, widths, strict=True)
                ).rstrip()
            )


def _groups(by: str) -> list[str]:
    groups = list(dict.fromkeys(name for part in by.split(",") if (name := part.strip())))
    unknown = [name for name in groups if name not in spend.GROUPS]
    if unknown or not groups:
        raise CommandError(f"--by: must be of {', '.join(spend.GROUPS)}, not {', '.join(unknown) or 'nothing'}")
    return groups


def _asked(tenant: str, agent: str) -> tuple[spend.Reader, Q]:
    try:
        owner = tenancy.tenant_named(tenant) if tenant else None
        where = Q(agent__in=names.spellings("agent", agent)) if agent else Q()
    except FieldError as error:
        raise CommandError(f"--{error.field}: {error.message}") from error
    return spend.Reader(tenant=owner), where


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """As people read it: dollars, and days without their midnight."""
    found = {name: _time(name, value) for name, value in row.items() if name != "cost_nanos"}
    return found | {"cost": money.format_dollars(row["cost_nanos"])}


def _time(name: str, value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return value.astimezone(UTC).strftime({"month": "%Y-%m", "day": "%Y-%m-%d"}.get(name, "%Y-%m-%dT%H:%MZ"))


def _total(groups: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = {name: sum(row[name] for row in rows) for name in MEASURES if name != "cost"}
    nanos = sum(money.nanos_from_dollars(row["cost"]) for row in rows)
    return counts | {"cost": money.format_dollars(nanos)}
