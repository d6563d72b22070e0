"""Reads of what was spent: entries, summaries and trends. Sums come from the hourly rollups, never from entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Case, Count, F, Q, QuerySet, Value, When
from django.db.models.functions import TruncDay, TruncMonth

from governance.models import ApiKey, SpendEntry, SpendRollup, Tenant
from governance.queries.sums import LongSum
from governance.rules import names
from governance.rules.calls import TOOL_PROVIDER
from governance.rules.errors import OverBound

# What a summary can be grouped by: the rollups' columns, and calendar units of UTC.
GROUPS: dict[str, Any] = {
    "tenant": F("tenant__slug"),
    "agent": F("agent"),
    "provider": F("provider"),
    "model": F("model"),
    "tool": Case(When(provider=TOOL_PROVIDER, then=F("model")), default=Value("")),
    "hour": F("hour"),
    "day": TruncDay("hour", tzinfo=UTC),
    "month": TruncMonth("hour", tzinfo=UTC),
}
TIME_GROUPS = ("hour", "day", "month")
MEASURES = ("calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanos")


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: everything of the platform where `tenant` is None, else one tenant's or one agent's alone."""

    tenant: Tenant | None = None
    agent: str = ""
    key_prefix: str = ""

    @property
    def scope(self) -> Q:
        """The part of entries, reservations and rollups that the reader may see."""
        found = Q() if self.tenant is None else Q(tenant=self.tenant)
        return found & Q(agent=self.agent) if self.agent else found


EVERYTHING = Reader()


@dataclass(frozen=True, slots=True)
class TimeRange:
    """`[starts_at, ends_at)`; None leaves that side open."""

    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def on(self, field: str) -> Q:
        found = Q()
        if self.starts_at is not None:
            found &= Q(**{f"{field}__gte": self.starts_at})
        if self.ends_at is not None:
            found &= Q(**{f"{field}__lt": self.ends_at})
        return found


def entries(*, reader: Reader = EVERYTHING, period: TimeRange = TimeRange()) -> QuerySet[SpendEntry]:
    """The ledger's lines by `occurred_at`, newest first."""
    return (
        SpendEntry.objects.filter(reader.scope, period.on("occurred_at"))
        .select_related("tenant", "key")
        .order_by("-id")
    )


def in_scope(scope: str) -> Q:
    """The entries of one scope, named `kind:key` ("agent:invoices") or "platform"; raises ValueError."""
    kind, _, key = scope.partition(":")
    if scope == "platform":
        return Q()
    columns = {
        "tenant": "tenant__slug",
        "agent": "agent",
        "user": "user",
        "session": "session",
        "task": "task",
    }
    if kind == "key" and key:
        return Q(key__in=ApiKey.objects.filter(prefix=key))
    if kind not in columns or not key:
        raise ValueError('scope must be "platform" or a kind and its key, such as "agent:invoices"')
    return Q(**{f"{columns[kind]}__in": names.spellings(kind, key)})


def summary(
    *,
    group_by: Sequence[str],
    reader: Reader = EVERYTHING,
    period: TimeRange = TimeRange(),
    where: Q | None = None,
    offset: int = 0,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Sums per group: the groups by name, then `MEASURES`. Times first to last, else the dearest first.

    `offset` and `limit`: of the groups in that order, those from so many on, and so many of them.

    A rollup is an hour long, so a period counts the hours that begin inside it.
    """
    rows = _rollups(reader, period, where)
    # The aliases keep clear of the columns they may be named after.
    aliases = {f"by_{name}": GROUPS[name] for name in group_by}
    grouped = rows.annotate(**aliases).values(*aliases).annotate(**{f"sum_{m}": LongSum(m) for m in MEASURES})
    times = [f"by_{name}" for name in group_by if name in TIME_GROUPS]
    others = [f"by_{name}" for name in group_by if name not in TIME_GROUPS]
    found = grouped.order_by(*times, "-sum_cost_nanos", *others)
    return [
        {name: row[f"by_{name}"] for name in group_by} | {m: row[f"sum_{m}"] or 0 for m in MEASURES}
        for row in found[offset : None if limit is None else offset + limit]
        if row["sum_calls"] is not None
    ]


def refuse_too_much(*, reader: Reader = EVERYTHING, period: TimeRange, where: Q | None = None, most: int) -> None:
    """Raises OverBound where more than `most` hourly sums are of the period."""
    if _rollups(reader, period, where)[: most + 1].count() > most:
        message = f"and to have more than {most:,} hourly sums between them: name less time, an agent or a model."
        raise OverBound("from", message)


def total(*, reader: Reader = EVERYTHING, period: TimeRange, where: Q | None = None) -> tuple[int, int]:
    """(nanodollars, calls) of a whole period."""
    sums = _rollups(reader, period, where).aggregate(cost_nanos=LongSum("cost_nanos"), calls=LongSum("calls"))
    return sums["cost_nanos"] or 0, sums["calls"] or 0


def recent(*, reader: Reader = EVERYTHING, minutes: int, now: datetime, where: Q | None = None) -> tuple[int, int]:
    """(nanodollars, calls) of the last `minutes`, from the entries themselves: rollups know whole hours only.

    Money in flight is not in it, and a correction counts when the call it corrects was made.
    """
    period = TimeRange(now - timedelta(minutes=minutes), now)
    rows = SpendEntry.objects.filter(reader.scope, period.on("occurred_at"), where or Q()).order_by()
    sums = rows.aggregate(cost_nanos=LongSum("cost_nanos"), calls=Count("pk", filter=Q(kind=SpendEntry.Kind.CHARGE)))
    return sums["cost_nanos"] or 0, sums["calls"]


def _rollups(reader: Reader, period: TimeRange, where: Q | None) -> QuerySet[SpendRollup]:
    return SpendRollup.objects.filter(reader.scope, where or Q(), period.on("hour"))
