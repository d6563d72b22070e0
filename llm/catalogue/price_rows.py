"""Which of a model's price rows count at a place and a moment, and the rates that they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from llm.models import Model, Price
from llm.rules import pricing
from llm.rules.pricing import STANDARD_TIER, Rates

# As long as the ledger keeps it, with what follows where a charge is brought to it again (`repricing.AGAIN`).
RULE_LENGTH = 116


@dataclass(frozen=True, slots=True)
class PricePlace:
    """Where and how a call is made, as far as prices go by it."""

    zone: str = "global"
    batch: bool = False
    tier: str = STANDARD_TIER

    def share_e2(self, price: Price) -> int | None:
        """Hundredths of `price` that count here: all of a row made for the place; None where it is for another."""
        if price.zone not in ("global", self.zone) or (price.batch and not self.batch):
            return None
        zone_e2 = 100 if price.zone == self.zone else pricing.ZONE_E2[self.zone]
        return zone_e2 if price.batch == self.batch else zone_e2 * pricing.BATCH_E2 // 100

    def closeness(self, price: Price) -> tuple[bool, bool, bool, datetime]:
        """Rows for this very place win; among those, the one that began last."""
        return (
            price.tier == self.tier,
            price.zone == self.zone,
            price.batch == self.batch,
            begun_at(price),
        )


def rates(model: Model, *, at: datetime, place: PricePlace) -> Rates | None:
    """What a model costs, with what its longer calls do; None where it has no price for calls of any length."""
    rows = closest(model, at=at, place=place)
    lengths = sorted({above for _, above in rows})
    if 0 not in lengths:
        return None
    plain, *longer = (_rates_above(above, model, rows, place) for above in lengths)
    return plain and replace(
        plain, longer=tuple((above, found) for above, found in zip(lengths[1:], longer, strict=True) if found)
    )


def _rates_above(above: int, model: Model, rows: Mapping[tuple[str, int], Price], place: PricePlace) -> Rates | None:
    """Those of calls with more input tokens. No unit of a longer call costs less than one of a shorter.

    So no hold is too small whose call comes out shorter than it might; and prices do rise with the length.
    """
    counting = [price for (_, its_above), price in rows.items() if its_above <= above]
    picos: dict[str, int] = {}
    for price in counting:
        scaled = pricing.scaled_picos(price.picos_per_unit, hundredths=place.share_e2(price) or 0)
        picos[price.unit] = max(scaled, picos.get(price.unit, 0))
    return pricing.rates_from(picos, kinds=model.kinds, rule=_rule(model, counting, place=place, above=above))


def closest(model: Model, *, at: datetime, place: PricePlace) -> dict[tuple[str, int], Price]:
    """Of each unit kind and length of calls the row closest to the place. A tier without any row has no price."""
    prices = list(model.prices.all())
    wrong = {price.supersedes_id for price in prices}
    counting = [p for p in prices if p.pk not in wrong and begun_at(p) <= at and place.share_e2(p) is not None]
    if not any(price.tier == place.tier for price in counting):
        return {}
    counting = [price for price in counting if price.tier in (place.tier, STANDARD_TIER)]
    return {(price.unit, price.above_input_tokens): price for price in sorted(counting, key=place.closeness)}


def begun_at(price: Price) -> datetime:
    return price.effective_from or datetime.min.replace(tzinfo=UTC)


def _rule(model: Model, prices: Sequence[Price], *, place: PricePlace, above: int) -> str:
    """ "mistral/mistral-small-2603@2026-03-16"; "@seed" for prices older than our records.

    Behind it what was corrected ("#2": the second edition), the length of calls (">200000": more input tokens than
    that), then zone, batch and tier ("+eu+batch").
    """
    since = max(begun_at(price) for price in prices)
    if since.year == 1:
        text = "seed"
    elif since.time() == datetime.min.time():
        text = since.date().isoformat()
    else:
        text = since.isoformat().replace("+00:00", "Z")
    corrections = _corrections(model, prices)
    edition = f"#{corrections + 1}" if corrections else ""
    length = f">{above}" if above else ""
    marks = ("" if place.zone == "global" else place.zone, "batch" * place.batch)
    suffix = "".join(f"+{mark}" for mark in (*marks, "" if place.tier == STANDARD_TIER else place.tier) if mark)
    return f"{model.provider}/{model.name}@{text}{edition}{length}{suffix}"[:RULE_LENGTH]


def _corrections(model: Model, of: Iterable[Price]) -> int:
    """How many wrong rows came before the rows `of`."""
    if all(price.supersedes_id is None for price in of):
        return 0
    by_id = {price.pk: price for price in model.prices.all()}
    found = 0
    for price in of:
        while price.supersedes_id is not None:
            found, price = found + 1, by_id[price.supersedes_id]
    return found
