"""What a call has used: read from its answer, or counted strictly; priced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from governance.rules.calls import Usage
from governance.rules.decision import Quote
from governance.rules.overruns import ModelOverrun, Side, asked_for
from llm.catalogue import snapshot
from llm.catalogue.snapshot import Catalogue
from llm.gateway.routes import BELIEVED_TIMES, Route
from llm.rules import estimates, pricing, usage
from llm.rules.estimates import LONGEST_CONTEXT, Estimate
from llm.rules.exact_count import Tokenizer
from llm.rules.models import is_same_line, is_same_model
from llm.rules.pricing import HIDDEN_PROMPT_TOKENS, Entry
from llm.rules.routing import Candidate
from llm.rules.stream_count import StreamCount

# Why a reported usage is not charged as it says.
USAGE_MISSING = "usage_missing"
USAGE_IMPLAUSIBLE = "usage_implausible"
MODEL_UNKNOWN = "model_unknown"
PRICE_MISSING = "price_missing"
# A dearer tier served than was asked for, and nobody has said what it costs.
TIER_UNPRICED = "tier_unpriced"
# It is said to have cost more than was held for.
TOLD_ABOVE_HOLD = "told_above_hold"
# What other providers than Mistral may read and write beside what they were asked to: prompts and thoughts of theirs.
UNTOLD_TOKENS = 16_384
# What endpoints count beside an answer's bound without passing it: marks of its end, a least length of their own.
BESIDE_ANSWER = 64


class NotChargeable(Exception):
    """A reported usage cannot be charged as it is: `reason` says why, and goes onto the ledger's line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PricedUsage:
    """Usage of a known model and price."""

    usage: Usage
    cost_nanos: int
    price_rule: str


