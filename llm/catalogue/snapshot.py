"""The catalogue in memory: what a name means and what it costs now. The data plane only ever looks it up.

A snapshot is read from the database once and again after TTL_S, or sooner when a price begins or `forget()` says that
something has changed. Inside an event loop the old snapshot is served while a thread reads the new one; elsewhere the
caller reads it. If the database is down, or its tables are locked for longer than a moment, the old one stays: who
settles a call needs no database for its price.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models import Q

from governance import database, ledger
from governance.ledger import clock
from governance.rules.calls import TOOL_PROVIDER, Usage
from governance.rules.decision import Quote
from governance.rules.overruns import ModelOverrun
from governance.rules.price_sentence import UnitRates
from llm.catalogue import price_rows
from llm.catalogue.price_rows import PricePlace
from llm.models import Model, ModelAlias, Price, ProviderEndpoint
from llm.rules import pricing
from llm.rules.estimates import Estimate
from llm.rules.pricing import DEFAULT_PROVIDER, STANDARD_TIER, Entry, Rates
from llm.rules.routing import Candidate

logger = logging.getLogger(__name__)

TTL_S = 30.0
# How long the old snapshot serves before the database is asked again after it failed.
RETRY_S = 5.0
# Prices that begin one after another while each of so many readings goes on are waited for no longer.
MOST_READS = 3
# The providers that the environment names go by their kinds; of two with one name the database's counts.
_ENVIRONMENTS_KINDS = {
    kind.value: kind.value for kind in (ProviderEndpoint.Kind.OPENAI, ProviderEndpoint.Kind.ANTHROPIC)
}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """An immutable snapshot. `by_name` holds every name of the models that are served, `tools` those of tools.

    "provider/model" is a provider's model, by its id or an alias; a bare name is the default provider's or, where
    that one has none and only one other has, that other's.
    """

    by_name: dict[str, Entry]
    # Apart: no call of a model may name one, and no model's bare name is in doubt because of one.
    tools: Mapping[str, Entry] = field(default_factory=dict)
    # When the last of its prices began, and the next does; None where none did, or will.
    last_change_at: datetime | None = None
    next_change_at: datetime | None = None

    def __iter__(self) -> Iterator[Entry]:
        return (entry for name, entry in self.by_name.items() if name == entry.id)

    def resolve(self, name: str) -> Entry | None:
        return self.by_name.get(name)

    def callable_names(self) -> Iterator[tuple[str, Entry]]:
        """Every name that a model is called by, sorted; without the default provider's own before its models' names."""
        own = f"{DEFAULT_PROVIDER}/"
        return ((name, entry) for name, entry in sorted(self.by_name.items()) if not name.startswith(own))

    def nearest(self, name: str, *, home: str) -> str:
        """The name under which a provider serves a model, where it does; of the default one, the bare name."""
        if home == DEFAULT_PROVIDER:
            return name
        own = f"{home}/{name}"
        return own if own in self.by_name else name

    def quote(
        self,
        *,
        model: str,
        input_tokens: int,
        max_tokens: int,
        asked: Iterable[str] = (),
        overruns: Sequence[ModelOverrun] = (),
    ) -> Quote | None:
        """The worst case of a call of known size, which asks for the words `asked`.

        None where the model is unknown, has no price by token or, by `overruns`, no bound.
        """
        entry = self.by_name.get(model)
        if entry is None:
            return None
        call = Estimate("chat", input_tokens, max_tokens=max_tokens, asked=frozenset(asked))
        known = call.knowing(overruns, Candidate(model, entry).place)
        if known.unbounded_at(entry) is not None:
            return None
        return pricing.quote_tokens(
            entry,
            model=model,
            input_tokens=known.held_input_at(entry),
            max_tokens=max(max_tokens, known.held_tokens_at(entry) or 0),
            asked_tokens=max_tokens,
        )

    def cost_of(self, usage: Usage, *, batch: bool = False) -> tuple[int, str] | None:
        """Nanodollars to charge and the price rule that says so; None where there is no price for it."""
        entry = self.used(usage)
        rates = None if entry is None else entry.batch_rates if batch else entry.rates
        if rates is None:
            return None
        nanos = pricing.cost_nanos(usage, rates)
        return None if nanos is None else (nanos, rates.of(usage.input_tokens).rule)

    def used(self, usage: Usage) -> Entry | None:
        """The model, or tool, that was used: of its own provider, never another's of the same name."""
        if usage.provider == TOOL_PROVIDER:
            return self.tools.get(usage.model)
        if not usage.provider:
            return self.by_name.get(usage.model)
        entry = self.by_name.get(f"{usage.provider}/{usage.model}") or self.by_name.get(usage.model)
        return entry if entry is not None and entry.provider == usage.provider else None


