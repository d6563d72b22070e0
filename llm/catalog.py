"""The catalogue in memory: what a name means and what it costs now. The data plane only ever looks it up.

A snapshot is read from the database once and again after TTL_S, or sooner when a price begins. Inside an event loop
the old snapshot is served while a thread reads the new one; elsewhere the caller reads it. If the database is down
the old one stays. `forget()` drops it, for changes that must be seen at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from governance.operations import Usage
from governance.policies import Quote
from llm import pricing
from llm.models import Model, Price
from llm.pricing import Entry, Rates

logger = logging.getLogger(__name__)

TTL_S = 30.0
# How long the old snapshot serves before the database is asked again after it failed.
RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """An immutable snapshot. `by_name` holds every id and alias of the models that are served."""

    by_name: dict[str, Entry]
    # When the next price of the catalogue begins, if one is due.
    next_change_at: datetime | None = None

    def __iter__(self) -> Iterator[Entry]:
        return (entry for name, entry in self.by_name.items() if name == entry.id)

    def resolve(self, name: str) -> Entry | None:
        return self.by_name.get(name)

    def quote(self, *, model: str, input_tokens: int, max_tokens: int) -> Quote | None:
        """The worst case of a call of known size; None where the model is unknown or has no price by token."""
        entry = self.by_name.get(model)
        if entry is None:
            return None
        return pricing.quote_tokens(entry, model=model, input_tokens=input_tokens, max_tokens=max_tokens)

    def cost_of(self, usage: Usage) -> tuple[int, str] | None:
        """Nanodollars to charge and the price rule that says so; None where there is no price for it."""
        entry = self.by_name.get(usage.model)
        if entry is None or entry.rates is None or usage.provider not in ("", entry.provider):
            return None
        nanos = pricing.cost_nanos(usage, entry.rates)
        return None if nanos is None else (nanos, entry.rates.rule)


def resolve(name: str) -> Entry | None:
    """The model that `name`, an id or an alias, means now; None where none is served under it."""
    return current().resolve(name)


def quote(*, model: str, input_tokens: int, max_tokens: int) -> Quote | None:
    """`Catalogue.quote` of the moment (`settings.GOVERNANCE_QUOTER`)."""
    return current().quote(model=model, input_tokens=input_tokens, max_tokens=max_tokens)


def cost_of(usage: Usage) -> tuple[int, str] | None:
    """`Catalogue.cost_of` of the moment (`settings.GOVERNANCE_PRICER`)."""
    return current().cost_of(usage)


def current() -> Catalogue:
    """The snapshot of the moment. Reads the database at most every TTL_S, and never inside an event loop."""
    return _shelf.current()


def forget() -> None:
    """Have the next reader see the database as it is then."""
    _shelf.forget()


def rates_at(*, model: Model, at: datetime, zone: str | None = None, batch: bool = False) -> Rates | None:
    """The rates of a model at a past or coming moment, from the database: for repricing, not for the hot path."""
    return _rates(model, list(model.prices.all()), at=at, zone=zone or zone_of(settings.MISTRAL_API_BASE), batch=batch)


def read(*, now: datetime) -> Catalogue:
    """The catalogue as the database has it at `now`. Two queries, three with aliases."""
    zone = zone_of(settings.MISTRAL_API_BASE)
    served = Model.objects.filter(status__in=Model.SERVED).prefetch_related("aliases", "prices")
    by_name: dict[str, Entry] = {}
    upcoming: list[datetime] = []
    entries = [_entry(model, now=now, zone=zone) for model in served]
    for model in served:
        upcoming += [p.effective_from for p in model.prices.all() if p.effective_from and p.effective_from > now]
    for entry in entries:
        by_name |= dict.fromkeys(entry.names, entry)
    # An id always means its own model, whatever an alias says.
    by_name |= {entry.id: entry for entry in entries}
    return Catalogue(by_name, min(upcoming, default=None))


def zone_of(api_base: str) -> str:
    """Mistral's API zone by host name: api.eu.mistral.ai is "eu"; anything else is "global"."""
    labels = (urlsplit(api_base).hostname or "").split(".")
    return next((zone for zone in ("eu", "us") if zone in labels and "mistral" in labels), "global")


