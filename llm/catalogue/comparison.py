"""Our prices beside another source's: what differs, and what an operator takes over of it.

Sources are wrong now and then, so nothing is ever taken over by itself. One is the package genai-prices (the extra
`prices`; its bundled snapshot, without a network), another any CSV file in the form of the shipped one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from django.db import transaction

from governance import audit
from governance.audit import Actor
from llm.catalogue import prices, seed, snapshot
from llm.models import Model, Price
from llm.rules.pricing import WRITING_KINDS

# What genai-prices calls our units, and how many picodollars a unit its dollar is: a million tokens, a thousand
# pages, an hour of audio.
GENAI_UNITS = {
    "input": ("input_mtok", Decimal(10**12) / 10**6),
    "cached_input": ("cache_read_mtok", Decimal(10**12) / 10**6),
    "output": ("output_mtok", Decimal(10**12) / 10**6),
    "page": ("input_document_kpages", Decimal(10**12) / 10**3),
    "annotated_page": ("input_annotated_document_kpages", Decimal(10**12) / 10**3),
    "audio_second": ("input_audio_hours", Decimal(10**12) / 3600),
    # No unit of ours.
    "request": ("requests_kcount", Decimal(10**12) / 10**3),
}
KIND_OF_UNIT = {"page": "ocr", "annotated_page": "ocr", "audio_second": "transcription"}


class SourceMissing(Exception):
    """The other source is not installed."""


class HasFee(ValueError):
    """A model costs a fee for each request, which no price of ours holds: calls of it would be charged too little."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} costs a fee for each request as well, which no price here holds, so it is not taken over:"
            " agents may call it themselves, and report what each call cost"
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """What a source says that a unit of a model costs, in picodollars."""

    provider: str
    model: str
    unit: str
    picos: int
    source: str
    context_tokens: int | None = None
    # Of calls with more input tokens than so many.
    above: int = 0
    # Its model costs a fee for each request as well.
    has_fee: bool = False

    @property
    def part(self) -> str:
        """What of the model's price it is, in a word: "input", or of longer calls "input>200000"."""
        return f"{self.unit}>{self.above}" if self.above else self.unit


@dataclass(frozen=True, slots=True)
class Difference:
    """An offer that is not our price. `ours` is None where we have none, `row` where we do not know the model."""

    offer: Offer
    row: Model | None
    ours: Price | None

    @property
    def name(self) -> str:
        return f"{self.offer.provider}/{self.row.name if self.row else self.offer.model}"

    @property
    def ratio(self) -> Decimal | None:
        """How many times ours theirs is."""
        if self.ours is None or not self.ours.picos_per_unit:
            return None
        return (Decimal(self.offer.picos) / self.ours.picos_per_unit).quantize(Decimal("0.001"))

    def is_meant_by(self, name: str) -> bool:
        """Whether "model", "provider/model", or one of them with ":unit" means it."""
        model, colon, unit = name.partition(":")
        return model in (self.name, self.name.partition("/")[2]) and (
            not colon or unit in (self.offer.unit, self.offer.part)
        )


def from_genai(*, provider: str, at: datetime, new: bool = False) -> list[Offer]:
    """What genai-prices says that a provider's models of ours (`new`: and others) cost at `at`. Raises SourceMissing.

    Of rates that change with the hour the dearest of the day: no call may cost more than it was held for.
    """
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError as error:
        raise SourceMissing("install the package genai-prices, or name a CSV file") from error
    theirs = next((found for found in get_snapshot().providers if found.id == provider), None)
    if theirs is None:
        return []
    source = f"genai-prices {version('genai-prices')}"
    ours = list(Model.objects.filter(provider=provider).order_by("name"))
    named = [(model.name, theirs.find_model(model.name)) for model in ours]
    offers = [offer for name, found in named if found for offer in _offers(provider, name, found, at, source)]
    if new:
        known = {id(found) for _, found in named}
        for found in theirs.models:
            if id(found) not in known:
                offers += _offers(provider, found.id, found, at, source)
    return offers


def from_file(path: Path) -> list[Offer]:
    """The rates of a CSV file in the form of the shipped one. Raises seed.Malformed, OSError."""
    offers = [
        Offer(
            row.provider,
            row.model,
            unit,
            picos,
            row.source or path.name,
            row.context_tokens,
            above=row.above_input_tokens,
        )
        for row in seed.rows(path)
        for unit, picos in row.picos.items()
    ]
    for offer in offers:
        if offer.unit not in Price.Unit.values:
            units = ", ".join(["token", *seed.PARTS, *Price.Unit.values[3:]])
            raise seed.Malformed(f"{path.name}: {offer.model}: the unit {offer.unit!r} is not known; there are {units}")
    return offers