def resolve(name: str) -> Entry | None:
    """The model that `name`, an id or an alias, means now; None where none is served under it."""
    return current().resolve(name)


def quote(
    *,
    model: str,
    input_tokens: int,
    max_tokens: int,
    asked: Iterable[str] = (),
    overruns: Sequence[ModelOverrun] = (),
) -> Quote | None:
    """`Catalogue.quote` of the moment; one of `governance.ports`."""
    return current().quote(
        model=model, input_tokens=input_tokens, max_tokens=max_tokens, asked=asked, overruns=overruns
    )


def names() -> list[str]:
    """Every name that models are called by at the moment; one of `governance.ports`."""
    return [name for name, _ in current().callable_names()]


def cost_of(usage: Usage, *, at: datetime | None = None) -> tuple[int, str] | None:
    """`Catalogue.cost_of` of a moment, which may be past, by default of now; one of `governance.ports`."""
    catalogue = current()
    if at is not None and catalogue.last_change_at is not None and at < catalogue.last_change_at:
        catalogue = read(now=at, named=usage.model)
    return catalogue.cost_of(usage)


def current() -> Catalogue:
    """The snapshot of the moment. Reads the database at most every TTL_S, and never inside an event loop.

    A process with an event loop reads its first one before that has anything to do.
    """
    return _shelf.current()


def is_stale() -> bool:
    """Whether the snapshot is older than it may be; `current` may answer with it, `fresh` does not."""
    return _shelf.is_stale


def fresh() -> Catalogue:
    """The snapshot, read now if it is stale: never inside an event loop. The stale one while the database is away."""
    return _shelf.fresh()


def forget() -> None:
    """Have the next reader see the database as it is then; one inside an event loop, a moment later."""
    _shelf.forget()


def changed() -> None:
    """What an act of this process has changed counts for calls of this process from now on, in event loops too."""
    _shelf.forget()
    _shelf.renew_known()


def rates_at(
    *, model: Model, at: datetime, zone: str | None = None, batch: bool = False, tier: str = STANDARD_TIER
) -> Rates | None:
    """The rates of a model at a past or coming moment, from the database: for repricing, not for the hot path."""
    place = PricePlace(zone or zone_of_provider(model.provider), batch, tier)
    return price_rows.rates(model, at=at, place=place)


def rates_of_rule(rule: str, *, at: datetime) -> UnitRates | None:
    """What a price rule charged at `at`, read from its own name; one of `governance.ports`.

    None for one that nobody knows, and for one whose rows were corrected since: these say other rates now.
    """
    provider, _, rest = rule.partition("/")
    name, _, marks = rest.rpartition("@")
    model = Model.objects.filter(provider=provider, name=name).prefetch_related("prices").first()
    if model is None:
        return None
    marked = marks.split("+")[1:]
    zone = next((mark for mark in marked if mark in ("eu", "us")), "global")
    tier = next((mark for mark in marked if mark not in (zone, "batch")), STANDARD_TIER)
    rates = rates_at(model=model, at=at, zone=zone, batch="batch" in marked, tier=tier)
    for found in () if rates is None else (rates, *(longer for _, longer in rates.longer)):
        if found.rule == rule:
            return UnitRates(found.input_picos, found.cached_picos, found.output_picos, found.units)
    return None


