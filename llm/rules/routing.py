"""Which models a call may be tried at, in which order. Pure: the file is read by `llm.state.routing`.

Without a strategy a call goes to the model it names, and if that fails on along its chain. With one the strategy puts
the models of the pool in order, and the first that the money allows is called. All but the model that the call names
are priced and lack nothing that it needs.

A name with its provider in it (`mistral-eu/mistral-small-latest`) means that provider: such a call stays there, unless
a chain of the file itself leads away. A bare name may also be served elsewhere, where the pool says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol, assert_never

from llm.rules import estimates
from llm.rules.estimates import Estimate
from llm.rules.pricing import DEFAULT_PROVIDER, Entry

WORKHORSE, JUDGE = "workhorse", "judge"
# A model of which nothing is known is taken to begin its answer after this long.
UNKNOWN_LATENCY_MS = 1_000
MIDDLE_TIER = 5
# From this complexity on a call is worth a judge.
THRESHOLD = 40


class Resolver(Protocol):
    """`snapshot.Catalogue`, or anything that knows models by name."""

    def resolve(self, name: str) -> Entry | None: ...


class UnknownStrategy(ValueError):
    """No strategy has this name. `known` are those that there are."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"There is no strategy {name!r}; there are {', '.join(known)}.")
        self.name, self.known = name, known


class NoneFits(ValueError):
    """No model of a strategy can do what a call needs. `param` names what of the call is too much."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Kind(StrEnum):
    """How a strategy puts models in order."""

    # The cheapest for this very call first, then ever dearer ones.
    COST = "cost-optimized"
    # As the strategy lists them; without a list the highest tier first.
    QUALITY = "quality"
    # The quickest of late first.
    LATENCY = "latency-optimized"
    # The lowest tier that has what the call needs first.
    CAPABILITY = "capability-based"
    # Simple calls go to the workhorses, complex ones to the judges; each falls back to the other.
    JUDGMENT = "judgment-based"


@dataclass(frozen=True, slots=True)
class PoolModel:
    """A model that calls may be routed to. `name` is any of its names in the catalogue.

    `capabilities` and `context_tokens` narrow what the catalogue says. `tier` is from 1 (least able) to 9.
    """

    name: str
    enabled: bool = True
    tier: int = MIDDLE_TIER
    tags: frozenset[str] = frozenset()
    latency_hint_ms: int = UNKNOWN_LATENCY_MS
    capabilities: frozenset[str] | None = None
    context_tokens: int | None = None

    def narrowed(self, entry: Entry) -> Entry:
        if self.capabilities is None and self.context_tokens is None:
            return entry
        capabilities, context = entry.capabilities, entry.context_tokens
        if self.capabilities is not None:
            capabilities &= self.capabilities
        if self.context_tokens is not None:
            context = min(self.context_tokens, context or self.context_tokens)
        return replace(entry, capabilities=capabilities, context_tokens=context)


@dataclass(frozen=True, slots=True)
class Strategy:
    """`models`, if any, are the only ones it takes, in this order; `tags`: only models with all of them."""

    name: str
    kind: Kind
    models: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    threshold: int = THRESHOLD


@dataclass(frozen=True)
class Routing:
    """What the file says. `chains` go from the model asked for to those that stand in for it."""

    pool: tuple[PoolModel, ...] = ()
    strategies: Mapping[str, Strategy] = field(default_factory=dict)
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, PoolModel]:
        return {each.name: each for each in self.pool}

    @property
    def strategy_names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.strategies, *Kind}))

    def strategy(self, name: str) -> Strategy:
        """Each kind is a strategy by its own name too, unless the file makes another of it. Raises UnknownStrategy."""
        if found := self.strategies.get(name):
            return found
        if name in set(Kind):
            return Strategy(name, Kind(name))
        raise UnknownStrategy(name, self.strategy_names)


# The mean latency of a place of late in milliseconds; None where it is not known.
Observed = Callable[[str], float | None]


def unobserved(place: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that a call may be tried at: what it is called here, and what the catalogue has under that name."""

    name: str
    # None: nothing. The decision refuses it then.
    entry: Entry | None

    @property
    def provider(self) -> str:
        """The name of the provider that serves it; the default one for an unknown model."""
        return self.entry.provider if self.entry else DEFAULT_PROVIDER

    @property
    def place(self) -> str:
        """`provider/model`: where it is served. Breakers, latencies and attempts go by it."""
        return f"{self.entry.provider}/{bare(self.entry)}" if self.entry else self.name

    @property
    def places(self) -> tuple[str, ...]:
        """What may be avoided of it: the place, and all of its provider."""
        return (self.place, self.entry.provider) if self.entry else (self.name,)

    @property
    def upstream_id(self) -> str:
        """Its name as its provider knows it. An alias of Mistral's stays one; others' aliases are our own."""
        if self.entry is None:
            return self.name
        return self.name.removeprefix(f"{self.provider}/") if self.entry.is_mistrals else self.entry.upstream


