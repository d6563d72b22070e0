"""What an agent's calls of a month would have cost otherwise: at another model, with a cache, with shorter answers.

Pure. Every figure is a product of tokens that the agent used and of rates of today: nothing is guessed but where it is
called "at most". Whether another model's answers are as good is not for arithmetic to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from math import ceil

from governance.rules.calls import Usage
from llm.rules import pricing
from llm.rules.pricing import Entry, Rates

# Less is not worth reading: so many nanodollars, and such a part of what was spent.
LEAST_NANOS, LEAST_PART = 10_000_000, Decimal("0.05")
# Answers are told from each other from so many calls on; the cap lets so many of a hundred through as they are.
FEWEST_CALLS, UNCUT = 50, 95
# Providers keep a prompt's beginning for a while after a call.
KEPT_FOR = timedelta(minutes=60)
SERVED = ("ga", "deprecated")


@dataclass(frozen=True, slots=True)
class Term:
    """A product of the arithmetic: so many tokens at so many picodollars each."""

    tokens: int
    kind: str
    picos: int

    @property
    def nanos(self) -> int:
        return (self.tokens * self.picos + 500) // 1000


@dataclass(frozen=True, slots=True)
class OtherModel:
    """The cheapest model that the catalogue says can do all that the one in use can. `terms` add up to `nanos`."""

    used: Entry
    other: Entry
    calls: int
    spent_nanos: int
    nanos: int
    terms: tuple[Term, ...]

    @property
    def saved_nanos(self) -> int:
        return self.spent_nanos - self.nanos


@dataclass(frozen=True, slots=True)
class LessOf:
    """Tokens that would have cost `now_picos` less each: read from a cache, or not written. `calls` are those it is of.

    `cap`: the most output tokens that a call would have had.
    """

    used: Entry
    tokens: int
    calls: int
    picos: int
    instead_picos: int
    cap: int | None = None

    @property
    def saved_nanos(self) -> int:
        return (self.tokens * (self.picos - self.instead_picos) + 500) // 1000


@dataclass(frozen=True, slots=True)
class OneCall:
    """A charge, as far as advice looks at it."""

    at: datetime
    session: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def others(used: Entry, entries: Iterable[Entry]) -> list[Entry]:
    """What of these can do all that a model can, has a price and is another one."""
    return [entry for entry in entries if entry.id != used.id and entry.rates is not None and _can_do(entry, used)]


def other_model(
    used: Entry, usage: Usage, *, calls: int, spent_nanos: int, entries: Iterable[Entry]
) -> OtherModel | None:
    """Which of `others` would have cost least for the same tokens; None where none is cheaper by enough to say so."""
    priced = [
        (nanos, entry.id, entry, rates)
        for entry in entries
        if (rates := _usual_rates(entry, usage, calls)) and (nanos := pricing.cost_nanos(usage, rates)) is not None
    ]
    if not priced:
        return None
    # Of two that cost the same always the same one.
    nanos, _, entry, rates = min(priced, key=lambda each: each[:2])
    best = OtherModel(used, entry, calls, spent_nanos, nanos, terms(usage, rates))
    return best if _is_worth(best.saved_nanos, spent_nanos) else None


def _usual_rates(entry: Entry, usage: Usage, calls: int) -> Rates | None:
    """Those of a call of the usual length, for `usage` is of all calls together."""
    return entry.rates and replace(entry.rates.of(usage.input_tokens // calls), longer=())


def terms(usage: Usage, rates: Rates) -> tuple[Term, ...]:
    """What a cost is made of; what is nothing is left out."""
    cached = min(usage.cached_tokens, usage.input_tokens)
    each = (
        Term(usage.input_tokens - cached, "input", rates.input_picos),
        Term(cached, "cached input", rates.cached_picos),
        Term(usage.output_tokens, "output", rates.output_picos),
    )
    return tuple(term for term in each if term.tokens)


def cache_use(used: Entry, calls: Sequence[OneCall], *, spent_nanos: int) -> LessOf | None:
    """What a provider's cache would have saved at most.

    A call of a session can repeat no more than all that the call before it read and wrote; what of that was not cached
    might have been. None where the model has no cheaper rate for it, or it is not worth saying.
    """
    rates = used.rates
    if rates is None or rates.cached_picos >= rates.input_picos:
        return None
    sessions: defaultdict[str, list[OneCall]] = defaultdict(list)
    for call in calls:
        if call.session:
            sessions[call.session].append(call)
    tokens = count = 0
    for each in sessions.values():
        each.sort(key=lambda call: call.at)
        for before, call in pairwise(each):
            if call.at - before.at > KEPT_FOR:
                continue
            repeated = min(call.input_tokens, before.input_tokens + before.output_tokens)
            if (missed := repeated - call.cached_tokens) > 0:
                tokens, count = tokens + missed, count + 1
    found = LessOf(used, tokens, count, rates.input_picos, rates.cached_picos)
    return found if _is_worth(found.saved_nanos, spent_nanos) else None


def shorter_answers(used: Entry, calls: Sequence[OneCall], *, spent_nanos: int) -> LessOf | None:
    """What a cap on output tokens would have saved that leaves 95 of a hundred calls as they were."""
    if used.rates is None or len(calls) < FEWEST_CALLS:
        return None
    lengths = sorted(call.output_tokens for call in calls)
    cap = lengths[ceil(len(lengths) * UNCUT / 100) - 1]
    longer = [length - cap for length in lengths if length > cap]
    found = LessOf(used, sum(longer), len(longer), used.rates.output_picos, 0, cap=cap)
    return found if _is_worth(found.saved_nanos, spent_nanos) else None


def _can_do(entry: Entry, used: Entry) -> bool:
    """Whether the catalogue says that it can do all that another can, with as much to read."""
    reads_enough = used.context_tokens is None or (
        entry.context_tokens is not None and entry.context_tokens >= used.context_tokens
    )
    return entry.status in SERVED and entry.kinds >= used.kinds and entry.abilities >= used.abilities and reads_enough


def _is_worth(saved_nanos: int, spent_nanos: int) -> bool:
    return saved_nanos >= LEAST_NANOS and saved_nanos >= LEAST_PART * spent_nanos