def rows_at(*, model: Model, at: datetime) -> dict[tuple[str, int], Price]:
    """The row of each unit kind and length of calls that counts at a moment, everywhere and for plain calls."""
    return price_rows.closest(model, at=at, place=PricePlace())


def read(*, now: datetime, named: str | None = None) -> Catalogue:
    """The catalogue as the database has it at `now`, or what of it says what one name means. Four queries."""
    models = Model.objects.filter(status__in=Model.SERVED)
    if named is not None:
        models = models.filter(_may_mean(named))
    served = list(models.prefetch_related("aliases", "prices"))
    kinds = _ENVIRONMENTS_KINDS | dict(ProviderEndpoint.objects.filter(enabled=True).values_list("name", "kind"))
    entries = [_entry(model, provider=model.provider, now=now, kind=kinds.get(model.provider, "")) for model in served]
    own = {(entry.provider, entry.upstream) for entry in entries}
    entries += [
        _entry(model, provider=provider, now=now)
        for provider in pricing.ZONE_PROVIDERS
        for model in served
        if model.provider == DEFAULT_PROVIDER and (provider, model.name) not in own
    ]
    changes = {price.effective_from for model in served for price in model.prices.all() if price.effective_from}
    return Catalogue(
        _by_name([entry for entry in entries if entry.provider != TOOL_PROVIDER]),
        {entry.upstream: entry for entry in entries if entry.provider == TOOL_PROVIDER},
        last_change_at=max((at for at in changes if at <= now), default=None),
        next_change_at=min((at for at in changes if at > now), default=None),
    )


def zone_of_provider(provider: str) -> str:
    """The API zone whose rates a provider charges: of Mistral's own that of its address, of any other the global."""
    if provider == DEFAULT_PROVIDER:
        return zone_of(settings.MISTRAL_API_BASE)
    return pricing.ZONE_PROVIDERS.get(provider, "global")


def zone_of(api_base: str) -> str:
    """Mistral's API zone by host name: api.eu.mistral.ai is "eu"; anything else is "global"."""
    labels = (urlsplit(api_base).hostname or "").split(".")
    return next((zone for zone in ("eu", "us") if zone in labels and "mistral" in labels), "global")


def _may_mean(name: str) -> Q:
    """The models that have a name, with a provider before it or without; and those whose ids are ids of these."""
    names = {name, name.partition("/")[2] or name}
    aliased = ModelAlias.objects.filter(name__in=names)
    ids = Model.objects.filter(pk__in=aliased.values("model")).values("name")
    return Q(name__in=names) | Q(name__in=ids) | Q(pk__in=aliased.values("model"))


def _entry(model: Model, *, provider: str, now: datetime, kind: str = "") -> Entry:
    bare = {model.name, *(alias.name for alias in model.aliases.all())}
    qualified = {f"{provider}/{name}" for name in bare}
    id = model.name if provider == DEFAULT_PROVIDER else f"{provider}/{model.name}"
    zone = zone_of_provider(provider)
    tiers = {price.tier for price in model.prices.all()} - {STANDARD_TIER}
    return Entry(
        id=id,
        names=frozenset(bare | qualified),
        upstream=model.name,
        aliases=tuple(sorted((bare if provider == DEFAULT_PROVIDER else qualified) - {id})),
        provider=provider,
        owned_by=model.owned_by,
        kinds=frozenset(model.kinds),
        capabilities=frozenset(model.capabilities),
        context_tokens=model.context_tokens,
        image_tokens=model.image_tokens,
        provider_kind=kind,
        status=model.status,
        rates=price_rows.rates(model, at=now, place=PricePlace(zone)),
        batch_rates=price_rows.rates(model, at=now, place=PricePlace(zone, batch=True)),
        tier_rates={tier.lower(): price_rows.rates(model, at=now, place=PricePlace(zone, tier=tier)) for tier in tiers},
    )


