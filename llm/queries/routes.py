"""The routing file in force as people read it: the pool, what each strategy takes, the chains, how each stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from llm.catalogue import snapshot
from llm.rules.routing import Option, Options, Strategy
from llm.state import breakers, routing
from llm.state.breakers import BreakerStatus


@dataclass(frozen=True, slots=True)
class RouteStep:
    """A model that the file names. `problem`: why no call goes there, whatever the budgets say; empty: one may."""

    option: Option
    breaker: BreakerStatus | None
    latency_ms: float | None

    @property
    def name(self) -> str:
        return self.option.name

    @property
    def problem(self) -> str:
        if self.option.entry is None:
            return "not served"
        if self.option.entry.rates is None:
            return "no price"
        if not self.option.model.enabled:
            return "switched off"
        return self.breaker.label if self.breaker is not None and self.breaker.is_impaired else ""


@dataclass(frozen=True, slots=True)
class Routes:
    """`strategies` in the order in which each would look at its models, as far as the file alone says it."""

    pool: list[RouteStep]
    strategies: list[tuple[Strategy, list[RouteStep]]]
    chains: list[tuple[str, list[RouteStep]]]


def options() -> Options:
    return routing.options(snapshot.current())


def read(*, now: datetime) -> Routes:
    found = options()
    steps = {name: _step(option, now) for name, option in found.pool.items()}
    chains = [
        (name, [steps.get(step) or _step(found.named(step), now) for step in chain])
        for name, chain in found.routing.chains.items()
    ]
    strategies = [
        (strategy, [steps[option.name] for option in found.of(strategy)])
        for strategy in map(found.routing.strategy, found.routing.strategy_names)
    ]
    return Routes(list(steps.values()), strategies, chains)


def _step(option: Option, now: datetime) -> RouteStep:
    at = now.timestamp()
    status = breakers.shared().status(option.place, at) if option.entry else None
    return RouteStep(option, status, status.breaker.known_latency_ms(at) if status else None)
