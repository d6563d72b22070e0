"""When keys were used last. Nothing is written for it at a call: it is read from the newest calls there are."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Max, Q

from governance.models import ApiKey, RefusedCall, SpendEntry
from governance.queries.spend import EVERYTHING, Reader

# So many of the newest calls are looked through; a key that none of them came with was not used lately.
NEWEST = 10_000


def last_used(*, reader: Reader = EVERYTHING, only: ApiKey | None = None) -> dict[int, datetime]:
    """When each key made one of the newest calls, by its id: served ones, and refused ones that were noted."""
    found: dict[int, datetime] = {}
    which = Q(key__isnull=False) if only is None else Q(key=only)
    tables: tuple[tuple[Any, str], ...] = ((SpendEntry, "occurred_at"), (RefusedCall, "refused_at"))
    for model, moment in tables:
        rows = model.objects.filter(reader.scope)
        # Ids are in the order of time: what comes after one is read in one piece.
        before = next(iter(rows.order_by("-id").values_list("pk", flat=True)[NEWEST : NEWEST + 1]), None)
        newest = rows if before is None else rows.filter(pk__gt=before)
        for key_id, at in newest.filter(which).order_by().values_list("key_id").annotate(Max(moment)):
            found[key_id] = max(at, found.get(key_id, at))
    return found
