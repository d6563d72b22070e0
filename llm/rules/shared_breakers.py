"""Whose failures they are: what counts against a model for everybody, and what for one tenant alone. Pure.

A tenant's prompts may fail wherever they go, so its failures open a breaker of its own, by the rules of `breakers`.
They open everybody's when another tenant's calls fail too: after FAILURES in a row of all, of which SHARE at most are
one tenant's. Half-open, one tenant's failed probe is its own; a second tenant's opens it again for all. Likewise a
cool-down is a tenant's, until another is told to wait while it lasts: for all it is then the shorter of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm.rules.breakers import FAILURES, PROBES, Breaker, Phase, Sender

# One failure of another tenant may be chance, and the rest a prompt's.
SHARE = FAILURES - 2
# Tenants that have a breaker of their own at a model. One more takes the place of one that it does not hold up.
TENANTS = 4
_UNTRIED = Breaker()


@dataclass(frozen=True, slots=True)
class OwnBreaker:
    """What is held against a model for one tenant. `counted`: how many of everybody's failures in a row are its own."""

    tenant: int
    breaker: Breaker = _UNTRIED
    counted: int = 0

    def is_blank(self, now: float) -> bool:
        breaker = self.breaker
        return not (self.counted or breaker.failures or breaker.opened_at or breaker.is_cooling_down(now))

    def is_impaired(self, now: float) -> bool:
        return self.breaker.opened_at is not None or self.breaker.is_cooling_down(now)


@dataclass(frozen=True, slots=True)
class SharedBreaker:
    """What is known of one model. `own` are in the order in which they changed; latencies are everybody's."""

    everyone: Breaker = _UNTRIED
    own: tuple[OwnBreaker, ...] = ()

    def blocks(self, tenant: int, now: float) -> bool:
        """Whether no call of the tenant may go to it."""
        return self._blocks_all(tenant, now) or self._of(tenant).breaker.blocks(now)

    def admitted(self, sender: Sender, now: float) -> SharedBreaker | None:
        """The breaker once a call has gone; None where it must not. Half-open, the call is a probe."""
        if self.blocks(sender.tenant, now):
            return None
        own = self._of(sender.tenant)
        probed = replace(own, breaker=own.breaker.probed(sender, now))
        return replace(self, everyone=self.everyone.probed(sender, now))._with(probed, now)

    def succeeded(self, sender: Sender, now: float) -> SharedBreaker:
        everyone = self.everyone.succeeded(sender, now)
        if everyone is self.everyone and everyone.phase(now) is not Phase.CLOSED:
            # Sent before it opened.
            return self
        own = self.own if everyone.failures else tuple(replace(each, counted=0) for each in self.own)
        after = SharedBreaker(everyone, own)
        mine = after._of(sender.tenant)
        return after._with(replace(mine, breaker=mine.breaker.succeeded(sender, now)), now)

    def failed(self, sender: Sender, now: float) -> SharedBreaker:
        phase, own = self.everyone.phase(now), self._of(sender.tenant)
        if phase is Phase.OPEN:
            return self
        if phase is Phase.HALF_OPEN:
            return self._probe_failed(own, sender, now)
        breaker, everyone = own.breaker.failed(sender, now), self.everyone
        if counts := own.counted < SHARE:
            everyone = everyone.failed(sender, now)
            if everyone.opened_at is not None:
                return SharedBreaker(everyone)
        opened = breaker.openings - own.breaker.openings
        everyone = replace(everyone, openings=everyone.openings + opened)
        return replace(self, everyone=everyone)._with(OwnBreaker(own.tenant, breaker, own.counted + counts), now)

    def released(self, sender: Sender, now: float) -> SharedBreaker:
        """Without one probe of the sender, its oldest."""
        own = self._of(sender.tenant)
        released = replace(own, breaker=own.breaker.released(sender, now))
        return replace(self, everyone=self.everyone.released(sender, now))._with(released, now)

    def cooling_down(self, tenant: int, until: float, now: float) -> SharedBreaker:
        """Cools down for the tenant until then at least; for all, as long as another tenant was told to wait too."""
        own, everyone = self._of(tenant), self.everyone
        for other in self.own:
            if other.tenant != tenant and other.breaker.is_cooling_down(now):
                everyone = everyone.cooling_down(min(until, other.breaker.cool_until))
        return replace(self, everyone=everyone)._with(replace(own, breaker=own.breaker.cooling_down(until)), now)

    def measured(self, latency_ms: float, now: float) -> SharedBreaker:
        """With one more answer's latency in the mean."""
        return replace(self, everyone=self.everyone.measured(latency_ms, now))

    def is_well(self, tenant: int) -> bool:
        """Whether a success of the tenant's says nothing new."""
        everyone = self.everyone
        return everyone.opened_at is None and not everyone.failures and all(each.tenant != tenant for each in self.own)

    def seen_by(self, tenant: int, now: float) -> Breaker:
        """What holds the tenant up, where something does."""
        own = self._of(tenant).breaker
        return own if own.blocks(now) else self.everyone

    def shown(self, now: float) -> Breaker:
        """Everybody's; or a tenant's, the worst, while nothing has gone well since: there may be one tenant alone."""
        of_all = self.everyone
        if not self.own or not of_all.failures or of_all.opened_at is not None:
            return of_all
        worst = max(self.own, key=lambda own: (own.breaker.opened_at is not None, own.breaker.failures)).breaker
        return replace(
            worst,
            openings=of_all.openings,
            cool_until=max(of_all.cool_until, *(own.breaker.cool_until for own in self.own)),
            latency_ms=of_all.latency_ms,
            measured_at=of_all.measured_at,
        )

    def _blocks_all(self, tenant: int, now: float) -> bool:
        """Half-open it has room for another tenant always: one whose probes last must not keep the others out."""
        if self.everyone.phase(now) is not Phase.HALF_OPEN or self.everyone.is_cooling_down(now):
            return self.everyone.blocks(now)
        running = [probe.owner.tenant for probe in self.everyone.probes if probe.runs(now)]
        return len(running) >= PROBES or running.count(tenant) >= PROBES - 1

    def _probe_failed(self, own: OwnBreaker, sender: Sender, now: float) -> SharedBreaker:
        everyone = self.everyone.released(sender, now)
        if everyone is self.everyone:
            # Sent before it opened.
            return self
        if any(each.tenant != sender.tenant and each.breaker.opened_at is not None for each in self.own):
            return SharedBreaker(everyone.tripped(now))
        everyone = replace(everyone, failures=everyone.failures + 1, openings=everyone.openings + 1)
        return replace(self, everyone=everyone)._with(replace(own, breaker=own.breaker.tripped(now)), now)

    def _of(self, tenant: int) -> OwnBreaker:
        return next((each for each in self.own if each.tenant == tenant), OwnBreaker(tenant))

    def _with(self, own: OwnBreaker, now: float) -> SharedBreaker:
        others = [each for each in self.own if each.tenant != own.tenant]
        if own.is_blank(now):
            return replace(self, own=tuple(others))
        if own in self.own:
            return self
        if len(others) == TENANTS:
            others.remove(next((each for each in others if not each.breaker.blocks(now)), others[0]))
        return replace(self, own=(*others, own))
