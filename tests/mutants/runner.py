"""A plugin of pytest that runs the collected tests once, and then again for each mutant in a forked process.

The first run must pass; it says, line by line, which tests come by (coverage's contexts). A mutant is tried by those
that pass its statement, what killed its neighbour first and then the quickest, until one fails. Forks begin with Django
set up, tests collected and the database made, each with its own copy of the file.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest
from _pytest.runner import runtestprotocol
from django.db import connections

from tests.mutants.apply import CannotBeApplied, apply
from tests.mutants.changes import ROOT, Mutant

# A mutant may loop for ever, wait for ever, or fill the memory. A test may take so much more of the processor, and of
# the clock, than it had taken, and all may allocate so much beyond it.
CPU_S, WALL_S, FACTOR = 2, 60, 5
MEMORY_BYTES = 2 << 30

# Coverage's context before the first test.
LOADED = ""
KILLED, SURVIVED, UNTESTED = "killed", "survived", "untested"


class MutantRunner:
    """`results` has, when pytest has ended, what became of each mutant."""

    def __init__(self, mutants: list[Mutant], *, workers: int, tell: Callable[[Mutant, str], None]) -> None:
        self.mutants = mutants
        self.tell = tell
        self.workers = workers
        self.results: list[tuple[Mutant, str]] = []
        self.durations: dict[str, float] = {}
        # By path and line, the tests that pass there, and LOADED.
        self.passing: dict[str, dict[int, set[str]]] = {}
        paths = sorted({str(ROOT / mutant.path) for mutant in mutants})
        self.measured = coverage.Coverage(data_file=None, config_file=False, include=paths, concurrency="thread")
        # That no test comes by is a result here.
        self.measured.set_option("run:disable_warnings", ["no-data-collected"])
        # From before anything is loaded: what a module does then counts for all who use it.
        self.measured.start()
        self.killers: dict[tuple[str, str], list[str]] = defaultdict(list)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        from hypothesis import Phase, settings

        # The same examples each time; and none kept, which is another mutant's.
        settings.register_profile(
            "mutants", settings(), derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
        )
        settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("the tests cannot be collected")
        self.run_unchanged(session)
        if session.testsfailed:
            raise session.Interrupted("tests fail without any change")
        items = {item.nodeid: item for item in session.items}
        connections.close_all()
        gc.collect()
        gc.freeze()
        self.run_mutants(items)
        return True

    def run_unchanged(self, session: pytest.Session) -> None:
        for item, following in pairs(session.items):
            self.measured.switch_context(item.nodeid)
            start = time.perf_counter()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self.durations[item.nodeid] = time.perf_counter() - start
        self.measured.stop()
        for path in {mutant.path for mutant in self.mutants}:
            by_line = self.measured.get_data().contexts_by_lineno(str(ROOT / path))
            self.passing[path] = {line: set(names) for line, names in by_line.items()}

    def run_mutants(self, items: dict[str, pytest.Item]) -> None:
        running: dict[int, tuple[Mutant, int]] = {}
        for mutant in self.mutants:
            tests = self.tests_of(mutant)
            if not tests:
                self.record(mutant, UNTESTED)
                continue
            if len(running) >= self.workers:
                self.wait(running)
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(read)
                self.try_mutant(mutant, [items[test] for test in tests], write)
            os.close(write)
            running[pid] = (mutant, read)
        while running:
            self.wait(running)

    def record(self, mutant: Mutant, result: str) -> None:
        self.results.append((mutant, result))
        self.tell(mutant, result)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Those that pass the changed statement, the likeliest to fail first; and where it is run when the module is
        loaded, whoever passes by any other, or all."""
        lines = self.passing[mutant.path]
        own = set().union(*(lines.get(n, set()) for n in range(mutant.first_line, mutant.last_line + 1)))
        passing = own - {LOADED}
        if LOADED in own or not mutant.in_function:
            passing = set().union(*lines.values()) - {LOADED} or set(self.durations)
            # Tests of the module itself may read a constant and pass by no line of it.
            own_file = f"/test_{Path(mutant.path).stem}.py::"
            passing |= {test for test in self.durations if own_file in test}
        recent = [test for test in self.killers[mutant.path, mutant.name] if test in passing]
        return recent + sorted(passing - set(recent), key=self.durations.__getitem__)

    def try_mutant(self, mutant: Mutant, items: list[pytest.Item], write: int) -> None:
        """In the forked process, which ends here."""
        try:
            limit_memory()
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            with own_database():
                killer = self.first_failing(mutant, items)
            os.write(write, json.dumps(killer).encode())
        finally:
            os._exit(0)

    def first_failing(self, mutant: Mutant, items: list[pytest.Item]) -> str | None:
        """The test that noticed; "" where the module does not even load; None where nobody did."""
        try:
            apply(mutant)
        except CannotBeApplied:
            return ""
        for item in items:
            limit_time(self.durations[item.nodeid])
            # What is left of the module of another test goes first.
            item.session._setupstate.teardown_exact(item)
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=item)):
                return item.nodeid
        return None

    def wait(self, running: dict[int, tuple[Mutant, int]]) -> None:
        pid, _ = os.waitpid(-1, 0)
        mutant, read = running.pop(pid)
        with os.fdopen(read) as answer:
            said = answer.read()
        # One that said nothing was ended by its limits, or by itself.
        killer = json.loads(said) if said else ""
        self.record(mutant, SURVIVED if killer is None else KILLED)
        if killer:
            killers = self.killers[mutant.path, mutant.name]
            killers[:] = [killer, *(test for test in killers if test != killer)][:3]


def pairs(items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item]]:
    """Each with its follower; the last with the first, which keeps what is made once for all."""
    return zip(items, [*items[1:], *items[:1]], strict=True)


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def limit_time(took_s: float) -> None:
    """Ends this process when a test takes far longer than `took_s` seconds from here."""
    for number, timer, least_s in (
        (signal.SIGPROF, signal.ITIMER_PROF, CPU_S),
        (signal.SIGALRM, signal.ITIMER_REAL, WALL_S),
    ):
        signal.signal(number, signal.SIG_DFL)
        signal.setitimer(timer, least_s + FACTOR * took_s)


class own_database:
    """A copy of the test database's file, for one process."""

    def __enter__(self) -> None:
        settings: dict[str, Any] = connections.databases["default"]
        self.folder = tempfile.mkdtemp(prefix="governor-mutant-")
        if os.path.exists(settings["NAME"]):
            copy = shutil.copy(settings["NAME"], self.folder)
            settings["NAME"] = settings["TEST"]["NAME"] = copy
            connections["default"].settings_dict["NAME"] = copy

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
