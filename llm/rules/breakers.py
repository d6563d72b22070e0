"""When a model that keeps failing is called no more: one circuit breaker, as a value. Pure; times are seconds.

Closed, until FAILURES calls in a row have failed. Then open for OPEN_S: nothing is sent. Then half-open: at most PROBES
calls may try it; once so many have succeeded it is closed, and one failure opens it again. Besides, a model that asks
for it cools down until a given time.

The clock is the wall's, which may be set: a time farther away than this module ever puts one counts as over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

FAILURES = 5
OPEN_S = 60.0
PROBES = 3
# A probe without a verdict, such as one whose process died, makes room for another after this long.
PROBE_S = 120.0
LONGEST_COOL_DOWN_S = 300.0
# How far one more answer moves the mean latency, and how long the mean is worth anything.
LATENCY_WEIGHT = 0.2
LATENCY_KNOWN_S = 600.0


class Phase(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Sender(NamedTuple):
    """The process that a call goes from, and the id of the tenant that it is for."""

    process: int
    tenant: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A call that tries a half-open model."""

    owner: Sender
    until: float

    def runs(self, now: float) -> bool:
        return 0 < self.until - now <= PROBE_S


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known of one model. `failures` counts those since the last success, `openings` all there were."""

    failures: int = 0
    openings: int = 0
    # None: closed.
    opened_at: float | None = None
    # Since it became half-open: probes that succeeded, and those that have no verdict.
    passed: int = 0
    probes: tuple[Probe, ...] = ()
    cool_until: float = 0.0
    latency_ms: float | None = None
    measured_at: float = 0.0

    def phase(self, now: float) -> Phase:
        if self.opened_at is None:
            return Phase.CLOSED
        return Phase.OPEN if abs(now - self.opened_at) < OPEN_S else Phase.HALF_OPEN

    def is_cooling_down(self, now: float) -> bool:
        return 0 < self.cool_until - now <= LONGEST_COOL_DOWN_S

    def blocks(self, now: float) -> bool:
        """Whether no call may go to it."""
        if self.is_cooling_down(now):
            return True
        phase = self.phase(now)
        return phase is Phase.OPEN or (phase is Phase.HALF_OPEN and not self._has_room(now))

    def blocked_until(self, now: float) -> float:
        """Until when it lets no call go, where it lets none; the verdict of a probe may end that before."""
        ends = [now]
        if self.is_cooling_down(now):
            ends.append(self.cool_until)
        if self.opened_at is not None and self.phase(now) is Phase.OPEN:
            ends.append(self.opened_at + OPEN_S)
        elif running := [probe.until for probe in self.probes if probe.runs(now)]:
            ends.append(min(running))
        return max(ends)

    def admitted(self, owner: Sender, now: float) -> Breaker | None:
        """The breaker once a call of `owner` has gone; None where it must not."""
        return None if self.blocks(now) else self.probed(owner, now)

    def probed(self, owner: Sender, now: float) -> Breaker:
        """With one more probe of `owner`, where it is not closed."""
        if self.opened_at is None:
            return self
        running = tuple(probe for probe in self.probes if probe.runs(now))
        return replace(self, probes=(*running, Probe(owner, now + PROBE_S)))

    def succeeded(self, owner: Sender, now: float) -> Breaker:
        if self.phase(now) is Phase.CLOSED:
            return replace(self, failures=0) if self.failures else self
        released = self.released(owner, now)
        if released is self:
            # Sent before it opened: that call says nothing of how the model does now.
            return self
        if self.passed + 1 < PROBES:
            return replace(released, passed=self.passed + 1)
        return replace(self, failures=0, opened_at=None, passed=0, probes=())

    def failed(self, owner: Sender, now: float) -> Breaker:
        phase = self.phase(now)
        if phase is Phase.CLOSED and self.failures + 1 < FAILURES:
            return replace(self, failures=self.failures + 1)
        if phase is Phase.OPEN or (phase is Phase.HALF_OPEN and self.released(owner, now) is self):
            return self
        return self.tripped(now)

    def tripped(self, now: float) -> Breaker:
        """Opened by one more failure."""
        return replace(self, failures=self.failures + 1, openings=self.openings + 1, opened_at=now, passed=0, probes=())

    def released(self, owner: Sender, now: float) -> Breaker:
        """Without one probe of `owner`, its oldest; the same where it has none."""
        if self.phase(now) is not Phase.HALF_OPEN:
            return self
        mine = next((probe for probe in self.probes if probe.owner == owner), None)
        if mine is None:
            return self
        rest = list(self.probes)
        rest.remove(mine)
        return replace(self, probes=tuple(rest))

    def cooling_down(self, until: float) -> Breaker:
        """Cools down until then at least. Longer than LONGEST_COOL_DOWN_S ahead is no cool-down at all."""
        stale = self.cool_until - until > LONGEST_COOL_DOWN_S
        return replace(self, cool_until=until) if stale or until > self.cool_until else self

    def measured(self, latency_ms: float, now: float) -> Breaker:
        """With one more answer's latency in the mean."""
        known = self.known_latency_ms(now)
        mean = latency_ms if known is None else known + (latency_ms - known) * LATENCY_WEIGHT
        return replace(self, latency_ms=mean, measured_at=now)

    def known_latency_ms(self, now: float) -> float | None:
        """The mean latency; None where it is not known or of long ago."""
        return self.latency_ms if abs(now - self.measured_at) < LATENCY_KNOWN_S else None

    def _has_room(self, now: float) -> bool:
        return self.passed + sum(probe.runs(now) for probe in self.probes) < PROBES
