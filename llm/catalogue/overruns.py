"""Models that wrote or read more than their requests permit, as the catalogue's rows show it."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, Max, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Concat

from governance.actions import overruns
from governance.audit import Actor
from governance.rules.overruns import Side
from llm.models import Model
from llm.rules.pricing import DEFAULT_PROVIDER, ZONE_PROVIDERS


def shown(rows: QuerySet[Model]) -> QuerySet[Model]:
    """The rows with `overran_tokens` and `overread_tokens`: the largest answer and input beyond their bounds.

    None where no overrun is in force.
    """
    return rows.annotate(overran_tokens=_largest(Side.OUTPUT), overread_tokens=_largest(Side.INPUT))


def _largest(side: Side) -> Subquery:
    seen = overruns.in_force().order_by().filter(side=side)
    seen = seen.filter(place=Concat(OuterRef("provider"), Value("/"), OuterRef("name")))
    return Subquery(seen.values("place").annotate(most=Max(F("tokens"))).values("most"))


def clear(*, model: Model, by: Actor, now: datetime, reason: str = "") -> int:
    """As `governance.actions.overruns.clear`, of a model in all of its zones."""
    zones = ZONE_PROVIDERS if model.provider == DEFAULT_PROVIDER else ()
    places = {f"{provider}/{model.name}" for provider in (model.provider, *zones)}
    return overruns.clear(places=places, by=by, now=now, reason=reason)
