"""Models that wrote more than their requests permitted, as the catalogue's rows show it."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, Max, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Concat

from governance.actions import overruns
from governance.audit import Actor
from llm.models import Model
from llm.rules.pricing import DEFAULT_PROVIDER, ZONE_PROVIDERS


def shown(rows: QuerySet[Model]) -> QuerySet[Model]:
    """The rows with `overran_tokens`: the largest answer beyond its bound; None where no overrun is in force."""
    seen = (
        overruns.in_force()
        .order_by()
        .filter(place=Concat(OuterRef("provider"), Value("/"), OuterRef("name")))
        .values("place")
        .annotate(most=Max(F("tokens")))
        .values("most")
    )
    return rows.annotate(overran_tokens=Subquery(seen))


def clear(*, model: Model, by: Actor, now: datetime, reason: str = "") -> int:
    """As `governance.actions.overruns.clear`, of a model in all of its zones."""
    zones = ZONE_PROVIDERS if model.provider == DEFAULT_PROVIDER else ()
    places = {f"{provider}/{model.name}" for provider in (model.provider, *zones)}
    return overruns.clear(places=places, by=by, now=now, reason=reason)