def bare(entry: Entry) -> str:
    """The model's own id, which is the same at each provider that serves it."""
    return entry.id.removeprefix(f"{entry.provider}/")


@dataclass(frozen=True, slots=True)
class Option(Candidate):
    """A candidate that the file names."""

    model: PoolModel
    # What it may be used for; None where it has no price or is switched off.
    able: Entry | None

    def can_do(self, estimate: Estimate) -> bool:
        """Whether it has a price for the call and lacks nothing that it needs."""
        able = self.able
        if able is None or able.rates is None:
            return False
        priced = able.rates.by_token if estimate.unit == "token" else estimate.unit in able.rates.units
        return priced and not estimate.lacks(able)


class Options:
    """What the file says, in the terms of one catalogue: its names are looked up once, not with each call."""

    def __init__(self, routing: Routing, catalogue: Resolver) -> None:
        self.routing, self.catalogue = routing, catalogue
        self.pool = {name: self.named(name) for name in routing.by_name}
        self._chains = [[self.named(step) for step in chain] for chain in routing.chains.values()]

    def named(self, name: str) -> Option:
        """What the file may say of a name, whether or not the pool has it."""
        model = self.routing.by_name.get(name) or PoolModel(name)
        entry = self.catalogue.resolve(name)
        is_usable = entry is not None and entry.rates is not None and model.enabled
        return Option(name, entry, model, model.narrowed(entry) if entry is not None and is_usable else None)

    def of(self, strategy: Strategy) -> Iterator[Option]:
        """The strategy's models, in its order or the pool's."""
        for name in strategy.models or self.pool:
            found = self.pool.get(name)
            if found and strategy.tags <= found.model.tags:
                yield found

    def elsewhere(self, asked: Candidate) -> Iterator[Option]:
        """The same model at other providers; none where the name says which one is meant."""
        if asked.entry is None or _names_provider(asked):
            return
        for option in self.pool.values():
            if option.entry and option.entry.id != asked.entry.id and bare(option.entry) == bare(asked.entry):
                yield option

    def chain(self, asked: Candidate) -> Sequence[Option]:
        """What stands in for a model: the rest of the chain that begins with it, or else of the first that has it."""
        rest = _rest(self._chains, asked)
        if rest is None and _names_provider(asked):
            # The chains speak of bare names: the same steps, at the provider that was asked for.
            there = [[self.named(f"{asked.provider}/{step.name}") for step in chain] for chain in self._chains]
            rest = _rest(there, asked)
        return rest or ()


def candidates(
    options: Options,
    *,
    asked: Candidate,
    strategy: str,
    estimate: Estimate,
    observed: Observed = unobserved,
    payload: Mapping[str, Any] | None = None,
    allow_downgrade: bool = True,
) -> tuple[Candidate, ...]:
    """Models to try a call at, in order; never none.

    Without a strategy (""), or for what is no chat, `asked` comes first whatever it is: the decision refuses what has
    no price. With one `asked` may be any word, such as "auto"; it is what remains where nothing in the pool will do.
    Without `allow_downgrade` only the first model is left, at each provider that has it. `payload` is the request in
    Mistral's shape, which judgment looks at. Raises UnknownStrategy.
    """
    chosen = options.routing.strategy(strategy) if strategy else None
    if chosen is not None and estimate.kind == "chat":
        able = [option for option in options.of(chosen) if option.can_do(estimate)]
        ranked = _ranked(chosen, able, estimate, observed, payload or {})
        kept = _kept(ranked, allow_downgrade=allow_downgrade)
        if not kept and asked.entry is None:
            raise _none_fits(strategy, [option.able for option in options.of(chosen) if option.able], estimate)
        return kept or (asked,)
    if asked.entry is None:
        return (asked,)
    others = [*options.elsewhere(asked)]
    if allow_downgrade and estimate.kind == "chat":
        others += options.chain(asked)
    return _kept([asked, *(option for option in others if option.can_do(estimate))], allow_downgrade=True)


def _none_fits(strategy: str, models: Sequence[Entry], estimate: Estimate) -> NoneFits:
    """Why none of the models that may be used will do, and what would."""
    of = f"No model of the strategy {strategy}"
    lacking = {model.id: lacks for model in models if (lacks := estimate.lacks(model))}
    if not lacking:
        return NoneFits("x-strategy", f"{of} may be used: none has a price for this call")
    too_short = [model for model in models if lacking.get(model.id) == frozenset({"context"})]
    if not too_short:
        fewest = min(lacking.values(), key=len)
        needs = ", ".join(sorted(fewest))
        return NoneFits("model", f"{of} can do all that this call needs ({needs}): name one that can")
    longest = max(too_short, key=lambda model: model.context_tokens or 0)
    context_tokens, input_tokens = longest.context_tokens or 0, estimate.likely_input_at(longest)
    if (room_tokens := context_tokens - input_tokens) > 0:
        return NoneFits("max_tokens", f"{of} has room for so long an answer: max_tokens up to {room_tokens:,} would do")
    return NoneFits(
        "messages",
        f"{of} reads as much: the call may have {input_tokens:,} tokens, and {longest.id} takes {context_tokens:,}",
    )


