"""`manage.py import_prices`"""

import getpass
import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.audit import Actor
from governance.ledger import clock
from governance.management.terminal import TerminalCommand
from llm.catalogue import comparison, prices, seed
from llm.catalogue.comparison import Difference
from llm.management.commands.reprice import moment
from llm.rules.pricing import DEFAULT_PROVIDER

DIFFERS, FAILED = 1, 2
NOTHING_TO_APPROVE = "nothing differs there"


class Command(TerminalCommand):
    help = (
        "Compare our prices with another source's: the package genai-prices, or a CSV file in the form of"
        " llm/data/mistral_prices.csv. Nothing is taken over but what is approved; ours are superseded, never"
        " overwritten. Exit status 0: nothing differs any more; 1: something does; 2: it could not be done."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", nargs="?", help="a CSV file; default: genai-prices")
        parser.add_argument("--provider", default=DEFAULT_PROVIDER, help="whose models; default: mistral")
        parser.add_argument("--new", action="store_true", help="show models too that the catalogue does not have")
        parser.add_argument(
            "--approve", nargs="+", default=[], metavar="MODEL[:UNIT]", help="take these over, all units or one"
        )
        parser.add_argument("--approve-all", action="store_true", help="take everything over that differs and can be")
        parser.add_argument("--effective-from", metavar="TIME", help="when they begin to count; default: now")
        parser.add_argument(
            "--from-beginning",
            action="store_true",
            help="ours was wrong all along: supersede it from its own beginning; then see `reprice`",
        )
        parser.add_argument("--reason", default="", help="kept in the audit trail")
        parser.add_argument("--dry-run", action="store_true", help="write nothing, also of what is approved")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *, file: str | None, provider: str, **options: Any) -> None:
        # As prices begin: by the database's clock.
        now = clock.now()
        since = moment(options["effective_from"], "--effective-from") if options["effective_from"] else now
        try:
            if file:
                offers = comparison.from_file(Path(file))
            else:
                offers = comparison.from_genai(provider=provider, at=now, new=options["new"])
        except (comparison.SourceMissing, seed.Malformed, OSError) as error:
            raise CommandError(str(error), returncode=FAILED) from error
        found = comparison.differences(offers, at=now)
        if file and not options["new"]:
            found = [one for one in found if one.row is not None]
        approved = _approved(found, options["approve"], everything=options["approve_all"])
        if approved and not options["dry_run"]:
            self._take_over(approved, since=since, now=now, options=options)
        left = [one for one in found if one not in approved]
        if options["json"]:
            self._print_json(found, approved, dry_run=options["dry_run"])
        else:
            self._print(found, approved, dry_run=options["dry_run"])
        if left or (approved and options["dry_run"]):
            raise SystemExit(DIFFERS)

    def _take_over(self, approved: list[Difference], *, since: Any, now: Any, options: dict[str, Any]) -> None:
        try:
            comparison.take_over(
                approved,
                effective_from=since,
                by=Actor(f"command line ({getpass.getuser()})"),
                now=now,
                reason=options["reason"] or "import_prices",
                from_beginning=options["from_beginning"],
            )
        except comparison.HasFee as error:
            raise CommandError(f"--approve: {error}", returncode=FAILED) from error
        except (prices.PriceExists, prices.CorrectedBefore) as error:
            raise CommandError(f"--effective-from: {error}", returncode=FAILED) from error

    def _print(self, found: list[Difference], approved: list[Difference], *, dry_run: bool) -> None:
        if not found:
            self.stdout.write("Nothing differs.")
            return
        self.stdout.write(f"{'':2}{'model':44} {'unit':20} {'ours':>12} {'theirs':>12} {'ratio':>8}  source")
        for one in found:
            mark = ("? " if dry_run else "+ ") if one in approved else "  "
            ours = prices.per_million(one.ours.picos_per_unit) if one.ours else "-"
            theirs = prices.per_million(one.offer.picos)
            ratio = "-" if one.ratio is None else str(one.ratio)
            self.stdout.write(
                f"{mark}{one.name:44} {one.offer.part:20} {ours:>12} {theirs:>12} {ratio:>8}  {one.offer.source}"
            )
        self.stdout.write("Dollars a million units (tokens, pages, seconds); > is of calls with more input tokens.")
        for name in dict.fromkeys(one.name for one in found if one.offer.has_fee):
            self.stdout.write(f"{comparison.HasFee(name)}.")
        if approved:
            self.stdout.write(f"{len(approved)} {'would be ' if dry_run else ''}taken over.")

    def _print_json(self, found: list[Difference], approved: list[Difference], *, dry_run: bool) -> None:
        rows = [
            {
                "model": one.name,
                "unit": one.offer.unit,
                "above_input_tokens": one.offer.above,
                "ours_picos": one.ours.picos_per_unit if one.ours else None,
                "theirs_picos": one.offer.picos,
                "ratio": None if one.ratio is None else str(one.ratio),
                "source": one.offer.source,
                "new_model": one.row is None,
                "has_fee": one.offer.has_fee,
                "taken_over": one in approved and not dry_run,
            }
            for one in found
        ]
        self.stdout.write(json.dumps({"differences": rows, "dry_run": dry_run}))


def _approved(found: list[Difference], names: list[str], *, everything: bool) -> list[Difference]:
    if everything:
        return [one for one in found if not one.offer.has_fee]
    for name in names:
        if not any(one.is_meant_by(name) for one in found):
            raise CommandError(f"--approve {name}: {NOTHING_TO_APPROVE}", returncode=FAILED)
    return [one for one in found if any(one.is_meant_by(name) for name in names)]
