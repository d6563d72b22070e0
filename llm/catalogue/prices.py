"""Changing the catalogue: prices are added, and wrong ones superseded from their very beginning.

Each change leaves an audit row; this process sees it at once, others within 30 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction

from governance import audit, ledger
from governance.audit import Actor
from llm.catalogue import snapshot
from llm.models import Model, ModelAlias, Price
from llm.rules.pricing import DEFAULT_PROVIDER

# One dollar per million units is a million picodollars a unit.
PICOS_PER_DOLLAR_PER_MILLION = 1_000_000
EXISTS = "There is a price from that very moment on; choose a later effective_from, or correct that one."


class PriceExists(ValueError):
    """There is a price for this very moment already; prices are superseded, never overwritten."""


class Unpriced(ValueError):
    """The model has no price."""


class ModelUnknown(ValueError):
    """No model of the catalogue, or several, has this name."""


class CorrectedBefore(ValueError):
    """The price was superseded already: what counts is its successor, and that one may be corrected."""


def model_named(name: str) -> Model:
    """A model, served or not, by its id, bare or with its provider, or by an alias. Raises ModelUnknown."""
    provider, slash, rest = name.partition("/")
    looks: list[dict[str, str]] = [{"name": name}, {"aliases__name": name}]
    if slash:
        looks = [{"provider": provider, "name": rest}, {"provider": provider, "aliases__name": rest}, *looks]
    for look in looks:
        found = list(Model.objects.filter(**look).distinct())
        # A bare name is the default provider's, as everywhere.
        found = [row for row in found if row.provider == DEFAULT_PROVIDER] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise ModelUnknown(f"several providers have {name}; say provider/{name}")
    raise ModelUnknown(f"the catalogue has no model {name}")


def add(*, price: Price, by: Actor, now: datetime, reason: str = "") -> Price:
    """Add a price, which supersedes the earlier ones from its `effective_from` on. Raises PriceExists."""
    validate(price)
    price.recorded_at = now
    try:
        with transaction.atomic():
            price.save()
            audit.record(action="price.add", target=str(price.model), by=by, now=now, reason=reason, new=_facts(price))
            transaction.on_commit(snapshot.changed)
    except IntegrityError as error:
        # Somebody added the same one between the look and the insert.
        raise PriceExists(EXISTS) from error
    return price


def validate(price: Price) -> None:
    """Raises PriceExists for a price that there is from its very moment on."""
    since = price.effective_from
    moment = {"effective_from__isnull": True} if since is None else {"effective_from": since}
    names = ("model", "unit", "currency", "zone", "tier", "batch", "above_input_tokens")
    key = {name: getattr(price, name) for name in names}
    if Price.objects.filter(**key, **moment, supersedes__isnull=True).exists():
        raise PriceExists(EXISTS)


def correct(
    *, price: Price, picos_per_unit: int, source: str, by: Actor, now: datetime, reason: str, verified: bool = False
) -> Price:
    """Put a wrong price right from its very beginning. Raises CorrectedBefore.

    Calls that were charged by the wrong one stay as they are until `repricing.run` posts the differences.
    """
    right = Price(
        model=price.model,
        unit=price.unit,
        picos_per_unit=picos_per_unit,
        currency=price.currency,
        zone=price.zone,
        tier=price.tier,
        batch=price.batch,
        above_input_tokens=price.above_input_tokens,
        effective_from=price.effective_from,
        source=source,
        supersedes=price,
        recorded_at=now,
        verified_at=now if verified else None,
    )
    try:
        with transaction.atomic():
            right.save()
            audit.record(
                action="price.correct",
                target=str(price.model),
                by=by,
                now=now,
                reason=reason,
                old=_facts(price),
                new=_facts(right),
            )
            transaction.on_commit(snapshot.changed)
    except IntegrityError as error:
        raise CorrectedBefore(f"{price} was superseded already; correct the one in its place.") from error
    return right


def save(*, row: Model | ModelAlias, old: Mapping[str, Any] | None, by: Actor, now: datetime) -> None:
    """Save a model or an alias. `old` holds the fields that change as they were; None for a new row.

    Where none does nothing is saved, and no audit row says that something was.
    """
    if old is not None and not old:
        return
    kind = row._meta.model_name
    new = {name: str(getattr(row, name)) for name in old} if old is not None else {"name": row.name}
    with transaction.atomic():
        row.save()
        action = f"{kind}.{'add' if old is None else 'change'}"
        audit.record(action=action, target=row.name, by=by, now=now, old=old, new=new)
        transaction.on_commit(snapshot.changed)


def _facts(price: Price) -> dict[str, Any]:
    return {
        "unit": price.unit,
        "picos_per_unit": price.picos_per_unit,
        "zone": price.zone,
        "tier": price.tier,
        "batch": price.batch,
        "above_input_tokens": price.above_input_tokens,
        "effective_from": price.effective_from.isoformat() if price.effective_from else None,
        "source": price.source,
    }


def change_status(*, model: Model, status: Model.Status, reason: str, by: Actor, now: datetime) -> Model:
    """Serve a model, or serve it no longer. Raises Unpriced: what has no price is never served."""
    if status in Model.SERVED and snapshot.rates_at(model=model, at=ledger.by_database(now)) is None:
        raise Unpriced("It has no price yet; add one first.")
    old = {"status": model.status}
    model.status = status
    with transaction.atomic():
        model.save(update_fields=["status"])
        audit.record(
            action="model.status", target=model.name, by=by, now=now, reason=reason, old=old, new={"status": status}
        )
        transaction.on_commit(snapshot.changed)
    return model


def per_million(picos: int) -> str:
    """Dollars a million units, as people write them: "0.15"."""
    return f"{(Decimal(picos) / PICOS_PER_DOLLAR_PER_MILLION).normalize():f}"
