"""The breakers in their file, shared by several owners, against a plain one in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llm.state.breakers import Breakers

NAMES = ("mistral/a", "mistral/b")
OWNERS = 3
TENANT, ANOTHER = 7, 8
owners, names = st.integers(0, OWNERS - 1), st.sampled_from(NAMES)


class PlainBreaker:
    """The rule, told in the words of the contract."""

    def __init__(self) -> None:
        self.failures = 0
        self.open_until: float | None = None
        self.successes = 0
        # (owner, since) of probes without a verdict, the oldest first.
        self.running: list[tuple[int, float]] = []
        self.cool_until = 0.0

    def half_open(self, now: float) -> bool:
        return self.open_until is not None and now >= self.open_until

    def admits(self, owner: int, now: float) -> bool:
        if now < self.cool_until:
            return False
        if self.open_until is None:
            return True
        living = [probe for probe in self.running if now < probe[1] + 120]
        if now < self.open_until or self.successes + len(living) >= 3:
            return False
        self.running = [*living, (owner, now)]
        return True

    def take_probe(self, owner: int) -> bool:
        mine = [probe for probe in self.running if probe[0] == owner]
        if mine:
            self.running.remove(mine[0])
        return bool(mine)

    def verdict(self, owner: int, now: float, *, well: bool) -> None:
        if self.open_until is None:
            self.failures = 0 if well else self.failures + 1
            if self.failures == 5:
                self.trip(now)
        elif self.half_open(now) and self.take_probe(owner):
            if not well:
                self.trip(now)
            elif self.successes == 2:
                self.failures, self.open_until, self.running, self.successes = 0, None, [], 0
            else:
                self.successes += 1

    def trip(self, now: float) -> None:
        self.open_until, self.running, self.successes = now + 60, [], 0


class Machine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "breakers"
        # Each stands for a process: what it is told apart by is its own. None waits for what another met.
        self.breakers = [Breakers(path, well_for_s=0) for _ in range(OWNERS)]
        self.plain = {name: PlainBreaker() for name in NAMES}
        self.now = 1_800_000_000.0

    def teardown(self) -> None:
        for breakers in getattr(self, "breakers", ()):
            breakers.close()
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(owner=owners, name=names)
    def call(self, owner: int, name: str) -> None:
        assert self.breakers[owner].admits(name, TENANT, self.now) == self.plain[name].admits(owner, self.now)

    @rule(owner=owners, name=names, latency_ms=st.none() | st.integers(1, 1000))
    def succeed(self, owner: int, name: str, latency_ms: int | None) -> None:
        self.breakers[owner].succeeded(name, TENANT, latency_ms, self.now)
        self.plain[name].verdict(owner, self.now, well=True)

    @rule(owner=owners, name=names, times=st.integers(1, 6))
    def fail(self, owner: int, name: str, times: int) -> None:
        for _ in range(times):
            self.breakers[owner].failed(name, TENANT, self.now)
            self.plain[name].verdict(owner, self.now, well=False)

    @rule(owner=owners, name=names)
    def another_tenant_is_answered(self, owner: int, name: str) -> None:
        """Whatever the first one's calls met: what they did is told of nobody else's."""
        assert self.breakers[owner].admits(name, ANOTHER, self.now)
        self.breakers[owner].succeeded(name, ANOTHER, None, self.now)

    @rule(owner=owners, name=names, seconds=st.integers(1, 300))
    def cool(self, owner: int, name: str, seconds: int) -> None:
        until = self.now + seconds
        self.breakers[owner].cool_down(name, TENANT, until, self.now)
        self.plain[name].cool_until = max(self.plain[name].cool_until, until)

    @precondition(lambda self: any(plain.half_open(self.now) for plain in self.plain.values()))
    @rule(owner=owners, name=names)
    def give_up(self, owner: int, name: str) -> None:
        self.breakers[owner].release_probe(name, TENANT, self.now)
        if self.plain[name].half_open(self.now):
            self.plain[name].take_probe(owner)

    @rule(seconds=st.sampled_from((0.5, 10, 59, 60, 119, 121)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(owner=owners)
    def start_again(self, owner: int) -> None:
        """A process that ends leaves the breakers behind; its probes too, until their time is over."""
        path = self.breakers[owner].path
        self.breakers[owner].close()
        self.breakers[owner] = Breakers(path, well_for_s=0)
        for plain in self.plain.values():
            plain.running = [(-1, since) if who == owner else (who, since) for who, since in plain.running]

    @invariant()
    def all_see_the_same(self) -> None:
        if not hasattr(self, "plain"):
            return
        for name, plain in self.plain.items():
            living = [probe for probe in plain.running if self.now < probe[1] + 120]
            blocked = self.now < plain.cool_until or (
                plain.open_until is not None and (self.now < plain.open_until or plain.successes + len(living) >= 3)
            )
            assert [breakers.blocks(name, TENANT, self.now) for breakers in self.breakers] == [blocked] * OWNERS


TestBreakers = Machine.TestCase
TestBreakers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
