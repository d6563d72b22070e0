"""What prices were worth when the spans began that they count in: it stays so for as long as these last. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

# A subscription's id, a space and a price's -> (level, limit of one unit or 0, share of what it bills in ten
# thousandths, whether each unit counts, whether it is for a month; -1: not known, and when the span began that it is
# worth this for, in Unix seconds; 0: it counts in none). What names no subscription is meant of all, as in rows of
# earlier versions. Of one subscription, prices are named by their ids alone.
Kept = Mapping[str, tuple[int, ...]]
STARTS_AT = 5
Found = TypeVar("Found")
# A subscription's id and a price's.
Sold = tuple[str, str]


def read(stored: Mapping[str, Sequence[int]], *, since: datetime | None) -> Kept:
    """Kept values as they are stored. Rows of earlier versions have neither spans, but a window that began `since`, nor
    at first whether a price is for each unit and for a month; nor did they keep what was on the default plan."""
    begun = int(since.timestamp()) if since else 0
    known = {key: tuple(value) for key, value in stored.items() if value[0] >= 0}
    return {key: (*(*value, -1, -1)[:STARTS_AT], *(value[STARTS_AT:] or (begun,))) for key, value in known.items()}


def of(subscription_id: str, kept: Kept) -> Kept:
    """What prices of a subscription were worth."""
    mine = f"{subscription_id} "
    of_all = {key: value for key, value in kept.items() if " " not in key}
    return of_all | {key.removeprefix(mine): value for key, value in kept.items() if key.startswith(mine)}


def counting(kept: Kept) -> Kept:
    """But what has counted in no span: in its first one it is worth what is said by then."""
    return {key: value for key, value in kept.items() if value[STARTS_AT]}


def lasting(kept: Kept, begun: Mapping[str, int]) -> Kept:
    """But what counts in a newer span by now, which has `begun` then."""
    return {id: value for id, value in kept.items() if begun.get(id, 0) <= value[STARTS_AT]}


def noted(subscription_id: str, values: Kept, kept: Kept, begun: Mapping[str, int]) -> Kept:
    """What a subscription's prices are worth by now, each for the span that it counts in, or did last."""
    spans = {price: value[STARTS_AT] for price, value in kept.items()} | dict(begun)
    return {f"{subscription_id} {price}": (*value, spans.get(price, 0)) for price, value in values.items()}


def most(
    kept: Found, outdone: Collection[Sold], at: Callable[[Collection[Sold]], Found], nanos: Callable[[Found], int]
) -> Found:
    """What is found where all is worth what it was kept at, or where what comes to more by now is worth that: price by
    price, so that none falls because another rises."""
    if not outdone:
        return kept
    rising = set(outdone)
    best = at(rising)
    for one in sorted(outdone):
        without = at(rising - {one})
        if nanos(without) > nanos(best):
            best, rising = without, rising - {one}
    return best if nanos(best) > nanos(kept) else kept
