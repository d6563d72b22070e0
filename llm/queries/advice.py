"""What each agent's calls of the last month would have cost otherwise, from its own calls and today's prices."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from governance.models import SpendEntry
from governance.queries import spend
from governance.queries.spend import Reader, TimeRange
from governance.rules.calls import Usage
from llm.catalogue import snapshot
from llm.rules import advice
from llm.rules.advice import LessOf, OneCall, OtherModel
from llm.rules.pricing import Entry

DAYS = timedelta(days=30)
# So many of an agent's latest calls are looked at one by one.
LOOKED = 10_000

Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class AgentAdvice:
    """What would have saved an agent how much; the most first. Savings do not add up: each is of the same calls.

    `looked`: how many of its calls were read for `cache` and `caps`; all of them, unless that is `LOOKED`.
    """

    tenant: str
    agent: str
    spent_nanos: int
    models: list[OtherModel]
    cache: list[LessOf]
    caps: list[LessOf]
    looked: int = 0

    @property
    def most_nanos(self) -> int:
        """What other models alone would have saved."""
        return sum(one.saved_nanos for one in self.models)


def of_agents(*, reader: Reader, now: datetime) -> list[AgentAdvice]:
    """Other models for each agent that a reader may see, the largest saving first. One query."""
    rows = spend.summary(group_by=["tenant", "agent", "provider", "model"], reader=reader, period=_period(now))
    spent: defaultdict[tuple[str, str], int] = defaultdict(int)
    found: defaultdict[tuple[str, str], list[OtherModel]] = defaultdict(list)
    entries = _entries()
    others: dict[str, list[Entry]] = {}
    for row in rows:
        whom = row["tenant"], row["agent"]
        spent[whom] += row["cost_nanos"]
        usage = Usage(row["provider"], row["model"], row["input_tokens"], row["cached_tokens"], row["output_tokens"])
        entry = snapshot.current().used(usage)
        if entry is None or not _by_token(entry):
            continue
        if entry.id not in others:
            others[entry.id] = advice.others(entry, entries)
        able = others[entry.id]
        one = advice.other_model(entry, usage, calls=row["calls"], spent_nanos=row["cost_nanos"], entries=able)
        if one is not None:
            found[whom].append(one)
    made = [
        AgentAdvice(*whom, nanos, sorted(found[whom], key=lambda one: -one.saved_nanos), [], [])
        for whom, nanos in spent.items()
    ]
    return sorted(made, key=lambda one: (-one.most_nanos, -one.spent_nanos, one.tenant, one.agent))


def of_agent(*, reader: Reader, now: datetime) -> AgentAdvice | None:
    """All advice for the one agent of a reader; None where it made no call. Reads its latest calls."""
    whole = next((one for one in of_agents(reader=reader, now=now) if one.agent == reader.agent), None)
    if whole is None:
        return None
    calls, spent, looked = _calls(reader, now)
    cache, caps = [], []
    for place, each in calls.items():
        entry = snapshot.current().used(Usage(*place))
        if entry is None or not _by_token(entry):
            continue
        cache.append(advice.cache_use(entry, each, spent_nanos=spent[place]))
        caps.append(advice.shorter_answers(entry, each, spent_nanos=spent[place]))
    return AgentAdvice(whole.tenant, whole.agent, whole.spent_nanos, whole.models, _best(cache), _best(caps), looked)


def _period(now: datetime) -> TimeRange:
    return TimeRange(now - DAYS, now)


def _calls(reader: Reader, now: datetime) -> tuple[dict[Place, list[OneCall]], dict[Place, int], int]:
    """(calls, what they cost) by provider and model, and how many were read: the latest."""
    rows = spend.entries(reader=reader, period=_period(now)).filter(kind=SpendEntry.Kind.CHARGE, unit="token")
    calls: defaultdict[Place, list[OneCall]] = defaultdict(list)
    spent: defaultdict[Place, int] = defaultdict(int)
    looked = 0
    fields = ("provider", "model_served", "cost_nanos", "occurred_at", "session")
    tokens = ("input_tokens", "cached_tokens", "output_tokens")
    newest = rows.order_by("-occurred_at").select_related(None)
    for provider, model, nanos, *call in newest.values_list(*fields, *tokens)[:LOOKED]:
        calls[provider, model].append(OneCall(*call))
        spent[provider, model] += nanos
        looked += 1
    return dict(calls), dict(spent), looked


def _entries() -> list[Entry]:
    return [entry for entry in snapshot.current() if entry.rates is not None and _by_token(entry)]


def _by_token(entry: Entry) -> bool:
    return entry.rates is not None and entry.rates.by_token and not entry.rates.units


def _best(found: list[LessOf | None]) -> list[LessOf]:
    return sorted((one for one in found if one is not None), key=lambda one: -one.saved_nanos)
