"""How much a call may cost at most, wherever it may go: each provider and each tokenizer bounds it in its own way."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace

import orjson

from governance.rules.decision import Quote, Quoter
from governance.rules.overruns import ModelOverrun
from llm.catalogue.snapshot import Catalogue
from llm.gateway import errors
from llm.gateway.process import Gateway
from llm.rules import bounds, estimates, exact_count
from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate
from llm.rules.exact_count import Tokenizer
from llm.rules.request_checks import DialectError
from llm.rules.routing import Candidate

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CallBounds:
    """The bounds of one call, from one attempt to the next."""

    gateway: Gateway
    catalogue: Catalogue
    request: Request
    estimate: Estimate
    # Models, as `provider/id`, and providers that the call goes to no more; whose call it is adds to it.
    avoided: Set[str]
    # By provider, as far as it was asked for; or why it has none there.
    estimates: dict[str, Estimate | errors.GatewayError] = field(default_factory=dict)
    # How many tokens fewer than bytes its texts have, by provider and tokenizer.
    saved_tokens: dict[tuple[str, Tokenizer], int] = field(default_factory=dict)
    # What is known of models that pass their bounds.
    overruns: Sequence[ModelOverrun] = ()
    # Whether it asks for nothing that chooses its tokens for it; None: nobody has asked yet.
    plainly_sampled: bool | None = None

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Do what takes time by the size of the request. The ledger asks for quotes in the midst of others' calls."""
        for provider in dict.fromkeys(candidate.provider for candidate in candidates):
            self.at_provider(provider)
        for candidate in candidates:
            self.leaves_tokens_to(candidate)

    def quoter(self, known: dict[str, Candidate], home: str, overruns: Sequence[ModelOverrun] = ()) -> Quoter:
        """Prices at every model; one that is avoided can do nothing, so no rule leads to it.

        A rule's bare name means the model at `home`, the provider that is asked, where it has one: calls of a zone stay
        there. What a rule names is kept in `known`.
        """
        # Of this attempt; the one before may have shown more.
        self.overruns = overruns

        def quote(model: str) -> Quote | None:
            candidate = known.get(model)
            if candidate is None:
                name = self.catalogue.nearest(model, home=home)
                candidate = known.get(name) or Candidate(name, self.catalogue.resolve(name))
                known[model] = known[name] = candidate
            estimate = self.at(candidate)
            if estimate is None:
                return None
            found = estimates.quote(estimate, candidate.entry, model=candidate.name)
            if found is None or self.avoided.isdisjoint(candidate.places):
                return found
            return replace(found, capable=False)

        return quote

    def at(self, candidate: Candidate) -> Estimate | None:
        """The bound of what would leave for a candidate, as its tokenizer counts it where that was done; None: none."""
        if candidate.entry is None:
            return self.estimate
        found = self.at_provider(candidate.provider)
        if isinstance(found, errors.GatewayError):
            return None
        found = found.knowing(self.overruns, candidate.place)
        tokenizer = self.gateway.tokenizers.of(candidate.entry)
        saved = self.saved_tokens.get((candidate.provider, tokenizer)) if tokenizer else None
        return found.with_saved(saved, candidate.entry) if saved else found

    def at_provider(self, provider: str) -> Estimate | errors.GatewayError:
        """The bound of what would leave for a provider: they are sent different bodies for the same request.

        Where there is none, why: the ledger asks for quotes in the midst of others' calls, so nothing is raised.
        """
        if provider not in self.gateway.providers:
            return self.estimate
        found = self.estimates.get(provider)
        if found is None:
            try:
                found = self.gateway.providers[provider].bound(self.request, self.estimate)
            except DialectError:
                # It cannot be asked; whoever tries says so.
                found = self.estimate
            except bounds.UnboundedInput as error:
                found = errors.bad_request(f"{error}.", param=error.param, code="unbounded_input")
            except Exception:
                log.exception("a request cannot be bounded at %s, so it is not asked", provider)
                found = errors.bad_request(f"This request cannot be bounded at {provider}, so it is not accepted.")
            self.estimates[provider] = found
        return found

    async def count_texts(self, providers: Iterable[str]) -> None:
        """Count the call's texts before the ledger decides, for all models there that a rule may take it to."""
        for provider in providers:
            for tokenizer in self.gateway.tokenizers.at(provider, self.catalogue):
                if (provider, tokenizer) not in self.saved_tokens:
                    bound = self.at_provider(provider)
                    texts = bound.texts if isinstance(bound, Estimate) else ()
                    self.saved_tokens[provider, tokenizer] = await self._saved_tokens(tokenizer, texts)

    async def _saved_tokens(self, tokenizer: Tokenizer, texts: Sequence[str]) -> int:
        saved = await self.gateway.tokenizers.count(
            lambda: exact_count.saved_tokens(tokenizer, texts), text_bytes=sum(map(len, texts))
        )
        return saved or 0

    def leaves_tokens_to(self, candidate: Candidate) -> bool:
        """Whether a model that is counted for writes as it will. Some are sent all that came, so that is looked at."""
        if self.gateway.tokenizers.of(candidate.entry) is None or self.estimate.max_tokens is None:
            return False
        if self.plainly_sampled is None:
            self.plainly_sampled = exact_count.is_plainly_sampled(orjson.loads(self.request.body))
        return self.plainly_sampled

    def endless(self, candidate: Candidate) -> errors.GatewayError | None:
        """Why a model has no quote that has a price: nobody knows how much it may write, or read."""
        estimate = self.at(candidate)
        side = None if candidate.entry is None or estimate is None else estimate.unbounded_at(candidate.entry)
        if candidate.entry is None or estimate is None or side is None:
            return None
        return errors.bad_request(estimate.no_bound_at(candidate.entry), param="model", code=f"unbounded_{side}")
