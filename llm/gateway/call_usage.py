"""What a call has used: read from its answer, or estimated; priced, and learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from governance.rules.calls import Usage
from governance.rules.decision import Quote
from llm.catalogue import snapshot
from llm.gateway.routes import Route
from llm.rules import bounds, pricing
from llm.rules.bounds import Estimate
from llm.rules.routing import Candidate
from llm.rules.stream_count import StreamCount
from llm.rules.token_ratios import TokenRatios


@dataclass(frozen=True, slots=True)
class PricedUsage:
    """Usage of a known model and price. `model` is the model's id in the catalogue."""

    usage: Usage
    cost_nanos: int
    price_rule: str
    model: str


@dataclass(frozen=True, slots=True)
class CallUsage:
    """How the usage of one call, of `agent` at the model `served`, is told."""

    route: Route
    estimate: Estimate
    served: Candidate
    quote: Quote
    agent: str
    token_ratios: TokenRatios

    def estimated(self) -> Usage:
        """What is known of it without an answer: the units of what is not counted in tokens."""
        return Usage(
            provider=self.served.provider, model=self.quote.model, unit=self.estimate.unit, units=self.estimate.units
        )

    def reported(self, answer: Mapping[str, Any]) -> Usage | None:
        """What an answer, or a stream's event, says was used, at the model that it says served."""
        usage = self.route.read_usage(answer, self.quote.model, self.estimate.unit)
        return None if usage is None else replace(usage, provider=self.served.provider)

    def charge(self, usage: Usage) -> PricedUsage | None:
        """What `usage` costs at the prices of the moment; None where there is no price for it."""
        catalogue = snapshot.current()
        # It may name a model that the catalogue does not know: the one asked for has a price.
        for model in (usage.model, self.quote.model):
            named = replace(usage, model=model)
            entry = catalogue.used(named)
            if entry is None or entry.rates is None:
                continue
            cost_nanos = pricing.cost_nanos(named, entry.rates)
            if cost_nanos is not None:
                return PricedUsage(named, cost_nanos, entry.rates.rule, entry.id)
        return None

    def learn(self, charge: PricedUsage, output_bytes: int | None) -> None:
        usage, model = charge.usage, charge.model
        if not usage.output_tokens:
            return
        self.token_ratios.answered(
            model=model, agent=self.agent, output_tokens=-(-usage.output_tokens // self.quote.answers)
        )
        if self.estimate.input_bytes is not None:
            self.token_ratios.read(model=model, input_tokens=usage.input_tokens, input_bytes=self.estimate.input_bytes)
        if output_bytes is not None:
            self.token_ratios.wrote(model=model, output_tokens=usage.output_tokens, output_bytes=output_bytes)

    def stream_count(self) -> StreamCount | None:
        """What counts along with its stream; None of a model that hides some of what it writes, for nobody can."""
        entry = self.served.entry
        if entry is not None and bounds.hides_output(entry):
            return None
        return StreamCount(
            self.quote,
            model=self.quote.model if entry is None else entry.id,
            input_bytes=self.estimate.input_bytes,
            token_ratios=self.token_ratios,
        )