def _by_name(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Every name's model. An id always means its own model, whatever an alias says."""
    by_name: dict[str, Entry] = {}
    for ids_only in (False, True):
        for entry in entries:
            for name in (entry.upstream,) if ids_only else _bare_names(entry):
                by_name[f"{entry.provider}/{name}"] = entry
    others: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.provider != DEFAULT_PROVIDER and entry.provider not in pricing.ZONE_PROVIDERS:
            for name in _bare_names(entry):
                others[name].append(by_name[f"{entry.provider}/{name}"])
    bare = {name: found[0] for name, found in others.items() if len({entry.id for entry in found}) == 1}
    prefix = f"{DEFAULT_PROVIDER}/"
    ours = {name.removeprefix(prefix): entry for name, entry in by_name.items() if name.startswith(prefix)}
    # Whoever resells may call a model "openai/gpt-9", which is OpenAI's where that is here.
    return bare | ours | by_name


def _bare_names(entry: Entry) -> Iterator[str]:
    prefix = f"{entry.provider}/"
    return (name.removeprefix(prefix) for name in entry.names if name.startswith(prefix))


class _Shelf:
    """Holds the snapshot, and lets one reader at a time renew it.

    It stays stale until it is renewed, whoever has begun to: a price counts from its moment on.
    """

    def __init__(self) -> None:
        self._catalogue: Catalogue | None = None
        self._stale_at = 0.0
        # After a database that was away is not asked again before.
        self._again_at = 0.0
        self._failed_at = 0.0
        self._is_renewed_beside = False
        self._lock = threading.Lock()

    @property
    def is_stale(self) -> bool:
        return time.monotonic() >= self._stale_at

    def current(self) -> Catalogue:
        catalogue = self._catalogue
        if catalogue is None:
            return self._renew(None)
        if not self.is_stale or time.monotonic() < self._again_at:
            return catalogue
        if not _in_event_loop():
            return self._renew(catalogue)
        if not self._is_renewed_beside:
            self._is_renewed_beside = True
            threading.Thread(target=self._renew_beside, args=(catalogue,), name="catalogue", daemon=True).start()
        return catalogue

    def fresh(self) -> Catalogue:
        """As it is now, however lately the database was away."""
        catalogue = self._catalogue
        return catalogue if catalogue is not None and not self.is_stale else self._renew(catalogue)

    def forget(self) -> None:
        # Not while one is read, which may have begun before the change.
        with self._lock:
            self._stale_at = self._again_at = 0.0

    def renew_known(self) -> None:
        """Read what was read before anew; where the database is away meanwhile, that stays."""
        if self._catalogue is not None and not _in_event_loop():
            self._renew(self._catalogue)

    def _renew_beside(self, old: Catalogue) -> None:
        database.keep_own()
        try:
            self._renew(old)
        finally:
            self._is_renewed_beside = False
            connection.close()

    def _renew(self, old: Catalogue | None) -> Catalogue:
        asked_at = time.monotonic()
        with self._lock:
            if self._catalogue is not None and self._catalogue is not old and not self.is_stale:
                return self._catalogue
            if old is not None and self._failed_at > asked_at:
                # Others have waited in vain meanwhile; all would, one after another.
                return old
            try:
                fresh, stale_at = self._read()
            except DatabaseError:
                if old is None:
                    raise
                self._failed_at = time.monotonic()
                if self._failed_at >= self._again_at:
                    logger.exception("The catalogue could not be read; the old one stays")
                    self._again_at = self._failed_at + RETRY_S
                return old
            # In this order: whoever looks meanwhile takes no old one for fresh.
            self._catalogue = fresh
            self._stale_at = stale_at
            return fresh

    def _read(self) -> tuple[Catalogue, float]:
        """The catalogue, and the second of the monotonic clock at which it is stale.

        Once more where a price began while it was read: who waited for it is priced by it.
        """
        for _ in range(MOST_READS):
            with ledger.briefly():
                # Prices begin by the ledger's clock, as windows do.
                begun_at, now = time.monotonic(), clock.now()
                fresh = read(now=now)
            due_s = (fresh.next_change_at - now).total_seconds() if fresh.next_change_at else TTL_S
            stale_at = begun_at + min(TTL_S, due_s)
            if time.monotonic() < stale_at:
                break
        return fresh, stale_at


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_shelf = _Shelf()
