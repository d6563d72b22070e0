"""What budgets saved, and what they kept from being spent, as far as the ledger and the refusals know it.

A saving is what the same tokens would have cost otherwise, at the prices of their day: at the model that was asked for,
or without the provider's cache. What nobody can know is counted and has no amount: how long an answer would have been
that was kept short, and what a call would have cost that never went.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import Count, Q

from governance import ports
from governance.models import RefusedCall, SpendEntry, SpendRollup
from governance.queries.breakdown import DayOf
from governance.queries.spend import Reader, TimeRange
from governance.queries.sums import LongSum
from governance.rules import decision_notes
from governance.rules.calls import Usage
from governance.rules.decision import Action, Reason

# So many of the latest charges are looked through: what was decided of a call has no index.
LOOKED = 30_000
# Refusals for want of money. Of a call that waits for others to end the money is not gone.
BY_CAPS = (Reason.BUDGET_EXHAUSTED, Reason.DOWNGRADE_REFUSED)


@dataclass(frozen=True, slots=True)
class NotedCharge:
    """A charge whose call went otherwise than it was asked for. `max_tokens`: what a clamp kept its answer to.

    `asked` is the model that was asked for where a budget moved the call to `model`, else empty.
    """

    at: datetime
    tenant: str
    agent: str
    scope: str
    window: str
    asked: str
    model: str
    max_tokens: int | None
    usage: Usage
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Saved:
    """`nanos` of `calls`; `unknown` calls beside them have no price that could say it."""

    nanos: int = 0
    calls: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Savings:
    """`since`: charges from then on were looked at, None where that is the whole period.

    `prevented_nanos` is the most that the calls would have cost which caps refused: what they would have reserved.
    `uncounted` of them have no amount.
    """

    downgrades: Saved
    cached_nanos: int
    cached_tokens: int
    clamped: int
    prevented_nanos: int
    prevented: int
    uncounted: int
    since: datetime | None


def of_period(*, reader: Reader, period: TimeRange, now: datetime) -> Savings:
    """Reads the hourly sums, the latest `LOOKED` charges, and the refusals of the period."""
    charges, since = noted(reader=reader, period=period)
    cached_nanos, cached_tokens = _cached(reader, period, now)
    prevented_nanos, prevented, uncounted = _prevented(reader, period)
    return Savings(
        downgrades=by_downgrades(charges, now=now),
        cached_nanos=cached_nanos,
        cached_tokens=cached_tokens,
        clamped=sum(charge.max_tokens is not None for charge in charges),
        prevented_nanos=prevented_nanos,
        prevented=prevented,
        uncounted=uncounted,
        since=since,
    )


def noted(*, reader: Reader, period: TimeRange, looked: int = LOOKED) -> tuple[list[NotedCharge], datetime | None]:
    """(the charges that were downgraded or clamped, newest first, since when they were looked for).

    None where that is the whole period.
    """
    charges = SpendEntry.objects.filter(reader.scope, kind=SpendEntry.Kind.CHARGE).order_by("-occurred_at")
    of_period = charges.filter(period.on("occurred_at"))
    since = next(iter(of_period.values_list("occurred_at", flat=True)[looked - 1 : looked]), None)
    rows = charges.filter(TimeRange(since or period.starts_at, period.ends_at).on("occurred_at"))
    told = rows.filter(**{f"metadata__{decision_notes.KEY}__isnull": False})
    fields = ("occurred_at", "tenant__slug", "agent", "provider", "model_served", "unit", "units", "metadata")
    tokens = ("input_tokens", "cached_tokens", "output_tokens", "cost_nanos")
    return list(_as_noted(told.values(*fields, *tokens))), since


def _as_noted(rows: Iterable[Mapping[str, Any]]) -> Iterator[NotedCharge]:
    for row in rows:
        note = row["metadata"].get(decision_notes.KEY)
        if not isinstance(note, Mapping):
            continue
        is_moved = note.get("action") == Action.DEGRADE
        if is_moved or note.get("max_tokens"):
            yield NotedCharge(
                at=row["occurred_at"],
                tenant=row["tenant__slug"],
                agent=row["agent"],
                scope=str(note.get("scope", "")),
                window=str(note.get("window", "")),
                asked=str(note.get("asked", "")) if is_moved else "",
                model=str(note.get("model", "")),
                max_tokens=note.get("max_tokens"),
                usage=Usage(
                    row["provider"],
                    row["model_served"],
                    row["input_tokens"],
                    row["cached_tokens"],
                    row["output_tokens"],
                    row["unit"],
                    row["units"],
                ),
                cost_nanos=row["cost_nanos"],
            )


def by_downgrades(charges: Iterable[NotedCharge], *, now: datetime) -> Saved:
    """What the same tokens would have cost at the models that were asked for, less what they did cost."""
    cost: defaultdict[tuple[str, date], int] = defaultdict(int)
    calls: defaultdict[tuple[str, date], list[Usage]] = defaultdict(list)
    unknown = 0
    for charge in charges:
        if not charge.asked:
            continue
        if charge.usage.unit != "token" or not charge.usage.input_tokens + charge.usage.output_tokens:
            unknown += 1
            continue
        # Tokens of a day are priced together: the price of each alone may have to be read.
        key = charge.asked, charge.at.astimezone(UTC).date()
        cost[key] += charge.cost_nanos
        calls[key].append(charge.usage)
    nanos = known = 0
    for key, usages in calls.items():
        priced = ports.true_cost(_together(key[0], usages), at=_end_of(key[1], now))
        if priced is None:
            unknown += len(usages)
        else:
            nanos += priced[0] - cost[key]
            known += len(usages)
    return Saved(nanos, known, unknown)


def _together(model: str, usages: list[Usage]) -> Usage:
    return Usage(
        "",
        model,
        sum(usage.input_tokens for usage in usages),
        sum(min(usage.cached_tokens, usage.input_tokens) for usage in usages),
        sum(usage.output_tokens for usage in usages),
    )


def _cached(reader: Reader, period: TimeRange, now: datetime) -> tuple[int, int]:
    """(nanodollars, tokens) of what came from providers' caches, at the catalogue's prices for plain calls."""
    rows = SpendRollup.objects.filter(reader.scope, period.on("hour"), cached_tokens__gt=0).order_by()
    named = rows.annotate(day=DayOf("hour")).values_list("day", "provider", "model")
    nanos = tokens = 0
    for day, provider, model, cached in named.annotate(cached=LongSum("cached_tokens")):
        at = _end_of(day, now)
        plain = ports.true_cost(Usage(provider, model, cached, 0, 0), at=at)
        reduced = ports.true_cost(Usage(provider, model, cached, cached, 0), at=at)
        if plain is not None and reduced is not None:
            nanos += plain[0] - reduced[0]
            tokens += cached
    return nanos, tokens


def _prevented(reader: Reader, period: TimeRange) -> tuple[int, int, int]:
    """(nanodollars, calls, calls without an amount). A call that was tried again is another one each time."""
    refused = RefusedCall.objects.filter(reader.scope, period.on("refused_at"), reason__in=BY_CAPS).order_by()
    sums = refused.aggregate(
        nanos=LongSum("wanted_nanos"),
        calls=Count("pk", filter=~Q(request_id="")),
        more=LongSum("more"),
        nameless=Count("pk", filter=Q(wanted_nanos=None) & ~Q(request_id="")),
    )
    more = sums["more"] or 0
    return sums["nanos"] or 0, sums["calls"] + more, sums["nameless"] + more


def _end_of(day: date, now: datetime) -> datetime:
    """The last moment of a day, or now: a day's prices are those that it ended with."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    return min(midnight - timedelta(microseconds=1), now)