def _entry(model: Model, *, now: datetime, zone: str) -> Entry:
    return Entry(
        id=model.name,
        names=frozenset({model.name, *(alias.name for alias in model.aliases.all())}),
        provider=model.provider,
        owned_by=model.owned_by,
        kinds=frozenset(model.kinds),
        capabilities=frozenset(model.capabilities),
        context_tokens=model.context_tokens,
        image_tokens=model.image_tokens,
        status=model.status,
        rates=_rates(model, list(model.prices.all()), at=now, zone=zone, batch=False),
    )


def _rates(model: Model, prices: list[Price], *, at: datetime, zone: str, batch: bool) -> Rates | None:
    """The latest row of each unit kind; where the zone or batch has rows of its own they count, unscaled."""
    begun = [p for p in prices if p.tier == "standard" and (p.effective_from is None or p.effective_from <= at)]
    own = _latest(p for p in begun if p.zone == zone and p.batch == batch)
    if own:
        rule = _rule(model, own.values(), zone=zone, batch=batch)
        return pricing.rates_from(_picos(own), kinds=model.kinds, rule=rule)
    plain = _latest(p for p in begun if p.zone == "global" and not p.batch)
    rule = _rule(model, plain.values(), zone=zone, batch=batch)
    return pricing.rates_from(_picos(plain), kinds=model.kinds, rule=rule, zone=zone, batch=batch)


def _latest(prices: Iterable[Price]) -> dict[str, Price]:
    by_unit: dict[str, list[Price]] = defaultdict(list)
    for price in prices:
        by_unit[price.unit].append(price)
    return {unit: max(rows, key=_begun_at) for unit, rows in by_unit.items()}


def _begun_at(price: Price) -> datetime:
    return price.effective_from or datetime.min.replace(tzinfo=UTC)


def _picos(prices: dict[str, Price]) -> dict[str, int]:
    return {unit: price.picos_per_unit for unit, price in prices.items()}


def _rule(model: Model, prices: Iterable[Price], *, zone: str, batch: bool) -> str:
    """ "mistral/mistral-small-2603@2026-03-16"; "@seed" for prices older than our records, then zone and batch."""
    since = max((_begun_at(price) for price in prices), default=None)
    if since is None or since.year == 1:
        text = "seed"
    elif since.time() == datetime.min.time():
        text = since.date().isoformat()
    else:
        text = since.isoformat().replace("+00:00", "Z")
    suffix = "" if zone == "global" else f"+{zone}"
    return f"{model.provider}/{model.name}@{text}{suffix}{'+batch' if batch else ''}"


class _Shelf:
    """Holds the snapshot, and lets one reader at a time renew it."""

    def __init__(self) -> None:
        self._catalogue: Catalogue | None = None
        self._stale_at = 0.0
        self._lock = threading.Lock()

    def current(self) -> Catalogue:
        catalogue = self._catalogue
        if catalogue is not None and time.monotonic() < self._stale_at:
            return catalogue
        if not _in_event_loop():
            return self._renew(catalogue)
        if catalogue is None:
            # The first reader of a process that did not warm up: once, for the time of two queries.
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(self._renew_in_thread, None).result()
        self._stale_at = time.monotonic() + RETRY_S
        threading.Thread(target=self._renew_in_thread, args=(catalogue,), name="catalogue", daemon=True).start()
        return catalogue

    def forget(self) -> None:
        with self._lock:
            self._catalogue = None

    def _renew_in_thread(self, old: Catalogue | None) -> Catalogue:
        try:
            return self._renew(old)
        finally:
            connection.close()

    def _renew(self, old: Catalogue | None) -> Catalogue:
        with self._lock:
            if self._catalogue is not None and self._catalogue is not old:
                return self._catalogue
            now = timezone.now()
            try:
                fresh = read(now=now)
            except DatabaseError:
                if old is None:
                    raise
                logger.exception("The catalogue could not be read; the old one stays")
                self._stale_at = time.monotonic() + RETRY_S
                return old
            due_s = (fresh.next_change_at - now).total_seconds() if fresh.next_change_at else TTL_S
            self._stale_at = time.monotonic() + min(TTL_S, due_s)
            self._catalogue = fresh
            return fresh


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_shelf = _Shelf()