def _rest(chains: Sequence[Sequence[Option]], asked: Candidate) -> Sequence[Option] | None:
    found = None
    for chain in chains:
        for position, step in enumerate(chain):
            if step.entry is None or asked.entry is None or step.entry.id != asked.entry.id:
                continue
            if position == 0:
                return chain[1:]
            found = found if found is not None else chain[position + 1 :]
    return found


def _ranked(
    strategy: Strategy,
    options: Sequence[Option],
    estimate: Estimate,
    observed: Observed,
    payload: Mapping[str, Any],
) -> list[Option]:
    """The models in the strategy's order; of equals the one that is listed first comes first."""

    def cost(option: Option) -> int:
        quote = estimates.quote(estimate, option.entry, model=option.name)
        return quote.cost_nanos if quote else 0

    def latency(option: Option) -> float:
        known = observed(option.place)
        return option.model.latency_hint_ms if known is None else known

    match strategy.kind:
        case Kind.COST:
            return sorted(options, key=cost)
        case Kind.LATENCY:
            return sorted(options, key=latency)
        case Kind.CAPABILITY:
            return sorted(options, key=lambda option: (option.model.tier, cost(option)))
        case Kind.QUALITY:
            return list(options) if strategy.models else sorted(options, key=lambda option: -option.model.tier)
        case Kind.JUDGMENT:
            workhorses = sorted((option for option in options if WORKHORSE in option.model.tags), key=cost)
            judges = sorted(
                (option for option in options if JUDGE in option.model.tags), key=lambda option: -option.model.tier
            )
            is_complex = complexity(payload, estimate) >= strategy.threshold
            return judges + workhorses if is_complex else workhorses + judges
        case _:
            assert_never(strategy.kind)


def _kept(found: Iterable[Candidate], *, allow_downgrade: bool) -> tuple[Candidate, ...]:
    """Each model once, whatever it is called; without `allow_downgrade` the first one alone, wherever it is served."""
    kept: dict[str, Candidate] = {}
    first = ""
    for candidate in found:
        what = bare(candidate.entry) if candidate.entry else candidate.name
        first = first or what
        if allow_downgrade or what == first:
            kept.setdefault(candidate.place, candidate)
    return tuple(kept.values())


def _names_provider(asked: Candidate) -> bool:
    return asked.name.startswith(f"{asked.provider}/")


# Complexity: what each sign is worth, of 100.
_LOOKED_AT_CHARS = 4_000
_REASONS, _SCHEMA, _JSON, _CODE, _PICTURES = 40, 15, 5, 15, 10
_WORDS = (
    "analy",
    "compare",
    "contrast",
    "prove",
    "derive",
    "explain why",
    "step by step",
    "trade-off",
    "tradeoff",
    "architect",
    "design a",
    "debug",
    "refactor",
    "optimi",
    "evaluate",
    "critique",
    "plan ",
    "strateg",
    "reason",
)
_A_WORD, _MOST_WORDS = 10, 30
_CODE_SIGNS = ("```", "def ", "class ", "function ", "SELECT ", "#include", "Traceback")


def complexity(payload: Mapping[str, Any], estimate: Estimate) -> int:
    """How demanding a chat looks, from 0 to 100: a guess that costs microseconds and asks no model.

    It adds up: up to 25 for length (5 for each doubling from 500 bytes on), up to 10 for turns, up to 20 for tools, 40
    for reasoning asked for, 15 for a JSON schema (5 for plain JSON), 15 for code, 10 for pictures, up to 30 for words
    that ask for thought ("compare", "step by step"). Words and code are looked for in the first 4,000 letters of the
    last message that a user wrote.
    """
    messages = payload.get("messages") or ()
    text = _last_words(messages)[:_LOOKED_AT_CHARS]
    lower = text.lower()
    score = min(25, 5 * max(0, (estimate.text_tokens // 500).bit_length()))
    score += min(10, max(0, len(messages) - 2))
    if tools := payload.get("tools"):
        score += min(20, 8 + 2 * len(tools))
    score += _REASONS * ("reasoning" in estimate.needs)
    if "json" in estimate.needs:
        score += _SCHEMA if (payload.get("response_format") or {}).get("type") == "json_schema" else _JSON
    score += _PICTURES * (estimate.images > 0)
    score += _CODE * any(sign in text for sign in _CODE_SIGNS)
    score += min(_MOST_WORDS, _A_WORD * sum(word in lower for word in _WORDS))
    return min(100, score)


def _last_words(messages: Sequence[Any]) -> str:
    """The text of the last message that a user wrote."""
    for message in reversed(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            parts = content if isinstance(content, list) else ()
            texts = (part.get("text") for part in parts if isinstance(part, Mapping))
            return " ".join(text for text in texts if isinstance(text, str))
    return ""
