"""`manage.py measure_anomalies`"""

import json
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.management.terminal import TerminalCommand
from governance.sandbox import forecast_measurement, measurement, traces
from governance.sandbox.forecast_measurement import NAIVE, Errors
from governance.sandbox.measurement import Result
from governance.sandbox.methods import METHODS, Method
from governance.sandbox.traces import Trace

# The library is no part of the product: whoever wants it compared installs it.
LIBRARY = "stl"


class Command(TerminalCommand):
    help = (
        "Measure what finds anomalies, and forecasts, on synthetic customers whose trouble is known: the same ones for"
        " the same seed. Prints how much of the trouble each method finds, and how often it cries for nothing in a"
        " thousand customer-days. Nothing of the database is read or written. Takes minutes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seed", type=int, default=7, help="which customers (default: %(default)s)")
        parser.add_argument("--customers", type=int, default=150, help="how many (default: %(default)s)")
        parser.add_argument("--days", type=int, default=14, help="judged days of each (default: %(default)s)")
        parser.add_argument(
            "--methods",
            default="robust,static,z-score",
            help=f"of {', '.join(METHODS)}; {LIBRARY} needs statsmodels (default: %(default)s)",
        )
        parser.add_argument("--forecasts", action="store_true", help="measure forecasts, not anomalies")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *, seed: int, customers: int, days: int, methods: str, **options: Any) -> None:
        if customers < 1 or not 3 <= days <= 366:
            raise CommandError("--customers must be 1 or more, and --days from 3 to 366.")
        named = [METHODS.get(name.strip()) for name in methods.split(",")]
        chosen = [method for method in named if method is not None]
        if len(chosen) != len(named):
            raise CommandError(f"--methods must be of {', '.join(METHODS)}.")
        made = traces.traces(seed=seed, customers=customers, days=days)
        if options["forecasts"]:
            self._tell_forecasts(forecast_measurement.measure(made), as_json=options["json"])
            return
        try:
            results = {method: self._measured(method, made) for method in chosen}
        except ImportError as error:
            raise CommandError(f"The method needs a package that is not installed: {error.name}.") from error
        self._tell(results, as_json=options["json"])

    def _measured(self, method: Method, made: Sequence[Trace]) -> list[Result]:
        self.stderr.write(f"{method.name} …")
        return measurement.measure(method, [(trace, method.scores(trace)) for trace in made])

    def _tell(self, results: dict[Method, list[Result]], *, as_json: bool) -> None:
        if as_json:
            told = {method.name: [_to_json(each) for each in found] for method, found in results.items()}
            self.stdout.write(json.dumps(told))
            return
        for method, found in results.items():
            self.stdout.write(f"{method.name}: usual number {method.usual:g}")
            for each in found:
                kinds = ", ".join(f"{kind} {part}" for kind, part in measurement.by_kind(each).items())
                false = f"false {each.false_per_thousand:7.1f} a thousand days"
                self.stdout.write(f"{each.number:8g}  found {each.recall:6.1%}  {false}  {kinds}")

    def _tell_forecasts(self, found: Sequence[Errors], *, as_json: bool) -> None:
        names = ("forecast", *NAIVE)
        told = {
            each.window: {
                "cases": each.cases,
                "inside": each.inside / max(1, each.cases),
                "run_out_off_hours": each.usual_late_hours,
                "run_out_inside": each.run_outs_inside / max(1, each.run_outs),
                "weighted": {name: each.weighted(name) for name in names},
                "median": {name: each.median_part(name) for name in names},
            }
            for each in found
            if each.cases
        }
        if as_json:
            self.stdout.write(json.dumps(told))
            return
        for each in found:
            if not each.cases:
                continue
            inside = each.inside / each.cases
            self.stdout.write(f"{each.window}: {each.cases} forecasts, {inside:.0%} inside their band")
            for name in names:
                self.stdout.write(f"  {name:<15} off {each.weighted(name):6.1%}, usually {each.median_part(name):6.1%}")
            inside = each.run_outs_inside / each.run_outs
            self.stdout.write(
                f"  runs out: usually {each.usual_late_hours:.1f} h off, {inside:.0%} inside its interval"
            )


def _to_json(each: Result) -> dict[str, Any]:
    return {
        "number": each.number,
        "recall": each.recall,
        "false_per_thousand_days": each.false_per_thousand,
        "late_hours": each.late,
        "by_kind": dict(measurement.by_kind(each)),
    }
