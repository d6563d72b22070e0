"""What was spent, taken apart: by customer, agent, model, provider, user, task, key, day and hour.

Sums come from the hourly rollups. These know neither users, tasks nor keys, so those are read from the entries, and of
so many calls at most. What was charged at an estimate, and refused, is read from its own rows, which are few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Count, DateTimeField, F, Func, Q, QuerySet

from governance.models import RefusedCall, SpendEntry, SpendRollup
from governance.queries import spend
from governance.queries.spend import Reader, TimeRange
from governance.queries.sums import LongSum
from governance.rules.spend_sums import NOTHING, SpendSums, whole_hour

# What makes two calls one of a group: names are their customer's own, so those of two customers are never added up.
GROUPS: dict[str, tuple[str, ...]] = {
    "tenant": ("tenant",),
    "agent": ("tenant", "agent"),
    "model": ("model",),
    "provider": ("provider",),
    "user": ("tenant", "user"),
    "task": ("tenant", "task"),
    "key": ("tenant", "key"),
    "day": ("day",),
    "hour": ("hour",),
}
TIMES = ("day", "hour")
# What only the entries know.
OF_ENTRIES = frozenset({"user", "task", "key"})
# Calls of which entries are read one by one, and groups that are added up for one page.
MOST_ENTRIES = 50_000
MOST_GROUPS = 20_000

# A group's name: for each part of it a text, a date or the beginning of an hour.
Key = tuple[Any, ...]


class BeginOf(Func):
    """The day or hour of UTC that a moment is in. Django's Trunc is a call of Python for each row on SQLite."""

    output_field = DateTimeField()
    characters: Mapping[str, int] = {"day": 10, "hour": 13}

    def __init__(self, expression: Any, *, unit: str) -> None:
        super().__init__(expression)
        self.unit = unit

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(
            compiler, connection, template=f"substr(%(expressions)s, 1, {self.characters[self.unit]})", **context
        )

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        moment = "%(expressions)s AT TIME ZONE 'UTC'"
        template = f"date_trunc('{self.unit}', {moment}) AT TIME ZONE 'UTC'"
        return self.as_sql(compiler, connection, template=template, **context)

    def get_db_converters(self, connection: Any) -> list[Any]:
        return [lambda value, *_: _utc(value)]


def _utc(value: Any) -> datetime:
    return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class _Source:
    """A table that is added up. `columns`: what parts of a group's name are in it, as far as it knows them."""

    moment: str
    columns: Mapping[str, Any]

    def expression(self, part: str, zone: ZoneInfo) -> Any:
        if part not in TIMES:
            return self.columns[part]
        # A customer's day is added up from its hours, which are few: they are one customer's.
        return BeginOf(self.moment, unit="day" if part == "day" and zone.key == "UTC" else "hour")


_OWN = {"tenant": F("tenant__slug"), "agent": F("agent")}
_NAMED = {"user": F("user"), "task": F("task"), "key": F("key__prefix")}
_ROLLUPS = _Source("hour", _OWN | {"model": F("model"), "provider": F("provider")})
_ENTRIES = _Source("occurred_at", _OWN | _NAMED | {"model": F("model_served"), "provider": F("provider")})
# A refused call has the model that it asked for, and reached no provider.
_REFUSED = _Source("refused_at", _OWN | _NAMED | {"model": F("model")})


class MoreThanRead(Exception):
    """More entries, or more groups, than are added up for a page; the message says what to do."""