def differences(offers: Iterable[Offer], *, at: datetime) -> list[Difference]:
    """The offers that are not what our prices say at `at`, in the order of the models' names."""
    rows = {(row.provider, row.name): row for row in Model.objects.prefetch_related("prices")}
    found = []
    for offer in offers:
        row = rows.get((offer.provider, offer.model))
        if row is not None and offer.unit == "output" and WRITING_KINDS.isdisjoint(row.kinds):
            # Sources repeat the input's rate for models that write nothing.
            continue
        ours = snapshot.rows_at(model=row, at=at).get((offer.unit, offer.above)) if row else None
        if ours is None or ours.picos_per_unit != offer.picos:
            found.append(Difference(offer, row, ours))
    return sorted(found, key=lambda one: (one.name, one.offer.unit, one.offer.above))


@transaction.atomic
def take_over(
    found: Iterable[Difference],
    *,
    effective_from: datetime,
    by: Actor,
    now: datetime,
    reason: str,
    from_beginning: bool = False,
) -> list[Price]:
    """Make these offers our prices from a moment on. Nothing is overwritten; each leaves an audit row.

    `from_beginning`: ours was wrong all along, so it is superseded from its own beginning, or that of longer calls is
    added from there, and `repricing` may charge the calls again. A model that is new to us is added, and served.
    Raises HasFee, prices.PriceExists, prices.CorrectedBefore.
    """
    made: dict[tuple[str, str], Model] = {}
    added = []
    for one in found:
        offer = one.offer
        if offer.has_fee:
            raise HasFee(one.name)
        if one.ours is not None and from_beginning:
            added.append(
                prices.correct(
                    price=one.ours, picos_per_unit=offer.picos, source=offer.source, by=by, now=now, reason=reason
                )
            )
            continue
        key = offer.provider, offer.model
        model = one.row or made.get(key) or made.setdefault(key, _new_model(offer, by=by, now=now))
        price = Price(
            model=model,
            unit=offer.unit,
            picos_per_unit=offer.picos,
            above_input_tokens=offer.above,
            source=offer.source,
            effective_from=_beginning(one, now, effective_from) if from_beginning else effective_from,
            verified_at=now,
        )
        added.append(prices.add(price=price, by=by, now=now, reason=reason))
    return added


def _beginning(one: Difference, now: datetime, otherwise: datetime) -> datetime | None:
    """From when on the price of longer calls was missing: from the beginning of that of shorter ones."""
    plain = snapshot.rows_at(model=one.row, at=now).get((one.offer.unit, 0)) if one.row and one.offer.above else None
    return otherwise if plain is None else plain.effective_from


def _offers(provider: str, name: str, theirs: Any, at: datetime, source: str) -> Iterator[Offer]:
    by_time = [_picos(theirs.get_prices(moment)) for moment in _moments(theirs.prices, at)]
    picos: dict[tuple[str, int], int] = {}
    for found in by_time:
        picos = {key: max(found.get(key, 0), picos.get(key, 0)) for key in picos | found}
    if any(found != picos for found in by_time):
        source = f"{source}, the dearest of the day"
    has_fee = ("request", 0) in picos
    for (unit, above), each in picos.items():
        yield Offer(provider, name, unit, each, source, theirs.context_window, above, has_fee)


def _moments(theirs: Any, at: datetime) -> Iterator[datetime]:
    """`at`, and each time of its day at which other rates begin."""
    yield at
    for conditional in theirs if isinstance(theirs, list) else ():
        for edge in ("start_time", "end_time"):
            if (time := getattr(conditional.constraint, edge, None)) is not None:
                yield datetime.combine(at.astimezone(UTC), time)


def _picos(rates: Any) -> dict[tuple[str, int], int]:
    """(our unit, above so many input tokens) -> picodollars."""
    found = {}
    for unit, (field, picos_per_dollar) in GENAI_UNITS.items():
        price = getattr(rates, field, None)
        by_length = {0: getattr(price, "base", price)} | {
            tier.start: tier.price for tier in getattr(price, "tiers", ())
        }
        for above, dollars in by_length.items():
            if isinstance(dollars, Decimal):
                found[unit, above] = int((dollars * picos_per_dollar).to_integral_value(ROUND_CEILING))
    return found


def _new_model(offer: Offer, *, by: Actor, now: datetime) -> Model:
    kind = KIND_OF_UNIT.get(offer.unit, "chat")
    row = Model(
        provider=offer.provider,
        name=offer.model,
        owned_by=offer.provider,
        kinds=[kind],
        capabilities=[kind],
        context_tokens=offer.context_tokens,
    )
    row.save()
    audit.record(action="model.add", target=row.name, by=by, now=now, new={"source": offer.source})
    return row