@dataclass(frozen=True, slots=True)
class CallUsage:
    """How the usage of one call at the model `served` is told. `estimate` is the bound at that model."""

    # Its prices are those that were held for.
    catalogue: Catalogue
    route: Route
    estimate: Estimate
    served: Candidate
    quote: Quote
    # What counts as the model does, and whether it counts what the model writes too.
    tokenizer: Tokenizer | None = None
    counts_answer: bool = False

    def estimated(self, output_tokens: int | None = None) -> Usage:
        """What is charged without a provider's count: the bound of its input, and so many output tokens, or all."""
        known = Usage(provider=self.served.provider, model=self._id, unit=self.estimate.unit, units=self.estimate.units)
        if self.estimate.unit != "token":
            return known
        output_tokens = self._most_written() if output_tokens is None else output_tokens
        return replace(
            known,
            input_tokens=self.quote.input_tokens,
            output_tokens=output_tokens,
            units=self.quote.input_tokens + output_tokens,
        )

    def reported(self, answer: Mapping[str, Any]) -> Usage | None:
        """What an answer, or a stream's event, says was used, at the model that it says served."""
        write_e2 = max(usage.WRITE_E2, self.estimate.input_e2)
        found = self.route.read_usage(answer, self.quote.model, self.estimate.unit, write_e2)
        return None if found is None else _renamed(found, provider=self.served.provider)

    def at_least(self, answer: Mapping[str, Any]) -> Usage | None:
        """What an answer that does not say all says was used at the least."""
        found = usage.least_tokens(answer, model=self.quote.model) if self.estimate.unit == "token" else None
        return None if found is None else _renamed(found, provider=self.served.provider)

    def shown(self, answer: Mapping[str, Any]) -> Usage | None:
        """The units that came, whatever was said: no more of them than a call that nobody has measured may have."""
        most = BELIEVED_TIMES * max(self.estimate.held_units, self.estimate.most_units)
        units = min(self.route.shown_units(answer), most)
        return replace(self.estimated(), units=units) if units else None

    def charge(self, found: Usage | None, *, written_bytes: int, answer_bytes: int) -> PricedUsage:
        """What a reported usage costs at the prices that the call began by. Raises NotChargeable.

        `written_bytes` of text came with it for certain, `answer_bytes` as far as anybody knows.
        """
        if found is None:
            raise NotChargeable(USAGE_MISSING)
        if self._implausible(found, written_bytes, answer_bytes):
            raise NotChargeable(USAGE_IMPLAUSIBLE)
        return self.named(found, found.model)

    def believes(self, found: Usage) -> bool:
        """Whether a call can have used as much."""
        return not self._implausible(found, 0, 0)

    def named(self, used: Usage, name: str) -> PricedUsage:
        """What as much costs at a model that an answer names. Raises NotChargeable."""
        priced = self._priced(_renamed(used, model=name))
        if self._of_another_line(priced):
            raise NotChargeable(USAGE_IMPLAUSIBLE)
        return priced

    def in_tier(self, used: Usage, tier: str) -> PricedUsage | None:
        """What as much costs in a service tier; None where the catalogue has no price of it."""
        entry = self._used(used)
        rates = None if entry is None else entry.tier_rates.get(tier)
        cost_nanos = None if rates is None else pricing.cost_nanos(used, rates)
        return None if rates is None or cost_nanos is None else PricedUsage(used, cost_nanos, rates.rule)

    def id_of(self, name: str) -> str:
        """The id of a model that an answer names. Raises NotChargeable where nobody knows it or its price."""
        if self._entry is not None and name in self._entry.names:
            return _own_id(self._entry)
        return self._priced(replace(self.estimated(0), model=name)).usage.model

    def _priced(self, found: Usage) -> PricedUsage:
        entry = self._used(found)
        if entry is None:
            # Another name of what was asked for has its price; what may be another model has none.
            if not any(is_same_model(name, found.model) for name in (self.quote.model, self._id, *self._ids)):
                raise NotChargeable(MODEL_UNKNOWN)
            found = replace(found, model=self.quote.model)
            entry = self._used(found)
        if entry is None or entry.rates is None:
            raise NotChargeable(PRICE_MISSING)
        cost_nanos = pricing.cost_nanos(found, entry.rates)
        if cost_nanos is None:
            raise NotChargeable(PRICE_MISSING)
        return PricedUsage(_renamed(found, model=_own_id(entry)), cost_nanos, entry.rates.of(found.input_tokens).rule)

    def _used(self, found: Usage) -> Entry | None:
        """What served, at the price that the call was held for; what had none then, at that of now.

        A price that begins meanwhile is for later calls; one that was put right meanwhile was wrong for this one, too.
        What a name meant when the call began it means to its end.
        """
        current = snapshot.current()
        now = then = self.catalogue.used(found)
        if current is not self.catalogue:
            # By its own id, which no alias takes from it.
            now = current.used(found) if then is None else current.resolve(f"{then.provider}/{then.upstream}")
        has_begun = current.last_change_at != self.catalogue.last_change_at
        first, second = (then, now) if has_begun else (now, then)
        return first if first is not None and first.rates is not None else second or first

    def _implausible(self, found: Usage, written_bytes: int, answer_bytes: int) -> bool:
        if found.unit != "token":
            return found.units > self.route.most_units(self.estimate)
        return self._beyond_request(found, written_bytes) or bool(
            usage.implausible(
                found,
                most_input=self._most_read(),
                most_output=self._most_written(),
                answer_bytes=answer_bytes,
            )
        )

    def _beyond_request(self, found: Usage, written_bytes: int) -> bool:
        """Whether more is said to be read than can have been sent, or more written than was asked for or has come.

        A provider may put a prompt of its own before the client's, and others than Mistral may count hidden thoughts
        beside what they were asked for: so much is believed of them. What must be written unseen, by a model that
        thinks, is bounded by the model's context alone.
        """
        entry = self._entry
        if entry is None:
            return False
        # Of a picture some read more than anybody has said: so much is charged, and an overrun.
        beside = HIDDEN_PROMPT_TOKENS if entry.is_mistrals else UNTOLD_TOKENS
        most_read = self._most_read() if self.estimate.images else self._most_input(entry, beside=beside)
        if found.input_tokens > most_read:
            return True
        if self.quote.max_tokens is None:
            return False
        if entry.is_mistrals:
            return found.output_tokens > self._most_written() + self._beside_answers
        if estimates.hides_output(entry):
            return False
        return found.output_tokens > max(self._most_written(), written_bytes) + UNTOLD_TOKENS

    def overruns(self, found: Usage | None, *, shown_tokens: int) -> tuple[ModelOverrun, ...]:
        """What shows that the request does not bound what this model writes, or reads.

        `found` is what was reported, believed or not; `shown_tokens`: so many the text that came has at least.
        """
        sides = (self._overrun(found, shown_tokens), None if found is None else self._overread(found))
        return tuple(side for side in sides if side is not None)

    def _overread(self, found: Usage) -> ModelOverrun | None:
        """More is said to be read than was sent, and than is put beside it as a rule, pictures or not."""
        entry = self._entry
        if entry is None:
            return None
        if found.unit == "token":
            read, permitted, bound = found.input_tokens, self.quote.input_tokens, entry.context_tokens
            most = self._most_input(entry, beside=HIDDEN_PROMPT_TOKENS)
        else:
            read, permitted, bound = found.units, self.estimate.held_units, self.estimate.most_units or None
            most = permitted
        if read <= most:
            return None
        inputs = self.estimate.inputs
        asked, permitted = asked_for(self.estimate.read_by), permitted // inputs
        tokens = _shown(-(-read // inputs), permitted, bound)
        if tokens <= permitted:
            return None
        return ModelOverrun(self.served.place, asked, tokens, permitted, side=Side.INPUT)

    def _most_input(self, entry: Entry, *, beside: int) -> int:
        """Tokens at most that were read, if a provider puts `beside` of its own before each of the client's inputs."""
        return min(self._most_read(), self.quote.input_tokens + self.estimate.inputs * beside)

    def _overrun(self, found: Usage | None, shown_tokens: int) -> ModelOverrun | None:
        """More was written, or is said to be, than the request's length permits."""
        if self.quote.max_tokens is None:
            return None
        reported = found.output_tokens if found is not None and found.unit == "token" else 0
        if reported <= self._most_written() + self._beside_answers and shown_tokens <= self._most_written():
            return None
        answers, permitted = self.quote.answers, self.quote.max_tokens
        bound = None if self._entry is None else self._entry.context_tokens
        tokens = max(_shown(-(-reported // answers), permitted, bound), -(-shown_tokens // answers))
        if tokens <= permitted:
            return None
        return ModelOverrun(self.served.place, asked_for(self.estimate.asked), tokens, permitted)

    @property
    def _beside_answers(self) -> int:
        """Tokens that are believed, and charged, beyond what was permitted; what is more is an overrun."""
        return BESIDE_ANSWER * self.quote.answers

    def _of_another_line(self, priced: PricedUsage) -> bool:
        """Whether Mistral says that a model of another line served, at more than was held for the one asked for."""
        entry = self._entry
        if entry is None or not entry.is_mistrals or priced.cost_nanos <= self.quote.cost_nanos:
            return False
        return not any(is_same_line(name, priced.usage.model) for name in (self.quote.model, self._id, *self._ids))

    def _most_written(self) -> int:
        return self.quote.answers * (self.quote.max_tokens or 0)

    def _most_read(self) -> int:
        """Tokens that the model can have read, however little was sent."""
        context = None if self._entry is None else self._entry.context_tokens
        return max(self.estimate.inputs * (context or LONGEST_CONTEXT), self.quote.input_tokens)

    def count(self) -> StreamCount:
        """What counts along with its answer. Mistral's models show what they think; others may not, if asked to.

        What was held for beside the answer's length is thinking, whoever shows it.
        """
        entry = self._entry
        is_mistrals = entry is not None and entry.is_mistrals
        return StreamCount(
            self.quote,
            hides=entry is None
            or estimates.hides_output(entry)
            or self.estimate.hides
            or self.estimate.tokens_beside > 0
            or self.estimate.overran_tokens > 0
            or ("reasoning" in self.estimate.needs and not is_mistrals),
            shows_all=is_mistrals,
            keeps_texts=self.tokenizer is not None and self.counts_answer,
            echoed_bytes=self.estimate.echoed_bytes,
            withheld_bytes=self.estimate.withheld_bytes,
        )

    @property
    def _entry(self) -> Entry | None:
        return self.served.entry

    @property
    def _id(self) -> str:
        return self.quote.model if self._entry is None else _own_id(self._entry)

    @property
    def _ids(self) -> frozenset[str]:
        return frozenset() if self._entry is None else self._entry.names


def _renamed(found: Usage, *, provider: str | None = None, model: str | None = None) -> Usage:
    """The same usage at another provider or model; itself where it is there already."""
    provider, model = found.provider if provider is None else provider, found.model if model is None else model
    is_there = provider == found.provider and model == found.model
    return found if is_there else replace(found, provider=provider, model=model)


def _shown(tokens: int, permitted: int, bound: int | None) -> int:
    """What a count shows. None of a model has come to more than the longest context: it says "more than permitted".

    Not that the model's own bound is none, however often it comes: where that was permitted it shows nothing.
    """
    if tokens <= LONGEST_CONTEXT:
        return tokens
    return permitted + 1 if bound is None else min(permitted + 1, bound)


def _own_id(entry: Entry) -> str:
    """The model's id at its provider, under which reports find all of its lines."""
    return entry.id.removeprefix(f"{entry.provider}/")
