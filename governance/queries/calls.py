"""Calls, served and refused, in one list: newest first, a page at a time, and one of them by any id that names it.

The ledger's charges and the refused calls are two tables, read by two bounded queries each page and merged by time.
Nothing counts them all. A filter that no index serves looks through the lines of a stretch and says how far it came.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from django.db.models import F, Q, QuerySet

from governance.models import RefusedCall, SpendEntry, Tenant
from governance.queries.spend import Reader, TimeRange
from governance.rules import decision_notes, names
from governance.rules.decision import Action

PAGE = 50
# So many lines of each table are looked through for a page whose filter has no index.
LOOKED = 30_000
STATUSES = {
    "served": "Served",
    "refused": "Refused",
    "estimated": "Estimated",
    "downgraded": "Downgraded",
}
# Filters by a name, and the columns that have it: of the ledger, and of refusals where these have one.
NAMED = {
    "agent": ("agent", "agent"),
    "user": ("user", "user"),
    "session": ("session", "session"),
    "task": ("task", "task"),
    "model": ("model_served", "model"),
    "provider": ("provider", ""),
    "key": ("key__prefix", "key__prefix"),
}
# `is_downgraded`, for the database.
DOWNGRADED = Q(**{f"metadata__{decision_notes.KEY}__action": Action.DEGRADE}) | Q(
    ~Q(model_requested=""),
    ~Q(reservation__model_served=F("model_requested")),
    reservation__isnull=False,
    **{f"metadata__{decision_notes.KEY}__isnull": True},
)


@dataclass(frozen=True, slots=True)
class Filters:
    """`named`: by the names of NAMED, what each has to be. `status`: one of STATUSES, or empty for all."""

    tenant: Tenant | None = None
    named: dict[str, str] = field(default_factory=dict)
    status: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the list, from which a page goes on: after the row `id` of a moment, or after all of that moment.

    Of one moment the ledger's lines come first.
    """

    at: datetime
    entry: UUID | None = None
    refusal: int | None = None

    def __str__(self) -> str:
        row = f"e{self.entry}" if self.entry else f"r{self.refusal}" if self.refusal is not None else ""
        return f"{self.at.isoformat()}~{row}"

    @classmethod
    def read(cls, text: str) -> Place:
        """Raises ValueError for what no page has written."""
        at, _, row = text.partition("~")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError(f"{text!r} is no moment of a zone")
        entry = UUID(row[1:]) if row.startswith("e") else None
        refusal = int(row[1:]) if row.startswith("r") else None
        if refusal is not None and not 0 <= refusal < 2**63:
            raise ValueError(f"{text!r} names no row")
        return cls(moment, entry, refusal)


@dataclass(frozen=True, slots=True)
class Page:
    """`after`: where the next page begins, None where there is none. `looked_back_to`: only where more is unread."""

    rows: list[SpendEntry | RefusedCall]
    after: Place | None = None
    looked_back_to: datetime | None = None


def page(*, reader: Reader, period: TimeRange, filters: Filters = Filters(), after: Place | None = None) -> Page:
    """Raises FieldError for a name that can be none."""
    sources = [source for source in (_charges(filters), _refusals(filters)) if source is not None]
    horizon = max(
        (moment for source in sources if (moment := source.horizon(reader, period, filters, after))), default=None
    )
    found = [source.rows(reader, period, filters, after, horizon) for source in sources]
    rows = list(islice(heapq.merge(*found, key=_newest_first), PAGE + 1))
    if len(rows) > PAGE:
        return Page(rows[:PAGE], after=_place(rows[PAGE - 1]))
    return Page(rows, after=Place(horizon) if horizon else None, looked_back_to=horizon)


def at(row: SpendEntry | RefusedCall) -> datetime:
    """When the call was made."""
    return row.occurred_at if isinstance(row, SpendEntry) else row.refused_at


def is_downgraded(entry: SpendEntry) -> bool:
    """Whether a budget moved the call to another model."""
    hold = entry.reservation
    return decision_notes.is_downgrade(
        entry.metadata, asked=entry.model_requested, held_for=hold.model_served if hold else ""
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """One of the two tables. `where` and `has_index`: what is asked of it beside tenant and time."""

    model: Any
    moment: str
    where: Q
    has_index: bool
    related: tuple[str, ...]

    def all(self, reader: Reader, period: TimeRange, filters: Filters, after: Place | None) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.model.objects.filter(reader.scope, self._within(period, after))
        return rows.filter(tenant=filters.tenant) if filters.tenant else rows

    def horizon(self, reader: Reader, period: TimeRange, filters: Filters, after: Place | None) -> datetime | None:
        """How far back a page may look; None where all that is left may be read."""
        if self.has_index:
            return None
        moments = self.all(reader, period, filters, after).order_by(f"-{self.moment}")
        last: datetime | None = next(iter(moments.values_list(self.moment, flat=True)[LOOKED : LOOKED + 1]), None)
        return last

    def rows(
        self, reader: Reader, period: TimeRange, filters: Filters, after: Place | None, horizon: datetime | None
    ) -> list[Any]:
        rows = self.all(reader, replace(period, starts_at=horizon or period.starts_at), filters, after)
        found = rows.filter(self.where).select_related(*self.related).order_by(f"-{self.moment}", "-id")
        return list(found[: PAGE + 1])

    def _within(self, period: TimeRange, after: Place | None) -> Q:
        """The period up to the place. Of two bounds on one side SQLite looks up whichever it likes: it is given one."""
        if after is None or (period.ends_at is not None and after.at >= period.ends_at):
            return period.on(self.moment)
        since, earlier = TimeRange(period.starts_at).on(self.moment), Q(**{f"{self.moment}__lt": after.at})
        last = after.entry if self.model is SpendEntry else after.refusal
        if last is None and not (after.entry and self.model is RefusedCall):
            return since & earlier
        not_later = since & Q(**{f"{self.moment}__lte": after.at})
        return not_later if last is None else not_later & (earlier | Q(id__lt=last))


def _charges(filters: Filters) -> _Source | None:
    if filters.status == "refused":
        return None
    where = _names(filters, 0) & Q(kind=SpendEntry.Kind.CHARGE)
    if filters.status == "estimated":
        where &= Q(certainty=SpendEntry.Certainty.ESTIMATED)
    if filters.status == "downgraded":
        where &= DOWNGRADED
    has_index = not filters.named and filters.status in ("", "served")
    return _Source(SpendEntry, "occurred_at", where, has_index, ("tenant", "key", "reservation"))


def _refusals(filters: Filters) -> _Source | None:
    if filters.status not in ("", "refused") or "provider" in filters.named:
        return None
    return _Source(RefusedCall, "refused_at", _names(filters, 1), not filters.named, ("tenant", "key"))


def _names(filters: Filters, column: int) -> Q:
    found = Q()
    for kind, text in filters.named.items():
        found &= Q(**{f"{NAMED[kind][column]}__in": names.spellings(kind, text)})
    return found


def _newest_first(row: SpendEntry | RefusedCall) -> tuple[float, bool, int]:
    number = row.pk if isinstance(row, RefusedCall) else row.pk.int
    return -at(row).timestamp(), isinstance(row, RefusedCall), -number


def _place(row: SpendEntry | RefusedCall) -> Place:
    return Place(at(row), entry=row.pk) if isinstance(row, SpendEntry) else Place(at(row), refusal=row.pk)
