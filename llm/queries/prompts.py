"""What a prompt would be held for, by the gateway's own count of it. Nothing is sent, reserved or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from governance.rules.decision import Call, Quote, Quoter
from governance.rules.overruns import ModelOverrun
from llm.catalogue import snapshot
from llm.catalogue.snapshot import Catalogue
from llm.gateway.routes import CHAT
from llm.providers import Provider, endpoints, registry
from llm.rules import bounds, estimates
from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate
from llm.rules.pricing import DEFAULT_PROVIDER
from llm.rules.request_checks import DialectError
from llm.rules.routing import Candidate


class PromptRefused(ValueError):
    """The gateway would not take such a request, whatever the budgets say; the message is its sentence."""


@dataclass(frozen=True, slots=True)
class PromptBounds:
    """A chat of one message, bounded as each provider would be sent it."""

    request: Request
    estimate: Estimate
    catalogue: Catalogue
    providers: Mapping[str, Provider]

    def call(self, *, allow_downgrade: bool, shows_amounts: bool) -> Call:
        """What the decision is asked."""
        return Call(
            model=self.request.model,
            quote=self.quoter(),
            tools=self.request.tools,
            forced_tool=self.request.forced_tool,
            allow_downgrade=allow_downgrade,
            overrun_quote=self.quoter,
            shows_amounts=shows_amounts,
        )

    def quoter(self, overruns: Sequence[ModelOverrun] = ()) -> Quoter:
        """Prices it at any model. A rule's bare name means the model at the asked one's provider, if there."""
        asked = self.catalogue.resolve(self.request.model)
        home = asked.provider if asked else DEFAULT_PROVIDER

        def quote(model: str) -> Quote | None:
            name = model if model == self.request.model else self.catalogue.nearest(model, home=home)
            candidate = Candidate(name, self.catalogue.resolve(name))
            if candidate.entry is None:
                return None
            known = self._at(candidate.provider).knowing(overruns, candidate.place)
            return estimates.quote(known, candidate.entry, model=name)

        return quote

    def _at(self, provider: str) -> Estimate:
        known = self.providers.get(provider)
        if known is None:
            return self.estimate
        try:
            return known.bound(self.request, self.estimate)
        except DialectError:
            return self.estimate


def read(
    *, model: str, prompt: str, max_tokens: int | None, default_max_tokens: int, tools: Sequence[str], forced_tool: str
) -> PromptBounds:
    """The chat that a prompt makes, as `/v1/chat/completions` reads it. Raises PromptRefused."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if tools:
        body["tools"] = [_tool(name) for name in tools]
    if forced_tool:
        body["tool_choice"] = {"type": "function", "function": {"name": forced_tool}}
    try:
        request = CHAT.parse(orjson.dumps(body), "application/json", frozenset())
        estimate = CHAT.estimate(request, default_max_tokens)
    except (DialectError, bounds.UnboundedInput) as error:
        raise PromptRefused(str(error)) from error
    except orjson.JSONEncodeError as error:
        raise PromptRefused("The prompt is no text that JSON can hold.") from error
    found = replace(estimate, asked=estimate.asked | request.lengthening)
    return PromptBounds(request, found, snapshot.current(), registry.everything(endpoints.usable()))


def _tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