class TooManyGroups(MoreThanRead):
    def __init__(self) -> None:
        super().__init__(f"These are more than {MOST_GROUPS:,} lines: choose less time, a filter, or wider groups.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whose spend, and of when. `where`: names of a customer, agent, ... with their spellings. Days are `zone`'s."""

    reader: Reader
    period: TimeRange
    zone: ZoneInfo
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def hours(self) -> TimeRange:
        """The hours of UTC that begin in the period: all figures are of these."""
        starts_at, ends_at = self.period.starts_at, self.period.ends_at
        return TimeRange(
            None if starts_at is None else whole_hour(starts_at), None if ends_at is None else whole_hour(ends_at)
        )

    def rows(self, source: _Source, model: Any) -> QuerySet[Any]:
        named = Q(*(Q(**{f"{source.columns[name].name}__in": texts}) for name, texts in self.where.items()))
        return model.objects.filter(self.reader.scope, self.hours.on(source.moment), named).order_by()  # type: ignore[no-any-return]


def knows_refusals(question: Question, parts: Iterable[str]) -> bool:
    """Whether refused calls can be told apart like that: a refused call reached no provider."""
    return "provider" not in {*parts, *question.where}


def needs_entries(question: Question, parts: Iterable[str]) -> bool:
    return not OF_ENTRIES.isdisjoint({*parts, *question.where})


def costs(
    question: Question, parts: Sequence[str], *, of: Sequence[str] = (), only: Iterable[Key] = ()
) -> dict[Key, SpendSums]:
    """Cost, calls and tokens for each group. Raises MoreThanRead.

    `only`: of the groups alone that have these `of` parts; who names them knows that they are few.
    """
    names = ("cost_nanos", "input_tokens", "cached_tokens", "output_tokens")
    source, rows, calls = _charged(question, (*parts, *of))
    measures = {name: LongSum(name) for name in names} | {"calls": calls}
    if of:
        return _folded(question, source, rows.filter(_any_of(source, of, only)), parts, measures, most=None)
    return _folded(question, source, rows, parts, measures, most=MOST_GROUPS)


def costs_alone(question: Question, parts: Sequence[str]) -> dict[Key, int]:
    """The cost of each group, in nanodollars. Raises MoreThanRead."""
    source, rows, _ = _charged(question, parts)
    found = _folded(question, source, rows, parts, {"cost_nanos": LongSum("cost_nanos")}, most=MOST_GROUPS)
    return {key: sums.cost_nanos for key, sums in found.items()}


def by_parts(
    found: Mapping[Key, SpendSums], had: Sequence[str], wanted: Sequence[str], zone: ZoneInfo
) -> dict[Key, SpendSums]:
    """Sums of groups that have the parts `had`, added up for wider ones. Of an hour its day can be wanted."""
    summed: defaultdict[Key, SpendSums] = defaultdict(lambda: NOTHING)
    of_hours = had.index("hour") if "hour" in had and "day" in wanted else None
    places = [had.index(part) if part in had else None for part in wanted]
    for key, sums in found.items():
        day = None if of_hours is None else key[of_hours].astimezone(zone).date()
        summed[tuple([day if place is None else key[place] for place in places])] += sums
    return dict(summed)


def estimates(question: Question, parts: Sequence[str]) -> dict[Key, SpendSums]:
    """For each group what was charged at an estimate. Raises MoreThanRead."""
    rows = question.rows(_ENTRIES, SpendEntry).filter(
        kind=SpendEntry.Kind.CHARGE, certainty=SpendEntry.Certainty.ESTIMATED
    )
    return _folded(question, _ENTRIES, rows, parts, {"estimated_nanos": LongSum("cost_nanos")}, most=MOST_GROUPS)


def refusals(question: Question, parts: Sequence[str]) -> dict[Key, SpendSums]:
    """For each group how many calls were refused, those included that were only counted. Raises MoreThanRead."""
    rows = question.rows(_REFUSED, RefusedCall)
    noted = Count("pk", filter=~Q(request_id="")) + LongSum("more")
    return _folded(question, _REFUSED, rows, parts, {"refused": noted}, most=MOST_GROUPS)


def added(*found: Mapping[Key, SpendSums]) -> dict[Key, SpendSums]:
    """The figures of each group put together, of groups that only some of them have too."""
    keys = dict.fromkeys(key for each in found for key in each)
    return {key: sum((each[key] for each in found if key in each), NOTHING) for key in keys}


def _charged(question: Question, parts: Sequence[str]) -> tuple[_Source, QuerySet[Any], Any]:
    """(where it is read from, its rows, how calls are counted in them). Raises MoreThanRead."""
    if not needs_entries(question, parts):
        return _ROLLUPS, question.rows(_ROLLUPS, SpendRollup), LongSum("calls")
    _refuse_too_many_entries(question)
    return _ENTRIES, question.rows(_ENTRIES, SpendEntry), Count("pk", filter=Q(kind=SpendEntry.Kind.CHARGE))


def _folded(
    question: Question,
    source: _Source,
    rows: QuerySet[Any],
    parts: Sequence[str],
    measures: Mapping[str, Any],
    most: int | None,
) -> dict[Key, SpendSums]:
    # The aliases keep clear of the columns they may be named after.
    by = {f"by_{part}": source.expression(part, question.zone) for part in parts}
    totals = {f"sum_{name}": measure for name, measure in measures.items()}
    grouped = list(rows.annotate(**by).values(*by).annotate(**totals)[: None if most is None else most + 1])
    if most is not None and len(grouped) > most:
        raise TooManyGroups
    found: defaultdict[Key, SpendSums] = defaultdict(lambda: NOTHING)
    for row in grouped:
        key = tuple(_part(part, row[f"by_{part}"], question.zone) for part in parts)
        found[key] += SpendSums(**{name: row[f"sum_{name}"] or 0 for name in measures})
    return dict(found)


def _part(part: str, value: Any, zone: ZoneInfo) -> Any:
    """As it is in a group's name: a date in the zone, an hour, or a text."""
    return value.astimezone(zone).date() if part == "day" else value or ""


def _any_of(source: _Source, parts: Sequence[str], keys: Iterable[Key]) -> Q:
    columns = [source.columns[part].name for part in parts]
    found = Q(pk__in=[])
    for key in keys:
        found |= Q(**{f"{column}__exact": value for column, value in zip(columns, key, strict=True)})
    return found


def _refuse_too_many_entries(question: Question) -> None:
    # Of one customer, or of all: by that and by time entries are looked up, by nothing else.
    whose = Q(tenant__slug__in=question.where["tenant"]) if "tenant" in question.where else Q()
    if spend.total(reader=question.reader, period=question.hours, where=whose)[1] > MOST_ENTRIES:
        or_whom = "" if whose or question.reader.tenant else ", or a customer"
        raise MoreThanRead(
            f"Users, tasks and keys are read from the calls themselves, at most {MOST_ENTRIES:,} of them, and in this "
            f"time there were more: choose less time{or_whom}."
        )
