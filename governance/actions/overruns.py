"""Models that wrote or read more than permitted: which are in force, and an operator's word that it is over."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from governance import alerts, audit
from governance.audit import Actor
from governance.models import Overrun
from governance.rules.errors import NotOpen

# The alert's kind; its subject is the model.
OVERRUN = "model_overruns"


def in_force() -> QuerySet[Overrun]:
    """Those that calls are priced by."""
    return Overrun.objects.filter(cleared_at=None)


@transaction.atomic
def clear(*, places: Collection[str], by: Actor, now: datetime, reason: str = "") -> int:
    """Believe again, from the next call on, that its requests bound a model; how many overruns there were.

    `places` are the model, as `provider/id`, at each of its providers. Raises NotOpen where it has passed no bound.
    """
    rows = list(in_force().filter(place__in=places).select_for_update().order_by("pk"))
    # The condition settles a race where rows are not locked: only one of two finds any, so one audit row is written.
    cleared = in_force().filter(pk__in=[row.pk for row in rows]).order_by()
    if not cleared.update(cleared_at=now, cleared_by=by.name[:150]):
        raise NotOpen("", f"{' and '.join(sorted(places))} passed no bound that is not cleared already")
    for place in sorted({row.place for row in rows}):
        seen = [
            {"side": row.side, "tokens": row.tokens, "permitted": row.permitted, "asked": row.asked}
            for row in rows
            if row.place == place
        ]
        audit.record(
            action="overrun.clear", target=place, by=by, now=now, reason=reason.strip(), old={"overruns": seen}
        )
        alerts.clear(kind=OVERRUN, subject=place, now=now)
    return len(rows)
