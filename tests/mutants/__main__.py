"""Change the product a little, many times, and see whether its tests notice: `python -m tests.mutants [MODULE ...]`.

Without modules all of `ROOMS`, one process a room. Prints the mutants that survived, and how many did not, module by
module; exits 1 where a module keeps less than `AT_LEAST` per cent, or the sample of a room. Those named in
`equivalent.toml` are no other program to whoever uses it, and do not count.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutants.changes import ROOT, Mutant, mutants
from tests.mutants.runner import KILLED, MutantRunner

# The folders with what decides about money, and the tests that know them.
ROOMS = {
    "governance/rules": ["tests/governance/rules"],
    "governance/ledger": ["tests/governance/ledger", "tests/governance/actions"],
    "llm/rules": ["tests/llm/rules", "tests/llm/gateway/test_conversations.py"],
    "billing/rules": ["tests/billing/rules"],
}
AT_LEAST = 90
EQUIVALENT = Path(__file__).parent / "equivalent.toml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="paths such as governance/rules/money.py; without, all")
    parser.add_argument("--tests", nargs="+", help="these tests alone, rather than all that know the module's folder")
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants of each module alone, for a quick look")
    parser.add_argument("--seed", type=int, default=0, help="which ones; each seed draws others")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    modules = chosen.modules or [str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).glob("*.py")]
    rooms: dict[str, list[str]] = {}
    for module in sorted(modules):
        rooms.setdefault(str(Path(module).parent), []).append(module)
    if len(rooms) == 1:
        (room,) = rooms
        drawn = Draw(chosen.sample, chosen.seed)
        return run(rooms[room], tests=chosen.tests or ROOMS[room], drawn=drawn, workers=chosen.workers)
    command = [sys.executable, "-m", "tests.mutants", "--workers", str(chosen.workers), "--seed", str(chosen.seed)]
    if chosen.sample is not None:
        command += ["--sample", str(chosen.sample)]
    return max(subprocess.run([*command, *rooms[room]], cwd=ROOT).returncode for room in rooms)


@dataclass(frozen=True)
class Draw:
    """Which of a module's mutants are tried: all, or so many of them, the same ones for one seed."""

    most: int | None
    seed: int

    def of(self, module: str, made: list[Mutant]) -> list[Mutant]:
        if self.most is None or self.most >= len(made):
            return made
        chance = random.Random(f"{self.seed} {module}")
        return [made[index] for index in sorted(chance.sample(range(len(made)), self.most))]


def run(modules: list[str], *, tests: list[str], drawn: Draw, workers: int) -> int:
    equivalent = named_equivalent()
    made: list[Mutant] = []
    tried: list[Mutant] = []
    for module in modules:
        of_module = mutants(module, (ROOT / module).read_text(encoding="utf-8"))
        made += of_module
        tried += drawn.of(module, [mutant for mutant in of_module if key(mutant) not in equivalent])
    runner = MutantRunner(tried, workers=workers, tell=tell)
    options = ["-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "--capture=no", "--tb=short"]
    code = pytest.main([*options, *tests], plugins=[runner])
    if code != pytest.ExitCode.OK:
        return 1
    spared = Counter(mutant.path for mutant in made if key(mutant) in equivalent)
    obsolete = sorted(row for row in equivalent - {key(mutant) for mutant in made} if row[0] in modules)
    for path, name, was, now in obsolete:
        print(f"\n{path} {name}: equivalent.toml names a change that is no longer made", diff(was, now), sep="\n")
    low = report(modules, runner.results, spared, sampled=drawn.most is not None)
    return 1 if low or obsolete else 0


def named_equivalent() -> set[tuple[str, str, str, str]]:
    rows = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    return {(row["path"], row["name"], row["was"].strip(), row["now"].strip()) for row in rows}


def key(mutant: Mutant) -> tuple[str, str, str, str]:
    return mutant.path, mutant.name, mutant.was.strip(), mutant.now.strip()


def tell(mutant: Mutant, result: str) -> None:
    if result != KILLED:
        print(f"\n{mutant.path}:{mutant.first_line} {mutant.name} {result}", diff(mutant.was, mutant.now), sep="\n")
        sys.stdout.flush()


def diff(was: str, now: str) -> str:
    return "\n".join(sign + line for sign, text in (("- ", was), ("+ ", now)) for line in text.split("\n"))


def report(modules: list[str], results: list[tuple[Mutant, str]], spared: Counter[str], *, sampled: bool) -> list[str]:
    """Prints the table; returns the modules below the mark, or "all" where these are too few of each to say."""
    print(f"\n{'module':<40} {'mutants':>8} {'killed':>8} {'share':>7}  equivalent")
    low = []
    for module in [*modules, "all"]:
        became = Counter(result for mutant, result in results if module in (mutant.path, "all"))
        count, killed = became.total(), became[KILLED]
        share = 100 * killed / count if count else 100.0
        if share < AT_LEAST and sampled == (module == "all"):
            low.append(module)
        of_module = spared.total() if module == "all" else spared[module]
        print(f"{module:<40} {count:>8} {killed:>8} {share:>6.1f}%  {of_module}")
    return low


if __name__ == "__main__":
    raise SystemExit(main())
