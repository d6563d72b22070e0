"""`manage.py simulate_agents`"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from config import simulation
from config.simulation import Seen, Tally
from governance.management.terminal import TerminalCommand

ROW = "{agent:<18} {asked:<22} {served:<22} {outcome:<8} {cost:>12} {remaining:>14}  {state}"


class Command(TerminalCommand):
    help = (
        "Let the demo's agents call the running product through Mistral's own client, and print what happens to each "
        "call. One of them runs away, and is warned, moved to a cheaper model and stopped; acme/support is paused by "
        "itself within a minute, and what it has spent by then is printed. Run seed_demo first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--url", default=settings.APP_URL, help="where the product runs (default: %(default)s)")
        parser.add_argument("--calls", type=int, default=60, help="calls an agent (default: %(default)s)")
        parser.add_argument("--pause-ms", type=int, default=150, help="between an agent's calls (default: %(default)s)")
        parser.add_argument(
            "--runaway",
            default="acme/invoices",
            help="the agent that runs away, for a minute unless it is refused; empty for none (default: %(default)s)",
        )
        parser.add_argument("--agents", nargs="*", help="only these, as tenant/agent (default: all of the demo)")
        parser.add_argument("--json", action="store_true", help="print one JSON object a call, then the totals")

    def handle(self, *, url: str, calls: int, pause_ms: int, runaway: str, **options: Any) -> None:
        if calls < 1 or pause_ms < 0:
            raise CommandError("--calls must be 1 or more, and --pause-ms not negative.")
        keys = self._keys(options["agents"])
        # An agent's name alone is the first customer's that has one.
        runaway = next((name for name in keys if runaway and name.endswith(f"/{runaway}")), runaway)
        if runaway and runaway not in keys:
            raise CommandError(f"--runaway: there is no agent {runaway!r}; there are {', '.join(keys)}.")
        as_json = options["json"]
        if not as_json:
            titles = ("agent", "asked", "served", "outcome", "cost", "remaining", "state")
            self.stdout.write(ROW.format(**{title: title for title in titles}))
        tallies = simulation.run(
            url=url.rstrip("/"),
            keys=keys,
            calls=calls,
            pause_s=pause_ms / 1000,
            runaway=runaway,
            tell=self._tell_json if as_json else self._tell,
        )
        self._sum_up(tallies, as_json=as_json)

    def _keys(self, agents: list[str] | None) -> Mapping[str, str]:
        try:
            kept = json.loads((settings.VAR_DIR / "demo.json").read_text())
        except (FileNotFoundError, ValueError):
            raise CommandError("There are no demo agents here yet: run `manage.py seed_demo` first.") from None
        keys = {name: key for name, key in kept.items() if "/" in name}
        unknown = set(agents or ()) - keys.keys()
        if unknown:
            raise CommandError(f"--agents: there is no {', '.join(sorted(unknown))}; there are {', '.join(keys)}.")
        return {name: keys[name] for name in agents} if agents else keys

    def _tell(self, seen: Seen) -> None:
        style = {
            "served": self.style.SUCCESS,
            "moved": self.style.WARNING,
            "clamped": self.style.WARNING,
            "waiting": self.style.WARNING,
        }.get(seen.outcome, self.style.ERROR)
        notes = [seen.state, seen.code]
        if seen.tools_taken:
            notes.append(f"without {seen.tools_taken}")
        line = ROW.format(
            agent=seen.agent,
            asked=seen.asked,
            served=seen.served or "-",
            outcome=seen.outcome,
            cost=f"${seen.cost}" if seen.cost else "-",
            remaining=f"${seen.remaining}" if seen.remaining else "-",
            state=" ".join(filter(None, notes)),
        )
        self.stdout.write(style(line))
        self.stdout.flush()

    def _tell_json(self, seen: Seen) -> None:
        self.stdout.write(json.dumps(asdict(seen) | {"outcome": seen.outcome}))

    def _sum_up(self, tallies: Mapping[str, Tally], *, as_json: bool) -> None:
        if as_json:
            totals = {
                name: tally.outcomes | {"dollars": str(tally.dollars), "paused_after_s": tally.paused_after_s}
                for name, tally in tallies.items()
            }
            self.stdout.write(json.dumps({"totals": totals}))
            return
        self.stdout.write("")
        for name, tally in tallies.items():
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items()))
            self.stdout.write(f"{name:<18} ${tally.dollars:<14} {counts}")
        for name, tally in tallies.items():
            if tally.paused_after_s is not None:
                after = f"{tally.paused_after_s:.0f} s after its first call"
                self.stdout.write(self.style.WARNING(f"{name} was paused {after}; it had cost ${tally.dollars}."))
                self.stdout.write("The console's page Spend > Anomalies says why, and lets it go again.")
